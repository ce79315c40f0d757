//! Entries of one target that say different things: they are merged, and nothing goes round.

use std::time::Duration;

use doorward::sources::relay::RelayState;

use super::odd::write;
use super::{LOG, Running, length, values};
use crate::ledger::support::{Instance, RedisServer, eventually, now, target};
use doorward::authz::revocation::Kind;

const KINDS: [&str; 6] = ["session", "user", "client", "key", "issuer", "actor"];

/// Waits until the relays between these regions have compared all that was written so far: what is written after it in one
/// region is in the next, and so on around. Returns the numbers of entries without those.
async fn settled(regions: &[&RedisServer]) -> Vec<usize> {
    const ROUNDS: usize = 3;
    let end = now().plus(Duration::from_secs(3_000)).as_millis().to_string();
    for _ in 0..ROUNDS {
        for from in regions {
            let id = format!("sentinel-{}", rand::random::<u64>());
            write(from, "*", &["kind", "token", "id", &id, "at", "*", "expires", &end]);
            let everywhere = || regions.iter().all(|region| values(region, "id").contains(&id));
            eventually("a sentinel is everywhere", everywhere).await;
        }
    }
    let is_sentinel = |id: &String| id.starts_with("sentinel-");
    let count = |region: &&RedisServer| {
        let ids = values(region, "id");
        ids.len() - ids.iter().filter(|id| is_sentinel(id)).count()
    };
    regions.iter().map(count).collect()
}

async fn following(relays: &[Running]) {
    for relay in relays {
        relay.becomes(RelayState::Following).await;
    }
}

async fn end(relays: impl IntoIterator<Item = Running>) {
    for relay in relays {
        relay.end().await;
    }
}

/// Instances keep such an entry from its writing on, so a second one with the same fields refuses tokens for longer.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_written_again_with_an_end_that_is_too_early_is_copied_again_once() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let soon = now().plus(Duration::from_secs(600)).as_millis().to_string();
    let again = |place: &str| {
        for kind in KINDS {
            write(&eu, place, &["kind", kind, "id", "again", "at", "*", "expires", &soon]);
            write(&eu, place, &["kind", kind, "id", "open", "at", "*"]);
        }
    };
    again(&format!("{}-*", now().as_millis() - 60_000));
    let relays = Running::both(&eu, &us);
    eventually("the first are copied", || length(&us) == 2 * KINDS.len()).await;
    for times in 2..4 {
        again("*");
        eventually("those that are written later are copied", || length(&us) == times * 2 * KINDS.len()).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await; // Ends count in whole seconds.
    }
    let all = vec![6 * KINDS.len(); 2];
    following(&relays).await;
    assert_eq!(settled(&[&eu, &us]).await, all);
    end(relays).await;
    // Other processes, which know nothing of who wrote what.
    let relays = Running::both(&eu, &us);
    following(&relays).await;
    assert_eq!(settled(&[&eu, &us]).await, all);
    end(relays).await;
}

/// The same in a ring, where copies are copied, by regions whose clocks differ.
#[tokio::test(flavor = "multi_thread")]
async fn copies_of_copies_settle_whatever_the_clocks_of_the_stores_show() {
    let mut regions = Vec::new();
    for offset in ["+0", "-2h", "+40m"] {
        let region = RedisServer::start_with_clock(&[]).await;
        region.step_clock(offset);
        regions.push(region);
    }
    let regions: Vec<_> = regions.iter().collect();
    let [soon, later] = [600, 5_000].map(|after| now().plus(Duration::from_secs(after)).as_millis().to_string());
    let ring = || [[0, 1], [1, 2], [2, 0]].map(|[from, to]| Running::start(regions[from].url(), regions[to].url()));
    let relays = ring();
    following(&relays).await;
    for (at, region) in regions.iter().enumerate() {
        for kind in KINDS {
            write(region, "*", &["kind", kind, "id", &format!("early-{at}"), "at", "*", "expires", &soon]);
            write(region, "*", &["kind", kind, "id", &format!("late-{at}"), "at", "*", "expires", &later]);
            write(region, "*", &["kind", kind, "id", &format!("open-{at}"), "at", "*"]);
        }
    }
    let all = vec![3 * 3 * KINDS.len(); 3];
    assert_eq!(settled(&regions).await, all);
    end(relays).await;
    let relays = ring();
    following(&relays).await;
    assert_eq!(settled(&regions).await, all);
    end(relays).await;
}

/// A time of writing that lies ahead covers nothing that is written later: a later revocation of the session is copied, and
/// no copy lasts longer for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_of_writing_that_lies_ahead_hides_no_later_revocation() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let soon = now().plus(Duration::from_secs(600)).as_millis().to_string();
    let relays = Running::both(&eu, &us);
    following(&relays).await;
    let hour = now().plus(Duration::from_secs(3_600)).as_millis().to_string();
    for (times, redis) in (1..).zip([&eu, &eu, &us]) {
        for kind in KINDS {
            for (id, since) in [("hour", hour.as_str()), ("ever", "9999999999999"), ("seconds", "9999999999")] {
                write(redis, "*", &["kind", kind, "id", id, "at", "*", "expires", &soon, "since", since]);
            }
        }
        let all = times * 3 * KINDS.len();
        eventually("each is copied", || length(&us) == all && length(&eu) == all).await;
        tokio::time::sleep(Duration::from_millis(1_100)).await; // Ends count in whole seconds.
    }
    let all = vec![9 * KINDS.len(); 2];
    assert_eq!(settled(&[&eu, &us]).await, all);
    let latest = now().plus(Duration::from_secs(3_660 + 60)).as_millis();
    for end in [values(&eu, "expires"), values(&us, "expires")].concat() {
        assert!(end.parse::<i64>().unwrap() < latest, "{end}");
    }
    end(relays).await;
    others_add_nothing(&eu, &us, &all).await;
}

/// Other processes read the same, and copy nothing.
async fn others_add_nothing(eu: &RedisServer, us: &RedisServer, all: &[usize]) {
    let relays = Running::both(eu, us);
    following(&relays).await;
    assert_eq!(settled(&[eu, us]).await, all);
    end(relays).await;
}

/// The clock of a region is an hour ahead, so its entries cover those that other regions write in that hour: a copy has the
/// end that this takes. It is set right then; ids stand still until it has passed them.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_the_end_that_is_assumed_of_it() {
    let eu = RedisServer::start_with_clock(&[]).await;
    eu.step_clock("+1h");
    let us = RedisServer::start(&[]).await;
    let soon = now().plus(Duration::from_secs(600)).as_millis().to_string();
    // In one millisecond: later ids stand still there.
    let all = "for n = 2, #ARGV do redis.call('XADD', KEYS[1], '*', 'issuer', 'main', 'kind', ARGV[n], 'id', 'ahead', 'at', '*', \
               'expires', ARGV[1]) end";
    let again = || eu.cli(&[&["EVAL", all, "1", LOG, &soon], &KINDS[..]].concat());
    let needed = now().plus(Duration::from_secs(3_600 + 3_660)).as_millis();
    let relays = Running::both(&eu, &us);
    following(&relays).await;
    again();
    eventually("all are copied", || length(&us) == KINDS.len()).await;
    for end in values(&us, "expires") {
        let end = end.parse::<i64>().unwrap();
        assert!((needed..needed + 60_000).contains(&end), "{end}, not {needed}");
    }
    assert_eq!(settled(&[&eu, &us]).await, [KINDS.len(); 2]);
    end(relays).await;
    eu.step_clock("+0");
    // The ids lie ahead now, so the copies come back with the end that was assumed of them, once. The second entries have
    // copies of their own if the last id of the log is a second later meanwhile.
    again();
    let mut before = None;
    for _ in 0..2 {
        let relays = Running::both(&eu, &us);
        following(&relays).await;
        let ahead = |redis: &RedisServer| values(redis, "id").iter().filter(|id| *id == "ahead").count();
        settled(&[&eu, &us]).await;
        let [here, there] = [ahead(&eu), ahead(&us)];
        assert!((1..=2).contains(&(there / KINDS.len())) && here == 2 * KINDS.len() + there, "{here} {there}");
        assert_eq!(*before.get_or_insert([here, there]), [here, there]);
        end(relays).await;
    }
}

/// An entry of the other region whose id lies ahead of its clock ends, for an instance that starts now, as if it were written
/// now.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_lies_ahead_covers_nothing_that_is_written_before_that_time() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let soon = now().plus(Duration::from_secs(600)).as_millis().to_string();
    let ahead = format!("{}-*", now().as_millis() + 1_800_000);
    for kind in KINDS {
        write(&us, &ahead, &["kind", kind, "id", "ahead", "at", "*", "expires", &soon]);
    }
    let relay = Running::start(eu.url(), us.url());
    relay.becomes(RelayState::Following).await;
    for kind in KINDS {
        write(&eu, "*", &["kind", kind, "id", "ahead", "at", "*", "expires", &soon]);
    }
    eventually("all are copied", || length(&us) == 2 * KINDS.len()).await;
    relay.end().await;
}

/// None of which says as much as another.
#[tokio::test(flavor = "multi_thread")]
async fn many_entries_of_one_target_come_to_one_that_says_all() {
    const COUNT: i64 = 200;
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let relays = Running::both(&eu, &us);
    following(&relays).await;
    let base = now().as_millis();
    let odd = |redis: &RedisServer, from: i64, step: usize| {
        for n in (from..COUNT).step_by(step) {
            for (origin, id) in [("signed_out", "odd"), ("revoked", "odd"), ("revoked", "other")] {
                let (at, end) = (base - (COUNT - n) * 1_000, base + 8_000_000 - n * 1_000);
                let [at, end] = [at, end].map(|millis| millis.to_string());
                write(redis, "*", &["kind", "token", "id", id, "at", &at, "expires", &end, "origin", origin]);
            }
        }
    };
    // Every second one in each region.
    odd(&eu, 0, 2);
    odd(&us, 1, 2);
    let all = settled(&[&eu, &us]).await;
    let written = 3 * usize::try_from(COUNT).unwrap() / 2;
    for (redis, length) in [(&eu, all[0]), (&us, all[1])] {
        // At most one copy for each, and one that says all.
        assert!((written + 1..=2 * written + 3).contains(&length), "{length}");
        let said = |id: &str, origin: &str| {
            let of = [values(redis, "id"), values(redis, "origin"), values(redis, "at"), values(redis, "expires")];
            let [latest, last] = [base - 1_000, base + 8_000_000].map(|at| (at, at + 1_000));
            (0..of[0].len()).any(|at| {
                let is_about = |range: (i64, i64), text: &str| (range.0..range.1).contains(&text.parse().unwrap());
                of[0][at] == id && of[1][at] == origin && is_about(latest, &of[2][at]) && is_about(last, &of[3][at])
            })
        };
        assert!(said("odd", "signed_out") && said("odd", "revoked") && said("other", "revoked"));
    }
    end(relays).await;
    others_add_nothing(&eu, &us, &all).await;
}

/// Entries that are there already, on both sides: one entry for each origin is added, and then nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_log_of_entries_of_one_target_is_copied_as_one() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let fill = "for n = 1, 1000 do redis.call('XADD', KEYS[1], '*', 'issuer', 'main', 'kind', 'session', 'id', 's', \
                'at', ARGV[1] + n, 'expires', ARGV[1] + 9000000 - n * 1000) end";
    eu.cli(&["EVAL", fill, "1", LOG, &now().minus(Duration::from_secs(2)).as_millis().to_string()]);
    let relays = Running::both(&eu, &us);
    following(&relays).await;
    assert_eq!(settled(&[&eu, &us]).await, [1_001, 1]);
    end(relays).await;
    let relays = Running::both(&eu, &us);
    following(&relays).await;
    assert_eq!(settled(&[&eu, &us]).await, [1_001, 1]);
    end(relays).await;
}

/// An entry that instances write back after a loss has a new id, and says nothing new to the other region.
#[tokio::test(flavor = "multi_thread")]
async fn what_instances_write_back_is_not_copied_again() {
    const COUNT: usize = 40;
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let here = Instance::start(&eu).await;
    let old = format!("{}-*", now().as_millis() - 120_000);
    for n in 0..COUNT {
        write(&eu, &old, &["kind", "session", "id", &n.to_string(), "at", "*"]);
    }
    here.comes_to_refuse(&target(Kind::Session, "39")).await;
    // The relay back would bring the entries, too.
    let relay = Running::start(eu.url(), us.url());
    eventually("all is copied", || length(&us) == COUNT).await;
    eu.cli(&["FLUSHALL"]);
    eventually("all is written back", || length(&eu) == COUNT).await;
    relay.becomes(RelayState::Following).await;
    write(&eu, "*", &["kind", "token", "id", "last", "at", "*"]);
    eventually("the next is copied", || values(&us, "id").contains(&"last".to_owned())).await;
    assert_eq!(length(&us), COUNT + 1);
    relay.end().await;
    here.end().await;
}
