//! The only clock. Instants are passed on from here, so that what happens "at once" has one of them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// An instant of the wall clock, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(i64);

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Timestamp {
    #[cfg(test)]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Whole seconds, rounded down.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// A NumericDate (RFC 7519 section 2) with the milliseconds, so that a token issued right after a
    /// sign-out is distinguished from one issued before it. The half millisecond keeps readers that
    /// truncate from getting the previous one.
    #[expect(clippy::cast_precision_loss, reason = "exact until the year 287396")]
    pub fn numeric_date(self) -> f64 {
        (self.0 as f64 + 0.5) / 1000.0
    }

    /// RFC 3339 with the milliseconds.
    pub fn rfc3339(self) -> String {
        let since = Duration::from_millis(u64::try_from(self.0).unwrap_or_default());
        humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numeric_date_keeps_its_millisecond() {
        for millis in (1_763_800_000_000..1_763_800_002_000).chain(1_999_999_999_000..2_000_000_001_000) {
            #[expect(clippy::cast_possible_truncation, reason = "as a reader does")]
            let read = (Timestamp(millis).numeric_date() * 1000.0).floor() as i64;
            assert_eq!(read, millis);
        }
        assert_eq!(Timestamp(1_763_800_000_007).rfc3339(), "2025-11-22T08:26:40.007Z");
    }
}
