//! Bodies of forms, and the errors of OAuth 2.0 (RFC 6749 section 5.2), which these endpoints share.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;
use utoipa::openapi::{self, RefOr};
use utoipa::{IntoResponses, ToSchema};

use super::Http;
use super::problem::errors;
use crate::api::event_source::EventSource;
use crate::state::admin_key::Permission;

/// An OAuth 2.0 error (RFC 6749 section 5.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum OAuthError {
    /// The form lacks this parameter, repeats it, or is not a form.
    InvalidRequest(&'static str),
    /// The message in the form has this fault.
    InvalidMessage(Box<str>),
    TooLarge,
    /// The credentials are missing or wrong.
    InvalidClient(&'static str),
    /// The key is configured, but lacks the permission; or no keys are configured.
    UnauthorizedClient(&'static str),
    UnsupportedTokenType,
    /// Too many requests at once.
    Busy,
    /// A dependency is unavailable.
    Unavailable(&'static str),
}

/// An error of OAuth 2.0 (RFC 6749 section 5.2).
#[derive(Serialize, ToSchema)]
pub(super) struct OAuthErrorBody {
    error: &'static str,
    error_description: String,
}

/// The refusals of an endpoint with such a form.
impl IntoResponses for OAuthError {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        errors::<OAuthErrorBody, _>(
            "application/json",
            [
                (StatusCode::BAD_REQUEST, "Not such a form, or its content is refused."),
                (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large."),
                (StatusCode::TOO_MANY_REQUESTS, "Too many requests of this kind at once; nothing was applied."),
                (StatusCode::SERVICE_UNAVAILABLE, "Not stored; try again after `Retry-After`."),
            ],
        )
    }
}

/// The name of a client's admin key; `None` without credentials.
pub(super) struct Client(pub(super) Option<Arc<str>>);

impl IntoResponses for Client {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        errors::<OAuthErrorBody, _>(
            "application/json",
            [
                (StatusCode::UNAUTHORIZED, "The credentials are missing or not known."),
                (StatusCode::FORBIDDEN, "The key may not do this."),
            ],
        )
    }
}

impl OAuthError {
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::InvalidRequest(_) | Self::InvalidMessage(_) => "invalid_request",
            Self::TooLarge => "too_large",
            Self::InvalidClient(_) => "invalid_client",
            Self::UnauthorizedClient(_) => "unauthorized_client",
            Self::UnsupportedTokenType => "unsupported_token_type",
            Self::Busy => "busy",
            Self::Unavailable(_) => "unavailable",
        }
    }

    fn describe(&self) -> (StatusCode, &'static str, &str) {
        match self {
            Self::InvalidRequest(detail) => (StatusCode::BAD_REQUEST, "invalid_request", detail),
            Self::InvalidMessage(detail) => (StatusCode::BAD_REQUEST, "invalid_request", detail),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "invalid_request", "the body is too large"),
            Self::InvalidClient(detail) => (StatusCode::UNAUTHORIZED, "invalid_client", detail),
            Self::UnauthorizedClient(detail) => (StatusCode::FORBIDDEN, "unauthorized_client", detail),
            Self::UnsupportedTokenType => {
                (StatusCode::BAD_REQUEST, "unsupported_token_type", "tokens of this kind cannot be revoked here")
            }
            Self::Busy => {
                (StatusCode::TOO_MANY_REQUESTS, "temporarily_unavailable", "too many requests of this kind at once")
            }
            Self::Unavailable(detail) => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", detail),
        }
    }
}

impl OAuthError {
    pub(super) fn answer(&self, http: &Http) -> Response<Body> {
        let (status, error, description) = self.describe();
        // RFC 6749 section 5.2 allows neither of these in a description.
        let error_description = description.replace(['"', '\\'], "'");
        let mut response = (status, axum::Json(OAuthErrorBody { error, error_description })).into_response();
        if matches!(self, Self::Busy | Self::Unavailable(_)) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if matches!(self, Self::InvalidClient(_)) {
            let policy = http.state.policy();
            let realm = policy.responder.realm();
            let challenges =
                [format!("Basic realm=\"{realm}\", charset=\"UTF-8\""), format!("Bearer realm=\"{realm}\"")];
            for challenge in challenges.into_iter().filter_map(|challenge| HeaderValue::try_from(challenge).ok()) {
                response.headers_mut().append(header::WWW_AUTHENTICATE, challenge);
            }
        }
        response
    }
}

/// A permit to process a message, out of a bounded number; taken once the body is complete, since a slow
/// sender would block others.
pub(super) fn admit(http: &Http) -> Option<OwnedSemaphorePermit> {
    http.messages.clone().try_acquire_owned().ok()
}

/// Counts how a request ended.
pub(super) fn count(http: &Http, source: EventSource, result: Result<&'static str, &'static str>) {
    source.count(&http.state, result.unwrap_or_else(|error| error));
}

/// The parameters of a form (RFC 6749 appendix B), each there once at most. A parameter without a value counts as left
/// out (section 3.1), so each field of `T` is an optional text.
pub(super) async fn read<T: DeserializeOwned>(http: &Http, request: Request) -> Result<T, OAuthError> {
    if media_type(request.headers()).as_deref() != Some("application/x-www-form-urlencoded") {
        return Err(OAuthError::InvalidRequest("send `Content-Type: application/x-www-form-urlencoded`"));
    }
    let body = read_body(http, request).await?;
    let mut form = Map::new();
    for (name, value) in url::form_urlencoded::parse(&body) {
        let value = if value.is_empty() { Value::Null } else { Value::String(value.into_owned()) };
        if form.insert(name.into_owned(), value).is_some() {
            return Err(OAuthError::InvalidRequest("a parameter is repeated"));
        }
    }
    T::deserialize(Value::Object(form)).map_err(|_| OAuthError::InvalidRequest("a parameter is not text"))
}

/// A body within the bounds of `limits.http_body_bytes`.
pub(super) async fn read_body(http: &Http, request: Request) -> Result<Bytes, OAuthError> {
    Bytes::from_request(request, http).await.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => OAuthError::TooLarge,
        _ => OAuthError::InvalidRequest("the body could not be read to its end"),
    })
}

/// The media type of the body, in lower case and without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let field = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    field.split(';').next().map(|media_type| media_type.trim().to_ascii_lowercase())
}

/// The client, by `Bearer KEY` or `Basic NAME:KEY` (RFC 6749 section 2.3.1).
pub(super) fn client(http: &Http, headers: &HeaderMap, permission: Permission) -> Result<Client, OAuthError> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let Some(field) = fields.next() else { return Ok(Client(None)) };
    let wrong = OAuthError::InvalidClient("the key is not in admin.keys");
    if fields.next().is_some() {
        return Err(OAuthError::InvalidClient("more than one Authorization header"));
    }
    let (name, key) = credentials(field.as_bytes()).ok_or_else(|| wrong.clone())?;
    let policy = http.state.policy();
    let found =
        policy.admin_keys.find(&key).filter(|found| name.is_none_or(|name| name == *found.name)).ok_or(wrong)?;
    if !found.may(permission) {
        return Err(OAuthError::UnauthorizedClient("`may` of this key in admin.keys does not list this permission"));
    }
    Ok(Client(Some(found.name.clone())))
}

fn credentials(field: &[u8]) -> Option<(Option<String>, Vec<u8>)> {
    let space = field.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = (&field[..space], field[space..].trim_ascii());
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some((None, rest.to_vec()));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    let (name, key) = pair.split_once(':')?;
    // Both are form-encoded; a plus sign is a space.
    let decode = |text: &str| {
        url::form_urlencoded::parse(format!("x={text}").as_bytes()).next().map(|(_, text)| text.into_owned())
    };
    Some((Some(decode(name)?), decode(key)?.into_bytes()))
}
