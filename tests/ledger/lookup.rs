//! Asking Redis for each decision: its own deadline, and a breaker when the store does not answer.

use std::time::{Duration, Instant};

use doorward::sources::ledger::RedisConfig;
use doorward::sources::replica::Operation;

use super::support::*;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, Verdict, get};
use crate::support::proxy::Proxy;
use crate::support::tokens::Tokens;

#[tokio::test]
async fn a_store_that_does_not_answer_costs_few_lookups_their_patience() {
    let redis = RedisServer::start(&[]).await;
    let proxy = Proxy::start(redis.port);
    let instance = Instance::launch(RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port)));
    instance.becomes_ready().await;
    instance.replica.revoke(vec![sign_out("j")]).await.unwrap();
    assert!(answered(&instance).await);
    let breaker_open = || instance.replica.stats().operations(Operation::Lookup, "breaker_open").get();
    let before = breaker_open();
    proxy.stall();
    let began = Instant::now();
    let mut refused_at_once = 0;
    for _ in 0..200 {
        let asked = Instant::now();
        let error = instance.replica.lookup(&[token("j")], None).await.unwrap_err();
        assert!(asked.elapsed() < PATIENCE / 4, "{error} after {:?}", asked.elapsed());
        refused_at_once += u32::from(error.label() == "breaker_open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(refused_at_once > 100, "{refused_at_once} of 200 in {:?}", began.elapsed());
    assert_eq!(breaker_open() - before, u64::from(refused_at_once));
    proxy.heal();
    proxy.cut();
    let healed = Instant::now();
    while instance.replica.lookup(&[token("j")], None).await.is_err() {
        assert!(healed.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("lookups answer again {:?} after the store does", healed.elapsed());
}

#[tokio::test]
async fn a_silently_lost_connection_fails_one_lookup_only() {
    let redis = RedisServer::start(&[]).await;
    let proxy = Proxy::start(redis.port);
    let instance = Instance::launch(RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port)));
    instance.becomes_ready().await;
    assert!(!answered(&instance).await);
    proxy.swallow();
    assert_eq!(instance.replica.lookup(&[token("j")], None).await.unwrap_err().label(), "timeout");
    eventually("another connection", || proxy.opened() > 3).await;
    let asked = Instant::now();
    while instance.replica.lookup(&[token("j")], None).await.is_err() {
        assert!(asked.elapsed() < PATIENCE);
    }
}

async fn check(checks: &Checks, path: &str, token: &str) -> (Verdict, Duration) {
    let asked = Instant::now();
    (checks.check(get(path).token(token)).await, asked.elapsed())
}

async fn refused_before_envoy_gives_up(checks: &Checks, path: &str, token: &str) {
    let mut late = 0;
    for _ in 0..40 {
        let (verdict, took) = check(checks, path, token).await;
        assert_eq!((verdict.status, verdict.reason()), (503, "store_unavailable"));
        late += u32::from(took > Duration::from_millis(200)); // Envoy's own timeout.
    }
    assert!(late < 20, "{late} of 40"); // A busy machine may hold up some.
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_has_its_own_bound_and_its_own_way_out() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    let config = tokens.config(&format!(
        "limits: {{lookup_timeout: 100ms}}\nrevocation: {{store: redis, redis: {{url: \"redis://127.0.0.1:{}\"}}}}\nrules:\n  \
         - {{name: strict, match: {{path_prefix: /strict}}, max_staleness: 1s}}\n  \
         - {{name: asks, match: {{path_prefix: /asks}}, max_staleness: 1s, on_stale: lookup}}\n  \
         - {{name: lenient, match: {{path_prefix: /lenient}}, max_staleness: 1s, on_stale: allow}}\n",
        proxy.port
    ));
    let doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    let (alice, bob) = (tokens.with(serde_json::json!({"jti": "of-alice"})), tokens.of("bob"));
    for path in ["/strict", "/asks", "/lenient", "/"] {
        crate::support::eventually(path, || async { check(&checks, path, &alice).await.0.allowed() }).await;
    }
    // The log cannot be read any more, and entries are not followed; keys can still be read.
    redis.cli(&["ACL", "SETUSER", "default", "-xread"]);
    redis.cli(&["SET", "doorward:{r}:dev:token:of-alice", "* signed_out", "EX", "600"]);
    crate::support::eventually("stale by the strict rule", || async {
        check(&checks, "/strict", &bob).await.0.reason() == "revocations_stale"
    })
    .await;
    // On a busy machine the last read that was allowed may end only now, and makes the view fresh once more.
    let asks = async |token: &str| check(&checks, "/asks", token).await.0.reason().to_owned();
    crate::support::eventually("the store is asked", || async { asks(&alice).await == "signed_out" }).await;
    crate::support::eventually("bob is let in", || async { asks(&bob).await == "ok" }).await;
    let stale = || async { check(&checks, "/lenient", &bob).await.0.headers.contains_key("x-doorward-stale") };
    crate::support::eventually("let in, and said so", stale).await;
    assert!(check(&checks, "/", &alice).await.0.allowed(), "its own bound, 30 s, has not passed");
    // And now the store does not answer at all.
    proxy.stall();
    refused_before_envoy_gives_up(&checks, "/asks", &bob).await;
    let metric = async |series: &str| doorward.metric(series).await.unwrap_or_default();
    assert!(metric("doorward_store_operations_total{operation=\"lookup\",result=\"breaker_open\"}").await > 5.0);
    assert!(metric("doorward_degraded_total{control=\"revocations\",fallback=\"lookup\"}").await > 40.0);
    proxy.heal();
    redis.cli(&["ACL", "SETUSER", "default", "+xread"]);
    crate::support::eventually("fresh", || async { check(&checks, "/strict", &bob).await.0.allowed() }).await;
    crate::support::eventually("asked", || async { check(&checks, "/asks", &bob).await.0.allowed() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_read_lookup_the_store_answers_or_the_request_is_refused() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let url = redis.url();
    let config = tokens.config(&format!(
        "limits: {{lookup_timeout: 100ms}}\nrevocation: {{store: redis, read: lookup, redis: {{url: \"{url}\"}}}}\n"
    ));
    let doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    let (alice, bob) = (tokens.with(serde_json::json!({"jti": "of-alice"})), tokens.of("bob"));
    let reason = async || check(&checks, "/", &alice).await.0.reason().to_owned();
    crate::support::eventually("accepted", || async { reason().await == "ok" }).await;
    redis.cli(&["SET", "doorward:{r}:dev:token:of-alice", "* revoked", "EX", "600"]);
    crate::support::eventually("revoked", || async {
        let reason = reason().await;
        assert_ne!(reason, "ok", "written to no log, and yet at once");
        reason == "revoked"
    })
    .await;
    redis.signal("-STOP");
    refused_before_envoy_gives_up(&checks, "/", &bob).await;
    redis.signal("-CONT");
    let thawed = Instant::now();
    crate::support::eventually("asked", || async { check(&checks, "/", &bob).await.0.allowed() }).await;
    println!("lookups answer again {:?} after the store does", thawed.elapsed());
}
