//! Envoy's `envoy.service.auth.v3.Authorization/Check`: the only module that reads and writes its messages.
//!
//! A refusal is a denied response, never a gRPC error: `failure_mode_allow` would let that through. Envoy allows
//! an empty `CheckResponse`, so every response is written by [`response::respond`], which cannot leave the status
//! out.

pub(super) mod fields;
mod mcp;
pub(super) mod message;
mod request;
mod response;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;

use super::{Caller, Flaw, Query, decide, refuse};
use crate::authz::denial::Denial;
use crate::authz::rule::RequestView;
use crate::metrics::Degraded;
use crate::state::State;
use request::{CheckRequest, Unusable};
use response::respond;
pub use response::write_struct;

/// The file descriptors of `Check` and related messages, for gRPC reflection (made by protoc from Envoy's protos).
pub const FILE_DESCRIPTORS: &[u8] = include_bytes!("external_auth.fds");

/// The fully qualified name of the service, as health checks name it.
pub const SERVICE_NAME: &str = "envoy.service.auth.v3.Authorization";

/// The path of its only method.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The service, ready to be added to a server. A larger message, and a request with more header fields
/// than `max_headers`, is a `bad_request`.
#[must_use]
pub fn service(state: Arc<State>, max_message_bytes: usize, max_headers: usize) -> CheckServer {
    CheckServer(Arc::new(Check { state, max_message_bytes, max_headers }))
}

/// Replaces the generated server, which fails the call if it cannot read the message: a client that gets an
/// invalid byte into a text of the message (CVE-2024-23324) must be refused, and not pass a filter with
/// `failure_mode_allow`.
#[derive(Clone)]
pub struct CheckServer(Arc<Check>);

struct Check {
    state: Arc<State>,
    max_message_bytes: usize,
    max_headers: usize,
}

impl NamedService for CheckServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl CheckServer {
    /// Whether a request is for this service's method.
    pub fn is_for<B>(request: &Request<B>) -> bool {
        request.uri().path() == CHECK
    }

    /// Answers a call of the method; `arrived` is the time at which its head arrived.
    pub async fn answer<B>(&self, request: Request<B>, arrived: Instant) -> Response<Reply>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let (head, body) = request.into_parts();
        let message = read_message(body, self.0.max_message_bytes).await;
        let wait = grpc_timeout(&head.headers).map(|timeout| timeout.saturating_sub(arrived.elapsed()));
        // Envoy's own span for this call; the request itself may carry the parent span.
        let traceparent = head.headers.get("traceparent").map(HeaderValue::as_bytes);
        reply(self.decide(message, Caller { wait, traceparent }).await)
    }

    /// The answer to a `CheckRequest`, as a gRPC message with its prefix.
    pub async fn decide(&self, message: Result<Bytes, Unread>, caller: Caller<'_>) -> Vec<u8> {
        let Check { state, max_headers, .. } = &*self.0;
        match &message {
            Err(Unread::NoRoom) => {
                state.metrics.degraded(Degraded::Memory).inc();
                return refuse(state, Denial::StoreUnavailable, None, respond);
            }
            _ if caller.wait == Some(Duration::ZERO) => {
                // The caller has given up; under overload this work is the first to skip.
                state.metrics.degraded(Degraded::Deadline).inc();
                return refuse(state, Denial::StoreUnavailable, None, respond);
            }
            _ => {}
        }
        let read = message
            .as_ref()
            .map_err(|_| "the call has no whole, plain CheckRequest within `limits.grpc_message_bytes`");
        match read.and_then(|message| CheckRequest::read(message, *max_headers).map_err(Unusable::detail)) {
            Ok(request) => decide(Query::new(state, &request.view()).from_caller(caller), respond).await,
            Err(detail) => {
                let flaw = Flaw { detail, request: &RequestView::NOTHING };
                refuse(state, Denial::BadRequest, Some(flaw), respond)
            }
        }
    }
}

/// Why a call has no message to decide.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unread {
    /// Too large, truncated, slow, compressed or not the only message.
    Unusable,
    /// The budget of requests in flight is used up.
    NoRoom,
}

impl Service<Request<Body>> for CheckServer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !Self::is_for(&request) {
            return Box::pin(async { Ok(Status::unimplemented("the only method is Check").into_http()) });
        }
        let (check, arrived) = (self.clone(), Instant::now());
        Box::pin(async move { Ok(check.answer(request, arrived).await.map(Body::new)) })
    }
}

/// The length of the prefix of a gRPC message: the compression flag and the message's length.
pub(super) const PREFIX: usize = 5;

/// The one message of a call, if it is whole, alone, not compressed and not too large.
async fn read_message<B>(mut body: B, max_bytes: usize) -> Result<Bytes, Unread>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    let mut read = Bytes::new(); // Mostly the message is in one frame.
    let mut more = BytesMut::new();
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let frame = frame.map_err(|error| match Status::try_from_error(error.into()) {
            Ok(status) if status.code() == Code::ResourceExhausted => Unread::NoRoom,
            _ => Unread::Unusable,
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if read.len() + more.len() + data.len() > PREFIX + max_bytes {
            return Err(Unread::Unusable);
        }
        if read.is_empty() {
            read = data;
        } else {
            more.extend_from_slice(&data);
        }
    }
    if !more.is_empty() {
        read = [read, more.freeze()].concat().into();
    }
    let Some((prefix, message)) = read.split_first_chunk::<PREFIX>() else { return Err(Unread::Unusable) };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 || u32::from_be_bytes(length) as usize != message.len() {
        return Err(Unread::Unusable);
    }
    Ok(read.slice(PREFIX..))
}

/// The HTTP response with a gRPC message, prefix included, and the status OK behind it.
fn reply(message: Vec<u8>) -> Response<Reply> {
    let mut response = Response::new(Reply { message: message.into(), ended: false });
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// A gRPC message and its trailers.
pub struct Reply {
    /// What is left of it.
    message: Bytes,
    ended: bool,
}

/// The most bytes of a frame. h2 gathers frames of less than 1 KB, and those of other answers, into one write; a larger
/// one takes two writes of its own, each of which wakes Envoy.
const FRAME: usize = 1_000;

impl http_body::Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let length = self.message.len().min(FRAME);
        if length > 0 {
            return Poll::Ready(Some(Ok(Frame::data(self.message.split_to(length)))));
        }
        self.ended = true;
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

/// The caller's deadline (`grpc-timeout`: digits and a unit).
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use http_body::Body as _;

    use super::*;

    /// h2 writes a frame of 1 KB or more by itself.
    #[test]
    fn an_answer_of_any_size_is_in_frames_that_are_gathered() {
        for size in [5, 999, 1_000, 1_001, 1_123, 2_000, 5_000] {
            let message: Vec<u8> = (0..size).map(|number: u32| number.to_le_bytes()[0]).collect();
            let (mut body, mut read, mut trailers) = (reply(message.clone()).into_body(), Vec::new(), None);
            while let Some(Ok(frame)) = body.frame().now_or_never().flatten() {
                match frame.into_data() {
                    Ok(data) => {
                        assert!((1..1_024).contains(&data.len()), "{} of {size}", data.len());
                        read.extend_from_slice(&data);
                    }
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            assert_eq!(read, message);
            assert_eq!(trailers.unwrap()[GRPC_STATUS], "0");
            assert!(body.is_end_stream());
        }
    }
}
