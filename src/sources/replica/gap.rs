//! Whether the log is still the one the view was built from.
//!
//! A stream loses silently: XREAD skips entries that were trimmed or deleted without an error, and
//! after a flush or a failover to a server that lags it goes on as if nothing had happened. What
//! those losses change is the epoch, the last id, or the count of entries ever added.

use std::fmt;

use super::super::ledger::{Epoch, Position, StreamInfo};

/// The log as far as the view has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Baseline {
    pub(super) epoch: Box<str>,
    pub(super) last: Position,
    /// Entries ever added when the view was last known complete, plus those read since.
    pub(super) added: u64,
}

/// How the log differs from what an intact one would be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Gap {
    /// Flushed, or restarted empty.
    Epoch,
    /// Deleted.
    LogGone,
    /// Ids went backwards: an older copy of the store.
    Behind { last: Position },
    /// Trimmed or deleted before they were read, or added to an older copy.
    Miscounted { expected: u64, added: u64 },
}

impl Baseline {
    /// Takes in that `count` more entries were read, the last of them at `last`.
    pub(super) fn advance(&mut self, last: Position, count: usize) {
        self.last = self.last.max(last);
        self.added += count as u64;
    }

    pub(super) fn check_epoch(&self, epoch: &Epoch) -> Result<(), Gap> {
        match epoch {
            Epoch::Is(epoch) if *epoch == self.epoch => Ok(()),
            Epoch::Is(_) | Epoch::Missing => Err(Gap::Epoch),
            Epoch::NotAsked => Ok(()),
        }
    }

    /// Judges the log's account of itself, taken in one step with a read that is already counted.
    pub(super) fn check(&self, epoch: &Epoch, stream: Option<StreamInfo>, complete: bool) -> Result<(), Gap> {
        self.check_epoch(epoch)?;
        let Some(StreamInfo { last, added }) = stream else {
            return if self.added > 0 { Err(Gap::LogGone) } else { Ok(()) };
        };
        if last < self.last {
            return Err(Gap::Behind { last });
        }
        if complete && added != self.added {
            return Err(Gap::Miscounted { expected: self.added, added });
        }
        Ok(())
    }
}

impl Gap {
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::LogGone => "log_gone",
            Self::Behind { .. } => "behind",
            Self::Miscounted { .. } => "miscounted",
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Epoch => f.write_str("the store was emptied or replaced"),
            Self::LogGone => f.write_str("the log was deleted"),
            Self::Behind { last } => write!(f, "the log ends at {last}, before what was read"),
            Self::Miscounted { expected, added } => {
                write!(f, "the log counts {added} entries where {expected} were read")
            }
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
    fn check(
        (last, count): (u64, usize),
        epoch: Option<&str>,
        stream: Option<(u64, u64)>,
        complete: bool,
        expected: Result<(), &str>,
    ) {
        let mut baseline = Baseline { epoch: "e".into(), last: at(5), added: 8 };
        baseline.advance(at(last), count);
        let stream = stream.map(|(last, added)| StreamInfo { last: at(last), added });
        let epoch = epoch.map_or(Epoch::Missing, |epoch| Epoch::Is(epoch.into()));
        let judged = baseline.check(&epoch, stream, complete);
        assert_eq!(judged.as_ref().map_err(Gap::label), expected.as_ref().map(|()| &()).map_err(|label| *label));
    }

    #[test]
    fn every_loss_changes_something() {
        let (nothing, two) = ((5, 0), (9, 2));
        check(nothing, Some("e"), Some((5, 8)), true, Ok(()));
        check(two, Some("e"), Some((9, 10)), true, Ok(()));
        check(nothing, None, Some((5, 8)), true, Err("epoch")); // Flushed.
        check(nothing, Some("f"), Some((5, 8)), true, Err("epoch")); // Flushed, and founded again by a peer.
        check(nothing, Some("e"), None, true, Err("log_gone"));
        check(nothing, Some("e"), Some((3, 6)), true, Err("behind")); // A copy that lacks the last two.
        check(two, Some("e"), Some((9, 8)), true, Err("miscounted")); // The same, and two more since.
        check(nothing, Some("e"), Some((9, 10)), true, Err("miscounted")); // Two trimmed before they were read.
        check(two, Some("e"), Some((12, 12)), false, Ok(())); // More to read: judged when it is read.
        check(nothing, Some("e"), Some((3, 6)), false, Err("behind"));
    }

    #[test]
    fn a_log_that_never_existed_is_no_gap() {
        let baseline = Baseline { epoch: "e".into(), last: Position::default(), added: 0 };
        assert_eq!(baseline.check(&Epoch::Is("e".into()), None, true), Ok(()));
    }
}
