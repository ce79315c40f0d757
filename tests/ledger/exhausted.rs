//! A log with the last id that there is: Redis adds no entry after it.

use serde_json::json;

use super::support::RedisServer;
use crate::api::{READER, admin_keys, post, read, reason, revoke};
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::tokens::Tokens;

const LAST: &str = "18446744073709551615-18446744073709551615";

fn config(tokens: &Tokens, redis: &RedisServer) -> String {
    let store = format!("revocation: {{store: redis, max_staleness: 2s, redis: {{url: \"{}\"}}}}\n", redis.url());
    tokens.config(&(store + "limits: {http_timeout: 60s, receipt_timeout: 50s}\n" + &admin_keys()))
}

/// Another writer's entry, which revokes a session.
fn add(redis: &RedisServer, id: &str, session: &str) {
    let fields = ["issuer", "dev", "kind", "session", "id", session];
    redis.cli(&[&["XADD", "doorward:{r}:log", id][..], &fields].concat());
}

fn of_session(tokens: &Tokens, session: &str) -> String {
    tokens.with(json!({"sub": format!("user-of-{session}"), "sid": session}))
}

async fn refuses(doorward: &Doorward, tokens: &[String]) {
    let checks = Checks::connect(&doorward.check).await;
    for token in tokens {
        eventually("it is refused", async || reason(&checks, token).await == "revoked").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_can_take_no_entry_is_written_anew() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = config(&tokens, &redis);
    let (one, two) = (Doorward::start(&config).await, Doorward::start(&config).await);
    assert_eq!(revoke(&one, &json!({"kind": "session", "id": "known"})).await.status, 201);
    // An issuer that is not configured here, and an id far in the future.
    redis.cli(&["XADD", "doorward:{r}:log", "*", "issuer", "foreign", "kind", "user", "id", "\u{e9}", "at", "*"]);
    add(&redis, "9223372036854775808-0", "far");
    // A user's revocation without an instant: its watermark would be the time of the entry, which the id does not
    // give.
    let fields = ["issuer", "dev", "kind", "user", "id", "careless"];
    redis.cli(&[&["XADD", "doorward:{r}:log", "18446744073709551615-0"][..], &fields].concat());
    add(&redis, LAST, "last");
    let stored = async |at: &Doorward, session: &str| {
        let body = json!({"kind": "session", "id": session});
        eventually("it is stored", async || revoke(at, &body).await.status == 201).await;
    };
    stored(&two, "after").await;
    stored(&one, "later").await;
    assert!(one.logged("the log was rewritten") || two.logged("the log was rewritten"));
    let sessions = ["known", "far", "last", "after", "later"].map(|session| of_session(&tokens, session));
    let revoked = [&sessions[..], &[tokens.with(json!({"sub": "careless", "sid": null}))]].concat();
    let three = Doorward::start(&config).await;
    for doorward in [&one, &two, &three] {
        refuses(doorward, &revoked).await;
        eventually("nothing is to be mended", async || !doorward.get("/readyz").await.1.contains("warnings")).await;
    }
    let log = redis.cli(&["XRANGE", "doorward:{r}:log", "-", "+"]);
    assert!(log.contains("foreign"), "{log}");
    assert!(!log.contains("9223372036854775808") && !log.contains("18446744073709551615"), "{log}");
    let body = json!({"kind": "session", "id": "confirmed"});
    let reply = post(&three, "/v1/revocations?wait=all&timeout=50s", &body).await;
    assert!(reply.status == 201 && reply.body["instances"] == 3, "{reply:?}");
    for doorward in [&one, &two] {
        let checks = Checks::connect(&doorward.check).await;
        assert_eq!(reason(&checks, &of_session(&tokens, "confirmed")).await, "revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_anew_is_named_with_its_cure() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = config(&tokens, &redis);
    let one = Doorward::start(&config).await;
    assert_eq!(revoke(&one, &json!({"kind": "session", "id": "known"})).await.status, 201);
    redis.cli(&["ACL", "SETUSER", "default", "-del"]);
    add(&redis, LAST, "last");
    let known = ["known", "last"].map(|session| of_session(&tokens, session));
    refuses(&one, &known).await;
    let body = json!({"kind": "session", "id": "after"});
    let reply = revoke(&one, &body).await;
    assert_eq!((reply.status, &reply.body["reason"]), (503, &json!("log_exhausted")), "{reply:?}");
    let names_cure = |text: &str| text.contains("last possible id") && text.contains("rename");
    assert!(names_cure(reply.body["detail"].as_str().unwrap()), "{reply:?}");
    eventually("/readyz says why", async || {
        let (status, text) = one.get("/readyz").await;
        status == 200
            && text.contains("warnings")
            && text.contains("log_exhausted")
            && text.contains("not written anew")
    })
    .await;
    assert!(names_cure(&one.get("/readyz").await.1));
    eventually("the instances show it", async || {
        read(&one, "/v1/instances", READER).await.body["instances"][0]["state"] == "log_exhausted"
    })
    .await;
    one.logs("last possible id").await;
    // A new instance reads the log nevertheless.
    let two = Doorward::start(&config).await;
    refuses(&two, &known).await;
    redis.cli(&["RENAME", "doorward:{r}:log", "exhausted"]);
    eventually("it is stored", async || revoke(&one, &body).await.status == 201).await;
    eventually("nothing is to be mended", async || !one.get("/readyz").await.1.contains("warnings")).await;
    let sessions = async || redis.cli(&["XRANGE", "doorward:{r}:log", "-", "+"]);
    eventually("all of it is back", async || {
        let log = sessions().await;
        ["known", "last", "after"].iter().all(|session| log.lines().any(|line| line == *session))
    })
    .await;
    refuses(&Doorward::start(&config).await, &known).await;
}
