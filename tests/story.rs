//! The main job, through a real Envoy on the files that we ship.

use serde_json::Value;

use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

const RULES: &str = r"
rules:
  - {name: health, match: {path: /healthz, methods: [GET]}, access: public}
  - name: logout
    match: {path: /auth/logout, methods: [POST]}
    access: sign_out
    sign_out: {scope: token, then: forward}
";

async fn tell(binary: &str, file: &str, listen: &str) {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(&format!("{listen}{RULES}"))).await;
    let upstream = Upstream::start().await;
    let envoy = Envoy::start(binary, file, &doorward.check, upstream.address).await;
    let client = reqwest::Client::new();
    let get = async |path: &str, token: Option<&str>| {
        let mut request = client.get(envoy.url(path)).header("x-user-id", "root");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let challenge = response.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
        (response.status().as_u16(), response.json::<Value>().await.unwrap(), challenge)
    };
    let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));

    let (status, body, challenge) = get("/orders", None).await;
    assert_eq!((status, body["reason"].as_str()), (401, Some("missing_token")));
    assert_eq!(challenge.as_deref(), Some("Bearer realm=\"doorward\""));
    assert_eq!(upstream.seen(), 0);

    let (status, seen, _) = get("/orders", Some(&alice)).await;
    assert_eq!((status, seen["headers"]["x-user-id"].as_str()), (200, Some("alice")));
    assert_eq!(seen["headers"]["x-user-email"], "alice@example.com");

    let response = client.post(envoy.url("/auth/logout")).bearer_auth(&alice).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.json::<Value>().await.unwrap()["path"], "/auth/logout", "the auth service learns of it");

    let before = upstream.seen();
    let (status, body, challenge) = get("/orders", Some(&alice)).await;
    assert_eq!((status, body["reason"].as_str()), (401, Some("signed_out")));
    assert!(challenge.unwrap().contains("error=\"invalid_token\""));
    assert_eq!(upstream.seen(), before, "the upstream sees nothing after");

    assert_eq!(get("/orders", Some(&bob)).await.0, 200, "other tokens are unaffected");
    assert_eq!(get("/healthz", None).await.0, 200);

    eventually("the access log names the reason and the user", || async {
        envoy
            .log()
            .lines()
            .any(|line| line.contains("\"reason\":\"signed_out\"") && line.contains("\"user_id\":\"alice\""))
    })
    .await;
    assert!(!envoy.log().contains(&alice), "no token in the access log");

    // Without Doorward every request is refused.
    drop(doorward);
    assert_eq!(client.get(envoy.url("/orders")).bearer_auth(&bob).send().await.unwrap().status(), 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_out_is_instant_over_tcp() {
    let Some(binary) = envoy::binary() else { return };
    tell(&binary, "edge-tcp.yaml", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_out_is_instant_over_a_unix_socket() {
    let Some(binary) = envoy::binary() else { return };
    tell(&binary, "edge-uds.yaml", "listen: {check: \"unix:DIR/check.sock\", http: \"127.0.0.1:0\"}\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_out_is_instant_with_the_oldest_envoy() {
    let Some(binary) = std::env::var("ENVOY_OLDEST").ok().filter(|path| !path.is_empty()) else {
        eprintln!("SKIPPED: ENVOY_OLDEST does not name an Envoy binary; ./tests/run.sh fetches one");
        return;
    };
    tell(&binary, "edge-tcp.yaml", "").await;
}
