//! The permissions of the API, its refusals, and its description.

use reqwest::Method;
use serde_json::{Value, json};

use super::{OPERATOR, READER, REVOKER, admin_keys, read, request, send};
use crate::support::doorward::Doorward;
use crate::support::tokens::Tokens;

const ENDPOINTS: [(&str, &str); 6] = [
    ("POST", "/v1/revocations"),
    ("GET", "/v1/revocations"),
    ("GET", "/v1/instances"),
    ("GET", "/v1/signals"),
    ("GET", "/v1/refusals"),
    ("POST", "/v1/explain"),
];

fn body() -> Value {
    json!({"kind": "user", "id": "alice"})
}

fn ask(address: std::net::SocketAddr, method: &str, path: &str) -> reqwest::RequestBuilder {
    let request = request(address, method.parse().unwrap(), path);
    match (method, path) {
        ("POST", "/v1/explain") => request.json(&json!({})),
        ("POST", _) => request.json(&body()),
        _ => request,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_configured_keys_every_request_is_refused() {
    let doorward = Doorward::start(&Tokens::new().config("")).await;
    for (method, path) in ENDPOINTS {
        for key in [None, Some(OPERATOR)] {
            let asked = ask(doorward.http, method, path);
            let asked = key.into_iter().fold(asked, reqwest::RequestBuilder::bearer_auth);
            send(asked).await.is_problem(403, "no-admin-keys", None);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_needed_and_may_do_what_it_may() {
    let doorward = Doorward::start(&Tokens::new().config(&admin_keys())).await;
    for (method, path) in ENDPOINTS {
        let asked = || ask(doorward.http, method, path);
        let reply = send(asked()).await;
        reply.is_problem(401, "missing-credentials", None);
        assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"doorward\"");
        for odd in ["Basic b3BlcmF0b3I6eA==", "Bearer", OPERATOR] {
            let reply = send(asked().header("authorization", odd)).await;
            reply.is_problem(401, "missing-credentials", None);
        }
        let twice = asked().header("authorization", format!("Bearer {OPERATOR}")).bearer_auth(OPERATOR);
        send(twice).await.is_problem(401, "missing-credentials", None);
        for wrong in ["unknown-key-0123456789", "operator-key-012345678", ""] {
            let reply = send(asked().header("authorization", format!("Bearer {wrong}."))).await;
            reply.is_problem(401, "unknown-credentials", None);
            assert_eq!(reply.header("www-authenticate"), "Bearer realm=\"doorward\", error=\"invalid_token\"");
        }
        let revokes = (method, path) == ("POST", "/v1/revocations");
        let (can, cannot) = if revokes { (REVOKER, READER) } else { (READER, REVOKER) };
        send(asked().bearer_auth(cannot)).await.is_problem(403, "not-permitted", None);
        for key in [can, OPERATOR] {
            let reply = send(asked().bearer_auth(key)).await;
            assert_eq!(reply.status, if revokes { 201 } else { 200 }, "{method} {path}: {reply:?}");
            assert_eq!(reply.header("cache-control"), "no-store");
        }
    }
    assert!(!doorward.logged(OPERATOR) && !doorward.logged("unknown-key"));
    doorward.logs("\"by\":\"revoker\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_a_problem() {
    let config = Tokens::new().config(&format!("limits: {{http_body_bytes: 1024}}\n{}", admin_keys()));
    let doorward = Doorward::start(&config).await;
    let to = |method, path| request(doorward.http, method, path).bearer_auth(OPERATOR);
    send(to(Method::GET, "/v2/revocations")).await.is_problem(404, "not-found", None);
    send(to(Method::GET, "/none")).await.is_problem(404, "not-found", None);
    for (method, path, allow) in [
        (Method::DELETE, "/v1/revocations", "POST,GET,HEAD"),
        (Method::PUT, "/v1/explain", "POST"),
        (Method::POST, "/v1/instances", "GET,HEAD"),
        (Method::GET, "/logout", "OPTIONS,POST"),
        (Method::GET, "/oauth2/revoke", "POST"),
        (Method::GET, "/signals/events", "POST"),
    ] {
        let reply = send(to(method, path)).await;
        reply.is_problem(405, "method-not-allowed", None);
        let sorted = |list: &str| {
            let mut methods: Vec<_> = list.split(',').map(|method| method.trim().to_owned()).collect();
            methods.sort();
            methods
        };
        assert_eq!(sorted(reply.header("allow")), sorted(allow), "{path}");
    }
    for path in ["/v1/revocations", "/v1/explain"] {
        let raw = |media_type: &str, body: &str| {
            to(Method::POST, path).header("content-type", media_type).body(body.to_owned())
        };
        for media_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json"] {
            send(raw(media_type, "{}")).await.is_problem(415, "unsupported-media-type", None);
        }
        send(to(Method::POST, path)).await.is_problem(415, "unsupported-media-type", None);
        for broken in ["", "{", "kind=user", "\u{0}"] {
            send(raw("application/json", broken)).await.is_problem(400, "malformed-json", None);
        }
        let deep = format!("{{\"kind\": {}", "[".repeat(500));
        assert!([400, 422].contains(&send(raw("application/json", &deep)).await.status));
        let large = json!({"kind": "x".repeat(2000)}).to_string();
        send(raw("application/json", &large)).await.is_problem(413, "too-large", None);
    }
    let trailing = to(Method::POST, "/v1/explain").header("content-type", "application/json").body("{} x");
    send(trailing).await.is_problem(400, "malformed-json", None);
    let utf8 = to(Method::POST, "/v1/revocations").header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(send(utf8.body(body().to_string())).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_its_own_serves_it_alone() {
    let listen = "listen: {check: \"127.0.0.1:0\", http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}\n";
    let doorward = Doorward::start(&Tokens::new().config(&format!("{listen}{}", admin_keys()))).await;
    let admin = doorward.admin.unwrap();
    for (method, path) in ENDPOINTS {
        send(ask(doorward.http, method, path).bearer_auth(OPERATOR)).await.is_problem(404, "not-found", None);
        let reply = send(ask(admin, method, path).bearer_auth(OPERATOR)).await;
        assert!([200, 201].contains(&reply.status), "{reply:?}");
    }
    send(request(admin, Method::POST, "/logout")).await.is_problem(404, "not-found", None);
    assert_eq!(doorward.get("/livez").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_change_with_the_configuration() {
    let config = Tokens::new().config("");
    let doorward = Doorward::start(&config).await;
    read(&doorward, "/v1/instances", READER).await.is_problem(403, "no-admin-keys", None);
    let file = doorward.dir.path().join("doorward.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}{}", admin_keys())).unwrap();
    doorward.process.signal("HUP");
    crate::support::eventually("the key is known", || async {
        read(&doorward, "/v1/instances", READER).await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_covers_every_route() {
    let doorward = Doorward::start(&Tokens::new().config(&admin_keys())).await;
    let reply = send(request(doorward.http, Method::GET, "/openapi.json")).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"));
    let document = &reply.body;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert_eq!(document["info"]["title"], "Doorward");
    for (method, path) in ENDPOINTS {
        let operation = &document["paths"][path][method.to_lowercase()];
        assert!(operation["responses"]["401"].is_object(), "{method} {path}");
        assert_eq!(operation["security"], json!([{"admin_key": []}]));
    }
    for (method, path) in [
        ("get", "/livez"),
        ("get", "/readyz"),
        ("get", "/metrics"),
        ("post", "/logout"),
        ("post", "/oauth2/revoke"),
        ("post", "/oauth2/introspect"),
        ("post", "/oidc/backchannel-logout"),
        ("post", "/signals/events"),
        ("post", "/global-token-revocation"),
    ] {
        assert!(document["paths"][path][method].is_object(), "{path}");
    }
    let request = &document["components"]["schemas"]["RevocationRequest"];
    for field in ["kind", "issuer", "id", "token", "expires_at", "at", "reason"] {
        assert!(request["properties"][field].is_object(), "{field}");
    }
    assert!(document["components"]["schemas"]["Problem"]["properties"]["type"].is_object());
    assert!(document["components"]["securitySchemes"]["admin_key"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn this_instance_is_listed() {
    let doorward = Doorward::start(&Tokens::new().config(&admin_keys())).await;
    let reply = read(&doorward, "/v1/instances", READER).await;
    let instances = reply.body["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 1);
    let this = &instances[0];
    assert_eq!((&this["this"], &this["version"]), (&json!(true), &json!(env!("CARGO_PKG_VERSION"))));
    assert_eq!((&this["view_age_ms"], &this["state"]), (&json!(0), &json!("following")));
    assert!(this["name"].as_str().is_some_and(|name| !name.is_empty()) && this["uptime_seconds"].is_u64());
}
