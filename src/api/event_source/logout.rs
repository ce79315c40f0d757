//! Logout tokens: from the text to a revocation in the store.

use super::{EventSource, Refused, issuer, receive, revoke};
use crate::authz::token::{TrustedIssuer, UnverifiedToken};
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
    let check =
        |_: &Policy, issuer: &TrustedIssuer, token: UnverifiedToken<'_>| issuer.verify_logout(token, clock::now());
    let verified = receive(state, EventSource::BackchannelLogout, token, issuer, check).await;
    let (_, token) = verified.map_err(LogoutError::Denied)?;
    if state.replays.knows(&token.id) {
        return Err(LogoutError::Replayed);
    }
    revoke(state, EventSource::BackchannelLogout, vec![token.revocation]).await.map_err(|_| LogoutError::Store)?;
    state.replays.remember(token.id, clock::now());
    Ok(())
}
