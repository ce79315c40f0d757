//! Which client is calling, from which platform and site; over gRPC and behind Envoy with its CORS filter.

use doorward::authz::api_key::digest_of;
use serde_json::Value;

use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::grpc::{Ask, Checks, ask, get};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

/// The keys' text, by the client's id.
fn key(id: &str) -> String {
    format!("key-of-{id}-0123456789abcdef")
}

fn sha256(id: &str) -> String {
    digest_of(key(id).as_bytes()).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn config(tokens: &Tokens, keys: &[(&str, &str)]) -> String {
    let entry = |(id, more): &(&str, &str)| format!("    - {{id: {id}, sha256: {}{more}}}", sha256(id));
    let keys: String = keys.iter().map(entry).collect::<Vec<_>>().join("\n") + "\n";
    tokens.config(&format!(
        "identity: {{headers: {{x-user-id: user_id, x-api-client: api_client}}}}
rules:
  - {{name: ignored, match: {{path: /ignored}}, access: public, api_key: ignored}}
  - {{name: public, match: {{path_prefix: /public}}, access: public}}
  - {{name: open, match: {{path_prefix: /open}}, access: public, api_key: optional}}
  - {{name: optional, match: {{path_prefix: /optional}}, access: optional}}
  - {{name: own-cors, match: {{path_prefix: /own-cors, methods: [OPTIONS]}}, access: public, api_key: ignored}}
  - {{name: shadow, match: {{path_prefix: /shadow}}, enforce: false}}
api_keys:
  default: required
  keys:
{keys}"
    ))
}

const KEYS: [(&str, &str); 6] = [
    ("anywhere", ""),
    ("web-shop", ", platforms: [web], domains: [shop.example.com, '*.shop.example.com', bücher.example]"),
    ("app", ", platforms: [ios, android]"),
    ("local", ", domains: [localhost, '[::1]', 127.0.0.1]"),
    ("old", ", expires: 2020-01-01T00:00:00Z"),
    ("new", ", expires: 2099-01-01T00:00:00+02:00"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_good_where_it_is_meant() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&config(&tokens, &KEYS)).await;
    let checks = Checks::connect(&doorward.check).await;
    let alice = tokens.of("alice");
    for (id, platform, origin, expected) in [
        ("anywhere", "", "", "ok"),
        ("anywhere", "tv", "null", "ok"),
        ("nobody", "", "", "api_key_unknown"),
        ("app", "ios", "", "ok"),
        ("app", "android", "https://attacker.test", "ok"),
        ("app", "", "", "api_key_platform"),
        ("app", "web", "", "api_key_platform"),
        ("app", "IOS", "", "api_key_platform"),
        ("app", "ios,android", "", "api_key_platform"),
        ("old", "", "", "api_key_expired"),
        ("new", "", "", "ok"),
        ("local", "", "http://localhost:3000", "ok"),
        ("local", "", "http://[::1]:3000", "ok"),
        ("local", "", "http://127.0.0.1", "ok"),
        ("local", "", "http://127.0.0.1.nip.io", "api_key_domain"),
        ("web-shop", "web", "https://shop.example.com", "ok"),
        ("web-shop", "web", "https://SHOP.example.com.:8443", "ok"),
        ("web-shop", "web", "https://a.b.shop.example.com", "ok"),
        ("web-shop", "web", "https://xn--bcher-kva.example", "ok"),
        ("web-shop", "web", "https://bücher.example", "api_key_domain"),
        ("web-shop", "web", "https://bucher.example", "api_key_domain"),
        ("web-shop", "web", "", "api_key_domain"),
        ("web-shop", "web", "null", "api_key_domain"),
        ("web-shop", "web", "https://evil-shop.example.com.attacker.test", "api_key_domain"),
        ("web-shop", "web", "https://notshop.example.com", "api_key_domain"),
        ("web-shop", "web", "https://shop.example.com@attacker.test", "api_key_domain"),
        ("web-shop", "web", "https://attacker.test:80@shop.example.com", "api_key_domain"),
        ("web-shop", "web", "https://shop.example.com..", "api_key_domain"),
        ("web-shop", "web", "https://shop.example.com.attacker.test", "api_key_domain"),
        ("web-shop", "web", "https://example.com", "api_key_domain"),
        ("web-shop", "ios", "https://shop.example.com", "api_key_platform"),
    ] {
        let with_key = |ask: Ask| {
            let ask = ask.header("x-api-key", key(id));
            let ask = if platform.is_empty() { ask } else { ask.header("x-client-platform", platform) };
            if origin.is_empty() { ask } else { ask.header("origin", origin).raw() }
        };
        for (path, token) in [("/", Some(&alice)), ("/public/x", None), ("/optional/x", None), ("/open", None)] {
            let ask = token.into_iter().fold(get(path), |ask, token| ask.token(token));
            let verdict = checks.check(with_key(ask)).await;
            assert_eq!(verdict.reason(), expected, "{id} {platform} {origin} on {path}");
            if expected == "ok" {
                assert_eq!(verdict.headers["x-api-client"], id, "{path}");
                assert_eq!(verdict.metadata["api_client"], id, "{path}");
                assert_eq!(verdict.headers.contains_key("x-user-id"), token.is_some(), "{path}");
            } else {
                assert!(!verdict.metadata.contains_key("api_client"), "{path}: {verdict:?}");
            }
        }
    }
    // An ignored key yields no client, and a client's own copy of the header is removed.
    for (ask, expected) in [
        (get("/"), "api_key_missing"),
        (get("/public/x"), "api_key_missing"),
        (get("/open"), "ok"),
        (get("/ignored").header("x-api-key", key("anywhere")), "ok"),
        (get("/ignored").header("x-api-key", "nonsense"), "ok"),
        (get("/open").header("x-api-key", key("anywhere")).header("x-api-key", key("app")).raw(), "api_key_unknown"),
        (get("/open").header("x-api-key", ""), "api_key_unknown"),
        (get("/optional").header("x-api-key", key("anywhere")).token("abc"), "malformed_token"),
    ] {
        let verdict = checks.check(ask.clone().header("x-api-client", "root")).await;
        assert_eq!(verdict.reason(), expected, "{ask:?}");
        assert!(!verdict.headers.contains_key("x-api-client"), "{ask:?}");
        assert_eq!(verdict.removed.contains(&"x_api.client".to_owned()), verdict.allowed(), "{ask:?}");
    }
    // The referrer replaces a missing origin, and only then.
    let web = || get("/open").header("x-api-key", key("web-shop")).header("x-client-platform", "web");
    for (referer, origin, expected) in [
        ("https://shop.example.com/cart?x#y", None, "ok"),
        ("https://attacker.test/?https://shop.example.com", None, "api_key_domain"),
        ("https://attacker.test/shop.example.com", None, "api_key_domain"),
        ("https://shop.example.com/", Some("null"), "api_key_domain"),
        ("https://shop.example.com/", Some("https://attacker.test"), "api_key_domain"),
        ("https://attacker.test/", Some("https://shop.example.com"), "ok"),
    ] {
        let ask = origin.into_iter().fold(web().header("referer", referer), |ask, origin| ask.header("origin", origin));
        assert_eq!(checks.check(ask).await.reason(), expected, "{referer} {origin:?}");
    }
    let shadow = checks.check(get("/shadow").header("x-api-key", key("nobody"))).await;
    assert_eq!((shadow.status, shadow.reason()), (200, "api_key_unknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_and_go_with_the_file() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&config(&tokens, &KEYS[..1])).await;
    let checks = Checks::connect(&doorward.check).await;
    let reason = async |id: &str| checks.check(get("/open").header("x-api-key", key(id))).await.reason().to_owned();
    assert_eq!((reason("anywhere").await.as_str(), reason("next").await.as_str()), ("ok", "api_key_unknown"));
    let file = doorward.dir.path().join("doorward.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&sha256("anywhere"), &sha256("next"))).unwrap();
    eventually("the new key is good", || async { reason("next").await == "ok" }).await;
    assert_eq!(reason("anywhere").await, "api_key_unknown");
}

/// Preflights of configured origins are answered by Envoy; any other `OPTIONS` is a request like all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_opens_nothing() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&config(&tokens, &KEYS)).await;
    let checks = Checks::connect(&doorward.check).await;
    let preflight = |path: &str, origin: &str| {
        let ask = ask("OPTIONS", path).header("origin", origin).header("access-control-request-method", "POST");
        ask.header("access-control-request-headers", "authorization,x-api-key")
    };
    for (path, status, reason) in [
        ("/", 401, "api_key_missing"),
        ("/public/x", 401, "api_key_missing"),
        ("/open", 200, "ok"),
        ("/own-cors/x", 200, "ok"),
        ("/own-cors/../x", 401, "api_key_missing"),
    ] {
        let verdict = checks.check(preflight(path, "https://shop.example.com").header("x-api-client", "root")).await;
        assert_eq!((verdict.status, verdict.reason()), (status, reason), "{path}");
        assert_eq!(verdict.removed.contains(&"x-api-client".to_owned()), status == 200, "{path}");
    }

    let Some(binary) = envoy::binary() else { return };
    let upstream = Upstream::start().await;
    let envoy = Envoy::start(&binary, "edge-tcp.yaml", &doorward.check, upstream.address).await;
    let client = reqwest::Client::new();
    let send = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut request = client.request(method.parse().unwrap(), envoy.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let allowed =
            response.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), allowed, response.json::<Value>().await.unwrap_or_default())
    };
    let known = ("origin", "https://shop.example.com");
    let unknown = ("origin", "https://attacker.test");
    let asks = ("access-control-request-method", "POST");
    let shop = Some("https://shop.example.com".to_owned());

    assert_eq!(
        send("OPTIONS", "/private", &[known, asks]).await,
        (200, shop.clone(), Value::Null),
        "answered by Envoy"
    );
    for (headers, why) in [
        (&[unknown, asks][..], "an unknown origin"),
        (&[known][..], "no preflight"),
        (&[asks][..], "no origin"),
        (&[][..], "a plain OPTIONS"),
    ] {
        assert_eq!(send("OPTIONS", "/private", headers).await.0, 401, "{why}");
    }
    assert_eq!(upstream.seen(), 0, "none of these went on");

    // A page of a configured origin may read why it was refused; others may not.
    let (status, allowed, body) = send("GET", "/private", &[known]).await;
    assert_eq!((status, allowed, body["reason"].as_str()), (401, shop.clone(), Some("api_key_missing")));
    let (status, allowed, _) = send("GET", "/private", &[unknown]).await;
    assert_eq!((status, allowed), (401, None));

    let (app, web) = (key("app"), key("web-shop"));
    let bearer = format!("Bearer {}", tokens.of("alice"));
    let signed_in = ("authorization", bearer.as_str());
    for (path, headers, client, user) in [
        ("/private", &[signed_in, ("x-api-key", &app), ("x-client-platform", "ios")][..], Some("app"), Some("alice")),
        (
            "/private",
            &[signed_in, ("x-api-key", &web), ("x-client-platform", "web"), known],
            Some("web-shop"),
            Some("alice"),
        ),
        (
            "/public/x",
            &[("x-api-key", &app), ("x-client-platform", "ios"), ("x-api-client", "root")],
            Some("app"),
            None,
        ),
        ("/open", &[("x-api-client", "root"), ("x_api_client", "root")], None, None),
    ] {
        let (status, _, seen) = send("GET", path, headers).await;
        assert_eq!(status, 200, "{path} {client:?}");
        assert_eq!(seen["headers"]["x-api-client"].as_str(), client, "{seen}");
        assert_eq!(seen["headers"]["x-user-id"].as_str(), user, "{seen}");
        assert!(seen["headers"]["x_api_client"].is_null(), "{seen}");
    }
    let headers = [signed_in, ("x-api-key", web.as_str()), ("x-client-platform", "web"), unknown];
    assert_eq!(send("GET", "/private", &headers).await.0, 403);
    // An upstream that does its own CORS gets preflights by a rule for them; the request itself is checked.
    assert_eq!(send("OPTIONS", "/own-cors/x", &[unknown, asks]).await.0, 200);
    assert_eq!(send("POST", "/own-cors/x", &[unknown]).await.0, 401);
}
