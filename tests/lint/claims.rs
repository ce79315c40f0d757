//! The described effect of each trap, reproduced: the bad files in a real Envoy, with a real Doorward
//! beside it. Other effects are shown by the tests of the examples, or are defaults of Envoy.

use serde_json::Value;

use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

struct Stage {
    tokens: Tokens,
    doorward: Doorward,
    upstream: Upstream,
    binary: String,
}

impl Stage {
    async fn set() -> Option<Self> {
        let binary = envoy::binary()?;
        let tokens = Tokens::new();
        let rules = "rules: [{name: assets, match: {path_prefix: /assets}, access: public}]\n";
        let doorward = Doorward::start(&tokens.config(rules)).await;
        Some(Self { tokens, doorward, upstream: Upstream::start().await, binary })
    }

    /// Envoy on a file of this folder, edited.
    async fn envoy(&self, file: &str, edit: impl Fn(String) -> String) -> Envoy {
        let text = envoy::text(&format!("tests/lint/{file}.yaml"), &self.doorward.check, self.upstream.address);
        Envoy::start_text(&self.binary, &edit(text)).await
    }

    /// The status, and the upstream's request.
    async fn ask(&self, file: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        ask(&self.envoy(file, |text| text).await, method, path, headers).await
    }
}

async fn ask(envoy: &Envoy, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let request = reqwest::Client::new().request(method.parse().unwrap(), envoy.url(path));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn allowed_without_a_token() {
    let Some(stage) = Stage::set().await else { return };
    let handshake = [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (file, path, headers, seen) in [
        ("ext-authz-disabled", "/admin", &[][..], "/admin"),
        ("upgrade-bypass", "/admin", &handshake, "/admin"),
        ("rerouted-after-check", "/assets/x", &[("x-path", "/admin")], "/admin"),
    ] {
        let before = stage.upstream.seen();
        let (status, shown) = stage.ask(file, "GET", path, headers).await;
        assert_eq!(stage.upstream.seen(), before + 1, "{file}: {status}");
        assert!(status == 200 && shown["path"] == seen || file == "upgrade-bypass", "{file}: {status} {shown}");
        assert_eq!(stage.ask("clean", "GET", path, headers).await.0 == 200, path == "/assets/x", "{file}");
    }
    // Lua has the route chosen anew, unless it is forbidden to.
    let rerouted = |more: &'static str| {
        move |text: String| {
            let elsewhere = "                        - match: {prefix: /admin}\n                          direct_response: {status: 418}\n";
            let text = text.replacen(
                "                        - match: {prefix: /assets/}",
                &format!("{elsewhere}                        - match: {{prefix: /assets/}}"),
                1,
            );
            text.replacen(
                "                      default_source_code:",
                &format!("{more}                      default_source_code:"),
                1,
            )
        }
    };
    for (more, status) in [("", 418), ("                      clear_route_cache: false\n", 200)] {
        let envoy = stage.envoy("rerouted-after-check", rerouted(more)).await;
        assert_eq!(ask(&envoy, "GET", "/assets/x", &[("x-path", "/admin")]).await.0, status, "{more}");
    }
    // The clean file serves checked requests.
    let (_, shown) = stage.ask("clean", "GET", "/assets/x", &[("x-path", "/admin")]).await;
    assert_eq!(shown["path"], "/assets/x");

    // The listener behind which no request is checked.
    let envoy = stage.envoy("unchecked-listener", |text| text.replace("port_value: 10001", "port_value: 0")).await;
    let listeners: Value = serde_json::from_str(&envoy.ask_admin("/listeners?format=json").await).unwrap();
    let ports = listeners["listener_statuses"].as_array().unwrap().iter();
    let ports: Vec<_> = ports.map(|l| l["local_address"]["socket_address"]["port_value"].as_u64().unwrap()).collect();
    let mut statuses = Vec::new();
    for port in ports {
        statuses.push(reqwest::get(format!("http://127.0.0.1:{port}/admin")).await.unwrap().status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_that_reach_the_upstream() {
    let Some(stage) = Stage::set().await else { return };
    let spoofed = [("x-user-id", "root"), ("x_user_id", "root"), ("x.user.id", "root")];
    for (file, path, passed) in [
        ("identity-not-stripped", "/assets/x", &["x-user-id", "x_user_id", "x.user.id"][..]),
        ("identity-not-stripped.host", "/", &["x-user-id", "x_user_id", "x.user.id"]),
        ("look-alike-not-stripped", "/assets/x", &["x_user_id", "x.user.id"]),
        ("clean", "/assets/x", &[]),
    ] {
        let (status, shown) = stage.ask(file, "GET", path, &spoofed).await;
        assert_eq!(status, 200, "{file}");
        for (name, _) in spoofed {
            assert_eq!(shown["headers"][name] == "root", passed.contains(&name), "{file}: {name} in {shown}");
        }
    }
    let token = format!("Bearer {}", stage.tokens.of("alice"));
    let signed_in = [("authorization", token.as_str())];
    for (file, user) in [("clean", Value::from("alice")), ("identity-removed", Value::Null)] {
        let (status, shown) = stage.ask(file, "GET", "/", &signed_in).await;
        assert_eq!((status, &shown["headers"]["x-user-id"]), (200, &user), "{file}");
    }
    // Other headers that an upstream may trust.
    let internal = ("x-forwarded-for", "10.0.0.1");
    for (file, name, value, more) in [
        ("client-certificate-header", "x-forwarded-client-cert", "Subject=\"CN=root\"", None),
        ("client-address", "x-envoy-original-path", "/else", Some(internal)),
        ("internal-addresses", "x-envoy-original-path", "/else", None),
    ] {
        let headers: Vec<_> = [signed_in[0], (name, value)].into_iter().chain(more).collect();
        assert_eq!(stage.ask(file, "GET", "/", &headers).await.1["headers"][name], value, "{file}");
        assert_eq!(stage.ask("clean", "GET", "/", &headers).await.1["headers"][name], Value::Null, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_with_a_valid_token() {
    let Some(stage) = Stage::set().await else { return };
    let token = format!("Bearer {}", stage.tokens.of("alice"));
    for (file, path, status) in [
        ("clean", "/assets/x", 200),
        ("header-not-sent", "/x", 401),
        ("header-not-sent.withheld", "/x", 401),
        ("cluster-http1", "/x", 503),
        ("cluster-unknown", "/x", 503),
        ("unknown-rule", "/assets/x", 400),
    ] {
        let answer = stage.ask(file, "GET", path, &[("authorization", &token)]).await;
        assert_eq!(answer.0, status, "{file}: {}", answer.1);
    }
    // Only part of the requests is checked: the others pass without a token.
    let envoy = stage.envoy("ext-authz-switch.part", |text| text.replace("numerator: 90", "numerator: 50")).await;
    let mut seen = [false, false];
    for _ in 0..200 {
        seen[usize::from(ask(&envoy, "GET", "/", &[]).await.0 == 200)] = true;
    }
    assert_eq!(seen, [true, true]);
    // A browser asks first.
    let preflight = [("origin", "https://shop.example.com"), ("access-control-request-method", "POST")];
    let policy = |text: String| {
        let kind = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy";
        let cors = format!(
            "typed_per_filter_config: {{envoy.filters.http.cors: {{\"@type\": {kind}, allow_origin_string_match: [{{prefix: http}}], allow_methods: POST}}}}"
        );
        text.replacen("domains: [\"*\"]", &format!("domains: [\"*\"]\n                      {cors}"), 1)
    };
    let envoy = stage.envoy("cors-after-check", policy).await;
    assert_eq!(ask(&envoy, "OPTIONS", "/", &preflight).await.0, 401);
    // The log holds the token.
    let envoy = stage.envoy("token-in-access-log", |text| text).await;
    assert_eq!(ask(&envoy, "GET", "/", &[("authorization", &token)]).await.0, 200);
    eventually("the token is in the log", || async { envoy.log().contains(&token) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage() {
    let Some(mut stage) = Stage::set().await else { return };
    // Frozen: the connection stands, without an answer.
    stage.doorward.process.signal("STOP");
    let envoy = stage.envoy("timeout-unbounded.zero", |text| text).await;
    let client = reqwest::Client::new();
    let patient = client.get(envoy.url("/")).timeout(std::time::Duration::from_secs(3));
    assert_eq!(stage.ask("clean", "GET", "/", &[]).await.0, 503, "after its second");
    assert!(patient.send().await.unwrap_err().is_timeout(), "zero is no limit");
    stage.doorward.process.signal("KILL");
    stage.doorward.exit_code().await;
    for (file, status) in
        [("clean", 503), ("status-on-error", 403), ("status-on-error.client", 401), ("fail-open", 200)]
    {
        assert_eq!(stage.ask(file, "GET", "/admin", &[]).await.0, status, "{file}");
    }
}

/// Envoy's cache leaves requests with `Authorization` out, but not those with a token in a cookie. The cache even
/// sends the request upstream itself, past the filters behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_before_the_check_answers_everyone() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("token: {from: [{cookie: token}]}\n")).await;
    let answer =
        || async { ([("cache-control", "max-age=600"), ("date", "Sun, 22 Nov 2026 00:00:00 GMT")], "private") };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move { axum::serve(listener, axum::Router::new().fallback(answer)).await.unwrap() });
    let cookie = format!("token={}", tokens.of("alice"));
    let with_cookies = |file: &str| {
        envoy::text(&format!("tests/lint/{file}.yaml"), &doorward.check, address)
            .replace("exact: authorization", "exact: cookie")
    };
    for binary in envoy::binaries() {
        for (file, without_token) in [("clean", 401), ("cache-before-check", 200)] {
            let envoy = Envoy::start_text(&binary, &with_cookies(file)).await;
            assert_eq!(ask(&envoy, "GET", "/private", &[("cookie", &cookie)]).await.0, 200, "{file}");
            eventually("the cache has its answer", || async {
                ask(&envoy, "GET", "/private", &[]).await.0 == without_token
            })
            .await;
        }
    }
}
