//! Instances with different settings: those of a writer do not bound the refusals of a reader.

use std::time::Duration;

use serde_json::json;

use crate::api::{admin_keys, post, reason, revoke};
use crate::ledger::support::{Instance, RedisServer, sign_out, token};
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::proxy::Proxy;
use crate::support::tokens::{Tokens, now};

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_with_a_short_lifetime_does_not_bound_the_others() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = |read: &str| {
        let revocation = format!("revocation: {{store: redis, read: {read}, redis: {{url: \"{}\"}}}}\n", redis.url());
        tokens.config(&format!("{revocation}{}", admin_keys()))
    };
    let short = config("replica").replace("audiences:", "max_lifetime: 4s, leeway: 1s, audiences:");
    let writer = Doorward::start(&short).await;
    let readers = [Doorward::start(&config("replica")).await, Doorward::start(&config("lookup")).await];
    let (alice, bob) = (tokens.of("alice"), tokens.with(json!({"sub": "bob", "sid": "s"})));
    assert_eq!(revoke(&writer, &json!({"kind": "user", "id": "alice"})).await.status, 201);
    assert_eq!(revoke(&writer, &json!({"kind": "session", "id": "s"})).await.status, 201);
    tokio::time::sleep(Duration::from_secs(16)).await; // Longer than the writer's tokens live, and than a purge.
    let started_later = Doorward::start(&config("replica")).await;
    for reader in readers.iter().chain([&started_later]) {
        let checks = Checks::connect(&reader.check).await;
        for token in [&alice, &bob] {
            assert_eq!(reason(&checks, token).await, "revoked");
        }
    }
    // A reload with a longer `max_lifetime`: the writer, too, refuses tokens whose revocation it
    // had dropped.
    let checks = Checks::connect(&writer.check).await;
    assert_eq!(reason(&checks, &alice).await, "lifetime_too_long");
    let file = writer.dir.path().join("doorward.yaml");
    let written = std::fs::read_to_string(&file).unwrap().replace("max_lifetime: 4s, leeway: 1s", "max_lifetime: 1h");
    std::fs::write(writer.dir.path().join("new"), written).unwrap();
    std::fs::rename(writer.dir.path().join("new"), &file).unwrap();
    eventually("the reload is in force", || async {
        let reason = reason(&checks, &alice).await;
        assert_ne!(reason, "ok", "what was forgotten is read again first");
        reason == "revoked"
    })
    .await;
    writer.logs("\"known_for_seconds\":72").await;
}

/// Redis gives out no smaller id after it: each later entry is one of the far future.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_far_future_does_not_end_revocation() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = tokens.config(&format!(
        "revocation: {{store: redis, max_staleness: 5s, redis: {{url: \"{}\"}}}}\nlimits: {{http_timeout: 30s}}\n{}",
        redis.url(),
        admin_keys()
    ));
    let (one, two) = (Doorward::start(&config).await, Doorward::start(&config).await);
    let entry = ["issuer", "dev", "kind", "session", "id", "gone"];
    redis.cli(&[&["XADD", "doorward:{r}:log", "9223372036854775808-0"][..], &entry[..]].concat());
    let alice = tokens.of("alice");
    let body = json!({"kind": "user", "id": "alice"});
    let reply = post(&one, "/v1/revocations?wait=all&timeout=28s", &body).await;
    assert_eq!((reply.status, &reply.body["instances"]), (201, &json!(2)), "{reply:?}");
    let later = Doorward::start(&config).await;
    for instance in [&one, &two, &later] {
        let checks = Checks::connect(&instance.check).await;
        assert_eq!(reason(&checks, &alice).await, "revoked");
        let fresh = tokens.with(json!({"sub": "alice", "sid": null, "iat": now() + 5}));
        assert_eq!(reason(&checks, &fresh).await, "ok", "it does not reach into the future");
        assert_eq!(reason(&checks, &tokens.with(json!({"sid": "gone", "sub": "bob"}))).await, "revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_could_not_be_applied_is_not_confirmed() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    let entry = "issuer main kind of-a-later-version id x at * expires 0 origin revoked reason r receipt 1";
    let entry: Vec<_> = entry.split(' ').collect();
    let id = redis.cli(&[&["XADD", "doorward:{r}:log", "*"][..], &entry[..]].concat());
    let key = format!("doorward:{{r}}:instance:{}", instance.replica.name());
    eventually("the instance says so", || async { redis.cli(&["GET", &key]).contains(&format!("unapplied={id}")) })
        .await;
}

/// A page that reaches the end of the log does not come while it grows as fast as it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_grows_fast_is_followed() {
    let redis = RedisServer::start(&[]).await;
    let instance = Instance::start(&redis).await;
    let ends = (now() + 600) * 1000;
    let port = redis.port.to_string();
    let flood = std::thread::spawn(move || {
        use std::io::Write;
        let mut cli = std::process::Command::new("redis-cli");
        let cli =
            cli.args(["-p", &port, "--pipe"]).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let mut child = cli.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        for chunk in 0..40 {
            let line = |n: u32| {
                format!(
                    "XADD doorward:{{r}}:log * issuer main kind token id t{} at * expires {ends}\n",
                    chunk * 2_500 + n
                )
            };
            input.write_all((0..2_500).map(line).collect::<String>().as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(input);
        assert!(child.wait().unwrap().success());
    });
    let (mut oldest, mut renewed, began) = (Duration::ZERO, 0, std::time::Instant::now());
    let mut before = Duration::ZERO;
    while !flood.is_finished() {
        let age = instance.age().unwrap();
        renewed += usize::from(age < before && began.elapsed() > Duration::from_millis(500));
        (before, oldest) = (age, oldest.max(age));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    flood.join().unwrap();
    println!("in {:?} the view was renewed {renewed} times and never older than {oldest:?}", began.elapsed());
    assert!(renewed > 0);
    assert_eq!(instance.replica.stats().gaps.get(), 0);
    instance.comes_to_refuse(&token("t99999")).await;
    instance.replica.revoke(vec![sign_out("after")]).await.unwrap();
    let later = Instance::start(&redis).await;
    later.comes_to_refuse(&token("after")).await;
    assert!(later.refuses(&token("t0")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_that_finds_no_room_to_wait_holds_here_and_is_stored_later() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    let config = |port: u16| {
        tokens.config(&format!(
            "revocation: {{store: redis, redis: {{url: \"redis://127.0.0.1:{port}\"}}}}\n\
             limits: {{waiting_decisions: 1, decision_timeout: 5s, store_timeout: 5s}}\n{}",
            admin_keys()
        ))
    };
    // The other one has the issuer's former name.
    let renamed = config(proxy.port).replace("name: dev,", "name: shop, formerly: [dev],");
    let (doorward, other) = (Doorward::start(&renamed).await, Doorward::start(&config(redis.port)).await);
    let users: Vec<_> = (0..4).map(|n| tokens.of(&format!("user-{n}"))).collect();
    let (checks, others) = (Checks::connect(&doorward.check).await, Checks::connect(&other.check).await);
    for token in &users {
        assert_eq!(reason(&checks, token).await, "ok");
    }
    proxy.stall();
    let sent = users.iter().map(|token| doorward.post("/logout", token));
    let answers = futures_util::future::join_all(sent).await;
    assert!(answers.iter().all(|(status, _)| *status == 503), "{answers:?}");
    for token in &users {
        assert_eq!(reason(&checks, token).await, "signed_out", "whether or not it waited for the store");
    }
    proxy.heal();
    for token in &users {
        eventually("it is stored", || async { reason(&others, token).await == "signed_out" }).await;
    }
}
