//! Who owns a stream of security events, and what remains of it: over restarts, in a fleet, and when its transmitter is
//! taken out of the configuration.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::transmitter::{Transmitter, UP};
use crate::api::{READER, admin_keys, read, reason};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::tokens::Tokens;

const POLLED: &str =
    "poll: {token: polling-token-0123456789, interval: 1s}, stream: {token: management-token-0123456789}";
/// Polls that succeeded.
const POLLS: &str = "doorward_signals_requests_total{operation=\"poll\",result=\"ok\"}";

async fn signals(doorward: &Doorward) -> Value {
    read(doorward, "/v1/signals", READER).await.body
}

fn calls(transmitter: &Transmitter) -> Vec<String> {
    serde_json::from_value(transmitter.state()["calls"].clone()).unwrap()
}

async fn is_up(doorward: &Doorward) {
    eventually("the stream is up", || async { doorward.metric(UP).await == Some(1.0) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_survives_a_restart_and_follows_the_configuration() {
    let Some(transmitter) = Transmitter::start() else { return };
    let tokens = Tokens::new();
    let (port, redis) = (
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port(),
        RedisServer::start(&[]).await,
    );
    let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url());
    let config = |push: &str| {
        let listen = format!("listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:{port}\"}}\n");
        let url = format!("http://127.0.0.1:{port}/signals/events");
        let how =
            format!("push: {{token: {push}}}, stream: {{push_url: \"{url}\", token: management-token-0123456789}}");
        tokens.config(&format!("{listen}{store}{}{}", transmitter.section(&how), admin_keys()))
    };
    let mut first = Doorward::start(&config("push-secret-0123456789")).await;
    is_up(&first).await;
    let id = signals(&first).await["transmitters"][0]["stream_id"].as_str().unwrap().to_owned();
    let before = calls(&transmitter).len();
    first.stop().await;
    // The stream is read by its id: it is neither listed, nor updated, nor created.
    let second = Doorward::start(&config("push-secret-0123456789")).await;
    eventually("it is verified again", || async { transmitter.state()["verifications"] == 2 }).await;
    is_up(&second).await;
    let made = calls(&transmitter)[before..].to_vec();
    assert_eq!(made[0], "GET /stream?stream_id", "{made:?}");
    assert!(!made.iter().any(|call| ["GET /stream", "PATCH /stream", "POST /stream"].contains(&&**call)), "{made:?}");
    assert_eq!(signals(&second).await["transmitters"][0]["stream_id"], json!(id));
    // Another token for pushed events is sent to the transmitter.
    std::fs::write(second.dir.path().join("doorward.yaml"), config("another-secret-0123456789")).unwrap();
    eventually("the stream is updated", || async {
        transmitter.state()["stream"]["delivery"]["authorization_header"] == "Bearer another-secret-0123456789"
    })
    .await;
    eventually("it is verified with it", || async { transmitter.state()["verifications"] == 3 }).await;
    is_up(&second).await;
    // The record is lost with the store's data: the stream is found again by listing.
    redis.script("FLUSHALL\n");
    eventually("it is listed", || async {
        calls(&transmitter).iter().filter(|call| **call == "GET /stream").count() == 2
    })
    .await;
    eventually("it is recorded again", || async { redis.script("KEYS doorward:{r}:signals:*\n").contains("signals:") })
        .await;
    assert_eq!((&transmitter.state()["created"], &transmitter.state()["stream"]["stream_id"]), (&json!(1), &json!(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_leaves_with_its_transmitter() {
    let Some(transmitter) = Transmitter::start() else { return };
    let edge = transmitter.edge(POLLED, "").await;
    is_up(&edge.doorward).await;
    let id = transmitter.state()["stream"]["stream_id"].clone();
    let file = edge.doorward.dir.path().join("doorward.yaml");
    let with = std::fs::read_to_string(&file).unwrap();
    let without: Vec<_> = with.lines().filter(|line| !line.starts_with("signals:")).collect();
    std::fs::write(&file, without.join("\n")).unwrap();
    eventually("it is deleted", || async { transmitter.state()["deleted"] == json!([id]) }).await;
    eventually("nothing is left", || async {
        signals(&edge.doorward).await == json!({"transmitters": [], "left_over": []})
    })
    .await;
    // And comes back with it.
    std::fs::write(&file, &with).unwrap();
    is_up(&edge.doorward).await;
    assert_eq!(transmitter.state()["created"], 2);
    // Only the credentials change: the stream stays.
    let next = with.replace("interval: 1s", "interval: 2s");
    std::fs::write(&file, next).unwrap();
    edge.doorward.logs("configuration reloaded").await;
    eventually("it is verified", || async { transmitter.state()["verifications"].as_u64() >= Some(3) }).await;
    assert_eq!(transmitter.state()["deleted"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_its_transmitter_after_a_restart_is_shown() {
    let Some(transmitter) = Transmitter::start() else { return };
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys());
    let mut with = Doorward::start(&tokens.config(&format!("{store}{}", transmitter.section(POLLED)))).await;
    is_up(&with).await;
    with.stop().await;
    let without = Doorward::start(&tokens.config(&store)).await;
    let left = json!({
        "issuer": transmitter.issuer(), "audience": "doorward", "stream_id": transmitter.state()["stream"]["stream_id"],
    });
    assert_eq!(signals(&without).await, json!({"transmitters": [], "left_over": [left]}));
    assert_eq!(transmitter.state()["deleted"], json!([]), "nobody has the credentials any more");
}

/// One instance polls and verifies; the events reach all by the log; another takes over when it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn one_instance_of_a_fleet_owns_the_stream() {
    let Some(transmitter) = Transmitter::start() else { return };
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys());
    let config = tokens.config(&format!("{store}{}", transmitter.section(POLLED)));
    let first = Doorward::start(&config).await;
    is_up(&first).await;
    let second = Doorward::start(&config).await;
    let (one, other) = (Checks::connect(&first.check).await, Checks::connect(&second.check).await);
    let shown = signals(&first).await["transmitters"][0].clone();
    eventually("the other shows the same stream and its owner", || async {
        let theirs = signals(&second).await["transmitters"][0].clone();
        theirs["state"] == "enabled" && theirs["owner"] == shown["owner"] && theirs["stream_id"] == shown["stream_id"]
    })
    .await;
    assert_eq!(second.metric(UP).await, Some(1.0), "up at each instance");
    let token = tokens.of("alice");
    assert_eq!((reason(&one, &token).await.as_str(), reason(&other, &token).await.as_str()), ("ok", "ok"));
    let id = transmitter.sends("credential-change", "alice");
    for checks in [&one, &other] {
        eventually("both refuse", || async { reason(checks, &token).await == "revoked" }).await;
    }
    eventually("it is acknowledged", || async {
        transmitter.state()["acknowledged"].as_array().unwrap().contains(&json!(id))
    })
    .await;
    assert!(second.metric(POLLS).await.is_none_or(|polls| polls == 0.0), "one instance polls");
    // A status that is announced while this one owns it is seen by both.
    let stream = transmitter.state()["stream"]["stream_id"].clone();
    let announce = |status: &str| {
        let events = json!({"https://schemas.openid.net/secevent/ssf/event-type/stream-updated": {"status": status}});
        transmitter.command(&json!({"event": {"sub_id": {"format": "opaque", "id": stream}, "events": events}}));
    };
    announce("paused");
    for doorward in [&first, &second] {
        eventually("both show it", || async { doorward.metric(UP).await == Some(0.0) }).await;
    }
    announce("enabled");
    is_up(&second).await;
    // The owner dies without a word.
    first.process.signal("KILL");
    eventually("the other takes over", || async { second.metric(POLLS).await.is_some_and(|polls| polls > 0.0) }).await;
    is_up(&second).await;
    let token = tokens.of("bob");
    assert_eq!(reason(&other, &token).await, "ok");
    transmitter.sends("credential-change", "bob");
    eventually("events arrive", || async { reason(&other, &token).await == "revoked" }).await;
    assert_eq!((&transmitter.state()["created"], &transmitter.state()["stream"]["stream_id"]), (&json!(1), &stream));
}

/// A balancer sends pushed events to any instance: the owner hears of the verification event and of the status all the
/// same.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_hears_of_events_that_another_instance_received() {
    let Some(transmitter) = Transmitter::start() else { return };
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let ports = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port());
    let config = |port: u16| {
        let listen = format!("listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:{port}\"}}\n");
        let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url());
        let url = format!("http://127.0.0.1:{}/signals/events", ports[1]);
        let how = format!("stream: {{push_url: \"{url}\", token: management-token-0123456789, silent_after: 2s}}");
        tokens.config(&format!("{listen}{store}{}{}", transmitter.section(&how), admin_keys()))
    };
    transmitter.set(&json!({"mute": true}));
    let owner = Doorward::start(&config(ports[0])).await;
    eventually("silent: nobody listens there", || async {
        signals(&owner).await["transmitters"][0]["state"] == "silent"
    })
    .await;
    let receiver = Doorward::start(&config(ports[1])).await;
    transmitter.set(&json!({"mute": false}));
    owner.process.signal("HUP");
    eventually("the owner knows of the verification", || async {
        let shown = signals(&owner).await["transmitters"][0].clone();
        shown["state"] == "enabled" && shown["verified_at"].is_string()
    })
    .await;
    let counted = |doorward: &Doorward, inlet: &str| {
        let series = format!("doorward_inlet_events_total{{inlet=\"{inlet}\",result=\"verified\"}}");
        let (http, series) = (doorward.http, series);
        async move {
            let text = reqwest::get(format!("http://{http}/metrics")).await.unwrap().text().await.unwrap();
            text.lines().any(|line| line.starts_with(&series))
        }
    };
    assert!(counted(&receiver, "signals_push").await && !counted(&owner, "signals_push").await);
    let stream = transmitter.state()["stream"]["stream_id"].clone();
    let events = json!({"https://schemas.openid.net/secevent/ssf/event-type/stream-updated": {"status": "disabled"}});
    transmitter.command(&json!({"event": {"sub_id": {"format": "opaque", "id": stream}, "events": events}}));
    for doorward in [&owner, &receiver] {
        eventually("both show the status", || async {
            signals(doorward).await["transmitters"][0]["state"] == "disabled"
        })
        .await;
    }
    // An event about another stream is refused by the instance that does not own this one, too.
    let events = json!({"https://schemas.openid.net/secevent/ssf/event-type/verification": {}});
    let id = transmitter.command(&json!({"event": {"sub_id": {"format": "opaque", "id": "other"}, "events": events}}));
    assert_eq!(transmitter.state()["refused"][id.as_str().unwrap()], "invalid_request");
}

/// The instance that owns the stream has a token that the transmitter does not accept: another one has a better one.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_access_leaves_the_stream_to_another() {
    let Some(transmitter) = Transmitter::start() else { return };
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys());
    let config = tokens.config(&format!("{store}{}", transmitter.section(POLLED)));
    let barred = Doorward::start(&config.replace("management-token", "withdrawn-token")).await;
    eventually("it owns the stream, and cannot set it up", || async {
        signals(&barred).await["transmitters"][0]["state"] == "unreachable"
    })
    .await;
    let other = Doorward::start(&config).await;
    let taken = async {
        while other.metric(UP).await != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), taken).await.expect("the other one takes over");
    is_up(&barred).await;
}

/// The stream is there, but an endpoint that the metadata names is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_endpoint_is_asked_at_growing_intervals() {
    let Some(transmitter) = Transmitter::start() else { return };
    for missing in ["POST /verify", "GET /status"] {
        transmitter.set(&json!({"missing": missing}));
        let before = calls(&transmitter).len();
        let edge = transmitter.edge(POLLED, "").await;
        let asked = || calls(&transmitter)[before..].iter().filter(|call| call.starts_with(missing)).count();
        eventually("it is asked", || async { asked() >= 1 }).await;
        let (began, seen) = (Instant::now(), asked());
        eventually("it is asked again", || async { asked() >= seen + 3 }).await;
        assert!(began.elapsed() > Duration::from_secs(1), "{missing}: {:?}", began.elapsed());
        let shown = signals(&edge.doorward).await["transmitters"][0].clone();
        assert_eq!(shown["state"], "unreachable", "{missing}: {shown}");
        assert!(shown["problem"].as_str().is_some_and(|problem| problem.contains("404")), "{missing}: {shown}");
        assert_eq!(transmitter.state()["created"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_do_not_last_are_created_at_growing_intervals() {
    let Some(transmitter) = Transmitter::start() else { return };
    transmitter.set(&json!({"forgetful": true}));
    let _edge = transmitter.edge(POLLED, "").await;
    let created = || transmitter.state()["created"].as_u64().unwrap();
    eventually("a stream is created", || async { created() >= 1 }).await;
    let (began, seen) = (Instant::now(), created());
    eventually("two others are", || async { created() >= seen + 2 }).await;
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
}
