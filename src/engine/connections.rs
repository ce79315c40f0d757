//! Connections: their number, their duration and their limits. All listeners serve through this module.
//!
//! A peer that is idle, or very slow, must not take resources from others. So the number of connections of a
//! listener is limited, and one more is closed at once. A connection must complete its handshake in time, send
//! requests, answer pings, and has a limit of concurrent requests. A request must arrive in time, within the budget
//! of all (see [`super::budget`]).

mod liveness;
mod monitored;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus::IntCounterVec;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::debug;

use super::budget::{Budget, RequestBody, Share};
use super::listen::{Accepted, Listener, Stream};
use super::read_quota::ReadQuota;
use super::tls::Tls;
use super::workers::Workers;
use crate::api::check::CheckServer;
use crate::api::http::OpenEnded;
use crate::api::streams::StreamServer;
use crate::config::Limits;
use liveness::{Liveness, Open, ResponseBody, UnreadResponse};
use monitored::MonitoredStream;

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
        let stream = TokioIo::new(MonitoredStream::new(stream, liveness.clone(), read_quota.clone()));
        let mut connection = pin!(self.builder.serve_connection(stream, service));
        let mut leaving: Option<Instant> = None;
        let mut held = false;
        let mut count_if_held = || {
            if !held && read_quota.was_held() {
                held = true;
                self.count("held");
            }
        };
        let silent_until = || liveness.due(self.idle_timeout, self.handshake_timeout);
        loop {
            let due = leaving.unwrap_or_else(|| silent_until().min(Instant::now() + self.request_timeout));
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
                    if Instant::now() < silent_until() {
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
}
