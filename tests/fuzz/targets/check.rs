//! The bytes of a `CheckRequest`, through the service that Envoy asks.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use doorward::api::check;
use doorward::authz::token::TrustedIssuer;
use doorward::config::Config;
use doorward::engine::assemble;
use doorward::metrics::Metrics;
use doorward::sources::alarm::{AlarmSettings, ReplayAlarm};
use doorward::sources::ledger::EmbeddedLedger;
use doorward::sources::replica::Replica;
use doorward::state::{Policy, State};
use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use prost::Message;
use tower::ServiceExt;

use super::signer::{self, AUDIENCE, ISSUER, SIGNED};

/// Doorward's identity headers, and their permitted values.
const OURS: [(&str, [&str; 2]); 2] =
    [("x-user-id", ["alice", "bob"]), ("x-user-email", ["alice@example.com", "bob@example.com"])];

/// Rules that let pass without a token.
const OPEN: [&str; 4] = ["public", "optional", "refresh", "shadow"];

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let yaml = format!(
        r#"
issuers: [{{name: main, issuer: "{ISSUER}", audiences: [{AUDIENCE}], keys: {{jwks: {jwks}}}}}]
token: {{from: [{{header: authorization, scheme: Bearer}}, {{cookie: token}}, {{query: token}}]}}
rules:
  - {{name: public, match: {{path_prefix: /public}}, access: public}}
  - {{name: optional, match: {{path_prefix: /optional}}, access: optional}}
  - {{name: shadow, match: {{path_prefix: /shadow}}, enforce: false}}
  - {{name: refresh, match: {{path: /refresh, methods: [POST]}}, access: refresh}}
  - {{name: logout, match: {{path: /logout, methods: [POST]}}, access: sign_out}}
  - {{name: leave, match: {{path: /leave}}, access: sign_out, sign_out: {{scope: user, then: respond}}}}
  - {{name: key, match: {{path: /key, hosts: [a.test, "*.b.test"]}}, api_key: required}}
api_keys:
  keys: [{{id: shop, sha256: {key}, platforms: [web], domains: [shop.test, "*.shop.test"]}}]
revocation: {{store: embedded}}
"#,
        jwks = signer::jwks(),
        key = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683", // The SHA-256 of `key`.
    );
    let config = Config::parse(&yaml, "fuzz", std::path::Path::new(""), std::iter::empty()).expect("no faults").config;
    let mut policy = assemble::policy(&config);
    for issuer in &mut policy.authorizer.issuers {
        let longer = TrustedIssuer { max_lifetime: Duration::from_secs(100 * 365 * 86_400), ..(**issuer).clone() };
        *issuer = longer.into();
    }
    policy
});

static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::new().expect("names that are different")));

thread_local! {
    static RUNTIME: LazyCell<tokio::runtime::Runtime> = LazyCell::new(|| {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime")
    });
}

/// A message as it stands behind its length.
pub fn run(data: &[u8]) {
    let answer = RUNTIME.with(|runtime| runtime.block_on(ask(data)));
    let status = answer.status.expect("without a status Envoy allows");
    let metadata = |name: &str| match answer.dynamic_metadata.as_ref()?.fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    };
    let rule = metadata("rule").expect("every decision is by a rule");
    match answer.http_response.as_ref().expect("an explicit answer") {
        HttpResponse::OkResponse(ok) => {
            assert_eq!(status.code, 0);
            allowed(ok, data, &rule);
        }
        HttpResponse::DeniedResponse(denied) => {
            assert_ne!(status.code, 0, "with the status OK Envoy would allow it");
            refused(denied, metadata("reason").as_deref());
        }
        HttpResponse::ErrorResponse(_) => panic!("Envoy before 1.37 makes a 403 of it"),
    }
}

async fn ask(message: &[u8]) -> CheckResponse {
    let replica = Replica::new(EmbeddedLedger::in_memory().into(), METRICS.store.clone()); // New for each input.
    let bell = AlarmSettings { per_minute: 60, webhook: None };
    let (alarm, _) = ReplayAlarm::new(bell, METRICS.replay_alarms.clone()).expect("no client to build");
    let state = State::new(POLICY.clone(), Arc::new(replica), METRICS.clone(), alarm, None);
    let service = check::service(Arc::new(state), 1 << 20, 100);
    let length = u32::try_from(message.len()).expect("a fuzzer's input").to_be_bytes();
    let body = [&[0], length.as_slice(), message].concat();
    let request = http::Request::post("/envoy.service.auth.v3.Authorization/Check")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(axum::body::Body::from(body)))
        .expect("a request");
    let response = service.oneshot(request).await.expect("it cannot fail");
    assert!(response.headers().get("grpc-status").is_none_or(|status| status == "0"), "never a gRPC error");
    let answer = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 1 << 20).await.expect("a body");
    let (head, answer) = answer.split_at_checked(5).expect("an answer");
    assert_eq!(head[1..], u32::try_from(answer.len()).expect("a short one").to_be_bytes());
    CheckResponse::decode(answer).expect("an answer")
}

fn allowed(ok: &OkHttpResponse, message: &[u8], rule: &str) {
    fields(&ok.headers);
    let name = |name: &str| name.to_ascii_lowercase().replace(['_', '.'], "-");
    let set: BTreeSet<_> = ok.headers.iter().filter_map(|field| field.header.as_ref()).map(|h| name(&h.key)).collect();
    let exactly: BTreeSet<_> =
        ok.headers.iter().filter_map(|field| field.header.as_ref()).map(|h| h.key.clone()).collect();
    assert!(ok.headers_to_remove.iter().all(|name| !exactly.contains(name)), "set and removed: Envoy removes it");
    for (ours, _) in OURS {
        assert!(set.contains(ours) || ok.headers_to_remove.iter().any(|name| name == ours), "{ours} is the client's");
        for look_alike in [ours.replace('-', "_"), ours.replace('-', ".")] {
            assert!(ok.headers_to_remove.contains(&look_alike), "{look_alike} is the client's");
        }
    }
    for field in ok.headers.iter().filter_map(|field| field.header.as_ref()) {
        let Some((_, values)) = OURS.iter().find(|(name, _)| *name == field.key) else { continue };
        let at = values.iter().position(|value| *value == field.value).expect("one of whom we know");
        let signed = SIGNED[at].as_bytes();
        assert!(message.windows(signed.len()).any(|part| part == signed), "nobody proved to be {}", field.value);
    }
    assert!(set.contains("x-user-id") || OPEN.contains(&rule), "{rule} lets pass without an identity");
}

fn refused(denied: &DeniedHttpResponse, reason: Option<&str>) {
    fields(&denied.headers);
    let status = denied.status.expect("a status").code;
    let has = |name: &str| denied.headers.iter().any(|field| field.header.as_ref().is_some_and(|h| h.key == name));
    if status == 204 {
        return; // Signed out.
    }
    assert!(matches!(status, 400 | 401 | 403 | 503), "{status}");
    assert_eq!(has("www-authenticate"), status == 401, "{reason:?}");
    assert!(has("cache-control") && reason != Some("internal_error"), "nothing panics");
    let body: serde_json::Value = serde_json::from_str(&denied.body).expect("JSON");
    assert_eq!(body["reason"].as_str(), reason);
}

/// Header fields that any Envoy can write.
fn fields(fields: &[HeaderValueOption]) {
    for field in fields {
        assert_eq!(field.append_action, 2, "OVERWRITE_IF_EXISTS_OR_ADD");
        let header = field.header.as_ref().expect("a header");
        assert!(header.value.bytes().all(|byte| matches!(byte, 0x20..=0x7e)), "{:?}", header.value);
    }
}
