//! After a panic in a hook its request is refused or unaffected, and the next request is fine.

use std::process::Stdio;

use serde_json::json;

use super::alike::inline;
use super::sides::{address, bootstrap, command, filter, listener};
use crate::support::envoy::{self, Envoy};
use crate::support::jwks_server::JwksServer;
use crate::support::raw::Client;
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;
use crate::support::{TempDir, eventually};

fn host() -> (String, Vec<u8>) {
    ("host".to_owned(), b"shop.example.com".to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_any_hook_refuses_its_request_and_nothing_else() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, dir, upstream) = (Tokens::new(), TempDir::new(), Upstream::start().await);
    // A key that is not published: its tokens wait for a fetch.
    let stranger = Tokens::new();
    let server = JwksServer::start(tokens.issuer.jwks()).await;
    let mut config: serde_json::Value = serde_json::from_str(&inline(&tokens)).unwrap();
    config["issuers"][0]["keys"] = json!({"jwks_url": server.url()});
    let fault = dir.path().join("fault");
    std::fs::write(&fault, "").unwrap();
    let mut command = command(&binary);
    command.env("DOORWARD_FAULT", &fault);
    let listeners = [listener("module", &[filter(&json!({"inline": config}))], "DONE")];
    let envoy = Envoy::start_by(command, &bootstrap(&listeners, upstream.address, None)).await;
    let at = address(&envoy, "module").await;
    let ask = async |path: &str, token: Option<&str>| {
        let token = token.map(|token| ("authorization".to_owned(), format!("Bearer {token}").into_bytes()));
        let headers: Vec<_> = [Some(host()), token].into_iter().flatten().collect();
        let answer = Client::new(at).send("GET", path, &headers).await;
        (answer.status, answer.body)
    };
    let (good, unknown) = (tokens.of("alice"), stranger.of("alice"));
    let done = || envoy.log().lines().filter(|line| *line == "DONE").count();
    for (hook, path, token, status) in [
        ("filter_new", "/public", None, 503),
        ("request_headers", "/public", None, 503),
        ("request_headers", "/", Some(&good), 503),
        ("scheduled", "/", Some(&unknown), 503),
        ("response_headers", "/public", None, 503),
        ("local_reply", "/", None, 401),
        ("stream_complete", "/public", None, 200),
        ("filter_destroy", "/public", None, 200),
        ("drop", "/public", None, 200),
    ] {
        let before = done();
        std::fs::write(&fault, hook).unwrap();
        let (answered, body) = ask(path, token.map(String::as_str)).await;
        assert_eq!(answered, status, "{hook}: {body}");
        assert!(!body.contains("canary"), "{hook}: {body}");
        // Its stream is over and destroyed before the fault goes.
        eventually("the stream is over", || async { done() > before }).await;
        assert_eq!(
            ask("/public", None).await.0 == 503,
            matches!(hook, "filter_new" | "request_headers" | "response_headers"),
            "{hook}"
        );
        std::fs::write(&fault, "").unwrap();
        assert_eq!(ask("/public", None).await.0, 200, "after {hook}");
        assert_eq!(ask("/", Some(&good)).await.0, 200, "after {hook}");
        assert_eq!(ask("/", Some(&unknown)).await.0, 401, "after {hook}");
    }
    assert!(!envoy.log().contains("canary"), "{}", envoy.log());
    assert!(envoy.log().contains("\"message\":\"panicked\""), "the log tells of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_over_a_configuration_refuses_the_configuration() {
    let Some(binary) = envoy::binary() else { return };
    let (dir, tokens) = (TempDir::new(), Tokens::new());
    let (file, fault) = (dir.path().join("envoy.json"), dir.path().join("fault"));
    let config: serde_json::Value = serde_json::from_str(&inline(&tokens)).unwrap();
    let listeners = [listener("module", &[filter(&json!({"inline": config}))], "DONE")];
    std::fs::write(&file, bootstrap(&listeners, "127.0.0.1:1".parse().unwrap(), None)).unwrap();
    for (hook, is_valid) in [
        ("", true),
        ("config_new", false),
        ("route_config_new", false),
        ("config_destroy", true),
        ("route_config_destroy", true),
    ] {
        std::fs::write(&fault, hook).unwrap();
        let mut command = command(&binary);
        command.env("DOORWARD_FAULT", &fault).args(["--mode", "validate", "--log-level", "warn", "-c"]).arg(&file);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(i32::from(!is_valid)), "{hook}: {said}");
    }
}
