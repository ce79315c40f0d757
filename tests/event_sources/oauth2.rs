//! `/oauth2/revoke` (RFC 7009) and `/oauth2/introspect` (RFC 7662).

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{Edge, changed, fresh_id};
use crate::api::{OPERATOR, READER, REVOKER, Reply, send};
use crate::ledger::support::RedisServer;
use crate::support::authorization_server::AuthorizationServer;
use crate::support::doorward::Doorward;
use crate::support::tokens::{Tokens, now};

#[track_caller]
fn is_error(reply: &Reply, status: u16, error: &str) {
    assert_eq!((reply.status, reply.body["error"].as_str()), (status, Some(error)), "{reply:?}");
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("content-type"), "application/json");
    assert!(reply.body["error_description"].as_str().is_some_and(|text| !text.is_empty()));
}

fn refresh_token(changes: &Value) -> Value {
    let claims = json!({
        "iss": doorward::dev::ISSUER, "aud": doorward::dev::ISSUER, "sub": "alice", "jti": fresh_id(),
        "sid": "s-1", "iat": now() - 3600, "exp": now() + 30 * 86_400,
    });
    changed(&claims, changes)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_revoked_by_their_holder() {
    let edge = Edge::start("").await;
    let revoke = async |fields: &[(&str, &str)]| {
        let reply = send(edge.form("/oauth2/revoke", fields)).await;
        assert_eq!((reply.status, reply.header("cache-control")), (200, "no-store"), "{reply:?}");
    };
    let (one, other) = (edge.tokens.of("alice"), edge.tokens.of("alice"));
    edge.ends("RFC 7009, access token", &one, revoke(&[("token", &one)])).await;
    assert_eq!(edge.reason(&other).await, "ok", "the user's other token");
    for hint in ["access_token", "refresh_token", "whatever"] {
        let token = edge.tokens.of("alice");
        edge.ends(hint, &token, revoke(&[("token", &token), ("token_type_hint", hint)])).await;
        revoke(&[("token", &token)]).await;
    }
    let expired = edge.tokens.with(json!({"exp": now() - 3600, "iat": now() - 7200}));
    revoke(&[("token", &expired)]).await;

    // A refresh token ends its session; it is recognised by its type, its claims or the hint.
    let session = |sid: &str| edge.tokens.with(json!({"sid": sid}));
    for (number, (typ, changes, hint)) in [
        (Some("rt+jwt"), json!({}), None),
        (None, json!({"typ": "Refresh"}), None),
        (Some("JWT"), json!({"token_use": "refresh"}), None),
        (Some("JWT"), json!({}), Some("refresh_token")),
        (Some("rt+jwt"), json!({"exp": now() - 60}), None),
        // The audience does not matter: a client's, another API's, ours, or none.
        (Some("JWT"), json!({"aud": "shop-web"}), Some("refresh_token")),
        (None, json!({"aud": ["https://other.test"]}), Some("refresh_token")),
        (None, json!({"aud": "demo", "exp": now() + 600}), Some("refresh_token")),
        (Some("JWT"), json!({"aud": null}), Some("refresh_token")),
        (None, json!({"aud": "demo", "exp": now() + 600, "ati": "x"}), None),
        (None, json!({"aud": "shop-web", "TokenKind": "rt"}), Some("access_token")),
    ]
    .into_iter()
    .enumerate()
    {
        let sid = format!("session-{number}");
        let (mine, beside) = (session(&sid), session("another"));
        let refresh = edge.sign(typ, &changed(&refresh_token(&changes), &json!({"sid": sid})));
        let hint = hint.map(|hint| ("token_type_hint", hint));
        let fields: Vec<_> = [("token", refresh.as_str())].into_iter().chain(hint).collect();
        edge.ends("RFC 7009, refresh token", &mine, revoke(&fields)).await;
        assert_eq!(edge.reason(&beside).await, "ok");
    }
    assert!(edge.counted("oauth2_revoke", "applied").await >= 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tokens_are_answered_alike_and_change_nothing() {
    let edge = Edge::start("").await;
    let (good, stranger) = (edge.tokens.of("alice"), Tokens::new());
    let (signed, _) = good.rsplit_once('.').unwrap();
    let id_token = edge.sign(Some("JWT"), &refresh_token(&json!({"nonce": "n", "aud": "shop-web"})));
    let mut answers = Vec::new();
    for (what, token) in [
        ("a stranger's", stranger.of("alice")),
        ("wrongly signed", format!("{signed}.{}", "A".repeat(86))),
        ("unsigned", format!("{}.", signed.replace(signed.split('.').next().unwrap(), "eyJhbGciOiJub25lIn0"))),
        ("of another issuer", edge.tokens.with(json!({"iss": "https://other.test"}))),
        ("for another audience", edge.tokens.with(json!({"aud": "other"}))),
        ("an ID token", id_token),
        (
            "an ID token without a nonce",
            edge.sign(Some("JWT"), &refresh_token(&json!({"aud": "shop-web", "jti": null}))),
        ),
        (
            "an ID token with its jti",
            edge.sign(Some("JWT"), &refresh_token(&json!({"aud": "shop-web", "auth_time": now(), "amr": ["pwd"]}))),
        ),
        ("malformed", format!("{good}.x.y")),
        ("opaque", "opaque".to_owned()),
        ("encrypted", "eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..a.b.c".to_owned()),
        ("not a token at all", "{\"token\": 1}".to_owned()),
        ("too long", "x".repeat(20_000)),
    ] {
        for hint in ["access_token", "refresh_token"] {
            let fields = [("token", token.as_str()), ("token_type_hint", hint)];
            let response = edge.form("/oauth2/revoke", &fields).send().await.unwrap();
            let names: Vec<_> = response.headers().keys().map(ToString::to_string).collect();
            answers.push((response.status().as_u16(), names, response.bytes().await.unwrap()));
            assert_eq!(answers.first(), answers.last(), "{what}");
        }
    }
    let known = edge.form("/oauth2/revoke", &[("token", &edge.tokens.of("bob"))]).send().await.unwrap();
    assert_eq!(known.status().as_u16(), answers[0].0, "no oracle");
    assert_eq!(known.headers().keys().map(ToString::to_string).collect::<Vec<_>>(), answers[0].1);
    assert_eq!(edge.revocations().await, 1, "of the one that was good");
    assert_eq!(edge.reason(&good).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_forms_and_clients_get_an_error() {
    let edge = Edge::start("limits: {http_body_bytes: 4096}\n").await;
    let good = edge.tokens.of("alice");
    let plain = |path: &str| edge.form(path, &[("token", good.as_str())]);
    for path in ["/oauth2/revoke", "/oauth2/introspect"] {
        let to = |request: RequestBuilder| request.bearer_auth(OPERATOR);
        let form = "application/x-www-form-urlencoded";
        for (media_type, body) in [
            (form, ""),
            (form, "token="),
            (form, "tokn=x"),
            (form, "token=a&token=b"),
            ("application/json", "{\"token\": \"a\"}"),
            ("text/plain", "token=a"),
        ] {
            is_error(&send(to(edge.post(path, media_type, body))).await, 400, "invalid_request");
        }
        let large = format!("token={}", "x".repeat(5000));
        is_error(&send(to(edge.post(path, form, large))).await, 413, "invalid_request");
        for wrong in ["Bearer unknown-key-0123456789", "Basic b3BlcmF0b3I6eA==", "Basic !", "Digest x", "Bearer"] {
            let reply = send(plain(path).header("authorization", wrong)).await;
            is_error(&reply, 401, "invalid_client");
            assert!(reply.header("www-authenticate").starts_with("Basic "));
        }
        let twice = plain(path).header("authorization", "Bearer x").bearer_auth(OPERATOR);
        is_error(&send(twice).await, 401, "invalid_client");
        is_error(&send(plain(path).basic_auth("reader", Some(OPERATOR))).await, 401, "invalid_client");
    }
    is_error(&send(plain("/oauth2/revoke").bearer_auth(READER)).await, 403, "unauthorized_client");
    is_error(&send(plain("/oauth2/introspect").bearer_auth(REVOKER)).await, 403, "unauthorized_client");
    is_error(&send(plain("/oauth2/introspect")).await, 401, "invalid_client");
    for (typ, token) in [(Some("logout+jwt"), "x"), (Some("secevent+jwt"), "y")] {
        let token = edge.sign(typ, &refresh_token(&json!({"aud": "demo", "jti": token, "exp": now() + 60})));
        is_error(&send(edge.form("/oauth2/revoke", &[("token", &token)])).await, 400, "unsupported_token_type");
    }
    assert_eq!(edge.reason(&good).await, "ok");
    assert_eq!(edge.revocations().await, 0);
    for request in
        [plain("/oauth2/revoke").bearer_auth(REVOKER), plain("/oauth2/revoke").basic_auth("revoker", Some(REVOKER))]
    {
        assert_eq!(send(request).await.status, 200);
    }
    assert_eq!(edge.reason(&good).await, "signed_out");
    for line in edge.doorward.log.lock().unwrap().iter() {
        assert!(!line.contains(&good) && !line.contains(REVOKER), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_is_the_decision_of_check() {
    let edge = Edge::start("").await;
    let ask = async |token: &str| {
        let reply = send(edge.form("/oauth2/introspect", &[("token", token)]).basic_auth("reader", Some(READER))).await;
        assert_eq!((reply.status, reply.header("cache-control")), (200, "no-store"), "{reply:?}");
        reply.body
    };
    let token = edge.tokens.with(json!({"scope": "read write", "azp": "shop-web"}));
    let said = ask(&token).await;
    assert_eq!(
        (&said["active"], &said["sub"], &said["iss"]),
        (&json!(true), &json!("alice"), &json!(doorward::dev::ISSUER))
    );
    assert_eq!((&said["client_id"], &said["scope"]), (&json!("shop-web"), &json!("read write")));
    for name in ["exp", "iat", "jti", "aud", "token_type"] {
        assert!(!said[name].is_null(), "{name}");
    }
    let inactive = json!({"active": false});
    edge.ends("RFC 7009", &token, send(edge.form("/oauth2/revoke", &[("token", &token)]))).await;
    assert_eq!(ask(&token).await, inactive, "revoked");
    for (what, token) in [
        ("expired", edge.tokens.with(json!({"exp": now() - 3600, "iat": now() - 7200}))),
        ("a stranger's", Tokens::new().of("alice")),
        ("another audience", edge.tokens.with(json!({"aud": "other"}))),
        ("made up", "opaque".to_owned()),
        ("odd", "a b\r\nc".to_owned()),
    ] {
        assert_eq!(ask(&token).await, inactive, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_tokens_stand_in_requests_does_not_matter() {
    for from in ["{cookie: session}", "{query: access_token}", "{header: x-token}"] {
        let tokens = Tokens::new();
        let more = format!("token: {{from: [{from}]}}\n{}", crate::api::admin_keys());
        let doorward = Doorward::start(&tokens.config(&more)).await;
        let (form, token) = ("application/x-www-form-urlencoded", tokens.of("alice"));
        let ask = async || {
            let asked = super::post(doorward.http, "/oauth2/introspect", form, format!("token={token}"));
            send(asked.bearer_auth(READER)).await.body["active"] == true
        };
        assert!(ask().await, "{from}");
        assert_eq!(
            send(super::post(doorward.http, "/oauth2/revoke", form, format!("token={token}"))).await.status,
            200
        );
        assert!(!ask().await, "{from}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_token_is_revoked_if_its_issuer_vouches_for_it() {
    let server = AuthorizationServer::start().await;
    let tokens = Tokens::new();
    let config = tokens
        .config(&crate::api::admin_keys())
        .replace("keys: {jwks", &format!("{}, keys: {{jwks", server.settings("")));
    let edge = Edge::of(tokens, &config).await;
    server.says("opaque-1", &AuthorizationServer::active("alice"));
    edge.ends("RFC 7009, opaque", "opaque-1", send(edge.form("/oauth2/revoke", &[("token", "opaque-1")]))).await;
    assert_eq!(send(edge.form("/oauth2/revoke", &[("token", "never-was")])).await.status, 200);
    server.fails(500);
    is_error(&send(edge.form("/oauth2/revoke", &[("token", "another")])).await, 503, "temporarily_unavailable");
    let asked = edge.form("/oauth2/introspect", &[("token", "another")]).bearer_auth(READER);
    is_error(&send(asked).await, 503, "temporarily_unavailable");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_writes_are_not_answered_as_done() {
    let mut redis = RedisServer::start(&[]).await;
    let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url());
    let edge = Edge::start(&store).await;
    let refresh = edge.sign(Some("rt+jwt"), &refresh_token(&json!({})));
    redis.kill();
    for token in [edge.tokens.of("alice"), refresh.clone()] {
        let reply = send(edge.form("/oauth2/revoke", &[("token", &token)])).await;
        is_error(&reply, 503, "temporarily_unavailable");
        assert_eq!(reply.header("retry-after"), "1");
    }
    redis.run().await;
    crate::support::eventually("it is taken again", || async {
        send(edge.form("/oauth2/revoke", &[("token", &refresh)])).await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_not_known_are_challenged() {
    let form = "application/x-www-form-urlencoded";
    let edge = Edge::start("").await;
    for asked in [
        edge.form("/oauth2/introspect", &[("token", "x")]),
        edge.form("/oauth2/introspect", &[("token", "x")]).bearer_auth("nobody's"),
        edge.form("/oauth2/revoke", &[("token", "x")]).basic_auth("reader", Some("nobody's")),
    ] {
        let reply = send(asked).await;
        is_error(&reply, 401, "invalid_client");
        // RFC 6749 section 5.2: the scheme that the client used is among them.
        let challenges: Vec<_> = reply.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(challenges, ["Basic realm=\"doorward\", charset=\"UTF-8\"", "Bearer realm=\"doorward\""]);
    }
    let keyless = Doorward::start(&Tokens::new().config("")).await;
    for key in [None, Some(READER)] {
        let asked = super::post(keyless.http, "/oauth2/introspect", form, "token=x".to_owned());
        let asked = key.into_iter().fold(asked, reqwest::RequestBuilder::bearer_auth);
        is_error(&send(asked).await, 403, "unauthorized_client");
    }
}
