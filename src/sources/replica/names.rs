//! Whether the names of issuers stand for what they stood for when revocations were written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::ledger::{LedgerError, RevocationLedger};
use super::super::names::{Conflict, Names};
use super::{Replica, ReplicaState, ReplicaStatus};
use crate::authz::claims::IssuerName;
use crate::authz::revocation::Revocation;
use crate::authz::token::TrustedIssuer;

/// Between looks until they are known to stand for the same.
const EAGERLY: Duration = Duration::from_millis(50);
/// Between notes that they are in use.
const AT_EASE: Duration = Duration::from_secs(30);

/// The issuers in force.
#[derive(Default)]
pub(super) struct Standing {
    state: Mutex<Issuers>,
    /// The obstacle that keeps this process from deciding.
    conflict: Mutex<Option<Box<str>>>,
}

#[derive(Clone, Default)]
struct Issuers {
    all: Arc<[Arc<TrustedIssuer>]>,
    former_names: Arc<HashMap<IssuerName, Vec<IssuerName>>>,
    accept_loss: bool,
}

impl Replica {
    /// Takes in the issuers in force. The first time, nothing is decided before the store was asked what their names
    /// stand for; later the caller has made sure. What is revoked is revoked under their former names, too.
    pub fn stand_for(&self, issuers: &[Arc<TrustedIssuer>], accept_loss: bool) {
        let renamed = issuers.iter().filter(|issuer| !issuer.formerly.is_empty());
        let former_names = renamed.map(|issuer| (issuer.name.clone(), issuer.formerly.clone())).collect();
        let next = Issuers { all: issuers.into(), former_names: Arc::new(former_names), accept_loss };
        let mut state = self.standing.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.all.is_empty() && self.is_noting() {
            self.freshness.named.set(false);
        }
        *state = next;
        drop(state);
        self.names_changed.notify_one();
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
            }
            let pause = if self.freshness.is_named() { AT_EASE } else { EAGERLY };
            let _ = tokio::time::timeout(pause, self.names_changed.notified()).await;
        }
    }

    async fn note_names(&self, is_known: bool) -> Result<(), LedgerError> {
        let Issuers { all, accept_loss, .. } = self.issuers();
        if all.is_empty() {
            return Ok(());
        }
        let (names, now) = (Names::read(self.ledger.noted_names().await?), self.earliest());
        let (issuers, index) = (all.clone(), self.index.clone());
        // A million entries must not keep a thread from decisions.
        let conflicts = tokio::task::spawn_blocking(move || names.conflicts(&issuers, &index, now)).await;
        let mut conflicts = conflicts.map_err(|error| LedgerError::Unavailable { cause: error.to_string().into() })?;
        // By the one clock that all instances see.
        let seen = self.store_clock().unwrap_or(now);
        let drop: Vec<_> = conflicts.iter().map(|conflict| conflict.note.clone()).collect();
        if conflicts.is_empty() || accept_loss {
            self.say(None);
            self.freshness.named.set(true);
            // A store that is full takes no note now; that is no reason to refuse what can be decided.
            return self.ledger.note_names(&Names::texts(&all), &drop, seen).await;
        }
        if is_known {
            // While a name is changed by a rolling update, the instances with the name before see the next one.
            conflicts.retain(|conflict| conflict.key != ["name"]);
        }
        let lines = conflicts.iter().map(line).collect::<Vec<_>>().join("; ");
        self.say(Some(lines.into()).filter(|_| !conflicts.is_empty()));
        if !is_known {
            return Ok(());
        }
        // A process that decides goes on: it was there first, or was told by a reload that a loss is accepted. What
        // its names stand for stays noted beside the other meaning, so that neither instance loses sight of it.
        self.ledger.note_names(&Names::texts(&all), &[], seen).await
    }

    /// Logs a conflict once.
    fn say(&self, conflict: Option<Box<str>>) {
        let mut said = self.standing.conflict.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(conflict) = conflict.as_ref().filter(|conflict| said.as_ref() != Some(*conflict)) {
            if self.freshness.is_named() {
                tracing::error!(%conflict, "another deployment or configuration uses issuers' names for something else in the store");
            } else {
                tracing::error!(%conflict, "nothing is decided: issuers' names stand for something else in the store");
            }
        }
        *said = conflict;
    }

    /// For `/readyz`: whether the log has been read to its end, and what stands in the way.
    pub fn status(&self) -> ReplicaStatus {
        let (status, is_named) = (self.health.status(), self.freshness.is_named());
        let ready = status.ready && is_named;
        let conflict = self.standing.conflict.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A process that decides has other troubles first.
        match conflict.filter(|_| !is_named || status.state == ReplicaState::Following) {
            Some(conflict) => ReplicaStatus { ready, state: ReplicaState::NamesDiffer, detail: Some(conflict) },
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
        self.standing.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Memory notes nothing beyond the process.
    fn is_noting(&self) -> bool {
        match &self.ledger {
            RevocationLedger::Embedded(ledger) => ledger.is_durable(),
            RevocationLedger::Redis(_) => true,
        }
    }
}

fn line(conflict: &Conflict) -> String {
    format!("issuers[{}].{}: {}", conflict.issuer, conflict.key.join("."), conflict.message)
}
