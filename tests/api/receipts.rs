//! `wait=all`: an answer when every instance refuses.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{OPERATOR, READER, admin_keys, post, read, reason, request, send};
use crate::ledger::support::RedisServer;
use crate::support::doorward::{Doorward, run_with};
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;

/// Short, so that a lease (this and seven seconds) runs out while the test waits.
const STALENESS: Duration = Duration::from_secs(2);

struct Fleet {
    tokens: Tokens,
    redis: RedisServer,
    instances: Vec<Doorward>,
    names: Vec<String>,
}

impl Fleet {
    async fn start(size: usize) -> Self {
        let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
        let config = tokens.config(&format!(
            "revocation: {{store: redis, max_staleness: {}s, redis: {{url: \"{}\"}}}}\nlimits: {{http_timeout: 30s}}\n{}",
            STALENESS.as_secs(),
            redis.url(),
            admin_keys()
        ));
        let (mut instances, mut names) = (Vec::new(), Vec::new());
        for _ in 0..size {
            let instance = Doorward::start(&config).await;
            let listed = read(&instance, "/v1/instances", READER).await.body["instances"].clone();
            let this = listed.as_array().unwrap().iter().find(|one| one["this"] == true).unwrap();
            names.push(this["name"].as_str().unwrap().to_owned());
            instances.push(instance);
        }
        let fleet = Self { tokens, redis, instances, names };
        // A new store may have lost leases: it confirms no receipt for the length of a lease.
        assert_eq!(fleet.revoke("nobody", "20s").await.0, 201);
        fleet
    }

    /// Revokes a user through the first instance, and waits for all.
    async fn revoke(&self, user: &str, timeout: &str) -> (u16, Value) {
        let path = format!("/v1/revocations?wait=all&timeout={timeout}");
        let reply = post(&self.instances[0], &path, &json!({"kind": "user", "id": user})).await;
        (reply.status, reply.body)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn confirmed_means_that_every_instance_refuses() {
    let fleet = Fleet::start(3).await;
    let mut checks = Vec::new();
    for instance in &fleet.instances {
        checks.push(Checks::connect(&instance.check).await);
    }
    let mut took = Vec::new();
    for round in 0..20 {
        let user = format!("user-{round}");
        let token = fleet.tokens.of(&user);
        for checks in &checks {
            assert_eq!(reason(checks, &token).await, "ok");
        }
        let (status, body) = fleet.revoke(&user, "5s").await;
        for checks in &checks {
            assert_eq!(reason(checks, &token).await, "revoked", "{body}");
        }
        assert_eq!((status, &body["confirmed"], &body["instances"]), (201, &json!(true), &json!(3)), "{body}");
        assert!(body.get("waiting").is_none() && body.get("applied").is_none());
        took.push(body["took_ms"].as_f64().unwrap());
    }
    took.sort_by(f64::total_cmp);
    println!("confirmed by three instances: median {} ms, slowest {} ms", took[10], took[19]);
    let listed = read(&fleet.instances[1], "/v1/instances", READER).await.body;
    assert_eq!((listed["instances"].as_array().unwrap().len(), &listed["complete"]), (3, &json!(true)), "{listed}");
    for one in listed["instances"].as_array().unwrap() {
        assert!(fleet.names.iter().any(|name| one["name"] == name.as_str()));
        assert!(one["view_age_ms"].as_u64().is_some_and(|age| age < 5_000), "{one}");
        assert_eq!(one["state"], "following");
    }
    // A repetition writes nothing new, and is confirmed too.
    let body = json!({"kind": "session", "id": "s"});
    for _ in 0..2 {
        assert_eq!(post(&fleet.instances[0], "/v1/revocations?wait=all", &body).await.status, 201);
    }
    let gone = json!({"kind": "token", "id": "j", "expires_at": 1_000_000_000});
    let reply = post(&fleet.instances[0], "/v1/revocations?wait=all", &gone).await;
    assert_eq!((reply.status, &reply.body["confirmed"]), (201, &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_instance_is_named_and_never_accepts_again() {
    let fleet = Fleet::start(3).await;
    let frozen = &fleet.instances[2];
    let checks = Checks::connect(&frozen.check).await;
    let (alice, bob) = (fleet.tokens.of("alice"), fleet.tokens.of("bob"));
    assert_eq!((reason(&checks, &alice).await, reason(&checks, &bob).await), ("ok".into(), "ok".into()));

    frozen.process.signal("STOP");
    let (status, body) = fleet.revoke("alice", "2s").await;
    assert_eq!((status, &body["confirmed"]), (202, &json!(false)), "{body}");
    assert_eq!((&body["applied"], &body["instances"]), (&json!(2), &json!(3)), "{body}");
    assert_eq!(body["waiting"], json!([fleet.names[2]]));
    assert!(body["position"].is_string() && body.get("took_ms").is_none());
    frozen.process.signal("CONT");
    let (status, body) = fleet.revoke("alice", "20s").await;
    assert_eq!((status, &body["instances"]), (201, &json!(3)), "{body}");
    assert_eq!(reason(&checks, &alice).await, "revoked");

    // Frozen for longer than its lease: confirmed without it, because it will not accept.
    frozen.process.signal("STOP");
    let began = Instant::now();
    let (status, body) = fleet.revoke("bob", "20s").await;
    println!("confirmed without a frozen instance after {:?}", began.elapsed());
    assert_eq!((status, &body["confirmed"], &body["instances"]), (201, &json!(true), &json!(2)), "{body}");
    assert!(began.elapsed() > STALENESS, "not before it has passed max_staleness");
    let waiting = async { checks.check(get("/").token(&bob)).await };
    let thaw = async {
        tokio::time::sleep(Duration::from_millis(200)).await; // The request is there when it wakes up.
        frozen.process.signal("CONT");
    };
    let (verdict, ()) = tokio::join!(waiting, thaw);
    assert!(["revoked", "revocations_stale"].contains(&verdict.reason()), "{verdict:?}");
    eventually("it has caught up", || async {
        let reason = reason(&checks, &bob).await;
        assert_ne!(reason, "ok", "accepted after the receipt");
        reason == "revoked"
    })
    .await;
    let (status, body) = fleet.revoke("carol", "5s").await;
    assert_eq!((status, &body["instances"]), (201, &json!(3)), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_cut_off_is_waited_for_until_it_refuses() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    redis.cli(&["ACL", "SETUSER", "far", "on", ">far", "~*", "&*", "+@all"]);
    let config = |url: &str| {
        tokens.config(&format!(
            "revocation: {{store: redis, max_staleness: 2s, redis: {{url: \"{url}\"}}}}\nlimits: {{http_timeout: 30s}}\n{}",
            admin_keys()
        ))
    };
    let near = Doorward::start(&config(&redis.url())).await;
    let far = Doorward::start(&config(&format!("redis://far:far@127.0.0.1:{}", redis.port))).await;
    let checks = Checks::connect(&far.check).await;
    let alice = tokens.of("alice");
    assert_eq!(reason(&checks, &alice).await, "ok");

    redis.script("MULTI\nACL SETUSER far off\nCLIENT KILL USER far\nEXEC\n");
    let path = "/v1/revocations?wait=all&timeout=20s";
    let body = json!({"kind": "user", "id": "alice"});
    let asked = async {
        let reply = post(&near, path, &body).await;
        (reply, Instant::now())
    };
    let tried = async {
        let mut last_accepted = Instant::now();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(9) {
            if reason(&checks, &alice).await == "ok" {
                last_accepted = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        last_accepted
    };
    let ((reply, confirmed), last_accepted) = tokio::join!(asked, tried);
    assert_eq!((reply.status, &reply.body["instances"]), (201, &json!(1)), "{reply:?}");
    println!("confirmed {:?} after the last acceptance of an instance cut off", confirmed - last_accepted);
    assert!(last_accepted < confirmed, "accepted after the receipt");
    assert_eq!(reason(&checks, &alice).await, "revocations_stale");
    redis.cli(&["ACL", "SETUSER", "far", "on"]);
    eventually("it is back", || async { reason(&checks, &alice).await == "revoked" }).await;
    let reply = post(&near, path, &body).await;
    assert_eq!((reply.status, &reply.body["instances"]), (201, &json!(2)), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_counts_until_its_lease_has_run_out() {
    let mut fleet = Fleet::start(3).await;
    fleet.instances[1].process.signal("KILL");
    let killed = Instant::now();
    let (status, body) = fleet.revoke("alice", "2s").await;
    assert_eq!((status, &body["waiting"]), (202, &json!([fleet.names[1]])), "{body}");
    let (status, body) = fleet.revoke("alice", "20s").await;
    println!("confirmed {:?} after the kill", killed.elapsed());
    assert_eq!((status, &body["instances"]), (201, &json!(2)), "{body}");
    assert!((STALENESS..Duration::from_secs(25)).contains(&killed.elapsed()), "{:?}", killed.elapsed());
    // The receipt does not wait for an instance that shut down normally.
    assert_eq!(fleet.instances[2].stop().await, Some(0));
    let (status, body) = fleet.revoke("bob", "5s").await;
    assert_eq!((status, &body["instances"]), (201, &json!(1)), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_something_confirms_nothing_for_a_lease() {
    let fleet = Fleet::start(2).await;
    assert_eq!(fleet.revoke("alice", "5s").await.0, 201);
    fleet.redis.cli(&["FLUSHALL"]);
    eventually("the loss is noticed", || async { fleet.instances[0].logged("lost entries") }).await;
    let (status, body) = fleet.revoke("bob", "1s").await;
    assert_eq!((status, &body["confirmed"]), (202, &json!(false)), "{body}");
    assert!(body["uncertain_until"].is_string(), "{body}");
    let (status, body) = fleet.revoke("carol", "20s").await;
    assert_eq!((status, &body["instances"]), (201, &json!(2)), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_confirms_at_once_and_commands_wait() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let user = json!({"kind": "user", "id": "alice"});
    let reply = post(&doorward, "/v1/revocations?wait=all&timeout=10s", &user).await;
    assert_eq!((reply.status, &reply.body["confirmed"], &reply.body["instances"]), (201, &json!(true), &json!(1)));
    for (query, pointer) in [
        ("wait=some", Some("wait")),
        ("wait=all&timeout=soon", Some("timeout")),
        ("wait=all&timeout=1h", Some("timeout")),
        ("timeout=1s", Some("timeout")),
        ("wiat=all", None),
    ] {
        let reply = post(&doorward, &format!("/v1/revocations?{query}"), &user).await;
        reply.is_problem(400, "invalid-parameter", pointer);
    }
    let missing = send(request(doorward.http, reqwest::Method::POST, "/v1/revocations?wait=all")).await;
    missing.is_problem(401, "missing-credentials", None);

    let fleet = Fleet::start(2).await;
    let server = format!("http://{}", fleet.instances[0].http);
    let env = [("DOORWARD_ADMIN_KEY", OPERATOR), ("DOORWARD_SERVER", server.as_str())];
    let (code, out, error) = run_with(&env, &["revoke", "--user", "alice", "--wait", "all"], "");
    assert!(code == 0 && out.contains("confirmed by 2 instances"), "{code} {out} {error}");
    fleet.instances[1].process.signal("STOP");
    let args = ["revoke", "--user", "bob", "--wait", "all", "--timeout", "2s"];
    let (code, out, error) = run_with(&env, &args, "");
    assert!(
        code == 1
            && out.starts_with("refused from now on: every token of the user bob")
            && error.contains(&fleet.names[1]),
        "{code} {out} {error}"
    );
    fleet.instances[1].process.signal("CONT");
    let (code, out, _) = run_with(&env, &["status"], "");
    assert!(code == 0 && fleet.names.iter().all(|name| out.contains(name)), "{out}");
}
