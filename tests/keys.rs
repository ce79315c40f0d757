//! Keys behind a URL: rotation, outage, made-up key ids.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::Tokens;

fn both(first: &Tokens, second: &Tokens) -> Value {
    let keys = [first, second].map(|tokens| tokens.issuer.jwks()["keys"][0].clone());
    json!({ "keys": keys })
}

fn config(server: &JwksServer, more: &str) -> String {
    format!(
        "revocation: {{store: embedded}}\nissuers:\n  - {{name: dev, issuer: \"{}\", audiences: [demo], keys: {{jwks_url: \"{}\"{more}}}}}\n",
        doorward::dev::ISSUER,
        server.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_refuses_no_token() {
    let (old, new) = (Tokens::new(), Tokens::new());
    let server = JwksServer::start(old.issuer.jwks()).await;
    let doorward = Doorward::start(&config(&server, "")).await;
    let checks = Checks::connect(&doorward.check).await;
    assert!(checks.check(get("/").token(&old.of("alice"))).await.allowed());
    server.publish(&both(&old, &new));
    // Many clients come with new tokens at once, before any refresh was due.
    let requests = (0..50).map(|n| checks.check(get("/").token(&new.of(&format!("user-{n}")))));
    for verdict in join_all(requests).await {
        assert!(verdict.allowed(), "{verdict:?}");
    }
    assert!(checks.check(get("/").token(&old.of("alice"))).await.allowed());
    assert_eq!(server.fetches(), 2, "one at the start, one for the new key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_waited_for_by_a_rule_on_trial() {
    let (old, new) = (Tokens::new(), Tokens::new());
    let server = JwksServer::start(old.issuer.jwks()).await;
    let trial = "rules: [{name: trial, match: {path_prefix: /}, enforce: false}]\n";
    let doorward = Doorward::start(&format!("{}{trial}", config(&server, ""))).await;
    let checks = Checks::connect(&doorward.check).await;
    server.publish(&both(&old, &new));
    let verdict = checks.check(get("/").token(&new.of("alice"))).await;
    assert_eq!((verdict.reason(), &*verdict.headers["x-user-id"]), ("ok", "alice"));
}

/// For a key that may be new, a final refusal would make the client discard a valid token.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_missing_after_a_failed_fetch_may_be_new() {
    let (old, new) = (Tokens::new(), Tokens::new());
    let server = JwksServer::start(old.issuer.jwks()).await;
    let doorward = Doorward::start(&config(&server, ", cooldown: 1s")).await;
    let checks = Checks::connect(&doorward.check).await;
    let reason = async || checks.check(get("/").token(&new.of("alice"))).await.reason().to_owned();

    server.answer(500, "not now");
    assert_eq!(
        [reason().await, reason().await],
        ["keys_unavailable", "keys_unavailable"],
        "asked, and within the cooldown"
    );
    assert!(checks.check(get("/").token(&old.of("alice"))).await.allowed());
    server.publish(&both(&old, &new));
    eventually("the new key is known", || async { reason().await == "ok" }).await;

    // Slower than a request may wait.
    let held = server.hold().await;
    let late = Tokens::new();
    eventually("the provider is asked again", || async {
        checks.check(get("/").token(&late.of("alice"))).await.reason() == "keys_unavailable"
    })
    .await;
    drop(held);
    eventually("the provider has told", || async {
        checks.check(get("/").token(&late.of("alice"))).await.reason() == "unknown_key"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_not_fit_are_counted_even_if_no_other_is_there() {
    let server = JwksServer::start(&json!({"keys": [{"kty": "oct", "k": "c2VjcmV0"}]})).await;
    let doorward = Doorward::launch(&config(&server, "")).await;
    eventually("it is counted", || async {
        doorward.metric("doorward_jwks_unfit_keys{cause=\"secret\",issuer=\"dev\"}").await == Some(1.0)
    })
    .await;
    doorward.logs("left out: secret").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn made_up_key_ids_cost_one_fetch() {
    let (tokens, stranger) = (Tokens::new(), Tokens::new());
    let server = JwksServer::start(tokens.issuer.jwks()).await;
    let doorward = Doorward::start(&config(&server, "")).await;
    let checks = Checks::connect(&doorward.check).await;
    let made_up = |n: usize| {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": format!("made-up-{n}")}).to_string();
        stranger.issuer.sign_raw(&header, Tokens::claims("mallory").to_string().as_bytes()).unwrap()
    };
    let requests = (0..200).map(|n| checks.check(get("/").token(&made_up(n))));
    for verdict in join_all(requests).await {
        assert_eq!(verdict.reason(), "unknown_key");
    }
    assert!(checks.check(get("/").token(&tokens.of("alice"))).await.allowed());
    assert!(server.fetches() <= 2, "{} fetches", server.fetches());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_kept_while_the_provider_is_down_and_missing_ones_refuse_their_issuer_only() {
    let (up, down) = (Tokens::new(), Tokens::new());
    let server = JwksServer::start(up.issuer.jwks()).await;
    let broken = JwksServer::start(down.issuer.jwks()).await;
    broken.answer(500, "no");
    let second = format!(
        "  - {{name: second, issuer: \"https://second.test\", audiences: any, keys: {{jwks_url: \"{}\"}}}}\n",
        broken.url()
    );
    let doorward = Doorward::start(&format!("{}{second}", config(&server, ", refresh: 1s"))).await;
    let checks = Checks::connect(&doorward.check).await;
    assert!(checks.check(get("/").token(&up.of("alice"))).await.allowed());
    let other = down.with(json!({"iss": "https://second.test"}));
    let verdict = checks.check(get("/").token(&other)).await;
    assert_eq!((verdict.status, verdict.reason()), (503, "keys_unavailable"));

    server.answer(200, "<html>not today</html>");
    let before = server.fetches();
    eventually("the provider was asked again", || async { server.fetches() > before }).await;
    assert!(checks.check(get("/").token(&up.of("alice"))).await.allowed(), "stale keys are kept");

    broken.publish(down.issuer.jwks());
    eventually("the second issuer works", || async { checks.check(get("/").token(&other)).await.allowed() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_left_the_set_is_no_longer_accepted() {
    let (old, new) = (Tokens::new(), Tokens::new());
    let server = JwksServer::start(&both(&old, &new)).await;
    let doorward = Doorward::start(&config(&server, ", refresh: 1s")).await;
    let checks = Checks::connect(&doorward.check).await;
    let token = old.of("alice");
    assert!(checks.check(get("/").token(&token)).await.allowed());
    server.publish(new.issuer.jwks());
    eventually("the withdrawn key refuses", || async {
        checks.check(get("/").token(&token)).await.reason() == "unknown_key"
    })
    .await;
    assert!(checks.check(get("/").token(&new.of("alice"))).await.allowed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_is_read_again_when_it_changes() {
    let (old, new) = (Tokens::new(), Tokens::new());
    let dir = crate::support::TempDir::new();
    std::fs::write(dir.path().join("jwks.json"), old.issuer.jwks().to_string()).unwrap();
    let config = format!(
        "revocation: {{store: embedded}}\nissuers:\n  - {{name: dev, issuer: \"{}\", audiences: [demo], keys: {{jwks_file: jwks.json}}}}\n",
        doorward::dev::ISSUER
    );
    let doorward = Doorward::launch_in(dir, &config).await;
    doorward.ready().await;
    let checks = Checks::connect(&doorward.check).await;
    assert!(checks.check(get("/").token(&old.of("alice"))).await.allowed());
    // As a Secret's mount changes: another file by a rename.
    let next = doorward.dir.path().join("next.json");
    std::fs::write(&next, new.issuer.jwks().to_string()).unwrap();
    std::fs::rename(&next, doorward.dir.path().join("jwks.json")).unwrap();
    eventually("the new key is in force", || async { checks.check(get("/").token(&new.of("alice"))).await.allowed() })
        .await;
    eventually("the old one is not", || async { !checks.check(get("/").token(&old.of("alice"))).await.allowed() })
        .await;
}

/// Emptying a file is how its keys are withdrawn: nothing else is in force then.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_is_emptied_withdraws_its_keys() {
    let tokens = Tokens::new();
    let dir = crate::support::TempDir::new();
    let file = dir.path().join("jwks.json");
    std::fs::write(&file, tokens.issuer.jwks().to_string()).unwrap();
    let config = format!(
        "revocation: {{store: embedded}}\nissuers:\n  - {{name: dev, issuer: \"{}\", audiences: [demo], keys: {{jwks_file: jwks.json}}}}\n",
        doorward::dev::ISSUER
    );
    let doorward = Doorward::launch_in(dir, &config).await;
    doorward.ready().await;
    let checks = Checks::connect(&doorward.check).await;
    let token = tokens.of("alice");
    assert!(checks.check(get("/").token(&token)).await.allowed());
    // Broken is not empty: an unreadable file changes nothing.
    std::fs::write(&file, "{\"keys\":").unwrap();
    eventually("the broken file was noticed", || async { doorward.logged("keys not refreshed") }).await;
    assert!(checks.check(get("/").token(&token)).await.allowed());
    std::fs::write(&file, r#"{"keys":[]}"#).unwrap();
    eventually("the key is withdrawn", || async {
        checks.check(get("/").token(&token)).await.reason() == "unknown_key"
    })
    .await;
    std::fs::write(&file, tokens.issuer.jwks().to_string()).unwrap();
    eventually("it is back", || async { checks.check(get("/").token(&token)).await.allowed() }).await;
}
