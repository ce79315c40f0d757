//! How long the log is kept: for as long as any instance needs it that reads or has read this log.
//!
//! ```text
//! doorward:{r}:retentions  sorted set: a retention in milliseconds, until when it holds (server's clock, ms)
//! ```
//!
//! Instances that share a log need not have the same issuers: one with a short `max_lifetime` must not trim
//! what another refuses by. Each notes its retention with its lease, to hold for as long as the last entry
//! that it may have read: so the entries of a fleet that was stopped are there when it comes back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use fred::types::Value;

use super::super::LedgerError;
use super::RedisLedger;
use super::session::Command;
use super::store::scores;
use super::wire::Keys;
use crate::authz::claims::Timestamp;

/// Kept beyond the retention, for clocks that disagree.
const MARGIN: Duration = Duration::from_secs(60);

impl RedisLedger {
    /// How long an entry may matter to this instance.
    pub(in crate::sources) fn retention(&self) -> Duration {
        Duration::from_millis(self.retention_ms.load(Ordering::Relaxed))
    }

    /// Keeps entries for so long, if that is longer than before; to be called before tokens are accepted that
    /// live longer.
    pub(in crate::sources) fn retain_for(&self, retention: Duration) {
        let millis = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        self.retention_ms.fetch_max(millis, Ordering::Relaxed);
    }
}

/// Notes a retention for others.
pub(super) fn note(keys: &Keys, retention: Duration, now: Timestamp) -> Command {
    let until = now.plus(retention + MARGIN).as_millis();
    // One that was noted twice holds until the later instant.
    Command::new("ZADD").arg(&*keys.retentions).arg("GT").arg(until).arg(retention.as_millis().to_string())
}

/// Drops what holds no longer.
pub(super) fn forget(keys: &Keys, now: Timestamp) -> Command {
    Command::new("ZREMRANGEBYSCORE").arg(&*keys.retentions).arg("-inf").arg(now.as_millis())
}

/// What [`trim_before`] reads.
pub(super) fn ask(keys: &Keys) -> Command {
    Command::new("ZRANGE").arg(&*keys.retentions).args(["0", "-1", "WITHSCORES"])
}

/// Entries written before this instant matter to nobody: neither to an instance with a retention of `own`, nor
/// to those that noted theirs.
pub(super) fn trim_before(noted: &Value, own: Duration, now: Timestamp) -> Result<Timestamp, LedgerError> {
    let held = scores(noted)?.into_iter().filter(|(_, until)| *until > now);
    let longest =
        held.filter_map(|(millis, _)| millis.parse().ok().map(Duration::from_millis)).fold(own, Duration::max);
    Ok(now.minus(longest + MARGIN).max(Timestamp::default())) // A negative id is none.
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_for_whoever_needs_it_longest() {
        let now = Timestamp::from_millis(1_000_000_000);
        let noted = |pairs: &[(&str, i64)]| {
            let pair = |(name, until): &(&str, i64)| [Value::from(*name), Value::from(until.to_string())];
            Value::Array(pairs.iter().flat_map(pair).collect())
        };
        let kept = |pairs: &[(&str, i64)]| {
            let before = trim_before(&noted(pairs), Duration::from_secs(500), now).unwrap();
            now.since(before).as_millis() - MARGIN.as_millis()
        };
        assert_eq!(kept(&[]), 500_000);
        assert_eq!(kept(&[("100000", 1_000_000_001), ("900000", 1_000_000_001)]), 900_000);
        assert_eq!(kept(&[("900000", 1_000_000_000)]), 500_000, "it held until now");
        assert_eq!(kept(&[("soon", 2_000_000_000)]), 500_000, "somebody else's");
    }
}
