//! The ways in for other servers: each is verified, parsed to revocations, and appended by the one function
//! that appends ([`Replica::revoke`](crate::state::Replica::revoke)).
//!
//! What was answered as taken is in the store. What the store did not take is answered as a passing failure
//! and not remembered, so that the sender's next attempt counts.

pub mod events;
mod logout;

use tracing::{info, warn};

pub(super) use logout::{LogoutError, log_out};

use crate::authz::claims::IssuerName;
use crate::authz::denial::Denial;
use crate::authz::refusal::Refusal;
use crate::authz::revocation::Revocation;
use crate::state::{DecisionLog, LedgerError, Policy, State};

/// A way in; a closed set of labels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Inlet {
    Revoke,
    Introspect,
    BackchannelLogout,
    Push,
    Poll,
    GlobalRevocation,
}

impl Inlet {
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Revoke => "oauth2_revoke",
            Self::Introspect => "oauth2_introspect",
            Self::BackchannelLogout => "backchannel_logout",
            Self::Push => "signals_push",
            Self::Poll => "signals_poll",
            Self::GlobalRevocation => "global_token_revocation",
        }
    }

    /// Counts one message; `result` is of a closed set, the labels of [`Denial`] among them.
    pub(super) fn count(self, state: &State, result: &'static str) {
        state.metrics.inlet_events.with_label_values(&[self.label(), result]).inc();
    }
}

/// Why a message is not taken, and whose keys might help.
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) issuer: Option<IssuerName>,
}

impl Refused {
    /// What a message lacks, for its sender: of one whose signature was verified only, which is when its claims are
    /// looked at.
    pub(super) fn told(&self) -> Option<&str> {
        let lacks = matches!(self.refusal.denial, Denial::MissingClaim | Denial::InvalidClaim);
        self.refusal.detail.as_deref().filter(|_| lacks && self.issuer.is_some())
    }
}

impl<T: Into<Refusal>> From<T> for Refused {
    fn from(refusal: T) -> Self {
        Self { refusal: refusal.into(), issuer: None }
    }
}

/// Verifies by the keys in force; a key that is not among them is fetched once, within the bounds of
/// `keys.cooldown`, before it counts as unknown. A refusal is logged as those of decisions are.
pub(super) async fn verified<T>(
    state: &State,
    inlet: Inlet,
    attempt: impl Fn(&Policy) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let policy = state.policy();
    let mut attempted = attempt(&policy);
    if let Err(Refused { refusal: Refusal { denial: Denial::UnknownKey, .. }, issuer: Some(issuer) }) = &attempted {
        let _ = tokio::time::timeout(policy.max_wait, state.keys().refresh(issuer)).await;
        attempted = attempt(&state.policy());
    }
    attempted.inspect_err(|refused| log(&policy, inlet, refused))
}

/// Logs why a message is not taken.
fn log(policy: &Policy, inlet: Inlet, Refused { refusal, issuer }: &Refused) {
    if policy.decision_log != DecisionLog::None {
        let (inlet, reason) = (inlet.label(), refusal.denial.label());
        let issuer = issuer.as_ref().map(tracing::field::display);
        info!(inlet, reason, detail = refusal.detail.as_deref(), issuer, "message refused");
    }
}

/// Puts revocations into the store, those that can still hit anything at any instance.
pub(super) async fn revoke(state: &State, inlet: Inlet, mut revocations: Vec<Revocation>) -> Result<(), LedgerError> {
    let (over, longest) = (state.replica.surely_over(), state.replica.longest_retention());
    for revocation in &mut revocations {
        revocation.last_for(longest.unwrap_or_default());
    }
    let given = revocations.len();
    let alive: Vec<_> = revocations.into_iter().filter(|revocation| revocation.expires_at > over).collect();
    if alive.len() < given && longest.is_none() {
        let cause = "how long tokens are accepted by other instances is not known yet".into();
        return Err(LedgerError::Unavailable { cause });
    }
    let inlet = inlet.label();
    if alive.is_empty() {
        return Ok(());
    }
    let kinds: Vec<_> =
        alive.iter().map(|revocation| (revocation.target.kind, revocation.target.issuer.clone())).collect();
    match state.replica.revoke(alive).await {
        Ok(position) => {
            for (kind, issuer) in kinds {
                info!(inlet, %kind, %issuer, %position, "revoked");
            }
            Ok(())
        }
        Err(error) => {
            warn!(inlet, error = error.label(), "revocation not stored");
            Err(error)
        }
    }
}
