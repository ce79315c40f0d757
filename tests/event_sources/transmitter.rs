//! With a transmitter in another process, which signs with another library: streams set up, verified,
//! pushed and polled.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Edge, NodeProcess};
use crate::support::eventually;

/// 1 while the transmitter was reached and its stream is enabled.
const UP: &str = "doorward_signals_stream_up{transmitter=\"signals.1\"}";

const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";

/// The transmitter, and its control channel.
struct Transmitter(NodeProcess);

impl Transmitter {
    fn start() -> Option<Self> {
        NodeProcess::start("transmitter.mjs", &[]).map(Self)
    }

    fn command(&self, command: &Value) -> Value {
        self.0.command(command)
    }

    fn state(&self) -> Value {
        self.command(&json!({"state": true}))
    }

    /// Sends an event about a user; its id.
    fn sends(&self, event: &str, user: &str) -> String {
        let subject = json!({"format": "iss_sub", "iss": doorward::dev::ISSUER, "sub": user});
        let event = json!({"event": {"sub_id": subject, "events": {(format!("{CAEP}{event}")): {}}}});
        self.command(&event).as_str().unwrap().to_owned()
    }

    /// An edge that receives its events; the keys are found by its metadata.
    async fn edge(&self, how: &str, listen: &str) -> Edge {
        let issuer = format!("http://127.0.0.1:{}/tenant", self.0.port);
        let section = format!(
            "signals: {{transmitters: [{{issuer: \"{issuer}\", audience: doorward, target_issuer: dev, keys: {{discovery: true}}, {how}}}]}}\n"
        );
        Edge::start(&format!("{listen}{section}")).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_set_up_verified_and_pushes() {
    let Some(transmitter) = Transmitter::start() else { return };
    // The transmitter needs Doorward's address before Doorward listens.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:{port}\"}}\n");
    let how = format!(
        "push: {{token: push-secret-0123456789}}, stream: {{push_url: \"http://127.0.0.1:{port}/signals/events\", token: management-token-0123456789}}"
    );
    let edge = transmitter.edge(&how, &listen).await;
    eventually("the stream is verified", || async { edge.counted("signals_push", "verified").await >= 1 }).await;
    let state = transmitter.state();
    assert_eq!((&state["created"], &state["verifications"]), (&json!(1), &json!(1)), "{state}");
    assert_eq!(state["stream"]["delivery"]["authorization_header"], "Bearer push-secret-0123456789");
    assert_eq!(state["stream"]["events_requested"].as_array().unwrap().len(), 10);
    // The password change and the permission update of a user of the service.
    for event in ["credential-change", "token-claims-change", "session-revoked"] {
        let token = edge.tokens.of(event);
        edge.ends(&format!("{event}, pushed"), &token, async { transmitter.sends(event, event) }).await;
        assert_eq!(edge.reason(&token).await, "revoked");
        let renewed = edge.tokens.with(json!({"sub": event, "iat": crate::support::tokens::now() + 2}));
        assert_eq!(edge.reason(&renewed).await, "ok", "the new token, with the new claims");
    }
    // An unrequested verification event.
    let verification = "https://schemas.openid.net/secevent/ssf/event-type/verification";
    transmitter.command(&json!({"event": {"events": {verification: {"state": "made up"}}}}));
    assert_eq!(edge.counted("signals_push", "invalid_state").await, 1);
    let pushes = transmitter.state()["pushes"].as_array().unwrap().clone();
    assert_eq!((pushes.last(), pushes.iter().filter(|status| **status == 202).count()), (Some(&json!(400)), 4));
    // A second start finds the stream.
    edge.doorward.process.signal("HUP");
    eventually("it is verified anew", || async { edge.counted("signals_push", "verified").await >= 2 }).await;
    assert_eq!(transmitter.state()["created"], 1);
    eventually("it is up", || async { edge.doorward.metric(UP).await == Some(1.0) }).await;
    // A stream that its transmitter has stopped delivers nothing.
    transmitter.command(&json!({"status": "paused"}));
    edge.doorward.process.signal("HUP");
    eventually("it is not up", || async { edge.doorward.metric(UP).await == Some(0.0) }).await;
    // A transmitter that is not configured any more has no series.
    let file = edge.doorward.dir.path().join("doorward.yaml");
    let config = std::fs::read_to_string(&file).unwrap();
    let without: Vec<_> = config.lines().filter(|line| !line.starts_with("signals:")).collect();
    std::fs::write(&file, without.join("\n")).unwrap();
    eventually("it is forgotten", || async { edge.doorward.metric(UP).await.is_none() }).await;
    for secret in ["push-secret", "management-token"] {
        assert!(!edge.doorward.logged(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_polled_for_acknowledged_and_refused() {
    let Some(transmitter) = Transmitter::start() else { return };
    let how = "poll: {token: polling-token-0123456789, interval: 1s}, stream: {token: management-token-0123456789}";
    let edge = transmitter.edge(how, "").await;
    eventually("the stream is verified", || async { edge.counted("signals_poll", "verified").await >= 1 }).await;
    for event in ["credential-change", "token-claims-change"] {
        let token = edge.tokens.of(event);
        let id = edge.ends_soon(&format!("{event}, polled"), &token, async { transmitter.sends(event, event) }).await;
        eventually("it is acknowledged", || async {
            transmitter.state()["acknowledged"].as_array().unwrap().contains(&json!(id))
        })
        .await;
    }
    eventually("it is up", || async { edge.doorward.metric(UP).await == Some(1.0) }).await;
    // Many at once; an invalid one among them does not delay the others.
    transmitter.command(&json!({"paused": true}));
    transmitter.command(&json!({"poison": "no token"}));
    let users: Vec<String> = (0..60).map(|number| format!("user-{number}")).collect();
    let ids: Vec<_> = users.iter().map(|user| transmitter.sends("credential-change", user)).collect();
    let fails = "doorward_signals_requests_total{operation=\"poll\",result=\"failed\"}";
    eventually("polling fails", || async { edge.doorward.metric(fails).await.is_some_and(|count| count > 0.0) }).await;
    eventually("it is not up", || async { edge.doorward.metric(UP).await == Some(0.0) }).await;
    transmitter.command(&json!({"paused": false}));
    eventually("it is up again", || async { edge.doorward.metric(UP).await == Some(1.0) }).await;
    eventually("all are acknowledged, and none is left", || async { transmitter.state()["queued"] == 0 }).await;
    let state = transmitter.state();
    for id in ids {
        assert!(state["acknowledged"].as_array().unwrap().contains(&json!(id)));
    }
    assert_eq!(state["refused"].as_object().unwrap().values().collect::<Vec<_>>(), [&json!("invalid_request")]);
    assert_eq!(state["largest"], 32, "several in flight, and no more than asked for");
    for user in &users {
        assert_eq!(edge.reason(&edge.tokens.of(user)).await, "revoked");
    }
    assert!(
        edge.doorward.logged("signals transmitter fails") && edge.doorward.logged("signals transmitter works again")
    );
    for secret in ["polling-token", "management-token"] {
        assert!(!edge.doorward.logged(secret));
    }
    // A transmitter that ignores acknowledgements, or reports more events and sends none, does not
    // cause a busy loop.
    for odd in ["deaf", "teasing"] {
        let token = edge.tokens.of(odd);
        transmitter.command(&json!({odd: odd == "deaf"}));
        edge.ends_soon(odd, &token, async { transmitter.sends("credential-change", odd) }).await;
        transmitter.command(&json!({odd: true}));
        let (began, polls) = (Instant::now(), || transmitter.state()["polls"].as_u64().unwrap());
        let seen = polls();
        eventually("it is polled on", || async { polls() >= seen + 4 }).await;
        assert!(began.elapsed() > Duration::from_secs(2), "an interval of a second between them");
        transmitter.command(&json!({odd: false}));
    }
}
