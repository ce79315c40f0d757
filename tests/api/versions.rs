//! Two versions side by side on one log, as in a rolling upgrade: this version, and entries of an older or
//! a newer one.

use std::time::Duration;

use serde_json::json;

use super::{READER, admin_keys, post, read, reason};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::tokens::Tokens;

fn config(tokens: &Tokens, redis: &RedisServer, mode: &str) -> String {
    tokens.config(&format!(
        "revocation: {{store: redis, read: {mode}, max_staleness: 5s, redis: {{url: \"{}\"}}}}\nlimits: {{http_timeout: 30s}}\n{}",
        redis.url(),
        admin_keys()
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_other_versions_revoke_what_they_name_and_stop_nothing() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let here = Doorward::start(&config(&tokens, &redis, "replica")).await;
    let checks = Checks::connect(&here.check).await;
    let users = ["newer-field", "newer-origin", "newer-kind", "older", "unreadable", "last"];
    let of: Vec<_> = users.iter().map(|user| tokens.with(json!({"jti": user, "sub": user, "sid": user}))).collect();
    let add = |fields: &str| redis.script(&format!("XADD doorward:{{r}}:log * {fields}\n"));
    let expires = format!("{}000", crate::support::tokens::now() + 630);
    // From a newer version: one more field, an unknown origin, an unknown kind.
    add(&format!(
        "issuer dev kind token id newer-field at * expires {expires} origin revoked reason \"\" sealed_by hsm tenant 7"
    ));
    add(&format!("issuer dev kind session id newer-origin at * expires {expires} origin guardian reason \"\""));
    add(&format!("issuer dev kind device id newer-kind at * expires {expires} origin revoked reason \"\" form 2"));
    // From an older version: the target alone.
    add("issuer dev kind user id older");
    add("what is this");
    add(&format!("issuer dev kind token id last at * expires {expires} origin signed_out reason \"\""));

    let later = Doorward::start(&config(&tokens, &redis, "replica")).await;
    for (doorward, when) in [(&here, "followed"), (&later, "read from the start")] {
        let checks = Checks::connect(&doorward.check).await;
        eventually("the last entry is applied", || async { reason(&checks, &of[5]).await == "signed_out" }).await;
        for (user, token) in users.iter().zip(&of) {
            let expected = match *user {
                // This version cannot apply an entry of an unknown kind: see envoy/README.md.
                "newer-kind" | "unreadable" => "ok",
                "last" => "signed_out",
                _ => "revoked",
            };
            assert_eq!(reason(&checks, token).await, expected, "{user}, {when}");
        }
        doorward.logs("log entry not understood").await;
        assert_eq!(doorward.get("/readyz?fresh").await.0, 200, "{when}");
    }
    // And this version's own revocation reaches both, behind all that.
    assert_eq!(here.post("/logout", &of[2]).await.0, 204);
    let there = Checks::connect(&later.check).await;
    eventually("followed past what is not known", || async { reason(&there, &of[2]).await == "signed_out" }).await;
    assert_eq!(reason(&checks, &of[2]).await, "signed_out");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_other_versions_are_read_in_lookup_mode() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let doorward = Doorward::start(&config(&tokens, &redis, "lookup")).await;
    let checks = Checks::connect(&doorward.check).await;
    for (id, value) in [("more-words", "* revoked sealed v2"), ("one-word", "*"), ("new-origin", "* guardian")] {
        let token = tokens.with(json!({"jti": id}));
        assert_eq!(reason(&checks, &token).await, "ok");
        redis.cli(&["SET", &format!("doorward:{{r}}:dev:token:{id}"), value, "EX", "600"]);
        assert_eq!(reason(&checks, &token).await, "revoked", "{value}");
    }
    // An unreadable value is not a reason to accept the token.
    let token = tokens.with(json!({"jti": "odd"}));
    redis.cli(&["SET", "doorward:{r}:dev:token:odd", "{\"v\": 2}", "EX", "600"]);
    assert_eq!(reason(&checks, &token).await, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_of_other_versions_count_and_one_that_cannot_be_read_confirms_nothing() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let doorward = Doorward::start(&config(&tokens, &redis, "replica")).await;
    let lease = |name: &str, says: &str| {
        let now: i64 = redis.cli(&["TIME"]).lines().next().unwrap().parse().unwrap();
        let until = (now + 60) * 1000;
        let says = says.replace("NOW", &format!("{now}000"));
        redis.cli(&["SET", &format!("doorward:{{r}}:instance:{name}"), &says, "EX", "60"]);
        redis.cli(&["ZADD", "doorward:{r}:instances", &until.to_string(), name]);
    };
    let revoke = async |user: &str, timeout: &str| {
        let reply = post(
            &doorward,
            &format!("/v1/revocations?wait=all&timeout={timeout}"),
            &json!({"kind": "user", "id": user}),
        )
        .await;
        (reply.status, reply.body)
    };
    // A newer version writes more fields than this one reads; it applies every entry.
    let newer = async {
        loop {
            let newest = redis.cli(&["XREVRANGE", "doorward:{r}:log", "+", "-", "COUNT", "1"]);
            let position = newest.lines().next().filter(|line| !line.is_empty()).unwrap_or("0-0");
            lease("newer", &format!("{position} NOW 3 60 following 9.9.9 zone-b canary"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    lease("newer", "0-0 NOW 3 60 following 9.9.9 zone-b canary");
    let (status, body) = tokio::select! {
        answer = revoke("alice", "20s") => answer,
        () = newer => unreachable!(),
    };
    assert_eq!((status, &body["confirmed"], &body["instances"]), (201, &json!(true), &json!(2)), "{body}");
    let listed = read(&doorward, "/v1/instances", READER).await.body["instances"].clone();
    let newer = listed.as_array().unwrap().iter().find(|one| one["name"] == "newer").unwrap().clone();
    assert_eq!(newer["version"], "9.9.9", "{newer}");

    lease("stranger", "{\"position\": \"9999999999999-0\"}");
    let (status, body) = revoke("bob", "2s").await;
    assert_eq!(
        (status, &body["confirmed"], &body["waiting"]),
        (202, &json!(false), &json!(["newer", "stranger"])),
        "{body}"
    );
    let checks = Checks::connect(&doorward.check).await;
    assert_eq!(reason(&checks, &tokens.of("bob")).await, "revoked", "it is stored all the same");
}
