//! The time since which the store's clock has been stable, by the observations of all instances together.
//!
//! ```text
//! doorward:{r}:clock  sorted set, in milliseconds: `since` when the server's clock last became stable, and `last`
//!                     when an instance last read it, both by that clock; `wall` what the instance's own showed then
//! ```
//!
//! The id of an entry gives its age only if the store's clock was not set since. So nothing is dropped by age until
//! that clock has been stable for as long as the log is kept: by then every entry from before is older than that.
//!
//! An instance detects by its monotonic clock that the store's clock was set, over reconnections and failovers too, and
//! notes the time. A process that starts has not observed the time before. Another instance has, if the last reading of
//! any instance is a few seconds old; if none ran, the same time must have passed by the wall clocks of the last and
//! the first instance as by the store's.

use std::time::Duration;

use fred::types::Value;

use super::super::LedgerError;
use super::RedisLedger;
use super::clock::{ServerClock, StoreClock, TOLERANCE};
use super::session::Command;
use super::wire::Keys;
use crate::authz::claims::Timestamp;

/// Each instance notes a reading every two seconds: no instance observed a longer gap.
const UNWATCHED: Duration = Duration::from_secs(10);
/// The largest difference between two wall clocks and the store's over a gap without instances: far less than the
/// reserve for which the log is kept.
const APART: Duration = Duration::from_secs(5);
/// A process drops nothing before it has observed the clock for this long: by then other instances have noted earlier
/// jumps.
const WATCH: Duration = Duration::from_secs(5);

/// The note in the store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Note {
    since: Option<Timestamp>,
    last: Option<Timestamp>,
    wall: Option<Timestamp>,
}

impl Note {
    /// The command whose answer [`RedisLedger::clock_note`] reads.
    pub(super) fn command(keys: &Keys) -> Command {
        Command::new("ZRANGE").arg(&*keys.clock).args(["0", "-1", "WITHSCORES"])
    }

    /// Whether the clock was surely not set between the last reading of any instance and this one.
    fn leads_to(self, read: ServerClock, wall: Timestamp, stable_for: Duration) -> bool {
        let (Some(last), Some(then)) = (self.last, self.wall) else { return false };
        if last > read.showed.plus(TOLERANCE) {
            return false;
        }
        let passed = read.showed.since(last);
        passed <= UNWATCHED.max(stable_for) || passed.abs_diff(wall.since(then)) <= APART
    }
}

impl RedisLedger {
    /// The note in an answer to [`Note::command`].
    pub(super) fn clock_note(&self, answer: &Value) -> Result<Note, LedgerError> {
        const NAMES: [&str; 3] = ["since", "last", "wall"];
        let read = |name: &str, at| NAMES.into_iter().find(|known| *known == name).map(|known| (known, at));
        let noted = self.members(&self.keys.clock, answer, read)?;
        let [since, last, wall] = NAMES.map(|name| noted.iter().find(|(noted, _)| *noted == name).map(|(_, at)| *at));
        Ok(Note { since, last, wall })
    }
}

impl StoreClock {
    /// Compares a reading, which [`StoreClock::observe`] has recorded, with the note; `wall` is this machine's clock.
    pub(super) fn compare(&self, note: Note, read: ServerClock, wall: Timestamp) {
        let stable_for = self.stable_for(read);
        let mut seen = self.seen();
        if seen.is_unnoted {
            return; // The recorded time is later.
        }
        let since = note.since.filter(|since| *since <= read.showed.plus(TOLERANCE));
        let since = since.filter(|_| note.leads_to(read, wall, stable_for));
        seen.is_unnoted = since.is_none();
        seen.since = since.or(Some(read.showed));
    }

    /// Notes a reading, and when the clock was set if the store does not have that; `None` before the first comparison.
    /// Pass it to [`Self::noted`] once the command has succeeded.
    pub(super) fn note(&self, keys: &Keys, now: Timestamp, wall: Timestamp) -> Option<Command> {
        let seen = self.seen();
        let since = seen.since?;
        let add = Command::new("ZADD").arg(&*keys.clock);
        let add = if seen.is_unnoted { add.arg(since.as_millis()).arg("since") } else { add };
        Some(add.arg(now.as_millis()).arg("last").arg(wall.as_millis()).arg("wall"))
    }

    /// The time since which the clock has been stable, as far as observed.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.seen().since
    }

    /// `since` is in the store.
    pub(super) fn noted(&self, since: Option<Timestamp>) {
        let mut seen = self.seen();
        seen.is_unnoted &= seen.since != since; // The clock was set again meanwhile.
    }

    /// The time for which all instances have seen the server's clock stable, up to this reading; zero if not
    /// established.
    pub(super) fn stable_for_all(&self, note: Note, read: ServerClock) -> Duration {
        let is_watched = self.stable_for(read) >= WATCH;
        let seen = self.seen();
        let is_known = is_watched && seen.since.is_some() && !seen.is_unnoted;
        note.since.filter(|_| is_known).map_or(Duration::ZERO, |since| read.showed.since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Steady;

    const NOW: i64 = 1_700_000_000;

    /// The state of a process that reads the store's clock for the first time, at [`NOW`] by its own: the clock has
    /// been stable since then, in seconds before.
    #[track_caller]
    fn check(showed: i64, since: i64, last: i64, wall: i64, expected: i64) {
        let at = |seconds| Some(Timestamp::from_secs(seconds));
        let note = Note { since: at(since), last: at(last), wall: at(wall) };
        let (clock, read) = (StoreClock::default(), ServerClock::read(Steady::now(), Timestamp::from_secs(showed)));
        clock.observe(read);
        clock.compare(note, read, Timestamp::from_secs(NOW));
        assert_eq!(showed - clock.since().unwrap().as_secs(), expected);
        assert_eq!(clock.seen().is_unnoted, expected == 0);
        assert_eq!(clock.stable_for_all(note, read), Duration::ZERO, "it has not watched yet");
    }

    #[test]
    fn a_process_that_starts_knows_whether_the_clock_was_set() {
        const HOUR: i64 = 3_600;
        check(NOW, NOW - HOUR, NOW - 2, NOW - 2, HOUR);
        check(NOW - HOUR, NOW - 2 * HOUR, NOW - HOUR - 2, NOW - 2, HOUR); // An hour behind all the time.
        check(NOW, NOW - 3 * HOUR, NOW - 2 * HOUR, NOW - 2 * HOUR, 3 * HOUR); // No instance ran for two hours.
        check(NOW, NOW - 3 * HOUR, NOW - 2 * HOUR, NOW - HOUR, 0); // The wall clock was corrected meanwhile.
        check(NOW, NOW - 3 * HOUR, NOW - HOUR - 2, NOW - 2, 0); // An hour behind, and right.
        check(NOW, NOW - HOUR, NOW + 30, NOW - 2, 0); // Set back.
        check(NOW, NOW + HOUR, NOW - 2, NOW - 2, 0); // The note is of the future.
        let (clock, read) = (StoreClock::default(), ServerClock::read(Steady::now(), Timestamp::from_secs(NOW)));
        let keys = Keys::new("");
        assert!(clock.note(&keys, Timestamp::from_secs(NOW), Timestamp::from_secs(NOW)).is_none(), "nothing is known");
        clock.compare(Note::default(), read, Timestamp::from_secs(NOW));
        assert!(clock.seen().is_unnoted, "there is no note");
        clock.noted(Some(Timestamp::from_secs(NOW - 1)));
        assert!(clock.seen().is_unnoted, "what was noted is of before");
        clock.noted(clock.since());
        assert!(!clock.seen().is_unnoted);
    }
}
