//! Tokens in the shapes that providers and libraries write them.

mod details;
mod table;

use serde_json::{Value, json};

use crate::api::{OPERATOR, READER, admin_keys, send};
use crate::event_sources::Edge;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, Verdict, get};
use crate::support::tokens::{Tokens, now};

/// A Doorward whose issuer has these settings, each ended by a comma.
struct Issuer {
    tokens: Tokens,
    doorward: Doorward,
    checks: Checks,
}

impl Issuer {
    async fn with(settings: &str, more: &str) -> Self {
        let tokens = Tokens::new();
        let config = tokens.config(more).replace("keys: {jwks", &format!("{settings} keys: {{jwks"));
        Self::of(tokens, &config).await
    }

    async fn of(tokens: Tokens, config: &str) -> Self {
        let doorward = Doorward::start(config).await;
        let checks = Checks::connect(&doorward.check).await;
        Self { tokens, doorward, checks }
    }

    async fn check(&self, changes: Value) -> Verdict {
        self.checks.check(get("/").token(&self.tokens.with(changes))).await
    }

    async fn reason(&self, changes: Value) -> String {
        self.check(changes).await.reason().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_marked_for_another_use_is_refused_everywhere() {
    let edge = Edge::start("").await;
    let events = json!({"https://schemas.openid.net/secevent/caep/event-type/session-revoked": {}});
    for marks in [
        json!({"token_use": "refresh"}),
        json!({"typ": "ID"}),
        json!({"typ": "Refresh"}),
        json!({"typ": "Offline"}),
        json!({"typ": "Logout"}),
        json!({"token_type": "refresh"}),
        json!({"type": "refresh"}),
        json!({"tokenType": "refresh-token"}),
        json!({"tokenName": "id_token"}),
        json!({"purpose": "id"}),
        json!({"token_use": "id", "typ": "Bearer"}),
        json!({"token_type": "urn:ietf:params:oauth:token-type:id_token"}),
        json!({ "events": events }),
    ] {
        let token = edge.tokens.with(marks.clone());
        assert_eq!(edge.reason(&token).await, "wrong_type", "{marks}");
        assert_eq!(edge.ask(&token).await, (401, false), "{marks}");
        let auth = format!("http://{}/auth", edge.doorward.http);
        let auth = reqwest::Client::new().get(auth).bearer_auth(&token).header("x-forwarded-uri", "/orders");
        let auth = auth.header("x-forwarded-method", "GET").send().await.unwrap();
        assert_eq!(auth.status(), 401, "forward-auth: {marks}");
        let said = send(edge.form("/oauth2/introspect", &[("token", &token)]).bearer_auth(READER)).await;
        assert_eq!((said.status, &said.body["active"]), (200, &json!(false)), "{marks}");
        let logout = edge.post("/logout", "text/plain", "").bearer_auth(&token).send().await.unwrap();
        assert_eq!(logout.status(), 401, "logout: {marks}");
    }
    for marks in [
        json!({"typ": "Bearer"}),
        json!({"typ": "DPoP", "token_type": "Bearer"}),
        json!({"token_use": "access"}),
        json!({"token_type": "access_token"}),
        json!({"typ": "at+jwt", "type": "app"}),
        json!({"token_use": "whatever", "events": ["concert"]}),
    ] {
        assert_eq!(edge.reason(&edge.tokens.with(marks.clone())).await, "ok", "{marks}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn id_tokens_need_to_be_accepted_explicitly() {
    let issuer = Issuer::with("accept: [access, id],", "").await;
    assert_eq!(issuer.reason(json!({"typ": "ID"})).await, "ok");
    assert_eq!(issuer.reason(json!({"token_use": "id"})).await, "ok");
    assert_eq!(issuer.reason(json!({"token_use": "access"})).await, "ok");
    assert_eq!(issuer.reason(json!({"token_use": "refresh", "typ": "ID"})).await, "wrong_type");
    assert_eq!(issuer.reason(json!({"typ": "Logout"})).await, "wrong_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_takes_its_session_along_whatever_its_audience() {
    let edge = Edge::start("").await;
    for (number, audience) in
        [json!("demo"), json!(doorward::dev::ISSUER), json!("shop-web"), json!(null), json!([])].into_iter().enumerate()
    {
        let sid = format!("session-{number}");
        let access = edge.tokens.with(json!({"sid": sid, "aud": "demo"}));
        let refresh =
            edge.tokens.with(json!({"sid": sid, "typ": "Refresh", "aud": audience, "exp": now() + 86_400 * 90}));
        let revoked = async { send(edge.form("/oauth2/revoke", &[("token", &refresh)])).await.status };
        assert_eq!(edge.ends("a refresh token", &access, revoked).await, 200, "{audience}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audience_may_stand_in_another_claim() {
    let issuer = Issuer::with("claims: {audience: [aud, client_id, /for/0]},", "").await;
    for (changes, reason) in [
        (json!({}), "ok"),
        (json!({"aud": null, "client_id": "demo"}), "ok"),
        (json!({"aud": [], "client_id": "demo"}), "ok"),
        (json!({"aud": null, "for": ["demo"]}), "ok"),
        (json!({"aud": "other", "client_id": "demo"}), "wrong_audience"),
        (json!({"aud": null, "client_id": "other"}), "wrong_audience"),
        (json!({"aud": null}), "missing_claim"),
        (json!({"aud": []}), "missing_claim"),
        (json!({"aud": null, "client_id": 7}), "invalid_claim"),
    ] {
        assert_eq!(issuer.reason(changes.clone()).await, reason, "{changes}");
    }
    let default = Issuer::with("", "").await;
    assert_eq!(default.reason(json!({"aud": null, "client_id": "demo"})).await, "missing_claim");
    assert_eq!(default.reason(json!({"aud": []})).await, "missing_claim");
}

const TENANT: &str = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490";
const OTHER: &str = "11111111-2222-3333-4444-555555555555";

/// Entra ID, which names itself by two spellings, each with the tenant in it.
async fn entra(tenants: &str) -> Issuer {
    let tokens = Tokens::new();
    let spellings = "issuer: [\"https://login.test/{tenant}/v2.0\", \"https://sts.test/{tenant}/\"], tenants: ";
    let own = format!("issuer: \"{}\"", doorward::dev::ISSUER);
    let config = tokens.config(&admin_keys()).replace(&own, &format!("{spellings}{tenants}"));
    Issuer::of(tokens, &config).await
}

fn of_tenant(tenant: &str, changes: &Value) -> Value {
    let right = json!({"iss": format!("https://login.test/{tenant}/v2.0"), "tid": tenant, "sub": "alice"});
    crate::event_sources::changed(&right, changes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_stands_in_the_issuer_and_in_tid() {
    let both = format!("[{TENANT}, {OTHER}]");
    let (any, one) = (entra("any").await, entra(&format!("[{TENANT}]")).await);
    for (issuer, tenant, changes, reason) in [
        (&any, OTHER, json!({}), "ok"),
        (&one, TENANT, json!({}), "ok"),
        (&one, TENANT, json!({"iss": format!("https://sts.test/{TENANT}/")}), "ok"),
        (&one, OTHER, json!({}), "unknown_issuer"),
        (&any, TENANT, json!({"tid": OTHER}), "invalid_claim"),
        (&any, TENANT, json!({"tid": null}), "missing_claim"),
        (&any, TENANT, json!({"iss": "https://login.test/{tenant}/v2.0"}), "unknown_issuer"),
        (&any, "a/b", json!({}), "unknown_issuer"),
        (&any, "a|b", json!({}), "unknown_issuer"),
        (&any, "", json!({}), "unknown_issuer"),
    ] {
        assert_eq!(issuer.reason(of_tenant(tenant, &changes)).await, reason, "{tenant} {changes}");
    }
    assert_eq!(entra(&both).await.reason(of_tenant(OTHER, &json!({}))).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_one_tenant_is_signed_out_in_both_spellings_and_no_other_tenant() {
    let issuer = entra("any").await;
    let v1 = json!({"iss": format!("https://sts.test/{TENANT}/")});
    let post = |path: &str, body: Value| {
        let request = reqwest::Client::new().post(format!("http://{}{path}", issuer.doorward.http));
        request.header("content-type", "application/json").body(body.to_string())
    };
    let token = issuer.tokens.with(of_tenant(TENANT, &json!({})));
    assert_eq!(send(post("/logout?all=true", json!({})).bearer_auth(&token)).await.status, 204);
    assert_eq!(issuer.reason(of_tenant(TENANT, &json!({}))).await, "signed_out");
    assert_eq!(issuer.reason(of_tenant(TENANT, &v1)).await, "signed_out", "the other spelling");
    assert_eq!(issuer.reason(of_tenant(OTHER, &json!({}))).await, "ok", "the user of this name in another tenant");

    // By its id: TENANT|USER, as answers show it.
    let bob = json!({"sub": "bob"});
    let by_id = json!({"kind": "user", "issuer": "dev", "id": format!("{OTHER}|bob")});
    let revoked = send(post("/v1/revocations", by_id).bearer_auth(OPERATOR)).await;
    assert_eq!((revoked.status, &revoked.body["id"]), (201, &json!(format!("{OTHER}|bob"))), "{revoked:?}");
    assert_eq!(issuer.reason(of_tenant(OTHER, &bob)).await, "revoked");
    assert_eq!(issuer.reason(of_tenant(TENANT, &bob)).await, "ok");
    let verdict = issuer.check(of_tenant(TENANT, &bob)).await;
    assert_eq!(verdict.headers["x-user-id"], "bob", "upstreams see the user as the token names it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_is_the_claim_of_user_id() {
    let by_name = Issuer::with("claims: {user_id: preferred_username},", "").await;
    assert_eq!(by_name.reason(json!({"sub": null, "preferred_username": "alice"})).await, "ok");
    assert_eq!(by_name.reason(json!({"sub": ["x"], "preferred_username": "alice"})).await, "ok");
    assert_eq!(by_name.reason(json!({})).await, "missing_claim");

    let default = Issuer::with("", "").await;
    assert_eq!(default.reason(json!({"sub": null})).await, "missing_claim");
    let numbered = default.check(json!({"sub": 4711})).await;
    assert_eq!((numbered.reason(), numbered.headers["x-user-id"].as_str()), ("ok", "4711"));
    assert_eq!(default.reason(json!({"sub": 1.5})).await, "invalid_claim");
    assert_eq!(default.reason(json!({"sub": true})).await, "invalid_claim");
    let constant = json!({"sub": "Not supported currently. Use oid claim."});
    assert_eq!(default.reason(constant.clone()).await, "invalid_claim", "all users of Azure AD B2C at once");

    let optional = Issuer::with("subject: optional,", "").await;
    let anonymous = optional.check(json!({"sub": null})).await;
    assert_eq!(anonymous.reason(), "ok");
    assert!(anonymous.removed.iter().any(|name| name == "x-user-id"), "{anonymous:?}");
    assert_eq!(optional.reason(json!({"sub": []})).await, "invalid_claim", "what is there must be right");
    assert_eq!(optional.reason(json!({"sub": ""})).await, "invalid_claim");
    assert_eq!(optional.reason(constant).await, "invalid_claim");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_beyond_ascii_is_in_no_plain_header() {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let identity = "identity: {headers: {x-user-id: user_id, x-user-64: \"base64:user_id\", \
                    x-name-64: \"base64:claim:/name\"}, payload: {header: x-identity}}\n";
    let issuer = Issuer::with("", identity).await;
    let verdict = issuer.check(json!({"sub": "José", "name": "José Ñ"})).await;
    assert_eq!(verdict.reason(), "ok");
    assert!(verdict.removed.iter().any(|name| name == "x-user-id"), "{verdict:?}");
    let decoded = |name: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(&verdict.headers[name]).unwrap()).unwrap();
    assert_eq!((decoded("x-user-64").as_str(), decoded("x-name-64").as_str()), ("José", "José Ñ"));
    let payload: Value = serde_json::from_str(&decoded("x-identity")).unwrap();
    assert_eq!(payload["user_id"], "José");
    for sub in ["a\r\nb", "a\u{7f}", "a\u{85}b", " a", "a\u{a0}"] {
        assert_eq!(issuer.reason(json!({ "sub": sub })).await, "invalid_claim", "{sub:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_challenge_names_the_configured_realm() {
    let edge = Edge::start("errors: {realm: shop}\n").await;
    let (token, form) = (edge.tokens.of("alice"), "application/x-www-form-urlencoded");
    let strange =
        |path: &str, media_type: &str| edge.post(path, media_type, "token=x").bearer_auth("unknown-key-0123456789");
    for request in [
        strange("/oauth2/revoke", form),
        strange("/oauth2/introspect", form),
        strange("/v1/revocations", "application/json"),
        edge.post("/global-token-revocation", "application/json", "{}").bearer_auth(&token),
        edge.post("/logout", "text/plain", ""),
    ] {
        let reply = send(request).await;
        assert_eq!(reply.status, 401, "{reply:?}");
        let challenges = reply.headers.get_all("www-authenticate").iter().map(|field| field.to_str().unwrap());
        let challenges: Vec<_> = challenges.collect();
        assert!(
            !challenges.is_empty() && challenges.iter().all(|one| one.contains("realm=\"shop\"")),
            "{challenges:?}"
        );
    }
}
