//! The retention of the log: as long as any instance needs it that reads or has read this log.
//!
//! ```text
//! doorward:{r}:retentions  sorted set: a retention in milliseconds, the end of its validity (server's clock, ms)
//! ```
//!
//! Instances that share a log need not have the same issuers: one with a short `max_lifetime` must not trim entries
//! that another needs. Each notes its retention with its lease, valid as long as the last entry that it may have read:
//! so the entries of a stopped fleet are still there when it returns. The log is kept for twice that, so that an
//! instance whose retention is raised by a reload, or whose clock was wrong, can read dropped entries again.
//!
//! Entries and notes are dropped by the server's clock, and only once that clock has been stable for as long as the log
//! is kept (see [`super::clock_note`]): after a change of the clock the log grows for that long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fred::types::Value;

use super::super::LedgerError;
use super::RedisLedger;
use super::clock::lasting;
use super::session::Command;
use super::wire::{Keys, Reader};
use crate::authz::claims::Timestamp;
use crate::authz::revocation::{Kind, LONGEST_LEEWAY, LONGEST_LIFETIME, LONGEST_STALENESS, Lead, Note, Revocation};

/// The reserve beyond the retention, for clocks that disagree.
const MARGIN: Duration = Duration::from_secs(60);

/// The requirements of this instance's tokens on the log, in milliseconds. They are never lowered, because entries were
/// already read under them.
#[derive(Default)]
pub(super) struct Keeping {
    retention: AtomicU64,
    leeway: AtomicU64,
    lead: AtomicU64,
    /// The longest retention that an instance noted; 0 before the notes were read.
    longest: AtomicU64,
    /// The longest observed lease of any instance.
    lease: AtomicU64,
}

fn raise(value: &AtomicU64, to: Duration) -> bool {
    let millis = u64::try_from(to.as_millis()).unwrap_or(u64::MAX);
    value.fetch_max(millis, Ordering::Relaxed) < millis
}

fn read(value: &AtomicU64) -> Duration {
    Duration::from_millis(value.load(Ordering::Relaxed))
}

impl RedisLedger {
    /// The time for which this instance may need an entry.
    pub(in crate::sources) fn retention(&self) -> Duration {
        read(&self.keeping.retention)
    }

    /// Raises the retention of entries to at least this, and that of tokens' entries to `leeway` after their end; call
    /// it before tokens with a longer lifetime are accepted. True if entries must be kept longer than before.
    pub(in crate::sources) fn retain_for(&self, retention: Duration, leeway: Duration) -> bool {
        let (longer, later) = (raise(&self.keeping.retention, retention), raise(&self.keeping.leeway, leeway));
        longer || later
    }

    /// The time for which a log is kept for instances with this retention.
    pub(in crate::sources) fn keeps_for(retention: Duration) -> Duration {
        retention * 2 + MARGIN
    }

    /// The longest time after its end for which this instance accepts a token.
    pub(super) fn leeway(&self) -> Duration {
        read(&self.keeping.leeway)
    }

    /// An entry that is written again, with the time from which its end counts: by that, relays to other regions see that it
    /// says nothing new. Of one that comes from an index only the end is known, rounded up.
    pub(in crate::sources) fn dated(&self, entry: &Revocation) -> Revocation {
        let longest = self.longest_retention().unwrap_or_else(|| self.retention()); // The end may be by that need.
        let since = entry.expires_at.minus(longest + Duration::from_secs(1)).min(self.earliest());
        let dated = || Box::new(Note { since, by: None, reason: None });
        let is_dated = !matches!(entry.target.kind, Kind::Token | Kind::Registration);
        Revocation { note: entry.note.clone().or_else(|| is_dated.then(dated)), ..entry.clone() }
    }

    /// The largest lead of tokens that were seen, as far as it was read.
    pub(super) fn lead(&self) -> Duration {
        read(&self.keeping.lead).max(Lead::LEAST)
    }

    /// Records the lead of tokens that were seen.
    pub(in crate::sources) fn note_lead(&self, lead: Duration) {
        raise(&self.keeping.lead, lead);
    }

    /// Records the length of an instance's leases.
    pub(in crate::sources) fn note_lease(&self, length: Duration) {
        raise(&self.keeping.lease, length);
    }

    /// The longest lease that an instance may have.
    pub(in crate::sources) fn longest_lease(&self) -> Duration {
        read(&self.keeping.lease)
    }

    /// The last time at which the store's clock was set, or may have been; 1970 if the log has no entries from before.
    pub(in crate::sources) fn set_at(&self) -> Timestamp {
        let (set_at, now) = (self.clock.since(), self.store_clock().unwrap_or_default());
        let keeps = Self::keeps_for(self.retention());
        set_at.filter(|set_at| now.since(*set_at) < keeps).unwrap_or_default()
    }

    /// Entries that were written later by the store's clock are in the log.
    pub(in crate::sources) fn keeps_after(&self) -> Timestamp {
        self.store_clock().unwrap_or(Timestamp::MAX).minus(Self::keeps_for(self.retention())).plus(MARGIN)
    }

    /// The parameters for reading entries now; `is_live`: the entries were added a moment ago.
    pub(super) fn reader(&self, is_live: bool) -> Reader {
        let (leeway, local) = (self.leeway(), crate::clock::now());
        let now = self.store_clock().unwrap_or(Timestamp::MAX);
        Reader {
            retention: self.retention(),
            leeway,
            lead: self.lead_of_entries(),
            now,
            behind: Some(local.since(now)).filter(|behind| *behind <= leeway.max(Lead::LEAST)).unwrap_or_default(),
            seen_at: if is_live { local } else { Timestamp::default() },
            set_at: self.set_at(),
            as_written: false,
        }
    }
}

/// Writes a retention for other instances.
pub(super) fn note(keys: &Keys, retention: Duration, now: Timestamp) -> Command {
    let until = now.plus(retention + MARGIN).as_millis();
    // If several instances note one retention, the latest end stays.
    Command::new("ZADD").arg(&*keys.retentions).arg("GT").arg(until).arg(retention.as_millis().to_string())
}

/// The input of [`Kept::from_notes`].
pub(super) fn notes_command(keys: &Keys) -> Command {
    Command::new("ZRANGE").arg(&*keys.retentions).args(["0", "-1", "WITHSCORES"])
}

/// The entries that are kept, and the entries that may be trimmed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Kept {
    /// The longest retention of an instance that reads the log.
    pub(super) longest: Duration,
    /// Notes that were valid until this time have expired, and no instance needs entries written before
    /// [`Self::trim_before`]; `None`: nothing may be trimmed by its age.
    over: Option<Timestamp>,
}

impl Kept {
    /// `noted` is what [`RedisLedger::retentions`] read, `own` the retention of the writer, `now` the earlier of both
    /// clocks, and `stable_for` how long the server's has been stable.
    pub(super) fn from_notes(
        noted: &[(Duration, Timestamp)],
        own: Duration,
        now: Timestamp,
        stable_for: Duration,
    ) -> Self {
        let longest = |holds: &dyn Fn(Timestamp) -> bool| {
            let held = noted.iter().filter(|(_, until)| holds(*until));
            held.map(|(retention, _)| *retention).fold(own, Duration::max)
        };
        // A note that has expired by a clock that was set is still valid.
        let all = longest(&|_| true);
        if stable_for < RedisLedger::keeps_for(all) {
            return Self { longest: all, over: None };
        }
        Self { longest: longest(&|until| until > now), over: Some(now) }
    }

    pub(super) fn trim_before(self) -> Option<Timestamp> {
        // Ids are not negative.
        Some(self.over?.minus(RedisLedger::keeps_for(self.longest)).max(Timestamp::default()))
    }

    /// Drops the expired notes.
    pub(super) fn forget(self, keys: &Keys) -> Option<Command> {
        Some(Command::new("ZREMRANGEBYSCORE").arg(&*keys.retentions).arg("-inf").arg(self.over?.as_millis()))
    }
}

fn millis_up_to(text: &str, longest: Duration) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis).filter(|length| *length <= longest)
}

/// Notes a lease of this length, which runs until then at most.
pub(super) fn note_lease(keys: &Keys, length: Duration, until: Timestamp) -> Command {
    Command::new("ZADD").arg(&*keys.leases).arg("GT").arg(until.as_millis()).arg(length.as_millis().to_string())
}

/// The input of [`RedisLedger::take_leases`].
pub(super) fn lease_notes_command(keys: &Keys) -> Command {
    Command::new("ZRANGE").arg(&*keys.leases).args(["0", "-1", "WITHSCORES"])
}

impl RedisLedger {
    /// Records the lengths of all instances' leases. Expired notes count too.
    pub(super) fn take_leases(&self, noted: &Value) -> Result<(), LedgerError> {
        self.lease_lengths(noted)?.into_iter().for_each(|(length, _)| self.note_lease(length));
        Ok(())
    }

    /// The lengths of leases in an answer to [`lease_notes_command`], each with the end of the last such lease.
    pub(super) fn lease_lengths(&self, noted: &Value) -> Result<Vec<(Duration, Timestamp)>, LedgerError> {
        let longest = lasting(LONGEST_STALENESS * 2);
        let read = |text: &str, until| millis_up_to(text, longest).map(|length| (length, until));
        self.members(&self.keys.leases, noted, read)
    }

    /// The retentions in an answer to [`notes_command`], each with the instant until which it is valid. The instants are not
    /// bounded: a running instance may have noted one while the server's clock was ahead, and still relies on it.
    pub(super) fn retentions(&self, noted: &Value) -> Result<Vec<(Duration, Timestamp)>, LedgerError> {
        let longest = LONGEST_LIFETIME + LONGEST_LEEWAY * 2;
        let read = |text: &str, until| millis_up_to(text, longest).map(|retention| (retention, until));
        self.members(&self.keys.retentions, noted, read)
    }

    /// Records the time for which instances keep the entries that they read. An expired note counts, too.
    pub(super) fn take_retentions(&self, noted: &Value) -> Result<(), LedgerError> {
        let noted = self.retentions(noted)?;
        let longest = noted.into_iter().map(|(retention, _)| retention).fold(self.retention(), Duration::max);
        raise(&self.keeping.longest, longest);
        Ok(())
    }

    /// The longest that an entry may matter to an instance on this store; `None` before the notes were read.
    pub(in crate::sources) fn longest_retention(&self) -> Option<Duration> {
        Some(read(&self.keeping.longest)).filter(|longest| !longest.is_zero()).map(|seen| seen.max(self.retention()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_for_the_longest_retention() {
        let now = Timestamp::from_millis(1_000_000_000);
        let judge = |pairs: &[(u64, i64)], stable_for: u64| {
            let pair = |(seconds, until): &(u64, i64)| (Duration::from_secs(*seconds), Timestamp::from_millis(*until));
            let noted: Vec<_> = pairs.iter().map(pair).collect();
            Kept::from_notes(&noted, Duration::from_secs(500), now, Duration::from_secs(stable_for))
        };
        let kept = |pairs: &[(u64, i64)]| {
            let Kept { longest, over } = judge(pairs, 10_000);
            assert_eq!(over, Some(now));
            longest.as_millis()
        };
        assert_eq!(kept(&[]), 500_000);
        assert_eq!(kept(&[(100, 1_000_000_001), (900, 1_000_000_001)]), 900_000);
        assert_eq!(kept(&[(900, 1_000_000_000)]), 500_000, "it held until now");
        assert_eq!(millis_up_to("900000", Duration::from_secs(900)), Some(Duration::from_secs(900)));
        for odd in ["900001", "soon", "-1", "99999999999999999999"] {
            assert_eq!(millis_up_to(odd, Duration::from_secs(900)), None, "{odd}");
        }
        assert_eq!(judge(&[], 1_060).trim_before(), Some(now.minus(Duration::from_secs(1_060))));
        let ever = Kept::from_notes(&[], Duration::from_secs(u64::from(u32::MAX)), now, Duration::MAX);
        assert_eq!(ever.trim_before(), Some(Timestamp::default()));
        // The clock was set more recently than entries are kept.
        assert_eq!(judge(&[], 1_059), Kept { longest: Duration::from_secs(500), over: None });
        let over = &[(900, 1_000_000_000)];
        assert_eq!(judge(over, 1_859), Kept { longest: Duration::from_secs(900), over: None }, "the note may hold");
        assert_eq!((judge(over, 1_859).trim_before(), judge(over, 1_860).longest.as_secs()), (None, 500));
    }
}
