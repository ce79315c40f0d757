//! `POST /signals/events`: pushed security event tokens (RFC 8935).

use std::borrow::Cow;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::Http;
use super::extract::bearer;
use super::form::{OAuthError, admit, media_type, read_body};
use super::problem::{Error, Problem, ProblemDetails};
use crate::api::event_source::EventSource;
use crate::api::event_source::events::{Delivery, EventError, take};

/// Why a token is refused (RFC 8935 section 2.3).
#[derive(Serialize, ToSchema)]
pub(super) struct EventErrorBody {
    /// `invalid_request`, `invalid_key`, `invalid_issuer`, `invalid_audience`, `authentication_failed`,
    /// `access_denied` or `invalid_state`.
    err: &'static str,
    description: Cow<'static, str>,
}

/// Receives a security event token of a configured transmitter.
///
/// 202 means that its revocations are in the store; also for an event that does not concern tokens, and for
/// a repeated token.
#[utoipa::path(
    post, path = "/signals/events", tag = "sign-out", security((), ("push_token" = [])),
    request_body(content = String, content_type = "application/secevent+jwt"),
    responses(
        (status = 202, description = "The events are accepted."),
        (status = 400, description = "The token is refused.", body = EventErrorBody),
        (status = 401, description = "The configured token of the transmitter is missing.", body = EventErrorBody),
        (status = 413, description = "The body is too large.", body = EventErrorBody),
        (status = 415, description = "The content type is not application/secevent+jwt.", body = EventErrorBody),
        (status = 429, description = "Too much of this at once; nothing was applied.", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "Not stored; send it again after `Retry-After`.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn events(State(http): State<Http>, request: Request) -> Response<Body> {
    // RFC 8935 section 2.1 requires this type.
    if media_type(request.headers()).as_deref() != Some("application/secevent+jwt") {
        EventSource::Push.count(&http.state, "invalid_request");
        let description = "send `Content-Type: application/secevent+jwt`";
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request", description);
    }
    let headers: HeaderMap = request.headers().clone();
    let body = match read_body(&http, request).await {
        Ok(body) => body,
        Err(error) => {
            EventSource::Push.count(&http.state, error.label());
            return match error {
                OAuthError::TooLarge => {
                    refuse(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "the body is too large")
                }
                _ => refuse(StatusCode::BAD_REQUEST, "invalid_request", "the body could not be read to its end"),
            };
        }
    };
    let Some(_permit) = admit(&http) else {
        EventSource::Push.count(&http.state, "busy");
        return Problem::new(Error::Busy, "limits.inlet_requests in the configuration is the bound").into_response();
    };
    let text = std::str::from_utf8(&body).unwrap_or_default().trim_ascii();
    match take(&http.state, text, Delivery::Pushed(bearer(&headers))).await {
        Ok(()) => StatusCode::ACCEPTED.into_response(),
        Err(error) => match error.code() {
            Some(code) => {
                let unknown = error == EventError::Unauthenticated;
                let status = if unknown { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
                let mut response = refuse(status, code, error.description());
                if unknown {
                    let challenge = format!("Bearer realm=\"{}\"", http.state.policy().responder.realm());
                    let challenge = header::HeaderValue::try_from(challenge).ok();
                    let headers = response.headers_mut();
                    headers.extend(challenge.map(|challenge| (header::WWW_AUTHENTICATE, challenge)));
                }
                response
            }
            None => Problem::new(Error::NotTaken, error.description()).into_response(),
        },
    }
}

fn refuse(status: StatusCode, err: &'static str, description: impl Into<Cow<'static, str>>) -> Response<Body> {
    let description = description.into();
    let mut response = (status, Json(EventErrorBody { err, description })).into_response();
    let language = header::HeaderValue::from_static("en");
    response.headers_mut().insert(header::CONTENT_LANGUAGE, language); // RFC 8935 section 2.3.
    response
}
