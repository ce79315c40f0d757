//! Stores that lose entries, regions that are cut off, and regions that must not be connected.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use doorward::sources::relay::RelayState;
use serde_json::json;

use super::odd::write;
use super::{LOG, Running, length, values};
use crate::ledger::support::{Instance, RedisServer, eventually, sign_out, token};
use crate::support::Process;
use crate::support::proxy::Proxy;

/// Notes the meaning of an issuer's name, as an instance does.
pub(super) fn note_name(redis: &RedisServer, name: &str, issuer: &str) -> String {
    let note = json!({
        "name": name, "issuer": [issuer], "tenants": null, "is_former": false, "formerly": [], "user_id": ["sub"],
        "email": [], "session_id": ["sid"], "client_id": ["azp", "client_id"], "settled": []
    })
    .to_string();
    redis.cli(&["ZADD", "doorward:{r}:issuers", &doorward::clock::now().as_millis().to_string(), &note]);
    note
}

async fn fill(redis: &RedisServer, ids: impl Iterator<Item = String>) {
    let writer = Instance::start(redis).await;
    writer.replica.revoke(ids.map(|id| sign_out(&id)).collect()).await.unwrap();
    writer.end().await;
}

/// No instance runs in either region that could write the entries back.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_region_loses_comes_back_from_the_other_one() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    fill(&eu, (0..50).map(|n| format!("eu-{n}"))).await;
    fill(&us, (0..50).map(|n| format!("us-{n}"))).await;
    let [there, back] = Running::both(&eu, &us);
    let both = || length(&eu) == 100 && length(&us) == 100;
    eventually("both have all", both).await;
    for lost in [&us, &eu] {
        lost.cli(&["FLUSHALL"]);
        eventually("both have all again", both).await;
        let mut ids = values(lost, "id");
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 100);
    }
    // Entries that are deleted while they are in force, and a log that is.
    let first = eu.cli(&["XRANGE", LOG, "-", "+", "COUNT", "1"]).lines().next().unwrap().to_owned();
    eu.cli(&["XDEL", LOG, &first]);
    eventually("the entry is back", both).await;
    us.cli(&["DEL", LOG]);
    eventually("the log is back", both).await;
    there.becomes(RelayState::Following).await;
    back.becomes(RelayState::Following).await;
    assert!(both(), "{} {}", length(&eu), length(&us));
    there.end().await;
    back.end().await;
}

/// What was read and what is there have the same count, and the ids go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_is_noticed_where_no_instance_runs() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let write = |redis: &RedisServer, id: &str| {
        redis.cli(&["XADD", LOG, "*", "issuer", "main", "kind", "session", "id", id]);
    };
    write(&eu, "one");
    write(&eu, "two");
    let relay = Running::start(eu.url(), us.url());
    eventually("both are copied", || length(&us) == 2).await;
    us.script(&format!(
        "MULTI\nFLUSHALL\n{0} three\n{0} four\nEXEC\n",
        format_args!("XADD {LOG} * issuer main kind session id")
    ));
    eventually("both are copied again", || length(&us) == 4).await;
    assert_eq!(values(&us, "id"), ["three", "four", "one", "two"]);
    relay.end().await;
}

/// A server that comes back with an older copy of its data has the same epoch.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_a_store_is_completed() {
    let (eu, mut us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    fill(&eu, (0..30).map(|n| format!("old-{n}"))).await;
    fill(&us, std::iter::once("founds".to_owned())).await;
    let relay = Running::start(eu.url(), us.url());
    eventually("all is copied", || length(&us) == 31).await;
    us.cli(&["SAVE"]);
    fill(&eu, (0..30).map(|n| format!("new-{n}"))).await;
    eventually("more is copied", || length(&us) == 61).await;
    us.kill();
    relay.becomes(RelayState::Unreachable).await;
    us.run().await;
    eventually("the lost copies are made again", || length(&us) == 61).await;
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_cut_off_catches_up() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let (here, there) = (Instance::start(&eu).await, Instance::start(&us).await);
    let wire = Proxy::start(us.port);
    let relay = Running::start(eu.url(), format!("redis://127.0.0.1:{}", wire.port));
    relay.becomes(RelayState::Following).await;
    for cut in [Proxy::refuse, Proxy::stall] {
        cut(&wire);
        relay.becomes(RelayState::Unreachable).await;
        let ids: Vec<_> = (0..200).map(|n| format!("{}-{n}", wire.opened())).collect();
        here.replica.revoke(ids.iter().map(|id| sign_out(id)).collect()).await.unwrap();
        let lag = relay.relay.status().lag.unwrap();
        eventually("the lag grows", || relay.relay.status().lag.unwrap() > lag + Duration::from_secs(1)).await;
        let problem = relay.relay.status().problem.unwrap();
        assert!(problem.starts_with(&format!("127.0.0.1:{}: ", wire.port)), "{problem}");
        wire.heal();
        for id in ids {
            there.comes_to_refuse(&token(&id)).await;
        }
        relay.becomes(RelayState::Following).await;
    }
    assert_eq!((length(&eu), length(&us)), (400, 400));
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_whose_names_mean_different_issuers_are_not_connected() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    fill(&eu, std::iter::once("first".to_owned())).await;
    note_name(&eu, "main", "https://eu.example.com");
    let wrong = note_name(&us, "main", "https://us.example.com");
    let relay = Running::start(eu.url(), us.url());
    relay.becomes(RelayState::NamesDiffer).await;
    let status = relay.relay.status();
    let problem = status.problem.clone().unwrap();
    assert!(problem.contains("`main` stands for `https://eu.example.com`"), "{problem}");
    assert!(status.is_overdue && status.warning().contains(&problem), "{status:?}");
    assert_eq!(us.cli(&["EXISTS", LOG]), "0", "nothing is copied");
    us.cli(&["ZREM", "doorward:{r}:issuers", &wrong]);
    note_name(&us, "main", "https://eu.example.com");
    relay.becomes(RelayState::Following).await;
    assert_eq!(values(&us, "id"), ["first"]);
    // While it follows, too.
    note_name(&us, "main", "https://us.example.com");
    relay.becomes(RelayState::NamesDiffer).await;
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_store_by_two_addresses_is_refused() {
    let redis = RedisServer::start(&[]).await;
    fill(&redis, std::iter::once("only".to_owned())).await;
    let relay = Running::start(redis.url(), format!("redis://localhost:{}", redis.port));
    relay.becomes(RelayState::SameStore).await;
    assert_eq!(length(&redis), 1);
    relay.end().await;
}

/// A connection that breaks for a moment is no outage: what is shown goes by how far the other region is behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_moment_without_the_other_region_is_no_warning() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let wire = Proxy::start(us.port);
    let relay = Running::start(eu.url(), format!("redis://127.0.0.1:{}", wire.port));
    eventually("it follows", || relay.relay.status().is_up).await;
    wire.refuse();
    relay.becomes(RelayState::Unreachable).await;
    let status = relay.relay.status();
    assert!(status.is_up && !status.is_overdue && status.problem.is_some(), "{status:?}");
    wire.heal();
    relay.becomes(RelayState::Following).await;
    relay.end().await;
}

/// Others set the key of one target there without a pause, faster than a transaction ends: that holds up no other entry.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_others_keep_changing_holds_up_no_entry() {
    const HOT: &str = "doorward:{r}:main:user:hot";
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let (at, end) = (doorward::clock::now().as_millis(), doorward::clock::now().as_millis() + 3_000_000);
    let [end, before] = [end, at - 60_000].map(|millis| millis.to_string());
    let relay = Running::start(eu.url(), us.url());
    relay.becomes(RelayState::Following).await;
    let mut hammer = Command::new("redis-cli");
    hammer.args(["-p", &us.port.to_string(), "-r", "1000000000", "SET", HOT, &before, "EX", "90000"]);
    let hammer = Process(hammer.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    eventually("others write the key", || us.cli(&["GET", HOT]) == before).await;
    for round in 0..3 {
        let at = (at + round).to_string();
        write(&eu, "*", &["kind", "user", "id", "hot", "at", &at, "expires", &end]);
        for n in 0..20 {
            write(&eu, "*", &["kind", "session", "id", &format!("{round}-{n}"), "at", "*", "expires", &end]);
        }
    }
    let is_there = |n: &i64| us.cli(&["EXISTS", &format!("doorward:{{r}}:main:session:2-{n}")]) == "1";
    eventually("all are copied, with their keys", || {
        values(&us, "id").contains(&"hot".to_owned()) && (0..20).all(|n| is_there(&n))
    })
    .await;
    assert_eq!(relay.relay.status().problem, None);
    drop(hammer);
    let latest = format!("{} revoked", at + 2);
    eventually("the key has the latest instant", || us.cli(&["GET", HOT]) == latest).await;
    let life: i64 = us.cli(&["TTL", HOT]).parse().unwrap();
    assert!(life > 80_000, "the longer life stays: {life}");
    relay.end().await;
}

/// A batch of them is one round trip between the regions, as one of others is.
#[tokio::test(flavor = "multi_thread")]
async fn many_entries_of_unknown_kinds_hold_up_no_entry() {
    const COUNT: usize = 500;
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let wire = Proxy::start(us.port);
    wire.delay(Duration::from_millis(75));
    let relay = Running::start(eu.url(), format!("redis://127.0.0.1:{}", wire.port));
    relay.becomes(RelayState::Following).await;
    let end = doorward::clock::now().plus(Duration::from_secs(3_000)).as_millis().to_string();
    let fill = "for n = 1, ARGV[2] do redis.call('XADD', KEYS[1], '*', 'issuer', 'main', 'kind', 'device', 'id', n, \
                'at', '*', 'expires', ARGV[1]) end";
    eu.cli(&["EVAL", fill, "1", LOG, &end, &COUNT.to_string()]);
    write(&eu, "*", &["kind", "token", "id", "next", "at", "*", "expires", &end]);
    let began = Instant::now();
    eventually("all are copied", || length(&us) == COUNT + 1).await;
    // One by one they take 75 s.
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    eventually("they are counted", || relay.counted("passed_on") == COUNT as u64).await;
    relay.end().await;
}

/// While the other region is cut off, this one goes on to keep its log for it: its own instances may need less.
#[tokio::test(flavor = "multi_thread")]
async fn a_region_keeps_its_log_for_one_that_is_cut_off() {
    const DAY: &str = "86460000";
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let until = doorward::clock::now().plus(Duration::from_secs(86_460)).as_millis().to_string();
    us.cli(&["ZADD", "doorward:{r}:retentions", &until, DAY]);
    let wire = Proxy::start(us.port);
    let relay = Running::start(eu.url(), format!("redis://127.0.0.1:{}", wire.port));
    let is_noted = || !eu.cli(&["ZSCORE", "doorward:{r}:retentions", DAY]).is_empty();
    eventually("the need is noted", is_noted).await;
    relay.becomes(RelayState::Following).await;
    for cut in [Proxy::refuse, Proxy::stall] {
        cut(&wire);
        relay.becomes(RelayState::Unreachable).await;
        // As a note ends that nobody renews.
        eu.cli(&["ZREM", "doorward:{r}:retentions", DAY]);
        eventually("it is noted again", is_noted).await;
        wire.heal();
        relay.becomes(RelayState::Following).await;
    }
    relay.end().await;
}

/// As either store of a relay: a replica refuses the lease in the one case, and names its role in the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_named_as_such() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &eu.port.to_string()]).await;
    for [from, to] in [[&replica, &us], [&us, &replica]] {
        let relay = Running::start(from.url(), to.url());
        relay.becomes(RelayState::Refused).await;
        let problem = relay.relay.status().problem.unwrap();
        let named = format!("127.0.0.1:{}: the server is a replica", replica.port);
        assert!(problem.starts_with(&named) && problem.contains("name the primary"), "{problem}");
        relay.end().await;
    }
}

/// The process that has the lease may not write to the other store: another one that may takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_copy_leaves_the_lease_to_another() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    us.cli(&["ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-xadd"]);
    fill(&eu, std::iter::once("first".to_owned())).await;
    let barred = Running::start(eu.url(), format!("redis://reader:secret@127.0.0.1:{}", us.port));
    barred.becomes(RelayState::Refused).await;
    let other = Running::start(eu.url(), us.url());
    let copied = async {
        while length(&us) == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), copied).await.expect("the other one takes over");
    other.becomes(RelayState::Following).await;
    other.end().await;
    barred.end().await;
}
