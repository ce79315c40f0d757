//! Giving back to the store what this process knows and the store does not have.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::super::ledger::{LedgerError, Position, RedisLedger};
use super::Replica;
use super::stats::{Operation, gauge};
use crate::authz::revocation::{Revocation, RevocationIndex};
use crate::clock::Steady;

/// Revocations given back in one append.
const BATCH: usize = 256;
/// Entries looked at without giving way to other work.
const STRIDE: usize = 1024;
/// Between assurances to those who wait for us.
const ASSURE_EVERY: Duration = Duration::from_secs(1);
/// Between looks at whether a peer has done it, or the store takes writes again.
const PAUSE: Duration = Duration::from_millis(100);
/// Between offers of refused revocations.
const OFFER_EVERY: Duration = Duration::from_secs(1);
/// How long to wait for our own reading of what a peer put back.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A loss in the log, while it is being made good.
pub(super) struct Loss {
    /// The entries that have been seen in the log since.
    seen: Arc<RevocationIndex>,
    /// The log has been read from its start: what was not seen is missing.
    is_known: bool,
}

impl Replica {
    /// Notes that known entries may be missing from the log; to be called before it is read from its start.
    pub(super) fn note_loss(&self) {
        self.unsaved.forget_acknowledged(); // From here on it is looked for with everything else.
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

    /// Where to note what the log holds; `None` unless something was lost.
    pub(super) fn seen(&self) -> Option<Arc<RevocationIndex>> {
        self.loss().as_ref().map(|loss| Arc::clone(&loss.seen))
    }

    /// Offers refused revocations again, and puts back what the store lost.
    pub(super) async fn keep_stored(&self, ledger: &RedisLedger) {
        loop {
            let _ = timeout(OFFER_EVERY, self.loss_noted.notified()).await;
            let loss = self.loss().as_ref().map(|loss| (Arc::clone(&loss.seen), loss.is_known));
            match loss {
                Some((seen, true)) => self.put_back(ledger, &seen).await,
                // Reading the log may take longer than a mark lasts.
                Some((_, false)) => drop(ledger.keep_repairing(&self.name).await),
                None if self.stats.store_up() => self.offer(ledger).await,
                None => {}
            }
        }
    }

    /// Puts back everything that is known here and not in the log, unless a peer does it first, or
    /// another loss is found.
    async fn put_back(&self, ledger: &RedisLedger, seen: &Arc<RevocationIndex>) {
        let is_current = |loss: &Loss| Arc::ptr_eq(&loss.seen, seen);
        let mut put_back = 0;
        while self.loss().as_ref().is_some_and(is_current) {
            let began = Steady::now();
            let missing = self.missing(seen).await.len();
            self.stats.reseed_waiting.set(gauge(missing));
            if missing == 0 {
                if self.loss().take_if(|loss| is_current(loss)).is_some() {
                    let _ = ledger.end_repairing(&self.name).await; // It runs out by itself.
                    tracing::info!(put_back, "revocation store is whole again");
                }
                return;
            }
            match ledger.is_repairer(&self.name).await {
                Ok(true) => match self.write_missing(ledger, seen).await {
                    Ok(written) => {
                        put_back += written;
                        continue;
                    }
                    Err(error) => tracing::debug!(%error, "revocations not put back"),
                },
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "repairing not announced"),
            }
            sleep(PAUSE.max(began.elapsed() * 4).min(ASSURE_EVERY)).await; // Looking costs more the more is known.
        }
    }

    async fn write_missing(&self, ledger: &RedisLedger, seen: &RevocationIndex) -> Result<usize, LedgerError> {
        // A peer that was at it before may have written all of it.
        self.reach(ledger.end().await?).await;
        let missing = self.missing(seen).await;
        let mut assured = Steady::now();
        for (done, batch) in missing.chunks(BATCH).enumerate() {
            if assured.elapsed() >= ASSURE_EVERY {
                if !ledger.is_repairer(&self.name).await? {
                    return Ok(done * BATCH); // We were so slow that another does it now.
                }
                assured = Steady::now();
            }
            let written = ledger.append(batch).await;
            self.stats.count(Operation::Reseed, written.as_ref().map(drop));
            written?;
            for revocation in batch {
                seen.apply(revocation, Steady::now().uptime());
            }
            self.stats.reseeded.inc_by(batch.len() as u64);
            let waiting = missing.len() - (done * BATCH + batch.len());
            self.stats.reseed_waiting.set(gauge(waiting));
        }
        Ok(missing.len())
    }

    async fn missing(&self, seen: &RevocationIndex) -> Vec<Revocation> {
        let mut missing = Vec::new();
        for (at, known) in self.index.entries().enumerate() {
            // What has expired is put back, too, while it is known: an instance may start whose clock is behind.
            if !seen.knows(&known) {
                missing.push(known);
            }
            if at % STRIDE == 0 {
                yield_now().await; // A million entries must not keep a thread from decisions.
            }
        }
        missing
    }

    /// Waits until the log has been read up to `end`.
    async fn reach(&self, end: Position) {
        let mut applied = self.applied.subscribe();
        let _ = timeout(CATCH_UP, applied.wait_for(|position| *position >= end)).await;
    }

    /// Offers again what the store refused.
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
