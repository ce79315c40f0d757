//! The only clock: wall time for instants that others read, [`std::time::Instant`] for ages.
//!
//! Nothing that must hold across machines is measured by the wall clock; it may jump.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::authz::claims::Timestamp;

/// The wall clock, to the millisecond; a clock set before 1970 reads as 1970.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::default().plus(precisely().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}

/// The wall clock as fine as it goes, for spans: decisions take microseconds.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn precisely() -> SystemTime {
    SystemTime::now()
}

/// Reads an instant; humantime knows only `T` and `Z`, RFC 3339 also offsets and small letters.
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

/// Writes an instant as RFC 3339 does, to the millisecond; what is no date there is its nearest.
#[must_use]
pub fn format_rfc3339(instant: Timestamp) -> String {
    const LAST: i64 = 253_402_300_799_999;
    let millis = u64::try_from(instant.as_millis().clamp(0, LAST)).unwrap_or_default();
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}
