//! The caller's identity in upstream requests, and the removal of spoofed headers.

use serde_json::{Value, json};

use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;
use crate::support::{TempDir, eventually};

const RULES: &str = r"
identity:
  headers: {x-user-id: user_id, x-user-email: email, x-session: session_id, x-roles: claim:/realm/roles, x-expires: expires_at}
rules:
  - {name: public, match: {path_prefix: /public}, access: public}
  - {name: optional, match: {path_prefix: /optional}, access: optional}
";

const SPOOFED: [&str; 7] =
    ["x-user-id", "x-user-email", "x_user_id", "x.user.id", "x-user_id", "x-doorward-stale", "x_doorward_stale"];

#[tokio::test(flavor = "multi_thread")]
async fn every_owned_header_is_set_or_removed_on_every_allowed_request() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(RULES)).await;
    let checks = Checks::connect(&doorward.check).await;
    let owned = ["x-user-id", "x-user-email", "x-session", "x-roles", "x-expires", "x-doorward-stale"];
    let full = tokens.with(json!({"realm": {"roles": ["a", "b"]}}));
    let odd = tokens.with(json!({"email": "a\r\nx-admin: 1", "sid": "s\u{202e}", "realm": {"roles": "é"}}));
    for (path, token, set) in [
        ("/", Some(&full), &["x-user-id", "x-user-email", "x-session", "x-roles", "x-expires"][..]),
        ("/", Some(&odd), &["x-user-id", "x-expires"]),
        ("/optional", Some(&full), &["x-user-id", "x-user-email", "x-session", "x-roles", "x-expires"]),
        ("/optional", None, &[]),
        ("/public", Some(&full), &[]),
        ("/public", None, &[]),
    ] {
        let mut request = get(path);
        if let Some(token) = token {
            request = request.token(token);
        }
        for name in SPOOFED {
            request = request.header(name, "root");
        }
        let verdict = checks.check(request).await;
        assert!(verdict.allowed(), "{path}: {verdict:?}");
        for name in owned {
            assert_eq!(verdict.headers.contains_key(name), set.contains(&name), "{path} {name}");
            assert_eq!(verdict.removed.contains(&name.to_owned()), !set.contains(&name), "{path} {name}");
        }
        for look_alike in
            ["x_user_id", "x.user.id", "x-user_id", "x_user-id", "x.user_id", "x_user_email", "x_doorward_stale"]
        {
            assert!(verdict.removed.contains(&look_alike.to_owned()), "{path} {look_alike}");
        }
    }
    let verdict = checks.check(get("/").token(&full)).await;
    assert_eq!(verdict.headers["x-user-id"], "alice");
    assert_eq!(verdict.headers["x-user-email"], "alice@example.com");
    assert_eq!(verdict.headers["x-roles"], "a,b");
    for (name, value) in [
        ("decision", "allowed"),
        ("rule", "default"),
        ("reason", "ok"),
        ("issuer", "dev"),
        ("user_id", "alice"),
        ("session_id", "session-of-alice"),
    ] {
        assert_eq!(verdict.metadata[name], value, "{name}");
    }
    assert!(verdict.metadata.contains_key("token_id") && verdict.metadata.contains_key("expires_at"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_payload_carries_the_identity_and_the_token_can_be_withheld() {
    use base64::Engine;
    let tokens = Tokens::new();
    let more = "token: {from: [{header: authorization, scheme: Bearer}, {cookie: session}, {query: token}], forward: false}\nidentity: {payload: {header: x-identity}}\n";
    let doorward = Doorward::start(&tokens.config(more)).await;
    let checks = Checks::connect(&doorward.check).await;
    let token = tokens.with(json!({"scope": "a b"}));
    let verdict = checks.check(get("/").token(&token).header("cookie", format!("a=1; session={token}; b=2"))).await;
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&verdict.headers["x-identity"]).unwrap();
    let identity: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(
        (&identity["user_id"], &identity["email"], &identity["scopes"]),
        (&json!("alice"), &json!("alice@example.com"), &json!(["a", "b"]))
    );
    for name in ["issuer", "session_id", "token_id", "issued_at", "expires_at"] {
        assert!(!identity[name].is_null(), "{name} in {identity}");
    }
    assert!(verdict.removed.contains(&"authorization".to_owned()));
    assert_eq!(verdict.headers["cookie"], "a=1; b=2");
    assert!(verdict.removed_query.is_empty(), "the query has no such parameter");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_is_withheld_and_nothing_else() {
    let tokens = Tokens::new();
    let more = "token: {from: [{header: authorization, scheme: Bearer}, {cookie: session}, {cookie: old}], forward: false}\n\
                rules: [{name: login, match: {path: /login}, access: public}]\n";
    let doorward = Doorward::start(&tokens.config(more)).await;
    let checks = Checks::connect(&doorward.check).await;
    let token = tokens.of("alice");
    let with = |cookies: &[u8]| get("/").header("cookie", [b"session=", token.as_bytes(), cookies].concat());
    let twice = checks.check(with(format!("; old={token}; c=1").as_bytes())).await;
    assert_eq!((twice.reason(), &*twice.headers["cookie"]), ("ok", "c=1"));
    let fields = checks.check(with(b"; a=1").header("cookie", "b=2").raw()).await;
    assert_eq!((fields.reason(), &*fields.headers["cookie"]), ("ok", "a=1; b=2"));
    let no_text = checks.check(with(b"; a=\xe9").raw()).await;
    assert_eq!((no_text.reason(), no_text.headers.get("cookie")), ("ok", None));
    assert!(no_text.removed.contains(&"cookie".to_owned()));

    // Credentials that are not tokens go upstream: a client logs in by its own credentials.
    for (credentials, is_removed) in [
        ("Basic YWxhZGRpbjpvcGVu", false),
        ("Digest username=\"bearer\"", false),
        ("Bearer", true),
        ("bearer abc", true),
        ("Basic YWxhZGRpbjpvcGVu, Bearer abc", true),
        ("Basic YWxhZGRpbjpvcGVu\tBEARER abc", true),
    ] {
        let verdict = checks.check(get("/login").header("authorization", credentials)).await;
        assert_eq!(verdict.removed.contains(&"authorization".to_owned()), is_removed, "{credentials}");
    }
    assert!(checks.check(get("/login")).await.removed.contains(&"authorization".to_owned()), "it may not be sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_payload_is_verified_by_the_published_keys() {
    use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};
    let tokens = Tokens::new();
    let testdata = format!("{}/src/config/testdata", env!("CARGO_MANIFEST_DIR"));
    let dir = TempDir::new();
    std::fs::copy(format!("{testdata}/sign-ed25519.pem"), dir.path().join("sign.pem")).unwrap();
    let more = "identity: {payload: {header: x-identity, sign: {key_file: sign.pem, ttl: 5m}}}\nrules: [{name: public, match: {path_prefix: /public}, access: public}]\n";
    let doorward = Doorward::launch_in(dir, &tokens.config(more)).await;
    doorward.ready().await;
    let checks = Checks::connect(&doorward.check).await;
    let verified = async |token: &str| {
        let jws =
            checks.check(get("/").token(token).header("x-identity", "forged")).await.headers["x-identity"].clone();
        let keys: JwkSet = serde_json::from_str(&doorward.get("/jwks.json").await.1).unwrap();
        let header = jsonwebtoken::decode_header(&jws).unwrap();
        assert_eq!(header.typ.as_deref(), Some("identity+jwt"));
        let key = DecodingKey::from_jwk(keys.find(&header.kid.unwrap()).unwrap()).unwrap();
        let mut validation = Validation::new(header.alg);
        validation.set_required_spec_claims(&["exp", "iat"]);
        (header.alg, jsonwebtoken::decode::<Value>(&jws, &key, &validation).unwrap().claims, jws)
    };
    let token = tokens.with(json!({"scope": "a b"}));
    let (algorithm, identity, first) = verified(&token).await;
    assert_eq!(algorithm, jsonwebtoken::Algorithm::EdDSA);
    for (name, value) in
        [("user_id", json!("alice")), ("email", json!("alice@example.com")), ("scopes", json!(["a", "b"]))]
    {
        assert_eq!(identity[name], value);
    }
    assert_eq!(identity["exp"].as_i64().unwrap() - identity["iat"].as_i64().unwrap(), 300);
    let short = tokens.with(json!({"exp": crate::support::tokens::now() + 100}));
    let (_, identity, _) = verified(&short).await;
    assert_eq!(identity["exp"], identity["expires_at"], "no longer than the token");

    // A payload without a user is not accepted as an identity, and a payload is not an access
    // token.
    let public = checks.check(get("/public/x").token(&token).header("x-identity", &first)).await;
    assert!(!public.headers.contains_key("x-identity") && public.removed.contains(&"x-identity".to_owned()));
    assert_eq!(checks.check(get("/").token(&first)).await.status, 401);

    // Another key takes over without a gap.
    std::fs::copy(format!("{testdata}/sign-rsa2048.pem"), doorward.dir.path().join("sign.pem")).unwrap();
    let keys = async || serde_json::from_str::<JwkSet>(&doorward.get("/jwks.json").await.1).unwrap().keys.len();
    eventually("both keys are published", || async { keys().await == 2 }).await;
    assert_eq!(verified(&token).await.0, jsonwebtoken::Algorithm::RS256);
    // A file without a key replaces nothing.
    std::fs::write(doorward.dir.path().join("sign.pem"), "no key").unwrap();
    eventually("the fault is logged", || async { doorward.logged("has no PEM `PRIVATE KEY`") }).await;
    assert_eq!(verified(&token).await.0, jsonwebtoken::Algorithm::RS256);
    let signature = first.rsplit('.').next().unwrap();
    assert!(!doorward.logged(signature) && !doorward.logged(first.split('.').nth(1).unwrap()));
}

/// Through Envoy, its own stripping of identity headers switched off: only Doorward's headers arrive.
#[tokio::test(flavor = "multi_thread")]
async fn a_spoofed_identity_never_arrives() {
    let Some(binary) = envoy::binary() else { return };
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(RULES)).await;
    let upstream = Upstream::start().await;
    let text = std::fs::read_to_string(format!("{}/envoy/edge-tcp.yaml", env!("CARGO_MANIFEST_DIR"))).unwrap();
    assert!(text.contains("safe_regex: {regex: \"x[-_.](user"), "the file strips identity headers by this expression");
    let text = text.replace("safe_regex: {regex: \"x[-_.](user", "safe_regex: {regex: \"never[-_.](user");
    let port = doorward.check.rsplit_once(':').unwrap().1;
    let text = text
        .replace("port_value: 10000", "port_value: 0")
        .replace("port_value: 9901", "port_value: 0")
        .replace("port_value: 8080", &format!("port_value: {}", upstream.address.port()))
        .replace("port_value: 9191", &format!("port_value: {port}"));
    let envoy = Envoy::start_text(&binary, &text).await;
    let client = reqwest::Client::new();
    let send = async |method: reqwest::Method, path: &str, token: Option<&str>| {
        let mut request = client.request(method, envoy.url(path));
        for name in SPOOFED {
            request = request.header(name, "root");
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap_or_default())
    };
    let alice = tokens.of("alice");
    for (path, token, user) in [
        ("/", Some(alice.as_str()), json!("alice")),
        ("/public/x", None, Value::Null),
        ("/public/x", Some(alice.as_str()), Value::Null),
        ("/optional", None, Value::Null),
    ] {
        let (status, seen) = send(reqwest::Method::GET, path, token).await;
        assert_eq!(status, 200, "{path}");
        let headers = &seen["headers"];
        assert_eq!(headers["x-user-id"], user, "{path}: {headers}");
        assert!(!headers.to_string().contains("root"), "{path}: {headers}");
    }
    let before = upstream.seen();
    assert_eq!(send(reqwest::Method::GET, "/private", None).await.0, 401);
    assert_eq!(upstream.seen(), before, "a refused request does not arrive");
    // A preflight that no CORS policy answers is a request like any other.
    let (status, _) = send(reqwest::Method::OPTIONS, "/private", None).await;
    assert_eq!(status, 401);
    // A steering header does not change the checked path or method either.
    let steering = ["x-original-url", "x_rewrite_url", "X-HTTP-Method-Override", "x.method.override", "x-http-method"];
    let request = steering.iter().fold(client.get(envoy.url("/public/x")), |ask, name| ask.header(*name, "/private"));
    let seen: Value = request.send().await.unwrap().json().await.unwrap();
    assert!(!seen["headers"].to_string().contains("/private"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_token_is_new_for_each_request_and_lives_no_longer_than_the_token() {
    use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};
    let tokens = Tokens::new();
    let testdata = format!("{}/src/config/testdata", env!("CARGO_MANIFEST_DIR"));
    let dir = TempDir::new();
    std::fs::copy(format!("{testdata}/sign-p256.pem"), dir.path().join("sign.pem")).unwrap();
    let more = "identity: {payload: {header: txn-token, profile: txn-token, audience: shop.example.com, sign: {key_file: sign.pem, ttl: 5m}}}\n\
                rules: [{name: orders, match: {path: /orders}}, {name: home, match: {path: /home}, access: optional}]\n";
    let doorward = Doorward::launch_in(dir, &tokens.config(more)).await;
    doorward.ready().await;
    let checks = Checks::connect(&doorward.check).await;
    let keys: JwkSet = serde_json::from_str(&doorward.get("/jwks.json").await.1).unwrap();
    let key = DecodingKey::from_jwk(&keys.keys[0]).unwrap();
    let read = |token: &str| {
        let header = jsonwebtoken::decode_header(token).unwrap();
        assert_eq!(header.typ.as_deref(), Some("txntoken+jwt"));
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&["shop.example.com"]);
        jsonwebtoken::decode::<Value>(token, &key, &validation).unwrap().claims
    };
    let now = crate::support::tokens::now();
    let token = tokens.with(json!({"scope": "a b", "acr": "mfa", "act": {"sub": "agent-7"}, "exp": now + 60}));
    let mut ids = Vec::new();
    for _ in 0..2 {
        let verdict = checks.check(get("/orders").token(&token).header("txn-token", "forged")).await;
        let claims = read(&verdict.headers["txn-token"]);
        let expected = json!({
            "txn": claims["txn"], "aud": "shop.example.com", "sub": "alice", "act": {"sub": "agent-7"}, "scope": "a b",
            "purp": "orders", "rctx": {"authn": "mfa"}, "iat": claims["iat"], "exp": now + 60,
        });
        assert_eq!(claims, expected);
        ids.push(claims["txn"].as_str().unwrap().to_owned());
    }
    assert!(ids[0] != ids[1] && ids[0].len() == 22, "{ids:?}");
    // With a longer token the time is that of the setting.
    let claims = read(&checks.check(get("/orders").token(&tokens.of("alice"))).await.headers["txn-token"]);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 300);
    let anonymous = checks.check(get("/home").header("txn-token", "forged")).await;
    assert!(anonymous.removed.contains(&"txn-token".to_owned()), "{anonymous:?}");

    let dir = TempDir::new();
    let file = dir.path().join("doorward.yaml");
    for (payload, fault) in [
        ("{profile: txn-token, audience: a}", "needs `sign`"),
        ("{profile: txn-token, sign: {key_file: x}}", "must be the name of the trust domain"),
        ("{audience: a}", "must be the name of the trust domain"),
    ] {
        std::fs::write(&file, tokens.config(&format!("identity: {{payload: {payload}}}\n"))).unwrap();
        let (code, out, error) = crate::support::doorward::run(&["validate", "--config", file.to_str().unwrap()], "");
        assert!(code == 2 && format!("{out}{error}").contains(fault), "{payload}: {code} {out}{error}");
    }
}
