//! Figures, not assertions: `cargo test --release --test main relay::figures -- --ignored --nocapture`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use doorward::sources::relay::RelayState;

use super::{Running, length};
use crate::ledger::support::{Instance, RedisServer, free_port, sign_out, token};
use crate::support::Process;
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

/// What an hour without a connection leaves: both regions write 50 sign-outs a second meanwhile. By default the entries of
/// that hour are written in a few minutes; `DOORWARD_CUT_SECONDS=3600` takes the time itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn a_cut() {
    const RATE: u32 = 50;
    let real = std::env::var("DOORWARD_CUT_SECONDS").ok().map(|seconds| seconds.parse::<u32>().unwrap());
    let count = RATE * real.unwrap_or(3_600);
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let wire = Proxy::start(us.port);
    let listen = format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.args(["relay", "--from", &eu.url(), "--to", &format!("redis://127.0.0.1:{}", wire.port), "--both"]);
    let relay =
        Process(command.args(["--listen", &listen]).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let is_ready =
        async || reqwest::get(format!("http://{listen}/readyz")).await.is_ok_and(|answer| answer.status() == 200);
    let memory = |what: &str| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", relay.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap() / 1024
    };
    let store =
        || eu.cli(&["INFO", "memory"]).lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse().ok());
    let until_ready = async || {
        while !is_ready().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until_ready().await;
    let (before, empty): (u32, Option<u64>) = (memory("VmRSS"), store());
    wire.refuse();
    let cut = Instant::now();
    let writers = [Instance::start(&eu).await, Instance::start(&us).await];
    let batch = if real.is_some() { RATE / 10 } else { 1_000 };
    for from in (0..count).step_by(usize::try_from(batch).unwrap()) {
        for (at, writer) in writers.iter().enumerate() {
            let id = |n: u32| sign_out(&format!("{at:08x}-0000-4000-8000-{n:012}"));
            writer.replica.revoke((from..count.min(from + batch)).map(id).collect()).await.unwrap();
        }
        if real.is_some() {
            let due = Duration::from_secs_f64(f64::from(from + batch) / f64::from(RATE));
            tokio::time::sleep(due.saturating_sub(cut.elapsed())).await;
        }
    }
    println!("cut for {:?}, in which each region wrote {count}", cut.elapsed());
    for writer in writers {
        writer.end().await;
    }
    let (held, full): (u32, Option<u64>) = (memory("VmRSS"), store());
    let bytes = (full.unwrap() - empty.unwrap()) / u64::from(count);
    println!(
        "the relay has {before} MiB before, {held} MiB at the end of it; a store takes {bytes} bytes for an entry"
    );
    wire.heal();
    let healed = Instant::now();
    let both = 2 * usize::try_from(count).unwrap();
    tokio::join!(reach(&eu, both), reach(&us, both));
    let took = healed.elapsed();
    until_ready().await;
    println!(
        "equal after {took:?}, {:.0}/s in each direction, reconnection included; ready after {:?}; at most {} MiB",
        f64::from(count) / took.as_secs_f64(),
        healed.elapsed(),
        memory("VmHWM")
    );
    assert_eq!((length(&eu), length(&us)), (both, both));
}
