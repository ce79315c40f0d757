//! `/oidc/backchannel-logout`: OpenID Connect Back-Channel Logout 1.0.

use serde_json::{Value, json};

use super::{Edge, changed, fresh_id};
use crate::api::{Reply, send};
use crate::ledger::support::RedisServer;
use crate::support::eventually;
use crate::support::tokens::{Tokens, now};

const PATH: &str = "/oidc/backchannel-logout";
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

fn claims(changes: &Value) -> Value {
    let claims = json!({
        "iss": doorward::dev::ISSUER, "aud": "demo", "iat": now(), "exp": now() + 120, "jti": fresh_id(),
        "events": {EVENT: {}}, "sub": "alice", "sid": "session-of-alice",
    });
    changed(&claims, changes)
}

fn logout(edge: &Edge, token: &str) -> reqwest::RequestBuilder {
    edge.form(PATH, &[("logout_token", token)])
}

#[track_caller]
fn is_done(reply: &Reply) {
    assert_eq!((reply.status, reply.header("cache-control")), (200, "no-store"), "{reply:?}");
}

#[track_caller]
fn is_refused(what: &str, reply: &Reply) {
    assert_eq!((reply.status, reply.body["error"].as_str()), (400, Some("invalid_request")), "{what}: {reply:?}");
    assert_eq!((reply.header("cache-control"), reply.header("content-type")), ("no-store", "application/json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_else_a_user_is_signed_out() {
    let edge = Edge::start("").await;
    let other = edge.tokens.with(json!({"sid": "another"}));
    let token = edge.tokens.of("alice");
    let message = edge.sign(Some("logout+jwt"), &claims(&json!({})));
    is_done(&edge.ends("back-channel logout, sid", &token, send(logout(&edge, &message))).await);
    assert_eq!(edge.reason(&other).await, "ok", "another session of the user");
    assert_eq!(edge.reason(&token).await, "signed_out");

    let message = edge.sign(Some("logout+jwt"), &claims(&json!({"sid": null})));
    is_done(&edge.ends("back-channel logout, sub", &other, send(logout(&edge, &message))).await);
    let bob = edge.tokens.of("bob");
    let message = edge.sign(Some("logout+jwt"), &claims(&json!({"sub": null, "sid": "session-of-bob"})));
    is_done(&edge.ends("back-channel logout, sid alone", &bob, send(logout(&edge, &message))).await);
    // As Ory Hydra and LemonLDAP::NG write them: without `exp`.
    for (sid, ago) in [("dave-1", 0), ("dave-2", 140)] {
        let dave = edge.tokens.with(json!({"sub": "dave", "sid": sid, "iat": now() - 300}));
        let message = claims(&json!({"sub": "dave", "sid": sid, "iat": now() - ago, "exp": null}));
        let message = edge.sign(Some("logout+jwt"), &message);
        is_done(&edge.ends("back-channel logout without exp", &dave, send(logout(&edge, &message))).await);
    }
    // A user who signs in again, later than the message, is accepted.
    let again = edge.tokens.with(json!({"sid": "new", "iat": now() + 2}));
    assert_eq!(edge.reason(&again).await, "ok");
    // Types as older providers write them.
    for typ in [None, Some("JWT"), Some("application/logout+jwt")] {
        let carol = edge.tokens.of("carol");
        let message = edge.sign(typ, &claims(&json!({"sub": "carol", "sid": null, "iat": now() - 1})));
        is_done(&send(logout(&edge, &message)).await);
        assert_eq!(edge.reason(&carol).await, "signed_out");
    }
    assert_eq!(edge.counted("backchannel_logout", "applied").await, 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_logout_tokens_have_no_effect() {
    let edge = Edge::start("limits: {http_body_bytes: 8192}\n").await;
    let token = edge.tokens.of("alice");
    let good = claims(&json!({}));
    let signed = |typ, changes: Value| edge.sign(Some(typ), &changed(&claims(&json!({})), &changes));
    let stranger = super::sign(&Tokens::new(), Some("logout+jwt"), &good);
    let whole = signed("logout+jwt", json!({}));
    let (input, _) = whole.rsplit_once('.').unwrap();
    let unsigned = |alg: &str| {
        use base64::Engine;
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.", encode(&json!({"alg": alg, "typ": "logout+jwt"}).to_string()), encode(&good.to_string()))
    };
    let rows = [
        ("a stranger's", stranger, "unknown_key"),
        ("wrongly signed", format!("{input}.{}", "A".repeat(86)), "bad_signature"),
        ("alg none", unsigned("none"), "algorithm_not_allowed"),
        ("alg None", unsigned("None"), "algorithm_not_allowed"),
        ("an access token", token.clone(), "wrong_type"),
        ("a security event token", signed("secevent+jwt", json!({})), "wrong_type"),
        ("of type at+jwt", signed("at+jwt", json!({})), "wrong_type"),
        ("without events", signed("logout+jwt", json!({"events": null})), "wrong_type"),
        (
            "events of another kind",
            signed("logout+jwt", json!({"events": {"http://schemas.openid.net/event/other": {}}})),
            "wrong_type",
        ),
        ("events that are a list", signed("logout+jwt", json!({"events": [EVENT]})), "wrong_type"),
        ("an event that is not an object", signed("logout+jwt", json!({"events": {EVENT: true}})), "wrong_type"),
        ("with a nonce", signed("logout+jwt", json!({"nonce": "n"})), "invalid_claim"),
        ("of another issuer", signed("logout+jwt", json!({"iss": "https://other.test"})), "unknown_issuer"),
        ("for another audience", signed("logout+jwt", json!({"aud": "other"})), "wrong_audience"),
        ("for nobody", signed("logout+jwt", json!({"aud": null})), "missing_claim"),
        ("without iat", signed("logout+jwt", json!({"iat": null})), "missing_claim"),
        ("old and without exp", signed("logout+jwt", json!({"exp": null, "iat": now() - 200})), "expired"),
        ("without exp and iat", signed("logout+jwt", json!({"exp": null, "iat": null})), "missing_claim"),
        ("without jti", signed("logout+jwt", json!({"jti": null})), "missing_claim"),
        ("with an empty jti", signed("logout+jwt", json!({"jti": ""})), "invalid_claim"),
        ("stale", signed("logout+jwt", json!({"iat": now() - 600, "exp": now() - 300})), "expired"),
        ("of the future", signed("logout+jwt", json!({"iat": now() + 300, "exp": now() + 600})), "not_yet_valid"),
        ("for ever", signed("logout+jwt", json!({"exp": now() + 400_000})), "lifetime_too_long"),
        ("of nobody", signed("logout+jwt", json!({"sid": null, "sub": null})), "missing_claim"),
        ("a sid that is not text", signed("logout+jwt", json!({"sid": true})), "invalid_claim"),
        ("a sid that is not whole", signed("logout+jwt", json!({"sid": 7.5})), "invalid_claim"),
        ("a sub that is not text", signed("logout+jwt", json!({"sub": ["alice"]})), "invalid_claim"),
        ("an empty sid", signed("logout+jwt", json!({"sid": ""})), "invalid_claim"),
        ("no JWT", "x".to_owned(), "malformed_token"),
    ];
    for (what, message, label) in rows {
        let before = edge.counted("backchannel_logout", label).await;
        is_refused(what, &send(logout(&edge, &message)).await);
        assert_eq!(edge.counted("backchannel_logout", label).await, before + 1, "{what}: {label}");
    }
    for (media_type, body, status) in [
        ("application/json", format!("{{\"logout_token\": \"{whole}\"}}"), 400),
        ("application/x-www-form-urlencoded", format!("logout_tokn={whole}"), 400),
        ("application/x-www-form-urlencoded", format!("logout_token={whole}&logout_token={whole}"), 400),
        ("application/x-www-form-urlencoded", format!("logout_token={}", "x".repeat(9000)), 413),
    ] {
        let reply = send(edge.post(PATH, media_type, body)).await;
        assert_eq!((reply.status, &reply.body["error"]), (status, &json!("invalid_request")), "{reply:?}");
    }
    let reply = reqwest::get(format!("http://{}{PATH}?logout_token={whole}", edge.doorward.http)).await.unwrap();
    assert_eq!(reply.status(), 405);
    assert_eq!((edge.reason(&token).await.as_str(), edge.revocations().await), ("ok", 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_token_is_used_once_and_a_replay_has_no_effect() {
    let edge = Edge::start("").await;
    let message = edge.sign(Some("logout+jwt"), &claims(&json!({"sid": null, "iat": now() - 5})));
    let before = edge.tokens.of("alice");
    is_done(&edge.ends("back-channel logout", &before, send(logout(&edge, &message))).await);
    let after = edge.tokens.with(json!({"iat": now() - 2}));
    assert_eq!(edge.reason(&after).await, "ok", "issued after the logout token");
    is_refused("replayed", &send(logout(&edge, &message)).await);
    assert_eq!(edge.counted("backchannel_logout", "replayed").await, 1);
    assert_eq!(edge.reason(&after).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn audiences_and_scope_are_the_issuer_s() {
    let tokens = Tokens::new();
    let more = "backchannel_logout: {audiences: [shop-web, shop-app], scope: user}, keys: {jwks";
    let config = tokens.config(&crate::api::admin_keys()).replace("keys: {jwks", more);
    let edge = Edge::of(tokens, &config).await;
    let message = |changes: Value| edge.sign(Some("logout+jwt"), &claims(&changes));
    is_refused("the API's audience", &send(logout(&edge, &message(json!({})))).await);
    let without_sid = edge.tokens.with(json!({"sid": null}));
    let message = message(json!({"aud": ["x", "shop-app"], "iat": now() - 1}));
    is_done(&edge.ends("back-channel logout, scope: user", &without_sid, send(logout(&edge, &message))).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_repeats_messages_that_were_not_stored() {
    let mut redis = RedisServer::start(&[]).await;
    let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url());
    let edge = Edge::start(&store).await;
    let message = edge.sign(Some("logout+jwt"), &claims(&json!({"exp": now() + 900})));
    redis.kill();
    let reply = send(logout(&edge, &message)).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, "1"), "{reply:?}");
    assert_eq!((reply.header("cache-control"), &reply.body["error"]), ("no-store", &json!("temporarily_unavailable")));
    redis.run().await;
    eventually("the same message is taken", || async { send(logout(&edge, &message)).await.status == 200 }).await;
    is_refused("and then known", &send(logout(&edge, &message)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_endpoint_answers_429_and_loses_nothing_acknowledged() {
    let redis = RedisServer::start(&[]).await;
    let store = format!(
        "limits: {{inlet_requests: 4, store_timeout: 25s, http_timeout: 40s}}\nrevocation: {{store: redis, redis: {{url: \"{}\"}}}}\n",
        redis.url()
    );
    let edge = Edge::start(&store).await;
    let message =
        |user: &str| edge.sign(Some("logout+jwt"), &claims(&json!({"sub": user, "sid": null, "exp": now() + 900})));
    let messages: Vec<_> = (0..20).map(|number| message(&format!("user-{number}"))).collect();
    redis.signal("-STOP"); // Admitted requests wait for it.
    let sending = futures_util::future::join_all(messages.iter().map(|message| send(logout(&edge, message))));
    let thawing = async {
        eventually("all but four are told to come again", || async {
            edge.counted("backchannel_logout", "busy").await == 16
        })
        .await;
        redis.signal("-CONT");
    };
    let (replies, ()) = tokio::join!(sending, thawing);
    for (number, reply) in replies.iter().enumerate() {
        let token = edge.tokens.with(json!({"sub": format!("user-{number}"), "sid": fresh_id()}));
        if reply.status == 429 {
            assert_eq!((reply.header("retry-after"), reply.header("cache-control")), ("1", "no-store"));
            assert_eq!(edge.reason(&token).await, "ok", "nothing was applied");
            is_done(&send(logout(&edge, &messages[number])).await);
        } else {
            is_done(reply);
        }
        assert_eq!(edge.reason(&token).await, "signed_out");
    }
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 4);
}
