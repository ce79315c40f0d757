//! The refusals of the last minutes, counted by reason, rule and issuer, with some of them explained.
//!
//! Every part has a bound, and no content of a request shapes a key: reasons are Doorward's own, rules and issuers are
//! configured. A refusal costs one short lock; an allowed request does not come here.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::denial::Denial;

/// The key by which refusals are counted.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RefusalKind {
    pub reason: Denial,
    pub rule: Arc<str>,
    /// The issuer that the token names, if it is configured.
    pub issuer: Option<IssuerName>,
    /// False: the rule is on trial (`enforce: false`) and let the request pass.
    pub enforced: bool,
}

/// A refusal that was explained.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Counts from 1 in this process.
    pub id: u64,
    pub at: Timestamp,
    pub kind: RefusalKind,
    /// The fault of the token, for an operator.
    pub detail: Option<Box<str>>,
    /// `x-request-id`, if it is letters, digits and hyphens.
    pub request_id: Option<Box<str>>,
    /// The client's address as the proxy reports it.
    pub source: Option<IpAddr>,
    /// The checks as `explain` shows them, cut.
    pub checks: Value,
}

/// The refusals of one kind.
#[derive(Clone, Debug)]
pub struct RefusalCount {
    pub kind: RefusalKind,
    /// In [`Refusals::SLOT`]s, the oldest first, the running one last.
    pub slots: Vec<u32>,
}

impl RefusalCount {
    /// How many there were in the window.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.slots.iter().copied().map(u64::from).sum()
    }
}

/// Counts and explained refusals of a process.
pub struct Refusals {
    started: Instant,
    /// Grows with every refusal.
    changes: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    groups: HashMap<RefusalKind, Group>,
    explained: VecDeque<Arc<Refusal>>,
    last_id: u64,
    /// The running second, and how many were chosen to be explained in it.
    second: (u64, u32),
}

struct Group {
    counts: [u32; Refusals::SLOTS],
    /// The slot that was counted in last.
    slot: u64,
    /// The second in which one was chosen last.
    chosen: Option<u64>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { started: Instant::now(), changes: AtomicU64::new(0), inner: Mutex::default() }
    }
}

impl Refusals {
    /// The length of a slot.
    pub const SLOT: Duration = Duration::from_secs(10);
    /// Ten minutes.
    pub const SLOTS: usize = 60;
    /// The most kinds that are counted; a further kind replaces the one without refusals for longest. 60 KiB of
    /// counts.
    pub const MAX_KINDS: usize = 256;
    /// Explained refusals that are kept, the newest: at most 8 KiB each.
    pub const MAX_EXPLAINED: usize = 256;
    /// The most explanations in one second: each takes as long as some decisions.
    pub const EXPLAINED_PER_SECOND: u32 = 16;

    /// Counts a refusal. True: it is to be explained, and given to [`Self::keep`]; one of each kind in a second is.
    pub fn count(&self, kind: &RefusalKind, now: Instant) -> bool {
        self.changes.fetch_add(1, Ordering::Relaxed);
        let second = now.saturating_duration_since(self.started).as_secs();
        let slot = second / Self::SLOT.as_secs();
        let mut guard = self.inner();
        let inner = &mut *guard;
        if !inner.groups.contains_key(kind) {
            if inner.groups.len() >= Self::MAX_KINDS {
                let quietest = inner.groups.iter().min_by_key(|(_, group)| group.slot).map(|(kind, _)| kind.clone());
                if let Some(kind) = quietest {
                    inner.groups.remove(&kind);
                }
            }
            inner.groups.insert(kind.clone(), Group { counts: [0; Self::SLOTS], slot, chosen: None });
        }
        let (running, chosen) = inner.second;
        let room = running != second || chosen < Self::EXPLAINED_PER_SECOND;
        let Some(group) = inner.groups.get_mut(kind) else { return false };
        group.advance(slot);
        let count = &mut group.counts[index(slot)];
        *count = count.saturating_add(1);
        let chosen_now = room && group.chosen != Some(second);
        if chosen_now {
            group.chosen = Some(second);
            inner.second = (second, if running == second { chosen + 1 } else { 1 });
        }
        chosen_now
    }

    /// Keeps an explained refusal; its `id` is given here.
    pub fn keep(&self, refusal: Refusal) {
        let mut inner = self.inner();
        inner.last_id += 1;
        let refusal = Arc::new(Refusal { id: inner.last_id, ..refusal });
        if inner.explained.len() == Self::MAX_EXPLAINED {
            inner.explained.pop_front();
        }
        inner.explained.push_back(refusal);
        drop(inner);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that is another one after every refusal.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The number of the running slot.
    #[must_use]
    pub fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs() / Self::SLOT.as_secs()
    }

    /// The counts in the window, the most frequent kind first.
    #[must_use]
    pub fn counts(&self, now: Instant) -> Vec<RefusalCount> {
        let slot = self.slot(now);
        let mut inner = self.inner();
        let counted = inner.groups.iter_mut().map(|(kind, group)| {
            group.advance(slot);
            let first = index(slot) + 1; // The oldest stands after the running one.
            let slots = (0..Self::SLOTS).map(|at| group.counts[(first + at) % Self::SLOTS]).collect();
            RefusalCount { kind: kind.clone(), slots }
        });
        let mut counted: Vec<_> = counted.filter(|counted| counted.total() > 0).collect();
        drop(inner);
        counted.sort_by(|a, b| b.total().cmp(&a.total()).then_with(|| a.kind.cmp(&b.kind)));
        counted
    }

    /// The explained refusals, the newest first.
    #[must_use]
    pub fn explained(&self) -> Vec<Arc<Refusal>> {
        self.inner().explained.iter().rev().cloned().collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Group {
    /// Forgets the counts that have left the window.
    fn advance(&mut self, slot: u64) {
        let passed = slot.saturating_sub(self.slot).min(Refusals::SLOTS as u64);
        for behind in 0..passed {
            self.counts[index(slot - behind)] = 0;
        }
        self.slot = self.slot.max(slot);
    }
}

/// Where a slot stands in the ring.
fn index(slot: u64) -> usize {
    usize::try_from(slot % Refusals::SLOTS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(reason: Denial, rule: &str) -> RefusalKind {
        RefusalKind { reason, rule: rule.into(), issuer: IssuerName::parse("main"), enforced: true }
    }

    fn refusal(kind: &RefusalKind) -> Refusal {
        let at = Timestamp::from_secs(1);
        Refusal { id: 0, at, kind: kind.clone(), detail: None, request_id: None, source: None, checks: Value::Null }
    }

    #[test]
    fn the_window_moves_and_forgets() {
        let refusals = Refusals::default();
        let after = |seconds| refusals.started + Duration::from_secs(seconds);
        let (expired, revoked) = (kind(Denial::Expired, "api"), kind(Denial::Revoked, "api"));
        for second in [0, 5, 9, 10, 605] {
            refusals.count(&expired, after(second));
        }
        refusals.count(&revoked, after(605));
        let counts = refusals.counts(after(605));
        assert_eq!(counts.len(), 2);
        // Slot 0 has left the window, in which slot 60 takes its place.
        assert_eq!((counts[0].kind.clone(), counts[0].total()), (expired.clone(), 2));
        assert_eq!((counts[0].slots[0], counts[0].slots[59]), (1, 1));
        assert_eq!(refusals.counts(after(605 + 590))[0].total(), 1);
        assert!(refusals.counts(after(5000)).is_empty());
    }

    #[test]
    fn kinds_and_explanations_have_a_bound() {
        let refusals = Refusals::default();
        let start = refusals.started;
        let kinds: Vec<_> = (0..1000).map(|number| kind(Denial::Expired, &format!("rule-{number}"))).collect();
        let chosen = kinds.iter().filter(|kind| refusals.count(kind, start)).count();
        assert_eq!(u32::try_from(chosen).unwrap(), Refusals::EXPLAINED_PER_SECOND);
        assert_eq!(refusals.counts(start).len(), Refusals::MAX_KINDS);
        // One of a kind is explained in a second.
        let later = start + Duration::from_secs(7);
        assert!(refusals.count(&kinds[0], later) && !refusals.count(&kinds[0], later));
        assert!(refusals.count(&kinds[0], later + Duration::from_secs(1)));
        for _ in 0..300 {
            refusals.keep(refusal(&kinds[0]));
        }
        let kept = refusals.explained();
        assert_eq!((kept.len(), kept[0].id, kept[255].id), (Refusals::MAX_EXPLAINED, 300, 45));
    }
}
