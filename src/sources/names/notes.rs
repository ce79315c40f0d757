//! The notes about names, as a process knows them.

use std::collections::HashMap;

use super::{Names, Note};
use crate::authz::claims::Timestamp;

/// The notes that a process has read or written.
///
/// A store shows that a note was dropped. A note that it merely lacks, or has in an older copy, is lost, whichever way:
/// each process puts back what it knows.
#[derive(Clone, Debug, Default)]
pub struct Notes(HashMap<String, Timestamp>);

/// Whether a note is later than another one of the same text.
#[must_use]
pub fn is_later(at: Timestamp, than: Timestamp) -> bool {
    let rank = |at: Timestamp| (at.as_millis().saturating_abs(), is_dropped(at));
    rank(at) > rank(than)
}

/// Whether a note with this time was dropped.
#[must_use]
pub fn is_dropped(at: Timestamp) -> bool {
    at <= Timestamp::default()
}

/// The time of a note that was dropped then.
fn dropped(at: Timestamp) -> Timestamp {
    Timestamp::from_millis(-at.as_millis().saturating_abs().max(1))
}

impl Notes {
    /// Takes over a reading, and returns the notes that the store has lost. A time that is to come was noted by a clock that
    /// was set since.
    pub fn update(&mut self, read: Vec<Note>, now: Timestamp) -> Vec<Note> {
        let now = now.max(Timestamp::default());
        for at in self.0.values_mut() {
            *at = (*at).clamp(dropped(now), now);
        }
        for (text, found) in &read {
            let known = self.0.entry(text.clone()).or_insert(*found);
            if *found == Timestamp::default() {
                *known = dropped(now); // By an operator: the time is not known.
            } else if is_later(*found, *known) {
                *known = *found;
            }
        }
        let found: HashMap<String, Timestamp> = read.into_iter().collect();
        let is_lost = |(text, known): &(&String, &Timestamp)| {
            found.get(*text).is_none_or(|found| *found == Timestamp::default() || is_later(**known, *found))
        };
        self.0.iter().filter(is_lost).map(|(text, at)| (text.clone(), *at)).collect()
    }

    /// The notes to write now for names that are used and for those that are dropped: each later than what is known.
    #[must_use]
    pub fn next(&self, used: &[String], ended: &[String], now: Timestamp) -> Vec<Note> {
        let known = |text: &String| self.0.get(text).copied().unwrap_or_default();
        let use_of = |text: &String| {
            let after = Some(known(text)).filter(|at| is_dropped(*at)).unwrap_or_default().as_millis().saturating_abs();
            (text.clone(), now.max(Timestamp::from_millis(after.saturating_add(1))))
        };
        let end_of = |text: &String| (text.clone(), dropped(now.max(known(text))));
        // The last one of a text is written: a name that is used is not dropped.
        ended.iter().map(end_of).chain(used.iter().map(use_of)).collect()
    }

    /// These are in the store now.
    pub fn written(&mut self, notes: Vec<Note>) {
        self.0.extend(notes);
    }

    /// The meanings that count.
    #[must_use]
    pub fn names(&self) -> Names {
        Names::read(self.0.iter().map(|(text, at)| (text.clone(), *at)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notes(of: &[(&str, i64)]) -> Vec<Note> {
        of.iter().map(|(text, at)| ((*text).to_owned(), Timestamp::from_millis(*at))).collect()
    }

    /// What is put back into a store with `read` by a process that knows `known`, at 1000, and what it knows then.
    #[track_caller]
    fn check(known: i64, read: &[(&str, i64)], lost: &[(&str, i64)], then: i64) {
        let mut of = Notes::default();
        of.written(notes(&[("a", known)]));
        assert_eq!(of.update(notes(read), Timestamp::from_millis(1000)), notes(lost), "{known} {read:?}");
        assert_eq!(of.0["a"].as_millis(), then);
    }

    #[test]
    fn the_later_of_a_use_and_a_drop_counts_and_what_the_store_lacks_is_lost() {
        check(500, &[("a", 500)], &[], 500);
        check(500, &[("a", 600)], &[], 600);
        check(500, &[("a", 400)], &[("a", 500)], 500); // An older copy.
        check(500, &[], &[("a", 500)], 500);
        check(500, &[("a", -600)], &[], -600); // Dropped by another instance.
        check(500, &[("a", -500)], &[], -500);
        check(500, &[("a", -400)], &[("a", 500)], 500); // Used again since that copy.
        check(500, &[("a", 0)], &[("a", -1000)], -1000); // Dropped by an operator.
        check(-500, &[("a", 400)], &[("a", -500)], -500); // An older copy does not undo that.
        check(-500, &[], &[("a", -500)], -500);
        check(-500, &[("a", 501)], &[], 501);
        check(9000, &[("a", 700)], &[("a", 1000)], 1000); // By a clock that was ahead.
    }

    #[test]
    fn a_use_or_a_drop_is_later_than_what_is_known() {
        let mut of = Notes::default();
        let now = Timestamp::from_millis(1000);
        let next = |of: &Notes, used: &[String], ended: &[String]| {
            of.next(used, ended, now).into_iter().map(|(_, at)| at.as_millis()).collect::<Vec<_>>()
        };
        let a = ["a".to_owned()];
        assert_eq!((next(&of, &a, &[]), next(&of, &[], &a)), (vec![1000], vec![-1000]));
        of.written(notes(&[("a", 3000)]));
        assert_eq!((next(&of, &a, &[]), next(&of, &[], &a)), (vec![1000], vec![-3000]));
        of.written(notes(&[("a", -3000)]));
        assert_eq!(next(&of, &a, &[]), [3001]);
        assert_eq!(next(&of, &a, &a), [-1000, 3001]);
    }
}
