//! Entries of issuers that are not configured here: they are applied, because a reload may add the issuer, and logged,
//! because a wrong name is more likely. And keys without an entry: a key alone does not reach the instances.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::super::ledger::{FeedItem, RedisLedger};
use super::Replica;
use crate::authz::claims::IssuerName;
use crate::authz::revocation::Target;
use crate::clock::Steady;

/// The issuers of the configuration in force; empty before they are set.
#[derive(Default)]
pub(super) struct Configured {
    issuers: Mutex<Arc<[IssuerName]>>,
    is_warned: AtomicBool,
    is_warned_of_keys: AtomicBool,
}

impl Replica {
    /// The issuers whose revocations can refuse a token here.
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
            tracing::warn!(%issuer, "log entries name an issuer that is not configured: they have no effect here");
        }
        self.stats.foreign.inc_by(foreign.count() as u64);
    }
    /// Searches for keys without an entry soon after the first read, then every ten minutes; for ever.
    ///
    /// A key and its entry are written together, so a key whose revocation is not applied after a later complete
    /// read has no entry. If SCAN is not permitted, nothing is counted.
    pub(super) async fn watch_keys(&self, ledger: &RedisLedger) {
        const EVERY: Duration = Duration::from_secs(600);
        const LOOK: Duration = Duration::from_secs(1);
        let mut counted = 0;
        loop {
            sleep(LOOK).await;
            if self.freshness.log_age(Steady::now()).is_none() {
                continue;
            }
            let is_known = |target: &Target| self.index.find([target], None).is_some();
            if let Ok(strays) = ledger.stray_keys(is_known).await {
                let scanned = Steady::now();
                while !strays.is_empty()
                    && self.freshness.log_age(Steady::now()).is_none_or(|age| age >= scanned.elapsed())
                {
                    sleep(LOOK).await;
                }
                let found = strays.iter().filter(|stray| !stray.as_ref().is_some_and(is_known)).count();
                self.note_strays(found, counted);
                counted = found;
            }
            sleep(EVERY).await;
        }
    }

    fn note_strays(&self, found: usize, counted: usize) {
        self.stats.foreign.inc_by(found.saturating_sub(counted) as u64);
        if found > 0 && !self.configured.is_warned_of_keys.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                keys = found,
                "keys of revocations have no entry in the log, or are written in quotes or serialised: instances do \
                 not apply them; write key and entry in one transaction, as plain text"
            );
        }
    }
}
