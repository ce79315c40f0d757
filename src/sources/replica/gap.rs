//! Detects whether the log is still the one from which the view was built.
//!
//! A stream loses entries silently: XREAD skips trimmed or deleted entries without an error, and continues after a
//! flush or a failover to a server that lags. Such losses change the epoch, the last id, the count of entries ever
//! added, or the number of entries.

use std::fmt;

use super::super::ledger::{Position, StreamInfo};
use crate::authz::claims::Timestamp;
use crate::clock::Steady;

/// The part of the log that the view has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::sources) struct Baseline {
    pub(in crate::sources) epoch: Box<str>,
    pub(in crate::sources) last: Position,
    /// Entries ever added when the view was last complete, plus those read since.
    pub(in crate::sources) added: u64,
    /// The log's state when it was last found complete, and the start of the read that found it so.
    pub(in crate::sources) whole: Option<(StreamInfo, Steady)>,
    /// The end of the log when a page did not reach it.
    goal: Option<Goal>,
}

/// An end of the log, as a goal for the reader. In a log that grows as fast as it is read, no page reaches the
/// end; once everything up to the goal is read, the view is as fresh as the check that found the goal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Goal {
    last: Position,
    /// Entries ever added up to the goal.
    added: u64,
    /// The start of that check.
    start: Steady,
    /// [`Baseline::added`] without the entries after the goal.
    counted: u64,
}

/// The difference between the log and an intact one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::sources) enum Gap {
    /// Flushed, or restarted empty.
    Epoch,
    /// Deleted.
    LogGone,
    /// Ids went backwards: an older copy of the store.
    Behind { last: Position },
    /// Trimmed or deleted before they were read, or added to an older copy.
    Miscounted { expected: u64, added: u64 },
    /// Trimmed or deleted while still in force, after they were read.
    Shortened,
    /// An entry that was acknowledged to this process is missing.
    OwnLost,
}

impl Baseline {
    pub(in crate::sources) fn new(epoch: Box<str>, last: Position, added: u64) -> Self {
        Self { epoch, last, added, whole: None, goal: None }
    }

    /// Adds entries that were read.
    pub(in crate::sources) fn advance(&mut self, read: impl ExactSizeIterator<Item = Position> + Clone) {
        self.added += read.len() as u64;
        if let Some(goal) = &mut self.goal {
            goal.counted += read.clone().filter(|position| *position <= goal.last).count() as u64;
        }
        self.last = read.last().map_or(self.last, |newest| self.last.max(newest));
    }

    /// Whether there is a goal that has not been reached.
    pub(in crate::sources) const fn has_goal(&self) -> bool {
        self.goal.is_some()
    }

    /// Sets the goal after a page that ended before `stream`, and is counted; the read began at `start`.
    pub(in crate::sources) fn aim(&mut self, stream: &StreamInfo, start: Steady) {
        if self.goal.is_none() {
            self.goal = Some(Goal { last: stream.last, added: stream.added, start, counted: self.added });
        }
    }

    /// The time as of which the view is fresh, if the goal is reached; a gap if entries are missing before it.
    pub(in crate::sources) fn reached(&mut self) -> Result<Option<Steady>, Gap> {
        let Some(goal) = self.goal.take_if(|goal| goal.last <= self.last) else { return Ok(None) };
        if goal.counted == goal.added {
            return Ok(Some(goal.start));
        }
        Err(Gap::Miscounted { expected: goal.counted, added: goal.added })
    }

    /// The end of the log itself was reached.
    pub(in crate::sources) fn drop_goal(&mut self) {
        self.goal = None;
    }

    pub(in crate::sources) fn check_epoch(&self, epoch: Option<&str>) -> Result<(), Gap> {
        if epoch == Some(&*self.epoch) { Ok(()) } else { Err(Gap::Epoch) }
    }

    /// Checks the state of the log, taken in one step with a read that is already counted. Entries written before
    /// `alive` may have been trimmed.
    pub(in crate::sources) fn check(
        &self,
        stream: Option<StreamInfo>,
        complete: bool,
        alive: Timestamp,
    ) -> Result<(), Gap> {
        let Some(stream) = stream else {
            return if self.added > 0 { Err(Gap::LogGone) } else { Ok(()) };
        };
        let StreamInfo { last, added, .. } = stream;
        if last < self.last {
            return Err(Gap::Behind { last });
        }
        if complete && added != self.added {
            return Err(Gap::Miscounted { expected: self.added, added });
        }
        match &self.whole {
            Some((whole, _)) if is_shortened(whole, &stream, alive) => Err(Gap::Shortened),
            _ => Ok(()),
        }
    }

    /// A read that began at `start` found the log complete.
    pub(in crate::sources) fn note_whole(&mut self, stream: Option<StreamInfo>, start: Steady) {
        self.whole = Some((stream.unwrap_or_default(), start));
    }
}

/// Whether entries that are still in force are missing.
fn is_shortened(before: &StreamInfo, now: &StreamInfo, alive: Timestamp) -> bool {
    let is_alive = |at: Position| i64::try_from(at.millis).is_ok_and(|millis| millis >= alive.as_millis());
    if now.deleted != before.deleted {
        return true;
    }
    if now.first == before.first || before.length == 0 {
        return now.length < before.length + now.added.saturating_sub(before.added);
    }
    is_alive(before.first)
}

impl Gap {
    pub(in crate::sources) const fn label(&self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::LogGone => "log_gone",
            Self::Behind { .. } => "behind",
            Self::Miscounted { .. } => "miscounted",
            Self::Shortened => "shortened",
            Self::OwnLost => "own_lost",
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch => f.write_str("the store was emptied or replaced"),
            Self::LogGone => f.write_str("the log was deleted"),
            Self::Behind { last } => write!(f, "the log ends at {last}, before the last read entry"),
            Self::Miscounted { expected, added } => {
                write!(f, "the log counts {added} entries where {expected} were read")
            }
            Self::Shortened => f.write_str("entries that are still in force were removed from the log"),
            Self::OwnLost => f.write_str("an acknowledged entry is not in the log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Position {
        Position { millis, sequence: 0 }
    }

    /// A view that had eight entries up to 5, and then read `count` more, up to `last`.
    #[track_caller]
    fn check((last, count): (u64, usize), stream: Option<(u64, u64)>, complete: bool, expected: Result<(), &str>) {
        let mut baseline = Baseline::new("e".into(), at(5), 8);
        baseline.advance(positions(last, count));
        let stream = stream.map(|(last, added)| StreamInfo { last: at(last), added, ..StreamInfo::default() });
        let judged = baseline.check(stream, complete, Timestamp::default());
        assert_eq!(judged.as_ref().map_err(Gap::label), expected.as_ref().map(|()| &()).map_err(|label| *label));
    }

    /// This many positions, ending at `last`.
    fn positions(last: u64, count: usize) -> std::vec::IntoIter<Position> {
        let first = (last + 1).saturating_sub(count as u64);
        (first..=last).take(count).map(at).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn a_log_that_grows_as_it_is_read_is_read_to_an_end_that_it_had() {
        let start = Steady::now();
        let mut baseline = Baseline::new("e".into(), at(5), 8);
        assert_eq!(baseline.reached(), Ok(None));
        baseline.advance(positions(7, 2));
        baseline.aim(&StreamInfo { last: at(10), added: 13, ..StreamInfo::default() }, start);
        baseline.advance(positions(9, 2));
        assert_eq!(baseline.reached(), Ok(None));
        baseline.advance(positions(14, 5));
        assert_eq!((baseline.last, baseline.added), (at(14), 17));
        assert_eq!(baseline.reached(), Ok(Some(start)));
        assert!(!baseline.has_goal());
        // An entry was trimmed before it was read.
        baseline.aim(&StreamInfo { last: at(16), added: 19, ..StreamInfo::default() }, start);
        baseline.advance(positions(20, 5));
        assert_eq!(baseline.reached(), Err(Gap::Miscounted { expected: 18, added: 19 }));
    }

    #[test]
    fn every_loss_changes_something() {
        let (nothing, two) = ((5, 0), (9, 2));
        check(nothing, Some((5, 8)), true, Ok(()));
        check(two, Some((9, 10)), true, Ok(()));
        check(nothing, None, true, Err("log_gone"));
        check(nothing, Some((3, 6)), true, Err("behind")); // A copy that lacks the last two.
        check(two, Some((9, 8)), true, Err("miscounted")); // The same, and two more since.
        check(nothing, Some((9, 10)), true, Err("miscounted")); // Two trimmed before they were read.
        check(two, Some((12, 12)), false, Ok(())); // More to read: judged when it is read.
        check(nothing, Some((3, 6)), false, Err("behind"));
        let baseline = Baseline::new("e".into(), at(5), 8);
        assert_eq!(baseline.check_epoch(Some("e")), Ok(()));
        assert_eq!(baseline.check_epoch(None), Err(Gap::Epoch)); // Flushed.
        assert_eq!(baseline.check_epoch(Some("f")), Err(Gap::Epoch)); // Flushed, and founded again by a peer.
    }

    #[test]
    fn a_log_that_never_existed_is_no_gap() {
        let baseline = Baseline::new("e".into(), Position::default(), 0);
        assert_eq!(baseline.check(None, true, Timestamp::default()), Ok(()));
    }

    #[test]
    fn entries_are_missed_also_after_they_were_read() {
        let info = |first, length, added, deleted| StreamInfo {
            last: at(90),
            added,
            length,
            first: at(first),
            deleted: at(deleted),
        };
        let whole = info(10, 5, 8, 0);
        for (now, alive, expected) in [
            (info(10, 5, 8, 0), 0, false),
            (info(10, 7, 10, 0), 0, false),
            (info(10, 4, 8, 20), 0, true),  // XDEL.
            (info(10, 6, 10, 0), 0, true),  // XDEL of one older than another that was deleted before.
            (info(20, 4, 8, 0), 0, true),   // XTRIM, although the trimmed entries are in force.
            (info(20, 4, 8, 0), 11, false), // Trimmed by age.
            (info(0, 0, 8, 0), 11, false),
        ] {
            let alive = Timestamp::from_millis(alive);
            assert_eq!(is_shortened(&whole, &now, alive), expected, "{now:?}");
        }
        assert!(!is_shortened(&info(0, 0, 8, 0), &info(95, 2, 10, 0), Timestamp::default()));
        assert!(!is_shortened(&StreamInfo::default(), &info(10, 2, 2, 0), Timestamp::default()));
    }
}
