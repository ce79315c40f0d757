//! Follows the keys of another service (see the ledger's `adopt`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::super::ledger::{Adopt, Found, LedgerError, RedisLedger, RevocationLedger};
use super::Replica;
use super::stats::Operation;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{Kind, Origin, Revocation, Target, TargetId, Watermark};
use crate::clock::Steady;

/// The pause after a failure.
const RETRY: Duration = Duration::from_millis(300);

/// The issuers whose token ids the adopted keys name, and the progress of reading them.
#[derive(Default)]
pub(super) struct Adopted {
    issuers: Mutex<Issuers>,
    changed: Notify,
    failure: Mutex<Option<LedgerError>>,
    /// The number of complete scans without a match.
    empty_scans: AtomicU64,
    is_warned: AtomicBool,
}

/// A counter, by which a scan detects a change while it ran.
#[derive(Clone, Default)]
struct Issuers {
    names: Vec<(IssuerName, Duration)>,
    /// See [`Adopt::within`].
    within: Duration,
    version: u64,
}

impl Adopted {
    pub(super) fn new(adopt: Option<&Adopt>) -> Self {
        let issuers = |adopt: &Adopt| Issuers { names: adopt.issuers.clone(), within: adopt.within, version: 0 };
        Self { issuers: Mutex::new(adopt.map(issuers).unwrap_or_default()), ..Self::default() }
    }

    pub(super) fn failure(&self) -> Option<LedgerError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn issuers(&self) -> std::sync::MutexGuard<'_, Issuers> {
        self.issuers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replica {
    /// Sets the issuers whose token ids adopted keys name, with the leeway of each, and the time within
    /// which the keys are read; call it before decisions are made for a new issuer. Until its ids have been
    /// read the view is stale.
    pub fn adopt_for(&self, names: Vec<(IssuerName, Duration)>, within: Duration) {
        let mut issuers = self.adopted.issuers();
        let is_wider = names.iter().any(|(name, leeway)| {
            !issuers.names.iter().any(|(known, known_leeway)| known == name && known_leeway >= leeway)
        });
        if self.adopts() && is_wider {
            self.freshness.adopted.suspend();
        }
        if is_wider || within < issuers.within {
            self.adopted.changed.notify_one();
        }
        *issuers = Issuers { names, within, version: issuers.version + 1 };
    }

    /// Scans the keys completely, over and over; for ever.
    pub(super) async fn adopt(&self, ledger: &RedisLedger) {
        let Some(adopt) = &ledger.config().adopt else { return std::future::pending().await };
        loop {
            let start = Steady::now();
            let issuers = self.adopted.issuers().clone();
            let read = ledger
                .scan_adopted(
                    adopt,
                    |id| self.knows_adopted(&issuers, id),
                    |found| self.take_adopted(&issuers.names, found, ledger.retention()),
                )
                .await;
            self.stats.count(Operation::Adopt, read.as_ref().map(drop));
            let pause = match &read {
                Ok(found) => {
                    self.note_adopted(ledger, *found).await;
                    let now = self.adopted.issuers();
                    if now.version == issuers.version {
                        self.freshness.adopted.publish(start);
                    }
                    (now.within / 2).saturating_sub(start.elapsed())
                }
                Err(_) => RETRY,
            };
            self.note_adopting(read.err());
            let _ = timeout(pause, self.adopted.changed.notified()).await;
            sleep(Duration::from_millis(1)).await; // Gives other tasks a turn, with any settings.
        }
    }

    /// Whether a key of this token can be skipped: its revocation is applied, and lives until after a later scan has
    /// read the key again.
    fn knows_adopted(&self, issuers: &Issuers, id: &TargetId) -> bool {
        let until = self.earliest().plus(issuers.within * 2);
        issuers.names.iter().all(|(issuer, _)| self.index.knows(&adopted(issuer, id, until)))
    }

    fn take_adopted(&self, issuers: &[(IssuerName, Duration)], found: Found, retention: Duration) {
        let now = crate::clock::now();
        for (issuer, leeway) in issuers {
            let ends_at = found.ends_at.map_or_else(|| now.plus(retention), |end| end.plus(*leeway));
            self.apply_here(&adopted(issuer, &found.id, ends_at), Steady::now().uptime());
        }
    }

    /// Whether its revocation may come from another service's key, which is not in the log.
    pub(super) fn may_be_adopted(&self, revocation: &Revocation) -> bool {
        self.adopts() && revocation.target.kind == Kind::Token && revocation.origin == Origin::Revoked
    }

    /// Whether a lookup in the store is complete: the key of an unusual id cannot be named, and only the
    /// scan finds it.
    pub(super) fn answers_for(&self, ledger: &RedisLedger, targets: &[Target]) -> Result<(), LedgerError> {
        let Some(adopt) = &ledger.config().adopt else { return Ok(()) };
        let within = self.adopted.issuers().within;
        let is_scanned = self.freshness.adopted.age(Steady::now()).is_some_and(|age| age <= within);
        let is_odd = |target: &Target| target.kind == Kind::Token && adopt.cannot_look_up(&target.id);
        if targets.iter().any(is_odd) && !is_scanned {
            return Err(LedgerError::Unavailable { cause: "adopted keys have not been read lately".into() });
        }
        Ok(())
    }

    pub(super) fn adopts(&self) -> bool {
        matches!(&self.ledger, RevocationLedger::Redis(ledger) if ledger.config().adopt.is_some())
    }

    /// A template that matches no key is more likely a mistake than a service without revocations.
    async fn note_adopted(&self, ledger: &RedisLedger, found: u64) {
        self.stats.adopted.set(i64::try_from(found).unwrap_or(i64::MAX));
        if found > 0 || self.adopted.is_warned.load(Ordering::Relaxed) {
            return;
        }
        // If all keys are Doorward's own, this costs another scan: rarely, and less often each time.
        let scans = self.adopted.empty_scans.fetch_add(1, Ordering::Relaxed) + 1;
        if scans.is_power_of_two() && ledger.has_others_keys().await.is_ok_and(|has| has) {
            self.adopted.is_warned.store(true, Ordering::Relaxed);
            tracing::warn!("revocation.redis.adopt matches no key of the database, which is not empty");
        }
    }

    fn note_adopting(&self, failure: Option<LedgerError>) {
        let mut noted = self.adopted.failure.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*noted, &failure) {
            (None, Some(error)) => tracing::warn!(%error, "adopted keys not read"),
            (Some(_), None) => tracing::info!("adopted keys read again"),
            _ => {}
        }
        *noted = failure;
    }
}

/// The revocation that a key of the token represents: every token with that id.
fn adopted(issuer: &IssuerName, id: &TargetId, expires_at: Timestamp) -> Revocation {
    Revocation {
        target: Target::new(issuer.clone(), Kind::Token, id.clone()),
        watermark: Watermark::FOREVER,
        expires_at,
        origin: Origin::Revoked,
        note: None,
    }
}
