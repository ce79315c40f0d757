//! `wait=all` covers streams as well.

use serde_json::json;

use super::support::{Clients, Upstream};
use crate::api::{READER, admin_keys, post, read};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::tokens::Tokens;

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_counts_the_streams_that_ended_at_every_instance() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, redis, upstream) = (Tokens::new(), RedisServer::start(&[]).await, Upstream::start().await);
    let config = tokens.config(&format!(
        "revocation: {{store: redis, max_staleness: 5s, redis: {{url: \"{}\"}}}}\nlimits: {{http_timeout: 30s}}\n{}",
        redis.url(),
        admin_keys()
    ));
    let (here, there) = (Doorward::start(&config).await, Doorward::start(&config).await);
    let (one, other) = (
        Envoy::start_text(&binary, &upstream.config(&here.check)).await,
        Envoy::start_text(&binary, &upstream.config(&there.check)).await,
    );
    let (mut near, mut far) = (Clients::new(&one).await, Clients::new(&other).await);
    near.open_all("alice", &tokens.of("alice")).await.unwrap();
    far.open_all("alice", &tokens.of("alice")).await.unwrap();
    far.open_all("bob", &tokens.of("bob")).await.unwrap();
    eventually("each says how many are open", || async {
        let listed = read(&here, "/v1/instances", READER).await.body;
        let mut open: Vec<_> =
            listed["instances"].as_array().unwrap().iter().filter_map(|one| one["streams"].as_u64()).collect();
        open.sort_unstable();
        open == [3, 6]
    })
    .await;

    let body = json!({"kind": "user", "id": "alice"});
    let reply = post(&here, "/v1/revocations?wait=all&timeout=20s", &body).await;
    assert_eq!((reply.status, &reply.body["streams"]), (201, &json!(6)), "{}", reply.body);
    // Confirmed means that the orders have been sent: nothing of alice's is left.
    for (doorward, left) in [(&here, 0.0), (&there, 3.0)] {
        assert_eq!(doorward.metric("doorward_streams{state=\"open\"}").await, Some(left));
        assert_eq!(doorward.metric("doorward_streams{state=\"ending\"}").await, Some(0.0));
    }
    eventually("the clients see it", || async { near.ends.all().len() == 3 && far.ends.all().len() == 3 }).await;
    // Each receipt covers its own revocation: no stream was left for a second one to end.
    for (kind, id) in [("user", "alice"), ("user", "nobody"), ("session", "session-of-alice")] {
        let body = json!({"kind": kind, "id": id});
        let reply = post(&here, "/v1/revocations?wait=all&timeout=20s", &body).await;
        assert_eq!((reply.status, &reply.body["streams"]), (201, &json!(0)), "{}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_of_one_process_counts_its_streams() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let mut clients = Clients::new(&envoy).await;
    clients.open_all("alice", &tokens.of("alice")).await.unwrap();
    clients.open("events", "bob", &tokens.of("bob")).await.unwrap();
    let explained = post(&doorward, "/v1/explain", &json!({"token": tokens.of("alice")})).await.body;
    // Another token of the session and the user: its own id has no stream.
    let would_end = json!({"token": 0, "session": 3, "user": 3, "key": 4, "issuer": 4});
    assert_eq!(explained["streams"], json!({"open": 4, "would_end": would_end}), "{explained}");
    let reply =
        post(&doorward, "/v1/revocations?wait=all&timeout=9s", &json!({"kind": "session", "id": "session-of-alice"}))
            .await;
    assert_eq!((reply.status, &reply.body["streams"]), (201, &json!(3)), "{}", reply.body);
    assert_eq!(doorward.metric("doorward_streams{state=\"ending\"}").await, Some(0.0));
    let reply =
        post(&doorward, "/v1/revocations?wait=all&timeout=9s", &json!({"kind": "session", "id": "session-of-alice"}))
            .await;
    assert_eq!((reply.status, &reply.body["streams"]), (201, &json!(0)), "a repetition: {}", reply.body);
}
