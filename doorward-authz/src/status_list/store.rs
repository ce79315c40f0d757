//! The lists that this process has, for decisions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::StatusList;
use crate::claims::{IssuerName, Timestamp};

/// The verified lists, by issuer and URI: shared by all tokens that refer to them. Who adds to it bounds it.
///
/// Times are readings of one monotonic clock, which counts a machine's suspension.
#[derive(Default)]
pub struct StatusLists {
    lists: RwLock<HashMap<IssuerName, HashMap<Arc<str>, Entry>>>,
}

struct Entry {
    stored: StoredList,
    /// The reading at the last look, in milliseconds.
    used: AtomicU64,
}

/// A verified list.
#[derive(Clone, Debug)]
pub struct StoredList {
    pub list: Arc<StatusList>,
    pub issued_at: Timestamp,
    /// The end of its validity as its issuer wrote it.
    pub expires_at: Option<Timestamp>,
    /// When the request began that brought it: nothing that was published before can be missing.
    pub fetched: Duration,
}

impl StoredList {
    /// Whether the list is current: fetched within `max_stale`, and not expired.
    #[must_use]
    pub fn is_fresh(&self, max_stale: Duration, leeway: Duration, uptime: Duration, now: Timestamp) -> bool {
        uptime.saturating_sub(self.fetched) <= max_stale && self.expires_at.is_none_or(|at| now < at.plus(leeway))
    }
}

impl StatusLists {
    /// The list of an issuer at this URI; notes its use.
    #[must_use]
    pub fn find(&self, issuer: &IssuerName, uri: &str, uptime: Duration) -> Option<StoredList> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        let entry = lists.get(issuer)?.get(uri)?;
        entry.used.store(millis(uptime), Ordering::Relaxed);
        Some(entry.stored.clone())
    }

    /// Stores a list, instead of the one that is stored; `false`, and nothing changes, if that one was issued later: a
    /// cache on the way may have returned an old copy, which would take a revocation back.
    pub fn store(&self, issuer: &IssuerName, uri: &Arc<str>, stored: StoredList) -> bool {
        let mut lists = self.lists.write().unwrap_or_else(PoisonError::into_inner);
        let of_issuer = lists.entry(issuer.clone()).or_default();
        match of_issuer.get_mut(uri) {
            Some(known) if known.stored.issued_at > stored.issued_at => return false,
            Some(known) => known.stored = stored,
            None => {
                let used = AtomicU64::new(millis(stored.fetched));
                of_issuer.insert(uri.clone(), Entry { stored, used });
            }
        }
        true
    }

    /// Drops the lists that do not stay: `stays` is given the issuer, the URI and the time of the last use.
    pub fn retain(&self, mut stays: impl FnMut(&IssuerName, &Arc<str>, Duration) -> bool) {
        let mut lists = self.lists.write().unwrap_or_else(PoisonError::into_inner);
        for (issuer, of_issuer) in lists.iter_mut() {
            of_issuer
                .retain(|uri, entry| stays(issuer, uri, Duration::from_millis(entry.used.load(Ordering::Relaxed))));
        }
        lists.retain(|_, of_issuer| !of_issuer.is_empty());
    }

    /// The URIs of an issuer's lists, each with the time of its last use.
    #[must_use]
    pub fn of(&self, issuer: &IssuerName) -> Vec<(Arc<str>, Duration)> {
        let lists = self.lists.read().unwrap_or_else(PoisonError::into_inner);
        let used = |entry: &Entry| Duration::from_millis(entry.used.load(Ordering::Relaxed));
        lists.get(issuer).into_iter().flatten().map(|(uri, entry)| (uri.clone(), used(entry))).collect()
    }
}

fn millis(uptime: Duration) -> u64 {
    u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)
}
