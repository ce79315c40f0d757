//! Ten thousand streams: their memory, the end of all of an issuer's; and streams that open while they are revoked.

use std::time::Instant;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::forged::{facts, opening};
use crate::api::{admin_keys, post};
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::tokens::Tokens;

async fn resident(doorward: &Doorward) -> f64 {
    doorward.metric("process_resident_memory_bytes").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_streams_take_little_and_end_together() {
    const STREAMS: usize = 10_000;
    let tokens = Tokens::new();
    // Envoy would open a connection for each 256; here all are on a few.
    let limits = "limits: {grpc_concurrent_streams: 4096}\n";
    let doorward = Doorward::start(&tokens.config(&format!("{limits}{}", admin_keys()))).await;
    let checks = Checks::connect(&doorward.check).await;
    let mut sealed = Vec::new();
    for at in 0..STREAMS {
        sealed.push(opening(&facts(&checks, &tokens.of(&format!("user-{at}"))).await));
    }
    let before = resident(&doorward).await;
    let (mut calls, mut senders) = (JoinSet::new(), Vec::new());
    for part in sealed.chunks(2_500) {
        let client = ExternalProcessorClient::connect(format!("http://{}", doorward.check)).await.unwrap();
        for opening in part {
            let (mut client, (sender, receiver)) = (client.clone(), mpsc::channel(1));
            sender.send(opening.clone()).await.unwrap();
            senders.push(sender);
            let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let mut answers = client.process(requests).await.unwrap().into_inner();
            let first = answers.message().await.unwrap().unwrap().response;
            assert!(matches!(first, Some(Response::RequestHeaders(_))), "{first:?}");
            calls.spawn(async move {
                let ended = answers.message().await;
                assert!(
                    ended.is_ok_and(|answer| matches!(answer.unwrap().response, Some(Response::ImmediateResponse(_))))
                );
                Instant::now()
            });
        }
    }
    assert_eq!(doorward.metric("doorward_streams{state=\"open\"}").await, Some(10_000.0));
    let each = (resident(&doorward).await - before) / 10_000.0;
    println!("{each:.0} bytes of the process for each stream");
    assert!(each < 6_000.0, "{each}");
    let began = Instant::now();
    assert_eq!(post(&doorward, "/v1/revocations", &json!({"kind": "issuer"})).await.status, 201);
    let mut last = began;
    while let Some(at) = calls.join_next().await {
        last = last.max(at.unwrap());
    }
    println!("all ended {:?} after the request", last.saturating_duration_since(began));
    assert!(last.saturating_duration_since(began) < crate::support::PATIENCE); // Debug build; benches/ has the figure.
    drop(senders);
    eventually("none is left", || async { doorward.metric("doorward_streams{state=\"ending\"}").await == Some(0.0) })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_opens_while_it_is_revoked_ends_a_thousand_times() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("")).await;
    let checks = Checks::connect(&doorward.check).await;
    let client = ExternalProcessorClient::connect(format!("http://{}", doorward.check)).await.unwrap();
    let http = reqwest::Client::new();
    let mut refused_at_once = 0;
    for round in 0..1_000 {
        let token = tokens.of(&format!("user-{round}"));
        let opening = opening(&facts(&checks, &token).await);
        let (sender, receiver) = mpsc::channel(1);
        let mut client = client.clone();
        let open = async {
            sender.send(opening).await.unwrap();
            let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
            client.process(requests).await.unwrap().into_inner()
        };
        let logout = http.post(format!("http://{}/logout", doorward.http)).bearer_auth(&token).send();
        let (mut answers, logout) = tokio::join!(open, logout);
        assert_eq!(logout.unwrap().status(), 204);
        let mut next = async || tokio::time::timeout(crate::support::PATIENCE, answers.message()).await.unwrap();
        let first = next().await.unwrap().unwrap().response;
        if matches!(first, Some(Response::ImmediateResponse(_))) {
            refused_at_once += 1;
            continue;
        }
        let then = next().await.unwrap().unwrap().response;
        assert!(matches!(then, Some(Response::ImmediateResponse(_))), "round {round}: {then:?}");
    }
    println!("{refused_at_once} of 1,000 were refused at once, the others ended after they had opened");
    assert_eq!(doorward.metric("doorward_streams{state=\"open\"}").await, Some(0.0));
}
