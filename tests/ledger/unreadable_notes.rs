//! Values in the store's notes that no instance wrote.

use serde_json::{Value, json};

use super::support::RedisServer;
use crate::api::{admin_keys, post, reason, revoke};
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::tokens::{Tokens, now};

fn config(tokens: &Tokens, redis: &RedisServer) -> String {
    tokens.config(&format!(
        "revocation: {{store: redis, max_staleness: 2s, redis: {{url: \"{}\"}}}}\n\
         limits: {{http_timeout: 60s, receipt_timeout: 50s}}\n{}",
        redis.url(),
        admin_keys()
    ))
}

async fn confirm(at: &Doorward, user: &str) -> (u16, Value) {
    let reply = post(at, "/v1/revocations?wait=all&timeout=45s", &json!({"kind": "user", "id": user})).await;
    (reply.status, reply.body)
}

/// Adds a name as Java's serialisation has it, nine bytes that are not UTF-8.
fn add_bytes(redis: &RedisServer, note: &str, score: &str) {
    let script = "return redis.call('ZADD', KEYS[1], ARGV[1], '\\172\\237\\0\\5t\\4dev')";
    redis.cli(&["EVAL", script, "1", &format!("doorward:{{r}}:{note}"), score]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_not_ours_does_not_end_the_sharing_of_leads() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = config(&tokens, &redis);
    let (one, two) = (Doorward::start(&config).await, Doorward::start(&config).await);
    add_bytes(&redis, "leads", "5");
    let ahead = tokens.with(json!({"iat": now() + 25, "exp": now() + 600}));
    let checks = [Checks::connect(&one.check).await, Checks::connect(&two.check).await];
    assert_eq!(reason(&checks[1], &ahead).await, "ok");
    let lead = || one.metric("doorward_clock_skew_seconds{of=\"dev\"}");
    eventually("the lead is shared", || async { lead().await.unwrap_or_default() > 15.0 }).await;
    let (status, body) = confirm(&one, "alice").await;
    assert_eq!((status, &body["confirmed"]), (201, &json!(true)), "{body}");
    for checks in &checks {
        assert_eq!(reason(checks, &ahead).await, "revoked");
    }
    one.logs("\"key\":\"doorward:{r}:leads\"").await;
    one.logs("\"longest_bytes\":9").await;
    let said = one.log.lock().unwrap().iter().filter(|line| line.contains("cannot have written")).count();
    assert_eq!(said, 1, "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_are_not_ours_stop_nobody() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = config(&tokens, &redis);
    let one = Doorward::start(&config).await;
    let notes = ["leads", "leases", "retentions", "clock", "issuers", "instances", "repairing"];
    for note in notes {
        add_bytes(&redis, note, "9e15");
    }
    // Longer than any lease, than any retention, and than any possible note of an instance.
    redis.cli(&["ZADD", "doorward:{r}:leases", "9e15", "31536000000"]);
    redis.cli(&["ZADD", "doorward:{r}:retentions", "1", "9999999999999999999"]);
    redis.cli(&["ZADD", "doorward:{r}:retentions", "1", "99999999999"]);
    redis.cli(&["ZADD", "doorward:{r}:instances", "9e15", "ghost"]);
    // Views are not used for longer than two seconds.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let two = Doorward::start(&config).await;
    for (at, user, instances) in [(&one, "alice", 2), (&two, "bob", 2)] {
        let checks = Checks::connect(&at.check).await;
        let token = tokens.of(user);
        assert_eq!(reason(&checks, &token).await, "ok");
        let (status, body) = confirm(at, user).await;
        assert_eq!((status, &body["instances"]), (201, &json!(instances)), "{body}");
        assert_eq!(reason(&checks, &token).await, "revoked");
    }
    // A mark of repair is read by instances that connect.
    for note in notes {
        let key = format!("\"key\":\"doorward:{{r}}:{note}\"");
        eventually(&key, || async { one.logged(&key) || two.logged(&key) }).await;
    }
    one.logs("a lease that ends later than any lease can is ignored").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_named() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = config(&tokens, &redis);
    let one = Doorward::start(&config).await;
    let checks = Checks::connect(&one.check).await;
    for note in ["leads", "leases", "retentions", "clock", "issuers", "instances", "repairing", "meta"] {
        let key = format!("doorward:{{r}}:{note}");
        let cure = if note == "meta" { "delete the key" } else { "rename or delete that key" };
        redis.cli(&["DEL", &key]);
        if note == "meta" {
            redis.cli(&["EVAL", "return redis.call('SET', KEYS[1], '\\255\\254')", "1", &key]);
        } else {
            redis.cli(&["SET", &key, "what-it-holds"]);
        }
        let new = Doorward::launch(&config).await;
        for text in [&*key, cure] {
            new.logs(text).await;
        }
        assert!(!new.logged("what-it-holds"));
        if ["leases", "retentions", "clock", "instances", "meta"].contains(&note) {
            // Not ready: the reason is there. Ready: a warning.
            for instance in [&new, &one] {
                eventually(&key, || async { instance.get("/readyz").await.1.contains(&key) }).await;
            }
            assert_eq!(one.get("/readyz").await.0, 200);
        }
        if note == "issuers" {
            eventually(&key, || async { new.get("/readyz").await.1.contains(&key) }).await;
        }
        redis.cli(&["DEL", &key]);
        new.ready().await;
        let token = tokens.of("carol");
        eventually("it decides", || async { reason(&checks, &token).await == "ok" }).await;
        eventually("it is stored", || async {
            revoke(&one, &json!({"kind": "session", "id": format!("s-{note}")})).await.status == 201
        })
        .await;
    }
}
