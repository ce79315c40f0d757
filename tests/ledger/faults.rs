//! Stores that refuse, forget, freeze or are unfit: no applied revocation is undone.

use std::time::{Duration, Instant};

use doorward::sources::ledger::{Redis, RedisConfig};

use super::support::*;
use crate::support::proxy::Proxy;

#[tokio::test]
async fn a_flushed_store_is_given_back_what_it_lost_and_new_instances_learn_it() {
    let redis = RedisServer::start(&[]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let tokens: Vec<_> = (0..1000).map(|n| format!("t-{n}")).collect();
    let position = one.replica.revoke(tokens.iter().map(|id| sign_out(id)).collect()).await.unwrap();
    two.replica.applied().wait_for(|applied| *applied >= position).await.unwrap();
    redis.cli(&["FLUSHALL"]);
    // A new instance that starts right now must not rely on the empty store.
    let three = Instance::start(&redis).await;
    for (name, instance) in [("one", &one), ("two", &two), ("three", &three)] {
        assert!(tokens.iter().all(|id| instance.refuses(&token(id))), "{name}");
    }
    eventually("whole again", || {
        [&one, &two]
            .iter()
            .all(|i| i.replica.stats().reseed_waiting.get() == 0 && i.age() < Some(Duration::from_secs(1)))
    })
    .await;
    let counts = [&one, &two].map(|instance| instance.replica.stats().reseeded.get());
    // A batch that was not answered in time, on a busy machine, is written again.
    let written: u64 = redis.cli(&["XLEN", "doorward:{r}:log"]).parse().unwrap();
    assert!((1000..2000).contains(&written), "one of them does it: {written} entries by {counts:?}");
    eventually("and has ended", || redis.cli(&["EXISTS", "doorward:{r}:repairer"]) == "0").await;
    assert_eq!(redis.cli(&["GET", "doorward:{r}:main:token:t-7"]), "* signed_out");
    eventually("nobody is waited for", || redis.cli(&["ZCOUNT", "doorward:{r}:repairing", "1", "+inf"]) == "0").await;
}

#[tokio::test]
async fn a_store_that_restarts_empty_is_given_back_what_it_lost() {
    let mut redis = RedisServer::start(&[]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    one.replica.revoke(vec![sign_out("j")]).await.unwrap();
    two.comes_to_refuse(&token("j")).await;
    redis.kill();
    redis.run().await;
    let three = Instance::start(&redis).await;
    assert!([&one, &two, &three].iter().all(|instance| instance.refuses(&token("j"))));
}

#[tokio::test]
async fn an_older_copy_of_the_store_is_given_back_what_it_lacks() {
    let mut redis = RedisServer::start(&[]).await;
    let one = Instance::start(&redis).await;
    one.replica.revoke(vec![sign_out("saved")]).await.unwrap();
    redis.cli(&["SAVE"]);
    one.replica.revoke(vec![sign_out("lost")]).await.unwrap();
    redis.kill();
    redis.run().await; // With the dump, which lacks the last entry.
    let new = "XADD doorward:{r}:log * issuer main kind token id elsewhere\n";
    redis.script(new); // As many entries as before: only the count of read entries differs.
    eventually("given back", || redis.cli(&["EXISTS", "doorward:{r}:main:token:lost"]) == "1").await;
    one.comes_to_refuse(&token("elsewhere")).await;
    assert_eq!(one.replica.stats().gaps.get(), 1);
    let two = Instance::start(&redis).await;
    assert!(["saved", "lost", "elsewhere"].iter().all(|id| two.refuses(&token(id))));
}

#[tokio::test]
async fn a_new_instance_waits_for_the_others_after_a_failover_to_a_copy_that_lags() {
    let mut redis = RedisServer::start(&[]).await;
    let proxy = Proxy::start(redis.port);
    let survivor = Instance::launch(RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port)));
    survivor.becomes_ready().await;
    survivor.replica.revoke(vec![sign_out("saved")]).await.unwrap();
    redis.cli(&["SAVE"]);
    survivor.replica.revoke(vec![sign_out("lost")]).await.unwrap();
    // The copy has the epoch, and nothing in it shows that it lacks an entry.
    redis.kill();
    proxy.refuse();
    redis.run().await;
    let new = Instance::launch(redis.config());
    eventually("it waits", || new.replica.status().state.as_str() == "settling").await;
    assert!(!new.replica.status().ready && new.age().is_none());
    proxy.heal();
    new.becomes_ready().await;
    assert!(["saved", "lost"].iter().all(|id| new.refuses(&token(id))));
    // The same server as before: nothing to wait for.
    let began = Instant::now();
    let third = Instance::start(&redis).await;
    assert!(third.refuses(&token("lost")));
    println!("a third instance was ready after {:?}", began.elapsed());
}

#[tokio::test]
async fn a_view_that_is_being_repaired_ages_and_is_not_unread() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    instance.replica.revoke((0..2000).map(|n| sign_out(&format!("t-{n}"))).collect()).await.unwrap();
    redis.cli(&["FLUSHALL"]);
    eventually("repaired", || {
        let age = instance.age().expect("it was complete once");
        instance.replica.stats().gaps.get() == 1 && age < Duration::from_secs(1)
    })
    .await;
}

#[tokio::test]
async fn entries_that_vanish_from_the_log_are_noticed_and_given_back() {
    let redis = RedisServer::start(&[]).await;
    let one = Instance::start(&redis).await;
    one.replica.revoke((0..50).map(|n| sign_out(&format!("t-{n}"))).collect()).await.unwrap();
    // Written and trimmed in one step, so that no read can see it: the loss must still be noticed.
    redis.script(
        "MULTI\nXADD doorward:{r}:log * issuer main kind token id unseen\nXTRIM doorward:{r}:log MAXLEN 0\nEXEC\n",
    );
    eventually("noticed", || one.replica.stats().gaps.get() == 1).await;
    eventually("given back", || redis.cli(&["XLEN", "doorward:{r}:log"]) == "50").await;
    redis.cli(&["DEL", "doorward:{r}:log"]);
    eventually("noticed", || one.replica.stats().gaps.get() == 2).await;
    eventually("given back", || redis.cli(&["XLEN", "doorward:{r}:log"]) == "50").await;
}

#[tokio::test]
async fn fifty_cut_connections_while_appending_lose_nothing() {
    let redis = RedisServer::start(&[]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let mut acknowledged = Vec::new();
    for round in 0..50 {
        let appends = (0..10).map(|n| format!("cut-{round}-{n}")).map(|id| {
            let replica = &one.replica;
            async move { (replica.revoke(vec![sign_out(&id)]).await, id) }
        });
        let (results, ()) = tokio::join!(join_all(appends.collect()), async {
            redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        });
        acknowledged.extend(results.into_iter().filter(|(result, _)| result.is_ok()).map(|(_, id)| id));
    }
    assert_eq!(acknowledged.len(), 500, "a cut connection is tried again within the deadline");
    let end = one.replica.revoke(vec![sign_out("end")]).await.unwrap();
    let mut applied = two.replica.applied();
    applied.wait_for(|applied| *applied >= end).await.unwrap();
    assert!(acknowledged.iter().all(|id| two.refuses(&token(id))));
    assert_eq!(two.replica.stats().gaps.get(), 0);
    let clients = || redis.cli(&["CLIENT", "LIST", "TYPE", "normal"]).lines().count();
    eventually("no connection is left behind", || clients() <= 6).await;
}

#[tokio::test]
async fn a_refused_write_holds_here_is_no_success_and_is_offered_again() {
    let redis = RedisServer::start(&[]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let error = one.replica.revoke(vec![sign_out("oom")]).await.unwrap_err();
    assert_eq!(error.label(), "out_of_memory", "{error}");
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let error = one.replica.revoke(vec![sign_out("noreplicas")]).await.unwrap_err();
    assert_eq!(error.label(), "not_replicated", "{error}");
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = one.replica.revoke(vec![sign_out("readonly")]).await.unwrap_err();
    assert_eq!(error.label(), "read_only", "{error}");
    eventually("named", || one.replica.status().state.as_str() == "not_primary").await;
    for id in ["oom", "noreplicas", "readonly"] {
        assert!(one.refuses(&token(id)), "{id}");
    }
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    for id in ["oom", "noreplicas", "readonly"] {
        two.comes_to_refuse(&token(id)).await;
    }
}

#[tokio::test]
async fn a_write_that_too_few_replicas_confirm_is_no_success() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::launch(patient(Redis { min_replicas: 1, ..Redis::from(redis.url()) }));
    instance.becomes_ready().await;
    let error = instance.replica.revoke(vec![sign_out("alone")]).await.unwrap_err();
    assert_eq!(error.label(), "not_replicated", "{error}");
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &redis.port.to_string()]).await;
    eventually("in step", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up")).await;
    // The copy may be up for itself before the primary counts it.
    let began = Instant::now();
    while let Err(error) = instance.replica.revoke(vec![sign_out("together")]).await {
        assert_eq!(error.label(), "not_replicated", "{error}");
        assert!(began.elapsed() < PATIENCE, "{error}");
    }
    assert_eq!(replica.cli(&["EXISTS", "doorward:{r}:main:token:together"]), "1");
}

#[tokio::test]
async fn unfit_stores_are_named_and_heal_without_a_restart() {
    let redis = RedisServer::start(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"]).await;
    let instance = Instance::launch(redis.config());
    eventually("named", || instance.replica.status().state.as_str() == "may_evict").await;
    let detail = instance.replica.status().detail.unwrap();
    assert!(detail.contains("volatile-lru") && !instance.replica.status().ready, "{detail}");
    let tolerant = Instance::launch(RedisConfig { allow_eviction: true, ..redis.config() });
    tolerant.becomes_ready().await;
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    instance.becomes_ready().await;
    // Changed under a running instance: named, and not taken out.
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    eventually("named", || instance.replica.status().state.as_str() == "may_evict").await;
    assert!(instance.replica.status().ready && instance.age().is_some());
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    eventually("healed", || instance.replica.status().state.as_str() == "following").await;
}

#[tokio::test]
async fn a_wrong_password_is_named_as_such_and_never_shown() {
    let redis = RedisServer::start(&["--requirepass", "right"]).await;
    let without = Instance::launch(redis.config());
    let wrong = Instance::launch(RedisConfig::new(format!("redis://:wr0ng@127.0.0.1:{}", redis.port)));
    for instance in [&without, &wrong] {
        eventually("named", || instance.replica.status().state.as_str() == "access_denied").await;
        let status = format!("{:?}", instance.replica.status());
        assert!(!status.contains("wr0ng"), "{status}");
        let error = instance.replica.revoke(vec![sign_out("j")]).await.unwrap_err();
        assert_eq!(error.label(), "not_permitted", "{error}");
    }
    redis.cli(&["-a", "right", "CONFIG", "SET", "requirepass", "wr0ng"]);
    wrong.becomes_ready().await;
}

#[tokio::test]
async fn a_frozen_redis_ages_the_view_until_it_thaws() {
    let redis = RedisServer::start(&[]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    one.replica.revoke(vec![sign_out("before")]).await.unwrap();
    two.comes_to_refuse(&token("before")).await;
    redis.signal("-STOP");
    let began = Instant::now();
    let error = one.replica.revoke(vec![sign_out("frozen")]).await.unwrap_err();
    assert!(matches!(error.label(), "timeout" | "unavailable"), "{error}");
    assert!(began.elapsed() < PATIENCE, "answered within its deadline: {:?}", began.elapsed());
    eventually("old", || two.age().is_some_and(|age| age > Duration::from_secs(3))).await;
    assert!(two.refuses(&token("before")));
    redis.signal("-CONT");
    let thawed = Instant::now();
    eventually("fresh", || two.age().is_some_and(|age| age < Duration::from_millis(500))).await;
    assert!(thawed.elapsed() < PATIENCE, "{:?}", thawed.elapsed());
    two.comes_to_refuse(&token("frozen")).await;
}

#[tokio::test]
async fn a_lookup_keeps_its_deadline() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::launch(RedisConfig { lookup_deadline: Duration::from_millis(100), ..redis.config() });
    instance.becomes_ready().await;
    instance.replica.revoke(vec![sign_out("j")]).await.unwrap();
    assert!(answered(&instance).await);
    redis.signal("-STOP");
    for _ in 0..3 {
        let began = Instant::now();
        let error = instance.replica.lookup(&[token("j")], None).await.unwrap_err();
        assert!(began.elapsed() < PATIENCE / 4, "{error} after {:?}", began.elapsed());
    }
    redis.signal("-CONT");
    let answered = async {
        while instance.replica.lookup(&[token("j")], None).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("answers again");
}
