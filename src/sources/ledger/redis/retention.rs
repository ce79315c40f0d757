//! How long the log is kept: for as long as any instance needs it that reads or has read this log.
//!
//! ```text
//! doorward:{r}:retentions  sorted set: a retention in milliseconds, until when it holds (server's clock, ms)
//! ```
//!
//! Instances that share a log need not have the same issuers: one with a short `max_lifetime` must not trim
//! what another refuses by. Each notes its retention with its lease, to hold for as long as the last entry
//! that it may have read: so the entries of a fleet that was stopped are there when it comes back. The log is kept
//! for twice that, so that an instance whose retention is raised by a reload, or whose clock was wrong, can read
//! again what it dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::types::Value;

use super::super::LedgerError;
use super::RedisLedger;
use super::session::Command;
use super::store::scores;
use super::wire::{Keys, Reader};
use crate::authz::claims::Timestamp;

/// Kept beyond the retention, for clocks that disagree.
const MARGIN: Duration = Duration::from_secs(60);

/// What the tokens of this instance ask of the log, in milliseconds. None of it is ever lowered: what was read by it
/// must hold.
#[derive(Default)]
pub(super) struct Keeping {
    retention: AtomicU64,
    leeway: AtomicU64,
    lead: AtomicU64,
    grace: AtomicU64,
}

fn raise(value: &AtomicU64, to: Duration) -> bool {
    let millis = u64::try_from(to.as_millis()).unwrap_or(u64::MAX);
    value.fetch_max(millis, Ordering::Relaxed) < millis
}

fn read(value: &AtomicU64) -> Duration {
    Duration::from_millis(value.load(Ordering::Relaxed))
}

impl RedisLedger {
    /// How long an entry may matter to this instance.
    pub(in crate::sources) fn retention(&self) -> Duration {
        read(&self.keeping.retention)
    }

    /// Keeps entries for so long, if that is longer than before, and tokens' for `leeway` after their end; to be
    /// called before tokens are accepted that live longer. True if entries must be kept longer than they were.
    pub(in crate::sources) fn retain_for(&self, retention: Duration, leeway: Duration) -> bool {
        let (longer, later) = (raise(&self.keeping.retention, retention), raise(&self.keeping.leeway, leeway));
        longer || later
    }

    /// How long a log is kept for instances of this retention.
    pub(in crate::sources) fn keeps_for(retention: Duration) -> Duration {
        retention * 2 + MARGIN
    }

    /// For how long after its end, by the store's clock, some instance may accept a token: the longest leeway, and how
    /// far a wall clock was seen to be behind.
    pub(in crate::sources) fn grace(&self) -> Duration {
        read(&self.keeping.grace)
    }

    pub(in crate::sources) fn note_grace(&self, grace: Duration) {
        raise(&self.keeping.grace, grace);
    }

    /// Tokens were seen that are dated this far ahead of the clock.
    pub(in crate::sources) fn note_lead(&self, lead: Duration) {
        raise(&self.keeping.lead, lead);
    }

    /// How entries are read now.
    pub(super) fn reader(&self) -> Reader {
        Reader {
            retention: self.retention(),
            leeway: read(&self.keeping.leeway),
            lead: read(&self.keeping.lead).max(Duration::from_secs(1)),
            now: self.store_clock().unwrap_or(Timestamp::MAX),
        }
    }
}

/// Notes a retention for others.
pub(super) fn note(keys: &Keys, retention: Duration, now: Timestamp) -> Command {
    let until = now.plus(retention + MARGIN).as_millis();
    // An instance that noted two retentions keeps the one that ends later.
    Command::new("ZADD").arg(&*keys.retentions).arg("GT").arg(until).arg(retention.as_millis().to_string())
}

/// Drops what holds no longer.
pub(super) fn forget(keys: &Keys, now: Timestamp) -> Command {
    Command::new("ZREMRANGEBYSCORE").arg(&*keys.retentions).arg("-inf").arg(now.as_millis())
}

/// The input of [`trim_before`].
pub(super) fn ask(keys: &Keys) -> Command {
    Command::new("ZRANGE").arg(&*keys.retentions).args(["0", "-1", "WITHSCORES"])
}

/// The longest retention of an instance that reads the log: `own`, and what the others noted.
pub(super) fn longest(noted: &Value, own: Duration, now: Timestamp) -> Result<Duration, LedgerError> {
    let held = scores(noted)?.into_iter().filter(|(_, until)| *until > now);
    Ok(held.filter_map(|(millis, _)| millis.parse().ok().map(Duration::from_millis)).fold(own, Duration::max))
}

/// Entries written before this instant matter to nobody.
pub(super) fn trim_before(longest: Duration, now: Timestamp) -> Timestamp {
    now.minus(RedisLedger::keeps_for(longest)).max(Timestamp::default()) // A negative id is none.
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
        let kept = |pairs: &[(&str, i64)]| longest(&noted(pairs), Duration::from_secs(500), now).unwrap().as_millis();
        assert_eq!(kept(&[]), 500_000);
        assert_eq!(kept(&[("100000", 1_000_000_001), ("900000", 1_000_000_001)]), 900_000);
        assert_eq!(kept(&[("900000", 1_000_000_000)]), 500_000, "it held until now");
        assert_eq!(kept(&[("soon", 2_000_000_000)]), 500_000, "somebody else's");
        assert_eq!(trim_before(Duration::from_secs(70), now), now.minus(Duration::from_secs(200)));
        assert_eq!(trim_before(Duration::from_secs(u64::from(u32::MAX)), now), Timestamp::default());
    }
}
