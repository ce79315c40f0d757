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

    /// Whether an instant may be stamped by them: they differ by the leeway at most, or by [`Lead::LEAST`].
    #[must_use]
    pub fn agree_within(self, leeway: Duration) -> bool {
        self.skew() <= leeway.max(Lead::LEAST)
    }

    /// The latest `iat` that an instance can have verified, if one of the clocks is not behind: no issuer's clock leads by
    /// more than the longest leeway. [`Lead::LEAST`] is for a store's clock that is extrapolated.
    #[must_use]
    pub fn latest_date(self) -> Timestamp {
        self.latest().plus(LONGEST_LEEWAY + Lead::LEAST)
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
/// A lead stays for ever, so it is not measured by a clock that may have been set since it was compared with the other
/// one: now is the time that was read then, and what has passed since by the clock of the machine's uptime.
///
/// Shared by all clones of the issuer; it never decreases.
#[derive(Clone, Debug, Default)]
pub struct Lead(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    /// The time since the machine's start, which nobody sets.
    uptime: fn() -> Duration,
    /// In milliseconds.
    lead: AtomicU64,
    /// The latest `iat`, in milliseconds since 1970.
    dated: AtomicI64,
    /// The latest `iat` that was verified while no lead was measured, in milliseconds since 1970.
    unmeasured: AtomicI64,
    /// The earlier of the wall clocks minus the uptime, in milliseconds, as last compared; [`NEVER`] or [`UNKNOWN`].
    clock: AtomicI64,
    /// The largest lead that is measured, in milliseconds.
    longest: AtomicU64,
    /// The largest `iat` minus the uptime, in milliseconds, of tokens that wait for a clock; [`UNKNOWN`] without one.
    waiting: AtomicI64,
    /// The uptime, in milliseconds, at which the last reading of what other instances saw began; [`NEVER`] without
    /// others, [`UNKNOWN`] before the first.
    read: AtomicI64,
}

/// No other clock: leads are measured by the one of the caller. No other instances.
const NEVER: i64 = i64::MAX;
/// One of the clocks is wrong; no token; no reading.
const UNKNOWN: i64 = i64::MIN;

impl Default for Seen {
    fn default() -> Self {
        Self {
            uptime: || Duration::ZERO,
            lead: AtomicU64::default(),
            dated: AtomicI64::default(),
            unmeasured: AtomicI64::default(),
            clock: AtomicI64::new(NEVER),
            longest: AtomicU64::default(),
            waiting: AtomicI64::new(UNKNOWN),
            read: AtomicI64::new(NEVER),
        }
    }
}

impl Lead {
    /// Tokens of the current second may be dated up to its end, by the clock of another machine.
    pub const LEAST: Duration = Duration::from_secs(1);

    /// The time after the start of a reading for which it tells what other instances saw.
    pub const READ_FOR: Duration = Duration::from_secs(2);

    /// `uptime`: the time since the machine's start by a clock that nobody sets, and that counts suspension
    /// (CLOCK_BOOTTIME).
    #[must_use]
    pub fn by(uptime: fn() -> Duration) -> Self {
        Self(Arc::new(Seen { uptime, ..Seen::default() }))
    }

    /// Records a verified token; `now` is this machine's clock, and counts only until [`Self::set_clock`] is called.
    pub fn observe(&self, issued_at: Option<Timestamp>, now: Timestamp) {
        let Some(issued_at) = issued_at else { return };
        self.note_dated(issued_at);
        let clock = self.0.clock.load(Ordering::Relaxed);
        if clock == NEVER {
            self.raise(issued_at.since(now));
            return;
        }
        let dated = issued_at.as_millis().saturating_sub(millis((self.0.uptime)()));
        if clock == UNKNOWN {
            self.0.unmeasured.fetch_max(issued_at.as_millis(), Ordering::Relaxed);
            self.0.waiting.fetch_max(dated, Ordering::Relaxed);
        } else {
            self.measure(dated, clock);
        }
    }

    /// Both minus the uptime. The date of a token that is further ahead than the longest lead is noted, and no more: it
    /// was accepted by a clock that was wrong.
    fn measure(&self, dated: i64, clock: i64) {
        let ahead = u64::try_from(dated.saturating_sub(clock)).unwrap_or_default();
        if ahead <= self.0.longest.load(Ordering::Relaxed) {
            self.raise(Duration::from_millis(ahead));
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
    /// later; else the latest that was verified while no lead was measured, if there is one. `earliest`: the earlier of
    /// the wall clocks.
    #[must_use]
    pub fn beyond(&self, earliest: Timestamp) -> Option<Timestamp> {
        let unmeasured = Timestamp::from_millis(self.0.unmeasured.load(Ordering::Relaxed));
        let dated = Some(self.dated()).filter(|dated| *dated > earliest.plus(self.seen().max(Self::LEAST)));
        dated.or(Some(unmeasured).filter(|unmeasured| *unmeasured > Timestamp::default()))
    }

    /// The earlier of the wall clocks, and the uptime just before it was read: leads up to `longest` are measured by
    /// them until the next call, also those of the tokens that were verified while none was measured. `None`: one of the
    /// clocks is wrong, and no lead is measured.
    pub fn set_clock(&self, read: Option<(Timestamp, Duration)>, longest: Duration) {
        let clock = read.map_or(UNKNOWN, |(earliest, uptime)| earliest.as_millis().saturating_sub(millis(uptime)));
        self.0.longest.store(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.clock.store(clock, Ordering::Relaxed);
        if read.is_some() {
            let waiting = self.0.waiting.load(Ordering::Relaxed);
            self.measure(waiting, clock);
            // Unless another token waits meanwhile.
            let _ = self.0.waiting.compare_exchange(waiting, UNKNOWN, Ordering::Release, Ordering::Relaxed);
        }
    }

    /// Whether tokens were verified whose lead is not measured yet: the next ones may lead by up to the leeway.
    #[must_use]
    pub fn is_unmeasured(&self) -> bool {
        self.0.waiting.load(Ordering::Acquire) != UNKNOWN // If not, the lead shows.
    }

    /// Other instances may have seen more than is known here, until the next reading.
    pub fn await_reading(&self) {
        self.0.read.store(UNKNOWN, Ordering::Relaxed);
    }

    /// What other instances saw was taken over, by a reading that began at this uptime.
    pub fn note_read(&self, began: Duration) {
        self.0.read.fetch_max(millis(began), Ordering::Relaxed);
    }

    /// Whether this is the largest lead that any instance saw, up to the half second of sharing it. If not, the issuer's
    /// tokens may be dated ahead by the whole leeway.
    #[must_use]
    pub fn is_known(&self) -> bool {
        let read = self.0.read.load(Ordering::Relaxed);
        read == NEVER || millis((self.0.uptime)()).saturating_sub(read) <= millis(Self::READ_FOR)
    }

    /// Takes over what was verified by the settings before.
    pub fn inherit(&self, before: &Self) {
        self.raise(before.seen());
        self.note_dated(before.dated());
        self.0.unmeasured.fetch_max(before.0.unmeasured.load(Ordering::Relaxed), Ordering::Relaxed);
        self.0.waiting.fetch_max(before.0.waiting.load(Ordering::Relaxed), Ordering::Release);
    }

    /// Whether both are the lead of one issuer: a clone of the other.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Records a lead that another instance has seen.
    pub fn raise(&self, to: Duration) {
        let millis = u64::try_from(to.min(LONGEST_LEEWAY).as_millis()).unwrap_or(u64::MAX);
        if millis > self.0.lead.load(Ordering::Relaxed) {
            self.0.lead.fetch_max(millis, Ordering::Relaxed); // Seldom, as above.
        }
    }

    /// The largest observed lead.
    #[must_use]
    pub fn seen(&self) -> Duration {
        Duration::from_millis(self.0.lead.load(Ordering::Relaxed))
    }
}

fn millis(uptime: Duration) -> i64 {
    i64::try_from(uptime.as_millis()).unwrap_or(i64::MAX)
}
