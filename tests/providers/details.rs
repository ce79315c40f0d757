//! The fault of a token is in the log and in explanations, for the operator; the client is sent the class.

use serde_json::{Value, json};

use super::Issuer;
use crate::api::{READER, admin_keys, send};
use crate::event_sources::changed;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::get;
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::{Tokens, now};

const ISSUER: &str = doorward::dev::ISSUER;

impl Issuer {
    /// Checks this token: returns the reason and the log line; the explanation is the same.
    async fn refusal(&self, id: &str, token: &str) -> (String, Value) {
        let verdict = self.checks.check(get("/").token(token).header("x-request-id", id)).await;
        let reason = verdict.reason().to_owned();
        eventually("it is logged", || async { self.line(id).is_some() }).await;
        let line = self.line(id).unwrap();
        let explain = reqwest::Client::new().post(format!("http://{}/v1/explain", self.doorward.http));
        let explain = explain.header("content-type", "application/json").body(json!({"token": token}).to_string());
        let explained = send(explain.bearer_auth(READER)).await.body;
        assert_eq!(explained["reason"], line["reason"], "{line}");
        assert_eq!(without_numbers(&explained["detail"]), without_numbers(&line["detail"]), "{line}");
        if let Some(detail) = line["detail"].as_str() {
            assert!(!verdict.body.contains(detail) && !verdict.body.contains('`'), "{}", verdict.body);
        }
        (reason, line)
    }

    fn line(&self, id: &str) -> Option<Value> {
        let lines = self.doorward.log.lock().unwrap();
        let mut lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["request_id"] == id)
    }
}

/// The two decisions may be a second apart, and a detail may count the seconds until now.
fn without_numbers(detail: &Value) -> Option<String> {
    Some(detail.as_str()?.chars().filter(|letter| !letter.is_ascii_digit()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_claim_what_was_found_and_what_is_accepted() {
    let issuer = Issuer::with("", &admin_keys()).await;
    let month = now() + 30 * 86_400;
    for (number, (changes, reason, said)) in [
        (
            json!({"iss": format!("{ISSUER}/")}),
            "unknown_issuer",
            vec![format!("`iss` is `{ISSUER}/`; accepted: `{ISSUER}`"), "trailing slash".into()],
        ),
        (
            json!({"iss": "https://other.test"}),
            "unknown_issuer",
            vec!["`iss` is `https://other.test`".into(), format!("accepted: `{ISSUER}`")],
        ),
        (json!({"iss": ISSUER.replace("https", "http")}), "unknown_issuer", vec!["in the scheme".into()]),
        (json!({"iss": null}), "missing_claim", vec!["`iss` is missing".into()]),
        (json!({"iss": 7}), "invalid_claim", vec!["`iss` is a number; it must be text".into()]),
        (json!({"exp": null}), "missing_claim", vec!["`exp` is missing".into(), "seconds since 1970".into()]),
        (json!({"exp": "soon\n"}), "invalid_claim", vec!["`exp` is the text `soon\\u{a}`".into()]),
        (json!({"iat": -5}), "invalid_claim", vec!["`iat` is -5".into()]),
        (
            json!({"aud": "demo/"}),
            "wrong_audience",
            vec!["`aud` is `demo/`; accepted: `demo`".into(), "trailing slash".into()],
        ),
        (json!({"aud": ["a", "b"]}), "wrong_audience", vec!["`aud` is `a`, `b`; accepted: `demo`".into()]),
        (json!({"aud": null}), "missing_claim", vec!["`aud` is missing; it must be one of `demo`".into()]),
        (json!({"aud": [1]}), "invalid_claim", vec!["`aud` is or has a number".into()]),
        (json!({"sub": null}), "missing_claim", vec!["`sub` is missing".into(), "claims.user_id".into()]),
        (json!({"sub": ["x"]}), "invalid_claim", vec!["`sub` is a list; it must be text or a whole number".into()]),
        (json!({"sub": ""}), "invalid_claim", vec!["`sub` is empty text".into()]),
        (
            json!({"sub": "Not supported currently. Use oid claim."}),
            "invalid_claim",
            vec!["`sub` is the constant".into(), "user_id: oid".into()],
        ),
        (json!({"sid": true}), "invalid_claim", vec!["`sid` is a boolean".into()]),
        (json!({"jti": 7}), "invalid_claim", vec!["`jti` is a number".into()]),
        (
            json!({"exp": month}),
            "lifetime_too_long",
            vec!["`exp` - iat is 25920".into(), "`max_lifetime` is 86400 s".into()],
        ),
        (json!({"exp": month, "iat": null}), "lifetime_too_long", vec!["`exp` - now is".into()]),
        (json!({"iat": now() + 500}), "not_yet_valid", vec!["`iat` is".into(), "`leeway` is 30 s".into()]),
        (json!({"typ": "ID"}), "wrong_type", vec!["typ marks it as an ID token".into(), "accept: [access, id]".into()]),
        (json!({"token_use": "refresh"}), "wrong_type", vec!["token_use marks it as a refresh token".into()]),
    ]
    .into_iter()
    .enumerate()
    {
        let (found, line) = issuer.refusal(&format!("case-{number}"), &issuer.tokens.with(changes.clone())).await;
        assert_eq!(found, reason, "{changes}");
        let detail = line["detail"].as_str().unwrap_or_default();
        for part in said {
            assert!(detail.contains(&part), "{changes}: {part} is not in {line}");
        }
    }
}

/// Untrusted text is bounded and escaped; personal claims are not shown.
#[tokio::test(flavor = "multi_thread")]
async fn claims_of_a_token_cannot_shape_the_log() {
    let issuer = Issuer::with("", &admin_keys()).await;
    let long = "\u{202e}\u{1b}[2J\r\n`\"".repeat(100);
    for (number, changes) in [
        json!({"iss": long}),
        json!({"aud": vec![long.as_str(); 3]}),
        json!({"exp": long}),
        json!({"sub": "ann.secret@example.com\r\n"}),
        json!({"sub": ["ann.secret@example.com"]}),
    ]
    .into_iter()
    .enumerate()
    {
        let (_, line) = issuer.refusal(&format!("hostile-{number}"), &issuer.tokens.with(changes.clone())).await;
        let detail = line["detail"].as_str().unwrap();
        assert!(detail.len() < 1_000, "{} bytes", detail.len());
        assert!(detail.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{detail:?}");
        assert!(!detail.contains("secret"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_microsoft_graph_is_named_as_such() {
    let issuer = Issuer::with("", &admin_keys()).await;
    let key_id = issuer.tokens.issuer.key_id();
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": key_id, "nonce": "digest-of-it"}).to_string();
    let signed = |claims: Value| issuer.tokens.issuer.sign_raw(&header, claims.to_string().as_bytes()).unwrap();
    // Microsoft's signing input has the digest of the nonce in its place.
    let good = signed(changed(&Tokens::claims("alice"), &json!({})));
    let (payload, signature) = (good.split('.').nth(1).unwrap(), &good[..good.len() - 4]);
    let graph = format!("{signature}AAAA");
    assert!(graph.contains(payload));
    let foreign = signed(changed(&Tokens::claims("alice"), &json!({"iss": "https://sts.windows.net/tenant/"})));
    for (id, token, reason) in [("graph-1", graph, "bad_signature"), ("graph-2", foreign, "unknown_issuer")] {
        let (found, line) = issuer.refusal(id, &token).await;
        assert_eq!(found, reason);
        assert!(line["detail"].as_str().unwrap().contains("Microsoft Graph"), "{line}");
    }
    assert!(issuer.checks.check(get("/").token(&good)).await.allowed(), "a nonce alone refuses nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_left_out_is_named_and_so_is_the_issuer_that_discovery_found() {
    let tokens = Tokens::new();
    let key = tokens.issuer.jwks()["keys"][0].clone();
    let keys = json!({"keys": [key, {"kty": "oct", "k": "c2VjcmV0"}, {"kty": "EC", "kid": "odd", "crv": "secp256k1"}]});
    let server = JwksServer::start(&keys).await;
    let config = |keys: String, issuer: &str| {
        format!(
            "revocation: {{store: embedded}}\nissuers: [{{name: dev, issuer: \"{issuer}\", audiences: any, keys: {{{keys}}}}}]\n"
        )
    };
    let doorward = Doorward::start(&config(format!("jwks_url: \"{}\"", server.url()), ISSUER)).await;
    doorward.logs("secret (keys[1]), unknown_type (kid `odd`)").await;

    let provider = JwksServer::start_at("/.well-known/openid-configuration", &json!({})).await;
    let issuer = format!("http://{}", provider.address);
    provider.publish(&json!({"issuer": format!("{issuer}/"), "jwks_uri": server.url()}));
    let doorward = Doorward::launch(&config("discovery: true".into(), &issuer)).await;
    let told =
        format!("its `issuer` is `{issuer}/`, the configured one is `{issuer}`; they differ in the trailing slash");
    eventually("it is told", || async { doorward.logged(&told) }).await;
}

/// Some servers write a byte order mark before JSON.
#[tokio::test(flavor = "multi_thread")]
async fn a_byte_order_mark_is_skipped_in_discovery_and_key_sets() {
    let tokens = Tokens::new();
    let server = JwksServer::start(&json!({})).await;
    server.answer(200, &format!("\u{feff}{}", tokens.issuer.jwks()));
    let provider = JwksServer::start_at("/.well-known/openid-configuration", &json!({})).await;
    let issuer = format!("http://{}", provider.address);
    let configuration = json!({"issuer": issuer, "jwks_uri": server.url()});
    provider.answer(200, &format!("\u{feff}{configuration}"));
    let config = format!(
        "revocation: {{store: embedded}}\nissuers: [{{name: dev, issuer: \"{issuer}\", audiences: any, keys: {{discovery: true}}}}]\n"
    );
    let issuer_of = Issuer::of(Tokens { issuer: tokens.issuer }, &config).await;
    assert_eq!(issuer_of.reason(json!({"iss": issuer})).await, "ok");
}

/// A logout token that is not taken leaves a line, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_logout_token_is_logged() {
    let issuer = Issuer::with("", &admin_keys()).await;
    let logout = json!({
        "iss": ISSUER, "aud": "another", "iat": now(), "exp": now() + 60, "jti": "l-1", "sid": "s",
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
    });
    let header = json!({"alg": "ES256", "typ": "logout+jwt", "kid": issuer.tokens.issuer.key_id()}).to_string();
    let token = issuer.tokens.issuer.sign_raw(&header, logout.to_string().as_bytes()).unwrap();
    let url = format!("http://{}/oidc/backchannel-logout", issuer.doorward.http);
    let form = reqwest::Client::new().post(url).header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(form.body(format!("logout_token={token}")).send().await.unwrap().status(), 400);
    eventually("it is logged", || async {
        issuer.doorward.logged("\"inlet\":\"backchannel_logout\"")
            && issuer.doorward.logged("`aud` is `another`; accepted: `demo`")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_of_an_unseen_kind_is_marked() {
    let issuer = Issuer::with("", &admin_keys()).await;
    let revoke = async |body: Value| {
        let reply = crate::api::revoke(&issuer.doorward, &body).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.body["seen"].clone()
    };
    let (unseen, seen) = (json!(false), Value::Null);
    let session = json!({"kind": "session", "issuer": "dev", "id": "s-1"});
    let user = json!({"kind": "user", "issuer": "dev", "id": "bob"});
    assert_eq!(revoke(session.clone()).await, unseen, "no token at all was seen");
    assert_eq!(issuer.reason(json!({"sid": null, "jti": null})).await, "ok");
    assert_eq!(revoke(session.clone()).await, unseen);
    assert_eq!(revoke(user).await, seen);
    assert_eq!(revoke(json!({"kind": "client", "issuer": "dev", "id": "c"})).await, unseen);
    let by_id = json!({"kind": "token", "issuer": "dev", "id": "j", "expires_at": now() + 60});
    assert_eq!(revoke(by_id.clone()).await, unseen, "no token had a jti");
    let digest = json!({"kind": "token", "issuer": "dev", "id": format!("sha256:{}", "0d".repeat(32)), "expires_at": now() + 60});
    assert_eq!(revoke(digest).await, seen, "tokens without jti are named so");
    let token = issuer.tokens.with(json!({"jti": null, "sid": null}));
    assert_eq!(revoke(json!({"kind": "token", "token": token})).await, seen);
    assert_eq!(issuer.reason(json!({"sub": "carol"})).await, "ok");
    assert_eq!((revoke(session).await, revoke(by_id).await), (seen.clone(), seen));
}
