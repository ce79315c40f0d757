//! Whether the names of issuers stand for what they stood for when revocations were written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::ledger::{FORGOTTEN_AFTER, LedgerError, RevocationLedger};
use super::super::names::{Circumstances, Conflict, Names, Superseded};
use super::{Replica, ReplicaState, ReplicaStatus};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::Revocation;
use crate::authz::token::TrustedIssuer;
use crate::clock::Steady;

/// Between looks until they are known to stand for the same.
const EAGERLY: Duration = Duration::from_millis(50);
/// Between notes that they are in use.
const AT_EASE: Duration = Duration::from_secs(30);

/// The issuers in force.
#[derive(Default)]
pub(super) struct Standing {
    state: Mutex<Issuers>,
    /// The notes of the store as they were last read.
    noted: Mutex<Names>,
    /// The obstacle that keeps this process from deciding.
    conflict: Mutex<Option<(ReplicaState, Box<str>)>>,
    /// The notes to store for the issuers that [`Replica::names_lost_by`] was last asked about and found to lose nothing.
    held: Mutex<Option<Vec<String>>>,
}

#[derive(Clone, Default)]
struct Issuers {
    all: Arc<[Arc<TrustedIssuer>]>,
    former_names: Arc<HashMap<IssuerName, Vec<IssuerName>>>,
    accept_loss: bool,
    /// What names stood for in this process before.
    past: Names,
    /// What reloads have done to notes, and the store may not have yet.
    superseded: Superseded,
}

impl Replica {
    /// Takes in the issuers in force. What is revoked is revoked under their former names, too.
    ///
    /// They replace those before as what the names stand for only if [`Self::names_lost_by`] has held them against the
    /// notes, or the loss is accepted. Otherwise, as at the start, nothing is decided before the store was asked; the
    /// issuers before, if they were never in force, have changed nothing.
    pub fn stand_for(&self, issuers: &[Arc<TrustedIssuer>], accept_loss: bool) {
        let renamed = issuers.iter().filter(|issuer| !issuer.formerly.is_empty());
        let former_names = renamed.map(|issuer| (issuer.name.clone(), issuer.formerly.clone())).collect();
        let current = Names::texts(issuers);
        let is_held = lock(&self.standing.held).take().is_some_and(|held| held == current);
        let mut state = lock(&self.standing.state);
        let before = std::mem::take(&mut *state);
        let was_in_force = self.freshness.is_named() && !before.all.is_empty();
        let (mut past, mut superseded) = (before.past, before.superseded);
        if was_in_force {
            past = past.and(Names::of(&before.all, self.clocks().latest()));
        }
        if was_in_force && (is_held || accept_loss) {
            superseded.extend(lock(&self.standing.noted).supersede(issuers, &before.all, accept_loss));
            superseded.extend(past.supersede(issuers, &before.all, accept_loss));
            superseded.ended.retain(|text| !current.contains(text)); // It stands for that again.
        } else if self.is_noting() {
            self.freshness.named.set(false);
        }
        *state = Issuers { all: issuers.into(), former_names: Arc::new(former_names), accept_loss, past, superseded };
        drop(state);
        self.names_changed.notify_one();
    }

    /// How these issuers, which are about to be put in force, would lose revocations that may live; what those in force
    /// lose as well is left out.
    ///
    /// Fails only if the process cannot go on. A store that does not answer is taken for one in which others revoke.
    pub async fn names_lost_by(&self, next: &[Arc<TrustedIssuer>]) -> Result<Vec<Conflict>, LedgerError> {
        *lock(&self.standing.held) = None;
        if !self.freshness.is_named() {
            return Ok(Vec::new()); // As at the start: the store is asked before anything is decided.
        }
        let notes = self.ledger.noted_names().await;
        let (Issuers { all, past, superseded, .. }, seen) = (self.issuers(), self.clocks().latest());
        if let Ok(notes) = notes {
            let mut noted = Names::read(notes);
            noted.apply(&superseded, seen);
            *lock(&self.standing.noted) = noted;
        }
        let noted = lock(&self.standing.noted).clone();
        let names = noted.and(past).and(Names::of(&all, seen));
        let mut found = self.conflicts(names.clone(), next.into()).await?;
        if !found.is_empty() {
            // With what another deployment notes this process goes on: its other settings must be free to change.
            let known = self.conflicts(names, all).await?;
            found.retain(|new| !known.iter().any(|known| (known.key, &known.message) == (new.key, &new.message)));
        }
        *lock(&self.standing.held) = Some(Names::texts(next)).filter(|_| found.is_empty());
        Ok(found)
    }

    async fn conflicts(&self, names: Names, issuers: Arc<[Arc<TrustedIssuer>]>) -> Result<Vec<Conflict>, LedgerError> {
        if !names.differ_from(&issuers) {
            return Ok(Vec::new());
        }
        // Others first: what one of them wrote before it ended is in the index then.
        let (others, now) = (self.has_others().await, self.surely_past());
        let is_behind = !self.catches_up().await;
        let circumstances = Circumstances { index: self.index.clone(), now, others, is_behind };
        // A million entries must not keep a thread from decisions.
        let conflicts = tokio::task::spawn_blocking(move || names.conflicts(&issuers, &circumstances)).await;
        conflicts.map_err(|error| LedgerError::Unavailable { cause: error.to_string().into() })
    }

    /// An instant that has come by every clock there is.
    fn surely_past(&self) -> Timestamp {
        let now = self.earliest_if_set();
        match &self.ledger {
            // At the start there is the machine's clock alone; what the file has may live.
            RevocationLedger::Embedded(_) if !self.freshness.is_named() => now.minus(FORGOTTEN_AFTER),
            _ => now,
        }
    }

    /// Whether another instance may be revoking.
    async fn has_others(&self) -> bool {
        let RevocationLedger::Redis(ledger) = &self.ledger else { return false };
        let leases = ledger.leases().await;
        leases.map_or(true, |leases| leases.running.iter().any(|lease| lease.name != self.name))
    }

    /// Waits until what was written up to now is in the index; false if the store does not answer.
    async fn catches_up(&self) -> bool {
        const PATIENCE: Duration = Duration::from_secs(3);
        if matches!(self.ledger, RevocationLedger::Embedded(_)) {
            return true;
        }
        let asked = Steady::now();
        loop {
            let age = self.freshness.log_age(Steady::now());
            if age.is_some_and(|age| age < asked.elapsed()) {
                return true;
            }
            if asked.elapsed() > PATIENCE {
                return false;
            }
            tokio::time::sleep(EAGERLY).await;
        }
    }

    /// With the same under former names, where older instances look for it.
    pub(super) fn under_all_names(&self, mut revocations: Vec<Revocation>) -> Vec<Revocation> {
        let former_names = self.issuers().former_names;
        for at in 0..revocations.len() {
            for name in former_names.get(&revocations[at].target.issuer).into_iter().flatten() {
                let revocation = revocations[at].clone();
                let target = revocation.target.under(name.clone());
                revocations.push(Revocation { target, ..revocation });
            }
        }
        revocations
    }

    /// Notes in the store what the names stand for, unless it says otherwise.
    pub(super) async fn keep_names(&self) {
        loop {
            let is_known = self.freshness.is_named();
            // Until the log has been read nobody knows what lives.
            if self.health.is_ready()
                && let Err(error) = self.note_names(is_known).await
            {
                tracing::debug!(%error, "what issuers' names stand for is not noted");
                if !is_known && matches!(error, LedgerError::Refused { .. }) {
                    self.say(Some((ReplicaState::Refusing, error.to_string().into()))); // It does not pass by itself.
                }
            }
            let pause = if self.freshness.is_named() { AT_EASE } else { EAGERLY };
            let _ = tokio::time::timeout(pause, self.names_changed.notified()).await;
        }
    }

    async fn note_names(&self, is_known: bool) -> Result<(), LedgerError> {
        let Issuers { all, accept_loss, past, mut superseded, .. } = self.issuers();
        if all.is_empty() {
            return Ok(());
        }
        // By the clock that is ahead: a note must not end before what it is about.
        let (mut noted, seen) = (Names::read(self.ledger.noted_names().await?), self.clocks().latest());
        noted.apply(&superseded, seen);
        lock(&self.standing.noted).clone_from(&noted);
        // What names stood for in this process may have been noted by none, or dropped with the store.
        let known = if is_known { noted.clone() } else { noted.clone().and(past) };
        let conflicts = self.conflicts(known, all.clone()).await?;
        if conflicts.is_empty() || accept_loss {
            {
                let state = lock(&self.standing.state);
                if !Arc::ptr_eq(&state.all, &all) {
                    return Ok(()); // Others came meanwhile, and are not held against the notes.
                }
                self.freshness.named.set(true);
            }
            self.say(None);
            // A store that is full takes no note now; that is no reason to refuse what can be decided.
            superseded.extend(noted.supersede(&all, &[], accept_loss));
        } else {
            let lines = conflicts.iter().map(line).collect::<Vec<_>>().join("; ");
            self.say(Some((ReplicaState::NamesDiffer, lines.into())));
            if !is_known {
                return Ok(());
            }
            // A process that decides goes on: it was there first, or was told by a reload that a loss is accepted. What
            // its names stand for stays noted beside the other meaning, so that neither instance loses sight of it.
        }
        let Superseded { ended, amended } = superseded;
        let notes = [Names::texts(&all), amended.clone()].concat();
        self.ledger.note_names(&notes, &ended, seen).await?;
        let left = &mut lock(&self.standing.state).superseded;
        left.ended.retain(|text| !ended.contains(text));
        left.amended.retain(|text| !amended.contains(text));
        Ok(())
    }

    /// Logs an obstacle once.
    fn say(&self, obstacle: Option<(ReplicaState, Box<str>)>) {
        let mut said = lock(&self.standing.conflict);
        if let Some((state, conflict)) = obstacle.as_ref().filter(|obstacle| said.as_ref() != Some(*obstacle)) {
            if *state != ReplicaState::NamesDiffer {
                tracing::error!(error = %conflict, "nothing is decided: what issuers' names stand for cannot be read");
            } else if self.freshness.is_named() {
                tracing::error!(%conflict, "another deployment or configuration uses issuers' names otherwise");
            } else {
                tracing::error!(%conflict, "nothing is decided: issuers' names stand for something else in the store");
            }
        }
        *said = obstacle;
    }

    /// For `/readyz`: whether the log has been read to its end, and what stands in the way.
    pub fn status(&self) -> ReplicaStatus {
        let (status, is_named) = (self.health.status(), self.freshness.is_named());
        let ready = status.ready && is_named;
        let conflict = lock(&self.standing.conflict).clone();
        // A process that decides has other troubles first.
        match conflict.filter(|_| !is_named || status.state == ReplicaState::Following) {
            Some((state, detail)) => ReplicaStatus { ready, state, detail: Some(detail) },
            None => ReplicaStatus { ready, ..status },
        }
    }

    /// Nothing is asked by names that may stand for something else.
    pub(super) fn is_named(&self) -> Result<(), LedgerError> {
        if self.freshness.is_named() {
            return Ok(());
        }
        Err(LedgerError::Unavailable { cause: "what issuers' names stand for there is not known yet".into() })
    }

    fn issuers(&self) -> Issuers {
        lock(&self.standing.state).clone()
    }

    /// Memory notes nothing beyond the process.
    fn is_noting(&self) -> bool {
        match &self.ledger {
            RevocationLedger::Embedded(ledger) => ledger.is_durable(),
            RevocationLedger::Redis(_) => true,
        }
    }
}

fn lock<T>(held: &Mutex<T>) -> MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(conflict: &Conflict) -> String {
    format!("issuers[{}].{}: {}", conflict.issuer, conflict.key.join("."), conflict.message)
}
