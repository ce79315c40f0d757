//! Receipts cover the leeway while an instance may have verified tokens whose lead no instance knows.

use std::time::Duration;

use serde_json::json;

use super::leads::{certain_config, confirmed, dated};
use super::unlearnt::send_event;
use crate::api::{post, reason};
use crate::event_sources::signals;
use crate::ledger::support::RedisServer;
use crate::support::clock::Clock;
use crate::support::doorward::Doorward;
use crate::support::grpc::Checks;
use crate::support::proxy::Proxy;
use crate::support::tokens::{Tokens, now};
use crate::support::{TempDir, eventually};

/// The default.
const LEEWAY: i64 = 30;

/// By how many seconds the instant of a confirmed receipt is later than the request.
async fn covered(doorward: &Doorward, user: &str) -> i64 {
    let asked = now();
    let body = json!({"kind": "user", "id": user});
    let reply = post(doorward, "/v1/revocations?wait=all&timeout=50s", &body).await;
    assert!(reply.status == 201 && reply.body["confirmed"] == true, "{reply:?}");
    doorward::clock::parse_rfc3339(reply.body["at"].as_str().unwrap()).unwrap().as_secs() - asked
}

/// A store that lost its data has lost the lease of the instance that is cut off: nothing shows that it lapsed.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_covers_what_an_instance_verified_whose_lease_was_lost() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    let config = certain_config(&tokens, &redis);
    let one = Doorward::start(&config).await;
    let away = Doorward::start(&config.replace(&redis.port.to_string(), &proxy.port.to_string())).await;
    let (checks, others) = (Checks::connect(&away.check).await, Checks::connect(&one.check).await);
    confirmed(&one, json!({"kind": "session", "id": "first"})).await;
    proxy.refuse();
    let of_alice = dated(&tokens, "alice", LEEWAY - 2);
    let of_bob = dated(&tokens, "bob", LEEWAY - 2);
    for token in [&of_alice, &of_bob] {
        assert_eq!(reason(&checks, token).await, "ok");
    }
    redis.cli(&["FLUSHALL"]);
    one.logs("revocation store is complete again").await;
    let alice = confirmed(&one, json!({"kind": "user", "id": "alice"}));
    let bob = async {
        let later = Doorward::start(&config).await;
        confirmed(&later, json!({"kind": "user", "id": "bob"})).await;
    };
    tokio::join!(alice, bob);
    proxy.heal();
    eventually("it has read on", async || reason(&checks, &tokens.of("carol")).await == "ok").await;
    for checks in [&checks, &others] {
        for token in [&of_alice, &of_bob] {
            assert_eq!(reason(checks, token).await, "revoked");
        }
    }
}

/// A user who is signed out by a receipt of a new store can sign in again at once: it has lost no lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_doubted_that_lost_something_and_no_new_one() {
    let (tokens, mut redis) =
        (Tokens::new(), RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).await);
    let config = certain_config(&tokens, &redis).replace("max_staleness: 5s", "max_staleness: 1s");
    let mut doorward = Doorward::start(&config).await;
    assert!(covered(&doorward, "alice").await < LEEWAY / 2);
    let checks = Checks::connect(&doorward.check).await;
    assert_eq!(reason(&checks, &dated(&tokens, "alice", 3)).await, "ok", "the margin is a second");
    // Its own lease was removed by hand.
    let report = redis.cli(&["KEYS", "doorward:{r}:instance:*"]);
    redis.cli(&["DEL", "doorward:{r}:instances", &report]);
    eventually("it is noted", async || redis.cli(&["EXISTS", "doorward:{r}:lost"]) == "1").await;
    assert!(covered(&doorward, "bob").await >= LEEWAY);
    // A process knows it from the one before.
    assert_eq!(doorward.stop().await, Some(0));
    doorward = Doorward::start(&config).await;
    assert!(covered(&doorward, "carol").await >= LEEWAY);
    // None ran when the store was replaced.
    assert_eq!(doorward.stop().await, Some(0));
    redis.cli(&["DEL", "doorward:{r}:lost"]);
    redis.kill();
    redis.run().await;
    doorward = Doorward::start(&config).await;
    assert!(covered(&doorward, "dave").await >= LEEWAY);
}

/// An issuer leads, and the first instance that sees it measures no lead: its clocks differ, and it has not watched the
/// store's for long enough.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_covers_the_leeway_while_a_lead_is_not_measured() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis).replace("max_staleness: 5s", "max_staleness: 1s");
    let config = config + &signals::section(&tokens, "");
    let other = Doorward::start(&config).await;
    let ahead = Clock::at("+3s");
    let first = Doorward::launch_by(ahead.doorward(), TempDir::new(), &config).await;
    first.ready().await;
    let skew = async || first.metric("doorward_clock_skew_seconds{of=\"store\"}").await.unwrap_or_default();
    eventually("its clocks differ", async || skew().await > 2.0).await;
    let checks = Checks::connect(&first.check).await;
    // A date that was verified, and a later one of the same lead.
    assert_eq!(reason(&checks, &dated(&tokens, "somebody", 15)).await, "ok");
    let [of_alice, of_bob, of_carol] = ["alice", "bob", "carol"].map(|user| dated(&tokens, user, 20));
    // A sign-out without a receipt goes by the date.
    assert_eq!(reason(&checks, &of_carol).await, "ok");
    send_event(&tokens, &first, "carol").await;
    eventually("it is refused", async || reason(&checks, &of_carol).await == "revoked").await;
    let (alice, bob) = tokio::join!(covered(&first, "alice"), covered(&other, "bob"));
    assert!(alice >= LEEWAY && bob >= LEEWAY, "{alice} {bob}");
    assert_eq!(reason(&checks, &of_alice).await, "revoked");
    assert_eq!(reason(&Checks::connect(&other.check).await, &of_bob).await, "revoked");
    // Once it has watched for long enough, it measures the lead of what it verified before.
    let lead = async || first.metric("doorward_clock_skew_seconds{of=\"dev\"}").await.unwrap_or_default();
    eventually("it is measured", async || lead().await > 1.0).await;
    assert!(lead().await < 16.0);
}

/// During a rolling update that renames an issuer, the instances on either side have seen what the other reports under
/// its own name.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_is_not_measured_counts_under_each_name_of_the_issuer() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis).replace("max_staleness: 5s", "max_staleness: 1s");
    let renamed = config.replace("name: dev,", "name: shop, formerly: [dev],");
    let ahead = Clock::at("+3s");
    let first = Doorward::launch_by(ahead.doorward(), TempDir::new(), &config).await;
    first.ready().await;
    let skew = async || first.metric("doorward_clock_skew_seconds{of=\"store\"}").await.unwrap_or_default();
    eventually("its clocks differ", async || skew().await > 2.0).await;
    let next = Doorward::start(&renamed).await;
    let checks = Checks::connect(&first.check).await;
    assert_eq!(reason(&checks, &dated(&tokens, "somebody", 15)).await, "ok");
    let of_alice = dated(&tokens, "alice", 20);
    assert!(covered(&next, "alice").await >= LEEWAY);
    assert_eq!(reason(&checks, &of_alice).await, "revoked");
}

fn is_noted(redis: &RedisServer) -> bool {
    redis.cli(&["EXISTS", "doorward:{r}:lost"]) == "1"
}

/// The instance that finds the loss founds the store anew, and ends before its first lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_noted_by_the_instance_that_removes_the_sign_of_it() {
    let (tokens, mut redis) =
        (Tokens::new(), RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).await);
    let config = certain_config(&tokens, &redis);
    drop(Doorward::start(&config).await);
    assert_eq!(redis.cli(&["EXISTS", "doorward:{r}:lost"]), "0");
    // No lease can be taken.
    redis.cli(&["DEL", "doorward:{r}:instances"]);
    redis.cli(&["SET", "doorward:{r}:instances", "of another program"]);
    for what in ["replaced", "its epoch is gone"] {
        if what == "replaced" {
            redis.kill();
            redis.run().await;
        } else {
            redis.cli(&["DEL", "doorward:{r}:meta", "doorward:{r}:lost"]);
        }
        let starting = Doorward::launch(&config).await;
        eventually(what, async || is_noted(&redis)).await;
        assert_eq!(starting.get("/readyz").await.0, 503);
    }
    // An instance that runs founds the store anew.
    redis.cli(&["DEL", "doorward:{r}:instances"]);
    let doorward = Doorward::start(&config).await;
    redis.script("MULTI\nFLUSHALL\nSET doorward:{r}:instances other\nEXEC\n");
    eventually("flushed", async || is_noted(&redis)).await;
    drop(doorward);
}

/// One instance has seen the loss, later than the other one saw another, and ends.
#[tokio::test(flavor = "multi_thread")]
async fn the_note_of_a_loss_that_is_removed_is_put_back_by_an_instance_that_has_read_it() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis);
    let first = Doorward::start(&config).await;
    let own = || redis.cli(&["KEYS", "doorward:{r}:instance:*"]);
    let of_first = own();
    let second = Doorward::start(&config).await;
    let of_second = own().replace(&of_first, "").trim().to_owned();
    let noted = || redis.cli(&["GET", "doorward:{r}:lost"]).parse::<i64>().unwrap_or_default();
    let mut last = 0;
    for of in [&of_second, &of_first] {
        let name = of.rsplit(':').next().unwrap();
        redis.cli(&["ZREM", "doorward:{r}:instances", name]);
        redis.cli(&["DEL", of]);
        eventually("it is noted", async || noted() > last + 1_000).await;
        last = noted();
        tokio::time::sleep(Duration::from_secs(5)).await; // Each has renewed its lease twice.
    }
    drop(first);
    redis.cli(&["DEL", "doorward:{r}:lost"]);
    eventually("it is put back", async || (noted() - last).abs() < 1_000).await;
    drop(second);
}

/// The instance may write what it cannot read: the key of the leads is denied to it.
#[tokio::test(flavor = "multi_thread")]
async fn leads_that_cannot_be_read_are_taken_for_the_longest() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis).replace("max_staleness: 5s", "max_staleness: 1s");
    let doorward = Doorward::start(&config).await;
    assert!(covered(&doorward, "alice").await < LEEWAY / 2);
    let readable = ["doorward:{r}:[^l]*", "doorward:{r}:l[^e]*", "doorward:{r}:lease*", "doorward:[^{]*"];
    let mut rules = vec!["ACL", "SETUSER", "default", "resetkeys", "%W~doorward:{r}:leads"];
    let patterns = readable.map(|keys| format!("~{keys}"));
    rules.extend(patterns.iter().map(String::as_str));
    assert_eq!(redis.cli(&rules), "OK");
    assert!(covered(&doorward, "bob").await >= LEEWAY, "by a receipt");
    let reply = post(&doorward, "/v1/revocations", &json!({"kind": "user", "id": "carol"})).await;
    let at = doorward::clock::parse_rfc3339(reply.body["at"].as_str().unwrap()).unwrap().as_secs();
    assert!(at - now() >= LEEWAY - 2, "without one: {reply:?}");
}

/// The request was resolved by the configuration of its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_during_a_receipt_s_wait_does_not_refuse_it() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis);
    let (doorward, stopped) = (Doorward::start(&config).await, Doorward::start(&config).await);
    confirmed(&doorward, json!({"kind": "session", "id": "first"})).await;
    let text = std::fs::read_to_string(doorward.dir.path().join("doorward.yaml")).unwrap();
    let renamed = text.replace("name: dev,", "name: shop, formerly: [dev],");
    assert_ne!(renamed, text);
    stopped.process.signal("STOP");
    let reload = async {
        eventually("it is stored", async || redis.cli(&["XREVRANGE", "doorward:{r}:log", "+", "-"]).contains("alice"))
            .await;
        crate::names::replace(&doorward, &renamed);
        doorward.logs("configuration reloaded").await;
        stopped.process.signal("CONT");
    };
    let body = json!({"kind": "user", "issuer": "dev", "id": "alice"});
    let (reply, ()) = tokio::join!(post(&doorward, "/v1/revocations?wait=all&timeout=50s", &body), reload);
    assert!(reply.status == 201 && reply.body["confirmed"] == true, "{reply:?}");
    assert_eq!(reason(&Checks::connect(&doorward.check).await, &tokens.of("alice")).await, "revoked");
}

/// The store's clock was stable all the time, as the instances before this process noted.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_died_before_is_not_taken_for_one_that_was_just_cut_off() {
    const SHORT: i64 = 10;
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis).replace("max_staleness: 5s", "max_staleness: 1s");
    let config = config.replace("audiences:", &format!("leeway: {SHORT}s, audiences:"));
    let mut one = Doorward::start(&config).await;
    drop(Doorward::start(&config).await); // Killed: its lease lapses.
    let died = now();
    assert!(covered(&one, "alice").await >= SHORT);
    // Its lease of eight seconds, the leeway, and what the note may be wrong by, have passed.
    while now() < died + 8 + SHORT + 15 + 5 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    assert_eq!(one.stop().await, Some(0));
    one = Doorward::start(&config).await;
    assert!(covered(&one, "bob").await < SHORT);
}
