//! Checks that issuers' names mean the same as when the revocations were written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::ledger::{FORGOTTEN_AFTER, LedgerError, Report, RevocationLedger};
use super::super::names::{Circumstances, Conflict, Names, Note, Notes, Superseded};
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
    noted: Mutex<Noted>,
    /// The obstacle that keeps this process from deciding.
    conflict: Mutex<Option<(ReplicaState, Box<str>)>>,
    /// The notes for the issuers of the last call of [`Replica::names_lost_by`], if that found no losses.
    held: Mutex<Option<Vec<String>>>,
}

/// The notes of the store, as this process knows them.
#[derive(Default)]
struct Noted {
    notes: Notes,
    /// The epoch of the store at the last reading.
    epoch: Option<Box<str>>,
    /// Since when each reading found that notes can be written, and the last of them.
    writable: Option<(Steady, Steady)>,
}

impl Noted {
    fn note_writable(&mut self, is_writable: bool) {
        let now = Steady::now();
        let since = self.writable.filter(|(_, last)| now.since(*last) < AT_EASE * 2).map_or(now, |(since, _)| since);
        self.writable = is_writable.then_some((since, now));
    }

    /// The time for which instances could write notes.
    fn writable_for(&self) -> Duration {
        self.writable.map(|(since, last)| last.since(since)).unwrap_or_default()
    }
}

#[derive(Clone, Default)]
struct Issuers {
    all: Arc<[Arc<TrustedIssuer>]>,
    former_names: Arc<HashMap<IssuerName, Vec<IssuerName>>>,
    accept_loss: bool,
    /// Earlier issuers were in force.
    have_decided: bool,
    /// The earlier meanings of names in this process: of issuers that were in force, and of those by which it was asked to
    /// revoke what the store may lack.
    past: Names,
    /// Changes of the notes by reloads, which the store may not have yet.
    superseded: Superseded,
}

impl Replica {
    /// Sets the issuers in force. Revocations are also written under former names.
    ///
    /// The new meanings replace those of the previous issuers only if [`Self::names_lost_by`] has checked them against
    /// the notes, or the loss is accepted. Otherwise, as at the start, no decision is made before the store was read;
    /// issuers that were never in force have changed nothing but what was refused by them.
    pub fn stand_for(&self, issuers: &[Arc<TrustedIssuer>], accept_loss: bool) {
        let renamed = issuers.iter().filter(|issuer| !issuer.formerly.is_empty());
        let former_names = renamed.map(|issuer| (issuer.name.clone(), issuer.formerly.clone())).collect();
        let current = Names::texts(issuers);
        let is_held = lock(&self.standing.held).take().is_some_and(|held| held == current);
        let mut state = lock(&self.standing.state);
        let before = std::mem::take(&mut *state);
        let mut noted = lock(&self.standing.noted).notes.names();
        noted.apply(&before.superseded, self.clocks().latest());
        let known = noted.clone().and(before.past.clone());
        self.add_lead_names(known.and(Names::of(&before.all, Timestamp::default())).further_leads(issuers));
        let was_in_force = self.freshness.is_named() && !before.all.is_empty();
        let (mut past, mut superseded) = (before.past, before.superseded);
        let is_past = |issuer: &&Arc<TrustedIssuer>| was_in_force || self.unsaved.has_any_of(&issuer.name);
        let is_past: Vec<_> = before.all.iter().filter(is_past).cloned().collect();
        past = past.and(Names::of(&is_past, self.clocks().latest()));
        if was_in_force && (is_held || accept_loss) {
            superseded.extend(noted.supersede(issuers, &before.all, accept_loss));
            superseded.extend(past.supersede(issuers, &before.all, accept_loss));
            superseded.ended.retain(|text| !current.contains(text)); // The name has that meaning again.
        } else if self.is_noting() {
            self.freshness.named.set(false);
        }
        let have_decided = before.have_decided || was_in_force;
        let (all, former_names) = (issuers.into(), Arc::new(former_names));
        *state = Issuers { all, former_names, accept_loss, have_decided, past, superseded };
        drop(state);
        self.names_changed.notify_one();
    }

    /// The ways in which these issuers, which are about to be put in force, would lose revocations that may live;
    /// losses of the issuers in force are left out.
    ///
    /// Without losses, new meanings are noted in the store: other instances must see them before they are used. If the
    /// store takes no note, that is a conflict; if it does not answer, other instances are assumed to revoke in it.
    ///
    /// Fails only if the process cannot continue.
    pub async fn names_lost_by(&self, next: &[Arc<TrustedIssuer>]) -> Result<Vec<Conflict>, LedgerError> {
        *lock(&self.standing.held) = None;
        if !self.freshness.is_named() {
            return Ok(Vec::new()); // As at the start: the store is read before any decision.
        }
        let read = self.read_names().await;
        let (Issuers { all, past, .. }, seen) = (self.issuers(), self.clocks().latest());
        let noted = read.unwrap_or_else(|_| self.known_names());
        let names = noted.and(past).and(Names::of(&all, seen));
        let texts = Names::texts(next);
        let is_new = texts.iter().any(|text| !names.has(text));
        let mut found = self.conflicts(names.clone(), next.into()).await?;
        if !found.is_empty() {
            // This process tolerates the notes of another deployment: its own settings must remain changeable.
            let known = self.conflicts(names, all).await?;
            found.retain(|new| !known.iter().any(|known| (known.key, &known.message) == (new.key, &new.message)));
        }
        if found.is_empty()
            && is_new
            && let Err(error) = self.write_notes(&texts, &[], seen).await
        {
            // Another instance could not see them, nor this one what another has noted.
            let message = format!("the meaning of the issuers' names cannot be noted in the store: {error}");
            found.push(Conflict { issuer: 0, key: &["name"], message });
        }
        *lock(&self.standing.held) = Some(texts).filter(|_| found.is_empty());
        Ok(found)
    }

    async fn conflicts(&self, names: Names, issuers: Arc<[Arc<TrustedIssuer>]>) -> Result<Vec<Conflict>, LedgerError> {
        let failed = |error: tokio::task::JoinError| LedgerError::Unavailable { cause: error.to_string().into() };
        let names = Arc::new(names);
        // Going through a million entries, or thousands of notes, must not block a thread that makes decisions.
        let differ = {
            let (names, issuers) = (names.clone(), issuers.clone());
            move || names.differ_from(&issuers)
        };
        if !tokio::task::spawn_blocking(differ).await.map_err(failed)? {
            return Ok(Vec::new());
        }
        // Other instances first: the last entries of an instance that ended are then in the index.
        let (others, now) = (self.has_others().await, self.surely_past());
        let is_behind = !self.catches_up().await;
        // The leases show that the store has room.
        let writable_for = self.lease_state.writable_for().min(lock(&self.standing.noted).writable_for());
        let others_note = writable_for >= Names::IN_USE;
        let retention = self.longest_retention().unwrap_or(Duration::MAX);
        let index = self.index.clone();
        let circumstances = Circumstances { index, now, others, others_note, retention, is_behind };
        tokio::task::spawn_blocking(move || names.conflicts(&issuers, &circumstances)).await.map_err(failed)
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

    /// Whether another instance may be revoking: its lease runs, or the store may have lost it.
    async fn has_others(&self) -> bool {
        let RevocationLedger::Redis(ledger) = &self.ledger else { return false };
        let Ok(leases) = ledger.leases().await else { return true };
        self.may_lack_leases(&leases, ledger.longest_lease())
            || leases.running.iter().any(|lease| lease.name != self.name)
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
                // A full store is named elsewhere; another refusal needs the operator.
                if matches!(error, LedgerError::Refused { .. }) && !(is_known && error.is_out_of_memory()) {
                    self.log(Some((ReplicaState::Refusing, error.to_string().into())));
                }
            }
            let pause = if self.freshness.is_named() { AT_EASE } else { EAGERLY };
            let _ = tokio::time::timeout(pause, self.names_changed.notified()).await;
        }
    }

    async fn note_names(&self, is_known: bool) -> Result<(), LedgerError> {
        let issuers = self.issuers();
        if issuers.all.is_empty() {
            return Ok(());
        }
        let noted = self.settled_names(is_known, &issuers.all).await?;
        // By the clock that is ahead: a note must not end before the revocations that it covers.
        let seen = self.clocks().latest();
        match self.put_in_force(is_known, &issuers, noted, seen).await? {
            Some(superseded) => self.renew_notes(&issuers.all, superseded, seen).await,
            None => Ok(()),
        }
    }

    /// Reads the notes. Fails while a process that does not decide yet cannot rely on them: the store may have lost
    /// some, or the leads of these issuers are not known.
    async fn settled_names(&self, is_known: bool, all: &[Arc<TrustedIssuer>]) -> Result<Names, LedgerError> {
        let unavailable = |cause: &str| Err(LedgerError::Unavailable { cause: cause.into() });
        // A process that decides noted its own; another relies on the notes, which a store may have lost.
        let epoch = if is_known { None } else { self.settled_epoch()? };
        let noted = self.read_names().await?;
        if !is_known && lock(&self.standing.noted).epoch != epoch {
            return unavailable("the store has lost its data");
        }
        if !is_known && noted.is_empty() && self.awaits_notes().await {
            return unavailable("an instance that decides has not noted its names");
        }
        self.add_lead_names(noted.further_leads(all));
        if !is_known && !self.read_leads().await {
            return unavailable("the leads of issuers are not read");
        }
        Ok(noted)
    }

    /// Compares the names with the notes and, if they agree, lets this process decide. Returns the notes that the names
    /// in force replace; `None` if nothing may be noted.
    async fn put_in_force(
        &self,
        is_known: bool,
        issuers: &Issuers,
        mut noted: Names,
        seen: Timestamp,
    ) -> Result<Option<Superseded>, LedgerError> {
        let Issuers { all, accept_loss, past, superseded, .. } = issuers;
        // The meanings of names in this process may never have been noted, or may be lost with the store.
        let known = if is_known { noted.clone() } else { noted.clone().and(past.clone()) };
        let conflicts = self.conflicts(known, all.clone()).await?;
        if !conflicts.is_empty() && !accept_loss {
            let lines = conflicts.iter().map(line).collect::<Vec<_>>().join("; ");
            self.log(Some((ReplicaState::NamesDiffer, lines.into())));
            // A process that decides continues: it was first, or a reload accepted the loss. Both meanings of its names
            // stay in the notes, so that both instances see the conflict.
            return Ok(is_known.then(|| superseded.clone()));
        }
        if !is_known {
            // Before any use of the names: another instance must see them.
            self.write_notes(&Names::texts(all), &[], seen).await?;
        }
        {
            let state = lock(&self.standing.state);
            if !Arc::ptr_eq(&state.all, all) {
                return Ok(None); // Newer issuers were set meanwhile, and are not checked against the notes yet.
            }
            self.freshness.named.set(true);
        }
        self.log(None);
        let mut superseded = superseded.clone();
        superseded.extend(noted.supersede(all, &[], *accept_loss));
        Ok(Some(superseded))
    }

    /// Notes that the names are in use, and drops the notes that they replace. A full store accepts no note; that is not
    /// a reason to refuse decisions.
    async fn renew_notes(
        &self,
        all: &[Arc<TrustedIssuer>],
        superseded: Superseded,
        seen: Timestamp,
    ) -> Result<(), LedgerError> {
        let Superseded { mut ended, amended } = superseded;
        if !self.clocks().agree_within(self.clocks.leeway()) {
            ended.clear(); // No date that is noted under these names can be read now.
        }
        if !ended.is_empty() {
            self.note_leads().await?; // The leads under the names of these notes.
        }
        let notes = [Names::texts(all), amended.clone()].concat();
        self.write_notes(&notes, &ended, seen).await?;
        let left = &mut lock(&self.standing.state).superseded;
        left.ended.retain(|text| !ended.contains(text));
        left.amended.retain(|text| !amended.contains(text));
        Ok(())
    }

    /// Writes notes that names are used, and that others ended.
    async fn write_notes(&self, used: &[String], ended: &[String], now: Timestamp) -> Result<(), LedgerError> {
        let notes = lock(&self.standing.noted).notes.next(used, ended, now);
        self.ledger.note_names(&notes).await?;
        lock(&self.standing.noted).notes.written(notes);
        Ok(())
    }

    /// The notes, as this process changes them; those that the store has lost are put back.
    async fn read_names(&self) -> Result<Names, LedgerError> {
        if let Err(error) = self.put_back_notes(&self.read_notes().await?).await {
            tracing::debug!(%error, "notes about issuers' names not put back yet");
        }
        Ok(self.known_names())
    }

    /// Reads the notes, and returns those that the store has lost.
    async fn read_notes(&self) -> Result<Vec<Note>, LedgerError> {
        let read = self.ledger.noted_names().await;
        let mut noted = lock(&self.standing.noted);
        let (read, epoch) = read.inspect_err(|_| noted.note_writable(false))?;
        noted.epoch = epoch;
        Ok(noted.notes.update(read, self.clocks().latest()))
    }

    async fn put_back_notes(&self, lost: &[Note]) -> Result<(), LedgerError> {
        let written = self.ledger.put_back_names(lost).await;
        lock(&self.standing.noted).note_writable(written.is_ok());
        written
    }

    /// The notes as of the last reading, and as this process changes them.
    fn known_names(&self) -> Names {
        let mut names = lock(&self.standing.noted).notes.names();
        names.apply(&self.issuers().superseded, self.clocks().latest());
        names
    }

    /// Whether another instance has reported a view although the store has no notes: it has lost them. That instance
    /// notes its names again, or its lease ends.
    async fn awaits_notes(&self) -> bool {
        let RevocationLedger::Redis(ledger) = &self.ledger else { return false };
        let Ok(leases) = ledger.leases().await else { return true };
        let decides = |report: &Report| report.view_age.is_some();
        let mut others = leases.running.iter().filter(|lease| lease.name != self.name);
        // An instance of a version that notes no names is waited for no longer than that.
        self.lease_state.followed_for() < ledger.longest_lease()
            && others.any(|lease| lease.report.as_ref().is_none_or(decides))
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

    /// Notes the meanings again in a store that may have lost them: those that this process has read, and its own,
    /// unless it is not known yet that they are right.
    pub(super) async fn restore_names(&self) -> Result<(), LedgerError> {
        self.put_back_leads().await?;
        self.put_back_notes(&self.read_notes().await?).await?;
        let all = self.issuers().all;
        if all.is_empty() || !self.freshness.is_named() {
            return Ok(());
        }
        self.write_notes(&Names::texts(&all), &[], self.clocks().latest()).await
    }

    /// Logs an obstacle once.
    fn log(&self, obstacle: Option<(ReplicaState, Box<str>)>) {
        let mut reported = lock(&self.standing.conflict);
        if let Some((state, conflict)) = obstacle.as_ref().filter(|obstacle| reported.as_ref() != Some(*obstacle)) {
            if *state != ReplicaState::NamesDiffer && self.freshness.is_named() {
                tracing::error!(
                    error = %conflict,
                    "the meaning of issuers' names cannot be noted: other instances do not see that the names are in use"
                );
            } else if *state != ReplicaState::NamesDiffer {
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

    /// Fails for a process that is not ready because its names are known to conflict with the store's notes.
    pub fn has_own_names(&self) -> Result<(), LedgerError> {
        let conflicts = |(state, _): &(ReplicaState, _)| *state == ReplicaState::NamesDiffer;
        let is_known = lock(&self.standing.conflict).as_ref().is_some_and(conflicts);
        if is_known && !self.freshness.is_named() { Err(LedgerError::NamesDiffer) } else { Ok(()) }
    }

    /// No lookup or write is made by names that may have another meaning.
    pub(super) fn is_named(&self) -> Result<(), LedgerError> {
        if self.freshness.is_named() {
            return Ok(());
        }
        self.has_own_names()?;
        Err(LedgerError::Unavailable { cause: "the meaning of issuers' names there is not known yet".into() })
    }

    /// Whether this process has made decisions, by the issuers in force or by earlier ones.
    pub(super) fn has_decided(&self) -> bool {
        self.freshness.is_named() || lock(&self.standing.state).have_decided
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
