//! The only clock: wall time for instants that others read, [`std::time::Instant`] for ages.
//!
//! Nothing that must hold across machines is measured by the wall clock; it may jump.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::authz::claims::Timestamp;

/// The wall clock, to the millisecond; a clock set before 1970 reads as 1970.
#[must_use]
pub fn now() -> Timestamp {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    let now = SystemTime::now();
    Timestamp::default().plus(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO))
}
