//! Tokens that have expired by most clocks: some instance may accept them all the same.

use serde_json::{Value, json};

use crate::api::{admin_keys, post, reason, revoke};
use crate::ledger::support::RedisServer;
use crate::support::clock::Clock;
use crate::support::doorward::Doorward;
use crate::support::grpc::Checks;
use crate::support::tokens::{Tokens, now};
use crate::support::{TempDir, eventually};

const HOUR: i64 = 3_600;

/// Leases are short, so that receipts are soon certain.
fn config(tokens: &Tokens, redis: &RedisServer, leeway: &str) -> String {
    let config = tokens.config(&format!(
        "revocation: {{store: redis, max_staleness: 5s, redis: {{url: \"{}\"}}}}\n\
         limits: {{http_timeout: 60s, receipt_timeout: 50s}}\n{}",
        redis.url(),
        admin_keys()
    ));
    config.replace("audiences:", &format!("leeway: {leeway}, audiences:"))
}

/// An instance whose clock is off from its start.
async fn off_by(offset: &str, config: &str) -> (Doorward, Clock) {
    let clock = Clock::at(offset);
    let doorward = Doorward::launch_by(clock.doorward(), TempDir::new(), config).await;
    doorward.ready().await;
    (doorward, clock)
}

async fn confirmed(doorward: &Doorward, body: Value) {
    let reply = post(doorward, "/v1/revocations?wait=all&timeout=50s", &body).await;
    assert!(reply.status == 201 && reply.body["confirmed"] == true && reply.body["position"].is_string(), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_holds_where_the_token_is_alive_by_another_clock() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let writer = Doorward::start(&config(&tokens, &redis, "1s")).await;
    let (behind, _clock) = off_by("-10h", &config(&tokens, &redis, "1s")).await;
    let expired = |ago: i64| tokens.with(json!({"sid": null, "iat": now() - 12 * HOUR, "exp": now() - ago}));
    let checks = Checks::connect(&behind.check).await;
    let (long_ago, also, recent) = (expired(5 * HOUR), expired(5 * HOUR), expired(600));
    for token in [&long_ago, &also] {
        assert_eq!(reason(&checks, token).await, "ok");
    }
    confirmed(&writer, json!({"kind": "token", "token": long_ago})).await;
    assert_eq!(reason(&checks, &long_ago).await, "revoked");
    assert_eq!(writer.post("/logout", &also).await.0, 204);
    eventually("it is refused", async || reason(&checks, &also).await == "signed_out").await;
    // An instance that starts later, with a clock that is behind or with a longer leeway.
    confirmed(&writer, json!({"kind": "token", "token": recent})).await;
    let moments = expired(5);
    assert_eq!(writer.post("/logout", &moments).await.0, 204);
    let (later, _clock) = off_by("-1h", &config(&tokens, &redis, "1s")).await;
    assert_eq!(reason(&Checks::connect(&later.check).await, &recent).await, "revoked");
    let patient = Doorward::start(&config(&tokens, &redis, "10m")).await;
    assert_eq!(reason(&Checks::connect(&patient.check).await, &moments).await, "signed_out");
    // A store that was emptied knows no leeway of anybody.
    redis.cli(&["FLUSHALL"]);
    writer.logs("revocation store is complete again").await;
    let token = tokens.with(json!({"iat": now() - 600, "exp": now() - 60}));
    let checks = Checks::connect(&patient.check).await;
    eventually("its view is complete again, too", async || reason(&checks, &token).await == "ok").await;
    confirmed(&writer, json!({"kind": "token", "token": token})).await;
    assert_eq!(reason(&checks, &token).await, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_put_back() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = config(&tokens, &redis, "1s");
    let writer = Doorward::start(&config).await;
    let end = now() + 8;
    let token = tokens.with(json!({"iat": now() - HOUR, "exp": end}));
    let reply = revoke(&writer, &json!({"kind": "token", "token": token})).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let checks = Checks::connect(&writer.check).await;
    assert_eq!(reason(&checks, &token).await, "revoked");
    eventually("it expired a while ago", async || now() > end + 4).await;
    redis.cli(&["FLUSHALL"]);
    writer.logs("revocation store is complete again").await;
    let (behind, _clock) = off_by("-1h", &config).await;
    assert_eq!(reason(&Checks::connect(&behind.check).await, &token).await, "revoked");
}
