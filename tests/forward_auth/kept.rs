//! How long proxies may keep an answer.

use reqwest::Client;
use serde_json::json;

use super::header;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::nginx::{self, Nginx};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

/// Which answers may be kept, and for how long.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_no_longer_than_a_revocation_may_take() {
    let rules = "forward_auth: {cache: 60s}\nrevocation: {store: embedded, max_staleness: 20s}\n\
                 rules:\n\
                 \x20 - {name: open, match: {path: /open}, access: public}\n\
                 \x20 - {name: strict, match: {path: /strict}, max_staleness: 5s}\n\
                 \x20 - {name: loose, match: {path: /loose}, on_stale: allow}\n\
                 \x20 - {name: recent, match: {path: /recent}, require: {max_age: 1h}}\n\
                 \x20 - {name: trial, match: {path: /trial}, require: {scopes: [none]}, enforce: false}\n\
                 \x20 - {name: bye, match: {path: /bye}, access: sign_out}\n\
                 \x20 - {name: refresh, match: {path: /refresh}, access: refresh}\n";
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(rules)).await;
    let now = crate::support::tokens::now();
    let (alice, short) = (tokens.of("alice"), tokens.with(json!({"exp": now + 15})));
    let signed_in = tokens.with(json!({ "auth_time": now - 60 }));
    let client = reqwest::Client::new();
    let ask = async |path: &str, token: Option<&str>| {
        let request = client.get(format!("http://{}/auth{path}", doorward.http)).header("host", "shop.example.com");
        let response = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth).send().await.unwrap();
        let kept = header(&response, "cache-control").unwrap_or_default().to_owned();
        let max_age = kept.strip_prefix("max-age=").map(|seconds| seconds.parse::<u64>().unwrap());
        assert!(max_age.is_some() || kept == "no-store", "{path}: {kept}");
        let varies = header(&response, "vary").unwrap_or_default();
        assert_eq!(varies.split(", ").any(|name| name == "authorization"), max_age.is_some(), "{path}: {varies}");
        (response.status().as_u16(), max_age)
    };
    let (status, kept) = ask("/", Some(&alice)).await;
    assert!(status == 200 && kept.is_some_and(|kept| (1..=20).contains(&kept)), "{kept:?}");
    let (_, kept) = ask("/strict", Some(&alice)).await;
    assert!(kept.is_some_and(|kept| (1..=5).contains(&kept)), "{kept:?}");
    let (_, kept) = ask("/", Some(&short)).await;
    assert!(kept.is_some_and(|kept| (1..=15).contains(&kept)), "{kept:?}");
    assert_eq!(ask("/open", None).await, (200, Some(60)));
    for (path, token) in
        [("/loose", &alice), ("/recent", &signed_in), ("/trial", &alice), ("/refresh", &alice), ("/bye", &short)]
    {
        assert_eq!(ask(path, Some(token)).await, (200, None), "{path}");
    }
    for (path, token) in [("/", None), ("/", Some("x")), ("/", Some(short.as_str()))] {
        assert_eq!(ask(path, token).await, (401, None), "a refusal");
    }
    // Without the setting nothing is kept.
    let doorward = Doorward::start(&tokens.config("")).await;
    let response = client.get(format!("http://{}/auth/", doorward.http)).bearer_auth(&alice).send().await.unwrap();
    assert_eq!((response.status().as_u16(), header(&response, "cache-control")), (200, Some("no-store")));
}

/// A payload that has expired, or is another request's, is of no use.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_no_longer_than_its_payload_lives() {
    let tokens = Tokens::new();
    let key = format!("{}/src/config/testdata/sign-p256.pem", env!("CARGO_MANIFEST_DIR"));
    let sign = |ttl: &str| format!("sign: {{key_file: {key}, ttl: {ttl}}}");
    for (payload, longest) in [
        ("header: x-identity".to_owned(), Some(60)),
        (format!("header: x-identity, {}", sign("5s")), Some(4)),
        (format!("header: x-identity, {}", sign("1s")), None),
        (format!("header: txn, profile: txn-token, audience: a, {}", sign("5m")), None),
    ] {
        let more = format!(
            "forward_auth: {{cache: 60s}}\nrevocation: {{store: embedded, max_staleness: 10m}}\nidentity: {{payload: {{{payload}}}}}\n\
             rules: [{{name: open, match: {{path: /open}}, access: public}}]\n"
        );
        let doorward = Doorward::start(&tokens.config(&more)).await;
        let ask = async |path: &str| {
            let request = Client::new().get(format!("http://{}/auth{path}", doorward.http));
            let response = request.bearer_auth(tokens.of("alice")).send().await.unwrap();
            assert_eq!(response.status(), 200);
            let kept =
                header(&response, "cache-control").unwrap_or_default().strip_prefix("max-age=").map(str::to_owned);
            kept.map(|seconds| seconds.parse::<u64>().unwrap())
        };
        assert_eq!(ask("/orders").await, longest, "{payload}");
        assert_eq!(ask("/open").await, Some(60), "without an identity there is no payload: {payload}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_keeps_an_answer_and_gives_it_up_in_time() {
    let Some(binary) = nginx::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let config = "forward_auth: {cache: 3s}\nrevocation: {store: embedded, max_staleness: 3s}\n";
    let doorward = Doorward::start(&tokens.config(config)).await;
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/forward-auth.md")).unwrap();
    let key = page.lines().map(str::trim).find(|line| line.starts_with("proxy_cache_key")).unwrap();
    let server = page.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let server = server
        .replace("127.0.0.1:8080", &upstream.address.to_string())
        .replace("127.0.0.1:9192", &doorward.http.to_string())
        .replace("  internal;\n", &format!("  internal;\n  proxy_cache auth;\n  {key}\n"));
    let nginx = Nginx::start_with(binary, "proxy_cache_path DIR/auth keys_zone=auth:1m;\n", &server).await;
    let client = reqwest::Client::new();
    let ask = async |path: &str, token: &str| {
        let request = client.get(format!("http://{}{path}", nginx.address)).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
    let checks =
        async || doorward.metric("doorward_checks_total{decision=\"allowed\",reason=\"ok\",rule=\"default\"}").await;
    for _ in 0..5 {
        assert_eq!(ask("/orders", &alice).await, 200);
    }
    let asked = checks().await.unwrap();
    assert!(asked < 5.0, "{asked} of five answers were kept");
    assert_eq!(ask("/orders", &bob).await, 200);
    assert_eq!(ask("/other", &alice).await, 200);
    assert_eq!(checks().await, Some(asked + 2.0), "another user and another path are other questions");
    assert_eq!(ask("/orders", "x").await, 401);
    assert_eq!(doorward.post("/logout", &alice).await.0, 204);
    eventually("what was kept is not used any more", || async { ask("/orders", &alice).await == 401 }).await;
    assert_eq!(ask("/orders", &bob).await, 200);
}
