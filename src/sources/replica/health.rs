//! The state of the store as `/readyz` and the log report it.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::super::ledger::{LOG_EXHAUSTED, LedgerError, RefusalKind, Server, StoreFacts};
use crate::clock::Steady;

/// Whether decisions can use the replica, and its state.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplicaStatus {
    /// The log has been read to its end once; later problems show in the age of the view.
    pub ready: bool,
    pub state: ReplicaState,
    /// The exact obstacle, for an operator.
    pub detail: Option<Box<str>>,
}

/// The state of the replica, or the obstacle.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplicaState {
    /// Not connected yet.
    Starting,
    /// Reading the log from its start.
    CatchingUp,
    /// The log is read to the end, but the keys of another service are not read yet.
    Adopting,
    /// The log is read to the end, but a peer may be about to write back lost entries: it is not relied on yet.
    Settling,
    /// Current.
    Following,
    /// Reading again, because the log was replaced or lost entries.
    Repairing,
    /// No connection, or no answer.
    Unreachable,
    /// A wrong password, or a user without the required commands.
    AccessDenied,
    /// The server is a replica: it may lag, and refuses writes.
    NotPrimary,
    /// The server may evict revocations when its memory is full.
    MayEvict,
    /// The server refuses to be read: it is loading, or too old.
    Refusing,
    /// The log is read, but it accepts no further entry.
    LogExhausted,
    /// An issuer's name has another meaning in live revocations.
    NamesDiffer,
}

impl ReplicaState {
    /// A stable lowercase name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::CatchingUp => "catching_up",
            Self::Adopting => "adopting",
            Self::Settling => "settling",
            Self::Following => "following",
            Self::Repairing => "repairing",
            Self::Unreachable => "unreachable",
            Self::AccessDenied => "access_denied",
            Self::NotPrimary => "not_primary",
            Self::MayEvict => "may_evict",
            Self::Refusing => "refusing",
            Self::LogExhausted => "log_exhausted",
            Self::NamesDiffer => "names_differ",
        }
    }
}

impl fmt::Display for ReplicaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why following stopped; it is retried.
#[derive(Debug, thiserror::Error)]
pub(in crate::sources) enum Obstacle {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(
        "the server is a replica (its role: {role}): what a replica has may be old, and it refuses writes; name the \
         primary, or Sentinel, which finds it"
    )]
    NotPrimary { role: Box<str> },
    #[error(
        "INFO names no role: a proxy, such as Envoy's redis_proxy or Twemproxy, does not keep a log; \
         name the server behind it"
    )]
    NoRole,
    #[error("the server became the primary again")]
    Changed,
    #[error("maxmemory-policy is {policy}: revocations may be evicted; set noeviction, or allow_eviction")]
    MayEvict { policy: Box<str> },
    #[error("{LOG_EXHAUSTED}{failed}")]
    LogExhausted { failed: Box<str> },
}

impl Obstacle {
    pub(super) fn state(&self) -> ReplicaState {
        match self {
            Self::NotPrimary { .. } | Self::NoRole => ReplicaState::NotPrimary,
            Self::Changed => ReplicaState::Unreachable,
            Self::MayEvict { .. } => ReplicaState::MayEvict,
            Self::LogExhausted { .. } => ReplicaState::LogExhausted,
            Self::Ledger(error) => match error {
                LedgerError::Unavailable { .. } | LedgerError::Timeout { .. } | LedgerError::BreakerOpen => {
                    ReplicaState::Unreachable
                }
                LedgerError::Refused { kind: RefusalKind::NotPermitted, .. } => ReplicaState::AccessDenied,
                LedgerError::Refused { kind: RefusalKind::LogExhausted, .. } => ReplicaState::LogExhausted,
                LedgerError::NamesDiffer => ReplicaState::NamesDiffer,
                LedgerError::Refused { .. } | LedgerError::NotReplicated { .. } | LedgerError::File { .. } => {
                    ReplicaState::Refusing
                }
            },
        }
    }

    /// A fault with which a running instance continues, with a warning: a changed setting must not stop the whole
    /// fleet.
    pub(super) fn is_tolerable(&self) -> bool {
        matches!(self, Self::MayEvict { .. })
    }

    /// Checks whether a server is still the same primary as at an earlier check.
    pub(in crate::sources) fn is_still(was: &Server, now: &Server) -> Result<(), Self> {
        Self::is_primary(now)?;
        if now.replication_id == was.replication_id { Ok(()) } else { Err(Self::Changed) }
    }

    fn is_primary(server: &Server) -> Result<(), Self> {
        match &*server.role {
            "master" => Ok(()),
            "" => Err(Self::NoRole),
            role => Err(Self::NotPrimary { role: role.into() }),
        }
    }

    /// Finds a reason why a store must not keep revocations.
    pub(in crate::sources) fn examine(facts: StoreFacts, allow_eviction: bool) -> Result<(), Self> {
        Self::is_primary(&facts.server)?;
        if facts.max_memory > 0 && &*facts.eviction_policy != "noeviction" && !allow_eviction {
            return Err(Self::MayEvict { policy: facts.eviction_policy });
        }
        Ok(())
    }
}

pub(super) struct Health(Mutex<HealthState>);

struct HealthState {
    status: ReplicaStatus,
    /// The start of the present obstacle; `None` without one.
    hindered: Option<Steady>,
    warned: bool,
}

impl Health {
    /// The time for which a store may be unreachable before the log warns: a failover or restart is over by then.
    pub(super) const LASTING: Duration = Duration::from_secs(5);

    pub(super) fn new(state: ReplicaState) -> Self {
        let status = ReplicaStatus { ready: state == ReplicaState::Following, state, detail: None };
        Self(Mutex::new(HealthState { status, hindered: None, warned: false }))
    }

    pub(super) fn status(&self) -> ReplicaStatus {
        self.lock().status.clone()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.lock().status.ready
    }

    /// Records a state; it is logged when it changes, not at every retry.
    pub(super) fn set(&self, state: ReplicaState) {
        let mut watched = self.lock();
        let status = &mut watched.status;
        if status.state != state {
            tracing::info!(%state, was = %status.state, "revocation store");
        }
        status.ready |= state == ReplicaState::Following;
        status.state = state;
        status.detail = None;
        if state == ReplicaState::Following {
            (watched.hindered, watched.warned) = (None, false);
        }
    }

    /// Records an obstacle. A permanent one is a warning at once; an unreachable store is one after a while.
    pub(super) fn hindered(&self, obstacle: &Obstacle) {
        let state = obstacle.state();
        let mut watched = self.lock();
        let since = *watched.hindered.get_or_insert_with(Steady::now);
        let was = watched.status.state;
        let lasts = state != ReplicaState::Unreachable || since.elapsed() > Self::LASTING;
        if lasts && (was != state || !watched.warned) {
            tracing::warn!(%state, %was, error = %obstacle, "revocation store");
            watched.warned = true;
        } else if was != state {
            tracing::info!(%state, %was, error = %obstacle, "revocation store");
        }
        watched.status.state = state;
        watched.status.detail = Some(obstacle.to_string().into());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HealthState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_that_may_forget_are_unfit() {
        let judge = |role: &str, max_memory, policy: &str, allow| {
            let server = Server { role: role.into(), replication_id: "r".into() };
            let facts = StoreFacts { server, max_memory, eviction_policy: policy.into() };
            Obstacle::examine(facts, allow).map_err(|obstacle| obstacle.state().as_str())
        };
        assert_eq!(judge("master", 0, "allkeys-lru", false), Ok(()), "no limit, nothing is evicted");
        assert_eq!(judge("master", 1, "noeviction", false), Ok(()));
        assert_eq!(judge("master", 1, "volatile-lru", false), Err("may_evict"));
        assert_eq!(judge("master", 1, "volatile-lru", true), Ok(()));
        assert_eq!(judge("", 0, "", true), Err("not_primary"), "a proxy");
        assert_eq!(judge("slave", 0, "noeviction", true), Err("not_primary"));
    }
}
