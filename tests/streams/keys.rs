//! Keys that one instance has and another has not: not loaded yet, withdrawn, or fixed by its configuration.

use doorward::dev::{AUDIENCE, ISSUER};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use serde_json::{Value, json};
use tonic::Code;

use super::forged::{Call, Facts, call, facts, opening};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::Tokens;

fn set(of: &[&Tokens]) -> Value {
    let keys: Vec<_> = of.iter().map(|tokens| tokens.issuer.jwks()["keys"][0].clone()).collect();
    json!({ "keys": keys })
}

fn config(redis: &RedisServer, keys: &str) -> String {
    format!(
        "revocation: {{store: redis, redis: {{url: \"{}\"}}}}\nissuers:\n  - {{name: dev, issuer: \"{ISSUER}\", audiences: [{AUDIENCE}], keys: {{{keys}}}}}\n",
        redis.url()
    )
}

fn at(server: &JwksServer) -> String {
    format!("jwks_url: \"{}\", cooldown: 1s", server.url())
}

/// The metadata of `there` about a token, once `here` accepts its seal, and knows the revocations: from then on both have
/// the secret of the store.
pub async fn facts_from(there: &Doorward, token: &str, here: &Doorward) -> Facts {
    let checks = Checks::connect(&there.check).await;
    eventually("both have one secret", || async {
        let first = call(here, vec![opening(&facts(&checks, token).await)]).await.first().await;
        let waits = |details: &str| ["unproven", "stale"].iter().any(|why| details.ends_with(why));
        !matches!(first, Response::ImmediateResponse(refused) if waits(&refused.details))
    })
    .await;
    facts(&checks, token).await
}

/// A stream with these facts, once it is open.
pub async fn open_stream(here: &Doorward, facts: &Facts) -> Call {
    let mut stream = call(here, vec![opening(facts)]).await;
    is_open(&mut stream).await;
    stream
}

async fn is_open(stream: &mut Call) {
    let first = stream.first().await;
    assert!(matches!(first, Response::RequestHeaders(_)), "{first:?}");
}

async fn open_at(doorward: &Doorward) -> Option<f64> {
    doorward.metric("doorward_streams{state=\"open\"}").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_loaded_yet_is_fetched_and_refuses_no_stream() {
    let (old, new, late) = (Tokens::new(), Tokens::new(), Tokens::new());
    let (redis, provider) = (RedisServer::start(&[]).await, JwksServer::start(&set(&[&old])).await);
    let config = config(&redis, &at(&provider));
    let (here, there) = (Doorward::start(&config).await, Doorward::start(&config).await);
    facts_from(&there, &old.of("bob"), &here).await;
    provider.publish(&set(&[&old, &new]));
    let alice = facts(&Checks::connect(&there.check).await, &new.of("alice")).await;
    let loaded = "doorward_jwks_fetches_total{issuer=\"dev\",result=\"ok\"}";
    assert_eq!(here.metric(loaded).await, Some(1.0));

    let mut stream = call(&here, vec![opening(&alice)]).await;
    is_open(&mut stream).await;
    eventually("the issuer is asked", || async { here.metric(loaded).await >= Some(2.0) }).await;
    let mut second = call(&here, vec![opening(&alice)]).await;
    is_open(&mut second).await;
    assert_eq!(here.metric("doorward_streams_ended_total{cause=\"key_withdrawn\"}").await, Some(0.0));

    // Withdrawn: both end, and a seal of an instance that still accepted the key opens no stream any more.
    provider.publish(&set(&[&old]));
    let checks = Checks::connect(&here.check).await;
    eventually("the issuer is asked again", || async {
        checks.check(get("/").token(&late.of("carol"))).await;
        here.metric(loaded).await >= Some(3.0)
    })
    .await;
    stream.is_ended(Code::Unauthenticated).await;
    second.is_ended(Code::Unauthenticated).await;
    call(&here, vec![opening(&alice)]).await.is_ended(Code::Unauthenticated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_key_the_issuer_does_not_publish_here_ends_when_it_has_answered() {
    let (old, new) = (Tokens::new(), Tokens::new());
    let redis = RedisServer::start(&[]).await;
    let (near, far) = (JwksServer::start(&set(&[&old])).await, JwksServer::start(&set(&[&old, &new])).await);
    let here = Doorward::start(&config(&redis, &at(&near))).await;
    let there = Doorward::start(&config(&redis, &at(&far))).await;
    facts_from(&there, &old.of("bob"), &here).await;
    let alice = facts(&Checks::connect(&there.check).await, &new.of("alice")).await;
    let held = near.hold().await;
    let mut stream = call(&here, vec![opening(&alice)]).await;
    is_open(&mut stream).await;
    drop(held);
    stream.is_ended(Code::Unauthenticated).await;
    assert_eq!(here.metric("doorward_streams_ended_total{cause=\"key_withdrawn\"}").await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_without_keys_trusts_the_seal_of_another_until_it_has_fetched_them() {
    let (tokens, other) = (Tokens::new(), Tokens::new());
    let redis = RedisServer::start(&[]).await;
    let (near, far) = (JwksServer::start(&set(&[&tokens])).await, JwksServer::start(&set(&[&tokens])).await);
    near.answer(500, "not now");
    let here = Doorward::launch(&config(&redis, &at(&near))).await;
    let there = Doorward::start(&config(&redis, &at(&far))).await;
    let alice = facts_from(&there, &tokens.of("alice"), &here).await;
    let mut stream = call(&here, vec![opening(&alice)]).await;
    is_open(&mut stream).await;
    near.publish(&set(&[&tokens]));
    here.ready().await;
    let mut second = call(&here, vec![opening(&alice)]).await;
    is_open(&mut second).await;
    eventually("both live", || async { open_at(&here).await == Some(2.0) }).await;
    near.publish(&set(&[&other]));
    let checks = Checks::connect(&here.check).await;
    eventually("the key is withdrawn", || async {
        checks.check(get("/").token(&other.of("carol"))).await;
        open_at(&here).await == Some(0.0)
    })
    .await;
    stream.is_ended(Code::Unauthenticated).await;
}

/// No later fetch would confirm the key, so the client must retry, with the same token.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_configuration_with_fixed_keys_lacks_is_unavailable_and_not_unknown() {
    let (old, new) = (Tokens::new(), Tokens::new());
    let redis = RedisServer::start(&[]).await;
    let here = Doorward::start(&config(&redis, &format!("jwks: {}", set(&[&old])))).await;
    let there = Doorward::start(&config(&redis, &format!("jwks: {}", set(&[&old, &new])))).await;
    facts_from(&there, &old.of("bob"), &here).await;
    let alice = facts(&Checks::connect(&there.check).await, &new.of("alice")).await;
    let Response::ImmediateResponse(refused) = call(&here, vec![opening(&alice)]).await.first().await else { panic!() };
    assert_eq!(refused.status.unwrap().code, 503);
    let body = String::from_utf8(refused.body).unwrap();
    assert!(body.contains("keys_unavailable"), "{body}");
}
