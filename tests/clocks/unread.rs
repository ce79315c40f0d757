//! The clock of a store that was never read.

use serde_json::json;

use crate::api::{admin_keys, post, reason, revoke};
use crate::ledger::support::RedisServer;
use crate::support::clock::Clock;
use crate::support::doorward::Doorward;
use crate::support::grpc::Checks;
use crate::support::proxy::Proxy;
use crate::support::tokens::Tokens;
use crate::support::{TempDir, eventually};

fn config(tokens: &Tokens, port: u16) -> String {
    let redis = format!("redis: {{url: \"redis://127.0.0.1:{port}\"}}");
    tokens.config(&format!("revocation: {{store: redis, {redis}}}\n{}", admin_keys()))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_watermark_and_no_expiry_before_the_clock_was_read() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    proxy.refuse();
    let steady = Doorward::start(&config(&tokens, redis.port)).await;
    let clock = Clock::at("+1h");
    let ahead = Doorward::launch_by(clock.doorward(), TempDir::new(), &config(&tokens, proxy.port)).await;
    let reply = revoke(&ahead, &json!({"kind": "user", "id": "alice"})).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert_eq!(reply.body["reason"], "clock_skew", "{reply:?}");
    assert!(ahead.metric("doorward_clock_skew_seconds{of=\"store\"}").await.is_none(), "it is not known");
    // By the clock that is ahead these have expired.
    let (bob, carol) = (tokens.of("bob"), tokens.of("carol"));
    let reply = post(&ahead, "/v1/revocations?wait=all&timeout=1s", &json!({"kind": "token", "token": bob})).await;
    assert_eq!(reply.status, 503, "what is not stored is not confirmed: {reply:?}");
    assert_eq!(ahead.post("/logout", &carol).await.0, 503);
    let checks = Checks::connect(&steady.check).await;
    for token in [&bob, &carol] {
        assert_eq!(reason(&checks, token).await, "ok");
    }
    proxy.heal();
    for token in [&bob, &carol] {
        eventually("it is stored", || async { reason(&checks, token).await != "ok" }).await;
    }
}

/// Such a store is not followed; revocations at the instance are written to it when it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_a_store_that_is_not_fit_is_read() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&["--maxmemory", "100mb"]).await);
    let steady = Doorward::start(&config(&tokens, redis.port)).await;
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let [behind, ahead] = ["-1h", "+1h"].map(Clock::at);
    let launch = async |clock: &Clock| {
        let instance = Doorward::launch_by(clock.doorward(), TempDir::new(), &config(&tokens, redis.port)).await;
        eventually("it says why it is not ready", || async { instance.get("/readyz").await.1.contains("may_evict") })
            .await;
        instance
    };
    let reply = revoke(&launch(&behind).await, &json!({"kind": "user", "id": "alice"})).await;
    assert_eq!((reply.status, &reply.body["reason"]), (503, &json!("clock_skew")), "{reply:?}");
    let bob = tokens.of("bob");
    let starting = launch(&ahead).await;
    let reply = revoke(&starting, &json!({"kind": "token", "token": bob})).await;
    assert_eq!((reply.status, &reply.body["reason"]), (503, &json!("unavailable")), "{reply:?}");
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let checks = Checks::connect(&steady.check).await;
    eventually("the other instance refuses it", || async { reason(&checks, &bob).await == "revoked" }).await;
}
