//! Tokens in the shapes that providers and libraries write them.

use serde_json::{Value, json};

use crate::api::{READER, admin_keys, send};
use crate::inlets::Edge;
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
async fn a_token_that_says_it_is_not_for_access_is_refused_on_every_way() {
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
        let auth = reqwest::Client::new().get(auth).bearer_auth(&token).send().await.unwrap();
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
async fn who_uses_id_tokens_says_so() {
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
    let issuer = Issuer::with("claims: {audience: [aud, client_id, /azp/0]},", "").await;
    for (changes, reason) in [
        (json!({}), "ok"),
        (json!({"aud": null, "client_id": "demo"}), "ok"),
        (json!({"aud": [], "client_id": "demo"}), "ok"),
        (json!({"aud": null, "azp": ["demo"]}), "ok"),
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
