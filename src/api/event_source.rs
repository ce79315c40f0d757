//! Messages of other servers: each is verified, parsed to revocations, and appended by the one function that
//! appends ([`Replica::revoke`](crate::state::Replica::revoke)).
//!
//! A message that was acknowledged is in the store. A message that the store refused is answered as a temporary
//! failure and not remembered, so that the sender's next attempt counts.

pub mod events;
mod logout;

use tracing::{info, warn};

pub(super) use logout::{LogoutError, log_out};

use crate::authz::claims::IssuerName;
use crate::authz::denial::Denial;
use crate::authz::refusal::Refusal;
use crate::authz::revocation::Revocation;
use crate::state::{DecisionLog, LedgerError, Policy, State};

/// A receiver of messages; a closed set of labels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventSource {
    Revoke,
    Introspect,
    BackchannelLogout,
    Push,
    Poll,
    GlobalRevocation,
}

impl EventSource {
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

/// Why a message is refused, and the issuer whose keys, fetched again, might verify it.
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) issuer: Option<IssuerName>,
}

impl Refused {
    /// The fault of a message, for its sender: only after its signature was verified, because claims are read after
    /// that.
    pub(super) fn for_sender(&self) -> Option<&str> {
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
    source: EventSource,
    attempt: impl Fn(&Policy) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let policy = state.policy();
    let mut attempted = attempt(&policy);
    if let Err(Refused { refusal: Refusal { denial: Denial::UnknownKey, .. }, issuer: Some(issuer) }) = &attempted {
        let _ = tokio::time::timeout(policy.max_wait, state.keys().refresh(issuer)).await;
        attempted = attempt(&state.policy());
    }
    attempted.inspect_err(|refused| log(&policy, source, refused))
}

/// Logs why a message is refused.
fn log(policy: &Policy, source: EventSource, Refused { refusal, issuer }: &Refused) {
    if policy.decision_log != DecisionLog::None {
        let (inlet, reason) = (source.label(), refusal.denial.label());
        let issuer = issuer.as_ref().map(tracing::field::display);
        info!(inlet, reason, detail = refusal.detail.as_deref(), issuer, "message refused");
    }
}

/// Stores revocations, for as long as any instance needs them.
pub(super) async fn revoke(
    state: &State,
    source: EventSource,
    mut revocations: Vec<Revocation>,
) -> Result<(), LedgerError> {
    let longest = state.replica.longest_retention().unwrap_or_default();
    for revocation in &mut revocations {
        revocation.last_for(longest);
    }
    let inlet = source.label();
    if revocations.is_empty() {
        return Ok(());
    }
    let kinds: Vec<_> =
        revocations.iter().map(|revocation| (revocation.target.kind, revocation.target.issuer.clone())).collect();
    match state.replica.revoke(revocations).await {
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
