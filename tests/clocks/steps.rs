//! Wall clocks that step: nothing that was refused is allowed again.

use std::time::Duration;

use serde_json::json;

use crate::api::{admin_keys, post, reason, revoke};
use crate::ledger::support::RedisServer;
use crate::support::clock::Clock;
use crate::support::doorward::Doorward;
use crate::support::grpc::Checks;
use crate::support::proxy::Proxy;
use crate::support::tokens::{Tokens, now};
use crate::support::{PATIENCE, TempDir, eventually};

/// Longer than the time between two purges.
const A_WHILE: Duration = Duration::from_secs(12);

/// Revocations and their tokens: by token, session and user.
fn revoked(tokens: &Tokens) -> Vec<(serde_json::Value, String)> {
    let one = |number: usize| {
        let user = format!("user-{number}");
        let (jti, session) = (format!("jti-{number}"), format!("session-of-{user}"));
        let token = tokens.with(json!({"sub": user, "jti": jti, "sid": session}));
        let body = match number % 3 {
            0 => json!({"kind": "token", "id": jti, "expires_at": now() + 600}),
            1 => json!({"kind": "session", "id": session}),
            _ => json!({"kind": "user", "id": user}),
        };
        (body, token)
    };
    (0..20).map(one).collect()
}

/// The lifetime is short, so that all of it is over while the clock is ahead.
fn short(config: String) -> String {
    config.replace("audiences:", "max_lifetime: 15m, audiences:")
}

async fn all_refused(doorward: &Doorward, revoked: &[(serde_json::Value, String)]) {
    let checks = Checks::connect(&doorward.check).await;
    for (body, token) in revoked {
        assert_eq!(reason(&checks, token).await, "revoked", "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_steps_forward_and_back_takes_nothing_away() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let shared = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys());
    let file = format!("revocation: {{store: embedded, embedded: {{path: DIR/revocations.redb}}}}\n{}", admin_keys());
    let (shared, file) = (short(tokens.config(&shared)), short(tokens.config(&file)));
    let steady = Doorward::start(&shared).await;
    let (stepping, clock) = Doorward::start_with_clock(&shared).await;
    let mut alone = Doorward::launch_by(clock.doorward(), TempDir::new(), &file).await;
    alone.ready().await;

    let revoked = revoked(&tokens);
    let checks = Checks::connect(&stepping.check).await;
    for (body, token) in &revoked {
        assert_eq!(revoke(&steady, body).await.status, 201);
        assert_eq!(revoke(&alone, body).await.status, 201);
        eventually("it is revoked", || async { reason(&checks, token).await == "revoked" }).await;
    }
    for offset in ["+20m", "+26h"] {
        clock.step(offset);
        eventually("the jump is noticed", || async { stepping.logged("clock jumped") }).await;
        tokio::time::sleep(A_WHILE).await;
        clock.step("+0");
        all_refused(&stepping, &revoked).await;
        all_refused(&alone, &revoked).await;
    }
    assert_eq!(alone.stop().await, Some(0));
    let dir = std::mem::replace(&mut alone.dir, TempDir::new());
    let alone = Doorward::launch_in(dir, &file).await;
    alone.ready().await;
    all_refused(&alone, &revoked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_starts_with_a_clock_ahead_forgets_nothing() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let shared = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys());
    let file = format!("revocation: {{store: embedded, embedded: {{path: DIR/revocations.redb}}}}\n{}", admin_keys());
    let (shared, file) = (short(tokens.config(&shared)), short(tokens.config(&file)));
    let (first, mut alone) = (Doorward::start(&shared).await, Doorward::start(&file).await);
    let revoked = revoked(&tokens);
    for (body, _) in &revoked {
        assert_eq!(revoke(&first, body).await.status, 201);
        assert_eq!(revoke(&alone, body).await.status, 201);
    }
    assert_eq!(alone.stop().await, Some(0));

    let clock = Clock::at("+1h");
    let late = Doorward::launch_by(clock.doorward(), TempDir::new(), &shared).await;
    late.ready().await;
    let dir = std::mem::replace(&mut alone.dir, TempDir::new());
    let alone = Doorward::launch_by(clock.doorward(), dir, &file).await;
    alone.ready().await;
    tokio::time::sleep(A_WHILE).await;
    clock.step("+0");
    all_refused(&late, &revoked).await;
    all_refused(&alone, &revoked).await;
}

/// By the clock of an instance that is ahead, a sign-out is of a token that has expired.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_ahead_stores_the_sign_out_of_a_live_token() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config =
        tokens.config(&format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys()));
    let steady = Doorward::start(&config).await;
    let (ahead, clock) = Doorward::start_with_clock(&config).await;
    clock.step("+1h");
    eventually("the jump is noticed", || async { ahead.logged("clock jumped") }).await;
    let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
    assert_eq!(ahead.post("/logout", &alice).await.0, 204);
    let reply = post(&ahead, "/v1/revocations", &json!({"kind": "token", "token": bob})).await;
    assert!(reply.status == 201 && reply.body["position"].is_string(), "{reply:?}");
    let checks = Checks::connect(&steady.check).await;
    for token in [alice, bob] {
        let refused = || async { ["signed_out", "revoked"].contains(&&*reason(&checks, &token).await) };
        eventually("the other instance refuses it", refused).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_does_not_rest_on_the_clock_of_redis() {
    const STALENESS: u64 = 8;
    let (tokens, redis) = (Tokens::new(), RedisServer::start_with_clock(&[]).await);
    let proxy = Proxy::start(redis.port);
    let config = |port: u16| {
        tokens.config(&format!(
            "revocation: {{store: redis, max_staleness: {STALENESS}s, redis: {{url: \"redis://127.0.0.1:{port}\"}}}}\n\
             limits: {{http_timeout: 60s, receipt_timeout: 50s}}\n{}",
            admin_keys()
        ))
    };
    let (one, away) = (Doorward::start(&config(redis.port)).await, Doorward::start(&config(proxy.port)).await);
    let confirm = async |user: &str, timeout: &str| {
        let path = format!("/v1/revocations?wait=all&timeout={timeout}");
        post(&one, &path, &json!({"kind": "session", "id": format!("session-of-{user}")})).await
    };
    // Once the store is not new any more, both confirm at once.
    assert_eq!(confirm("nobody", "40s").await.status, 201);
    let alice = tokens.of("alice");
    let checks = Checks::connect(&away.check).await;
    assert_eq!(reason(&checks, &alice).await, "ok");
    proxy.stall();
    redis.step_clock("+60s");
    let reply = confirm("alice", "1s").await;
    let allowed = reason(&checks, &alice).await == "ok";
    assert!(!(allowed && reply.status == 201), "confirmed, and the other instance allows it: {reply:?}");
    assert_eq!((reply.status, &reply.body["confirmed"]), (202, &json!(false)), "{reply:?}");
    assert!(reply.body["uncertain_until"].is_string(), "{reply:?}");
    // For as long as a lease may run, and no longer.
    let reply = confirm("alice", "45s").await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reason(&checks, &alice).await, "revocations_stale");
}

/// Ids from the future are followed by smaller ones, once the clock was corrected and the log was removed: progress
/// in the first log does not count for the second.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_does_not_rest_on_a_log_that_is_gone() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start_with_clock(&[]).await);
    let proxy = Proxy::start(redis.port);
    let config = |port: u16| {
        tokens.config(&format!(
            "revocation: {{store: redis, max_staleness: 8s, redis: {{url: \"redis://127.0.0.1:{port}\"}}}}\n\
             limits: {{http_timeout: 60s, receipt_timeout: 50s}}\n{}",
            admin_keys()
        ))
    };
    let (one, away) = (Doorward::start(&config(redis.port)).await, Doorward::start(&config(proxy.port)).await);
    let checks = Checks::connect(&away.check).await;
    let confirm = async |user: &str, timeout: &str| {
        let path = format!("/v1/revocations?wait=all&timeout={timeout}");
        post(&one, &path, &json!({"kind": "session", "id": format!("session-of-{user}")})).await
    };
    redis.step_clock("+20m");
    assert_eq!(confirm("nobody", "45s").await.status, 201, "both have read an id of the future");
    redis.step_clock("+0");
    assert_eq!(confirm("somebody", "45s").await.status, 201, "the clock has been stable again");
    // The one is cut off before it notices, the other time after it did.
    for (user, removed) in [("alice", true), ("bob", false)] {
        let token = tokens.of(user);
        // Its lease may have ended before it reached the store again.
        eventually("it decides", async || reason(&checks, &token).await == "ok").await;
        proxy.stall();
        if removed {
            redis.cli(&["DEL", "doorward:{r}:log"]);
            eventually("the other instance notices", || async { one.logged("revocation log lost entries") }).await;
        }
        let reply = confirm(user, "4s").await;
        let allowed = reason(&checks, &token).await == "ok";
        assert!(!(allowed && reply.status == 201), "confirmed, and the other instance allows it: {reply:?}");
        assert_eq!((reply.status, &reply.body["instances"], &reply.body["applied"]), (202, &json!(2), &json!(1)));
        proxy.heal();
        assert_eq!(confirm("anybody", "45s").await.status, 201, "it has read the new log");
    }
}

/// The mark of an instance that repaired, before the clock of Redis was set back by an hour.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_lies_ahead_does_not_keep_a_view_stale() {
    let redis = RedisServer::start(&[]).await;
    let instance = crate::ledger::support::Instance::start(&redis).await;
    let ahead = (now() + 3600) * 1000;
    redis.cli(&["ZADD", "doorward:{r}:repairing", &ahead.to_string(), "gone.00000000"]);
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    let began = std::time::Instant::now();
    eventually("the connection was lost", || async { instance.replica.stats().disconnects.get() > 0 }).await;
    eventually("the view is fresh", || async { instance.age().is_some_and(|age| age < Duration::from_secs(1)) }).await;
    assert!(began.elapsed() < 2 * PATIENCE, "as long as a mark is good for, and not for the hour");
}

/// Only the store's clock is wrong, by far more than a token's lifetime, in either direction.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_the_store_alone_takes_nothing_away() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start_with_clock(&[]).await);
    let config =
        tokens.config(&format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys()));
    let config = short(config);
    let first = Doorward::start(&config).await;
    let revoked = revoked(&tokens);
    for (body, _) in &revoked {
        assert_eq!(revoke(&first, body).await.status, 201);
    }
    for offset in ["+26h", "-26h"] {
        redis.step_clock(offset);
        eventually("the jump is noticed", || async { first.logged("the store's clock jumped") }).await;
        let during = Doorward::start(&config).await;
        // Revocations while it is wrong, of a kind that needs no watermark.
        let token = tokens.with(json!({"sub": "late", "sid": offset}));
        assert_eq!(revoke(&first, &json!({"kind": "session", "id": offset})).await.status, 201);
        tokio::time::sleep(A_WHILE).await;
        all_refused(&first, &revoked).await;
        all_refused(&during, &revoked).await;
        redis.step_clock("+0");
        let after = Doorward::start(&config).await;
        for instance in [&first, &during, &after] {
            all_refused(instance, &revoked).await;
            let checks = Checks::connect(&instance.check).await;
            eventually("it is refused", || async { reason(&checks, &token).await == "revoked" }).await;
        }
    }
}

/// An event is acknowledged, and its transmitter sends it no more.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_ahead_takes_no_event_for_too_old() {
    let (tokens, transmitter, redis) = (Tokens::new(), Tokens::new(), RedisServer::start(&[]).await);
    let revocation = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url());
    let signals = crate::event_sources::signals::section(&transmitter, "");
    let config = short(tokens.config(&format!("{revocation}{signals}")));
    let steady = Doorward::start(&config).await;
    let (ahead, clock) = Doorward::start_with_clock(&config).await;
    clock.step("+1h");
    let alice = tokens.of("alice");
    let subject = json!({"subject": {"format": "iss_sub", "iss": doorward::dev::ISSUER, "sub": "alice"}});
    let uri = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
    let claims = crate::event_sources::signals::claims(uri, subject, &json!({}));
    let set = crate::event_sources::sign(&transmitter, Some("secevent+jwt"), &claims);
    let sent = reqwest::Client::new().post(format!("http://{}/signals/events", ahead.http));
    let sent = sent.header("content-type", "application/secevent+jwt").body(set).send().await.unwrap();
    assert_eq!(sent.status(), 202);
    let checks = Checks::connect(&steady.check).await;
    eventually("the other instance refuses it", || async { reason(&checks, &alice).await == "revoked" }).await;
}

/// A process that began with a clock an hour ahead, and forgot by it what was revoked.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_for_long_does_not_end_the_tokens_that_are_issued_after_it() {
    let tokens = Tokens::new();
    let config = format!("revocation: {{store: embedded, embedded: {{path: DIR/revocations.redb}}}}\n{}", admin_keys());
    let config = tokens.config(&config).replace("audiences:", "max_lifetime: 10s, leeway: 1s, audiences:");
    let clock = Clock::at("+1h");
    let doorward = Doorward::launch_by(clock.doorward(), TempDir::new(), &config).await;
    doorward.ready().await;
    let checks = Checks::connect(&doorward.check).await;
    let issued = |at: i64| tokens.with(json!({"iat": at, "exp": at + 10}));
    let issued_at = now() + 3_600;
    let (stolen, user) = (issued(issued_at), json!({"kind": "user", "id": "alice"}));
    assert_eq!(revoke(&doorward, &user).await.status, 201);
    assert_ne!(reason(&checks, &stolen).await, "ok");
    let known = async || doorward.metric("doorward_revocations{kind=\"user\"}").await;
    assert_eq!(known().await, Some(1.0));
    eventually("it is forgotten", async || known().await == Some(0.0)).await;
    clock.step("+0");
    eventually("a new token is accepted", async || reason(&checks, &issued(now())).await == "ok").await;
    // The hour comes for the second time.
    tokio::time::sleep(A_WHILE).await;
    clock.step(&format!("+{}s", issued_at + 2 - now()));
    assert_eq!(reason(&checks, &stolen).await, "expired", "what was refused stays so");
}
