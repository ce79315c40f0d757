//! What is copied, and that it settles.

use std::collections::HashMap;
use std::time::Duration;

use doorward::authz::revocation::{Kind, Note};
use doorward::sources::ledger::Redis;
use doorward::sources::relay::RelayState;

use super::{LOG, Running, length, values};
use crate::ledger::support::{Instance, RedisServer, eventually, now, revoke_user, sign_out, target, token};

/// Waits until everything that either store had a moment ago was compared by both relays: an entry of each region goes
/// to the other one, and its copy is read by the relay of the opposite direction before a further one is.
async fn settled(name: &str, one: &RedisServer, other: &RedisServer, instances: [&Instance; 2]) -> [usize; 2] {
    for round in 0..2 {
        for (at, redis) in [one, other].into_iter().enumerate() {
            let id = format!("{name}-{}-{at}-{round}", redis.port);
            instances[at].replica.revoke(vec![sign_out(&id)]).await.unwrap();
            instances[1 - at].comes_to_refuse(&token(&id)).await;
        }
    }
    [length(one), length(other)]
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_reach_the_other_region_both_ways_and_no_entry_goes_round() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let (here, there) = (Instance::start(&eu).await, Instance::start(&us).await);
    here.replica.revoke((0..20).map(|n| sign_out(&format!("before-{n}"))).collect()).await.unwrap();
    let relays = Running::both(&eu, &us);
    for n in 0..20 {
        there.comes_to_refuse(&token(&format!("before-{n}"))).await;
        here.replica.revoke(vec![sign_out(&format!("eu-{n}"))]).await.unwrap();
        there.replica.revoke(vec![revoke_user(&format!("us-{n}"), now())]).await.unwrap();
    }
    for n in 0..20 {
        there.comes_to_refuse(&token(&format!("eu-{n}"))).await;
        here.comes_to_refuse(&target(Kind::User, &format!("us-{n}"))).await;
    }
    // The same in both at once: each region may get one copy of it.
    let twice = vec![sign_out("both")];
    let (one, other) = tokio::join!(here.replica.revoke(twice.clone()), there.replica.revoke(twice));
    one.unwrap();
    other.unwrap();
    let first = settled("first", &eu, &us, [&here, &there]).await;
    assert!(first.iter().all(|length| (65..=66).contains(length)), "60, four sentinels, `both`: {first:?}");
    let second = settled("second", &eu, &us, [&here, &there]).await;
    assert_eq!(second, first.map(|length| length + 4), "nothing but the sentinels is added");
    for relay in relays {
        assert_eq!(relay.state(), RelayState::Following);
        let status = relay.relay.status();
        assert!(status.lag.is_some_and(|lag| lag < Duration::from_secs(20)) && status.is_up, "{status:?}");
        relay.end().await;
    }
}

/// Three regions: a sign-out in each reaches all, and so do two further ones in each, which follow its copies.
async fn three_regions(links: &[(usize, usize)]) -> Vec<RedisServer> {
    let mut regions = Vec::new();
    for _ in 0..3 {
        regions.push(RedisServer::start(&[]).await);
    }
    let relays: Vec<_> =
        links.iter().map(|&(from, to)| Running::start(regions[from].url(), regions[to].url())).collect();
    let mut instances = Vec::new();
    for region in &regions {
        instances.push(Instance::start(region).await);
    }
    for round in 0..3 {
        for (at, instance) in instances.iter().enumerate() {
            let id = format!("of-{at}-{round}");
            instance.replica.revoke(vec![sign_out(&id)]).await.unwrap();
            for other in &instances {
                other.comes_to_refuse(&token(&id)).await;
            }
        }
    }
    for relay in relays {
        relay.becomes(RelayState::Following).await;
        relay.end().await;
    }
    regions
}

#[tokio::test(flavor = "multi_thread")]
async fn three_regions_in_a_ring_settle() {
    let regions = three_regions(&[(0, 1), (1, 2), (2, 0)]).await;
    assert_eq!(regions.iter().map(length).collect::<Vec<_>>(), [9; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_regions_that_each_copy_to_both_others_settle() {
    let regions = three_regions(&[(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]).await;
    for region in &regions {
        let mut times: HashMap<String, usize> = HashMap::new();
        for id in values(region, "id") {
            *times.entry(id).or_default() += 1;
        }
        // Two relays append to each region: at the same moment, each may.
        assert!(times.len() == 9 && times.values().all(|times| *times <= 2), "{times:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_says_what_its_entry_says_and_never_less() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let here = Instance::start(&eu).await;
    let (early, late) = (now().minus(Duration::from_secs(120)), now().minus(Duration::from_secs(1)));
    let noted = doorward::authz::revocation::Revocation {
        note: Note::new(early, "on-call", "lost phone"),
        ..revoke_user("noted", late)
    };
    here.replica.revoke(vec![noted.clone(), revoke_user("behind", early)]).await.unwrap();
    // Here another service has written less than an instance would.
    let end = now().plus(Duration::from_secs(3_000)).as_millis().to_string();
    eu.cli(&["XADD", LOG, "*", "issuer", "main", "kind", "user", "id", "bare"]);
    eu.cli(&["XADD", LOG, "*", "issuer", "main", "kind", "session", "id", "bare", "origin", "signed_out"]);
    let newer = ["issuer", "main", "kind", "device", "id", "d", "at", "*", "expires", &end, "colour", "blue"];
    eu.cli(&[&["XADD", LOG, "*"], &newer[..]].concat());
    eu.cli(&["XADD", LOG, "*", "issuer", "main", "kind", "device", "id", "no-end", "at", "*"]);
    eu.cli(&["XADD", LOG, "*", "nonsense", "x"]);
    let expired = now().minus(Duration::from_secs(100_000)).as_millis().to_string();
    eu.cli(&["XADD", LOG, "*", "issuer", "main", "kind", "token", "id", "over", "at", "*", "expires", &expired]);
    // There a later instant is known.
    let there = Instance::start(&us).await;
    there.replica.revoke(vec![revoke_user("behind", late)]).await.unwrap();
    let relay = Running::start(eu.url(), us.url());
    eventually("all is copied", || length(&us) == 5).await;
    assert_eq!(values(&us, "id"), ["behind", "noted", "bare", "bare", "d"]);
    let of = |redis: &RedisServer, field: &str, at: usize| values(redis, field)[at].clone();
    let written = values(&eu, "id").iter().position(|id| id == "noted").unwrap();
    for field in ["at", "origin", "reason", "by", "since"] {
        assert_eq!(of(&us, field, 1), of(&eu, field, written), "{field}");
    }
    assert!(of(&us, "expires", 1) >= of(&eu, "expires", written), "as instances take it");
    // An instant and an end that the entry left to its reader are in the copy: its id is another one.
    let millis = |text: String| text.parse::<i64>().unwrap();
    assert!((millis(of(&us, "at", 2)) - now().as_millis()).abs() < 30_000);
    assert!(millis(of(&us, "expires", 2)) > now().as_millis() + 3_000_000);
    assert_eq!((of(&us, "at", 3), of(&us, "origin", 3)), ("*".to_owned(), "signed_out".to_owned()));
    assert!(millis(of(&us, "expires", 3)) > now().as_millis() + 3_000_000);
    assert_eq!((of(&us, "kind", 4), of(&us, "colour", 4)), ("device".to_owned(), "blue".to_owned()));
    // The later instant stays in the key, which lives as long as that needs.
    let value = us.cli(&["GET", "doorward:{r}:main:user:behind"]);
    assert_eq!(value, format!("{} revoked", late.as_millis()));
    let life: i64 = us.cli(&["TTL", "doorward:{r}:main:user:noted"]).parse().unwrap();
    assert!(life > 3_000, "{life}");
    // Again by another process: nothing is appended twice, and what it read then is what it would write.
    relay.end().await;
    let (again, back) = (Running::start(eu.url(), us.url()), Running::start(us.url(), eu.url()));
    again.becomes(RelayState::Following).await;
    back.becomes(RelayState::Following).await;
    here.replica.revoke(vec![sign_out("last")]).await.unwrap();
    there.comes_to_refuse(&token("last")).await;
    assert_eq!(length(&us), 6);
    again.end().await;
    back.end().await;
}

/// With the commands of the documented ACL, by a user with a password.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_acl_is_enough_and_both_stores_know_what_the_relay_needs() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let page = std::fs::read_to_string(format!("{}/docs/signing-out.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let rules = page.split("ACL SETUSER doorward ").nth(1).unwrap().split("```").next().unwrap();
    let rules = rules.replace(">PASSWORD", ">s3cret");
    for redis in [&eu, &us] {
        let rules: Vec<_> = rules.split_whitespace().collect();
        redis.cli(&[&["ACL", "SETUSER", "doorward"], &rules[..]].concat());
    }
    let (here, there) = (Instance::start(&eu).await, Instance::start(&us).await);
    for redis in [&eu, &us] {
        super::faults::note_name(redis, "main", "https://auth.example.com");
    }
    eu.cli(&["ZADD", "doorward:{r}:leads", "7000", "main"]);
    us.cli(&["ZADD", "doorward:{r}:leads", "4000", "main"]);
    let user = |redis: &RedisServer| Redis {
        username: Some("doorward".to_owned()),
        password: Some("s3cret".into()),
        ..Redis::from(redis.url())
    };
    let relay = Running::start(user(&eu), user(&us));
    here.replica.revoke(vec![sign_out("by-acl")]).await.unwrap();
    there.comes_to_refuse(&token("by-acl")).await;
    for redis in [&eu, &us] {
        let noted = || redis.cli(&["ZSCORE", "doorward:{r}:retentions", "3660000"]);
        eventually("the log is kept for the relay", || !noted().is_empty()).await;
        eventually("the larger lead is known", || redis.cli(&["ZSCORE", "doorward:{r}:leads", "main"]) == "7000").await;
    }
    relay.end().await;
}

/// An entry that is over by this region's settings may refuse tokens in another one.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_other_region_needs_for_longer_is_copied() {
    const DAY: &str = "86460000";
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let over = now().minus(Duration::from_secs(8_000)).as_millis().to_string();
    eu.cli(&["XADD", LOG, "*", "issuer", "main", "kind", "user", "id", "over-here", "at", &over, "expires", &over]);
    // As an instance with a `max_lifetime` of 24 h notes it.
    let until = now().plus(Duration::from_secs(86_460)).as_millis().to_string();
    us.cli(&["ZADD", "doorward:{r}:retentions", &until, DAY]);
    let relay = Running::start(eu.url(), us.url());
    eventually("it is copied", || values(&us, "id") == ["over-here"]).await;
    // A third region's relay to this one learns it, too.
    eventually("the need is passed on", || !eu.cli(&["ZSCORE", "doorward:{r}:retentions", DAY]).is_empty()).await;
    relay.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_are_reached_by_tls() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (mut eu, mut us) = (RedisServer::stopped(&[]), RedisServer::stopped(&[]));
    let (from, to) = (eu.serve_tls(), us.serve_tls());
    eu.run().await;
    us.run().await;
    let (here, there) = (Instance::start(&eu).await, Instance::start(&us).await);
    here.replica.revoke((0..600).map(|n| sign_out(&format!("before-{n}"))).collect()).await.unwrap();
    let stranger = Running::start(from.clone(), Redis { ca_file: from.ca_file.clone(), ..to.clone() });
    stranger.becomes(RelayState::Unreachable).await;
    let problem = stranger.relay.status().problem.unwrap();
    assert!(problem.contains("InvalidCertificate"), "{problem}");
    stranger.end().await;
    let relays = [Running::start(from.clone(), to.clone()), Running::start(to, from)];
    there.comes_to_refuse(&token("before-599")).await;
    there.replica.revoke(vec![sign_out("back")]).await.unwrap();
    here.comes_to_refuse(&token("back")).await;
    eventually("each has all", || length(&eu) == 601 && length(&us) == 601).await;
    for relay in relays {
        relay.end().await;
    }
}
