//! Envoy's `envoy.service.ext_proc.v3.ExternalProcessor`: it ends a stream when the token of its opening is not
//! accepted any more.
//!
//! Envoy opens one call for each HTTP stream and keeps it as long as the stream. Its first message has the decision
//! of Check in its metadata, and is answered at once without a change to the request. From then on the call waits
//! in the index of live streams; the end of the call ends the HTTP stream.
//!
//! The generated server would keep two buffers of 8 KiB for each stream. Here a waiting stream has no buffer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use tokio::time::Sleep;
use tracing::warn;

use super::check::fields::{Fields, Malformed};
use super::check::message::Message;
use super::check::{GRPC_STATUS, PREFIX};
use crate::authz::answer::{STREAM, STREAM_RULE};
use crate::authz::authorizer::Evidence;
use crate::authz::jwks::KeyDigest;
use crate::authz::rule::{OnStale, RequestView, Requirements, Rule};
use crate::authz::stream_proof::{StreamFacts, Subject};
use crate::authz::token::TrustedIssuer;
use crate::clock::{self, Steady};
use crate::sources::streams::{Cause, Ended, LiveStream};
use crate::state::{Policy, State};

/// The only method.
const PROCESS: &str = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// The namespace in which Envoy's `ext_authz` stores the metadata that Check returned.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
/// The most messages of one stream: headers and trailers, of the request and of the response.
const MAX_MESSAGES: u8 = 4;

/// Fields of `ProcessingRequest`.
const REQUEST_HEADERS: u32 = 2;
const RESPONSE_HEADERS: u32 = 3;
const REQUEST_TRAILERS: u32 = 6;
const RESPONSE_TRAILERS: u32 = 7;
const METADATA: u32 = 8;

/// The service; requests reach it before the router.
#[derive(Clone)]
pub struct StreamServer(Arc<Service>);

struct Service {
    state: Arc<State>,
    max_message_bytes: usize,
    /// How long the first message may take to arrive.
    opening: Duration,
    warned: AtomicBool,
}

/// The service, with the largest message that it takes.
#[must_use]
pub fn service(state: Arc<State>, max_message_bytes: usize, opening: Duration) -> StreamServer {
    StreamServer(Arc::new(Service { state, max_message_bytes, opening, warned: AtomicBool::new(false) }))
}

/// The memory for a first message until it is complete; it is returned to the budget on drop.
pub trait Room: Send + Sync {
    fn take(&self, bytes: usize) -> bool;
}

impl StreamServer {
    /// Whether a request is for this service's method.
    pub fn is_for<B>(request: &Request<B>) -> bool {
        request.uri().path() == PROCESS
    }

    /// Answers a call of the method, for as long as its stream is open.
    pub fn answer<B>(&self, request: Request<B>, room: Arc<dyn Room>) -> Response<Call<B>> {
        let call = Call {
            service: self.0.clone(),
            body: request.into_body(),
            received: Vec::new(),
            passing: 0,
            messages: 0,
            phase: Phase::Opening(Opening { by: Box::pin(tokio::time::sleep(self.0.opening)), room }),
        };
        let mut response = Response::new(call);
        response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }
}

/// A call, which is also the response body.
pub struct Call<B> {
    service: Arc<Service>,
    body: B,
    /// The received bytes of an incomplete message; of a later one no more than its head.
    received: Vec<u8>,
    /// The outstanding bytes of a later message; they are skipped.
    passing: usize,
    messages: u8,
    phase: Phase,
}

enum Phase {
    Opening(Opening),
    Live(LiveStream),
    /// The end was requested. The stream counts as ended when the order has been sent.
    Ending(Option<LiveStream>, Ended),
    /// The order to end was sent; the status of the call follows.
    Closing(u16),
    Left,
}

/// The state of a call before its first message has arrived.
struct Opening {
    by: Pin<Box<Sleep>>,
    room: Arc<dyn Room>,
}

impl<B> Body for Call<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let call = &mut *self;
        loop {
            match std::mem::replace(&mut call.phase, Phase::Left) {
                Phase::Left => return Poll::Ready(None),
                Phase::Closing(status) => return Poll::Ready(Some(Ok(Frame::trailers(trailers(status))))),
                Phase::Ending(stream, ended) => {
                    let (message, status) = call.service.end(ended);
                    drop(stream);
                    call.phase = Phase::Closing(status);
                    return Poll::Ready(Some(Ok(Frame::data(message))));
                }
                Phase::Live(stream) => {
                    if let Poll::Ready(ended) = stream.poll_ended(cx) {
                        call.phase = Phase::Ending(Some(stream), ended);
                        continue;
                    }
                    call.phase = Phase::Live(stream);
                }
                Phase::Opening(mut opening) => {
                    if opening.by.as_mut().poll(cx).is_ready() {
                        call.refuse(Cause::Unexpected);
                        continue;
                    }
                    call.phase = Phase::Opening(opening);
                }
            }
            match Pin::new(&mut call.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                // The HTTP stream has ended.
                Poll::Ready(None | Some(Err(_))) => call.phase = Phase::Closing(0),
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(data) = frame.into_data() else { continue };
                    match call.take(&data) {
                        Ok(replies) if replies.is_empty() => {}
                        Ok(replies) => return Poll::Ready(Some(Ok(Frame::data(replies.into())))),
                        Err(cause) => call.refuse(cause),
                    }
                }
            }
        }
    }
}

impl<B> Call<B> {
    /// Ends the stream, whether or not it is in the index.
    fn refuse(&mut self, cause: Cause) {
        self.received = Vec::new();
        self.phase = Phase::Ending(None, Ended::now(cause));
    }

    /// Processes the received bytes; returns the answers to the complete messages.
    fn take(&mut self, data: &[u8]) -> Result<Vec<u8>, Cause> {
        let Phase::Opening(opening) = &self.phase else { return self.pass(data) };
        if !opening.room.take(data.len()) {
            return Err(Cause::Crowded);
        }
        self.received.extend_from_slice(data);
        let Some((prefix, rest)) = self.received.split_first_chunk::<PREFIX>() else { return Ok(Vec::new()) };
        let length = self.service.length(*prefix)?;
        let Some((message, more)) = rest.split_at_checked(length) else { return Ok(Vec::new()) };
        let fields = RequestFields::read(message).map_err(|_| Cause::Unexpected)?;
        if fields.part != Some(Part::RequestHeaders) {
            return Err(Cause::Unexpected);
        }
        self.phase = Phase::Live(self.service.admit(&fields)?);
        self.messages = 1;
        let more = more.to_vec();
        self.received = Vec::new(); // A waiting stream keeps no buffer.
        let mut replies = Part::RequestHeaders.reply().to_vec();
        replies.append(&mut self.pass(&more)?);
        Ok(replies)
    }

    /// Processes later messages: only the field number counts, which comes first.
    fn pass(&mut self, mut data: &[u8]) -> Result<Vec<u8>, Cause> {
        let mut replies = Vec::new();
        while !data.is_empty() {
            if self.passing > 0 {
                let passed = self.passing.min(data.len());
                self.passing -= passed;
                data = &data[passed..];
                continue;
            }
            let (head, rest) = data.split_at((PREFIX + 1 - self.received.len()).min(data.len()));
            self.received.extend_from_slice(head);
            data = rest;
            let Some((prefix, [key])) = self.received.split_first_chunk::<PREFIX>() else { continue };
            let length = self.service.length(*prefix)?;
            self.messages += 1;
            let part = Part::of(u32::from(key >> 3)).filter(|_| key & 7 == 2 && self.messages <= MAX_MESSAGES);
            replies.extend_from_slice(part.ok_or(Cause::Unexpected)?.reply());
            self.passing = length.checked_sub(1).ok_or(Cause::Unexpected)?;
            self.received = Vec::new();
        }
        Ok(replies)
    }
}

impl Service {
    /// The length of a message, from its prefix.
    fn length(&self, prefix: [u8; PREFIX]) -> Result<usize, Cause> {
        let [compressed, length @ ..] = prefix;
        let length = u32::from_be_bytes(length) as usize;
        if compressed == 0 && length <= self.max_message_bytes { Ok(length) } else { Err(Cause::Unexpected) }
    }

    /// Registers a stream by the metadata that Check returned, then checks whether it is still allowed.
    fn admit(&self, fields: &RequestFields<'_>) -> Result<LiveStream, Cause> {
        let mut policy = self.state.policy();
        loop {
            let stream = self.admit_by(&policy, fields)?;
            let now = self.state.policy();
            // A later policy finds the stream in the index; if the policy changed meanwhile, the stream is admitted
            // again under the new one.
            if Arc::ptr_eq(&policy, &now) {
                return Ok(stream);
            }
            policy = now;
        }
    }

    fn admit_by(&self, policy: &Policy, fields: &RequestFields<'_>) -> Result<LiveStream, Cause> {
        let proofs = policy.responder.proofs();
        let subject = proofs.and_then(|proofs| proofs.read(fields.subject, fields.rule, fields.rule_proof));
        let Some(subject) = subject else {
            if !self.warned.swap(true, Ordering::Relaxed) {
                warn!(
                    "streams arrive without a sealed decision and are refused: place ext_proc after ext_authz, with \
                     metadata_options.forwarding_namespaces.untyped: [{NAMESPACE}]"
                );
            }
            return Err(Cause::Unproven);
        };
        let default = &*policy.authorizer.default_rule;
        let rule = policy.authorizer.rules.named(fields.rule).unwrap_or(default);
        match subject {
            Subject::Token(facts) if rule.ends_streams() => register(&self.state, policy, rule, facts),
            Subject::Token(_) | Subject::Anonymous => self.state.streams().keep(),
        }
    }

    /// The message that ends the HTTP stream and the status of the call after it; counts the end.
    fn end(&self, ended: Ended) -> (Bytes, u16) {
        count_end(&self.state, ended);
        let policy = self.state.policy();
        let refusal = match ended.cause.denial() {
            Ok(denial) => {
                let (require, evidence) = (Requirements::default(), Evidence::default());
                policy.responder.refuse(denial, &require, &evidence, &RequestView::NOTHING)
            }
            Err(message) => policy.responder.refuse_stream(ended.cause.label(), message),
        };
        let status = if refusal.status == 401 { UNAUTHENTICATED } else { UNAVAILABLE };
        let message = message(|response| {
            response.message(IMMEDIATE_RESPONSE, |immediate| {
                immediate.message(1, |http| http.number(1, refusal.status));
                immediate.message(2, |headers| {
                    for (name, value) in &refusal.headers {
                        headers.message(1, |option| {
                            option.message(1, |header| {
                                header.text(1, name);
                                header.text(3, value);
                            });
                            option.number(3, OVERWRITE_IF_EXISTS_OR_ADD);
                        });
                    }
                });
                immediate.text(3, &refusal.body);
                immediate.message(4, |grpc| grpc.number(1, status));
                immediate.text(5, &format!("doorward_stream_{}", ended.cause.label()));
            });
        });
        (message, status)
    }
}

/// Registers a stream that `rule` allowed, then checks whether its token is still accepted.
pub fn register(state: &State, policy: &Policy, rule: &Rule, facts: StreamFacts) -> Result<LiveStream, Cause> {
    let (replica, authorizer) = (&state.replica, &policy.authorizer);
    // While an issuer is renamed, the deciding instance may use another name for it.
    let mut names = std::iter::once(&facts.issuer).chain(facts.targets.iter().map(|target| &target.issuer));
    let issuer = names.find_map(|name| authorizer.issuer_once_named(name)).ok_or(Cause::IssuerRemoved)?;
    let facts = &known_as(issuer, facts);
    let ends_at = issuer.ends_at(facts.issued_at, facts.expires_at);
    let on_stale = rule.on_stale.unwrap_or(authorizer.freshness.on_stale);
    let max_staleness = rule.max_staleness.unwrap_or(authorizer.freshness.max_staleness);
    let stale_after = (on_stale == OnStale::Deny).then_some(max_staleness);
    let stream = replica.streams().open(facts, ends_at, stale_after)?;

    // From here on every new revocation finds the stream; earlier revocations are looked up now.
    if let Some(hit) = replica.index().find(&*facts.targets, facts.issued_at) {
        return Err(hit.origin.into());
    }
    if ends_at <= clock::now() {
        return Err(Cause::Expired);
    }
    let age = replica.freshness().age(Steady::now());
    if stale_after.is_some_and(|most| age.is_none_or(|age| age > most)) {
        return Err(Cause::Stale);
    }
    facts.key.map_or(Ok(()), |key| examine_key(state, issuer, key))?;
    if let Some(reference) = &facts.status {
        state.check_status(issuer, reference, stale_after.is_some())?;
    }
    Ok(stream)
}

/// Refuses a key that was withdrawn here. A key that is not loaded here has just verified the token at another
/// instance: this instance fetches the keys, and the stream ends if the key is not among them.
fn examine_key(state: &State, issuer: &TrustedIssuer, key: KeyDigest) -> Result<(), Cause> {
    if issuer.keys.as_ref().is_some_and(|keys| keys.has(key)) {
        return Ok(());
    }
    if state.has_withdrawn(&issuer.name, key) {
        return Err(Cause::KeyWithdrawn);
    }
    // Fixed keys change with the configuration alone: no later fetch could confirm this key.
    let sources = state.keys();
    let source = sources.of(&issuer.name).filter(|source| !source.is_outlived()).ok_or(Cause::KeysUnavailable)?;
    source.request_fetch();
    Ok(())
}

/// Counts the end of a stream.
pub fn count_end(state: &State, ended: Ended) {
    state.metrics.streams_ended.with_label_values(&[ended.cause.label()]).inc();
    state.metrics.stream_end.observe(ended.at.elapsed().as_secs_f64());
}

/// The facts under every name that this instance's configuration has for the issuer.
fn known_as(issuer: &TrustedIssuer, facts: StreamFacts) -> StreamFacts {
    let names = std::iter::once(&issuer.name).chain(&issuer.formerly).filter(|name| **name != facts.issuer);
    let own = || facts.targets.iter().filter(|target| target.issuer == facts.issuer);
    let more: Vec<_> = names.flat_map(|name| own().map(|target| target.clone().under(name.clone()))).collect();
    let mut targets = facts.targets.into_vec();
    for target in more {
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    StreamFacts { issuer: issuer.name.clone(), targets: targets.into(), ..facts }
}

/// `google.rpc.Code`
const UNAUTHENTICATED: u16 = 16;
const UNAVAILABLE: u16 = 14;
/// `HeaderValueOption.HeaderAppendAction`
const OVERWRITE_IF_EXISTS_OR_ADD: u16 = 2;
/// A field of `ProcessingResponse`.
const IMMEDIATE_RESPONSE: u8 = 7;

fn trailers(status: u16) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, status.into());
    trailers
}

/// A gRPC message with its prefix.
fn message(write: impl FnOnce(&mut Message<'_>)) -> Bytes {
    let mut bytes = vec![0; PREFIX];
    write(&mut Message::new(&mut bytes));
    let length = u32::try_from(bytes.len() - PREFIX).unwrap_or(u32::MAX);
    bytes[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    bytes.into()
}

/// The part of the HTTP stream in a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    RequestHeaders,
    ResponseHeaders,
    RequestTrailers,
    ResponseTrailers,
}

impl Part {
    fn of(field: u32) -> Option<Self> {
        match field {
            REQUEST_HEADERS => Some(Self::RequestHeaders),
            RESPONSE_HEADERS => Some(Self::ResponseHeaders),
            REQUEST_TRAILERS => Some(Self::RequestTrailers),
            RESPONSE_TRAILERS => Some(Self::ResponseTrailers),
            _ => None,
        }
    }

    /// An empty field of `ProcessingResponse` for this part: Envoy forwards the part unchanged.
    fn reply(self) -> &'static [u8] {
        match self {
            Self::RequestHeaders => &[0, 0, 0, 0, 2, 1 << 3 | 2, 0],
            Self::ResponseHeaders => &[0, 0, 0, 0, 2, 2 << 3 | 2, 0],
            Self::RequestTrailers => &[0, 0, 0, 0, 2, 5 << 3 | 2, 0],
            Self::ResponseTrailers => &[0, 0, 0, 0, 2, 6 << 3 | 2, 0],
        }
    }
}

/// The fields of a `ProcessingRequest` that are read.
#[derive(Debug, Default)]
struct RequestFields<'a> {
    /// `None`: a body, which this service has not requested.
    part: Option<Part>,
    subject: &'a str,
    rule: &'a str,
    rule_proof: &'a str,
}

impl<'a> RequestFields<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Self::default();
        let mut message = Fields(message);
        while let Some((number, value)) = message.next()? {
            match number {
                2..=7 => fields.part = Part::of(number),
                METADATA => fields.metadata(value.message()?)?,
                _ => {}
            }
        }
        Ok(fields)
    }

    /// `envoy.config.core.v3.Metadata`
    fn metadata(&mut self, mut metadata: Fields<'a>) -> Result<(), Malformed> {
        while let Some((number, value)) = metadata.next()? {
            if number == 1 {
                let (namespace, facts) = entry(value.message()?)?;
                if namespace == NAMESPACE {
                    self.facts(facts)?;
                }
            }
        }
        Ok(())
    }

    /// `google.protobuf.Struct`
    fn facts(&mut self, mut facts: Fields<'a>) -> Result<(), Malformed> {
        while let Some((number, value)) = facts.next()? {
            if number != 1 {
                continue;
            }
            let (name, mut value) = entry(value.message()?)?;
            let place = match name {
                STREAM => &mut self.subject,
                STREAM_RULE => &mut self.rule_proof,
                "rule" => &mut self.rule,
                _ => continue,
            };
            while let Some((number, value)) = value.next()? {
                if number == 3 {
                    *place = value.text()?;
                }
            }
        }
        Ok(())
    }
}

/// An entry of a map from names to messages.
fn entry(mut entry: Fields<'_>) -> Result<(&str, Fields<'_>), Malformed> {
    let (mut name, mut message) = ("", Fields(&[]));
    while let Some((number, value)) = entry.next()? {
        match number {
            1 => name = value.text()?,
            2 => message = value.message()?,
            _ => {}
        }
    }
    Ok((name, message))
}
