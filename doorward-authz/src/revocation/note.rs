//! The author, reason and time of a revocation, for operators. Decisions do not read it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Origin, Revocation, Target, Watermark};
use crate::claims::Timestamp;

/// The metadata of a revocation: between two revocations with the same effect, the first counts.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Note {
    /// When it was made.
    pub since: Timestamp,
    /// The name of the admin key that requested it, at most [`Note::MAX_BY`] bytes.
    pub by: Option<Box<str>>,
    /// An operator's reason, at most [`Note::MAX_REASON`] bytes.
    pub reason: Option<Box<str>>,
}

impl Note {
    /// The longest author's name, in bytes.
    pub const MAX_BY: usize = 64;
    /// The longest reason, in bytes.
    pub const MAX_REASON: usize = 256;

    /// `None` if it is empty. Text that is too long is cut; characters that could forge a line of a log or of a
    /// terminal are replaced.
    #[must_use]
    pub fn new(since: Timestamp, by: &str, reason: &str) -> Option<Box<Self>> {
        let (by, reason) = (legible(by, Self::MAX_BY), legible(reason, Self::MAX_REASON));
        (by.is_some() || reason.is_some()).then(|| Box::new(Self { since, by, reason }))
    }

    /// Its memory in bytes, without the target.
    fn size(&self) -> usize {
        [&self.by, &self.reason].into_iter().flatten().map(|text| text.len()).sum()
    }
}

/// Text on one line: control characters, line separators and characters that change the writing direction become
/// `�`.
fn legible(text: &str, most: usize) -> Option<Box<str>> {
    let harmless = |c: char| match c {
        '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '�',
        c if c.is_control() => '�',
        c => c,
    };
    let mut legible = String::new();
    for c in text.chars().map(harmless) {
        if legible.len() + c.len_utf8() > most {
            break;
        }
        legible.push(c);
    }
    Some(legible).filter(|text| !text.is_empty()).map(Into::into)
}

/// The notes of one index.
#[derive(Default)]
pub(super) struct Notes(Mutex<Stored>);

#[derive(Default)]
struct Stored {
    by_target: HashMap<(Target, Origin), (Watermark, Note)>,
    /// See [`Notes::MAX_BYTES`].
    bytes: usize,
}

impl Notes {
    /// The most memory that notes take: some 30,000 of them. Further notes are in the log alone, so a writer of
    /// the log cannot fill the memory of the instances with text.
    const MAX_BYTES: usize = 8 << 20;
    /// The memory of an entry beside its text, rounded up.
    const ENTRY: usize = 200;

    /// Keeps the note of a revocation, unless there is already a note of a wider or an earlier one.
    ///
    /// The result does not depend on the order of the notes.
    pub(super) fn keep(&self, revocation: &Revocation) {
        let Some(note) = revocation.note.as_deref() else { return };
        let mut kept = self.kept();
        let key = (revocation.target.clone(), revocation.origin);
        let old = kept.by_target.get(&key);
        let rank = |watermark: Watermark, note| (watermark, Reverse(note));
        let next = rank(revocation.watermark, note);
        if old.is_some_and(|(watermark, old)| rank(*watermark, old) >= next) {
            return;
        }
        let bytes = kept.bytes - old.map_or(0, |(_, old)| old.size() + Self::ENTRY) + note.size() + Self::ENTRY;
        if bytes <= Self::MAX_BYTES {
            kept.bytes = bytes;
            kept.by_target.insert(key, (revocation.watermark, note.clone()));
        }
    }

    /// Adds the notes to revocations.
    pub(super) fn annotate(&self, revocations: &mut [Revocation]) {
        let kept = self.kept();
        if kept.by_target.is_empty() {
            return;
        }
        for revocation in revocations {
            let key = (revocation.target.clone(), revocation.origin);
            revocation.note = kept.by_target.get(&key).map(|(_, note)| Box::new(note.clone()));
        }
    }

    /// Deletes the notes of revocations that are not in the index any more.
    pub(super) fn retain(&self, is_known: impl Fn(&Target) -> bool) {
        let mut kept = self.kept();
        let Stored { by_target, bytes } = &mut *kept;
        by_target.retain(|(target, _), (_, note)| {
            let stays = is_known(target);
            *bytes -= if stays { 0 } else { note.size() + Self::ENTRY };
            stays
        });
    }

    fn kept(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::IssuerName;
    use crate::revocation::{Kind, TargetId};

    fn noted(id: &str, since: i64, reason: &str) -> Revocation {
        Revocation {
            target: Target::new(IssuerName::parse("main").unwrap(), Kind::User, TargetId::new(id)),
            watermark: Watermark::FOREVER,
            expires_at: Timestamp::from_secs(10_000),
            origin: Origin::Revoked,
            note: Note::new(Timestamp::from_secs(since), "operator", reason),
        }
    }

    #[track_caller]
    fn check(notes: &Notes, id: &str, expected: Option<&str>) {
        let mut found = [Revocation { note: None, ..noted(id, 0, "") }];
        notes.annotate(&mut found);
        assert_eq!(found[0].note.as_ref().map(|note| note.reason.as_deref().unwrap_or("")), expected);
    }

    #[test]
    fn the_first_note_of_what_revokes_most_counts_whatever_the_order() {
        let (notes, again) = (Notes::default(), Notes::default());
        let less = Revocation { watermark: Watermark::at(Timestamp::from_secs(5)), ..noted("u", 1, "old") };
        let written = [less.clone(), noted("u", 2, "lost phone"), noted("u", 3, "once more"), less];
        for (one, other) in written.iter().zip(written.iter().rev()) {
            notes.keep(one);
            again.keep(other);
        }
        for notes in [&notes, &again] {
            check(notes, "u", Some("lost phone"));
            check(notes, "v", None);
            assert_eq!(notes.kept().bytes, "operator".len() + "lost phone".len() + Notes::ENTRY);
        }
        notes.retain(|_| false);
        check(&notes, "u", None);
        assert_eq!(notes.kept().bytes, 0);
    }

    #[test]
    fn notes_take_no_more_memory_than_they_may() {
        let notes = Notes::default();
        for number in 0..60_000 {
            notes.keep(&noted(&number.to_string(), 1, &"x".repeat(300)));
        }
        let kept = notes.kept();
        assert!(kept.bytes <= Notes::MAX_BYTES && kept.by_target.len() > 10_000, "{}", kept.by_target.len());
        assert!(kept.by_target.values().all(|(_, note)| note.size() == 8 + Note::MAX_REASON));
    }

    #[test]
    fn a_note_is_one_line_of_bounded_length() {
        let note = Note::new(Timestamp::default(), "", "a\nb\u{1b}[31m\u{202e}c\u{85}").unwrap();
        assert_eq!((note.by.as_deref(), note.reason.as_deref()), (None, Some("a�b�[31m�c�")));
        let long = Note::new(Timestamp::default(), &"é".repeat(200), &"é".repeat(200)).unwrap();
        assert_eq!((long.by.unwrap().len(), long.reason.unwrap().len()), (Note::MAX_BY, Note::MAX_REASON));
        assert_eq!(Note::new(Timestamp::default(), "", ""), None);
    }
}
