//! Revocations that this process has not yet seen in the store: being written, refused, or acknowledged
//! and not read back yet.
//!
//! A 2xx is a promise. Until the log shows the entry, only this process can notice that the store lost
//! it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{Origin, Revocation, Target};
use crate::clock::Steady;

/// Revocations of this process that were not seen in the log yet.
#[derive(Default)]
pub(super) struct Unsaved {
    state: Mutex<Waiting>,
    /// The limit was exceeded: absence from this list does not mean stored any more.
    overflowed: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    by_target: HashMap<(Target, Origin), Entry>,
    /// The number of acknowledged entries.
    acknowledged: usize,
}

struct Entry {
    revocation: Revocation,
    since: Steady,
    /// The entry was read from the log.
    is_read: bool,
    acknowledged: Option<Steady>,
}

impl Entry {
    fn is_in(&self, stored: &Revocation) -> bool {
        self.revocation.watermark <= stored.watermark && self.revocation.expires_at <= stored.expires_at
    }
}

impl Unsaved {
    /// The most revocations; further ones are not kept for a retry, and their callers got an error.
    const MAX: usize = 100_000;

    /// `over`: revocations that expired before then are no longer offered.
    pub(super) fn insert(&self, revocations: &[Revocation], over: Timestamp) {
        let mut state = self.lock();
        if state.by_target.len() + revocations.len() > Self::MAX {
            state.retain(|entry| entry.revocation.expires_at > over);
        }
        let Waiting { by_target, acknowledged } = &mut *state;
        for revocation in revocations {
            let key = (revocation.target.clone(), revocation.origin);
            let Some(entry) = by_target.get_mut(&key) else {
                if by_target.len() < Self::MAX {
                    let revocation = revocation.clone();
                    let entry = Entry { revocation, since: Steady::now(), is_read: false, acknowledged: None };
                    by_target.insert(key, entry);
                } else {
                    self.overflowed.store(true, Ordering::Relaxed);
                }
                continue;
            };
            let known = &mut entry.revocation;
            if revocation.watermark > known.watermark || revocation.expires_at > known.expires_at {
                known.watermark = known.watermark.max(revocation.watermark);
                known.expires_at = known.expires_at.max(revocation.expires_at);
                entry.is_read = false;
                *acknowledged -= usize::from(entry.acknowledged.take().is_some());
            }
        }
    }

    /// Marks these as written; a later revocation of the same target is not.
    pub(super) fn acknowledge(&self, written: &[Revocation]) {
        self.lock().change(written.iter(), |entry| entry.acknowledged = Some(Steady::now()));
    }

    /// Marks these as read from the log.
    pub(super) fn read_back<'a>(&self, revocations: impl Iterator<Item = &'a Revocation>) {
        self.lock().change(revocations, |entry| entry.is_read = true);
    }

    /// Whether an entry that was acknowledged before `start` is missing from a log that was read to its end from
    /// `start` on.
    pub(super) fn lacks(&self, start: Steady) -> bool {
        let state = self.lock();
        let is_lost = |entry: &Entry| entry.acknowledged.is_some_and(|at| at < start);
        state.acknowledged > 0 && state.by_target.values().any(is_lost)
    }

    pub(super) fn forget_acknowledged(&self) {
        self.lock().retain(|entry| entry.acknowledged.is_none());
    }

    /// Whether the store may lack it.
    pub(super) fn holds(&self, revocation: &Revocation) -> bool {
        let key = (revocation.target.clone(), revocation.origin);
        self.overflowed.load(Ordering::Relaxed)
            || self.lock().by_target.get(&key).is_some_and(|entry| entry.acknowledged.is_none())
    }

    /// Whether the store may lack one under this name.
    pub(super) fn has_any_of(&self, name: &IssuerName) -> bool {
        let state = self.lock();
        let is_of = |entry: &Entry| entry.acknowledged.is_none() && entry.revocation.target.issuer == *name;
        self.overflowed.load(Ordering::Relaxed) || state.by_target.values().any(is_of)
    }

    /// The entries that have waited longer than the duration of a write.
    pub(super) fn waiting(&self, longer_than: Duration, over: Timestamp) -> Vec<Revocation> {
        let mut state = self.lock();
        // Acknowledged entries will be read back from the log.
        state.retain(|entry| entry.acknowledged.is_some() || entry.revocation.expires_at > over);
        let waits = |entry: &&Entry| entry.acknowledged.is_none() && entry.since.elapsed() > longer_than;
        state.by_target.values().filter(waits).map(|entry| entry.revocation.clone()).collect()
    }

    /// The number of entries that are not acknowledged by the store.
    pub(super) fn len(&self) -> usize {
        let state = self.lock();
        state.by_target.len() - state.acknowledged
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Changes the matching entries; an entry that is acknowledged and read is removed.
    fn change<'a>(&mut self, stored: impl Iterator<Item = &'a Revocation>, change: impl Fn(&mut Entry)) {
        for stored in stored {
            if self.by_target.is_empty() {
                return; // Nearly always, so nearly always no hash is computed.
            }
            let key = (stored.target.clone(), stored.origin);
            let Some(entry) = self.by_target.get_mut(&key).filter(|entry| entry.is_in(stored)) else { continue };
            let was_acknowledged = entry.acknowledged.is_some();
            change(entry);
            match (entry.acknowledged.is_some(), entry.is_read) {
                (true, true) => {
                    self.by_target.remove(&key);
                    self.acknowledged -= usize::from(was_acknowledged);
                }
                (is_acknowledged, _) => self.acknowledged += usize::from(is_acknowledged && !was_acknowledged),
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.by_target.retain(|_, entry| keep(entry));
        self.acknowledged = self.by_target.values().filter(|entry| entry.acknowledged.is_some()).count();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::revocation::{Kind, TargetId, Watermark};

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn sign_out(expires: i64) -> [Revocation; 1] {
        let target = Target::new(IssuerName::parse("main").unwrap(), Kind::Token, TargetId::new("j"));
        let expires_at = Timestamp::from_millis(expires);
        let origin = Origin::SignedOut;
        [Revocation { target, watermark: Watermark::FOREVER, expires_at, origin, note: None }]
    }

    #[test]
    fn a_write_is_forgotten_only_after_it_was_acknowledged_and_read_back() {
        let (later, soon) = (sign_out(3_000_000), sign_out(2_000_000));
        let unsaved = Unsaved::default();
        let lacks = || unsaved.lacks(Steady::now() + Duration::from_secs(1));
        unsaved.insert(&later, NOW);
        assert!(unsaved.holds(&later[0]) && !lacks(), "nobody was promised anything yet");
        let before = Steady::now();
        unsaved.acknowledge(&later);
        assert!(!unsaved.holds(&later[0]) && lacks());
        assert!(!unsaved.lacks(before), "read before");
        unsaved.read_back(soon.iter());
        assert!(lacks(), "an entry that ends earlier is not it");
        unsaved.read_back(later.iter());
        assert!(!lacks() && unsaved.len() == 0);
        // Read before the acknowledgement arrives here.
        unsaved.insert(&soon, NOW);
        unsaved.read_back(soon.iter());
        assert!(unsaved.holds(&soon[0]), "stored, but perhaps not on as many replicas as are needed");
        unsaved.acknowledge(&soon);
        assert!(!lacks() && !unsaved.holds(&soon[0]));
        // Revoked again, for longer, while the first entry is on its way.
        unsaved.insert(&soon, NOW);
        unsaved.acknowledge(&soon);
        unsaved.insert(&later, NOW);
        unsaved.read_back(soon.iter());
        assert!(unsaved.holds(&later[0]) && !lacks());
        unsaved.forget_acknowledged();
        assert_eq!(unsaved.len(), 1);
        assert!(unsaved.waiting(Duration::ZERO, NOW.plus(Duration::from_secs(5000))).is_empty(), "expired");
        let over = sign_out(999_999);
        unsaved.insert(&over, NOW);
        unsaved.acknowledge(&over);
        assert!(unsaved.waiting(Duration::ZERO, NOW).is_empty() && lacks(), "written, and not read back");
    }
}
