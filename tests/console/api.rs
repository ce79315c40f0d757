//! The parts of the API that the console needs: the caller, the refusals, the changes, the confirmations.

use doorward::authz::denial::Denial;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Fleet, decide, event, revoke, watch};
use crate::api::{OPERATOR, READER, REVOKER, admin_keys, read, request, send};
use crate::ledger::support::RedisServer;
use crate::support::PATIENCE;
use crate::support::doorward::{Doorward, run_with};
use crate::support::eventually;
use crate::support::tokens::Tokens;

async fn embedded(more: &str) -> (Tokens, Doorward) {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(&format!("{more}{}", admin_keys()))).await;
    (tokens, doorward)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_key_learns_what_it_may() {
    let (_, doorward) = embedded("").await;
    for (key, name, may) in [
        (OPERATOR, "operator", json!(["read", "revoke"])),
        (READER, "reader", json!(["read"])),
        (REVOKER, "revoker", json!(["revoke"])),
    ] {
        let reply = read(&doorward, "/v1/about", key).await;
        assert_eq!((reply.status, &reply.body["key"], &reply.body["may"]), (200, &json!(name), &may));
        assert_eq!(reply.body["issuers"][0]["issuer"], json!(["https://dev.doorward.test"]));
        assert_eq!(reply.body["store"], "embedded");
    }
    read(&doorward, "/v1/about", "unknown-key-0123456789").await.is_problem(401, "unknown-credentials", None);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_counted_and_explained_without_any_token() {
    let (tokens, doorward) = embedded("rules: [{name: admin, match: {path_prefix: /admin}, require: {scopes: [admin]}}, {name: trial, match: {path_prefix: /trial}, enforce: false}]\n").await;
    let (alice, other) = (tokens.of("alice"), tokens.with(json!({"aud": "other", "note": tokens.of("x")})));
    let nested = tokens.with(json!({"iss": tokens.of("y")}));
    revoke(&doorward, &json!({"kind": "user", "id": "alice"})).await;
    let bob = tokens.of("bob");
    for (path, token, status, reason) in [
        ("/orders", Some(&alice), 401, "revoked"),
        ("/orders", Some(&alice), 401, "revoked"),
        ("/orders", Some(&other), 401, "wrong_audience"),
        ("/orders", Some(&nested), 401, "unknown_issuer"),
        ("/admin/x", Some(&bob), 403, "insufficient_scope"),
        ("/orders?access_token=secret-in-the-query", None, 401, "missing_token"),
        ("/trial", None, 200, "ok"),
        ("/orders", Some(&bob), 200, "ok"),
    ] {
        assert_eq!(decide(&doorward, path, token.map(String::as_str)).await, (status, reason.to_owned()), "{path}");
    }
    let list = read(&doorward, "/v1/refusals", READER).await.body;
    let counted = |reason: &str, rule: &str| {
        let kinds = list["kinds"].as_array().unwrap().iter();
        kinds.filter(|kind| kind["reason"] == reason && kind["rule"] == rule).cloned().collect::<Vec<_>>()
    };
    let revoked = counted("revoked", "default");
    assert_eq!((&revoked[0]["total"], &revoked[0]["issuer"]), (&json!(2), &json!("dev")), "{list}");
    assert_eq!(revoked[0]["counts"].as_array().unwrap().len(), 60);
    assert_eq!(counted("insufficient_scope", "admin").len(), 1);
    assert_eq!(counted("unknown_issuer", "default")[0]["issuer"], Value::Null);
    assert_eq!(counted("missing_token", "trial")[0]["enforced"], false);
    assert_eq!(list["kinds"].as_array().unwrap().len(), 6, "what is allowed is not here: {list}");

    // The same steps as explain has, of each of them.
    let mut everything = list.to_string();
    for refusal in list["explained"].as_array().unwrap() {
        let one = read(&doorward, &format!("/v1/refusals/{}", refusal["id"]), READER).await.body;
        assert_eq!((&one["reason"], &one["request_id"]), (&refusal["reason"], &json!("5b1f0c9e-1")));
        let denial = Denial::ALL.into_iter().find(|denial| refusal["reason"] == denial.label()).unwrap();
        assert_eq!(one["meaning"], denial.meaning());
        let failed: Vec<_> =
            one["checks"].as_array().unwrap().iter().filter(|check| check["passed"] == false).collect();
        assert_eq!(failed.len(), 1, "{one}");
        if refusal["reason"] == "wrong_audience" {
            assert_eq!(failed[0]["check"], "audience");
            assert_eq!((&failed[0]["expected"], &failed[0]["got"]), (&json!(["demo"]), &json!("other")));
        }
        everything.push_str(&one.to_string());
    }
    assert!(!everything.contains("eyJ") && !everything.contains("secret-in"), "{everything}");
    for token in [&alice, &other, &nested] {
        assert!(token.split('.').all(|part| !everything.contains(part)));
    }
    for id in ["0", "99999", "x", "-1"] {
        read(&doorward, &format!("/v1/refusals/{id}"), READER).await.is_problem(404, "not-found", None);
    }
    for path in ["/v1/refusals", "/v1/refusals/1"] {
        read(&doorward, path, REVOKER).await.is_problem(403, "not-permitted", None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_keeps_few() {
    let (_, doorward) = embedded("").await;
    let client = reqwest::Client::new();
    let flood = (0..16).map(|_| async {
        for _ in 0..100 {
            client.get(format!("http://{}/auth/x", doorward.http)).send().await.unwrap();
        }
    });
    let began = std::time::Instant::now();
    futures_util::future::join_all(flood).await;
    let seconds = began.elapsed().as_secs() + 2;
    let list = read(&doorward, "/v1/refusals", READER).await.body;
    assert_eq!(list["kinds"][0]["total"], 1600);
    let explained = list["explained"].as_array().unwrap().len() as u64;
    assert!((1..=seconds).contains(&explained), "one in a second: {explained} in {seconds} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_changes_and_end_with_the_key() {
    let (_, doorward) = embedded("").await;
    let mut watching = watch(doorward.http, READER).await;
    assert_eq!(watching.headers()["content-type"], "text/event-stream");
    assert_eq!(watching.headers()["cache-control"], "no-store");
    let fleet = event(&mut watching, "instances").await;
    assert_eq!((fleet["instances"].as_array().unwrap().len(), &fleet["missing"]), (1, &json!([])), "{fleet}");
    assert_eq!((&fleet["instances"][0]["role"], &fleet["complete"]), (&json!("service"), &json!(true)));
    revoke(&doorward, &json!({"kind": "client", "id": "robot"})).await;
    while event(&mut watching, "revocations").await["client"] != 1 {}
    decide(&doorward, "/x", None).await;
    while event(&mut watching, "refusals").await["kinds"][0]["reason"] != "missing_token" {}

    assert_eq!(watch(doorward.http, REVOKER).await.status(), 403);
    let more: Vec<_> = futures_util::future::join_all((1..8).map(|_| watch(doorward.http, OPERATOR))).await;
    assert!(more.iter().all(|watching| watching.status() == 200));
    assert_eq!(watch(doorward.http, OPERATOR).await.status(), 429);
    drop(more);
    eventually("there is room again", || async { watch(doorward.http, OPERATOR).await.status() == 200 }).await;

    // The key is removed while a watcher uses it.
    let file = doorward.dir.path().join("doorward.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.split("admin:\n").next().unwrap()).unwrap();
    doorward.process.signal("HUP");
    assert_eq!(event(&mut watching, "end").await["reason"], "credentials");
    assert!(watching.chunk().await.unwrap().is_none(), "nothing follows");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_follow_time_and_replaced_revocations() {
    let (_, doorward) = embedded("").await;
    let mut watching = watch(doorward.http, READER).await;
    revoke(&doorward, &json!({"kind": "user", "id": "late", "reason": "first"})).await;
    while event(&mut watching, "revocations").await["user"] != 1 {}
    // The number of revocations stays the same.
    revoke(&doorward, &json!({"kind": "user", "id": "late", "reason": "second"})).await;
    let replaced = tokio::time::timeout(PATIENCE, event(&mut watching, "revocations")).await;
    assert_eq!(replaced.expect("an event")["user"], 1);
    // Nothing more is refused, and the rate sinks.
    decide(&doorward, "/x", None).await;
    let passed = async {
        loop {
            let list = event(&mut watching, "refusals").await;
            let counts = list["kinds"][0]["counts"].as_array().cloned().unwrap_or_default();
            if counts.last() == Some(&json!(0)) && counts.contains(&json!(1)) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, passed).await.expect("an event once the slot has passed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_does_not_silence_the_events() {
    let redis = RedisServer::start(&[]).await;
    let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url());
    let (_tokens, doorward) = embedded(&store).await;
    let mut watching = watch(doorward.http, READER).await;
    event(&mut watching, "instances").await;
    redis.signal("-STOP");
    let heartbeat = async { while watching.chunk().await.unwrap().is_some_and(|chunk| chunk != ":\n\n") {} };
    let came = tokio::time::timeout(PATIENCE, heartbeat).await;
    redis.signal("-CONT");
    came.expect("a comment while the store is asked");
    assert!(watching.chunk().await.unwrap().is_some(), "the events go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_the_events() {
    let (_, mut doorward) = embedded("").await;
    let mut watching = watch(doorward.http, READER).await;
    event(&mut watching, "instances").await;
    let (ended, code) = tokio::join!(event(&mut watching, "end"), doorward.stop());
    assert_eq!((&ended["reason"], code), (&json!("draining"), Some(0)));
    assert!(!doorward.logged("cut off"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_on_which_events_are_taken_is_not_idle() {
    let tokens = Tokens::new();
    let limits = "limits: {idle_timeout: 3s, http_timeout: 3s, request_timeout: 3s, receipt_timeout: 3s}\n";
    let doorward = Doorward::start(&tokens.config(&format!("{limits}{}", admin_keys()))).await;
    // Longer than an idle connection, or one with unread answers, stays open.
    let mut watching = watch(doorward.http, READER).await;
    for _ in 0..12 {
        event(&mut watching, "instances").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_names_who_is_waited_for() {
    let fleet = Fleet::start(3).await;
    let ask = |user: &str, timeout: &str| {
        let path = format!("/v1/revocations?wait=all&timeout={timeout}");
        let asked = request(fleet.admin(), Method::POST, &path).bearer_auth(OPERATOR);
        asked.header("accept", "text/event-stream").json(&json!({"kind": "user", "id": user})).send()
    };
    let mut all = ask("alice", "20s").await.unwrap();
    assert_eq!((all.status().as_u16(), &all.headers()["content-type"]), (200, &"text/event-stream".parse().unwrap()));
    let receipt = event(&mut all, "receipt").await;
    assert_eq!((&receipt["confirmed"], &receipt["instances"]), (&json!(true), &json!(3)), "{receipt}");

    let frozen = &fleet.instances[2];
    let listed = read(frozen, "/v1/instances", READER).await.body;
    let name = listed["instances"][0]["name"].clone();
    frozen.process.signal("STOP");
    let mut some = ask("bob", "4s").await.unwrap();
    // The revocation is stored by now, and the others refuse while the receipt waits for the frozen instance.
    let (status, reason) = decide(&fleet.instances[0], "/orders", Some(&fleet.tokens.of("bob"))).await;
    assert_eq!((status, &*reason), (401, "revoked"));
    let mut text = String::new();
    while let Some(chunk) = some.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    let events: Vec<(String, Value)> = text
        .split("\n\n")
        .filter_map(|event| {
            let (name, data) = event.strip_prefix("event: ")?.split_once("\ndata: ")?;
            Some((name.to_owned(), serde_json::from_str(data).unwrap()))
        })
        .collect();
    let waits =
        |(kind, data): &(String, Value)| kind == "progress" && data["waiting"] == json!([name]) && data["applied"] == 2;
    assert!(events.iter().any(waits), "{events:#?}");
    let (kind, last) = events.last().unwrap();
    assert_eq!((kind.as_str(), &last["confirmed"], &last["waiting"]), ("receipt", &json!(false), &json!([name])));
    frozen.process.signal("CONT");
    // A fault of the request is a problem as ever.
    let faulty = request(fleet.admin(), Method::POST, "/v1/revocations?wait=all").bearer_auth(OPERATOR);
    let faulty = faulty.header("accept", "text/event-stream").json(&json!({"kind": "planet", "id": "x"}));
    send(faulty).await.is_problem(422, "invalid-field", Some("/kind"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_served_where_admin_keys_are_of_use_and_only_when_it_is_on() {
    let (_, off) = embedded("").await;
    assert_eq!(off.get("/console/").await.0, 404);
    let (_, on) = embedded("console: {enabled: true}\n").await;
    assert!(on.get("/console").await.1.contains("<title>Doorward console</title>"), "it leads to the page");

    let fleet = Fleet::start(1).await;
    assert_eq!(fleet.instances[0].get("/console/").await.0, 404, "not on listen.http beside listen.admin");
    let page = send(request(fleet.admin(), Method::GET, "/console/")).await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("require-trusted-types-for 'script'"));
    assert!(!policy.contains("unsafe"));
    for (name, value) in
        [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("cache-control", "no-store")]
    {
        assert_eq!(page.header(name), value);
    }
    let script = send(request(fleet.admin(), Method::GET, "/console/app.js")).await;
    assert_eq!((script.status, script.header("content-type")), (200, "text/javascript; charset=utf-8"));
    assert_eq!(script.header("content-security-policy"), policy);
    for odd in ["none.js", "..%2Fapi.js", "%2e%2e/console.rs", "APP.js"] {
        assert_eq!(send(request(fleet.admin(), Method::GET, &format!("/console/{odd}"))).await.status, 404, "{odd}");
    }
    let root = reqwest::get(format!("http://{}/", fleet.admin())).await.unwrap();
    assert_eq!(root.url().path(), "/console/");
}

#[test]
fn the_setting_needs_a_listener_and_somebody_who_may_use_it() {
    let dir = crate::support::TempDir::new();
    let validate = |more: &str| {
        let file = dir.path().join("doorward.yaml");
        std::fs::write(&file, Tokens::new().config(more)).unwrap();
        run_with(&[], &["validate", "--config", file.to_str().unwrap()], "")
    };
    let (code, _, error) = validate("console: {enabled: true}\nlisten: {http: null}\n");
    assert!(code == 2 && error.contains("console.enabled") && error.contains("listen.admin"), "{error}");
    let (code, said, error) = validate("console: {enabled: true}\n");
    assert!(code == 0 && format!("{said}{error}").contains("admin.keys` is empty"), "{said}{error}");
    let (code, said, error) = validate(&format!("console: {{enabled: true}}\n{}", admin_keys()));
    assert!(code == 0 && !format!("{said}{error}").contains("console"), "{said}{error}");
}
