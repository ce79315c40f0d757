//! `/global-token-revocation`: draft-parecki-oauth-global-token-revocation, Okta's Universal Logout.

use serde_json::{Value, json};

use super::{Edge, changed, fresh_id};
use crate::api::{OPERATOR, READER, Reply, send};
use crate::support::tokens::{Tokens, now};

const PATH: &str = "/global-token-revocation";
const IDP: &str = "https://org.idp.test";
const AUDIENCE: &str = "https://doorward.example.com/global-token-revocation";

/// An edge where the identity provider with this key may revoke.
async fn edge(provider: &Tokens) -> Edge {
    let keys = provider.issuer.jwks();
    let transmitter = |audience: &str| {
        format!(
            "{{issuer: \"{IDP}\", audience: \"{audience}\", target_issuer: dev, subjects: [iss_sub, email], keys: {{jwks: {keys}}}}}"
        )
    };
    let both = format!("signals: {{transmitters: [{}, {}]}}\n", transmitter("shop"), transmitter(AUDIENCE));
    Edge::start(&format!("limits: {{http_body_bytes: 8192}}\n{both}")).await
}

fn assertion(provider: &Tokens, typ: Option<&str>, changes: &Value) -> String {
    let claims = json!({
        "iss": IDP, "aud": AUDIENCE, "sub": "client-of-the-idp", "jti": fresh_id(), "iat": now(), "nbf": now() - 300,
        "exp": now() + 300,
    });
    super::sign(provider, typ, &changed(&claims, changes))
}

fn ask(edge: &Edge, sub_id: &Value) -> reqwest::RequestBuilder {
    edge.post(PATH, "application/json", json!({"sub_id": sub_id}).to_string())
}

#[track_caller]
fn is_done(reply: &Reply) {
    assert_eq!((reply.status, reply.header("cache-control")), (204, "no-store"), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_a_user_ends() {
    let provider = Tokens::new();
    let edge = edge(&provider).await;
    for (what, typ, user, subject) in [
        (
            "iss_sub of the tokens",
            Some("global-token-revocation+jwt"),
            "alice",
            json!({"format": "iss_sub", "iss": doorward::dev::ISSUER, "sub": "alice"}),
        ),
        ("iss_sub of the provider", Some("JWT"), "bob", json!({"format": "iss_sub", "iss": IDP, "sub": "bob"})),
        ("email", None, "carol", json!({"format": "email", "email": "carol@EXAMPLE.com"})),
    ] {
        let (one, two) = (
            edge.tokens.of(user),
            edge.tokens.with(json!({"sub": user, "sid": "another", "email": format!("{user}@example.com")})),
        );
        let request = ask(&edge, &subject).bearer_auth(assertion(&provider, typ, &json!({})));
        is_done(&edge.ends(what, &one, send(request)).await);
        assert_eq!(edge.reason(&two).await, "revoked", "{what}");
    }
    let dave = edge.tokens.of("dave");
    let subject = json!({"format": "opaque", "id": "dave"});
    is_done(&edge.ends("an operator's key", &dave, send(ask(&edge, &subject).bearer_auth(OPERATOR))).await);
    assert_eq!(edge.counted("global_token_revocation", "applied").await, 4);
    assert_eq!(edge.reason(&edge.tokens.of("erin")).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn forbidden_and_impossible_requests_have_no_effect() {
    let provider = Tokens::new();
    let edge = edge(&provider).await;
    let token = edge.tokens.of("alice");
    let alice = json!({"format": "iss_sub", "iss": IDP, "sub": "alice"});
    let typ = Some("global-token-revocation+jwt");
    let with = |changes: Value| assertion(&provider, typ, &changes);
    for (what, credential, label) in [
        ("a stranger's", assertion(&Tokens::new(), typ, &json!({})), "unknown_key"),
        ("the user's own token", token.clone(), "unknown_issuer"),
        ("of another issuer", with(json!({"iss": "https://other.test"})), "unknown_issuer"),
        ("for another audience", with(json!({"aud": "other"})), "wrong_audience"),
        ("for the audience of signals", with(json!({"aud": "shop"})), "wrong_audience"),
        ("an access token of the provider", assertion(&provider, Some("at+jwt"), &json!({})), "wrong_type"),
        ("an event token", assertion(&provider, Some("secevent+jwt"), &json!({})), "wrong_type"),
        ("an ID token", assertion(&provider, Some("JWT"), &json!({"nonce": "n"})), "wrong_type"),
        ("expired", with(json!({"iat": now() - 600, "exp": now() - 300})), "expired"),
        ("of the future", with(json!({"iat": now() + 600, "exp": now() + 900})), "not_yet_valid"),
        ("not yet valid", with(json!({"nbf": now() + 600})), "not_yet_valid"),
        ("for days", with(json!({"exp": now() + 86_400})), "lifetime_too_long"),
        ("without jti", with(json!({"jti": null})), "missing_claim"),
        ("without sub", with(json!({"sub": null})), "missing_claim"),
        ("without exp", with(json!({"exp": null})), "missing_claim"),
    ] {
        let reply = send(ask(&edge, &alice).bearer_auth(credential)).await;
        reply.is_problem(401, "unknown-credentials", None);
        assert_eq!(reply.body["reason"], label, "{what}");
        assert!(reply.header("www-authenticate").contains("invalid_token"), "{what}");
        assert!(edge.counted("global_token_revocation", label).await > 0);
    }
    send(ask(&edge, &alice)).await.is_problem(401, "missing-credentials", None);
    send(ask(&edge, &alice).bearer_auth("unknown-key-0123456789")).await.is_problem(401, "unknown-credentials", None);
    send(ask(&edge, &alice).bearer_auth(READER)).await.is_problem(403, "not-permitted", None);

    let authorized = |request: reqwest::RequestBuilder| request.bearer_auth(with(json!({})));
    for (subject, status, error, pointer) in [
        (json!({"format": "iss_sub", "iss": "https://other.test", "sub": "alice"}), 404, "unknown-user", "/sub_id/iss"),
        (json!({"format": "opaque", "id": "alice"}), 400, "invalid-subject", "/sub_id"),
        (json!({"format": "phone_number", "phone_number": "+1"}), 400, "invalid-subject", "/sub_id"),
        (json!({"format": "iss_sub", "iss": IDP}), 400, "invalid-subject", "/sub_id"),
        (json!({}), 400, "invalid-subject", "/sub_id"),
        (json!("alice"), 422, "invalid-field", "/sub_id"),
    ] {
        send(authorized(ask(&edge, &subject))).await.is_problem(status, error, Some(pointer));
    }
    for (media_type, body, status) in [
        ("application/json", "{", 400),
        ("application/json", "[]", 422),
        ("text/plain", "{}", 415),
        ("application/json", &format!("{{\"sub_id\": {{}}, \"x\": \"{}\"}}", "x".repeat(9000)), 413),
    ] {
        assert_eq!(send(authorized(edge.post(PATH, media_type, body))).await.status, status, "{body:.40}");
    }
    assert_eq!((edge.reason(&token).await.as_str(), edge.revocations().await), ("ok", 0));

    let once = with(json!({}));
    is_done(&edge.ends("universal logout", &token, send(ask(&edge, &alice).bearer_auth(&once))).await);
    let reply = send(ask(&edge, &json!({"format": "iss_sub", "iss": IDP, "sub": "bob"})).bearer_auth(&once)).await;
    reply.is_problem(401, "unknown-credentials", None);
    assert_eq!((&reply.body["reason"], edge.revocations().await), (&json!("replayed"), 1));
}
