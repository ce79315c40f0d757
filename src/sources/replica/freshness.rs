//! The age of the view, for decisions: a few atomic loads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Steady;

/// The start of the last completed read of the primary, on the monotonic clock.
pub struct Freshness {
    log: Moment,
    /// The keys of another service; always fresh if none are adopted.
    pub(super) adopted: Moment,
    /// Whether issuers' names mean the same as when the revocations were written; otherwise the view has no age.
    pub(super) named: Moment,
    /// The time up to which a view may be used, in microseconds of [`Steady::uptime`]: as long as the lease in the
    /// store, even if later rules allow more.
    leased_until: AtomicU64,
}

impl Freshness {
    pub(super) fn never() -> Self {
        Self { log: Moment::new(NEVER), leased_until: AtomicU64::new(0), ..Self::always() }
    }

    /// The view is the store.
    pub(super) fn always() -> Self {
        Self {
            log: Moment::new(ALWAYS),
            adopted: Moment::new(ALWAYS),
            named: Moment::new(ALWAYS),
            leased_until: AtomicU64::new(u64::MAX),
        }
    }

    /// Declares that keys of another service are read beside the log, and have not been read yet.
    pub(super) fn adopting(self) -> Self {
        Self { adopted: Moment::new(NEVER), ..self }
    }

    /// The age: the view has every entry that was written longer ago than this.
    ///
    /// `None` until the first read is complete: the view is empty. [`Duration::MAX`]: the view is not valid any more,
    /// or no lease runs, so that others may have confirmed revocations that this view lacks. While a gap in the log
    /// is being repaired, the age counts from the last read that found the log complete.
    #[must_use]
    pub fn age(&self, now: Steady) -> Option<Duration> {
        self.named.age(now)?;
        let age = self.log.age(now)?.max(self.adopted.age(now)?);
        let is_leased = micros(now) <= self.leased_until.load(Ordering::Acquire);
        Some(if is_leased { age } else { Duration::MAX })
    }

    /// The store has a lease that runs until then.
    pub(super) fn lease_until(&self, until: Steady) {
        self.leased_until.store(micros(until), Ordering::Release);
    }

    /// A lease with this end is being sent to the store, and may replace one that ends later.
    pub(super) fn lease_at_most(&self, until: Steady) {
        self.leased_until.fetch_min(micros(until), Ordering::AcqRel);
    }

    /// Whether issuers' names have certainly kept their meaning.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.named.is_known()
    }

    /// The age of the log's view alone.
    pub(super) fn log_age(&self, now: Steady) -> Option<Duration> {
        self.log.age(now)
    }

    /// A read that began at `start` is complete and applied, or is the last trusted one.
    pub(super) fn publish(&self, start: Steady) {
        self.log.publish(start);
    }

    /// Ends all decisions.
    pub(super) fn suspend(&self) {
        self.log.suspend();
    }
}

fn micros(moment: Steady) -> u64 {
    u64::try_from(moment.uptime().as_micros()).unwrap_or(u64::MAX)
}

/// A time that one task writes and all tasks read.
pub(super) struct Moment {
    origin: Steady,
    /// Microseconds from `origin`, plus [`FIRST`].
    as_of: AtomicU64,
}

const NEVER: u64 = 0;
const SUSPENDED: u64 = 1;
const FIRST: u64 = 2;
const ALWAYS: u64 = u64::MAX;

impl Moment {
    fn new(as_of: u64) -> Self {
        Self { origin: Steady::now(), as_of: AtomicU64::new(as_of) }
    }

    pub(super) fn age(&self, now: Steady) -> Option<Duration> {
        match self.as_of.load(Ordering::Acquire) {
            NEVER => None,
            SUSPENDED => Some(Duration::MAX),
            ALWAYS => Some(Duration::ZERO),
            micros => Some(now.since(self.origin + Duration::from_micros(micros - FIRST))),
        }
    }

    pub(super) fn publish(&self, start: Steady) {
        let micros = start.since(self.origin).as_micros();
        let micros = u64::try_from(micros).unwrap_or(ALWAYS).min(ALWAYS - FIRST - 1) + FIRST;
        self.as_of.store(micros, Ordering::Release); // Ordered after the application of the read entries.
    }

    /// Always fresh, or never read.
    pub(super) fn set(&self, known: bool) {
        self.as_of.store(if known { ALWAYS } else { NEVER }, Ordering::Release);
    }

    pub(super) fn is_known(&self) -> bool {
        self.as_of.load(Ordering::Acquire) != NEVER
    }

    /// Marks the view as stale; a view that was never read stays unread.
    pub(super) fn suspend(&self) {
        if self.as_of.load(Ordering::Acquire) != NEVER {
            self.as_of.store(SUSPENDED, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_age_counts_from_the_start_of_the_read() {
        let freshness = Freshness::never();
        let start = Steady::now();
        freshness.lease_until(start + 60 * SECOND);
        assert_eq!(freshness.age(start), None);
        freshness.suspend();
        assert_eq!(freshness.age(start), None, "a view that was never complete does not become merely stale");
        freshness.publish(start);
        let age = freshness.age(start + 5 * SECOND).unwrap();
        assert!(age >= 5 * SECOND && age < Duration::from_millis(5001), "{age:?}");
        freshness.suspend();
        assert_eq!(freshness.age(start), Some(Duration::MAX));
        freshness.publish(start);
        assert!(freshness.age(start).unwrap() < SECOND);
        assert_eq!(Freshness::always().age(start + 5 * SECOND), Some(Duration::ZERO));
    }

    #[test]
    fn a_view_is_used_for_as_long_as_a_lease_runs() {
        let freshness = Freshness::never();
        let start = Steady::now();
        freshness.publish(start);
        assert_eq!(freshness.age(start), Some(Duration::MAX), "there is no lease");
        freshness.lease_until(start + 5 * SECOND);
        assert!(freshness.age(start + 5 * SECOND).is_some_and(|age| age < 6 * SECOND));
        assert_eq!(freshness.age(start + 6 * SECOND), Some(Duration::MAX), "however long the rules allow");
        freshness.lease_at_most(start + 9 * SECOND);
        assert_eq!(freshness.age(start + 6 * SECOND), Some(Duration::MAX));
        freshness.lease_at_most(start + 2 * SECOND);
        assert_eq!(freshness.age(start + 3 * SECOND), Some(Duration::MAX));
    }

    #[test]
    fn a_view_is_as_old_as_the_older_of_its_parts() {
        let freshness = Freshness::never().adopting();
        let start = Steady::now();
        freshness.lease_until(start + 60 * SECOND);
        freshness.publish(start + 3 * SECOND);
        assert_eq!(freshness.age(start), None, "complete only when both are");
        freshness.adopted.publish(start);
        let now = start + 4 * SECOND;
        assert!(freshness.age(now).unwrap() >= 4 * SECOND && freshness.log_age(now).unwrap() < 2 * SECOND);
        freshness.publish(start);
        freshness.adopted.publish(start + 3 * SECOND);
        assert!(freshness.age(now).unwrap() >= 4 * SECOND);
        freshness.adopted.suspend();
        assert_eq!(freshness.age(now), Some(Duration::MAX));
    }
}
