//! `doorward relay`, and the relay of the service.

use std::io::Read as _;
use std::process::{Command, Stdio};

use doorward::sources::relay::RelayState;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::faults::note_name;
use super::{Running, length, values};
use crate::api::{OPERATOR, admin_keys};
use crate::ledger::support::{Instance, RedisServer, free_port, sign_out};
use crate::support::doorward::{Doorward, run, run_with};
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;
use crate::support::{Process, eventually};

fn relay(from: &RedisServer, to: &RedisServer, more: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_doorward"));
    command.args(["relay", "--from", &from.url(), "--to", &to.url()]).args(more);
    Process(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_in_the_middle_goes_on_and_copies_nothing_twice() {
    const COUNT: usize = 4_000;
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let writer = Instance::start(&eu).await;
    for from in (0..COUNT).step_by(1_000) {
        let batch = (from..from + 1_000).map(|n| sign_out(&format!("t-{n}")));
        writer.replica.revoke(batch.collect()).await.unwrap();
    }
    writer.end().await;
    let mut killed = relay(&eu, &us, &[]);
    eventually("a part is copied", || async { length(&us) > 0 }).await;
    killed.0.kill().unwrap();
    killed.0.wait().unwrap();
    let copied = length(&us);
    assert!(copied < COUNT, "{copied}: it was not killed in the middle");
    let port = free_port();
    let mut next = relay(&eu, &us, &["--both", "--listen", &format!("127.0.0.1:{port}")]);
    eventually("the rest is copied", || async { length(&us) >= COUNT }).await;
    let ask = |path: &str| reqwest::get(format!("http://127.0.0.1:{port}{path}"));
    eventually("it is ready", || async { ask("/readyz").await.is_ok_and(|answer| answer.status() == 200) }).await;
    assert_eq!((length(&eu), length(&us)), (COUNT, COUNT));
    let mut ids = values(&us, "id");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), COUNT);
    let metrics = ask("/metrics").await.unwrap().text().await.unwrap();
    let copied = format!("doorward_relay_entries_total{{relay=\"relay.1\",result=\"copied\"}} {}", COUNT - copied);
    for line in [&*copied, "doorward_relay_up{relay=\"relay.1\"} 1", "doorward_relay_up{relay=\"relay.2\"} 1"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    next.signal("TERM");
    assert_eq!(next.0.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_ends_with_the_reason_why_regions_must_not_be_connected() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    note_name(&eu, "main", "https://eu.example.com");
    note_name(&us, "main", "https://us.example.com");
    let mut refused = relay(&eu, &us, &[]);
    let code = tokio::task::spawn_blocking(move || {
        let mut log = String::new();
        refused.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (refused.0.wait().unwrap().code(), log)
    });
    let (code, log) = code.await.unwrap();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("`main` stands for `https://eu.example.com`"), "{log}");
    for (args, part) in [
        (["--from", "redis://h:1", "--to", "redis://h:1"], "another store"),
        (["--from", "http://:s3cret@h:1", "--to", "redis://h:1"], "--from: url: the scheme must be one of"),
    ] {
        let (code, _, error) = run(&[&["relay"], &args[..]].concat(), "");
        assert!(code == 2 && error.contains(part) && !error.contains("s3cret"), "{code} {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_copies_at_a_time_and_another_takes_over() {
    let (eu, us) = (RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let one = Running::start(eu.url(), us.url());
    one.becomes(RelayState::Following).await;
    let owner = one.relay.status().owner.unwrap();
    let other = Running::start(eu.url(), us.url());
    // The other one shows what the owner notes.
    eventually("both name one owner", || async {
        let status = other.relay.status();
        status.owner.as_ref() == Some(&owner) && status.is_up
    })
    .await;
    one.end().await;
    eventually("the other takes over", || async {
        let status = other.relay.status();
        status.owner.is_some_and(|next| next != owner) && status.state == RelayState::Following
    })
    .await;
    let (here, there) = (Instance::start(&eu).await, Instance::start(&us).await);
    here.replica.revoke(vec![sign_out("after")]).await.unwrap();
    there.comes_to_refuse(&crate::ledger::support::token("after")).await;
    other.end().await;
}

/// Two regions with an instance each: a sign-out in one is refused in the other.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_relays_and_shows_it() {
    let (tokens, eu, us) = (Tokens::new(), RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let config = |own: &RedisServer, other: &str| {
        let store = format!("revocation: {{redis: {{url: \"{}\", relay: [{other}]}}}}\n", own.url());
        tokens.config(&format!("{store}{}", admin_keys()))
    };
    let here = Doorward::start(&config(&eu, &format!("\"{}\"", us.url()))).await;
    let there = Doorward::start(&config(&us, &format!("{{url: \"{}\", key_prefix: 'doorward:'}}", eu.url()))).await;
    let checks = [Checks::connect(&here.check).await, Checks::connect(&there.check).await];
    let reason = async |at: usize, token: &str| checks[at].check(get("/").token(token)).await.reason().to_owned();
    for (user, by, at) in [("alice", &here, 1), ("bob", &there, 0)] {
        let token = tokens.of(user);
        assert_eq!(reason(at, &token).await, "ok");
        assert_eq!(by.post("/logout", &token).await.0, 204);
        eventually("the other region refuses", || async { reason(at, &token).await == "signed_out" }).await;
    }
    for doorward in [&here, &there] {
        eventually("the relay is up", || async {
            doorward.metric("doorward_relay_up{relay=\"relay.1\"}").await == Some(1.0)
        })
        .await;
        assert!(doorward.metric("doorward_relay_lag_seconds{relay=\"relay.1\"}").await.unwrap() < 30.0);
    }
    let fleet = reqwest::Client::new().get(format!("http://{}/v1/instances", here.http)).bearer_auth(OPERATOR);
    let fleet: Value = fleet.send().await.unwrap().json().await.unwrap();
    let relay = &fleet["relays"][0];
    assert_eq!((&relay["name"], &relay["state"], &relay["up"]), (&json!("relay.1"), &json!("following"), &json!(true)));
    assert_eq!(relay["to"], json!(format!("127.0.0.1:{}", us.port)));
    assert_eq!(relay["owner"], fleet["instances"][0]["name"]);
    // A fault that an operator must repair is a warning; the instance stays ready.
    note_name(&us, "dev", "https://another.example.com");
    eventually("the warning", || async {
        let (status, body) = here.get("/readyz").await;
        assert_eq!(status, 200);
        body.contains("relay.1 is names_differ") && body.contains("https://another.example.com")
    })
    .await;
}

/// The instances of a region export when another region's relay was last here, although that relay is none of theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_region_notices_that_another_ones_relay_has_stopped() {
    const NOTES: &str = "doorward:{r}:relayed";
    let (tokens, eu, us) = (Tokens::new(), RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let config = tokens.config(&format!("revocation: {{redis: {{url: \"{}\"}}}}\n{}", us.url(), admin_keys()));
    let there = Doorward::start(&config).await;
    let age = async || there.metric("doorward_relay_inbound_lag_seconds").await;
    assert_eq!(age().await, Some(0.0), "no relay copies to it");
    let mut sender = relay(&eu, &us, &[]);
    eventually("the relay notes itself", || async { us.cli(&["ZCARD", NOTES]) == "1" }).await;
    eventually("its age is exported", || async { age().await.is_some_and(|age| age > 0.0 && age < 30.0) }).await;
    sender.0.kill().unwrap();
    sender.0.wait().unwrap();
    let ago = |hours: u64| doorward::clock::now().minus(std::time::Duration::from_secs(hours * 3_600)).as_millis();
    us.cli(&["ZADD", NOTES, &ago(2).to_string(), "another"]);
    eventually("the longest counts", || async { age().await.is_some_and(|age| age > 7_100.0 && age < 7_300.0) }).await;
    // A relay that was given up is not waited for.
    us.cli(&["ZADD", NOTES, &ago(25).to_string(), "another"]);
    eventually("it ends by itself", || async { age().await.is_some_and(|age| age < 1_000.0) }).await;
    // The clock was set back since: how old it is is not known.
    us.cli(&[
        "ZADD",
        NOTES,
        &doorward::clock::now().plus(std::time::Duration::from_secs(3_600)).as_millis().to_string(),
        "another",
    ]);
    eventually("it is not fresh", || async { age().await.is_some_and(|age| age > 3_000.0) }).await;
    // Two regions that were made from one copy have one epoch: that the one is there says nothing of the other.
    let name = us.cli(&["ZRANGE", NOTES, "0", "0"]);
    let words: Vec<_> = name.split(' ').collect();
    assert_eq!(words.len(), 3, "{name}");
    let clone = format!("127.0.0.1:1 {} another-server", words[1]);
    us.cli(&["DEL", NOTES]);
    us.cli(&["ZADD", NOTES, &ago(2).to_string(), &name, &ago(0).to_string(), &clone]);
    eventually("the dead one counts", || async { age().await.is_some_and(|age| age > 7_100.0) }).await;
    let moved = format!("127.0.0.1:1 {} {}", words[1], words[2]);
    us.cli(&["ZADD", NOTES, &ago(0).to_string(), &moved]);
    eventually("it has another address", || async { age().await.is_some_and(|age| age < 100.0) }).await;
    us.cli(&["DEL", NOTES]);
    eventually("an operator ends it", || async { age().await == Some(0.0) }).await;
}

/// `--wait all --also`: confirmed when every instance in each of the named regions refuses; one that does not is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_confirmed_by_the_instances_of_every_named_region() {
    let (tokens, eu, us) = (Tokens::new(), RedisServer::start(&[]).await, RedisServer::start(&[]).await);
    let config = |redis: &RedisServer| {
        let store = format!("revocation: {{max_staleness: 2s, redis: {{url: \"{}\"}}}}\n", redis.url());
        tokens.config(&format!("{store}{}", admin_keys()))
    };
    let mut instances = Vec::new();
    for redis in [&eu, &us, &us] {
        instances.push(Doorward::start(&config(redis)).await);
    }
    let mut checks = Vec::new();
    for instance in &instances {
        checks.push(Checks::connect(&instance.check).await);
    }
    let [here, there] = [0, 1].map(|at| format!("http://{}", instances[at].http));
    let revoke = |user: &str, more: &[&str]| {
        let env = [("DOORWARD_ADMIN_KEY", OPERATOR), ("DOORWARD_SERVER", here.as_str())];
        run_with(&env, &[&["revoke", "--user", user, "--wait", "all", "--timeout", "5s"], more].concat(), "")
    };
    let token = tokens.of("alice");
    for checks in &checks {
        assert_eq!(checks.check(get("/").token(&token)).await.reason(), "ok");
    }
    // A store that has just been made may lack leases: that counts in each region, too.
    eventually("both regions confirm", || async {
        let (code, out, error) = revoke("alice", &["--also", &there]);
        assert!(code == 0 || error.contains("uncertain"), "{error}");
        let told = [&here, &there].map(|server| out.contains(&format!("{server}:\nrefused from now on")));
        assert_eq!(told, [true; 2], "{out}");
        code == 0
    })
    .await;
    for checks in &checks {
        assert_eq!(checks.check(get("/").token(&token)).await.reason(), "revoked", "as it was confirmed");
    }
    instances[2].process.signal("STOP");
    let (code, out, error) = revoke("bob", &["--also", &there, "--json"]);
    let answers: Value = serde_json::from_str(&out).unwrap();
    let outcomes = [0, 1].map(|at| (answers[at]["server"].clone(), answers[at]["outcome"].clone()));
    let expected = [(json!(here), json!("confirmed")), (json!(there), json!("unconfirmed"))];
    assert_eq!((code, outcomes), (1, expected), "{error}");
    let waiting = answers[1]["unconfirmed"].as_array().unwrap();
    assert!(waiting.len() == 1 && error.contains(&format!("{there}: stored, but unconfirmed: ")), "{error}");
    assert!(error.contains(waiting[0].as_str().unwrap()), "{error}");
    instances[2].process.signal("CONT");
    // A region that cannot be reached is named, and keeps the other from nothing.
    let gone = format!("http://127.0.0.1:{}", free_port());
    let (code, out, error) = revoke("carol", &["--also", &gone]);
    assert!(code == 1 && out.contains("confirmed by 1 instance") && error.contains(&gone), "{out} {error}");
    // One server twice says nothing of another region.
    let again = format!("{}/", here.replace("http", "HTTP"));
    for also in [&["--also", &again][..], &["--also", &there, "--also", &there]] {
        let (code, out, error) = revoke("dave", also);
        assert!(code == 2 && out.is_empty() && error.contains("named twice"), "{out} {error}");
    }
}

/// A server behind a proxy that drops the query, and one that is no Doorward at all.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_say_so_confirms_nothing() {
    let (tokens, eu) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = format!("revocation: {{max_staleness: 2s, redis: {{url: \"{}\"}}}}\n", eu.url());
    let here = Doorward::start(&tokens.config(&format!("{store}{}", admin_keys()))).await;
    let here = format!("http://{}", here.http);
    let receipt = json!({
        "issuer": "main", "kind": "user", "id": "alice", "at": "2026-06-01T16:30:34.000Z",
        "expires_at": "2026-06-02T10:20:31Z", "position": "1-0",
    });
    let receipt_with = |confirmed: Value| {
        let mut receipt = receipt.clone();
        receipt["confirmed"] = confirmed;
        receipt
    };
    for (answer, problem) in [
        (json!({}), "position"),
        (json!({"confirmed": true}), "position"),
        (receipt.clone(), "does not say"),
        (receipt_with(json!(false)), "does not say"),
        (receipt_with(json!("true")), "does not say"),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let odd = format!("http://{}", listener.local_addr().unwrap());
        let text = answer.to_string();
        let app = axum::Router::new().fallback(move || async move { ([("content-type", "application/json")], text) });
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await });
        for (first, also) in [(&here, &["--also", &odd][..]), (&odd, &["--also", &here]), (&odd, &[])] {
            let env = [("DOORWARD_ADMIN_KEY", OPERATOR), ("DOORWARD_SERVER", first.as_str())];
            let args = [&["revoke", "--user", "alice", "--wait", "all"], also].concat();
            let (code, _, error) = tokio::task::block_in_place(|| run_with(&env, &args, ""));
            assert!(code == 1 && error.contains(problem), "{answer}: {error}");
        }
        server.abort_all();
    }
}
