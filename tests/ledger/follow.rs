//! Catching up, following, and the state of an instance over time.

use std::time::{Duration, Instant};

use super::support::*;

#[tokio::test]
async fn a_sign_out_at_one_instance_is_refused_at_the_other_within_a_second() {
    let redis = RedisServer::start(&[]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let began = Instant::now();
    let position = one.replica.revoke(vec![sign_out("j")]).await.unwrap();
    assert!(one.refuses(&token("j")), "at once where it was asked for");
    two.comes_to_refuse(&token("j")).await;
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    for instance in [&one, &two] {
        let mut applied = instance.replica.applied();
        applied.wait_for(|applied| *applied >= position).await.unwrap();
    }
    assert!(!two.refuses(&token("another")));
}

#[tokio::test]
async fn a_new_instance_learns_the_past() {
    let redis = RedisServer::start(&[]).await;
    let first = Instance::start(&redis).await;
    for batch in 0..5 {
        let revocations = (0..500).map(|n| sign_out(&format!("{batch}-{n}"))).collect();
        first.replica.revoke(revocations).await.unwrap();
    }
    first.end().await;
    let second = Instance::start(&redis).await;
    assert!((0..5).all(|batch| (0..500).all(|n| second.refuses(&token(&format!("{batch}-{n}"))))));
}

#[tokio::test]
async fn the_view_ages_by_the_start_of_the_last_read() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::launch(redis.config());
    assert_eq!(instance.age(), None, "never read");
    instance.becomes_ready().await;
    // Idle: it ages until the read under way ends, and is then as old as that read was long.
    for _ in 0..3 {
        eventually("read again", || instance.age().unwrap() < Duration::from_secs(1)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_restart_of_redis_with_its_log_on_disk_is_followed_on() {
    let mut redis = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    one.replica.revoke(vec![sign_out("before")]).await.unwrap();
    two.comes_to_refuse(&token("before")).await;
    redis.kill();
    let refused = one.replica.revoke(vec![sign_out("meanwhile")]).await.unwrap_err();
    assert_eq!(refused.label(), "unavailable");
    assert!(one.refuses(&token("meanwhile")), "refused by the store, and yet it holds here");
    redis.run().await;
    eventually("written again", || one.replica.stats().store_up()).await;
    one.replica.revoke(vec![sign_out("after")]).await.unwrap();
    two.comes_to_refuse(&token("after")).await;
    two.comes_to_refuse(&token("meanwhile")).await; // Offered until the store took it.
    let stats = two.replica.stats();
    assert_eq!(stats.gaps.get(), 0, "an intact restart is no gap");
}

#[tokio::test]
async fn redis_that_comes_up_late_is_waited_for() {
    let mut redis = RedisServer::stopped(&[]);
    let instance = Instance::launch(redis.config());
    eventually("named unreachable", || instance.replica.status().state.as_str() == "unreachable").await;
    assert!(!instance.replica.status().ready);
    redis.run().await;
    let began = Instant::now();
    instance.becomes_ready().await;
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}
