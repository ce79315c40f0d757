//! Figures, not assertions: what each way of knowing whether a token is alive costs.
//!
//!     cargo test --release --test main costs -- --ignored --nocapture
//!
//! The seeds' claims that they measure: asking the Accounts service on every request is slow; a blacklist
//! stores less than a whitelist, an instant per user still less.

use std::time::{Duration, Instant};

use doorward::authz::claims::IssuerName;
use doorward::authz::revocation::{Kind, Origin, Revocation, Target, TargetId, Watermark};
use serde_json::json;

use crate::ledger::support::{Instance, RedisServer, now};
use crate::support::authorization_server::AuthorizationServer;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;

const RUNS: usize = 5;
const CHECKS: usize = 1000;

/// Prints the medians over the runs of p50 and p99 of one check at a time, as Envoy would see them.
#[expect(clippy::print_stdout, reason = "a measurement prints")]
async fn measure(what: &str, config: &str, token: &str) {
    let doorward = Doorward::start(config).await;
    let checks = Checks::connect(&doorward.check).await;
    for _ in 0..200 {
        let verdict = checks.check(get("/").token(token)).await;
        assert!(verdict.allowed(), "{what}: {verdict:?}");
    }
    let (mut p50, mut p99, mut refused) = (Vec::new(), Vec::new(), 0);
    for _ in 0..RUNS {
        let mut took = Vec::with_capacity(CHECKS);
        for _ in 0..CHECKS {
            let began = Instant::now();
            let verdict = checks.check(get("/").token(token)).await;
            took.push(began.elapsed());
            refused += usize::from(!verdict.allowed()); // A deadline that a busy machine missed.
        }
        took.sort();
        p50.push(took[CHECKS / 2]);
        p99.push(took[CHECKS * 99 / 100]);
    }
    p50.sort();
    p99.sort();
    println!("{what:<46} p50 {:>9.1?}  p99 {:>9.1?}  refused {refused}", p50[RUNS / 2], p99[RUNS / 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn costs_of_a_decision() {
    let (tokens, redis, server) = (Tokens::new(), RedisServer::start(&[]).await, AuthorizationServer::start().await);
    let token = tokens.with(json!({"jti": "measured"}));
    let (_, digest, _) = crate::support::doorward::run(&["hash-key"], "a-key-for-the-measurement");
    let redis_config = |read: &str, list: &str| {
        tokens.config(&format!(
            "revocation: {{store: redis, read: {read}, list: {list}, redis: {{url: \"{}\"}}}}\nadmin: {{keys: [{{name: auth, {}, may: [register]}}]}}\n",
            redis.url(),
            digest.trim()
        ))
    };
    measure("replica, deny-list", &redis_config("replica", "deny"), &token).await;
    measure("lookup, deny-list", &redis_config("lookup", "deny"), &token).await;
    let registering = Doorward::start(&redis_config("replica", "allow")).await;
    let request = reqwest::Client::new().post(format!("http://{}/v1/registrations", registering.http));
    let response = request.bearer_auth("a-key-for-the-measurement").json(&json!({"token": token})).send().await;
    assert_eq!(response.unwrap().status(), 201);
    drop(registering);
    measure("replica, allow-list", &redis_config("replica", "allow"), &token).await;
    measure("lookup, allow-list", &redis_config("lookup", "allow"), &token).await;

    server.says("opaque", &AuthorizationServer::active("alice"));
    let asking = |cache: &str| {
        let settings = server.settings(&format!(", cache: {cache}"));
        tokens.config("").replace("keys: {jwks", &format!("{settings}, keys: {{jwks"))
    };
    measure("introspection, remembered (cache: 1h)", &asking("1h"), "opaque").await;
    measure("introspection, every time, server takes 0 ms", &asking("0s"), "opaque").await;
    server.takes(Duration::from_millis(5));
    measure("introspection, every time, server takes 5 ms", &asking("0s"), "opaque").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn costs_of_the_lists() {
    const MANY: u32 = 50_000;
    let hour = Duration::from_secs(3600);
    let issuer = IssuerName::parse("main").unwrap();
    let id = |n: u32| TargetId::new(&format!("3f2b8c1e-0000-4000-8000-{n:012}"));
    let revoked = |n: u32| Revocation {
        target: Target::new(issuer.clone(), Kind::Token, id(n)),
        watermark: Watermark::FOREVER,
        expires_at: now().plus(hour),
        origin: Origin::SignedOut,
        reason: None,
    };
    let registered = |n: u32| Revocation::registering(issuer.clone(), id(n), now().plus(hour));
    let everywhere = |n: u32| Revocation {
        target: Target::new(issuer.clone(), Kind::User, id(n)),
        watermark: Watermark::at(now()),
        ..revoked(n)
    };
    let entries: [(&str, &dyn Fn(u32) -> Revocation); 3] = [
        ("deny-list, one signed-out token", &revoked),
        ("deny-list, one user signed out everywhere", &everywhere),
        ("allow-list, one live token", &registered),
    ];
    for (what, entry) in entries {
        let redis = RedisServer::start(&[]).await;
        let memory = || {
            let info = redis.cli(&["INFO", "memory"]);
            let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().to_owned();
            used.parse::<u64>().unwrap()
        };
        let writer = Instance::start(&redis).await;
        let before = memory();
        let began = Instant::now();
        for batch in (0..MANY).collect::<Vec<_>>().chunks(256) {
            writer.replica.revoke(batch.iter().map(|n| entry(*n)).collect()).await.unwrap();
        }
        let took = began.elapsed();
        writer.end().await;
        println!(
            "{what:<44} {} bytes in Redis (key and log), {:.0} written/s",
            (memory() - before) / u64::from(MANY),
            f64::from(MANY) / took.as_secs_f64()
        );
    }
}
