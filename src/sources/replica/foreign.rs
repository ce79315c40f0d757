//! Entries of issuers that are not configured here: applied, since a reload may bring the issuer, and told, since
//! more likely a writer names another one than it means.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::ledger::FeedItem;
use super::Replica;
use super::stats::ReplicaStats;
use crate::authz::claims::IssuerName;

/// The issuers of the configuration in force; empty before it is known.
#[derive(Default)]
pub(super) struct Configured {
    issuers: Mutex<Arc<[IssuerName]>>,
    is_warned: AtomicBool,
}

impl Replica {
    /// Whose revocations can hit a token here.
    pub fn expect_issuers(&self, names: Vec<IssuerName>) {
        *self.configured.issuers.lock().unwrap_or_else(PoisonError::into_inner) = names.into();
        self.configured.is_warned.store(false, Ordering::Relaxed);
    }

    pub(super) fn count_foreign(&self, items: &[FeedItem]) {
        let configured = Arc::clone(&self.configured.issuers.lock().unwrap_or_else(PoisonError::into_inner));
        if configured.is_empty() {
            return;
        }
        let issuers = items.iter().filter_map(|item| item.revocation.as_ref().ok()).map(|found| &found.target.issuer);
        let mut foreign = issuers.filter(|issuer| !configured.contains(issuer)).peekable();
        let Some(issuer) = foreign.peek() else { return };
        if !self.configured.is_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(%issuer, "log entries name an issuer that is not configured: they refuse nothing here");
        }
        ReplicaStats::add(&self.stats.foreign, foreign.count());
    }
}
