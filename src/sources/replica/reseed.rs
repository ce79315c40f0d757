//! Writes revocations back to a store that has lost them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::super::ledger::{LedgerError, Position, RedisLedger};
use super::Replica;
use super::stats::{Operation, gauge};
use crate::authz::revocation::{Revocation, RevocationIndex, TargetId};
use crate::clock::Steady;

/// Revocations per append, and more of one target.
const BATCH: usize = 256;
/// Entries that are visited before yielding to other tasks.
const STRIDE: usize = 1024;
/// The interval of renewing the announcement.
const ASSURE_EVERY: Duration = Duration::from_secs(1);
/// The interval of checks whether a peer has finished, or the store accepts writes again.
const PAUSE: Duration = Duration::from_millis(100);
/// The interval of retries of refused revocations.
const OFFER_EVERY: Duration = Duration::from_secs(1);
/// The longest wait until this process has read the entries that a peer wrote back.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A loss in the log, while it is being repaired.
pub(super) struct Loss {
    /// The entries that have been seen in the log since.
    seen: Arc<RevocationIndex>,
    /// The log has been read from its start: an entry that was not seen is missing.
    is_known: bool,
}

impl Replica {
    /// Records that applied entries may be missing from the log; call it before the log is read from its start.
    pub(super) fn note_loss(&self) {
        self.unsaved.forget_acknowledged(); // From here on they are compared with the log like all entries.
        *self.loss() = Some(Loss { seen: Arc::default(), is_known: false });
        self.loss_noted.notify_one();
    }

    /// The log has been read from its start.
    pub(super) fn loss_is_known(&self) {
        if let Some(loss) = &mut *self.loss() {
            loss.is_known = true;
            self.loss_noted.notify_one();
        }
    }

    /// The record of entries in the log; `None` without a loss.
    pub(super) fn seen(&self) -> Option<Arc<RevocationIndex>> {
        self.loss().as_ref().map(|loss| Arc::clone(&loss.seen))
    }

    /// Retries refused revocations, and writes lost ones back.
    pub(super) async fn keep_stored(&self, ledger: &RedisLedger) {
        loop {
            let _ = timeout(OFFER_EVERY, self.loss_noted.notified()).await;
            let loss = self.loss().as_ref().map(|loss| (Arc::clone(&loss.seen), loss.is_known));
            match loss {
                Some((seen, true)) => self.put_back(ledger, &seen).await,
                // Reading the log may take longer than an announcement lasts.
                Some((_, false)) => drop(ledger.keep_repairing(&self.name).await),
                None if self.cannot_add().is_some() => self.renew_log(ledger).await,
                None if self.stats.store_up() && self.is_named().is_ok() => self.offer(ledger).await,
                None => {}
            }
        }
    }

    /// Writes back every entry of the index that is not in the log, unless a peer does it first, or another
    /// loss is found; and the meaning of issuers' names, which a process that starts compares with its own.
    async fn put_back(&self, ledger: &RedisLedger, seen: &Arc<RevocationIndex>) {
        let is_current = |loss: &Loss| Arc::ptr_eq(&loss.seen, seen);
        let mut put_back = 0;
        while self.loss().as_ref().is_some_and(is_current) {
            let began = Steady::now();
            let missing = self.missing(seen).await.iter().map(Vec::len).sum();
            self.stats.reseed_waiting.set(gauge(missing));
            let named = self.restore_names().await;
            if let Err(error) = &named {
                tracing::debug!(%error, "issuers' names not noted again");
            } else if missing == 0 {
                if self.loss().take_if(|loss| is_current(loss)).is_some() {
                    let _ = ledger.end_repairing(&self.name).await; // The announcement expires by itself.
                    tracing::info!(put_back, "revocation store is complete again");
                }
                return;
            }
            match ledger.is_repairer(&self.name).await {
                Ok(true) => match self.write_missing(ledger, seen).await {
                    Ok(written) => {
                        put_back += written;
                        if named.is_ok() {
                            continue;
                        }
                    }
                    Err(error) => tracing::debug!(%error, "revocations not written back"),
                },
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "repair not announced"),
            }
            sleep(PAUSE.max(began.elapsed() * 4).min(ASSURE_EVERY)).await; // The cost of a check grows with the index.
        }
    }

    async fn write_missing(&self, ledger: &RedisLedger, seen: &RevocationIndex) -> Result<usize, LedgerError> {
        // A peer that began earlier may have written all of them.
        self.reach(ledger.end().await?).await;
        let batches = self.missing(seen).await;
        let (mut written, mut waiting) = (0, batches.iter().map(Vec::len).sum::<usize>());
        let mut assured = Steady::now();
        for batch in &batches {
            if assured.elapsed() >= ASSURE_EVERY {
                if !ledger.is_repairer(&self.name).await? {
                    return Ok(written); // Another instance has taken over, because this one was too slow.
                }
                assured = Steady::now();
            }
            let dated: Vec<_> = batch.iter().map(|entry| ledger.dated(entry)).collect();
            let appended = ledger.append(&dated).await;
            self.stats.count(Operation::Reseed, appended.as_ref().map(drop));
            appended?;
            for revocation in batch {
                seen.apply(revocation, Steady::now().uptime());
            }
            self.stats.reseeded.inc_by(batch.len() as u64);
            (written, waiting) = (written + batch.len(), waiting - batch.len());
            self.stats.reseed_waiting.set(gauge(waiting));
        }
        Ok(written)
    }

    /// The entries that are not in the log, in batches to append. An entry ends by the time at which it was appended; the
    /// revocations of one target under several names must end together, so all of them are in one batch, missing or not.
    async fn missing(&self, seen: &RevocationIndex) -> Vec<Vec<Revocation>> {
        let mut missing: HashMap<TargetId, Vec<Revocation>> = HashMap::new();
        // What it has not written under names that conflict with the store's notes, it does not put back either.
        let is_unfit = |known: &Revocation| self.is_named().is_err() && self.unsaved.holds(known);
        // Expired entries are put back, too, while they are in the index: a starting instance's clock may be behind.
        self.each_entry(|known| {
            if !seen.knows(&known) && !is_unfit(&known) {
                missing.entry(known.target.id).or_default();
            }
        })
        .await;
        if !missing.is_empty() {
            self.each_entry(|known| {
                if let Some(of_target) = missing.get_mut(&known.target.id).filter(|_| !is_unfit(&known)) {
                    of_target.push(known);
                }
            })
            .await;
        }
        let mut batches: Vec<Vec<Revocation>> = Vec::new();
        for of_target in missing.into_values() {
            match batches.last_mut().filter(|batch| batch.len() + of_target.len() <= BATCH) {
                Some(batch) => batch.extend(of_target),
                None => batches.push(of_target),
            }
        }
        batches
    }

    /// Calls this with each entry of the index.
    async fn each_entry(&self, mut call: impl FnMut(Revocation)) {
        for (at, known) in self.index.entries().enumerate() {
            call(known);
            if at % STRIDE == 0 {
                yield_now().await; // Going through a million entries must not block a thread that makes decisions.
            }
        }
    }

    /// Waits until the log has been read up to `end`.
    async fn reach(&self, end: Position) {
        let mut applied = self.applied.subscribe();
        let _ = timeout(CATCH_UP, applied.wait_for(|position| *position >= end)).await;
    }

    /// Retries the revocations that the store refused.
    async fn offer(&self, ledger: &RedisLedger) {
        for batch in self.unsaved.waiting(ledger.config().write_deadline * 2, ledger.offered_after()).chunks(BATCH) {
            let written = ledger.append(batch).await;
            self.stats.count(Operation::Append, written.as_ref().map(drop));
            match written {
                Ok(_) => self.unsaved.acknowledge(batch),
                Err(_) => break,
            }
        }
        self.stats.unsaved.set(gauge(self.unsaved.len()));
    }

    fn loss(&self) -> std::sync::MutexGuard<'_, Option<Loss>> {
        self.loss.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
