//! The signs of life of a connection: requests, responses that are read, open streams.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes};
use http_body_util::Either;
use tokio::time::Instant;

use crate::api::check::Reply;

/// The last activity of a connection. Times are milliseconds since it was opened.
pub(super) struct Liveness {
    pub(super) opened: Instant,
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
    pub(super) fn new() -> Self {
        Self {
            opened: Instant::now(),
            started: AtomicBool::new(false),
            last: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        }
    }

    pub(super) fn mark_active(&self, now: Instant) {
        self.greet();
        self.mark(&self.last, now);
    }

    pub(super) fn greet(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    pub(super) fn started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    fn mark(&self, time: &AtomicU64, now: Instant) {
        let millis = now.saturating_duration_since(self.opened).as_millis();
        time.store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn at(&self, time: &AtomicU64) -> Instant {
        self.opened + Duration::from_millis(time.load(Ordering::Relaxed))
    }

    /// The time at which the connection exceeds its idle or handshake timeout.
    pub(super) fn due(&self, idle_timeout: Duration, handshake_timeout: Duration) -> Instant {
        if self.open.load(Ordering::Relaxed) > 0 {
            Instant::now() + idle_timeout
        } else if self.started() {
            self.at(&self.last) + idle_timeout
        } else {
            self.opened + handshake_timeout
        }
    }

    /// Whether the peer reads none of its responses: each is kept until it does.
    pub(super) fn is_stuck(&self, limit: Duration) -> bool {
        self.unread.load(Ordering::Relaxed) > 0 && self.at(&self.taken).elapsed() >= limit
    }
}

/// A response of which the peer has read nothing yet.
pub(super) struct UnreadResponse(Arc<Liveness>);

impl UnreadResponse {
    pub(super) fn new(liveness: Arc<Liveness>, now: Instant) -> Self {
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
pub(super) struct Open(Arc<Liveness>);

impl Open {
    pub(super) fn new(liveness: Arc<Liveness>) -> Self {
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
pub(super) struct ResponseBody {
    pub(super) body: Either<Reply, Body>,
    pub(super) unread: Option<UnreadResponse>,
    /// Present while the body is that of a stream.
    #[expect(dead_code, reason = "dropped with the response")]
    pub(super) open: Option<Open>,
    /// A body that goes on for as long as its peer takes it: each part that is taken is a sign of life.
    pub(super) open_ended: Option<Arc<Liveness>>,
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
