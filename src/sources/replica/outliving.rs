//! Entries that outlive their place in the log.
//!
//! Every entry of the index is in the log, because the log is kept for longer than an entry lives. But another writer
//! may name an end or a watermark far ahead, and the store's clock may have dated an entry too early: such a
//! revocation is still applied here when its entry has been trimmed, and must be written again if it is requested
//! again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::super::ledger::Position;
use crate::authz::claims::Timestamp;
use crate::authz::revocation::{Revocation, Target};

/// The newest such entry of each target.
#[derive(Default)]
pub(super) struct Outliving {
    newest: Mutex<HashMap<Target, (Timestamp, Revocation)>>,
    /// The limit was exceeded.
    overflowed: AtomicBool,
}

impl Outliving {
    /// The most entries; beyond them no revocation counts as being in the log.
    const MAX: usize = 65_536;

    /// Records an entry that was read. `keeps`: the time for which the log keeps it, counted from its id or from
    /// `set_at`, if that is later.
    pub(super) fn note(&self, position: Position, entry: &Revocation, keeps: Duration, set_at: Timestamp) {
        let written_at = Timestamp::from_millis(i64::try_from(position.millis).unwrap_or(i64::MAX));
        let mut newest = self.newest();
        if entry.expires_at <= written_at.max(set_at).plus(keeps) && !newest.contains_key(&entry.target) {
            return; // Nearly all entries.
        }
        if newest.len() < Self::MAX || newest.contains_key(&entry.target) {
            newest.insert(entry.target.clone(), (written_at, Revocation { note: None, ..entry.clone() }));
        } else {
            self.overflowed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether an applied revocation is in a log that has every entry written after `kept`.
    pub(super) fn is_logged(&self, revocation: &Revocation, kept: Timestamp) -> bool {
        !self.overflowed.load(Ordering::Relaxed)
            && self.newest().get(&revocation.target).is_none_or(|(written_at, entry)| {
                *written_at > kept
                    && entry.origin == revocation.origin
                    && entry.watermark >= revocation.watermark
                    && entry.expires_at >= revocation.expires_at
            })
    }

    pub(super) fn retain(&self, is_known: impl Fn(&Target) -> bool) {
        self.newest().retain(|target, _| is_known(target));
    }

    fn newest(&self) -> std::sync::MutexGuard<'_, HashMap<Target, (Timestamp, Revocation)>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::claims::IssuerName;
    use crate::authz::revocation::{Kind, Origin, TargetId, Watermark};

    const KEEPS: Duration = Duration::from_secs(100);

    fn sign_out(id: &str, expires: i64) -> Revocation {
        let target = Target::new(IssuerName::parse("main").unwrap(), Kind::Session, TargetId::new(id));
        let expires_at = Timestamp::from_secs(expires);
        Revocation { target, watermark: Watermark::FOREVER, expires_at, origin: Origin::SignedOut, note: None }
    }

    #[test]
    fn a_revocation_is_in_the_log_while_its_entry_is() {
        let outliving = Outliving::default();
        let note = |second: u64, entry: &Revocation, set_at| {
            let position = Position { millis: second * 1_000, sequence: 0 };
            outliving.note(position, entry, KEEPS, Timestamp::from_secs(set_at));
        };
        let is_logged = |entry: &Revocation, kept| outliving.is_logged(entry, Timestamp::from_secs(kept));
        let (usual, long) = (sign_out("usual", 1_100), sign_out("long", 5_000));
        note(1_000, &usual, 0);
        note(1_000, &long, 0);
        assert!(is_logged(&usual, 1_050), "it has expired before the log lacks it");
        assert!(is_logged(&long, 999) && !is_logged(&long, 1_000));
        // Written again, with a shorter end.
        note(1_200, &sign_out("long", 1_250), 0);
        assert!(!is_logged(&long, 1_100) && is_logged(&sign_out("long", 1_250), 1_100));
        note(1_300, &long, 0);
        assert!(is_logged(&long, 1_200));
        assert!(!is_logged(&Revocation { origin: Origin::Revoked, ..long.clone() }, 1_200));
        // Kept from the time at which the clock was set.
        note(1_000, &sign_out("set", 1_500), 1_400);
        assert!(is_logged(&sign_out("set", 1_500), 1_450));
        outliving.retain(|_| false);
        assert!(is_logged(&long, 2_000));
    }
}
