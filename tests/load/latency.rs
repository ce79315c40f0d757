//! Three instances, one Redis: from the 2xx of a sign-out to the last allow anywhere.

use std::time::{Duration, Instant};

use super::spread;
use crate::ledger::support::{RedisServer, join_all};
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn latency() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = tokens.config(&format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url()));
    let (mut instances, mut checks) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let instance = Doorward::start(&config).await;
        checks.push(Checks::connect(&instance.check).await);
        instances.push(instance);
    }
    let client = reqwest::Client::new();
    let mut lasts = Vec::new();
    for n in 0..500 {
        let token = tokens.of("alice");
        for checks in &checks {
            assert!(checks.check(get("/").token(&token)).await.allowed());
        }
        // Asked again and again while it is being revoked; the time of the last allow's answer.
        let asking = checks.iter().map(|checks| {
            let token = &token;
            Box::pin(async move {
                let mut last = Instant::now();
                while checks.check(get("/").token(token)).await.allowed() {
                    last = Instant::now();
                }
                last
            })
        });
        let logout = client.post(format!("http://{}/logout", instances[n % 3].http)).bearer_auth(&token).send();
        let (answered, lasts_here) = tokio::join!(
            async {
                assert_eq!(logout.await.unwrap().status(), 204);
                Instant::now()
            },
            join_all(asking.collect())
        );
        let last = lasts_here.into_iter().max().unwrap();
        lasts.push(last.saturating_duration_since(answered));
    }
    let after = lasts.iter().filter(|last| **last > Duration::ZERO).count();
    println!(
        "from 2xx to the last allow anywhere, three instances: {}; {after} with any allow after the 2xx",
        spread(lasts)
    );
}
