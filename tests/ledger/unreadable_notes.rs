//! Values in the store's notes that no instance wrote.

use serde_json::{Value, json};

use super::support::RedisServer;
use crate::api::{Reply, admin_keys, post, reason, revoke};
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::tokens::{Tokens, now};

fn config(tokens: &Tokens, redis: &RedisServer) -> String {
    tokens.config(&format!(
        "revocation: {{store: redis, max_staleness: 5s, redis: {{url: \"{}\"}}}}\n\
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
    // Views are not used for longer than five seconds.
    tokio::time::sleep(std::time::Duration::from_secs(7)).await;
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

/// Scores that no instance can have noted with the issuer's name.
fn absurd() -> [String; 6] {
    let in_a_year = (now() + 365 * 24 * 3600) * 1000;
    ["9e15", "inf", "-inf", "-1", "0.5", &in_a_year.to_string()].map(str::to_owned)
}

/// How far ahead of now the instant is that was stamped, in seconds.
fn ahead(stamped: &Reply) -> i64 {
    assert_eq!(stamped.status, 201, "{stamped:?}");
    doorward::clock::parse_rfc3339(stamped.body["at"].as_str().unwrap()).unwrap().as_secs() - now()
}

/// Each note of the store that holds a score or a text, with a member that an instance may write.
const NOTES: [(&str, &str); 12] = [
    ("leads", "dev"),
    ("leads", "No Name"),
    ("dated", "dev"),
    ("dated", "No Name"),
    ("leases", "2000"),
    ("leases", "soon"),
    ("retentions", "2000"),
    ("clock", "since"),
    ("clock", "last"),
    ("clock", "wall"),
    ("issuers", "{}"),
    ("instances", "ghost.00000000"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_score_that_cannot_be_ours_locks_nobody_out() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = config(&tokens, &redis);
    let one = Doorward::start(&config).await;
    assert_eq!(confirm(&one, "first").await.0, 201);
    let checks = Checks::connect(&one.check).await;
    for (round, score) in absurd().iter().enumerate() {
        for (note, member) in NOTES {
            redis.cli(&["ZADD", &format!("doorward:{{r}}:{note}"), score, member]);
        }
        redis.cli(&["ZADD", "doorward:{r}:repairing", score, "gone.00000000"]);
        let mut two = Doorward::start(&config).await;
        for (at, user) in [(&one, format!("alice-{round}")), (&two, format!("bob-{round}"))] {
            let body = json!({"kind": "user", "id": user});
            // A second is the least, and more than a minute what any of these would make of it.
            assert!(ahead(&revoke(at, &body).await) < 30, "{score}");
            let again = async || {
                let token = tokens.with(json!({"sub": user, "sid": null, "iat": now(), "exp": now() + 600}));
                reason(&checks, &token).await == "ok"
            };
            eventually("the user signs in again", again).await;
        }
        // An entry that names no instant is not of the time of these notes either.
        let user = format!("carol-{round}");
        redis.cli(&["XADD", "doorward:{r}:log", "*", "issuer", "dev", "kind", "user", "id", &user]);
        eventually("the user signs in again", async || {
            let token = tokens.with(json!({"sub": user, "sid": null, "iat": now(), "exp": now() + 600}));
            reason(&checks, &token).await == "ok"
        })
        .await;
        let (status, body) = confirm(&one, &format!("dave-{round}")).await;
        assert_eq!((status, &body["instances"]), (201, &json!(2)), "{score}: {body}");
        for note in ["leads", "dated"] {
            let key = format!("\"key\":\"doorward:{{r}}:{note}\"");
            eventually(&key, || async { one.logged(&key) || two.logged(&key) }).await;
        }
        two.stop().await; // Its lease is withdrawn: receipts do not wait for it.
    }
}

/// A value that is greater than all others would hide them: the notes of a sorted set are raised only.
#[tokio::test(flavor = "multi_thread")]
async fn a_score_that_cannot_be_ours_hides_no_lead_and_no_date() {
    // By a clock that is ahead by more than the leeway no lead is measured: the date alone tells.
    for (note, offset) in [("leads", "+0"), ("dated", "+35s")] {
        let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
        let config = config(&tokens, &redis);
        let one = Doorward::start(&config).await;
        let (two, clock) = Doorward::start_with_clock(&config).await;
        clock.step(offset);
        assert_eq!(confirm(&one, "first").await.0, 201);
        let checks = Checks::connect(&two.check).await;
        let key = format!("doorward:{{r}}:{note}");
        for (lead, score) in (4..).step_by(4).zip(absurd()) {
            redis.cli(&["ZADD", &key, &score, "dev"]);
            let user = format!("user-{lead}");
            // Later than any that was verified before.
            let token = tokens.with(json!({"sub": user, "sid": null, "iat": now() + lead, "exp": now() + 600}));
            assert_eq!(reason(&checks, &token).await, "ok");
            let (status, body) = confirm(&one, &user).await;
            assert_eq!((status, &body["confirmed"]), (201, &json!(true)), "{body}");
            assert_eq!(reason(&checks, &token).await, "revoked", "{note} {score}");
            let noted = async || redis.cli(&["ZSCORE", &key, "dev"]).parse::<f64>().is_ok_and(|noted| noted < 9e12);
            eventually("it is removed", noted).await;
        }
        assert!([&one, &two].iter().any(|instance| instance.logged(&format!("\"key\":\"{key}\""))), "it is named");
    }
}

/// The one that writes lost entries back is named in a key that expires; another program's does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_repairer_that_never_ends_does_not_keep_entries_lost() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let one = Doorward::start(&config(&tokens, &redis)).await;
    assert_eq!(revoke(&one, &json!({"kind": "session", "id": "session-of-alice"})).await.status, 201);
    redis.script("MULTI\nFLUSHALL\nSET doorward:{r}:repairer somebody\nEXEC\n");
    let written = async || redis.cli(&["XLEN", "doorward:{r}:log"]).parse().is_ok_and(|entries: u32| entries > 0);
    eventually("it is written back", written).await;
}
