//! What the other log has.
//!
//! For each target it keeps, by origin, the latest instant and the latest end of its entries. One entry must have both: of
//! two entries with one each, an instance that starts when one of them is over has the other alone. Where no entry has both,
//! the next one that is copied is merged with what is there, and has them. So a target needs one entry of each origin, and
//! each copy covers all before it: entries that do not cover each other cannot go round.
//!
//! An instance takes the end of an entry from its id, which its copy does not have. So each copy has the end that is assumed
//! here in `expires`, whatever the clocks of the two stores show.
//!
//! Why it comes to rest: what a copy states is written in it, so that every relay reads the same, in either direction and at
//! any time; and that is no more than what entries of its target and origin stated before. So the ends of a target do not
//! grow by copying, and an entry is copied only where it is not covered. Two readings of one entry differ only if its id lies
//! ahead of its store's clock, or if it has no instant; a later reading then states more, and is copied once. Such a reading
//! is that of a log that is read from its start, and no copy makes a relay do that.

use std::collections::HashMap;
use std::time::Duration;

use crate::authz::claims::Timestamp;
use crate::authz::revocation::{Kind, Revocation, RevocationIndex, Target, Watermark};

/// The entries of a log, or of a page.
#[derive(Default)]
pub(super) struct KnownEntries {
    /// An instance needs an entry for this long from its instant and its writing.
    needed: Duration,
    merged: RevocationIndex,
    /// By target and origin, what the index cannot represent, because it has one end for both origins.
    apart: HashMap<Target, Tops>,
}

/// In the order of [`crate::authz::revocation::Origin`].
type Tops = [Option<Top>; 2];

/// What the entries of a target and an origin state together.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Top {
    watermark: Watermark,
    /// In whole seconds, rounded up, as in the index.
    end: u32,
    /// One entry states all of it.
    by_one_entry: bool,
}

impl KnownEntries {
    pub(super) fn new(needed: Duration) -> Self {
        Self { needed, ..Self::default() }
    }

    pub(super) const fn needed(&self) -> Duration {
        self.needed
    }

    /// Adds an entry. Reasons are not compared.
    pub(super) fn note(&mut self, entry: &Revocation, uptime: Duration) {
        let stated = self.stated(entry);
        let mut tops = self.tops(&entry.target);
        let top = &mut tops[entry.origin as usize];
        *top = Some(top.map_or(stated, |top| top.with(stated)));
        let end = tops.iter().flatten().map(|top| top.end).max();
        if tops.iter().flatten().all(|top| top.by_one_entry && Some(top.end) == end) {
            self.apart.remove(&entry.target);
        } else {
            self.apart.insert(entry.target.clone(), tops);
        }
        let (target, watermark, origin) = (entry.target.clone(), entry.watermark, entry.origin);
        let merged = Revocation { target, watermark, expires_at: seconds(stated.end), origin, note: None };
        self.merged.apply(&merged, uptime);
    }

    /// Whether one entry covers it.
    pub(super) fn knows(&self, entry: &Revocation) -> bool {
        let top = self.tops(&entry.target)[entry.origin as usize];
        top.is_some_and(|top| top.by_one_entry && top.with(self.stated(entry)) == top)
    }

    /// The entry together with what is there of its target and origin, with all that this states in its fields.
    pub(super) fn with(&self, mut entry: Revocation) -> Revocation {
        let stated = self.stated(&entry);
        let joined = self.tops(&entry.target)[entry.origin as usize].map_or(stated, |top| top.with(stated));
        entry.watermark = joined.watermark;
        if whole_seconds(entry.expires_at) < joined.end {
            entry.expires_at = seconds(joined.end);
        }
        entry
    }

    /// The number of targets.
    pub(super) fn len(&self) -> usize {
        self.merged.counts().into_iter().sum()
    }

    /// See [`RevocationIndex::purge`].
    pub(super) fn purge(&mut self, now: Timestamp, leeway: Duration, uptime: Duration, hold: Duration) {
        if self.merged.purge(now, leeway, uptime, hold) > 0 {
            self.apart.retain(|target, _| self.merged.has(target));
        }
    }

    fn tops(&self, target: &Target) -> Tops {
        if let Some(tops) = self.apart.get(target) {
            return *tops;
        }
        let mut tops = Tops::default();
        for known in self.merged.of(target) {
            let end = whole_seconds(known.expires_at);
            tops[known.origin as usize] = Some(Top { watermark: known.watermark, end, by_one_entry: true });
        }
        tops
    }

    /// What an entry states by itself, in the log in which it was first. An instance goes by the end that was written for a
    /// token alone, and otherwise by the instant and the time of writing, too.
    fn stated(&self, entry: &Revocation) -> Top {
        let end = if matches!(entry.target.kind, Kind::Token | Kind::Registration) {
            entry.expires_at
        } else {
            let instant = Some(entry.watermark).filter(|instant| *instant != Watermark::FOREVER);
            let written = entry.note.as_ref().map(|note| note.since);
            let from = instant.map(Watermark::instant).max(written).unwrap_or_default();
            from.plus(self.needed).max(entry.expires_at)
        };
        Top { watermark: entry.watermark, end: whole_seconds(end), by_one_entry: true }
    }
}

impl Top {
    fn with(self, other: Self) -> Self {
        let (watermark, end) = (self.watermark.max(other.watermark), self.end.max(other.end));
        let by_one_entry = [self, other].into_iter().any(|top| top == Self { watermark, end, by_one_entry: true });
        Self { watermark, end, by_one_entry }
    }
}

fn whole_seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_secs_ceil().max(0)).unwrap_or(u32::MAX)
}

fn seconds(end: u32) -> Timestamp {
    Timestamp::from_secs(i64::from(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::claims::IssuerName;
    use crate::authz::revocation::{Note, Origin, TargetId};

    const OUT: Origin = Origin::SignedOut;
    const BY_ADMIN: Origin = Origin::Revoked;
    const EVER: i64 = i64::MAX;

    fn entry(origin: Origin, at: i64, end: i64) -> Revocation {
        let target = Target::new(IssuerName::parse("main").unwrap(), Kind::User, TargetId::new("u"));
        let watermark = if at == EVER { Watermark::FOREVER } else { Watermark::at(Timestamp::from_secs(at)) };
        Revocation { target, watermark, expires_at: Timestamp::from_secs(end), origin, note: None }
    }

    fn written(at: i64, entry: Revocation) -> Revocation {
        let note = Note { since: Timestamp::from_secs(at), by: None, reason: None };
        Revocation { note: Some(Box::new(note)), ..entry }
    }

    /// Each row: what is noted one after the other, and whether one of those before covered it.
    #[test]
    fn an_entry_is_known_by_one_that_covers_it() {
        for row in [
            &[(OUT, 5, 9, false), (OUT, 5, 9, true), (OUT, 4, 9, true), (OUT, 6, 10, false), (OUT, 5, 9, true)][..],
            // The later instant and the later end are of two entries; then of one.
            &[(OUT, 9, 20, false), (OUT, 5, 30, false), (OUT, 9, 20, false), (OUT, 9, 30, false), (OUT, 5, 30, true)],
            // An end is that of one origin.
            &[(OUT, 5, 9, false), (BY_ADMIN, 4, 20, false), (OUT, 5, 15, false), (BY_ADMIN, 4, 20, true)],
            &[(OUT, 5, 9, false), (OUT, 5, i64::from(u32::MAX) + 7, false), (OUT, 5, i64::MAX, true)],
        ] {
            let mut known = KnownEntries::default();
            for (origin, at, end, is_known) in row {
                let entry = entry(*origin, *at, *end);
                assert_eq!(known.knows(&entry), *is_known, "{at} {end}: {row:?}");
                known.note(&entry, Duration::ZERO);
            }
            assert_eq!(known.len(), 1);
        }
    }

    /// In whichever order the entries of a target are read, one entry that covers all follows, and then nothing more.
    #[test]
    fn entries_that_do_not_cover_each_other_become_one() {
        let mut known = KnownEntries::default();
        for at in 0..1_000 {
            known.note(&entry(OUT, at, 2_000 - at), Duration::ZERO);
        }
        assert_eq!(known.apart.len(), 1);
        let all = known.with(entry(OUT, 7, 8));
        assert_eq!(all, entry(OUT, 999, 2_000));
        known.note(&all, Duration::ZERO);
        assert!(known.apart.is_empty() && (0..1_000).all(|at| known.knows(&entry(OUT, at, 2_000 - at))));
        assert_eq!(known.with(entry(BY_ADMIN, 1, 1)), entry(BY_ADMIN, 1, 1), "of another origin");
        known.purge(Timestamp::from_secs(9_000), Duration::ZERO, Duration::from_secs(9_000), Duration::from_secs(1));
        assert_eq!((known.len(), known.apart.len()), (0, 0));
    }

    #[test]
    fn an_end_counts_as_an_instance_takes_it() {
        let mut known = KnownEntries::new(Duration::from_secs(100));
        known.note(&written(1_000, entry(OUT, EVER, 1_010)), Duration::ZERO);
        assert!(known.knows(&written(1_000, entry(OUT, EVER, 1_100))), "as long as it is needed");
        let later = written(1_001, entry(OUT, EVER, 1_010));
        assert!(!known.knows(&later), "the same fields, written later");
        let copy = known.with(later.clone());
        assert_eq!(copy, written(1_001, entry(OUT, EVER, 1_101)), "it states itself what is assumed");
        known.note(&copy, Duration::ZERO);
        assert!(known.knows(&later) && known.knows(&written(1_000, entry(OUT, EVER, 1_101))));
        assert!(!known.knows(&written(1_000, entry(OUT, EVER, 1_102))));
        // An instant that is later than the writing counts, and does not go when the entry is merged.
        let mut known = KnownEntries::new(Duration::from_secs(100));
        known.note(&written(1_000, entry(OUT, 1_500, 0)), Duration::ZERO);
        assert!(known.knows(&written(1_000, entry(OUT, 1_000, 1_600))));
        let joined = known.with(written(1_001, entry(OUT, EVER, 0)));
        assert_eq!(joined, written(1_001, entry(OUT, EVER, 1_600)));
        // A token ends as it is written.
        let token = |end| {
            let entry = written(1_000, entry(OUT, EVER, end));
            Revocation { target: Target { kind: Kind::Token, ..entry.target.clone() }, ..entry }
        };
        known.note(&token(1_010), Duration::ZERO);
        assert!(known.knows(&token(1_010)) && !known.knows(&token(1_011)));
    }
}
