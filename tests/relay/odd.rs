//! Entries that another program wrote, with fields that no instance would write.

use std::time::Duration;

use doorward::authz::revocation::Kind;
use doorward::sources::relay::RelayState;

use super::{LOG, Running, length, values};
use crate::ledger::support::{Instance, RedisServer, eventually, now, target, token};

/// Writes an entry of the issuer `main`.
pub(super) fn write(redis: &RedisServer, place: &str, fields: &[&str]) {
    redis.cli(&[&["XADD", LOG, place, "issuer", "main"], fields].concat());
}

/// Instances keep an entry for their own retention from its instant or its writing, whatever its end says, but for a token.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_over_as_it_is_written_keeps_no_entry_from_the_other_region() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let at = now().as_millis().to_string();
    // Two days ago: longer than any instance in either region needs it.
    let old = now().minus(Duration::from_secs(48 * 3_600)).as_millis();
    let over = now().minus(Duration::from_secs(40 * 3_600)).as_millis().to_string();
    write(&eu, &format!("{old}-1"), &["kind", "user", "id", "old", "at", &old.to_string(), "expires", &over]);
    let kinds = ["token", "session", "user", "client", "key", "issuer", "actor"];
    for kind in kinds {
        write(&eu, "*", &["kind", kind, "id", "odd", "at", &at, "expires", "1000000001000"]);
        write(&eu, "*", &["kind", kind, "id", "seconds", "at", "*", "expires", "1000000001"]);
        write(&eu, "*", &["kind", kind, "id", "nought", "expires", "0"]);
    }
    // A later version's kind: what it means is not known, so its end counts.
    write(&eu, "*", &["kind", "device", "id", "d", "at", "*", "expires", &now().as_millis().to_string()]);
    write(&eu, "*", &["kind", "device", "id", "gone", "at", "*", "expires", "1000000001000"]);
    write(&eu, "*", &["kind", "user", "at", "*"]);
    let there = Instance::start(&us).await;
    let [relay, back] = Running::both(&eu, &us);
    eventually("all that may be needed is copied", || length(&us) == 20).await;
    there.comes_to_refuse(&token("nought")).await;
    for kind in [Kind::Session, Kind::User, Kind::Client, Kind::Key, Kind::Issuer, Kind::Actor] {
        for id in ["odd", "seconds", "nought"] {
            there.comes_to_refuse(&target(kind, id)).await;
        }
    }
    relay.becomes(RelayState::Following).await;
    back.becomes(RelayState::Following).await;
    assert!(!values(&us, "id").contains(&"old".to_owned()));
    eventually("what is left out is counted", || {
        (relay.counted("copied"), relay.counted("passed_on"), relay.counted("expired"), relay.counted("unreadable"))
            == (19, 1, 3, 2)
    })
    .await;
    relay.end().await;
    back.end().await;
}

/// Two entries for one target, of which one has the later instant and the other the later end, do not say what a third one
/// does that has both: an instance that starts when the first is over would not have it.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_copied_unless_one_that_is_there_says_as_much() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let after = |seconds: u64| now().plus(Duration::from_secs(seconds)).as_millis().to_string();
    let [at, soon, later, last] = [after(0), after(8_000), after(9_000), after(10_000)]; // Longer than instances need it.
    let says = |id: &'static str, at: &str, end: &str| {
        ["kind", "session", "id", id, "at", at, "expires", end].map(str::to_owned)
    };
    let to = |redis: &RedisServer, fields: [String; 8]| write(redis, "*", &fields.each_ref().map(|field| &**field));
    // The other region has two of the three.
    to(&us, says("there", "*", &soon));
    to(&us, says("there", &at, &last));
    to(&eu, says("there", "*", &later));
    // It has none of them, and one says what two others do.
    to(&eu, says("new", "*", &soon));
    to(&eu, says("new", &at, &last));
    to(&eu, says("new", "*", &later));
    to(&eu, says("new", &at, &later));
    let [relay, back] = Running::both(&eu, &us);
    // One entry with all for each of the two, and none for what is said.
    eventually("each has one that says all", || length(&us) == 4 && length(&eu) == 7).await;
    relay.becomes(RelayState::Following).await;
    back.becomes(RelayState::Following).await;
    assert_eq!(values(&us, "id"), ["there", "there", "there", "new"]);
    let [instants, ends] = ["at", "expires"].map(|field| values(&us, field).split_off(2));
    assert_eq!(instants, ["*", "*"]);
    let millis = |text: &str| text.parse::<i64>().unwrap();
    assert!(ends.iter().all(|end| (0..1_000).contains(&(millis(end) - millis(&last)))), "{ends:?}, {last}");
    assert_eq!(length(&eu), 7);
    relay.end().await;
    back.end().await;
}

/// The machine of a relay may be in neither region: its clock dates nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_an_instant_is_dated_by_the_clock_of_its_store() {
    let (eu, us) = (RedisServer::start_with_clock(&[]).await, RedisServer::start_with_clock(&[]).await);
    for redis in [&eu, &us] {
        redis.step_clock("-1h");
    }
    let relays = Running::both(&eu, &us);
    for relay in &relays {
        relay.becomes(RelayState::Following).await;
    }
    let kinds = ["user", "client", "issuer", "actor"];
    for kind in kinds {
        write(&eu, "*", &["kind", kind, "id", "bare"]);
    }
    eventually("all is copied", || length(&us) == kinds.len()).await;
    let latest = now().minus(Duration::from_secs(3_600 - 60)).as_millis();
    for at in values(&us, "at") {
        assert!(at.parse::<i64>().unwrap() < latest, "by the clock of this machine: {at}");
    }
    for relay in relays {
        relay.end().await;
    }
}

/// The other region need not know the issuer, by this name or at all: it may have had no instance yet.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_an_instant_is_dated_by_the_lead_that_is_known_where_it_was_written() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    super::faults::note_name(&eu, "main", "https://auth.example.com");
    eu.cli(&["ZADD", "doorward:{r}:leads", "12000", "main"]);
    let relays = Running::both(&eu, &us);
    for relay in &relays {
        relay.becomes(RelayState::Following).await;
    }
    let before = now().as_millis();
    write(&eu, "*", &["kind", "user", "id", "bare"]);
    eventually("it is copied", || length(&us) == 1).await;
    let at: i64 = values(&us, "at")[0].parse().unwrap();
    let latest = now().as_millis() + 12_000 + 1_000; // In whole seconds, after the store was made.
    assert!((before + 12_000..=latest).contains(&at), "{before} {at}");
    for relay in relays {
        relay.end().await;
    }
}

/// As a Spring template with a serialiser of JSON, or of Java, writes it: those bytes are what the later version reads.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_an_unknown_kind_is_copied_byte_by_byte_and_does_not_come_back() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let end = now().plus(Duration::from_secs(3_000)).as_millis().to_string();
    let relays = Running::both(&eu, &us);
    for relay in &relays {
        relay.becomes(RelayState::Following).await;
    }
    let quoted = |text: &str| format!("\"{text}\"");
    let [main, kind, id, until] = ["main", "device", "d", &end].map(quoted);
    let fields = ["issuer", &main, "kind", &kind, "id", &id, "at", "*", "expires", &until, "\"new\"", "\"a \\u0062\""];
    eu.cli(&[&["XADD", LOG, "*"], &fields[..]].concat());
    let add = "redis.call('XADD', KEYS[1], '*', 'issuer', 'main', 'kind', '\\172\\237\\0\\5t\\0\\6device', 'id', 'e', 'at', '*', \
               'expires', ARGV[1])";
    eu.cli(&["EVAL", add, "1", LOG, &end]);
    eventually("both are copied", || length(&us) == 2).await;
    // Each relay has read what the other one wrote.
    for (from, to) in [(&us, &eu), (&eu, &us), (&us, &eu)] {
        let id = format!("t-{}-{}", from.port, length(from));
        write(from, "*", &["kind", "token", "id", &id, "at", "*", "expires", &end]);
        eventually("a token is copied", || values(to, "id").contains(&id)).await;
    }
    assert_eq!((length(&eu), length(&us)), (5, 5));
    let range = ["XRANGE", LOG, "-", "+", "COUNT", "2"];
    let [here, there] = [&eu, &us].map(|redis| {
        let text = redis.cli(&range);
        text.lines().filter(|line| !line.contains('-')).map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(here, there);
    for relay in relays {
        relay.end().await;
    }
}

/// Redis refuses a time to live that overflows its milliseconds.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_beyond_all_time_stops_nothing() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let relay = Running::start(eu.url(), us.url());
    relay.becomes(RelayState::Following).await;
    let ends = ["9223372036854775807", "9223372036854775808", "999999999999999999", "99999999999999999999999999"];
    for (at, expires) in ends.into_iter().enumerate() {
        write(&eu, "*", &["kind", "user", "id", &format!("late-{at}"), "at", expires, "expires", expires]);
        write(&eu, "*", &["kind", "token", "id", &format!("token-{at}"), "at", "*", "expires", expires]);
        write(&eu, "*", &["kind", "session", "id", &format!("next-{at}"), "at", "*"]);
    }
    eventually("all are copied", || length(&us) == 12).await;
    relay.becomes(RelayState::Following).await;
    for at in 0..ends.len() {
        for name in [format!("user:late-{at}"), format!("token:token-{at}"), format!("session:next-{at}")] {
            assert_eq!(us.cli(&["EXISTS", &format!("doorward:{{r}}:main:{name}")]), "1", "{name}: no key");
        }
    }
    assert_eq!(relay.relay.status().problem, None);
    relay.end().await;
}

/// More entries of unknown kinds than the relay remembers.
#[tokio::test(flavor = "multi_thread")]
async fn entries_beyond_what_is_remembered_are_counted() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let end = now().plus(Duration::from_secs(3_000)).as_millis().to_string();
    let fill = "for n = 1, 100000 do redis.call('XADD', KEYS[1], '*', 'issuer', 'main', 'kind', 'device', 'id', n, \
                'at', '*', 'expires', ARGV[1]) end";
    us.cli(&["EVAL", fill, "1", LOG, &end]);
    write(&eu, "*", &["kind", "device", "id", "7", "at", "*", "expires", &end]);
    write(&eu, "*", &["kind", "device", "id", "new", "at", "*", "expires", &end]);
    write(&eu, "*", &["kind", "token", "id", "known", "at", "*", "expires", &end]);
    let relay = Running::start(eu.url(), us.url());
    eventually("the known kind is copied", || length(&us) == 100_001).await;
    eventually("the other is counted", || relay.counted("too_many") == 1).await;
    assert_eq!(relay.counted("passed_on"), 0);
    relay.end().await;
}

/// A request for receipts is about the instances of one region.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_receipts_is_not_copied_and_its_entry_is() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let end = now().plus(Duration::from_secs(3_000)).as_millis().to_string();
    for kind in ["device", "token"] {
        let entry = ["kind", kind, "id", "once", "at", "*", "expires", &end, "origin", "revoked", "reason", "x"];
        write(&eu, "*", &entry);
        write(&eu, "*", &[&entry[..], &["receipt", "1"]].concat());
        let asks = ["kind", kind, "id", "asks", "at", "*", "expires", &end, "origin", "revoked", "reason", "x"];
        write(&eu, "*", &[&asks[..], &["receipt", "1"]].concat());
    }
    let there = Instance::start(&us).await;
    let [relay, back] = Running::both(&eu, &us);
    there.comes_to_refuse(&token("asks")).await;
    eventually("each is there once", || length(&us) == 4).await;
    assert_eq!(values(&us, "receipt"), [""; 4]);
    relay.becomes(RelayState::Following).await;
    back.becomes(RelayState::Following).await;
    assert_eq!((length(&eu), length(&us)), (6, 4));
    relay.end().await;
    back.end().await;
}
