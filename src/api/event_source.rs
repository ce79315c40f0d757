//! Messages of other servers: each is verified, parsed to revocations, and appended by the one function that
//! appends ([`Replica::revoke`](crate::state::Replica::revoke)).
//!
//! A message that was acknowledged is in the store. A message that the store refused is answered as a temporary
//! failure and not remembered, so that the sender's next attempt counts.

pub mod events;
mod logout;

use std::sync::Arc;

use tracing::{info, warn};

pub(super) use logout::{LogoutError, log_out};

use crate::authz::claims::IssuerName;
use crate::authz::denial::Denial;
use crate::authz::labels;
use crate::authz::refusal::{List, Refusal, Shown};
use crate::authz::revocation::Revocation;
use crate::authz::signals::Transmitter;
use crate::authz::token::{BearerToken, TrustedIssuer, UnverifiedToken};
use crate::state::{DecisionLog, LedgerError, Policy, State};

labels! {
    /// A receiver of messages.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum EventSource {
        Revoke = "oauth2_revoke",
        Introspect = "oauth2_introspect",
        BackchannelLogout = "backchannel_logout",
        Push = "signals_push",
        Poll = "signals_poll",
        GlobalRevocation = "global_token_revocation",
    }
}

impl EventSource {
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

    /// Whether the message is known to be its signer's: the refusal is that of a claim, which is read after the signature.
    fn is_signed(&self) -> bool {
        let is_of_claim = matches!(
            self.refusal.denial,
            Denial::MissingClaim | Denial::InvalidClaim | Denial::WrongAudience | Denial::Expired | Denial::NotYetValid
        );
        is_of_claim && self.issuer.is_some()
    }
}

impl<T: Into<Refusal>> From<T> for Refused {
    fn from(refusal: T) -> Self {
        Self { refusal: refusal.into(), issuer: None }
    }
}

/// A server that signs JWTs for this one. Its keys are published, and fetched under its name.
pub(super) trait Signer {
    fn name(&self) -> &IssuerName;
}

impl Signer for TrustedIssuer {
    fn name(&self) -> &IssuerName {
        &self.name
    }
}

impl Signer for Transmitter {
    fn name(&self) -> &IssuerName {
        &self.name
    }
}

/// Verifies a JWT of another server: `signer` finds the server that the token names, `check` applies the rules for its
/// kind of token.
///
/// A key that is not among the signer's is fetched once, within the bounds of `keys.cooldown`, before it counts as
/// unknown.
pub(super) async fn verify<S: Signer, T>(
    state: &State,
    token: &str,
    signer: impl Fn(&Policy, &UnverifiedToken<'_>) -> Result<Arc<S>, Refusal>,
    check: impl Fn(&Policy, &S, UnverifiedToken<'_>) -> Result<T, Refusal>,
) -> Result<(Arc<S>, T), Refused> {
    let attempt = |policy: &Policy| -> Result<(Arc<S>, T), Refused> {
        let bearer = BearerToken::parse(token.as_bytes(), policy.authorizer.tokens.max_bytes)?;
        let unverified = UnverifiedToken::parse(bearer)?;
        let signer = signer(policy, &unverified)?;
        match check(policy, &signer, unverified) {
            Ok(checked) => Ok((signer, checked)),
            Err(refusal) => Err(Refused { refusal, issuer: Some(signer.name().clone()) }),
        }
    };
    let policy = state.policy();
    let attempted = attempt(&policy);
    match &attempted {
        Err(Refused { refusal: Refusal { denial: Denial::UnknownKey, .. }, issuer: Some(issuer) }) => {
            let _ = tokio::time::timeout(policy.max_wait, state.keys().refresh(issuer)).await;
            attempt(&state.policy())
        }
        _ => attempted,
    }
}

/// As [`verify`], for a message; a refusal is logged as those of decisions are.
pub(super) async fn receive<S: Signer, T>(
    state: &State,
    source: EventSource,
    token: &str,
    signer: impl Fn(&Policy, &UnverifiedToken<'_>) -> Result<Arc<S>, Refusal>,
    check: impl Fn(&Policy, &S, UnverifiedToken<'_>) -> Result<T, Refusal>,
) -> Result<(Arc<S>, T), Refused> {
    verify(state, token, signer, check).await.inspect_err(|refused| log(&state.policy(), source, refused))
}

/// The configured issuer that a token names.
pub(super) fn issuer(policy: &Policy, token: &UnverifiedToken<'_>) -> Result<Arc<TrustedIssuer>, Refusal> {
    policy.authorizer.issuer(&token.unverified_issuer()?).cloned()
}

/// The transmitter that a token names. Several may have one issuer: it is the transmitter of the name under which the
/// token was `polled`, otherwise the one whose audience the token names.
pub(super) fn transmitter(
    policy: &Policy,
    token: &UnverifiedToken<'_>,
    polled: Option<&IssuerName>,
) -> Result<Arc<Transmitter>, Refusal> {
    let issuer = token.unverified_issuer()?;
    let theirs: Vec<_> = policy.transmitters.iter().filter(|from| from.issuer == issuer).collect();
    if theirs.is_empty() {
        let known = policy.transmitters.iter().map(|from| &from.issuer);
        let found = format_args!("`iss` is {}; transmitters: {}", Shown(&issuer), List(known));
        return Err(Refusal::new(Denial::UnknownIssuer, found));
    }
    // A single transmitter is taken without its audience, which `check` verifies after the signature.
    let is_it = |from: &Transmitter| match polled {
        Some(name) => from.name == *name,
        None => theirs.len() == 1 || from.is_named_by(token),
    };
    theirs.iter().find(|from| is_it(from)).map(|from| Arc::clone(from)).ok_or_else(|| Denial::WrongAudience.into())
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
