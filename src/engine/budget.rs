//! The memory budget of all requests that are being received or answered.
//!
//! Each connection and each request is bounded, but a peer chooses their number: one connection with a
//! thousand messages that never end would take a gigabyte. So all of them draw on one budget, and a request
//! that exceeds the rest of it is refused.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::read_quota::ReadQuota;
use crate::api::streams::Room;

/// The bytes that are left for requests, of all connections or of one.
pub(super) struct Budget {
    left: AtomicUsize,
    /// The budget that this one is a part of.
    whole: Option<Arc<Self>>,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes), whole: None })
    }

    /// The share of one connection, so that no peer takes the whole budget.
    pub(super) fn part(self: &Arc<Self>, bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes), whole: Some(self.clone()) })
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = |left: usize| left.checked_sub(bytes);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_err() {
            return false;
        }
        let taken = self.whole.as_ref().is_none_or(|whole| whole.take(bytes));
        if !taken {
            self.left.fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }
}

/// The share of one request, returned when the request is answered.
pub(super) struct Share {
    budget: Arc<Budget>,
    read_quota: Arc<ReadQuota>,
    bytes: AtomicUsize,
}

/// The memory for the messages of a stream: twice its headers.
const STREAM: usize = 8 * 1024;
/// Beside its text, each field takes about this much memory for its bookkeeping (RFC 9113 section 6.5.2 counts 32).
const PER_FIELD: usize = 96;

impl Share {
    /// Two of these belong to its connection.
    pub(super) fn new(budget: &Arc<Budget>, read_quota: &Arc<ReadQuota>) -> Arc<Self> {
        Arc::new(Self { budget: budget.clone(), read_quota: read_quota.clone(), bytes: AtomicUsize::new(0) })
    }

    /// Takes the memory for a request's head.
    pub(super) fn take_head(&self, headers: &HeaderMap) -> bool {
        self.take(headers.iter().map(|(name, value)| name.as_str().len() + value.len() + PER_FIELD).sum())
    }

    /// Counts a stream as one request that has arrived.
    pub(super) fn stream_arrived(&self) {
        self.read_quota.arrived();
        self.read_quota.taken_up(STREAM);
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self.budget.take(bytes);
        if taken {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }
}

/// For the first message of a stream.
impl Room for Share {
    fn take(&self, bytes: usize) -> bool {
        Self::take(self, bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(*self.bytes.get_mut());
    }
}

/// A request's body that must arrive in time and within the budget.
pub(super) struct RequestBody {
    body: Incoming,
    share: Arc<Share>,
    /// The budget does not cover the head.
    refused: bool,
    by: Instant,
    whole: bool,
    /// Created at the first wait for the body: mostly the body is there already.
    timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, share: Arc<Share>, refused: bool, within: Duration) -> Self {
        let mut arriving = Self { body, share, refused, by: Instant::now() + within, whole: false, timer: None };
        arriving.count_if_whole();
        arriving
    }

    /// A body whose permit was revoked is incomplete.
    fn count_if_whole(&mut self) {
        if !self.whole && self.body.is_end_stream() {
            self.whole = true;
            self.share.read_quota.arrived();
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        // A gRPC service returns this status; other services handle it as any body error.
        let full = || {
            Poll::Ready(Some(Err(
                Status::resource_exhausted("the requests in progress exceed limits.buffered_bytes").into()
            )))
        };
        if self.refused {
            return full();
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.count_if_whole();
        match polled {
            Poll::Ready(Some(Ok(frame))) => match frame.data_ref() {
                Some(data) if !self.share.take(data.len()) => full(),
                Some(data) => {
                    self.share.read_quota.taken_up(data.len());
                    Poll::Ready(Some(Ok(frame)))
                }
                None => Poll::Ready(Some(Ok(frame))),
            },
            Poll::Ready(other) => Poll::Ready(other.map(|frame| frame.map_err(Into::into))),
            Poll::Pending => {
                let by = self.by;
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
                ready!(timer.as_mut().poll(cx));
                Poll::Ready(Some(Err(Status::deadline_exceeded("the body did not arrive in time").into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        !self.refused && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_is_returned_and_never_exceeded() {
        let (budget, read_quota) = (Budget::new(1000), Arc::new(ReadQuota::new(1)));
        let (first, second) = (Share::new(&budget, &read_quota), Share::new(&budget, &read_quota));
        assert!(first.take(400) && first.take(300));
        assert!(!second.take(301) && second.take(300));
        assert!(!first.take(1));
        drop(first);
        assert!(second.take(700));
        drop(second);
        let left = || budget.left.load(Ordering::Relaxed);
        assert_eq!(left(), 1000);
        let connection = budget.part(600);
        let (own, other) = (Share::new(&connection, &read_quota), Share::new(&budget, &read_quota));
        assert!(!own.take(601) && own.take(500));
        assert!(!other.take(501) && other.take(450));
        assert!(!own.take(60), "there is nothing left of the whole");
        assert!(own.take(50));
        drop((own, other));
        assert_eq!((left(), connection.left.load(Ordering::Relaxed)), (1000, 600));
        let mut headers = HeaderMap::new();
        headers.append("a", axum::http::HeaderValue::from_static("b"));
        let share = Share::new(&budget, &read_quota);
        assert!(share.take_head(&headers));
        assert_eq!(left(), 1000 - 2 - PER_FIELD);
    }
}
