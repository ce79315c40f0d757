//! A stream's facts count only with the seal of a Doorward on the same store: no filter can name another user's
//! token.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_client::ExternalProcessorClient;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};

use super::support::{Clients, Upstream};
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;

pub type Facts = Vec<(String, String)>;

/// Check's metadata of a token, as Envoy would forward it.
pub async fn facts(checks: &Checks, token: &str) -> Facts {
    let verdict = checks.check(get("/").token(token)).await;
    verdict.metadata.into_iter().collect()
}

pub fn opening(facts: &Facts) -> ProcessingRequest {
    let value = |text: &String| Value { kind: Some(Kind::StringValue(text.clone())) };
    let fields = facts.iter().map(|(name, text)| (name.clone(), value(text))).collect();
    let namespace = ("envoy.filters.http.ext_authz".to_owned(), Struct { fields });
    ProcessingRequest {
        request: Some(Request::RequestHeaders(HttpHeaders::default())),
        metadata_context: Some(Metadata { filter_metadata: [namespace].into(), ..Metadata::default() }),
        ..ProcessingRequest::default()
    }
}

pub struct Call {
    _sender: mpsc::Sender<ProcessingRequest>,
    answers: Streaming<ProcessingResponse>,
}

/// Opens a call with these messages, like any client that reaches the listener.
pub async fn call(doorward: &Doorward, messages: Vec<ProcessingRequest>) -> Call {
    let mut client = ExternalProcessorClient::connect(format!("http://{}", doorward.check)).await.unwrap();
    let (sender, receiver) = mpsc::channel(16);
    for message in messages {
        sender.send(message).await.unwrap();
    }
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let answers = client.process(requests).await.unwrap().into_inner();
    Call { _sender: sender, answers }
}

impl Call {
    async fn next(&mut self) -> Result<Option<Response>, Status> {
        let next = tokio::time::timeout(crate::support::PATIENCE, self.answers.message()).await.unwrap()?;
        Ok(next.and_then(|answer| answer.response))
    }

    /// The answer to its opening, or the order that refuses it.
    pub async fn first(&mut self) -> Response {
        self.next().await.unwrap().unwrap()
    }

    /// Asserts that the next message ends the stream, with this code.
    pub async fn is_ended(&mut self, code: Code) {
        let first = self.first().await;
        assert!(matches!(first, Response::ImmediateResponse(_)), "{first:?}");
        assert_eq!(self.next().await.unwrap_err().code(), code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_the_proof_of_a_decision_is_refused() {
    let tokens = Tokens::new();
    let config = tokens.config("rules: [{name: kept, match: {path: /kept}, streams: keep}]\n");
    let (doorward, stranger) = (Doorward::start(&config).await, Doorward::start(&config).await);
    let checks = Checks::connect(&doorward.check).await;
    let (alice, mallory) = (facts(&checks, &tokens.of("alice")).await, facts(&checks, &tokens.of("mallory")).await);
    let kept = checks.check(get("/kept").token(&tokens.of("alice"))).await;
    assert_eq!(kept.metadata["rule"], "kept");
    let call_with = async |facts: &Facts| call(&doorward, vec![opening(facts)]).await;
    let mut good = call_with(&alice).await;
    assert!(matches!(good.next().await, Ok(Some(Response::RequestHeaders(_)))));

    let without = |name: &str| alice.iter().filter(|(known, _)| known != name).cloned().collect::<Facts>();
    let with = |name: &str, text: &str| {
        let mut facts = without(name);
        facts.push((name.to_owned(), text.to_owned()));
        facts
    };
    let value = |facts: &Facts, name: &str| facts.iter().find(|(known, _)| known == name).unwrap().1.clone();
    let subject = value(&alice, "stream");
    let changed = |at: usize| {
        let mut text = subject.clone().into_bytes();
        text[at] = if text[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(text).unwrap()
    };
    let foreign = facts(&Checks::connect(&stranger.check).await, &tokens.of("alice")).await;
    let forgeries = [
        ("nothing", Facts::new()),
        ("no subject", without("stream")),
        ("no rule", without("rule")),
        ("no proof of the rule", without("stream_rule")),
        ("a rule that keeps streams", with("rule", "kept")),
        ("an empty subject", with("stream", "")),
        ("a subject that is changed at its start", with("stream", &changed(0))),
        ("in its middle", with("stream", &changed(subject.len() / 2))),
        ("in its seal", with("stream", &changed(subject.len() - 4))),
        ("a subject without its seal", with("stream", &subject[..subject.len() - 22])),
        ("what another Doorward sealed", foreign),
        ("the seal of the rule for the subject", with("stream", &value(&alice, "stream_rule"))),
    ];
    for (forgery, facts) in &forgeries {
        println!("{forgery}");
        call_with(facts).await.is_ended(Code::Unavailable).await;
    }
    let unproven = doorward.metric("doorward_streams_ended_total{cause=\"unproven\"}").await;
    assert_eq!(unproven, Some(f64::from(u32::try_from(forgeries.len()).unwrap())));
    doorward.logs("without a sealed decision").await;

    // Names that stand beside the seal are not believed: mallory's stream is mallory's.
    let named = mallory.iter().map(|(name, text)| match name.as_str() {
        "user_id" | "session_id" | "token_id" => (name.clone(), value(&alice, name)),
        _ => (name.clone(), text.clone()),
    });
    let mut disguised = call_with(&named.collect()).await;
    assert!(matches!(disguised.next().await, Ok(Some(Response::RequestHeaders(_)))));
    let mallorys = tokens.of("mallory");
    assert_eq!(doorward.post("/logout?all=true", &mallorys).await.0, 204);
    disguised.is_ended(Code::Unauthenticated).await;
    assert_eq!(doorward.metric("doorward_streams{state=\"open\"}").await, Some(1.0), "alice's lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_bounds() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("limits: {streams: 2, request_timeout: 1s}\n")).await;
    let checks = Checks::connect(&doorward.check).await;
    let alice = facts(&checks, &tokens.of("alice")).await;
    // A second opening message has no effect; the subject of the stream stays.
    let body = ProcessingRequest { request: Some(Request::RequestBody(HttpBody::default())), ..opening(&alice) };
    call(&doorward, vec![body.clone()]).await.is_ended(Code::Unavailable).await;
    let mut bodies = call(&doorward, vec![opening(&alice), body]).await;
    let ended = loop {
        match bodies.next().await.unwrap() {
            Some(Response::RequestHeaders(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(ended, Some(Response::ImmediateResponse(_))), "{ended:?}");
    let mut many = call(&doorward, vec![opening(&alice); 10]).await;
    // Answers that are behind the end may not be sent any more.
    let mut answered = 0;
    while let Some(Response::RequestHeaders(_)) = many.next().await.unwrap() {
        answered += 1;
    }
    assert!(answered <= 4, "{answered}");
    assert_eq!(many.next().await.unwrap_err().code(), Code::Unavailable);
    // No message arrives.
    call(&doorward, Vec::new()).await.is_ended(Code::Unavailable).await;

    let mut open = Vec::new();
    for _ in 0..2 {
        let mut one = call(&doorward, vec![opening(&alice)]).await;
        assert!(matches!(one.next().await, Ok(Some(Response::RequestHeaders(_)))));
        open.push(one);
    }
    call(&doorward, vec![opening(&alice)]).await.is_ended(Code::Unavailable).await;
    assert_eq!(doorward.metric("doorward_streams_ended_total{cause=\"crowded\"}").await, Some(1.0));
    open.pop();
    eventually("there is room again", || async {
        doorward.metric("doorward_streams{state=\"open\"}").await == Some(1.0)
    })
    .await;
    // Longer than a request may take to arrive, and than a connection may be idle otherwise.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(doorward.metric("doorward_streams{state=\"open\"}").await, Some(1.0));
    assert_eq!(doorward.post("/logout?all=true", &tokens.of("alice")).await.0, 204);
    open[0].is_ended(Code::Unauthenticated).await;
}

/// A filter before ext_proc that writes a client's value into the namespace, and one route without ext_authz.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_copies_client_values_gains_nothing() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let doorward = Doorward::start(&tokens.config("")).await;
    let text = upstream.config(&doorward.check);
    let filter = "                  # Ends a stream with its session.";
    let writer = "                  - name: envoy.filters.http.header_to_metadata
                    typed_config:
                      \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config
                      request_rules:
                        - header: x-stream
                          on_header_present: {metadata_namespace: envoy.filters.http.ext_authz, key: stream}
";
    assert!(text.contains(filter));
    let envoy = Envoy::start_text(&binary, &text.replace(filter, &format!("{writer}{filter}"))).await;
    let alice = tokens.of("alice");
    let request = || reqwest::Client::new().get(envoy.url("/events")).bearer_auth(&alice);
    assert_eq!(request().send().await.unwrap().status(), 200);
    assert_eq!(request().header("x-stream", "AA").send().await.unwrap().status(), 503);
    let clients = Clients::new(&envoy).await;
    drop(clients);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_key_was_replaced_under_its_name_after_its_check_is_refused() {
    let (tokens, others) = (Tokens::new(), Tokens::new());
    let set = |tokens: &Tokens, kid: Option<&str>| {
        let mut key = tokens.issuer.jwks()["keys"][0].clone();
        key["kid"] = serde_json::json!(kid);
        serde_json::json!({ "keys": [key] }).to_string()
    };
    let kid = tokens.issuer.jwks()["keys"][0]["kid"].as_str().unwrap().to_owned();
    let written = tokens.config("").replace(&tokens.issuer.jwks().to_string(), "KEYS");
    assert!(written.contains("KEYS"));
    // The same name for another key, no name for either, and a name that was not there before.
    for (before, after, stays) in [
        (set(&tokens, Some(&kid)), set(&others, Some(&kid)), false),
        (set(&tokens, None), set(&others, None), false),
        (set(&tokens, None), set(&others, Some(&kid)), false),
        (set(&tokens, None), set(&tokens, None), true),
    ] {
        let doorward = Doorward::start(&written.replace("KEYS", &before)).await;
        let checks = Checks::connect(&doorward.check).await;
        let alice = facts(&checks, &tokens.of("alice")).await;
        let opened = call(&doorward, vec![opening(&alice)]).await.next().await;
        assert!(matches!(opened, Ok(Some(Response::RequestHeaders(_)))), "{opened:?}");
        let (next, file) = (doorward.dir.path().join("next"), doorward.dir.path().join("doorward.yaml"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(&before));
        std::fs::write(&next, format!("{}# reloaded\n", text.replace(&before, &after))).unwrap();
        std::fs::rename(next, file).unwrap();
        let reloads = "doorward_config_reloads_total{result=\"ok\"}";
        eventually("the keys are in force", || async { doorward.metric(reloads).await >= Some(1.0) }).await;
        let mut later = call(&doorward, vec![opening(&alice)]).await;
        if stays {
            assert!(matches!(later.next().await, Ok(Some(Response::RequestHeaders(_)))));
        } else {
            later.is_ended(Code::Unauthenticated).await;
        }
    }
}
