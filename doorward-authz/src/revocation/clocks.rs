//! The wall clocks that stamp watermarks, and how far ahead of them tokens are dated.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use super::LONGEST_LEEWAY;
use crate::claims::Timestamp;

/// The wall clocks, for a watermark that no caller names. Each of them may be wrong.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// This machine's.
    pub local: Timestamp,
    /// The store's; `None` without a store, or before it was read.
    pub store: Option<Timestamp>,
}

impl Clocks {
    /// Only this machine's clock.
    #[must_use]
    pub const fn local(local: Timestamp) -> Self {
        Self { local, store: None }
    }

    /// A token that has expired by it has expired by both.
    #[must_use]
    pub fn earliest(self) -> Timestamp {
        self.store.map_or(self.local, |store| store.min(self.local))
    }

    /// A token that exists now was issued before it, unless its issuer's clock leads.
    #[must_use]
    pub fn latest(self) -> Timestamp {
        self.store.map_or(self.local, |store| store.max(self.local))
    }

    /// The difference of the two.
    #[must_use]
    pub fn skew(self) -> Duration {
        self.latest().since(self.earliest())
    }

    /// Milliseconds by which this machine's is ahead of the store's, negative if it is behind.
    #[must_use]
    pub fn ahead_ms(self) -> Option<i64> {
        self.store.map(|store| self.local.as_millis().saturating_sub(store.as_millis()))
    }
}

/// How far an issuer's tokens are dated ahead of the clock: the largest `iat` minus now that was seen, by the earlier
/// of the wall clocks; and the latest `iat`, which no clock measures.
///
/// Shared by all clones of the issuer; it never decreases.
#[derive(Clone, Debug, Default)]
pub struct Lead(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// In milliseconds.
    lead: AtomicU64,
    /// The latest `iat`, in milliseconds since 1970.
    dated: AtomicI64,
    /// Milliseconds by which this machine's clock is ahead of the store's.
    local_ahead: AtomicU64,
}

/// In the place of how far this machine's clock is ahead.
const UNKNOWN: u64 = u64::MAX;

impl Lead {
    /// Tokens of the current second may be dated up to its end, by the clock of another machine.
    pub const LEAST: Duration = Duration::from_secs(1);

    /// Records a verified token.
    pub fn observe(&self, issued_at: Option<Timestamp>, now: Timestamp) {
        let Some(issued_at) = issued_at else { return };
        self.note_dated(issued_at);
        let local_ahead = self.0.local_ahead.load(Ordering::Relaxed);
        if local_ahead == UNKNOWN {
            return;
        }
        let earliest = now.minus(Duration::from_millis(local_ahead));
        let ahead = issued_at.since(earliest);
        if !ahead.is_zero() {
            self.raise(ahead);
        }
    }

    /// A token of this date was verified, here or by another instance.
    pub fn note_dated(&self, issued_at: Timestamp) {
        let millis = issued_at.as_millis();
        if millis > self.0.dated.load(Ordering::Relaxed) {
            self.0.dated.fetch_max(millis, Ordering::Relaxed); // Seldom: decisions share the line.
        }
    }

    /// The latest `iat` that was verified; 1970 before the first.
    #[must_use]
    pub fn dated(&self) -> Timestamp {
        Timestamp::from_millis(self.0.dated.load(Ordering::Relaxed))
    }

    /// The latest verified `iat`, unless it is covered by every watermark that an instance with this lead makes now or
    /// later. `earliest`: the earlier of the wall clocks.
    #[must_use]
    pub fn beyond(&self, earliest: Timestamp) -> Option<Timestamp> {
        Some(self.dated()).filter(|dated| *dated > earliest.plus(self.seen().max(Self::LEAST)))
    }

    /// How far this machine's clock is ahead of the store's: tokens are dated ahead of the earlier one. `None`: one of the
    /// two is wrong, and no lead is measured.
    pub fn set_local_lead(&self, ahead: Option<Duration>) {
        let millis = ahead.map_or(UNKNOWN, |ahead| u64::try_from(ahead.as_millis()).unwrap_or(UNKNOWN));
        self.0.local_ahead.store(millis, Ordering::Relaxed);
    }

    /// Records a lead that another instance has seen.
    pub fn raise(&self, to: Duration) {
        let to = to.min(LONGEST_LEEWAY);
        self.0.lead.fetch_max(u64::try_from(to.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The largest observed lead.
    #[must_use]
    pub fn seen(&self) -> Duration {
        Duration::from_millis(self.0.lead.load(Ordering::Relaxed))
    }
}
