//! What the other log says.
//!
//! The index merges the entries of a target: of two that differ in the origin, or of which one has the later instant and the
//! other the later end, the merged one is in no log. An instance that starts when one of them is over does not have it. So
//! the entries of such a target are kept one by one.

use std::collections::HashMap;
use std::time::Duration;

use crate::authz::claims::Timestamp;
use crate::authz::revocation::{Origin, Revocation, RevocationIndex, Target, Watermark};

/// The entries of a log, or of a page.
#[derive(Default)]
pub(super) struct KnownEntries {
    merged: RevocationIndex,
    /// Of targets with several entries that say different things: each of these.
    apart: HashMap<Target, Vec<Said>>,
}

#[derive(Clone, Copy)]
struct Said {
    origin: Origin,
    watermark: Watermark,
    /// In whole seconds, rounded up, as in the index.
    expires: u32,
}

/// The most entries of one target that are kept apart; beyond that, one that is known may be copied again.
const MOST_APART: usize = 64;

impl KnownEntries {
    /// Adds an entry; false if one that is there says as much. Reasons are not compared.
    pub(super) fn note(&mut self, entry: &Revocation, uptime: Duration) -> bool {
        if self.knows(entry) {
            return false;
        }
        let said = Said::by(entry);
        let before: Vec<_> = match self.apart.remove(&entry.target) {
            Some(before) => before,
            None => self.merged.of(&entry.target).iter().map(Said::by).collect(),
        };
        let mut apart: Vec<_> = before.into_iter().filter(|other| !said.says(*other)).collect();
        if !apart.is_empty() {
            apart.truncate(MOST_APART - 1);
            apart.push(said);
            self.apart.insert(entry.target.clone(), apart);
        }
        self.merged.apply(&Revocation { note: None, ..entry.clone() }, uptime);
        true
    }

    pub(super) fn knows(&self, entry: &Revocation) -> bool {
        let says = |apart: &Vec<Said>| apart.iter().any(|said| said.says(Said::by(entry)));
        self.merged.knows(entry) && self.apart.get(&entry.target).is_none_or(says)
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
}

impl Said {
    fn by(entry: &Revocation) -> Self {
        let expires = u32::try_from(entry.expires_at.as_secs_ceil().max(0)).unwrap_or(u32::MAX);
        Self { origin: entry.origin, watermark: entry.watermark, expires }
    }

    /// Whether it says all that the other one does.
    fn says(self, other: Self) -> bool {
        self.origin == other.origin && self.watermark >= other.watermark && self.expires >= other.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::claims::IssuerName;
    use crate::authz::revocation::{Kind, TargetId};

    fn entry(origin: Origin, at: i64, end: i64) -> Revocation {
        let target = Target::new(IssuerName::parse("main").unwrap(), Kind::User, TargetId::new("u"));
        let (watermark, expires_at) = (Watermark::at(Timestamp::from_secs(at)), Timestamp::from_secs(end));
        Revocation { target, watermark, expires_at, origin, note: None }
    }

    /// Each row: what is noted one after the other, and whether it said more than those before.
    #[test]
    fn an_entry_is_known_by_one_that_says_as_much() {
        let (out, by_admin) = (Origin::SignedOut, Origin::Revoked);
        for row in [
            &[(out, 5, 9, true), (out, 5, 9, false), (out, 4, 9, false), (out, 6, 10, true), (out, 5, 9, false)][..],
            // The later instant and the later end are of two entries; none of both.
            &[(out, 9, 20, true), (out, 5, 30, true), (out, 9, 25, true), (out, 9, 20, false), (out, 5, 30, false)],
            &[(out, 9, 20, true), (out, 5, 30, true), (out, 9, 30, true), (out, 8, 30, false), (out, 9, 29, false)],
            // An end is that of one origin.
            &[(out, 5, 9, true), (by_admin, 4, 20, true), (out, 5, 15, true), (by_admin, 4, 20, false)],
            &[(out, 5, 9, true), (out, 5, i64::from(u32::MAX) + 7, true), (out, 5, i64::MAX, false)],
        ] {
            let mut known = KnownEntries::default();
            for (origin, at, end, more) in row {
                let entry = entry(*origin, *at, *end);
                assert_eq!(
                    (known.knows(&entry), known.note(&entry, Duration::ZERO)),
                    (!more, *more),
                    "{at} {end}: {row:?}"
                );
                assert!(known.knows(&entry));
            }
            assert_eq!(known.len(), 1);
        }
        let mut known = KnownEntries::default();
        for at in 0..1_000 {
            known.note(&entry(out, at, 2_000 - at), Duration::ZERO);
        }
        assert_eq!(known.apart.values().map(Vec::len).collect::<Vec<_>>(), [MOST_APART]);
        known.purge(Timestamp::from_secs(9_000), Duration::ZERO, Duration::from_secs(9_000), Duration::from_secs(1));
        assert_eq!((known.len(), known.apart.len()), (0, 0));
    }
}
