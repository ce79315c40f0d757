//! Envoy's `envoy.service.auth.v3.Authorization/Check`: the only place that names its messages.
//!
//! A refusal is a denied response, never a gRPC error: `failure_mode_allow` would let that through. And
//! an empty `CheckResponse` is allowed by Envoy, so every response is built by [`respond`], which
//! cannot leave the status out.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;

use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use envoy_types::pb::google::rpc::Status as RpcStatus;
use prost::Message;
use prost::bytes::Buf;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::AsciiMetadataValue;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Code, Request, Response, Status};
use tower::Service;

use super::{Arrived, Caller, Decided, decide, refuse};
use crate::authz::answer::Answer;
use crate::authz::denial::Denial;
use crate::authz::rule::RequestView;
use crate::state::State;

/// What `Check` and its neighbours look like, for gRPC reflection (made by protoc from Envoy's protos).
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!("external_auth.fds");

/// The fully qualified name of the service, as health checks ask for it.
pub const SERVICE_NAME: &str = "envoy.service.auth.v3.Authorization";

/// The route's choice of a rule.
const RULE_EXTENSION: &str = "doorward.rule";

/// The service, ready to be added to a server. A larger message, and a request with more header fields
/// than `max_headers`, is a `bad_request`.
#[must_use]
pub fn service(state: Arc<State>, max_message_bytes: usize, max_headers: usize) -> CheckServer {
    CheckServer { check: Arc::new(Check { state, max_headers }), max_message_bytes }
}

/// As the generated server, but that it refuses what it cannot read instead of failing: a client that
/// gets a byte of its own into a text of the message (CVE-2024-23324) must not get past a filter with
/// `failure_mode_allow`.
#[derive(Clone)]
pub struct CheckServer {
    check: Arc<Check>,
    max_message_bytes: usize,
}

impl NamedService for CheckServer {
    const NAME: &'static str = SERVICE_NAME;
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<Body>> for CheckServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(SERVICE_NAME));
        if method != Some("/Check") {
            return Box::pin(async { Ok(Status::unimplemented("the only method is Check").into_http()) });
        }
        let (check, max_bytes) = (self.check.clone(), self.max_message_bytes);
        Box::pin(async move {
            let mut grpc = Grpc::new(CheckCodec).apply_max_message_size_config(Some(max_bytes), None);
            let response = grpc.unary(Method(check.clone(), None), request).await;
            // A status without a message: what came was too large, cut off, slow or compressed, or there was no
            // room for it. It is refused as an empty message is.
            let denial = match Status::from_header_map(response.headers()).map(|status| status.code()) {
                None => return Ok(response),
                Some(Code::ResourceExhausted) => {
                    check.state.metrics.degraded.with_label_values(&["memory", "refuse"]).inc();
                    Denial::StoreUnavailable
                }
                Some(_) => Denial::BadRequest,
            };
            let empty = Body::new(axum::body::Body::from(EMPTY_MESSAGE));
            Ok(grpc.unary(Method(check, Some(denial)), http::Request::new(empty)).await)
        })
    }
}

/// Not compressed, of the length 0.
const EMPTY_MESSAGE: &[u8] = &[0; 5];

/// Refuses without a look at the message, if it is said why.
struct Method(Arc<Check>, Option<Denial>);

impl UnaryService<Option<CheckRequest>> for Method {
    type Response = CheckResponse;
    type Future = BoxFuture<Result<Response<CheckResponse>, Status>>;

    fn call(&mut self, request: Request<Option<CheckRequest>>) -> Self::Future {
        let (check, denial) = (self.0.clone(), self.1);
        Box::pin(async move {
            Ok(Response::new(match denial {
                Some(denial) => check.refuse(denial),
                None => check.check(&request).await,
            }))
        })
    }
}

/// Protocol Buffers, where a message that cannot be read is `None`.
#[derive(Clone, Copy)]
struct CheckCodec;

impl Codec for CheckCodec {
    type Encode = CheckResponse;
    type Decode = Option<CheckRequest>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for CheckCodec {
    type Item = CheckResponse;
    type Error = Status;

    fn encode(&mut self, item: CheckResponse, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buffer).map_err(|_| Status::internal("the answer does not fit"))
    }
}

impl Decoder for CheckCodec {
    type Item = Option<CheckRequest>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let message = CheckRequest::decode(&mut *buffer).ok();
        buffer.advance(buffer.remaining()); // What an unreadable message leaves would be taken for the next.
        Ok(Some(message))
    }
}

struct Check {
    state: Arc<State>,
    max_headers: usize,
}

impl Check {
    fn refuse(&self, denial: Denial) -> CheckResponse {
        respond(refuse(&self.state, denial))
    }

    async fn check(&self, request: &Request<Option<CheckRequest>>) -> CheckResponse {
        let arrived = request.extensions().get::<Arrived>();
        let waited = arrived.map(|arrived| arrived.0.elapsed()).unwrap_or_default();
        let wait = grpc_timeout(request).map(|timeout| timeout.saturating_sub(waited));
        if wait == Some(Duration::ZERO) {
            // Nobody waits any more; when there is too much to do, this is the work to leave undone.
            self.state.metrics.degraded.with_label_values(&["deadline", "refuse"]).inc();
            return self.refuse(Denial::StoreUnavailable);
        }
        // Envoy's own span for this call; the request itself may carry the one before.
        let traceparent = request.metadata().get("traceparent").map(AsciiMetadataValue::as_bytes);
        let caller = Caller { wait, traceparent };
        let Some((http, rule)) = request.get_ref().as_ref().and_then(parts) else {
            return self.refuse(Denial::BadRequest);
        };
        let raw: Vec<(String, &[u8])> = fields(http);
        if raw.len() > self.max_headers {
            return self.refuse(Denial::BadRequest);
        }
        let headers: Vec<(&str, &[u8])> = raw.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let view = RequestView { method: &http.method, target: &http.path, host: &http.host, headers: &headers, rule };
        respond(decide(&self.state, &view, None, caller).await)
    }
}

fn parts(request: &CheckRequest) -> Option<(&HttpRequest, Option<&str>)> {
    let attributes = request.attributes.as_ref()?;
    let http = attributes.request.as_ref()?.http.as_ref()?;
    let rule = attributes.context_extensions.get(RULE_EXTENSION).map(String::as_str);
    Some((http, rule))
}

/// The request's header fields: `headers`, or with `encode_raw_headers` `header_map`, where repeated
/// fields stay apart and values are bytes.
fn fields(http: &HttpRequest) -> Vec<(String, &[u8])> {
    let joined = http.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.as_bytes()));
    let raw = http.header_map.iter().flat_map(|map| &map.headers).map(|header| {
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { header.raw_value.as_slice() };
        (header.key.to_ascii_lowercase(), value)
    });
    joined.chain(raw).collect()
}

/// The caller's deadline (`grpc-timeout`: digits and a unit).
fn grpc_timeout<T>(request: &Request<T>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// The one function that builds responses; the status is always set.
fn respond(decided: Decided) -> CheckResponse {
    let (code, http) = match decided.answer {
        Answer::Forward(forward) => {
            let ok = OkHttpResponse {
                headers: forward.set.into_iter().map(|(name, value)| set(name, value)).collect(),
                headers_to_remove: forward.remove,
                query_parameters_to_remove: forward.remove_query,
                ..OkHttpResponse::default()
            };
            (Code::Ok, HttpResponse::OkResponse(ok))
        }
        Answer::Respond(respond) => {
            let denied = DeniedHttpResponse {
                status: Some(HttpStatus { code: i32::from(respond.status) }),
                headers: respond.headers.into_iter().map(|(name, value)| set(name.to_owned(), value)).collect(),
                body: respond.body,
            };
            let code = if respond.status == 401 { Code::Unauthenticated } else { Code::PermissionDenied };
            (code, HttpResponse::DeniedResponse(denied))
        }
    };
    CheckResponse {
        status: Some(RpcStatus { code: code as i32, ..RpcStatus::default() }),
        http_response: Some(http),
        dynamic_metadata: Some(Struct {
            fields: decided.metadata.into_iter().map(|(name, value)| (name, protobuf(value))).collect(),
        }),
    }
}

/// Replaces the client's copy; said explicitly, since Envoy's handling of the default has changed
/// between versions.
fn set(key: String, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key, value, ..HeaderValue::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn protobuf(value: serde_json::Value) -> Value {
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(truth) => Kind::BoolValue(truth),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Kind::StringValue(text),
        serde_json::Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(protobuf).collect() })
        }
        serde_json::Value::Object(members) => Kind::StructValue(Struct {
            fields: members.into_iter().map(|(name, value)| (name, protobuf(value))).collect(),
        }),
    };
    Value { kind: Some(kind) }
}
