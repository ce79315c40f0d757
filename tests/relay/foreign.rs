//! Keys of a relay into which other programs write, and notes of relays that are no more.

use doorward::sources::relay::RelayState;
use serde_json::json;

use super::faults::note_name;
use super::{Running, length};
use crate::ledger::support::{Instance, RedisServer, eventually, now, sign_out};

const RELAYED: &str = "doorward:{r}:relayed";

async fn write(redis: &RedisServer, id: &str) {
    let writer = Instance::start(redis).await;
    writer.replica.revoke(vec![sign_out(id)]).await.unwrap();
    writer.end().await;
}

/// A key of another type without which entries can be copied safely.
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_copied_beside_a_key_of_another_type_and_it_is_named() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let first = Running::start(eu.url(), us.url());
    eventually("it is noted", || us.cli(&["ZCARD", RELAYED]) == "1").await;
    let owner = eu.cli(&["--scan", "--pattern", "doorward:{r}:relay-owner:*"]);
    let note = eu.cli(&["--scan", "--pattern", "doorward:{r}:relay:*"]);
    first.end().await;
    for (at, (redis, key, kind)) in
        [(&us, RELAYED, Some("a sorted set")), (&eu, &*owner, Some("a string")), (&eu, &*note, None)]
            .into_iter()
            .enumerate()
    {
        redis.cli(&["DEL", key]);
        redis.cli(&["HSET", key, "another", "program"]);
        let relay = Running::start(eu.url(), us.url());
        write(&eu, &format!("beside-{at}")).await;
        eventually(&format!("copied beside {key}"), || length(&us) == at + 1).await;
        relay.becomes(RelayState::Following).await;
        if let Some(kind) = kind {
            let named = format!("`{key}` has another type than Doorward's, {kind}; rename or delete that key");
            eventually(&named, || {
                let status = relay.relay.status();
                let problem = status.problem.unwrap_or_default();
                status.state == RelayState::Following
                    && problem.contains(&named)
                    && problem.starts_with(&format!("127.0.0.1:{}: ", redis.port))
            })
            .await;
            redis.cli(&["DEL", key]);
            eventually("it is over", || relay.relay.status().problem.is_none()).await;
        }
        relay.end().await;
    }
}

/// Without these it is not known how long an entry is needed, what it covers, or whether it may be copied.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_that_is_needed_is_named_and_nothing_is_lost() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    write(&eu, "first").await;
    for redis in [&eu, &us] {
        note_name(redis, "main", "https://auth.example.com");
    }
    for redis in [&eu, &us] {
        for (name, kind) in [
            ("retentions", "a sorted set"),
            ("clock", "a sorted set"),
            ("leads", "a sorted set"),
            ("dated", "a sorted set"),
            ("issuers", "a sorted set"),
            ("meta", "a string"),
            ("log", "a stream"),
        ] {
            let (key, kept) = (format!("doorward:{{r}}:{name}"), format!("kept-{name}"));
            let is_there = redis.cli(&["EXISTS", &key]) == "1";
            if is_there {
                redis.cli(&["RENAME", &key, &kept]);
            }
            redis.cli(&["HSET", &key, "another", "program"]);
            let relay = Running::start(eu.url(), us.url());
            let named = format!("127.0.0.1:{}: refused by the store: WRONGTYPE", redis.port);
            let cure = format!("`{key}` has another type than Doorward's, {kind}; rename or delete that key");
            eventually(&format!("{key} at {}", redis.port), || {
                let problem = relay.relay.status().problem.unwrap_or_default();
                problem.starts_with(&named) && problem.contains(&cure)
            })
            .await;
            redis.cli(&["DEL", &key]);
            if is_there {
                redis.cli(&["RENAME", &kept, &key]);
            }
            relay.becomes(RelayState::Following).await;
            relay.end().await;
        }
    }
    assert_eq!((length(&eu), length(&us)), (1, 1));
}

/// One store under two addresses, of which one is no longer used; and members that no relay writes.
#[tokio::test(flavor = "multi_thread")]
async fn the_lag_of_a_region_is_that_of_its_latest_note() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let there = Instance::start(&us).await;
    let lag = || there.replica.inbound_lag().map(|lag| lag.as_secs());
    let ago = |hours: u64| now().minus(std::time::Duration::from_secs(hours * 3_600)).as_millis().to_string();
    let relay = Running::start(eu.url(), us.url());
    eventually("the relay notes itself", || us.cli(&["ZCARD", RELAYED]) == "1").await;
    let own = us.cli(&["ZRANGE", RELAYED, "0", "0"]);
    relay.end().await;
    let (_, store) = own.split_once(' ').unwrap();
    us.cli(&["ZADD", RELAYED, &ago(3), &format!("localhost:{} {store}", eu.port)]);
    let relay = Running::start(eu.url(), us.url());
    eventually("the note of the other address does not count", || lag().is_some_and(|lag| lag < 60)).await;
    // The oldest members are no text.
    let fill = "for n = 1, 20 do redis.call('ZADD', KEYS[1], ARGV[1], '\\255\\254' .. n) end";
    us.cli(&["EVAL", fill, "1", RELAYED, &ago(4)]);
    us.cli(&["ZADD", RELAYED, &ago(2), "another region"]);
    eventually("the region that is furthest behind counts", || lag().is_some_and(|lag| (7_100..7_400).contains(&lag)))
        .await;
    relay.end().await;
    there.end().await;
}

/// Its owner may have been killed: what that noted is no copy of this process.
#[tokio::test(flavor = "multi_thread")]
async fn the_note_of_an_owner_counts_while_it_is_renewed() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let first = Running::start(eu.url(), us.url());
    eventually("the copy is complete", || first.relay.status().is_up).await;
    let owner = eu.cli(&["--scan", "--pattern", "doorward:{r}:relay-owner:*"]);
    let note = eu.cli(&["--scan", "--pattern", "doorward:{r}:relay:*"]);
    first.end().await;
    // As a process leaves it that is killed.
    let text = json!({"state": "following", "as_of": now().as_millis(), "noted": now().as_millis(), "problem": null})
        .to_string();
    us.cli(&["DEL", "doorward:{r}:log"]);
    write(&eu, "waits").await;
    eu.cli(&["SET", &note, &text]);
    eu.cli(&["SET", &owner, "killed", "PX", "9000"]);
    let next = Running::start(eu.url(), us.url());
    eventually("it sees the owner", || next.relay.status().owner.as_deref() == Some("killed")).await;
    let mut seen = 0;
    eventually("the copy is complete", || {
        let (copied, is_up) = (length(&us), next.relay.status().is_up);
        seen += usize::from(copied == 0);
        assert!(copied == 1 || !is_up, "ready before the first copy");
        is_up
    })
    .await;
    assert!(seen > 10);
    // A process that sees the note renewed goes by it.
    let other = Running::start(eu.url(), us.url());
    eventually("it follows the owner", || other.relay.status().is_up && other.relay.status().owner.is_some()).await;
    next.end().await;
    other.end().await;
}
