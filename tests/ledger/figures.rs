//! Figures, not assertions: `cargo test --release --test main ledger::figures -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use doorward::sources::ledger::RedisConfig;
use doorward::sources::replica::Operation;

use super::support::*;

/// Writes a log of `count` sign-outs.
async fn fill(redis: &RedisServer, count: u32) {
    let writer = Instance::start(redis).await;
    let ids: Vec<_> = (0..count).map(|n| format!("3f2b8c1e-0000-4000-8000-{n:012}")).collect();
    for batch in ids.chunks(1000) {
        writer.replica.revoke(batch.iter().map(|id| sign_out(id)).collect()).await.unwrap();
    }
    writer.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn boot_replay() {
    let count = 200_000_u32;
    let redis = RedisServer::start(&[]).await;
    fill(&redis, count).await;
    for _ in 0..3 {
        let began = Instant::now();
        let instance = Instance::launch(redis.config());
        let mut applied = instance.replica.applied();
        applied.changed().await.unwrap();
        let took = began.elapsed();
        println!("replay: {count} entries in {took:?}, {:.0} entries/s", f64::from(count) / took.as_secs_f64());
        instance.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn reseed() {
    let count = 50_000_u32;
    let redis = RedisServer::start(&[]).await;
    fill(&redis, count).await;
    let instance = Instance::start(&redis).await;
    let began = Instant::now();
    redis.cli(&["FLUSHALL"]);
    eventually("given back", || redis.cli(&["XLEN", "doorward:{r}:log"]) == count.to_string()).await;
    let took = began.elapsed();
    println!(
        "re-seed: {count} revocations in {took:?}, {:.0}/s, detection included",
        f64::from(count) / took.as_secs_f64()
    );
    instance.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn apply_lag() {
    let redis = RedisServer::start(&[]).await;
    let (one, two) = (Instance::start(&redis).await, Instance::start(&redis).await);
    for interval in [Duration::from_millis(10), Duration::from_millis(1)] {
        let mut append = Vec::new();
        let mut lag = Vec::new();
        for n in 0..1000 {
            let began = Instant::now();
            let id = format!("{interval:?}-{n}");
            let position = one.replica.revoke(vec![sign_out(&id)]).await.unwrap();
            append.push(began.elapsed());
            let acknowledged = Instant::now();
            two.replica.applied().wait_for(|applied| *applied >= position).await.unwrap();
            lag.push(acknowledged.elapsed());
            tokio::time::sleep_until((began + interval).into()).await;
        }
        for (name, mut times) in [("append", append), ("applied after the answer", lag)] {
            times.sort();
            println!("every {interval:?}: {name} p50 {:?} p99 {:?} max {:?}", times[500], times[990], times[999]);
        }
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn at_rest() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.cli(&["CONFIG", "RESETSTAT"]);
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (stats, took) = (redis.cli(&["INFO", "commandstats"]), began.elapsed().as_secs_f64());
    let mut total = 0.0;
    for line in stats.lines().filter(|line| !line.contains("config")) {
        let Some((name, facts)) = line.trim().strip_prefix("cmdstat_").and_then(|line| line.split_once(':')) else {
            continue;
        };
        let calls: f64 = facts.strip_prefix("calls=").unwrap().split(',').next().unwrap().parse().unwrap();
        println!("{:>6.2}/s {name}", calls / took);
        total += calls;
    }
    println!("at rest: {:.1} commands a second", total / took);
    instance.end().await;
}

/// The cost of following another service's keys: a scan reads the whole database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn adopting() {
    let redis = RedisServer::start(&["--enable-debug-command", "yes"]).await;
    redis.cli(&["DEBUG", "POPULATE", "900000", "session"]);
    redis.cli(&["DEBUG", "POPULATE", "100000", "blacklist"]);
    let cpu = || {
        let info = redis.cli(&["INFO", "cpu"]);
        let fact = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
        fact("used_cpu_user:").unwrap() + fact("used_cpu_sys:").unwrap()
    };
    let within = Duration::from_secs(4);
    let issuers = vec![(doorward::authz::claims::IssuerName::parse("main").unwrap(), Duration::ZERO)];
    let adopt = doorward::sources::ledger::Adopt { keys: blacklist(), within, issuers };
    let (before, began) = (cpu(), Instant::now());
    let instance = Instance::launch(RedisConfig { adopt: Some(adopt), ..redis.config() });
    instance.becomes_ready().await;
    println!("first scan: {:?}, {:.0} ms of the server", began.elapsed(), (cpu() - before) * 1000.0);
    let scans = || instance.replica.stats().operations(Operation::Adopt, "ok").get();
    let (scans_before, before, began) = (scans(), cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let (scanned, used) = (f64::from(u32::try_from(scans() - scans_before).unwrap()), cpu() - before);
    println!(
        "{scanned} scans in {:?}: {:.0} ms of the server each, following included",
        began.elapsed(),
        used * 1000.0 / scanned
    );
    instance.end().await;
}
