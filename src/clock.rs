//! The only clocks: wall time for timestamps that other processes read, [`Steady`] for durations on which a
//! guarantee depends.
//!
//! The wall clock may be wrong and may jump. So no guarantee across machines is measured by the wall clock alone,
//! and nothing is forgotten by it alone.

use std::ops::Add;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::authz::claims::Timestamp;

/// The wall clock, to the millisecond; a clock set before 1970 reads as 1970.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::default().plus(precisely().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// The wall clock in nanoseconds, for trace spans: decisions take microseconds.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn precisely() -> SystemTime {
    SystemTime::now()
}

/// A time on the monotonic clock that counts a machine's suspension (CLOCK_BOOTTIME).
///
/// [`std::time::Instant`] does not advance in suspend: a view of the revocations that was fresh before a night's
/// sleep would be fresh after it.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Steady(Duration);

impl Steady {
    #[must_use]
    pub fn now() -> Self {
        let since_boot = clock_gettime(ClockId::Boottime);
        let (seconds, nanoseconds) = (u64::try_from(since_boot.tv_sec), u32::try_from(since_boot.tv_nsec));
        Self(Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0)))
    }

    /// The time from this moment to now.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// The time from `earlier` to this moment; zero if it lies before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Since the machine was started: the clock by which [`crate::authz::revocation::RevocationIndex`] counts how
    /// long it has held an entry.
    #[must_use]
    pub const fn uptime(self) -> Duration {
        self.0
    }

    #[must_use]
    pub fn minus(self, duration: Duration) -> Option<Self> {
        self.0.checked_sub(duration).map(Self)
    }
}

impl Add<Duration> for Steady {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Parses a timestamp; humantime accepts only `T` and `Z`, RFC 3339 also offsets and small letters.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<Timestamp> {
    let text = &*text.to_ascii_uppercase();
    let (instant, offset) = match text.len().checked_sub(6).and_then(|at| text.split_at_checked(at)) {
        Some((local, offset)) if offset.starts_with(['+', '-']) => (format!("{local}Z"), Some(offset)),
        _ => (text.to_owned(), None),
    };
    let time = humantime::parse_rfc3339(&instant).ok()?;
    let instant = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let instant = Timestamp::from_millis(i64::try_from(instant.as_millis()).ok()?);
    let Some(offset) = offset else { return Some(instant) };
    let (sign, digits) = offset.split_at_checked(1)?;
    let (hours, minutes) = digits.split_once(':')?;
    let number =
        |text: &str, max| text.parse::<u64>().ok().filter(|n| text.len() == 2 && *n <= max && !text.starts_with('+'));
    let offset = Duration::from_secs(number(hours, 23)? * 3600 + number(minutes, 59)? * 60);
    Some(if sign == "+" { instant.minus(offset) } else { instant.plus(offset) })
}

/// See [`Timestamp::to_rfc3339`].
#[must_use]
pub fn format_rfc3339(instant: Timestamp) -> String {
    instant.to_rfc3339()
}
