//! Limits how fast a peer is read that sends bytes without complete requests.
//!
//! Resets, continuations, pings, settings and empty frames cost their sender little and the server more. Closing
//! such a connection does not end the flood: the peer opens the next one at once. So each connection has a
//! bounded credit of bytes that may be read before a request is complete. Complete requests renew the credit; a
//! peer that has used it up is read so slowly that it delays itself and not the other peers.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

/// The bytes that a connection may send before its first complete request: HTTP/2's preface and a hundred heads.
const AHEAD: i64 = 16 * 1024;
/// The largest credit of a connection: enough for a thousand requests at once.
const MOST: i64 = 256 * 1024;
/// The credit for a request, in addition to its body.
const HEAD: i64 = 4 * 1024;
/// Reads per second from a peer that has used up its credit.
const PAUSES: u32 = 200;

/// The bytes that one connection may still send.
pub(super) struct ReadQuota {
    left: AtomicI64,
    /// The credit for a pause.
    pause: i64,
    /// The peer had to wait.
    held: AtomicBool,
}

impl ReadQuota {
    /// `rate`: bytes a second.
    pub(super) fn new(rate: u32) -> Self {
        Self { left: AtomicI64::new(AHEAD), pause: i64::from(rate / PAUSES).max(1), held: AtomicBool::new(false) }
    }

    /// Credits the bytes that a request has read of its body.
    pub(super) fn taken_up(&self, bytes: usize) {
        self.credit(i64::try_from(bytes).unwrap_or(MOST));
    }

    /// Credits a complete request.
    pub(super) fn arrived(&self) {
        self.credit(HEAD);
    }

    fn credit(&self, bytes: i64) {
        if self.left.load(Ordering::Relaxed) < MOST {
            self.left.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Debits the bytes that the peer sent.
    pub(super) fn debit(&self, bytes: usize) {
        self.left.fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Ready with the number of bytes that may be read now, one at least; `pause` is kept between the calls.
    pub(super) fn poll_turn(&self, pause: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> Poll<u64> {
        loop {
            if let Ok(left @ 1..) = u64::try_from(self.left.load(Ordering::Relaxed)) {
                *pause = None;
                return Poll::Ready(left);
            }
            let timer = pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(Duration::from_secs(1) / PAUSES)));
            ready!(timer.as_mut().poll(cx));
            *pause = None;
            self.held.store(true, Ordering::Relaxed);
            self.credit(self.pause);
        }
    }

    /// Whether the peer was made to wait, and received no credit meanwhile.
    pub(super) fn was_held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_exceeds_its_quota_waits() {
        let read_quota = ReadQuota::new(200_000);
        let mut pause = None;
        let mut turn = async || std::future::poll_fn(|cx| read_quota.poll_turn(&mut pause, cx)).await;
        assert_eq!(turn().await, 16 * 1024);
        assert!(!read_quota.was_held());
        read_quota.debit(16 * 1024 + 2_500);
        let began = std::time::Instant::now();
        assert_eq!(turn().await, 500, "after three pauses");
        assert!(began.elapsed() >= 3 * Duration::from_secs(1) / PAUSES);
        assert!(read_quota.was_held());
    }

    #[tokio::test]
    async fn a_request_ends_the_pause_and_earns_so_much_at_most() {
        let read_quota = ReadQuota::new(1_000_000);
        read_quota.debit(16 * 1024);
        let mut pause = None;
        assert!(poll!(std::future::poll_fn(|cx| read_quota.poll_turn(&mut pause, cx))).is_pending());
        read_quota.arrived();
        assert!(poll!(std::future::poll_fn(|cx| read_quota.poll_turn(&mut pause, cx))).is_ready());
        assert!(pause.is_none());
        for _ in 0..1_000 {
            read_quota.arrived();
        }
        read_quota.debit(usize::try_from(MOST + HEAD).unwrap());
        assert!(poll!(std::future::poll_fn(|cx| read_quota.poll_turn(&mut pause, cx))).is_pending());
        read_quota.taken_up(1 << 20);
        assert!(poll!(std::future::poll_fn(|cx| read_quota.poll_turn(&mut pause, cx))).is_ready());
    }
}
