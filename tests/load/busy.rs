//! The p99 of decisions while 1,000 revocations a second arrive, the keys rotate and the configuration is
//! reloaded, compared with the same instance at rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{interval, sleep};

use crate::ledger::support::{Instance, RedisServer, sign_out};
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::Tokens;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn busy() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let provider = JwksServer::start(tokens.issuer.jwks()).await;
    let config = format!(
        "issuers: [{{name: dev, issuer: \"{}\", audiences: [{}], keys: {{jwks_url: \"{}\", refresh: 1s}}}}]\n\
         revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n",
        doorward::dev::ISSUER,
        doorward::dev::AUDIENCE,
        provider.url(),
        redis.url()
    );
    let doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    let token = tokens.of("alice");
    let file = doorward.dir.path().join("doorward.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (mut calm, mut busy) = (Vec::new(), Vec::new());
    p99(&checks, &token).await; // Warm.
    for _ in 0..ROUNDS {
        calm.push(p99(&checks, &token).await);
        let over = Arc::new(AtomicBool::new(false));
        let mut trouble = JoinSet::new();
        trouble.spawn(revoke(Instance::start(&redis).await, over.clone()));
        let disturb = async {
            for n in 0_u64.. {
                // Another key beside the one in use, and another rule, every half second.
                let mut keys = tokens.issuer.jwks().clone();
                let other = Tokens::new().issuer.jwks()["keys"][0].clone();
                keys["keys"].as_array_mut().unwrap().push(other);
                provider.publish(&keys);
                std::fs::write(&file, format!("{text}rules: [{{name: rule-{n}, match: {{path_prefix: /other}}}}]\n"))
                    .unwrap();
                doorward.process.signal("HUP");
                sleep(Duration::from_millis(500)).await;
            }
        };
        tokio::select! {
            () = disturb => {}
            p99 = p99(&checks, &token) => busy.push(p99),
        }
        over.store(true, Ordering::Relaxed);
        while let Some(done) = trouble.join_next().await {
            println!("{} revocations in a round", done.unwrap());
        }
        sleep(Duration::from_millis(500)).await;
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (calm, busy) = (median(&mut calm), median(&mut busy));
    let ratio = busy.as_secs_f64() / calm.as_secs_f64();
    println!("p99 of a check, medians of {ROUNDS} rounds: {calm:?} in calm, {busy:?} in trouble, {ratio:.2} times");
}

/// The p99 of a round of checks, one after the other, each allowed.
async fn p99(checks: &Checks, token: &str) -> Duration {
    let (began, mut took) = (Instant::now(), Vec::new());
    while began.elapsed() < ROUND {
        let asked = Instant::now();
        assert!(checks.check(get("/orders").token(token)).await.allowed());
        took.push(asked.elapsed());
    }
    took.sort_unstable();
    took[(took.len() - 1) * 99 / 100]
}

/// A thousand a second, written through another instance.
async fn revoke(instance: Instance, over: Arc<AtomicBool>) -> usize {
    let (mut tick, mut count) = (interval(Duration::from_millis(10)), 0);
    while !over.load(Ordering::Relaxed) {
        tick.tick().await;
        let ten = (count..count + 10).map(|n| sign_out(&format!("busy-{n}"))).collect();
        instance.replica.revoke(ten).await.unwrap();
        count += 10;
    }
    instance.end().await;
    count
}
