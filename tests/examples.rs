//! The files of `envoy/`, each in the oldest and the newest Envoy, in their intended use. `story` covers the main
//! one with edge-tcp.yaml and edge-uds.yaml.

mod rolling;
mod streams;

use futures_util::future::join_all;
use serde_json::Value;

use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

/// Spoofed headers: every spelling that an upstream may read as an identity header.
const SPOOFED: [&str; 9] = [
    "x-user-id",
    "x_user_id",
    "x.user.id",
    "x-user_id",
    "x.user-email",
    "x_user_email",
    "x-identity",
    "x_identity",
    "x.doorward.stale",
];

async fn ask(envoy: &Envoy, method: &str, path: &str, token: Option<&str>) -> (u16, Value) {
    let request = reqwest::Client::new().request(method.parse().unwrap(), envoy.url(path));
    let request = SPOOFED.iter().fold(request, |request, name| request.header(*name, "root"));
    let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}

/// The request arrives without the spoofed headers of [`ask`].
#[track_caller]
fn not_spoofed(shown: &Value) {
    let headers = shown["headers"].as_object().unwrap();
    let passed: Vec<_> = headers.iter().filter(|(_, value)| *value == "root").collect();
    assert!(passed.is_empty(), "{passed:?} in {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_checks_again_and_logs_refusals() {
    for binary in envoy::binaries() {
        for (file, listen) in [
            ("sidecar-tcp.yaml", ""),
            ("sidecar-uds.yaml", "listen: {check: \"unix:DIR/check.sock\", http: \"127.0.0.1:0\"}\n"),
        ] {
            let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
            let rules = "rules: [{name: logout, match: {path: /auth/logout, methods: [POST]}, access: sign_out}]\n";
            let doorward = Doorward::start(&tokens.config(&format!("{listen}{rules}"))).await;
            let envoy = Envoy::start(&binary, file, &doorward.check, upstream.address).await;
            let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
            assert_eq!(ask(&envoy, "GET", "/", None).await.0, 401, "{file}");
            let (status, shown) = ask(&envoy, "GET", "/", Some(&alice)).await;
            assert_eq!((status, &shown["headers"]["x-user-id"]), (200, &"alice".into()), "{file}");
            not_spoofed(&shown);
            assert_eq!(ask(&envoy, "POST", "/auth/logout", Some(&alice)).await.0, 200);
            assert_eq!(ask(&envoy, "GET", "/", Some(&alice)).await.0, 401);
            assert_eq!(ask(&envoy, "GET", "/", Some(&bob)).await.0, 200);

            // The gateway's own headers about the client and the request are kept.
            let request = reqwest::Client::new().get(envoy.url("/from-outside")).bearer_auth(&bob);
            let request = request.header("x-forwarded-for", "203.0.113.7").header("x-request-id", "of-the-gateway");
            let shown: Value = request.send().await.unwrap().json().await.unwrap();
            assert_eq!(shown["headers"]["x-request-id"], "of-the-gateway", "{shown}");
            let logged = |expected: &'static [(&'static str, &'static str)]| {
                let envoy = &envoy;
                eventually("a line of the access log", move || async move {
                    let log = envoy.log();
                    let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                    lines.any(|line| expected.iter().all(|(name, value)| line[*name] == *value))
                })
            };
            logged(&[("path", "/from-outside"), ("client", "203.0.113.7"), ("user_id", "bob"), ("reason", "ok")]).await;
            let refused =
                [("reason", "signed_out"), ("user_id", "alice"), ("details", "ext_authz_denied"), ("rule", "default")];
            logged(Box::leak(Box::new(refused))).await;
            logged(&[("reason", "missing_token"), ("details", "ext_authz_denied")]).await;
            let log = envoy.log();
            assert!(!log.contains(&alice) && !log.contains(&bob), "no token in the access log");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_name_rules_turn_the_check_off_and_sign_out() {
    for binary in envoy::binaries() {
        let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
        let text = std::fs::read_to_string(format!("{}/envoy/routes.yaml", env!("CARGO_MANIFEST_DIR"))).unwrap();
        // The rules that the file's head asks for.
        let head = text.lines().filter_map(|line| line.strip_prefix("#     "));
        let rules = head.skip_while(|line| *line != "rules:").collect::<Vec<_>>().join("\n") + "\n";
        let doorward = Doorward::start(&tokens.config(&rules)).await;
        let text = envoy::text("envoy/routes.yaml", &doorward.check, upstream.address);
        let text = text.replace("port_value: 9192", &format!("port_value: {}", doorward.http.port()));
        let envoy = Envoy::start_text(&binary, &text).await;
        let (alice, root) = (tokens.of("alice"), tokens.with(serde_json::json!({"sub": "root", "scope": "admin"})));
        for (method, path, token, status, user) in [
            ("GET", "/healthz", None, 200, None),
            ("GET", "/healthz/deep", None, 401, None),
            ("GET", "/admin/users", None, 401, None),
            ("GET", "/admin/users", Some(&alice), 403, None),
            ("GET", "/admin/users", Some(&root), 200, Some("root")),
            ("GET", "/assets/logo.svg", None, 200, None),
            ("GET", "/assets/../admin", None, 401, None),
            ("GET", "/orders", None, 401, None),
            ("GET", "/orders", Some(&alice), 200, Some("alice")),
            // Only the sign-out of Doorward's HTTP API is reachable.
            ("GET", "/logout", None, 401, None),
            ("GET", "/metrics", Some(&alice), 200, Some("alice")),
            ("POST", "/logout", None, 401, None),
            ("POST", "/logout", Some(&alice), 204, None),
            ("GET", "/orders", Some(&alice), 401, None),
            ("GET", "/orders", Some(&root), 200, Some("root")),
        ] {
            let before = upstream.seen();
            let (answer, shown) = ask(&envoy, method, path, token.map(String::as_str)).await;
            assert_eq!(answer, status, "{method} {path}: {shown}");
            assert_eq!(upstream.seen() - before, usize::from(status == 200), "{method} {path}");
            if status == 200 {
                let seen = shown["headers"]["x-user-id"].as_str();
                assert_eq!(seen, user, "{method} {path}: {shown}");
                let spoofed = shown["headers"]
                    .as_object()
                    .unwrap()
                    .iter()
                    .filter(|(name, value)| *value == "root" && *name != "x-user-id");
                assert_eq!(spoofed.count(), 0, "{shown}");
            }
        }
        // Everywhere, by its query.
        let mallory = [tokens.of("mallory"), tokens.of("mallory")];
        assert_eq!(ask(&envoy, "POST", "/logout?all=true", Some(&mallory[0])).await.0, 204);
        assert_eq!(ask(&envoy, "GET", "/orders", Some(&mallory[1])).await.0, 401);
    }
}

/// With Doorward gone and `failure_mode_allow`, which no file has, requests pass; their made-up identity does not.
#[tokio::test(flavor = "multi_thread")]
async fn identity_headers_are_stripped_even_when_ext_authz_fails_open() {
    for binary in envoy::binaries() {
        for file in ["edge-tcp.yaml", "sidecar-tcp.yaml", "routes.yaml", "streams.yaml"] {
            let upstream = Upstream::start().await;
            let text = envoy::text(&format!("envoy/{file}"), "127.0.0.1:9", upstream.address);
            assert!(text.contains("failure_mode_allow: false"), "{file}");
            let envoy = Envoy::start_text(&binary, &text).await;
            assert_eq!(ask(&envoy, "GET", "/orders", None).await.0, 503, "{file}: as it is shipped");
            let open = text.replace("failure_mode_allow: false", "failure_mode_allow: true");
            let envoy = Envoy::start_text(&binary, &open).await;
            let (status, shown) = ask(&envoy, "GET", "/orders", None).await;
            assert_eq!(status, 200, "{file}");
            not_spoofed(&shown);
        }
    }
}

/// Two files of one kind differ in the way to Doorward only.
#[test]
fn the_pairs_differ_in_their_transport_only() {
    let body = |file: &str| {
        let text = std::fs::read_to_string(format!("{}/envoy/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let (_, text) = text.split_once("\nadmin:").unwrap();
        let way = |lines: &[&str]| lines.join("\n") + "\n";
        let tcp = way(&[
            "                    socket_address:",
            "                      address: 127.0.0.1",
            "                      port_value: 9191",
        ]);
        let uds = way(&["                    pipe:", "                      path: /run/doorward/check.sock"]);
        let way = if file.ends_with("-tcp.yaml") { tcp } else { uds };
        assert_eq!(text.matches(&way).count(), 2, "{file}: for checks, and for streams");
        text.replace(&way, "")
    };
    for kind in ["edge", "sidecar"] {
        assert_eq!(body(&format!("{kind}-uds.yaml")), body(&format!("{kind}-tcp.yaml")));
    }
}

/// Until it receives Doorward's limit, Envoy opens as many streams as its own configuration allows.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_on_a_new_connection_is_not_refused() {
    for binary in envoy::binaries() {
        let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
        let doorward = Doorward::start(&tokens.config("")).await;
        let envoy = Envoy::start(&binary, "edge-tcp.yaml", &doorward.check, upstream.address).await;
        // One connection to Envoy, so that one of its workers handles all requests.
        let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
        // A preflight, which Envoy answers by itself: its connection gives the client the limit of concurrent streams.
        let preflight = client.request(reqwest::Method::OPTIONS, envoy.url("/orders"));
        let preflight = preflight.header("origin", "https://shop.example.com");
        preflight.header("access-control-request-method", "GET").send().await.unwrap();
        let token = tokens.of("alice");
        let asked = (0..600).map(|_| client.get(envoy.url("/orders")).bearer_auth(&token).send());
        let answered = join_all(asked).await;
        assert!(answered.iter().any(|answer| answer.as_ref().is_ok_and(|answer| answer.status() == 200)));
        let stats = envoy.ask_admin("/stats?filter=cluster.doorward.http2.rx_reset").await;
        assert_eq!(stats.trim(), "cluster.doorward.http2.rx_reset: 0");
    }
}
