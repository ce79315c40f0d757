//! Live streams of tokens whose status is in a list.

use serde_json::json;

use super::Issuer;
use crate::ledger::support::RedisServer;
use crate::streams::support::{Clients, Upstream};
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::grpc::{Checks, get};

async fn ended(doorward: &Doorward, cause: &str) -> Option<f64> {
    doorward.metric(&format!("doorward_streams_ended_total{{cause=\"{cause}\"}}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_ends_the_streams_of_the_tokens_that_it_refuses() {
    let (Some(issuer), Some(binary)) = (Issuer::start(), envoy::binary()) else { return };
    let rules = "rules: [{name: lenient, match: {path: /events}, on_stale: allow}]\n";
    let upstream = Upstream::start().await;
    let doorward = Doorward::start(&issuer.config("{refresh: 1s, max_stale: 3s}", rules)).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let (mut clients, checks) = (Clients::new(&envoy).await, Checks::connect(&doorward.check).await);
    issuer.publish("/1", 2, &[0; 3], &json!({}));
    let users = ["alice", "bob", "carol"];
    for (at, user) in users.into_iter().enumerate() {
        let token = issuer.listed(user, "/1", at);
        // Envoy waits for 200 ms; the first list may take longer.
        eventually("the list is there", async || checks.check(get("/").token(&token)).await.allowed()).await;
        clients.open_all(user, &token).await.unwrap();
    }
    issuer.publish("/1", 2, &[1, 2, 0], &json!({}));
    eventually("alice's and bob's end", async || {
        clients.ends.of("alice").is_some() && clients.ends.of("bob").is_some()
    })
    .await;
    assert_eq!((ended(&doorward, "revoked").await, ended(&doorward, "suspended").await), (Some(3.0), Some(3.0)));
    assert!(clients.open("events", "alice", &issuer.listed("alice", "/1", 0)).await.is_err());
    assert_eq!(clients.ends.all().keys().filter(|(user, _)| user == "carol").count(), 0);
    issuer.answer("/1", 500);
    eventually("the strict ones end", async || {
        clients.ends.all().keys().filter(|(user, _)| user == "carol").count() == 2
    })
    .await;
    assert_eq!(ended(&doorward, "stale").await, Some(2.0));
    assert!(!clients.ends.all().contains_key(&("carol".to_owned(), "events")));
}

/// The second instance has not seen the list: it fetches it for the stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_at_another_instance_than_its_decision_ends_as_well() {
    let Some(issuer) = Issuer::start() else { return };
    let redis = RedisServer::start(&[]).await;
    let config =
        issuer.config("{refresh: 1s}", &format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url()));
    let (here, there) = (Doorward::start(&config).await, Doorward::start(&config).await);
    issuer.publish("/1", 1, &[0, 0], &json!({}));
    let alice = crate::streams::keys::facts_from(&there, &issuer.listed("alice", "/1", 0), &here).await;
    let mut stream = crate::streams::keys::open_stream(&here, &alice).await;
    issuer.publish("/1", 1, &[1, 0], &json!({}));
    stream.is_ended(tonic::Code::Unauthenticated).await;
    assert_eq!(ended(&here, "revoked").await, Some(1.0));
}
