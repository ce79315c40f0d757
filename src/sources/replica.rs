//! The replica: the ledger's revocations in the memory of this process, with an age.
//!
//! The replica reads the log from its start, then follows it. The age of the view is the time since the *start* of the
//! last completed read of the primary, on the monotonic clock: every entry written before that start has been applied,
//! so the age of a cut-off instance's view bounds the entries that it may have missed. A read counts only if the epoch
//! of the store is still that of the view.
//!
//! An applied revocation stays in force. If the log was replaced or has lost entries, it is read again from its start
//! and merged, and one of the instances writes the missing entries back to the store, so that new instances receive
//! them too.
//!
//! No instance relies on a store that may have lost entries: after the store was emptied, restarted or failed over,
//! an instance first waits until the others can have noticed and announced a loss (see `follow`).
//!
//! A limit remains: instances that are frozen or cut off for longer cannot announce what a lagging copy lacks; with
//! `min_replicas` the copy has every revocation that was answered 2xx.

mod adopt;
mod clocks;
mod exhausted;
mod follow;
mod foreign;
mod freshness;
pub(super) mod gap;
pub(super) mod health;
mod inbound;
mod lease;
mod names;
mod outliving;
mod peers;
mod reseed;
mod secret;
mod signals;
mod stats;
mod unreported;
mod unsaved;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::ledger::{EmbeddedLedger, LedgerError, Position, RevocationLedger};
use super::retry::Breaker;
use crate::authz::claims::Timestamp;
use crate::authz::dpop::ProofId;
use crate::authz::revocation::{Hit, Revocation, RevocationIndex, Target};
use crate::authz::stream_proof::Secret;
use crate::clock::Steady;
use crate::sources::streams::LiveStreams;
use lease::LeaseState;
use outliving::Outliving;
use reseed::Loss;
use unsaved::Unsaved;

pub use freshness::Freshness;
pub use health::{ReplicaState, ReplicaStatus};
pub use lease::Receipt;
pub use peers::{Peer, instance_name};
pub use stats::{LAG_BUCKETS, Operation, ReplicaStats};

/// The pause of the breaker after failures of the store: long enough to matter under load, short against a failover.
const LOOKUP_PAUSE: Duration = Duration::from_millis(500);

/// This process's copy of the revocations, and the way to add to them.
pub struct Replica {
    ledger: RevocationLedger,
    index: Arc<RevocationIndex>,
    freshness: Freshness,
    health: health::Health,
    stats: ReplicaStats,
    applied: watch::Sender<Position>,
    adopted: adopt::Adopted,
    configured: foreign::Configured,
    breaker: Breaker,
    unsaved: Unsaved,
    outliving: Outliving,
    exhausted: exhausted::Exhausted,
    /// The newest entry of this process.
    written: Mutex<Position>,
    /// Present from the detection of a loss until every lost entry is written back.
    loss: Mutex<Option<Loss>>,
    loss_noted: Notify,
    lease_state: LeaseState,
    streams: Arc<LiveStreams>,
    /// The secret that seals stream proofs, shared by the instances on one store.
    secret: watch::Sender<Option<Secret>>,
    /// The name of this process for its peers, which is unique.
    name: Box<str>,
    clocks: clocks::Clocks,
    standing: names::Standing,
    names_changed: Notify,
}

impl Replica {
    /// The interval of purges of expired entries.
    const PURGE_EVERY: Duration = Duration::from_secs(10);

    /// A replica of the ledger; of an embedded one it is complete at once, of Redis once
    /// [`Self::run`] has read it.
    #[must_use]
    pub fn new(ledger: RevocationLedger, stats: ReplicaStats) -> Self {
        let (index, freshness, health) = match &ledger {
            RevocationLedger::Embedded(embedded) => {
                (Arc::clone(embedded.index()), Freshness::always(), health::Health::new(ReplicaState::Following))
            }
            RevocationLedger::Redis(redis) => {
                let freshness = Freshness::never();
                let freshness = if redis.config().adopt.is_some() { freshness.adopting() } else { freshness };
                (Arc::default(), freshness, health::Health::new(ReplicaState::Starting))
            }
        };
        let adopted = adopt::Adopted::new(match &ledger {
            RevocationLedger::Embedded(_) => None,
            RevocationLedger::Redis(redis) => redis.config().adopt.as_ref(),
        });
        let clocks = clocks::Clocks::new(match &ledger {
            RevocationLedger::Embedded(_) => None,
            RevocationLedger::Redis(redis) => Some(redis.config().retention),
        });
        stats.set_store_up(matches!(ledger, RevocationLedger::Embedded(_)));
        Self {
            ledger,
            index,
            freshness,
            health,
            stats,
            applied: watch::Sender::new(Position::default()),
            adopted,
            configured: foreign::Configured::default(),
            breaker: Breaker::new([LOOKUP_PAUSE; 2], |_, _| {}),
            unsaved: Unsaved::default(),
            outliving: Outliving::default(),
            exhausted: exhausted::Exhausted::default(),
            written: Mutex::default(),
            loss: Mutex::new(None),
            loss_noted: Notify::new(),
            lease_state: LeaseState::default(),
            streams: Arc::default(),
            secret: watch::Sender::new(None),
            name: peers::instance_name(),
            clocks,
            standing: names::Standing::default(),
            names_changed: Notify::new(),
        }
    }

    /// The name of this process for its peers and for operators.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The location of the store for logs; `None` if it is in this process.
    pub fn place(&self) -> Option<String> {
        match &self.ledger {
            RevocationLedger::Embedded(_) => None,
            RevocationLedger::Redis(redis) => Some(redis.config().server.place()),
        }
    }

    /// The index that decisions read.
    pub fn index(&self) -> &Arc<RevocationIndex> {
        &self.index
    }

    /// The freshness of the index.
    pub fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// The age of the view now (see [`Freshness::age`]).
    pub fn view_age(&self) -> Option<Duration> {
        self.freshness.age(Steady::now())
    }

    pub fn stats(&self) -> &ReplicaStats {
        &self.stats
    }

    /// Everything in the log up to here has been applied; changes wake the receiver.
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.applied.subscribe()
    }

    /// Revokes: in this process at once, then durably.
    ///
    /// `Ok` means that it is in the store. After an error it still applies in this process, and is retried at the
    /// store or the file; other instances may not know it, so the caller must not report success. A revocation that
    /// is known to be stored is not written again. Before it is known that its issuers' names mean the same in the store,
    /// nothing is written: it might apply to the namesakes of the instances that decide. If the names conflict, it does
    /// not apply here either.
    pub async fn revoke(&self, revocations: Vec<Revocation>) -> Result<Position, LedgerError> {
        if let Err(error) = self.is_named() {
            self.hold(revocations);
            return Err(error);
        }
        let revocations = self.under_all_names(revocations);
        if self.is_stored(&revocations) {
            let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(written.max(*self.applied.borrow())); // The entry of this process may not have been read back yet.
        }
        let is_shared = self.is_shared();
        self.keep(&revocations);
        let written = self.ledger.append(&revocations).await;
        self.stats.count(Operation::Append, written.as_ref().map(drop));
        if !is_shared {
            self.note_file(written.as_ref().map(drop));
            if written.is_err() {
                self.stats.unsaved.add(stats::gauge(revocations.len()));
            }
        }
        if let Ok(position) = written {
            let mut newest = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            *newest = position.max(*newest);
            drop(newest);
            if is_shared {
                self.unsaved.acknowledge(&revocations); // A repetition may rely on it only from here on.
            } else {
                self.applied.send_replace(position); // An embedded ledger has no log that must be read back.
            }
        }
        written
    }

    /// Revokes in this process at once and retries at the store in the background: for a caller that gets an error
    /// before the store is contacted.
    pub fn hold(&self, revocations: Vec<Revocation>) {
        if self.has_own_names().is_ok() {
            self.keep(&self.under_all_names(revocations));
        }
    }

    fn keep(&self, revocations: &[Revocation]) {
        if let RevocationLedger::Redis(ledger) = &self.ledger {
            self.unsaved.insert(revocations, ledger.offered_after());
        }
        let uptime = Steady::now().uptime();
        for revocation in revocations {
            self.apply_here(revocation, uptime);
        }
    }

    /// Applies a revocation, and ends the streams of its tokens.
    fn apply_here(&self, revocation: &Revocation, uptime: Duration) {
        self.index.apply(revocation, uptime);
        self.streams.revoke(revocation);
    }

    /// The streams of this process.
    pub fn streams(&self) -> &Arc<LiveStreams> {
        &self.streams
    }

    /// The secret that seals stream proofs on this store; `None` until it has been read, and for an embedded store.
    pub fn secret(&self) -> watch::Receiver<Option<Secret>> {
        self.secret.subscribe()
    }

    /// A repeated sign-out must not make the log grow: an entry that a fresh view has from the log, or that was
    /// acknowledged, is stored as long as it is in the log.
    fn is_stored(&self, revocations: &[Revocation]) -> bool {
        let RevocationLedger::Redis(ledger) = &self.ledger else { return false };
        let kept = ledger.keeps_after();
        self.freshness.log_age(Steady::now()).is_some_and(|age| age < Self::SURELY_FOLLOWING)
            && revocations.iter().all(|revocation| {
                self.index.knows(revocation)
                    && self.outliving.is_logged(revocation, kept)
                    && !self.unsaved.holds(revocation)
                    && !self.may_be_adopted(revocation)
            })
    }

    /// The age up to which the store surely counts as reachable, with the log that this instance reads.
    const SURELY_FOLLOWING: Duration = Duration::from_secs(1);

    /// Looks a token up in the store itself, independent of this process's index.
    ///
    /// Fails at once, for a moment, after several failures in a row.
    pub async fn lookup(&self, targets: &[Target], issued_at: Option<Timestamp>) -> Result<Option<Hit>, LedgerError> {
        let found = self.guarded_lookup(targets, issued_at).await;
        self.stats.count(Operation::Lookup, found.as_ref().map(drop));
        found
    }

    async fn guarded_lookup(
        &self,
        targets: &[Target],
        issued_at: Option<Timestamp>,
    ) -> Result<Option<Hit>, LedgerError> {
        self.is_named()?;
        let RevocationLedger::Redis(ledger) = &self.ledger else { return self.ledger.lookup(targets, issued_at).await };
        self.answers_for(ledger, targets)?;
        let attempt = self.breaker.admit(ledger.config().lookup_deadline).ok_or(LedgerError::BreakerOpen)?;
        let found = ledger.lookup(targets, issued_at).await;
        attempt.ended(found.as_ref().map(drop).map_err(|error| error as _));
        found
    }

    /// Whether the store is shared with other instances.
    pub fn is_shared(&self) -> bool {
        matches!(self.ledger, RevocationLedger::Redis(_))
    }

    /// Records a proof as used in the shared store for `keep`; `None`: only looks it up. `Ok(false)` if it was used
    /// before.
    ///
    /// Fails at once, for a moment, after several failures in a row, and for a store that is not shared.
    pub async fn spend_proof(&self, id: &ProofId, keep: Option<Duration>) -> Result<bool, LedgerError> {
        let RevocationLedger::Redis(ledger) = &self.ledger else {
            return Err(LedgerError::Unavailable { cause: "the store is not shared".into() });
        };
        let spent = match self.breaker.admit(ledger.config().lookup_deadline) {
            None => Err(LedgerError::BreakerOpen),
            Some(attempt) => {
                let spent = ledger.spend_proof(id, keep).await;
                attempt.ended(spent.as_ref().map(drop).map_err(|error| error as _));
                spent
            }
        };
        self.stats.count(Operation::Proof, spent.as_ref().map(drop));
        spent
    }

    /// Registers a token (see [`Revocation::registering`]) as [`Self::revoke`] does for a revocation.
    pub async fn register(&self, registration: Revocation) -> Result<Position, LedgerError> {
        self.revoke(vec![registration]).await
    }

    /// Looks up in the store itself whether a token is registered, independent of this process's index.
    pub async fn is_registered(&self, target: &Target, issued_at: Option<Timestamp>) -> Result<bool, LedgerError> {
        self.is_named()?;
        let found = self.ledger.is_registered(target, issued_at).await;
        self.stats.count(Operation::Lookup, found.as_ref().map(drop));
        found
    }

    /// Keeps the replica current until `shutdown`; [`Self::revoke`] on Redis needs it running.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        // Boxed: together their types exceed the compiler's recursion limit.
        let jobs: Vec<BoxFuture<'_, ()>> = match &self.ledger {
            RevocationLedger::Embedded(ledger) => vec![
                self.purge().boxed(),
                self.keep_filed(ledger).boxed(),
                self.keep_names().boxed(),
                self.watch_clock().boxed(),
            ],
            RevocationLedger::Redis(ledger) => vec![
                ledger.write().boxed(),
                self.follow(ledger).boxed(),
                self.keep_stored(ledger).boxed(),
                self.adopt(ledger).boxed(),
                self.watch_keys(ledger).boxed(),
                self.keep_names().boxed(),
                self.keep_secret(ledger).boxed(),
                ledger.keep_connected().boxed(),
                self.purge().boxed(),
                self.watch_clock().boxed(),
                self.share_margins(ledger).boxed(),
                self.watch_inbound(ledger).boxed(),
            ],
        };
        tokio::select! {
            _ = join_all(jobs) => {}
            () = shutdown.cancelled() => match &self.ledger {
                RevocationLedger::Embedded(ledger) => drop(self.keep_file(ledger).boxed().await),
                RevocationLedger::Redis(_) => self.withdraw().boxed().await,
            },
        }
    }

    /// Retries refused writes to this node's file, and checks that the file still exists.
    async fn keep_filed(&self, ledger: &EmbeddedLedger) {
        const EVERY: Duration = Duration::from_secs(1);
        let mut pause = EVERY;
        loop {
            tokio::time::sleep(pause).await;
            let began = Instant::now();
            let kept = self.keep_file(ledger).await;
            if kept.is_ok() && !ledger.lacks() {
                self.stats.unsaved.set(0);
            }
            pause = EVERY.max(began.elapsed() * 4); // With many entries a write takes long.
        }
    }

    /// Ensures that the file has every entry of the index, and the leads.
    async fn keep_file(&self, ledger: &EmbeddedLedger) -> Result<(), LedgerError> {
        let kept = match ledger.keep().await {
            Ok(was_written) => {
                if was_written {
                    self.restore_names().await?; // Its notes are lost as well.
                }
                self.note_leads().await
            }
            Err(error) => Err(error),
        };
        self.note_file(kept.as_ref().map(drop));
        kept
    }

    /// Records whether the file of this node was written.
    fn note_file(&self, written: Result<(), &LedgerError>) {
        let was_up = self.stats.set_store_up(written.is_ok());
        match written {
            Err(error) if was_up => tracing::error!(%error, "revocations cannot be stored"),
            Ok(()) if !was_up => tracing::info!("revocations can be stored again"),
            _ => {}
        }
    }

    /// Forgets expired revocations; the first clock readings come before any has expired.
    async fn purge(&self) {
        loop {
            let (now, hold, leeway) = (self.earliest(), self.clocks.retention(), self.clocks.leeway());
            match &self.ledger {
                RevocationLedger::Redis(_) => {
                    self.index.purge(now, leeway, Steady::now().uptime(), hold);
                    self.outliving.retain(|target| self.index.has(target));
                }
                RevocationLedger::Embedded(ledger) => {
                    let purged = ledger.purge(now, leeway, hold).await;
                    self.note_file(purged.as_ref().map(drop));
                }
            }
            tokio::time::sleep(Self::PURGE_EVERY).await;
        }
    }
}
