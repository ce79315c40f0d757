//! A revoked token that is presented again: counted, logged, and sent to a webhook.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};

use super::Edge;
use crate::support::eventually;
use crate::support::grpc::get;

/// A credential, and the body that came with it.
type Note = (Option<String>, Value);

struct Webhook {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Note>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Webhook {
    /// Takes its time for each call.
    async fn start(takes: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(Mutex::new(Vec::new()));
        let app = Router::new().route("/alarm", post(receive)).with_state((received.clone(), takes));
        #[expect(clippy::disallowed_methods, reason = "a test's own server, ended with it")]
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, received, server }
    }

    fn settings(&self, more: &str) -> String {
        format!("telemetry: {{replay_alarm: {{url: \"http://{}/alarm\", token: alarm-secret{more}}}}}\n", self.address)
    }

    fn received(&self) -> Vec<Note> {
        self.received.lock().unwrap().clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Received = (Arc<Mutex<Vec<Note>>>, Duration);

async fn receive(State((received, takes)): State<Received>, headers: HeaderMap, body: axum::Json<Value>) -> StatusCode {
    tokio::time::sleep(takes).await;
    let credential = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    received.lock().unwrap().push((credential, body.0));
    StatusCode::NO_CONTENT
}

#[tokio::test(flavor = "multi_thread")]
async fn a_presented_revoked_token_is_reported() {
    let webhook = Webhook::start(Duration::ZERO).await;
    let edge = Edge::start(&webhook.settings("")).await;
    let token = edge.tokens.of("alice");
    assert_eq!(edge.doorward.post("/logout", &token).await.0, 204);
    assert_eq!(webhook.received(), [], "signing out is no alarm");
    let presented = get("/orders").token(&token).header("x-request-id", "11111111-2222-3333-4444-555555555555");
    assert_eq!(edge.checks.check(presented).await.reason(), "signed_out");
    eventually("the webhook is told", || async { webhook.received().len() == 1 }).await;
    let (credential, note) = webhook.received().remove(0);
    assert_eq!(credential.as_deref(), Some("Bearer alarm-secret"));
    let expected = json!({
        "event": "revoked_token_presented", "kind": "token", "origin": "signed_out", "rule": "default", "issuer": "dev",
        "user_id": "alice", "request_id": "11111111-2222-3333-4444-555555555555", "suppressed": 0,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(note[name], *value, "{name}: {note}");
    }
    // Through Envoy it also has the client's address.
    assert_eq!(edge.ask(&token).await.0, 401);
    if crate::support::envoy::binary().is_some() {
        eventually("the webhook is told", || async { webhook.received().len() == 2 }).await;
        assert_eq!(webhook.received()[1].1["source"], "127.0.0.1");
    }
    assert_eq!(edge.doorward.metric("doorward_replay_alarms_total{result=\"delivered\"}").await, Some(2.0));
    let log = edge.doorward.log.lock().unwrap().join("\n");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("revoked token presented")).collect();
    assert!(lines[0].contains("\"rule\":\"default\"") && lines[0].contains("11111111-2222"), "{lines:?}");
    assert!(!log.contains("alice") && !log.contains("alarm-secret") && !note.to_string().contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_bounded_and_a_slow_webhook_delays_no_decision() {
    let webhook = Webhook::start(Duration::from_secs(2)).await;
    let edge = Edge::start(&webhook.settings(", per_minute: 5")).await;
    let token = edge.tokens.of("alice");
    assert_eq!(edge.doorward.post("/logout", &token).await.0, 204);
    let asked = (0..500).map(|_| edge.checks.check(get("/").token(&token)));
    for verdict in futures_util::future::join_all(asked).await {
        assert_eq!(verdict.reason(), "signed_out");
    }
    assert!(webhook.received().len() <= 1, "all were answered before it was through with the second");
    let kind = "doorward_revoked_presented_total{kind=\"token\"}";
    assert_eq!(edge.doorward.metric(kind).await, Some(500.0), "counted all the same");
    assert_eq!(edge.doorward.metric("doorward_replay_alarms_total{result=\"suppressed\"}").await, Some(495.0));
    let log = edge.doorward.log.lock().unwrap().join("\n");
    assert_eq!(log.matches("revoked token presented").count(), 5);
    eventually("five are told", || async { webhook.received().len() == 5 }).await;
}
