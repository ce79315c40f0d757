use std::path::Path;
use std::sync::Arc;

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use tonic::transport::server::TcpIncoming;

use super::*;
use crate::api::check;
use crate::config::Config;
use crate::engine::assemble;

/// Only in a test build: a request may ask for a panic in the middle of its decision.
pub(super) fn panic_if_asked(request: &RequestView<'_>, place: &str) {
    let asked = request.header("x-test-panic").any(|wanted| wanted == place.as_bytes());
    assert!(!asked, "asked to, with Bearer canary-in-a-panic");
}

fn state() -> Arc<State> {
    state_of(&crate::dev::DevIssuer::generate().unwrap())
}

fn state_of(issuer: &crate::dev::DevIssuer) -> Arc<State> {
    let jwks = issuer.jwks();
    let text = format!(
        "revocation: {{store: embedded}}\nissuers: [{{name: dev, issuer: \"https://a.test\", audiences: any, keys: {{jwks: {jwks}}}}}]\n\
         rules: [{{name: public, match: {{path_prefix: /public}}, access: public}}]\n"
    );
    let config = Config::parse(&text, "test", Path::new(""), std::iter::empty()).unwrap().config;
    assemble::state(&config).unwrap().0
}

/// The HTTP status that Envoy would receive, over real gRPC.
async fn ask(client: &mut AuthorizationClient<tonic::transport::Channel>, path: &str, panic: Option<&str>) -> i32 {
    let headers = panic.map(|place| ("x-test-panic".to_owned(), place.to_owned())).into_iter().collect();
    let http = HttpRequest { method: "GET".to_owned(), path: path.to_owned(), headers, ..HttpRequest::default() };
    let request = Some(Request { http: Some(http), ..Request::default() });
    let attributes = Some(AttributeContext { request, ..AttributeContext::default() });
    let answer = client.check(CheckRequest { attributes }).await.unwrap().into_inner();
    match answer.http_response.unwrap() {
        HttpResponse::OkResponse(_) => 200,
        HttpResponse::DeniedResponse(denied) => {
            assert!(!denied.body.contains("canary"), "{}", denied.body);
            denied.status.unwrap().code
        }
        HttpResponse::ErrorResponse(_) => 0,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_refuses_its_request_and_nothing_else() {
    let state = state();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = check::service(state.clone(), 1 << 20, 1000);
    let server =
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
    let asking = async {
        let mut client = AuthorizationClient::connect(format!("http://{address}")).await.unwrap();
        for place in ["decision", "answer"] {
            for path in ["/public", "/private"] {
                assert_eq!(ask(&mut client, path, Some(place)).await, 503, "{place} {path}");
                assert_eq!(ask(&mut client, "/public", None).await, 200, "the next request is decided");
                assert_eq!(ask(&mut client, "/private", None).await, 401);
            }
        }
        let mut others = client.clone();
        let (panicked, good) =
            tokio::join!(ask(&mut client, "/public", Some("decision")), ask(&mut others, "/public", None));
        assert_eq!((panicked, good), (503, 200), "beside it");
        let counted = state.metrics.checks.with_label_values(&["denied", "internal_error", "default"]).get();
        assert_eq!(counted, 5);
    };
    tokio::select! {
        served = server => panic!("the server ended: {served:?}"),
        () = asking => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_verified_in_its_turn_or_refused() {
    let issuer = crate::dev::DevIssuer::generate().unwrap();
    let state = state_of(&issuer);
    let now = clock::now().as_secs();
    let claims = serde_json::json!({"iss": "https://a.test", "sub": "alice", "iat": now, "exp": now + 600});
    let bearer = format!("Bearer {}", issuer.mint(&claims).unwrap());
    let headers = [("authorization", bearer.as_bytes())];
    let request = RequestView { method: "GET", target: "/", headers: &headers, ..RequestView::NOTHING };
    let reason = |_: &Responder, decision: &Decision<'_>, _: &RequestView<'_>| decision.outcome.denial();
    let soon = Caller { wait: Some(Duration::from_millis(50)), ..Caller::default() };
    let query = || Query::new(&state, &request).verified_in_turn();

    let turn = state.waits.turn.lock().await;
    assert_eq!(decide_at_once(query(), reason), None, "it waits");
    assert_eq!(decide(query().from_caller(soon), reason).await, Some(Denial::Overloaded), "too late");
    let places: Vec<_> = (0..1024).map(|_| state.waits.verification.enter(1024).unwrap()).collect();
    assert_eq!(decide(query(), reason).await, Some(Denial::Overloaded), "too many wait");
    drop(places);
    let foreign = [("authorization", b"Bearer x".as_slice())];
    let unread = RequestView { headers: &foreign, ..request };
    let refused = decide_at_once(Query::new(&state, &unread).verified_in_turn(), reason);
    assert_eq!(refused, Some(Some(Denial::MalformedToken)), "no signature is verified for it");
    drop(turn);

    assert_eq!(decide(query(), reason).await, None, "allowed");
    let _turn = state.waits.turn.lock().await;
    assert_eq!(decide_at_once(query(), reason), Some(None), "verified before");
}
