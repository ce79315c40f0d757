//! Leases of instances that differ, and the clock by which they end.

use serde_json::{Value, json};

use crate::api::{admin_keys, post, reason};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::proxy::Proxy;
use crate::support::tokens::{Tokens, now};

fn config(tokens: &Tokens, port: u16, max_staleness: &str) -> String {
    tokens.config(&format!(
        "revocation: {{store: redis, max_staleness: {max_staleness}, redis: {{url: \"redis://127.0.0.1:{port}\"}}}}\n\
         limits: {{http_timeout: 60s, receipt_timeout: 50s}}\n{}",
        admin_keys()
    ))
}

async fn confirm(at: &Doorward, session: &str, timeout: &str) -> (u16, Value) {
    let path = format!("/v1/revocations?wait=all&timeout={timeout}");
    let reply = post(at, &path, &json!({"kind": "session", "id": session})).await;
    (reply.status, reply.body)
}

/// Puts another configuration of a running instance in force.
async fn reload(doorward: &Doorward, edit: impl Fn(String) -> String) {
    let reloads = async || doorward.metric("doorward_config_reloads_total{result=\"ok\"}").await.unwrap_or_default();
    let (before, file) = (reloads().await, doorward.dir.path().join("doorward.yaml"));
    let next = doorward.dir.path().join("next");
    std::fs::write(&next, edit(std::fs::read_to_string(&file).unwrap())).unwrap();
    std::fs::rename(next, file).unwrap();
    eventually("the reload is in force", || async { reloads().await > before }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_does_not_lengthen_a_view_that_a_receipt_has_given_up() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    let one = Doorward::start(&config(&tokens, redis.port, "2s")).await;
    let away = Doorward::start(&config(&tokens, proxy.port, "2s")).await;
    assert_eq!(confirm(&one, "nobody", "45s").await.0, 201);
    let checks = Checks::connect(&away.check).await;
    let alice = tokens.of("alice");
    eventually("accepted", || async { reason(&checks, &alice).await == "ok" }).await;
    proxy.stall();
    let (status, body) = confirm(&one, "session-of-alice", "45s").await;
    assert_eq!((status, &body["instances"]), (201, &json!(1)), "{body}");
    assert_eq!(reason(&checks, &alice).await, "revocations_stale");
    reload(&away, |written| written.replace("max_staleness: 2s", "max_staleness: 10m")).await;
    assert_eq!(reason(&checks, &alice).await, "revocations_stale", "its lease was for two seconds");
    proxy.heal();
    eventually("it has read on", || async { reason(&checks, &alice).await == "revoked" }).await;
    // And its lease is one of the new length now.
    let bob = tokens.of("bob");
    proxy.stall();
    let (status, body) = confirm(&one, "session-of-bob", "8s").await;
    assert_eq!((status, &body["instances"], &body["applied"]), (202, &json!(2), &json!(1)), "{body}");
    assert_eq!(reason(&checks, &bob).await, "ok");
}

/// Two instances allow a view of two seconds, and one that is cut off a view of twelve.
struct Differing {
    tokens: Tokens,
    redis: RedisServer,
    proxy: Proxy,
    one: Doorward,
    checks: Checks,
    _away: Doorward,
}

impl Differing {
    async fn cut_off() -> Self {
        let (tokens, redis) = (Tokens::new(), RedisServer::start_with_clock(&[]).await);
        let proxy = Proxy::start(redis.port);
        let one = Doorward::start(&config(&tokens, redis.port, "2s")).await;
        let away = Doorward::start(&config(&tokens, proxy.port, "12s")).await;
        assert_eq!(confirm(&one, "nobody", "45s").await.0, 201);
        let checks = Checks::connect(&away.check).await;
        assert_eq!(reason(&checks, &tokens.of("alice")).await, "ok");
        proxy.stall();
        Self { tokens, redis, proxy, one, checks, _away: away }
    }

    /// Neither the one that was there nor one that starts now confirms while the one that is cut off allows.
    async fn confirmed_is_refused(&self) {
        let later = Doorward::start(&config(&self.tokens, self.redis.port, "2s")).await;
        let alice = self.tokens.of("alice");
        for (at, timeout) in [(&later, "1s"), (&self.one, "1s"), (&later, "45s"), (&self.one, "45s")] {
            let (status, body) = confirm(at, "session-of-alice", timeout).await;
            let allowed = reason(&self.checks, &alice).await == "ok";
            assert!(!(allowed && status == 201), "confirmed, and the other instance allows it: {body}");
            assert!(status == 201 || timeout == "1s", "{body}");
        }
        assert_eq!(reason(&self.checks, &alice).await, "revocations_stale");
        self.proxy.heal();
        eventually("it has read on", || async { reason(&self.checks, &alice).await == "revoked" }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_forgot_leases_is_waited_for_as_long_as_the_longest() {
    let fleet = Differing::cut_off().await;
    fleet.redis.cli(&["FLUSHALL"]);
    fleet.one.logs("revocation log lost entries").await;
    fleet.confirmed_is_refused().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_set_ends_no_lease_that_is_longer_than_the_others() {
    let fleet = Differing::cut_off().await;
    fleet.redis.step_clock("+70s");
    fleet.one.logs("the store's clock jumped").await;
    fleet.confirmed_is_refused().await;
}

/// The notes of a store that was started a day ahead, and the lease of an instance that ended meanwhile, lie a day ahead
/// of its clock when that is put right.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_began_a_day_ahead_is_certain_after_the_time_that_it_says() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start_with_clock(&[]).await);
    redis.step_clock("+1d");
    let config = config(&tokens, redis.port, "2s");
    let (one, gone) = (Doorward::start(&config).await, Doorward::start(&config).await);
    let (status, body) = confirm(&one, "ahead", "45s").await;
    assert_eq!((status, &body["instances"]), (201, &json!(2)), "{body}");
    gone.process.signal("KILL");
    redis.step_clock("+0");
    one.logs("the store's clock jumped").await;
    let until = |body: &Value| doorward::clock::parse_rfc3339(body["uncertain_until"].as_str()?);
    let (status, body) = confirm(&one, "right", "200ms").await;
    let first = until(&body).expect("it is uncertain");
    assert_eq!(status, 202, "{body}");
    assert!(first.since(doorward::clock::now()).as_secs() < 12, "the longest lease: {body}");
    // However often it is asked, it is the same instant.
    let (_, body) = confirm(&one, "right", "2s").await;
    if let Some(second) = until(&body) {
        assert!(second.since(first).as_millis() < 1_000, "{body}");
    }
    let (status, body) = confirm(&one, "right", "45s").await;
    assert_eq!((status, &body["instances"]), (201, &json!(1)), "{body}");
    let later = Doorward::start(&config).await;
    let (status, body) = confirm(&later, "later", "45s").await;
    assert_eq!((status, &body["instances"]), (201, &json!(2)), "{body}");
}

/// What an instance verified after it was cut off is covered by the receipt that waits for its lease, whether that was taken
/// by a clock of the store that was ahead or behind, and set since.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_by_a_clock_that_was_set_counts_as_one_that_lapsed() {
    for offset in ["+1d", "-1h"] {
        let (tokens, redis) = (Tokens::new(), RedisServer::start_with_clock(&[]).await);
        redis.step_clock(offset);
        let proxy = Proxy::start(redis.port);
        let one = Doorward::start(&config(&tokens, redis.port, "5s")).await;
        let away = Doorward::start(&config(&tokens, proxy.port, "5s")).await;
        let checks = Checks::connect(&away.check).await;
        assert_eq!(confirm(&one, "nobody", "50s").await.0, 201, "its lease is of this clock");
        let dated = |user: &str| tokens.with(json!({"sub": user, "sid": null, "iat": now() + 28, "exp": now() + 600}));
        proxy.stall();
        redis.step_clock("+0");
        let token = dated("alice");
        assert_eq!(reason(&checks, &token).await, "ok", "its view is not too old yet");
        // An instant is stamped once the step was noticed.
        let receipt = async || {
            let body = json!({"kind": "user", "id": "alice"});
            let reply = post(&one, "/v1/revocations?wait=all&timeout=45s", &body).await;
            assert!([201, 503].contains(&reply.status), "{reply:?}");
            reply.status == 201
        };
        eventually("it is confirmed", receipt).await;
        proxy.heal();
        eventually("it has read on", || async { reason(&checks, &tokens.of("bob")).await == "ok" }).await;
        let others = Checks::connect(&one.check).await;
        for checks in [&checks, &others] {
            assert_eq!(reason(checks, &token).await, "revoked", "{offset}");
        }
    }
}

/// The lease of an instance that ended while the store's clock was a day ahead lies in the future for a day. Receipts do
/// without the instance, and need not cover what it verified once the longest lease and the leeway are over.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_lies_ahead_costs_no_lockout_for_good() {
    const LEEWAY: i64 = 8;
    let (tokens, redis) = (Tokens::new(), RedisServer::start_with_clock(&[]).await);
    let config = config(&tokens, redis.port, "2s").replace("audiences:", &format!("leeway: {LEEWAY}s, audiences:"));
    redis.step_clock("+1d");
    let (one, gone) = (Doorward::start(&config).await, Doorward::start(&config).await);
    assert_eq!(confirm(&one, "nobody", "45s").await.1["instances"], json!(2));
    gone.process.signal("KILL");
    let reports = || redis.cli(&["--scan", "--pattern", "doorward:{r}:instance:*"]).lines().count();
    eventually("its report has expired", || async { reports() == 1 }).await;
    redis.step_clock("+0");
    one.logs("the store's clock jumped").await;
    assert_eq!(redis.cli(&["ZCARD", "doorward:{r}:instances"]), "2", "its lease is there");
    let stamped = async || {
        let before = now();
        let reply = post(&one, "/v1/revocations?wait=all&timeout=45s", &json!({"kind": "user", "id": "alice"})).await;
        let at = reply.body["at"].as_str().and_then(doorward::clock::parse_rfc3339);
        (reply.status == 201).then(|| at.unwrap().as_secs() - before)
    };
    let after = async || stamped().await.is_some_and(|after| after < LEEWAY);
    eventually("an instant does not cover the leeway", after).await;
    assert_eq!(redis.cli(&["ZCARD", "doorward:{r}:instances"]), "2", "its lease is still there");
}
