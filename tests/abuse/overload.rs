//! More decisions than can wait: the rest is refused at once, and no caller waits beyond its deadline.

use std::time::{Duration, Instant};

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::wire::{DATA, END_HEADERS, HEADERS, check_head, data, frame, greet, literal, message};
use crate::support::authorization_server::AuthorizationServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Ask, Checks, Verdict, get, verdict};
use crate::support::proxy::Proxy;
use crate::support::tokens::Tokens;
use serde_json::json;

/// A check by a caller that names a deadline and nevertheless waits longer.
async fn ask_by(address: &str, timeout: &str, ask: Ask) -> Verdict {
    let mut stream = greet(address, &[]).await;
    let mut head = check_head();
    literal(&mut head, "grpc-timeout", timeout);
    let bytes = message(&ask.message().encode_to_vec());
    stream.write_all(&[frame(HEADERS, END_HEADERS, 1, &head), data(1, &bytes, true)].concat()).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == DATA && !payload.is_empty() {
            return verdict(Message::decode(&payload[5..]).unwrap());
        }
    }
}

/// Asks until a decision has waited for its deadline of some seconds; a refused request is sent again.
async fn wait_by(address: String, timeout: &str, ask: Ask) -> Verdict {
    loop {
        let began = Instant::now();
        let verdict = ask_by(&address, timeout, ask.clone()).await;
        if began.elapsed() > Duration::from_secs(1) {
            return verdict;
        }
    }
}

/// An issuer whose introspection is slow: four decisions may wait, the others are refused within a moment.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_that_wait_are_refused_at_once() {
    let (tokens, server) = (Tokens::new(), AuthorizationServer::start().await);
    let settings = server.settings(", timeout: 20s, cache: 0s");
    let config = tokens.config("limits: {waiting_decisions: 4, decision_timeout: 20s}\nrules: [{name: public, match: {path_prefix: /public}, access: public}, {name: shadow, match: {path_prefix: /shadow}, enforce: false}]\n");
    let doorward = Doorward::start(&config.replace("keys: {jwks", &format!("{settings}, keys: {{jwks"))).await;
    let checks = Checks::connect(&doorward.check).await;
    server.says("opaque", &AuthorizationServer::active("alice"));
    assert!(checks.check(get("/").token("opaque")).await.allowed());
    server.takes(Duration::from_secs(30));
    let began = Instant::now();
    let mut waiting = JoinSet::new();
    for n in 0..4 {
        let (check, ask) = (doorward.check.clone(), get("/").token(&format!("opaque-{n}")));
        waiting.spawn(async move { wait_by(check, "5S", ask).await });
    }
    let crowded = "doorward_degraded_total{control=\"concurrency\",fallback=\"refuse\"}";
    eventually("four wait", || async {
        let before = doorward.metric(crowded).await;
        let verdict = ask_by(&doorward.check, "50m", get("/").token("opaque")).await;
        assert_eq!((verdict.status, verdict.reason()), (503, "introspection_unavailable"));
        doorward.metric(crowded).await > before
    })
    .await;
    let mut quick = Vec::new();
    // Well within the five seconds for which the four wait, on a busy machine as well.
    while quick.is_empty() || quick.len() < 200 && began.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        let verdict = checks.check(get("/").token("opaque")).await;
        quick.push(asked.elapsed());
        assert_eq!((verdict.status, verdict.reason()), (503, "introspection_unavailable"));
        assert_eq!(verdict.headers["retry-after"], "1");
    }
    assert!(checks.check(get("/public")).await.allowed(), "who need not wait is decided");
    assert!(checks.check(get("/").token(&tokens.of("bob"))).await.allowed(), "and whose token is no question");
    assert!(checks.check(get("/shadow").token("opaque")).await.allowed(), "a shadow rule refuses nobody");
    while let Some(done) = waiting.join_next().await {
        let verdict = done.unwrap();
        assert_eq!((verdict.status, verdict.reason()), (503, "introspection_unavailable"));
    }
    let gave_up = began.elapsed();
    assert!(gave_up < Duration::from_secs(19), "for the caller's 5 s, not for our 20: {gave_up:?}");
    quick.sort();
    eprintln!(
        "overload: {} refusals while 4 wait: p50 {:?}, p99 {:?} with gRPC both ways; the four gave up after {gave_up:.1?}, for the caller's 5 s",
        quick.len(),
        quick[quick.len() / 2],
        quick[quick.len() * 99 / 100]
    );
}

/// A provider of keys that hangs does not affect requests with known keys, nor the store.
#[tokio::test(flavor = "multi_thread")]
async fn too_many_decisions_waiting_for_keys_are_refused() {
    let tokens = Tokens::new();
    let provider = crate::support::jwks_server::JwksServer::start(tokens.issuer.jwks()).await;
    let proxy = Proxy::start(provider.address.port());
    let jwks = format!("http://127.0.0.1:{}/jwks", proxy.port);
    let doorward = Doorward::start(&format!(
        "revocation: {{store: embedded}}\nissuers: [{{name: dev, issuer: \"{}\", audiences: [{}], keys: {{jwks_url: \"{jwks}\", timeout: 30s, cooldown: 1s}}}}]\nlimits: {{waiting_decisions: 4, decision_timeout: 20s}}\nrules: [{{name: logout, match: {{path: /logout, methods: [POST]}}, access: sign_out, sign_out: {{scope: token, then: respond}}}}]\n",
        doorward::dev::ISSUER,
        doorward::dev::AUDIENCE
    ))
    .await;
    let checks = Checks::connect(&doorward.check).await;
    proxy.stall();
    let made_up = || {
        let header = json!({"alg": "ES256", "kid": format!("{:x}", rand::random::<u64>())}).to_string();
        let token = tokens.issuer.sign_raw(&header, Tokens::claims("alice").to_string().as_bytes()).unwrap();
        get("/").token(&token)
    };
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let (check, ask) = (doorward.check.clone(), made_up());
        waiting.spawn(async move { wait_by(check, "5S", ask).await });
    }
    let refused = async || {
        let series = "doorward_degraded_total{control=\"concurrency\",fallback=\"refuse\"}";
        doorward.metric(series).await.unwrap_or_default()
    };
    eventually("four wait", || async {
        let verdict = ask_by(&doorward.check, "50m", made_up()).await;
        assert_eq!(verdict.reason(), "keys_unavailable");
        refused().await > 0.0
    })
    .await;
    let before = refused().await;
    for _ in 0..50 {
        let verdict = ask_by(&doorward.check, "50m", made_up()).await;
        assert_eq!(verdict.reason(), "keys_unavailable");
        assert!(checks.check(get("/").token(&tokens.of("alice"))).await.allowed(), "known keys");
    }
    assert!(refused().await - before >= 40.0, "{before}");
    let ask = crate::support::grpc::ask("POST", "/logout").token(&tokens.of("bob"));
    assert_eq!(checks.check(ask).await.status, 204, "the store is another matter");
    while let Some(done) = waiting.join_next().await {
        assert_eq!(done.unwrap().reason(), "keys_unavailable");
    }
}

/// Work without a waiting caller is not begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_has_passed_is_not_worked_for() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("")).await;
    for timeout in ["0n", "1n", "1u", "0S"] {
        let verdict = ask_by(&doorward.check, timeout, get("/").token(&tokens.of("alice"))).await;
        assert_eq!((verdict.status, verdict.reason()), (503, "store_unavailable"), "{timeout}");
    }
    for timeout in ["10S", "99999999H", "", "1", "x", "-1S", "1000000000S"] {
        let verdict = ask_by(&doorward.check, timeout, get("/").token(&tokens.of("alice"))).await;
        assert!(verdict.allowed(), "{timeout}: {verdict:?}");
    }
    let passed = doorward.metric("doorward_degraded_total{control=\"deadline\",fallback=\"refuse\"}").await;
    assert_eq!(passed, Some(4.0));
}
