//! `POST /oidc/backchannel-logout`: OpenID Connect Back-Channel Logout 1.0.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Http;
use super::form::{OAuthError, admit, count, read};
use crate::api::event_source::{EventSource, LogoutError, log_out};
use crate::authz::denial::Denial;

/// The form that an OpenID provider sends (section 2.5).
#[derive(Deserialize, ToSchema)]
pub(super) struct LogoutForm {
    #[schema(value_type = String, required)]
    logout_token: Option<String>,
}

/// Receives an OpenID provider's message that a session, or all sessions of a user, ended.
///
/// The logout token is the credential: it is signed by a configured issuer, for one of
/// `backchannel_logout.audiences`. Its session is signed out if it names one, else its user.
#[utoipa::path(
    post, path = "/oidc/backchannel-logout", tag = "sign-out",
    request_body(content = LogoutForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The session or the user is signed out."),
        OAuthError,
    )
)]
pub(super) async fn backchannel_logout(State(http): State<Http>, request: Request) -> Response<Body> {
    let done = take(&http, request).await;
    count(&http, EventSource::BackchannelLogout, done.as_ref().map(|()| "applied").map_err(|(label, _)| *label));
    match done {
        Ok(()) => StatusCode::OK.into_response(),
        Err((_, error)) => error.answer(&http),
    }
}

async fn take(http: &Http, request: Request) -> Result<(), (&'static str, OAuthError)> {
    let labelled = |error: OAuthError| (error.label(), error);
    let LogoutForm { logout_token } = read(http, request).await.map_err(labelled)?;
    let _permit = admit(http).ok_or(OAuthError::Busy).map_err(labelled)?;
    let token = logout_token.ok_or(OAuthError::InvalidRequest("`logout_token` is missing")).map_err(labelled)?;
    log_out(&http.state, &token).await.map_err(|error| match error {
        LogoutError::Denied(refused) => {
            let denial = refused.refusal.denial;
            let fault = refused
                .for_sender()
                .map(|fault| OAuthError::InvalidMessage(format!("the logout token: {fault}").into()));
            (denial.label(), fault.unwrap_or_else(|| explain(denial)))
        }
        LogoutError::Replayed => ("replayed", OAuthError::InvalidRequest("this logout token was used before")),
        LogoutError::Store => (Denial::StoreUnavailable.label(), explain(Denial::StoreUnavailable)),
    })
}

const fn explain(denial: Denial) -> OAuthError {
    OAuthError::InvalidRequest(match denial {
        denial if denial.is_temporary() => return OAuthError::Unavailable(denial.message()),
        Denial::UnknownIssuer => "the issuer of the logout token is not configured here",
        Denial::UnknownKey => "the logout token is signed by a key that its issuer does not publish",
        Denial::AlgorithmNotAllowed => "the algorithm of the logout token is not allowed",
        Denial::BadSignature => "the signature of the logout token is not valid",
        Denial::WrongType => "this is not a logout token",
        Denial::WrongAudience => "the logout token is for another audience",
        Denial::MissingClaim | Denial::InvalidClaim => "`iss` of the logout token is missing or not text",
        Denial::Expired => "the logout token has expired",
        Denial::NotYetValid => "the logout token is dated in the future",
        Denial::LifetimeTooLong => "the lifetime of the logout token is too long",
        _ => "the logout token is not well-formed",
    })
}
