//! Figures, not assertions: `cargo test --release --test main relay::figures -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use doorward::sources::relay::RelayState;

use super::{Running, length};
use crate::ledger::support::{Instance, RedisServer, sign_out, token};
use crate::support::proxy::Proxy;

/// Writes sign-outs to a log.
async fn fill(redis: &RedisServer, count: u32, name: &str) {
    let writer = Instance::start(redis).await;
    let ids: Vec<_> = (0..count).map(|n| format!("{name}-0000-4000-8000-{n:012}")).collect();
    for batch in ids.chunks(1000) {
        writer.replica.revoke(batch.iter().map(|id| sign_out(id)).collect()).await.unwrap();
    }
    writer.end().await;
}

/// The copy of a whole log; a start with everything copied; and what was written while the region was cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_whole_log_and_a_backlog() {
    const COUNT: u32 = 50_000;
    let size = usize::try_from(COUNT).unwrap();
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    fill(&eu, COUNT, "first").await;
    let wire = Proxy::start(us.port);
    let address = format!("redis://127.0.0.1:{}", wire.port);
    let rate = |took: Duration| f64::from(COUNT) / took.as_secs_f64();
    let began = Instant::now();
    let relay = Running::start(eu.url(), address.clone());
    reach(&us, size).await;
    let took = began.elapsed();
    println!("a whole log of {COUNT} in {took:?}, {:.0}/s", rate(took));
    relay.becomes(RelayState::Following).await;
    relay.end().await;
    let began = Instant::now();
    let relay = Running::start(eu.url(), address);
    relay.becomes(RelayState::Following).await;
    println!("both logs read again, nothing to copy: {:?}", began.elapsed());
    wire.refuse();
    relay.becomes(RelayState::Unreachable).await;
    fill(&eu, COUNT, "later").await;
    wire.heal();
    let began = Instant::now();
    reach(&us, 2 * size).await;
    let took = began.elapsed();
    println!("a backlog of {COUNT} in {took:?}, {:.0}/s, reconnection included", rate(took));
    relay.end().await;
}

async fn reach(redis: &RedisServer, count: usize) {
    while length(redis) < count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// From the answer to a revocation in one region to its use in the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn lag() {
    for delay in [Duration::ZERO, Duration::from_millis(40)] {
        let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
        let (here, there) = (Instance::start(&eu).await, Instance::start(&us).await);
        let wire = Proxy::start(us.port);
        wire.delay(delay);
        let relay = Running::start(eu.url(), format!("redis://127.0.0.1:{}", wire.port));
        relay.becomes(RelayState::Following).await;
        let mut lags = Vec::new();
        for n in 0..200 {
            let id = format!("lag-{n}");
            here.replica.revoke(vec![sign_out(&id)]).await.unwrap();
            let began = Instant::now();
            while !there.refuses(&token(&id)) {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            lags.push(began.elapsed());
        }
        lags.sort();
        println!("{delay:?} each way: p50 {:?}, p99 {:?}, most {:?}", lags[100], lags[197], lags[199]);
        relay.end().await;
    }
}
