//! How old the view is, for decisions: one atomic load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The start of the last completed read of the primary, on the monotonic clock.
pub struct Freshness {
    origin: Instant,
    /// Microseconds from `origin`, plus one.
    as_of: AtomicU64,
}

const NEVER: u64 = 0;
const ALWAYS: u64 = u64::MAX;

impl Freshness {
    pub(super) fn never() -> Self {
        Self { origin: Instant::now(), as_of: AtomicU64::new(NEVER) }
    }

    /// The view is the store.
    pub(super) fn always() -> Self {
        Self { origin: Instant::now(), as_of: AtomicU64::new(ALWAYS) }
    }

    /// The view has everything that was written longer ago than this.
    ///
    /// `None` until the first read is complete, and while a gap in the log is being repaired: the
    /// view may lack anything.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        match self.as_of.load(Ordering::Acquire) {
            NEVER => None,
            ALWAYS => Some(Duration::ZERO),
            micros => Some(now.saturating_duration_since(self.origin + Duration::from_micros(micros - 1))),
        }
    }

    /// A read that began at `start` is complete and applied.
    pub(super) fn publish(&self, start: Instant) {
        let micros = start.saturating_duration_since(self.origin).as_micros();
        let micros = u64::try_from(micros).unwrap_or(ALWAYS - 2).min(ALWAYS - 2) + 1;
        self.as_of.store(micros, Ordering::Release); // After the entries were applied.
    }

    pub(super) fn suspend(&self) {
        self.as_of.store(NEVER, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_counts_from_the_start_of_the_read() {
        let freshness = Freshness::never();
        let start = Instant::now();
        assert_eq!(freshness.age(start), None);
        freshness.publish(start);
        let age = freshness.age(start + Duration::from_secs(5)).unwrap();
        assert!(age >= Duration::from_secs(5) && age < Duration::from_millis(5001), "{age:?}");
        freshness.suspend();
        assert_eq!(freshness.age(start), None);
        assert_eq!(Freshness::always().age(start + Duration::from_secs(5)), Some(Duration::ZERO));
    }
}
