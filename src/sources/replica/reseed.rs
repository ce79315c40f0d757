//! Giving back to the store what this process knows and the store does not have.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::super::ledger::{LedgerError, Position, RedisLedger};
use super::Replica;
use super::stats::{Operation, ReplicaStats};
use crate::authz::claims::Timestamp;
use crate::authz::revocation::{Origin, Revocation, RevocationIndex, Target};

/// Revocations given back in one append.
const BATCH: usize = 256;
/// Entries looked at without giving way to other work.
const STRIDE: usize = 1024;
/// Between looks at whether a peer has done it, or the store takes writes again.
const PAUSE: Duration = Duration::from_millis(100);
/// Between offers of refused revocations.
const OFFER_EVERY: Duration = Duration::from_secs(1);
/// How long to wait for our own reading of what a peer put back.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A loss in the log, while it is being made good.
pub(super) struct Loss {
    /// What the log has been seen to hold since.
    seen: Arc<RevocationIndex>,
    /// The log has been read from its start: what was not seen is missing.
    is_known: bool,
}

impl Replica {
    pub(super) fn note_loss(&self) {
        *self.loss() = Some(Loss { seen: Arc::default(), is_known: false });
    }

    /// Before the log is read from its start: what an earlier reading saw may be gone by now.
    pub(super) fn forget_seen(&self) {
        if let Some(loss) = &mut *self.loss() {
            *loss = Loss { seen: Arc::default(), is_known: false };
        }
    }

    /// The log has been read from its start.
    pub(super) fn loss_is_known(&self) {
        if let Some(loss) = &mut *self.loss() {
            loss.is_known = true;
            self.loss_known.notify_one();
        }
    }

    /// Where to note what the log holds; `None` unless something was lost.
    pub(super) fn seen(&self) -> Option<Arc<RevocationIndex>> {
        self.loss().as_ref().map(|loss| Arc::clone(&loss.seen))
    }

    /// Offers refused revocations again, and puts back what the store lost.
    pub(super) async fn keep_stored(&self, ledger: &RedisLedger) {
        loop {
            let _ = timeout(OFFER_EVERY, self.loss_known.notified()).await;
            let seen = self.loss().as_ref().filter(|loss| loss.is_known).map(|loss| Arc::clone(&loss.seen));
            if let Some(seen) = seen {
                self.put_back(ledger, &seen).await;
            }
            if self.stats.store_up() {
                self.offer(ledger).await;
            }
        }
    }

    /// Puts back everything that is known here and not in the log, unless a peer does it first, or
    /// another loss is found.
    async fn put_back(&self, ledger: &RedisLedger, seen: &Arc<RevocationIndex>) {
        let is_current = |loss: &Loss| Arc::ptr_eq(&loss.seen, seen);
        let mut put_back = 0;
        while self.loss().as_ref().is_some_and(is_current) {
            let began = Instant::now();
            let missing = self.missing(seen).await.len();
            self.stats.reseed_waiting.store(missing as u64, Ordering::Relaxed);
            if missing == 0 {
                self.loss().take_if(|loss| is_current(loss));
                tracing::info!(put_back, "revocation store is whole again");
                return;
            }
            match ledger.claim_reseed(&self.name).await {
                Ok(true) => {
                    let written = self.write_missing(ledger, seen).await;
                    let _ = ledger.release_reseed().await; // It lapses by itself.
                    match written {
                        Ok(written) => {
                            put_back += written;
                            continue;
                        }
                        Err(error) => tracing::debug!(%error, "revocations not put back"),
                    }
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "re-seeding not claimed"),
            }
            sleep(PAUSE.max(began.elapsed() * 4)).await; // Looking costs more the more is known.
        }
    }

    async fn write_missing(&self, ledger: &RedisLedger, seen: &RevocationIndex) -> Result<usize, LedgerError> {
        // A peer that held the claim before may have written all of it.
        self.reach(ledger.end().await?).await;
        let missing = self.missing(seen).await;
        let now = crate::clock::now();
        for (done, batch) in missing.chunks(BATCH).enumerate() {
            ledger.extend_reseed(&self.name).await?;
            let written = ledger.append(batch).await;
            self.stats.count(Operation::Reseed, written.as_ref().map(drop));
            written?;
            for revocation in batch {
                seen.apply(revocation, now);
            }
            ReplicaStats::add(&self.stats.reseeded, batch.len());
            let waiting = missing.len() - (done * BATCH + batch.len());
            self.stats.reseed_waiting.store(waiting as u64, Ordering::Relaxed);
        }
        Ok(missing.len())
    }

    async fn missing(&self, seen: &RevocationIndex) -> Vec<Revocation> {
        let now = crate::clock::now();
        let mut missing = Vec::new();
        for (at, known) in self.index.entries().enumerate() {
            if known.expires_at > now && !seen.knows(&known) {
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
        for batch in self.unsaved.waiting(ledger.config().write_deadline * 2, crate::clock::now()).chunks(BATCH) {
            let written = ledger.append(batch).await;
            self.stats.count(Operation::Append, written.as_ref().map(drop));
            match written {
                Ok(_) => self.unsaved.remove(batch),
                Err(_) => break,
            }
        }
        self.stats.unsaved.store(self.unsaved.len() as u64, Ordering::Relaxed);
    }

    fn loss(&self) -> std::sync::MutexGuard<'_, Option<Loss>> {
        self.loss.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Revocations that hold here and are not known to be in the store: being written, or refused.
#[derive(Default)]
pub(super) struct Unsaved {
    by_target: Mutex<HashMap<(Target, Origin), (Instant, Revocation)>>,
    /// Some did not fit: nothing is known to be stored any more by not being here.
    overflowed: AtomicBool,
}

impl Unsaved {
    /// Beyond this many the newest are not kept for another try; their callers were told so.
    const MAX: usize = 100_000;

    pub(super) fn insert(&self, revocations: &[Revocation], now: Timestamp) {
        let mut by_target = self.lock();
        if by_target.len() + revocations.len() > Self::MAX {
            by_target.retain(|_, (_, revocation)| revocation.expires_at > now);
        }
        for revocation in revocations {
            let key = (revocation.target.clone(), revocation.origin);
            let Some((_, waiting)) = by_target.get_mut(&key) else {
                if by_target.len() < Self::MAX {
                    by_target.insert(key, (Instant::now(), revocation.clone()));
                } else {
                    self.overflowed.store(true, Ordering::Relaxed);
                }
                continue;
            };
            waiting.watermark = waiting.watermark.max(revocation.watermark);
            waiting.expires_at = waiting.expires_at.max(revocation.expires_at);
        }
    }

    /// Forgets what was written; what a later call added for the same target stays.
    pub(super) fn remove(&self, written: &[Revocation]) {
        let mut by_target = self.lock();
        for revocation in written {
            let key = (revocation.target.clone(), revocation.origin);
            if by_target.get(&key).is_some_and(|(_, waiting)| {
                waiting.watermark <= revocation.watermark && waiting.expires_at <= revocation.expires_at
            }) {
                by_target.remove(&key);
            }
        }
    }

    pub(super) fn holds(&self, revocation: &Revocation) -> bool {
        self.overflowed.load(Ordering::Relaxed)
            || self.lock().contains_key(&(revocation.target.clone(), revocation.origin))
    }

    /// What has waited longer than a write takes.
    fn waiting(&self, longer_than: Duration, now: Timestamp) -> Vec<Revocation> {
        let mut by_target = self.lock();
        by_target.retain(|_, (_, revocation)| revocation.expires_at > now);
        by_target
            .values()
            .filter(|(since, _)| since.elapsed() > longer_than)
            .map(|(_, revocation)| revocation.clone())
            .collect()
    }

    fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(Target, Origin), (Instant, Revocation)>> {
        self.by_target.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
