//! The errors of requests, and the one place that converts them to answers.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tracing::error;

use super::passwords::Busy;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("login or password is wrong")]
    WrongPassword,
    #[error("the old password is wrong")]
    WrongOldPassword,
    #[error("too many passwords were tried for this login; try again in a minute")]
    TooManyGuesses,
    #[error("the refresh token is unknown, used, expired, or of a session that ended")]
    InvalidRefreshToken,
    #[error("client authentication failed")]
    UnknownClient,
    #[error("no identity: this is reached through Envoy and Doorward")]
    Unauthenticated,
    #[error("the permission `admin` is needed")]
    NotAdmin,
    #[error("there is no user of this login")]
    UnknownLogin,
    #[error("{0}")]
    Invalid(&'static str),
    #[error("{}", .0.body_text())]
    Body(#[from] JsonRejection),
    #[error("busy; try again")]
    Busy,
    #[error("the change is stored, but Doorward does not know yet: access tokens live to their end, at most 5 minutes")]
    NotTold(#[source] anyhow::Error),
    #[error("the database does not answer")]
    Database(#[from] sqlx::Error),
    #[error("internal error")]
    Internal(#[source] anyhow::Error),
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        if error.is::<Busy>() { Self::Busy } else { Self::Internal(error) }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        // Codes of RFC 6749 section 5.2, RFC 6750 section 3.1, and 6749 section 4.1.2.1.
        let (status, code) = match &self {
            Self::WrongPassword => (StatusCode::UNAUTHORIZED, "invalid_grant"),
            Self::InvalidRefreshToken => (StatusCode::BAD_REQUEST, "invalid_grant"),
            Self::WrongOldPassword => (StatusCode::FORBIDDEN, "access_denied"),
            Self::UnknownClient => (StatusCode::UNAUTHORIZED, "invalid_client"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "invalid_token"),
            Self::NotAdmin => (StatusCode::FORBIDDEN, "insufficient_scope"),
            Self::UnknownLogin => (StatusCode::NOT_FOUND, "unknown_login"),
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::Body(rejection) => (rejection.status(), "invalid_request"),
            Self::TooManyGuesses => (StatusCode::TOO_MANY_REQUESTS, "slow_down"),
            Self::Busy | Self::NotTold(_) | Self::Database(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable")
            }
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
        };
        let mut headers = HeaderMap::from_iter([(CACHE_CONTROL, HeaderValue::from_static("no-store"))]);
        match &self {
            Self::TooManyGuesses => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("60"))),
            Self::UnknownClient => drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic"))),
            Self::Busy => drop(headers.insert(RETRY_AFTER, HeaderValue::from_static("2"))),
            Self::NotTold(cause) | Self::Internal(cause) => error!(error = format!("{cause:#}"), "{self}"),
            Self::Database(cause) => error!(error = %cause, "{self}"),
            _ => {}
        }
        (status, headers, Json(json!({"error": code, "error_description": self.to_string()}))).into_response()
    }
}
