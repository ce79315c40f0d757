//! Logout tokens: from the text to a revocation in the store.

use super::{EventSource, Refused, revoke, verified};
use crate::authz::token::{BearerToken, UnverifiedToken};
use crate::clock;
use crate::state::{Policy, State};

/// Why a logout token is refused.
pub(in crate::api) enum LogoutError {
    Denied(Refused),
    Replayed,
    Store,
}

/// Applies a logout token (OpenID Connect Back-Channel Logout 1.0 section 2.6).
pub(in crate::api) async fn log_out(state: &State, token: &str) -> Result<(), LogoutError> {
    let verify = |policy: &Policy| {
        let bearer = BearerToken::parse(token.as_bytes(), policy.authorizer.tokens.max_bytes)?;
        let unverified = UnverifiedToken::parse(bearer)?;
        let issuer = policy.authorizer.issuer(&unverified.unverified_issuer()?)?;
        let refused = |refusal| Refused { refusal, issuer: Some(issuer.name.clone()) };
        issuer.verify_logout(unverified, clock::now()).map_err(refused)
    };
    let token = verified(state, EventSource::BackchannelLogout, verify).await.map_err(LogoutError::Denied)?;
    if state.replays.knows(&token.id) {
        return Err(LogoutError::Replayed);
    }
    let revocations = token.revocation.into_iter().collect();
    revoke(state, EventSource::BackchannelLogout, revocations).await.map_err(|_| LogoutError::Store)?;
    state.replays.remember(token.id, clock::now());
    Ok(())
}
