//! Connections: their number, their duration and their limits. All listeners serve through this module.
//!
//! A peer that is idle, or very slow, must not take resources from others. So the number of connections of a
//! listener is limited, and one more is closed at once. A connection must complete its handshake in time, send
//! requests, answer pings, and has a limit of concurrent requests. A request must arrive in time, within the budget
//! of all (see [`super::budget`]).

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::{BoxError, Router};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus::IntCounterVec;
use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::debug;

use super::budget::{Budget, RequestBody, Share};
use super::listen::{Accepted, Listener};
use super::read_quota::ReadQuota;
use super::tls::Tls;
use super::workers::Workers;
use crate::api::check::{CheckServer, Reply};
use crate::api::http::OpenEnded;
use crate::api::streams::StreamServer;
use crate::config::Limits;

/// A listener's service and its bounds.
pub(crate) struct Server {
    name: &'static str,
    router: Router,
    /// Tried before the router, because nearly all requests are checks.
    check: Option<CheckServer>,
    streams: Option<StreamServer>,
    /// `None`: connections are served where they are accepted.
    workers: Option<Workers>,
    builder: auto::Builder<TokioExecutor>,
    tls: Option<Arc<Tls>>,
    /// TLS handshakes under way.
    handshakes: Semaphore,
    budget: Arc<Budget>,
    /// The budget of one connection.
    part: usize,
    max_connections: usize,
    handshake_timeout: Duration,
    idle_timeout: Duration,
    request_timeout: Duration,
    /// See [`ReadQuota`].
    overhead_rate: u32,
    /// By listener and result.
    counted: IntCounterVec,
}

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Protocol {
    /// HTTP/2 only.
    Grpc,
    /// HTTP/1 and HTTP/2.
    Http,
}

/// Concurrent TLS handshakes: each computes a signature; further ones wait.
const MAX_HANDSHAKES: usize = 256;
/// The pause after a failed accept, for instance for lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// The share of the budget for one connection; at least the size of two of the largest messages.
const PARTS: usize = 4;
/// The HTTP/2 receive windows of a stream and of a connection, in bytes; messages are small.
const WINDOWS: (u32, u32) = (128 * 1024, 1024 * 1024);

impl Server {
    /// `name` appears in metrics and logs.
    pub(super) fn new(
        name: &'static str,
        protocol: Protocol,
        router: Router,
        limits: &Limits,
        budget: Arc<Budget>,
        counted: IntCounterVec,
    ) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        let streams = match protocol {
            Protocol::Grpc => limits.grpc_concurrent_streams,
            Protocol::Http => limits.http_concurrent_streams,
        };
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(streams)
            .auto_date_header(protocol == Protocol::Http) // gRPC responses have no `date` header.
            .max_header_list_size(limits.header_list_bytes)
            .max_pending_accept_reset_streams(limits.grpc_pending_resets)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .keep_alive_interval(*limits.keepalive_interval)
            .keep_alive_timeout(*limits.keepalive_timeout);
        // The head of a request in HTTP/1 must fit.
        builder.http1().max_buf_size(limits.header_list_bytes as usize);
        let builder = if protocol == Protocol::Grpc { builder.http2_only() } else { builder };
        for result in ["accepted", "refused", "slow", "stuck", "idle", "held"] {
            counted.with_label_values(&[name, result]);
        }
        Self {
            name,
            router: router.with_state(()),
            check: None,
            streams: None,
            workers: None,
            builder,
            tls: None,
            handshakes: Semaphore::new(MAX_HANDSHAKES),
            budget,
            part: (limits.buffered_bytes / PARTS).max(limits.grpc_message_bytes.max(limits.http_body_bytes) * 2),
            max_connections: limits.connections,
            handshake_timeout: *limits.handshake_timeout,
            // A connection with an unanswered request is not idle.
            idle_timeout: limits.idle_timeout.max(*limits.http_timeout + *limits.request_timeout),
            request_timeout: *limits.request_timeout,
            overhead_rate: limits.overhead_bytes_per_second,
            counted,
        }
    }

    /// Serves checks, on separate threads.
    pub(crate) fn with_check(self, check: CheckServer, streams: StreamServer, workers: Workers) -> Self {
        Self { check: Some(check), streams: Some(streams), workers: Some(workers), ..self }
    }

    pub(crate) fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    /// Serves until `drain`, then lets requests in flight finish.
    pub(super) async fn serve(self, listener: Listener, drain: CancellationToken) {
        let server = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = drain.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => {
                    while connections.try_join_next().is_some() {}
                    match accepted {
                        Ok(stream) if connections.len() < server.max_connections => {
                            server.count("accepted");
                            let connection = server.clone().serve_connection(stream, drain.clone());
                            match server.workers.as_ref().map(Workers::place) {
                                None => connections.spawn(connection),
                                Some((worker, place)) => connections.spawn_on(
                                    async move {
                                        connection.await;
                                        drop(place);
                                    },
                                    &worker,
                                ),
                            };
                        }
                        Ok(_) => server.count("refused"), // Closed by being dropped.
                        Err(error) => {
                            debug!(%error, listener = server.name, "accept failed");
                            tokio::time::sleep(PAUSE).await;
                        }
                    }
                }
            }
        }
        listener.close();
        while connections.join_next().await.is_some() {}
    }

    fn count(&self, result: &str) {
        self.counted.with_label_values(&[self.name, result]).inc();
    }

    /// Serves one connection until it closes.
    async fn serve_connection(self: Arc<Self>, stream: Accepted, drain: CancellationToken) {
        let stream = match stream.register() {
            Ok(stream) => stream,
            Err(error) => return debug!(%error, listener = self.name, "accept failed"),
        };
        let liveness = Arc::new(Liveness::new());
        let stream = match &self.tls {
            None => stream,
            Some(tls) => {
                let handshake = async {
                    let _turn = self.handshakes.acquire().await;
                    tls.accept(stream).await
                };
                match tokio::time::timeout_at(liveness.opened + self.handshake_timeout, handshake).await {
                    Ok(Ok(stream)) => Box::new(stream) as Box<dyn Stream>,
                    Ok(Err(error)) => return debug!(%error, "tls handshake failed"),
                    Err(_) => return self.count("slow"),
                }
            }
        };
        let budget = self.budget.part(self.part);
        let read_quota = Arc::new(ReadQuota::new(self.overhead_rate));
        let share = || Share::new(&budget, &read_quota);
        // Boxed: the future is large, and hyper and tokio move it before they poll it.
        let service = service_fn(|request| Box::pin(self.clone().answer(request, liveness.clone(), share())));
        let watched = MonitoredStream {
            stream: stream.take(0),
            matched: 0,
            liveness: liveness.clone(),
            read_quota: read_quota.clone(),
            pause: None,
        };
        let stream = TokioIo::new(watched);
        let mut connection = pin!(self.builder.serve_connection(stream, service));
        let mut leaving: Option<Instant> = None;
        let mut held = false;
        let mut count_if_held = || {
            if !held && read_quota.was_held() {
                held = true;
                self.count("held");
            }
        };
        loop {
            let due = leaving.unwrap_or_else(|| self.due(&liveness).min(Instant::now() + self.request_timeout));
            tokio::select! {
                ended = &mut connection => {
                    count_if_held();
                    if let Err(error) = ended {
                        debug!(error = &*error, listener = self.name, "connection failed");
                    }
                    return;
                }
                () = drain.cancelled(), if leaving.is_none() => {
                    // The supervisor bounds this wait.
                    connection.as_mut().graceful_shutdown();
                    leaving = Some(Instant::now() + Duration::from_secs(86_400));
                }
                () = tokio::time::sleep_until(due) => {
                    count_if_held();
                    if leaving.is_some() {
                        return; // Time is up for a connection that was asked to drain.
                    }
                    if liveness.is_stuck(self.request_timeout) {
                        return self.count("stuck");
                    }
                    if Instant::now() < self.due(&liveness) {
                        continue;
                    }
                    if !liveness.started() {
                        return self.count("slow");
                    }
                    self.count("idle");
                    connection.as_mut().graceful_shutdown();
                    leaving = Some(Instant::now() + self.handshake_timeout);
                }
            }
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: hyper::Request<Incoming>,
        liveness: Arc<Liveness>,
        share: Arc<Share>,
    ) -> Result<hyper::Response<ResponseBody>, Infallible> {
        let arrived = Instant::now();
        liveness.mark_active(arrived);
        let refused = !share.take_head(request.headers());
        let open = match &self.streams {
            // Its body lasts as long as the stream, which has its own bound.
            Some(streams) if StreamServer::is_for(&request) && !refused => {
                share.stream_arrived();
                let answer = streams.answer(request, share).map(|body| Either::Right(Body::new(body)));
                let open = Some(Open::new(liveness));
                return Ok(answer.map(|body| ResponseBody { body, unread: None, open, open_ended: None }));
            }
            _ => None,
        };
        let within = self.request_timeout;
        let request = request.map(|body| RequestBody::new(body, share.clone(), refused, within));
        let answer = match &self.check {
            Some(check) if CheckServer::is_for(&request) => {
                let answer = check.answer(request, arrived.into_std()).await;
                answer.map(Either::Left)
            }
            _ => self.router.clone().call(request.map(Body::new)).await?.map(Either::Right),
        };
        drop(share);
        let answered = Instant::now();
        liveness.mark_active(answered);
        let open_ended = answer.extensions().get::<OpenEnded>().map(|_| liveness.clone());
        let unread = Some(UnreadResponse::new(liveness, answered));
        Ok(answer.map(|body| ResponseBody { body, unread, open, open_ended }))
    }

    /// The time at which the connection exceeds its idle or handshake timeout.
    fn due(&self, liveness: &Liveness) -> Instant {
        if liveness.open.load(Ordering::Relaxed) > 0 {
            return Instant::now() + self.idle_timeout;
        }
        if liveness.started() {
            liveness.at(&liveness.last) + self.idle_timeout
        } else {
            liveness.opened + self.handshake_timeout
        }
    }
}

/// The last activity of a connection. Times are milliseconds since it was opened.
struct Liveness {
    opened: Instant,
    /// HTTP/2's preface or a request has arrived.
    started: AtomicBool,
    /// The last time at which a request arrived or was answered.
    last: AtomicU64,
    /// The number of responses of which the peer has read nothing yet.
    unread: AtomicUsize,
    /// The last time at which one of them was read, or became the first unread one.
    taken: AtomicU64,
    /// Open streams on the connection.
    open: AtomicUsize,
}

impl Liveness {
    fn new() -> Self {
        Self {
            opened: Instant::now(),
            started: AtomicBool::new(false),
            last: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        }
    }

    fn mark_active(&self, now: Instant) {
        self.greet();
        self.mark(&self.last, now);
    }

    fn greet(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    fn started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    fn mark(&self, time: &AtomicU64, now: Instant) {
        let millis = now.saturating_duration_since(self.opened).as_millis();
        time.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn at(&self, time: &AtomicU64) -> Instant {
        self.opened + Duration::from_millis(time.load(Ordering::Relaxed))
    }

    /// Whether the peer reads none of its responses: each is kept until it does.
    fn is_stuck(&self, limit: Duration) -> bool {
        self.unread.load(Ordering::Relaxed) > 0 && self.at(&self.taken).elapsed() >= limit
    }
}

/// A response of which the peer has read nothing yet.
struct UnreadResponse(Arc<Liveness>);

impl UnreadResponse {
    fn new(liveness: Arc<Liveness>, now: Instant) -> Self {
        if liveness.unread.fetch_add(1, Ordering::Relaxed) == 0 {
            liveness.mark(&liveness.taken, now);
        }
        Self(liveness)
    }
}

impl Drop for UnreadResponse {
    fn drop(&mut self) {
        self.0.unread.fetch_sub(1, Ordering::Relaxed);
        self.0.mark(&self.0.taken, Instant::now());
    }
}

/// An open stream: its connection does not count as idle.
struct Open(Arc<Liveness>);

impl Open {
    fn new(liveness: Arc<Liveness>) -> Self {
        liveness.open.fetch_add(1, Ordering::Relaxed);
        Self(liveness)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.mark_active(Instant::now());
    }
}

/// A response's body; it is first polled when the peer's window has room for it.
struct ResponseBody {
    body: Either<Reply, Body>,
    unread: Option<UnreadResponse>,
    /// Present while the body is that of a stream.
    #[expect(dead_code, reason = "dropped with the response")]
    open: Option<Open>,
    /// A body that goes on for as long as its peer takes it: each part that is taken is a sign of life.
    open_ended: Option<Arc<Liveness>>,
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        self.unread = None;
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let (Some(liveness), Poll::Ready(_)) = (&self.open_ended, &frame) {
            liveness.mark_active(Instant::now());
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A connection's bytes, whatever carries them.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads within the peer's quota, and detects HTTP/2's preface: Envoy may open a connection before its first
/// request.
struct MonitoredStream {
    stream: Take<Box<dyn Stream>>,
    /// The number of preface bytes received; its full length once detection has ended.
    matched: usize,
    liveness: Arc<Liveness>,
    read_quota: Arc<ReadQuota>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for MonitoredStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let watched = &mut *self;
        let turn = ready!(watched.read_quota.poll_turn(&mut watched.pause, cx));
        watched.stream.set_limit(turn);
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.read_quota.debit(buffer.filled().len() - before);
        let rest = &PREFACE[self.matched..];
        if !rest.is_empty() {
            let came = &buffer.filled()[before..];
            let common = came.len().min(rest.len());
            if came[..common] == rest[..common] {
                self.matched += common;
                if self.matched == PREFACE.len() {
                    self.liveness.greet();
                }
            } else {
                self.matched = PREFACE.len(); // HTTP/1: its first request counts.
            }
        }
        read
    }
}

/// Not vectored: h2 then gathers answers of up to 1 KB, which nearly all are, into one write instead of writing each
/// by itself.
impl AsyncWrite for MonitoredStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.stream.get_mut()).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_shutdown(cx)
    }
}
