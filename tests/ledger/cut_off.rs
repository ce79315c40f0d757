//! Instances that are cut off, frozen or left waiting, and stores that die under load: an oracle
//! computes the possible state of each at each moment.

use std::time::{Duration, Instant};

use doorward::sources::ledger::RedisConfig;
use tokio::time::sleep;

use super::oracle::{Judged, Oracle};
use super::support::*;
use crate::support::proxy::Proxy;

/// An instance that reaches Redis through its own proxy.
async fn behind(redis: &RedisServer) -> (Proxy, Instance) {
    let proxy = Proxy::start(redis.port);
    let instance = Instance::launch(RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port)));
    instance.becomes_ready().await;
    (proxy, instance)
}

/// Revokes one token after the other until `done`; records the acknowledged ones in the oracle.
async fn stream(instance: &Instance, oracle: &Oracle, name: &str, pause: Duration, done: impl Fn() -> bool) {
    let mut n = 0;
    while !done() {
        let id = format!("{name}-{n}");
        if instance.replica.revoke(vec![sign_out(&id)]).await.is_ok() {
            oracle.acknowledge(id);
        }
        n += 1;
        sleep(pause).await;
    }
}

#[tokio::test]
async fn silently_lost_connections_delay_revocations_and_lose_none() {
    let redis = RedisServer::start(&[]).await;
    let ((proxy_one, one), (proxy_two, two)) = (behind(&redis).await, behind(&redis).await);
    let (oracle, mut judged) = (Oracle::default(), Judged::default());
    let mut slowest = [Duration::ZERO; 2];
    for round in 0..8 {
        // The writer's, the follower's, or both at once.
        if round % 3 != 1 {
            proxy_one.swallow();
        }
        if round % 3 != 2 {
            proxy_two.swallow();
        }
        let began = Instant::now();
        let id = format!("swallowed-{round}");
        one.replica.revoke(vec![sign_out(&id)]).await.expect("on a new connection, within the deadline");
        oracle.acknowledge(id);
        slowest[0] = slowest[0].max(began.elapsed());
        let began = Instant::now();
        oracle.catches_up(&two, &mut judged).await;
        slowest[1] = slowest[1].max(began.elapsed());
    }
    println!("connections swallowed: written within {:?}, followed within {:?} after that", slowest[0], slowest[1]);
    assert_eq!(two.replica.stats().gaps.get(), 0);
}

#[tokio::test]
async fn fifty_forced_disconnects_while_revocations_stream() {
    let redis = RedisServer::start(&[]).await;
    let ((proxy_one, one), (proxy_two, two)) = (behind(&redis).await, behind(&redis).await);
    let (oracle, mut judged) = (Oracle::default(), Judged::default());
    let cuts = std::cell::Cell::new(0);
    let cutting = async {
        while cuts.get() < 50 {
            sleep(Duration::from_millis(20 + 7 * (cuts.get() % 10))).await;
            proxy_two.cut();
            if cuts.get().is_multiple_of(2) {
                proxy_one.cut();
            }
            cuts.set(cuts.get() + 1);
        }
    };
    let judging = async {
        while cuts.get() < 50 {
            oracle.judge(&two, &mut judged);
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::join!(cutting, judging, stream(&one, &oracle, "cut", Duration::from_millis(1), || cuts.get() == 50));
    oracle.catches_up(&two, &mut judged).await;
    println!(
        "50 disconnects: {} acknowledged, {} samples, oldest view {:?}",
        oracle.count(),
        judged.samples,
        judged.oldest
    );
    assert_eq!(two.replica.stats().gaps.get(), 0, "resumed where it was");
    let three = Instance::start(&redis).await;
    oracle.all_refused(&three);
}

#[tokio::test]
async fn a_slow_network_makes_views_old_and_never_wrong() {
    let redis = RedisServer::start(&[]).await;
    let (one, (proxy, two)) = (Instance::start(&redis).await, behind(&redis).await);
    let (oracle, mut judged) = (Oracle::default(), Judged::default());
    for delay in [0, 5, 40, 120, 0] {
        proxy.delay(Duration::from_millis(delay));
        let until = Instant::now() + Duration::from_millis(600);
        let judging = async {
            while Instant::now() < until {
                oracle.judge(&two, &mut judged);
                sleep(Duration::from_millis(1)).await;
            }
        };
        let name = format!("slow-{}", oracle.count());
        tokio::join!(judging, stream(&one, &oracle, &name, Duration::from_millis(3), || Instant::now() >= until));
    }
    oracle.catches_up(&two, &mut judged).await;
}

/// kill -9 while a burst is being written; returns the acknowledged revocations.
async fn killed_mid_burst(redis: &mut RedisServer, one: &Instance, two: &Instance) -> Oracle {
    let oracle = Oracle::default();
    let killed = std::cell::Cell::new(false);
    let burst = async |name: &str| stream(one, &oracle, name, Duration::ZERO, || killed.get()).await;
    let (mut judged, mut judged_one) = (Judged::default(), Judged::default());
    tokio::join!(burst("a"), burst("b"), burst("c"), burst("d"), async {
        eventually("under load", || oracle.count() > 300).await;
        redis.kill();
        killed.set(true);
    });
    for _ in 0..20 {
        oracle.judge(one, &mut judged_one);
        oracle.judge(two, &mut judged);
        sleep(Duration::from_millis(10)).await;
    }
    oracle
}

#[tokio::test]
async fn a_store_killed_mid_burst_that_syncs_its_log_has_all_that_was_acknowledged() {
    let mut redis = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let oracle = killed_mid_burst(&mut redis, &one, &two).await;
    one.end().await;
    two.end().await; // No instance is left that could put the entries back.
    redis.run().await;
    let three = Instance::start(&redis).await;
    oracle.all_refused(&three);
}

#[tokio::test]
async fn a_store_killed_mid_burst_that_keeps_nothing_is_given_back_what_was_acknowledged() {
    let mut redis = RedisServer::start(&[]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    let oracle = killed_mid_burst(&mut redis, &one, &two).await;
    redis.run().await;
    let three = Instance::start(&redis).await;
    for instance in [&one, &three] {
        oracle.all_refused(instance);
    }
    // Entries that two instances had not read when the store ended come from the third.
    oracle.catches_up(&two, &mut Judged::default()).await;
}
