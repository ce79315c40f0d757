//! The resources of streams, and the isolation of other requests from them.

use serde_json::Value;

use super::support::{Clients, Upstream};
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::tokens::Tokens;

const RULES: &str = "rules:\n  - {name: open, match: {path: /events}, access: public}\n  - {name: kept, match: {path: /ws}, streams: keep}\n";

async fn open_at(doorward: &Doorward) -> Option<f64> {
    doorward.metric("doorward_streams{state=\"open\"}").await
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_an_end_count_towards_the_limit_and_end_with_the_process() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let limits = "limits: {streams: 2, drain: 4s}\n";
    let mut doorward = Doorward::start(&tokens.config(&format!("{RULES}{limits}"))).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let mut clients = Clients::new(&envoy).await;
    let alice = tokens.of("alice");
    clients.open("websocket", "alice", &alice).await.unwrap();
    let anonymous = reqwest::get(envoy.url("/events")).await.unwrap();
    assert_eq!((anonymous.status().as_u16(), open_at(&doorward).await), (200, Some(2.0)));

    let refused = reqwest::get(envoy.url("/events")).await.unwrap();
    assert_eq!(refused.status(), 503);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["reason"], "crowded", "{body}");
    assert!(body["message"].as_str().unwrap().contains("the limit of open streams"), "{body}");
    drop(anonymous);
    eventually("there is room again", || async { open_at(&doorward).await == Some(1.0) }).await;
    clients.open("events", "nobody", &alice).await.unwrap();

    assert_eq!(doorward.stop().await, Some(0));
    assert!(!doorward.logged("requests still in flight are aborted"), "they are not waited for");
    eventually("all streams end", || async { clients.ends.all().len() == 2 }).await;
}

/// On a shared cluster with a limit of ten calls, the eleventh check was answered 503 while ten streams were
/// open.
#[tokio::test(flavor = "multi_thread")]
async fn as_many_streams_as_there_may_be_refuse_no_check() {
    for binary in envoy::binaries() {
        let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
        let doorward = Doorward::start(&tokens.config("")).await;
        let text = upstream.config(&doorward.check);
        let (checks, streams) = text.split_once("    - name: doorward_streams").unwrap();
        assert_eq!(streams.matches("max_requests: 65536").count(), 1);
        let streams = streams.replace("max_requests: 65536", "max_requests: 3");
        let envoy = Envoy::start_text(&binary, &format!("{checks}    - name: doorward_streams{streams}")).await;
        let alice = tokens.of("alice");
        let get =
            async |path: &str| reqwest::Client::new().get(envoy.url(path)).bearer_auth(&alice).send().await.unwrap();
        let mut open = Vec::new();
        for _ in 0..3 {
            let stream = get("/events").await;
            assert_eq!(stream.status(), 200);
            open.push(stream);
        }
        assert_eq!(get("/events").await.status(), 503, "an outage, not a fault of the service");
        for _ in 0..10 {
            assert_eq!(get("/").await.status(), 200);
        }
    }
}

/// Envoy's own answer is 500, after which clients do not come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_cannot_ask_is_answered_503() {
    for binary in envoy::binaries() {
        let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
        let doorward = Doorward::start(&tokens.config("")).await;
        let text = upstream.config(&doorward.check);
        let (checks, streams) = text.split_once("    - name: doorward_streams").unwrap();
        let port = doorward.check.rsplit_once(':').unwrap().1;
        // The address of a listener that is closed again.
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let streams = streams.replace(&format!("port_value: {port}"), &format!("port_value: {closed}"));
        let envoy = Envoy::start_text(&binary, &format!("{checks}    - name: doorward_streams{streams}")).await;
        let alice = tokens.of("alice");
        let get =
            async |path: &str| reqwest::Client::new().get(envoy.url(path)).bearer_auth(&alice).send().await.unwrap();
        assert_eq!((get("/events").await.status().as_u16(), get("/").await.status().as_u16()), (503, 200));
    }
}
