//! Stores that lose entries which some instances have not read: no instance relies on a store that may lack entries.

use std::time::{Duration, Instant};

use doorward::clock::Steady;
use doorward::sources::ledger::RedisConfig;
use doorward::sources::replica::{Operation, Receipt};
use tokio::time::sleep;

use super::oracle::{Judged, Oracle};
use super::support::*;
use crate::support::proxy::Proxy;

const REPAIRING: &str = "doorward:{r}:repairing";

/// The number of instances that announce a repair.
fn repairing(redis: &RedisServer) -> String {
    redis.cli(&["ZCOUNT", REPAIRING, "1", "+inf"])
}

fn gaps(instance: &Instance) -> u64 {
    instance.replica.stats().gaps.get()
}

/// Waits until an instance has compared the log with its expected state, starting after now.
async fn compared(instance: &Instance) {
    let count = || instance.replica.stats().operations(Operation::Check, "ok").get();
    let before = count();
    // The first may have begun before.
    eventually("compared", || count() >= before + 2).await;
}

/// The start of the read that its view is from.
fn as_of(instance: &Instance) -> Instant {
    let now = Instant::now();
    now.checked_sub(instance.age().expect("it was complete once")).unwrap()
}

/// The default of the rules' greatest age of a view.
const HOLD: Duration = Duration::from_secs(30);

async fn behind(redis: &RedisServer, max_staleness: Duration) -> (Proxy, Instance) {
    let proxy = Proxy::start(redis.port);
    let config = RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port));
    let instance = Instance::launch_holding(config, max_staleness);
    instance.becomes_ready().await;
    (proxy, instance)
}

/// An instance that was cut off while a token was revoked connects to a store that lost the entry, before the instance
/// that has the entry does: the store looks complete, and must not be relied on.
#[tokio::test]
async fn an_instance_that_was_cut_off_waits_for_the_others_after_a_loss() {
    let mut redis = RedisServer::start(&[]).await;
    let ((near, knows), (far, away)) = (behind(&redis, HOLD).await, behind(&redis, HOLD).await);
    let oracle = Oracle::default();
    for how in ["restarted with an older copy", "flushed"] {
        let saved = format!("{how}: saved");
        knows.replica.revoke(vec![sign_out(&saved)]).await.unwrap();
        away.comes_to_refuse(&token(&saved)).await;
        redis.cli(&["SAVE"]);
        far.refuse();
        let lost = format!("{how}: lost");
        knows.replica.revoke(vec![sign_out(&lost)]).await.unwrap();
        oracle.acknowledge(lost.clone());
        if how == "flushed" {
            redis.cli(&["FLUSHALL"]);
        } else {
            redis.kill();
            near.refuse();
            redis.run().await;
        }
        far.heal();
        let mut judged = Judged::default();
        eventually("it waits", || {
            oracle.judge(&away, &mut judged);
            away.replica.status().state.as_str() == "settling"
        })
        .await;
        near.heal();
        oracle.catches_up(&away, &mut judged).await;
        eventually("whole", || repairing(&redis) == "0").await;
        let new = Instance::start(&redis).await;
        assert!(new.refuses(&token(&saved)) && new.refuses(&token(&lost)), "{how}");
        new.end().await;
    }
}

#[tokio::test]
async fn an_ordinary_reconnection_does_not_wait() {
    let redis = RedisServer::start(&[]).await;
    let (proxy, instance) = behind(&redis, HOLD).await;
    for _ in 0..5 {
        proxy.cut();
        let cut = Instant::now();
        let mut states = Vec::new();
        eventually("fresh again", || {
            let state = instance.replica.status().state.as_str();
            if states.last() != Some(&state) {
                states.push(state);
            }
            as_of(&instance) > cut
        })
        .await;
        assert!(!states.contains(&"settling") && !states.contains(&"catching_up"), "{states:?}");
    }
    assert_eq!(gaps(&instance), 0);
}

/// Answered 2xx, and lost with the server before this process read the entry back: no other instance has it.
#[tokio::test]
async fn acknowledged_entries_that_were_never_read_back_are_looked_for() {
    let mut redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    instance.replica.revoke(vec![sign_out("saved")]).await.unwrap();
    eventually("read back", || redis.cli(&["XLEN", "doorward:{r}:log"]) == "1").await;
    redis.cli(&["SAVE"]);
    redis.cli(&["ACL", "SETUSER", "default", "-xread"]);
    eventually("it cannot read", || instance.replica.status().state.as_str() == "access_denied").await;
    instance.replica.revoke(vec![sign_out("lost")]).await.unwrap();
    redis.kill();
    redis.run().await; // The copy looks just as the instance left it.
    eventually("given back", || redis.cli(&["EXISTS", "doorward:{r}:main:token:lost"]) == "1").await;
    assert_eq!(gaps(&instance), 1);
    let new = Instance::start(&redis).await;
    assert!(new.refuses(&token("saved")) && new.refuses(&token("lost")));
}

#[tokio::test]
async fn a_read_of_a_server_that_was_demoted_does_not_count() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    let entry = "XADD doorward:{r}:log * issuer main kind token id busy\n".repeat(50);
    for round in 0..6 {
        // Between two reads, so that no read is ended by it.
        redis.script(&format!("{entry}REPLICAOF 127.0.0.1 1\n"));
        let demoted = Instant::now();
        eventually("noticed", || {
            assert!(as_of(&instance) < demoted, "round {round}: fresh by a server that is a replica");
            demoted.elapsed() > Duration::from_millis(500) && instance.replica.status().state.as_str() == "not_primary"
        })
        .await;
        redis.cli(&["REPLICAOF", "NO", "ONE"]);
        eventually("fresh again", || as_of(&instance) > demoted).await;
    }
}

#[tokio::test]
async fn entries_that_are_taken_from_the_log_after_they_were_read_are_put_back() {
    let redis = RedisServer::start(&[]).await;
    let one = Instance::start(&redis).await;
    let length = |expected: &'static str| {
        let redis = &redis;
        eventually("put back", move || redis.cli(&["XLEN", "doorward:{r}:log"]) == expected)
    };
    let last = one.replica.revoke((0..20).map(|n| sign_out(&format!("t-{n}"))).collect()).await.unwrap();
    one.replica.applied().wait_for(|applied| *applied >= last).await.unwrap();
    compared(&one).await;
    let sixth = format!("{}-{}", last.millis, last.sequence - 14);
    redis.cli(&["XDEL", "doorward:{r}:log", &sixth]);
    eventually("noticed", || gaps(&one) == 1).await;
    length("20").await;
    compared(&one).await;
    redis.cli(&["XTRIM", "doorward:{r}:log", "MAXLEN", "5"]);
    eventually("noticed", || gaps(&one) == 2).await;
    length("20").await;
    let two = Instance::start(&redis).await;
    assert!((0..20).all(|n| two.refuses(&token(&format!("t-{n}")))));
}

#[tokio::test]
async fn entries_read_before_a_flush_during_the_first_reading_are_written_back() {
    let redis = RedisServer::start(&[]).await;
    for part in 0..20 {
        let log = (0..1000).map(|n| format!("XADD doorward:{{r}}:log * issuer main kind token id t-{part}-{n}\n"));
        redis.script(&log.collect::<String>());
    }
    let proxy = Proxy::start(redis.port);
    proxy.delay(Duration::from_millis(10));
    let reader = Instance::launch(RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port)));
    eventually("it reads", || reader.replica.stats().entries.get() >= 2000).await;
    redis.cli(&["FLUSHALL"]);
    proxy.heal();
    reader.becomes_ready().await;
    let known = reader.replica.index().entries().count();
    assert!((2000..20_000).contains(&known), "{known}");
    eventually("put back", || redis.cli(&["XLEN", "doorward:{r}:log"]) == known.to_string()).await;
}

async fn confirm(instance: &Instance, id: &str, patience: Duration) -> Receipt {
    let written = instance.replica.revoke(vec![sign_out(id)]).await.unwrap();
    instance.replica.confirm(&sign_out(id), written, Steady::now(), patience, &|_| {}).await
}

/// The copy that comes up lacks only the lease of an instance that is cut off.
#[tokio::test]
async fn a_store_that_may_have_forgotten_leases_confirms_nothing_until_they_have_run_out() {
    let hold = Duration::from_secs(2);
    let mut redis = RedisServer::start(&[]).await;
    let one = Instance::launch_holding(redis.config(), hold);
    one.becomes_ready().await;
    let waited = Instant::now();
    let receipt = confirm(&one, "first", PATIENCE).await;
    assert_eq!((receipt.applied, receipt.waiting), (1, vec![]));
    println!("a new store confirms after {:?}", waited.elapsed());
    redis.cli(&["SAVE"]);
    let (proxy, away) = behind(&redis, hold).await;
    eventually("both are listed", || redis.cli(&["ZCARD", "doorward:{r}:instances"]) == "2").await;
    proxy.stall();
    redis.kill();
    redis.run().await;
    let restarted = Instant::now();
    eventually("back", || one.replica.stats().store_up()).await;
    let receipt = confirm(&one, "second", Duration::from_secs(2)).await;
    assert_eq!((receipt.instances, receipt.applied), (1, 1), "the other is not listed");
    assert!(
        receipt.waiting.is_empty() && receipt.uncertain_for.is_some_and(|left| left <= hold + Duration::from_secs(8))
    );
    if away.age().is_some_and(|age| age < hold) {
        assert!(!away.refuses(&token("second")), "which is why");
    }
    let receipt = confirm(&one, "third", PATIENCE).await;
    assert_eq!((receipt.instances, receipt.waiting), (1, vec![]));
    println!("and one that was restarted after {:?}", restarted.elapsed());
    assert!(away.age().is_some_and(|age| age > hold), "it has no view any more");
}

/// A full server refuses new reports, but a lease continues: an instance that still reads is listed, and receipts wait
/// for it.
#[tokio::test]
async fn a_full_store_is_followed_and_its_readers_are_waited_for() {
    let redis = RedisServer::start(&[]).await;
    let brief = Duration::from_secs(1); // Leases of eight seconds.
    let (one, (proxy, two)) = (Instance::launch_holding(redis.config(), brief), behind(&redis, brief).await);
    one.becomes_ready().await;
    one.replica.revoke(vec![sign_out("before")]).await.unwrap();
    two.comes_to_refuse(&token("before")).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(one.replica.revoke(vec![sign_out("full")]).await.unwrap_err().label(), "out_of_memory");
    let new = Instance::launch_holding(redis.config(), brief);
    let full = Instant::now();
    while full.elapsed() < Duration::from_secs(9) {
        for instance in [&one, &two] {
            let age = instance.age().unwrap();
            assert!(age < Duration::from_secs(7), "{age:?} after {:?}", full.elapsed());
            assert!(instance.refuses(&token("before")));
        }
        assert!(!new.replica.status().ready, "no room for its lease, so it decides nothing");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(one.refuses(&token("full")), "a refused write holds here");
    assert_eq!(one.replica.peers().await.unwrap().len(), 2);
    // The server has memory again; two instances, with recent views, cannot report.
    proxy.stall();
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let receipt = confirm(&one, "after", Duration::from_millis(300)).await;
    assert!(receipt.waiting.contains(&two.replica.name().to_owned()), "{receipt:?}");
    proxy.heal();
    two.comes_to_refuse(&token("full")).await;
    new.becomes_ready().await;
    let receipt = confirm(&one, "at last", PATIENCE).await;
    assert_eq!((receipt.instances, receipt.waiting), (3, vec![]));
}
