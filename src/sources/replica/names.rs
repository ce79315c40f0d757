//! Checks that issuers' names mean the same as when the revocations were written.

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

/// The interval of checks until the meanings are confirmed.
const EAGERLY: Duration = Duration::from_millis(50);
/// The interval of notes that they are in use.
const AT_EASE: Duration = Duration::from_secs(30);

/// The issuers in force.
#[derive(Default)]
pub(super) struct Standing {
    state: Mutex<Issuers>,
    /// The notes of the store at the last reading.
    noted: Mutex<Names>,
    /// The obstacle that keeps this process from deciding.
    conflict: Mutex<Option<(ReplicaState, Box<str>)>>,
    /// The notes for the issuers of the last call of [`Replica::names_lost_by`], if that found no losses.
    held: Mutex<Option<Vec<String>>>,
}

#[derive(Clone, Default)]
struct Issuers {
    all: Arc<[Arc<TrustedIssuer>]>,
    former_names: Arc<HashMap<IssuerName, Vec<IssuerName>>>,
    accept_loss: bool,
    /// The earlier meanings of names in this process.
    past: Names,
    /// Changes of the notes by reloads, which the store may not have yet.
    superseded: Superseded,
}

impl Replica {
    /// Sets the issuers in force. Revocations are also written under former names.
    ///
    /// The new meanings replace those of the previous issuers only if [`Self::names_lost_by`] has checked them against
    /// the notes, or the loss is accepted. Otherwise, as at the start, no decision is made before the store was read;
    /// issuers that were never in force have changed nothing.
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
            superseded.ended.retain(|text| !current.contains(text)); // The name has that meaning again.
        } else if self.is_noting() {
            self.freshness.named.set(false);
        }
        *state = Issuers { all: issuers.into(), former_names: Arc::new(former_names), accept_loss, past, superseded };
        drop(state);
        self.names_changed.notify_one();
    }

    /// The ways in which these issuers, which are about to be put in force, would lose revocations that may live;
    /// losses of the issuers in force are left out.
    ///
    /// Fails only if the process cannot continue. If the store does not answer, other instances are assumed to revoke
    /// in it.
    pub async fn names_lost_by(&self, next: &[Arc<TrustedIssuer>]) -> Result<Vec<Conflict>, LedgerError> {
        *lock(&self.standing.held) = None;
        if !self.freshness.is_named() {
            return Ok(Vec::new()); // As at the start: the store is read before any decision.
        }
        let notes = self.ledger.noted_names(None).await;
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
            // This process tolerates the notes of another deployment: its own settings must remain changeable.
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
        // Other instances first: the last entries of an instance that ended are then in the index.
        let (others, now) = (self.has_others().await, self.surely_past());
        let is_behind = !self.catches_up().await;
        let circumstances = Circumstances { index: self.index.clone(), now, others, is_behind };
        // Going through a million entries must not block a thread that makes decisions.
        let conflicts = tokio::task::spawn_blocking(move || names.conflicts(&issuers, &circumstances)).await;
        conflicts.map_err(|error| LedgerError::Unavailable { cause: error.to_string().into() })
    }

    /// A time that has passed by every observed clock.
    fn surely_past(&self) -> Timestamp {
        let now = self.earliest_if_set();
        match &self.ledger {
            // At the start there is the machine's clock alone; the file's entries may live.
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

    /// Waits until all entries written up to now are in the index; false if the store does not answer.
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

    /// Adds the same revocations under former names, where older instances look them up.
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

    /// Writes the meanings of the names to the store, unless its notes conflict.
    pub(super) async fn keep_names(&self) {
        loop {
            let is_known = self.freshness.is_named();
            // Before the log has been read, the set of live revocations is incomplete.
            if self.health.is_ready()
                && let Err(error) = self.note_names(is_known).await
            {
                tracing::debug!(%error, "the meaning of issuers' names is not stored");
                if !is_known && matches!(error, LedgerError::Refused { .. }) {
                    self.log(Some((ReplicaState::Refusing, error.to_string().into()))); // Needs the operator.
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
        // A process that decides noted its own; another relies on the notes, which a store may have lost.
        let epoch = if is_known { None } else { self.settled_epoch()? };
        // By the clock that is ahead: a note must not end before the revocations that it covers.
        let noted = self.ledger.noted_names(epoch.as_deref()).await?;
        let (mut noted, seen) = (Names::read(noted), self.clocks().latest());
        noted.apply(&superseded, seen);
        lock(&self.standing.noted).clone_from(&noted);
        // The meanings of names in this process may never have been noted, or may be lost with the store.
        let known = if is_known { noted.clone() } else { noted.clone().and(past) };
        let conflicts = self.conflicts(known, all.clone()).await?;
        if conflicts.is_empty() || accept_loss {
            {
                let state = lock(&self.standing.state);
                if !Arc::ptr_eq(&state.all, &all) {
                    return Ok(()); // Newer issuers were set meanwhile, and are not checked against the notes yet.
                }
                self.freshness.named.set(true);
            }
            self.log(None);
            // A full store accepts no note now; that is not a reason to refuse decisions.
            superseded.extend(noted.supersede(&all, &[], accept_loss));
        } else {
            let lines = conflicts.iter().map(line).collect::<Vec<_>>().join("; ");
            self.log(Some((ReplicaState::NamesDiffer, lines.into())));
            if !is_known {
                return Ok(());
            }
            // A process that decides continues: it was first, or a reload accepted the loss. Both meanings of its names
            // stay in the notes, so that both instances see the conflict.
        }
        let Superseded { ended, amended } = superseded;
        let notes = [Names::texts(&all), amended.clone()].concat();
        self.ledger.note_names(&notes, &ended, seen).await?;
        let left = &mut lock(&self.standing.state).superseded;
        left.ended.retain(|text| !ended.contains(text));
        left.amended.retain(|text| !amended.contains(text));
        Ok(())
    }

    /// The epoch of the store since other instances have had the time to note their names again in it; `None` for an
    /// embedded store.
    fn settled_epoch(&self) -> Result<Option<Box<str>>, LedgerError> {
        if !self.is_shared() {
            return Ok(None);
        }
        let settled = self.lease_state.settled();
        settled.map(Some).ok_or_else(|| LedgerError::Unavailable { cause: "the store has not settled".into() })
    }

    /// Notes the meanings again in a store that may have lost them, unless it is not known yet that they are right.
    pub(super) async fn restore_names(&self) -> Result<(), LedgerError> {
        let all = self.issuers().all;
        if all.is_empty() || !self.freshness.is_named() {
            return Ok(());
        }
        self.ledger.note_names(&Names::texts(&all), &[], self.clocks().latest()).await
    }

    /// Logs an obstacle once.
    fn log(&self, obstacle: Option<(ReplicaState, Box<str>)>) {
        let mut reported = lock(&self.standing.conflict);
        if let Some((state, conflict)) = obstacle.as_ref().filter(|obstacle| reported.as_ref() != Some(*obstacle)) {
            if *state != ReplicaState::NamesDiffer {
                tracing::error!(
                    error = %conflict,
                    "decisions are refused: the meaning of issuers' names cannot be read"
                );
            } else if self.freshness.is_named() {
                tracing::error!(%conflict, "another deployment or configuration uses issuers' names with another meaning");
            } else {
                tracing::error!(%conflict, "decisions are refused: issuers' names have another meaning in the store");
            }
        }
        *reported = obstacle;
    }

    /// For `/readyz`: whether the log has been read to its end, and the obstacle.
    pub fn status(&self) -> ReplicaStatus {
        let (status, is_named) = (self.health.status(), self.freshness.is_named());
        let ready = status.ready && is_named;
        let conflict = lock(&self.standing.conflict).clone();
        // Other obstacles take precedence for a process that decides.
        match conflict.filter(|_| !is_named || status.state == ReplicaState::Following) {
            Some((state, detail)) => ReplicaStatus { ready, state, detail: Some(detail) },
            None => ReplicaStatus { ready, ..status },
        }
    }

    /// Whether issuers' names have another meaning in the store that this process reads, or that is not known yet.
    pub(super) fn names_differ(&self) -> bool {
        !self.freshness.is_named() && self.health.is_ready()
    }

    /// Fails for a process that is not ready because its names are known to conflict with the store's notes.
    pub fn has_own_names(&self) -> Result<(), LedgerError> {
        let conflicts = |(state, _): &(ReplicaState, _)| *state == ReplicaState::NamesDiffer;
        let is_known = lock(&self.standing.conflict).as_ref().is_some_and(conflicts);
        if is_known && !self.freshness.is_named() { Err(LedgerError::NamesDiffer) } else { Ok(()) }
    }

    /// No lookup is made by names that may have another meaning.
    pub(super) fn is_named(&self) -> Result<(), LedgerError> {
        if self.freshness.is_named() {
            return Ok(());
        }
        Err(LedgerError::Unavailable { cause: "the meaning of issuers' names there is not known yet".into() })
    }

    fn issuers(&self) -> Issuers {
        lock(&self.standing.state).clone()
    }

    /// A store in memory keeps no notes beyond the process.
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
