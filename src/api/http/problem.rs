//! Errors of the HTTP API: problem details (RFC 9457).

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::{self, Content, Ref, RefOr, ResponseBuilder};

/// The problem type; a closed set, each with its own type URI.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Error {
    MalformedJson,
    InvalidParameter,
    InvalidToken,
    MissingCredentials,
    UnknownCredentials,
    NoAdminKeys,
    NotPermitted,
    NotFound,
    MethodNotAllowed,
    TooLarge,
    UnsupportedMediaType,
    InvalidField,
    InvalidSubject,
    UnknownUser,
    ForeignOrigin,
    Busy,
    KeysUnavailable,
    StoreUnavailable,
    NotTaken,
    NotCurrent,
    TimedOut,
}

impl Error {
    /// The end of the type URI, the status, and the title.
    const fn describe(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::MalformedJson => ("malformed-json", StatusCode::BAD_REQUEST, "The body is not JSON"),
            Self::InvalidParameter => ("invalid-parameter", StatusCode::BAD_REQUEST, "A query parameter is not valid"),
            Self::InvalidToken => ("invalid-token", StatusCode::BAD_REQUEST, "The token is not valid"),
            Self::MissingCredentials => ("missing-credentials", StatusCode::UNAUTHORIZED, "An admin key is required"),
            Self::UnknownCredentials => ("unknown-credentials", StatusCode::UNAUTHORIZED, "The admin key is not known"),
            Self::NoAdminKeys => ("no-admin-keys", StatusCode::FORBIDDEN, "No admin keys are configured"),
            Self::NotPermitted => ("not-permitted", StatusCode::FORBIDDEN, "The admin key lacks the permission"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "The resource does not exist"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "The method is not allowed")
            }
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::UnsupportedMediaType => {
                ("unsupported-media-type", StatusCode::UNSUPPORTED_MEDIA_TYPE, "The content type is not JSON")
            }
            Self::InvalidSubject => ("invalid-subject", StatusCode::BAD_REQUEST, "The subject cannot be used"),
            Self::UnknownUser => ("unknown-user", StatusCode::NOT_FOUND, "The user is not known"),
            Self::ForeignOrigin => {
                ("foreign-origin", StatusCode::FORBIDDEN, "Pages of this origin may not call this endpoint")
            }
            Self::InvalidField => ("invalid-field", StatusCode::UNPROCESSABLE_ENTITY, "A field is not valid"),
            Self::Busy => ("busy", StatusCode::TOO_MANY_REQUESTS, "Too many requests of this kind at once"),
            Self::KeysUnavailable => {
                ("keys-unavailable", StatusCode::SERVICE_UNAVAILABLE, "The issuer's keys are not available")
            }
            Self::StoreUnavailable => {
                ("store-unavailable", StatusCode::SERVICE_UNAVAILABLE, "The change is not stored")
            }
            Self::NotTaken => ("not-taken", StatusCode::SERVICE_UNAVAILABLE, "The change could not be applied"),
            Self::NotCurrent => {
                ("not-current", StatusCode::SERVICE_UNAVAILABLE, "The view of the revocations is not current")
            }
            Self::TimedOut => ("timed-out", StatusCode::SERVICE_UNAVAILABLE, "The response took too long"),
        }
    }

    /// Seconds after which another attempt is likely to succeed.
    const fn retry_after(self) -> Option<&'static str> {
        match self.describe().1 {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some("1"),
            _ => None,
        }
    }
}

/// An error response.
#[derive(Debug)]
pub(super) struct Problem {
    error: Error,
    detail: Cow<'static, str>,
    pointer: Option<Box<str>>,
    reason: Option<&'static str>,
    challenge: Option<Box<str>>,
}

/// Problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDetails {
    /// `urn:doorward:problem:` and the name of the error.
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: Cow<'static, str>,
    /// The place of the fault: a JSON pointer into the body, or the name of a query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pointer: Option<Box<str>>,
    /// Why a token was refused, or why the store could not be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

impl Problem {
    pub(super) fn new(error: Error, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { error, detail: detail.into(), pointer: None, reason: None, challenge: None }
    }

    /// Names the place of the fault.
    pub(super) fn at(mut self, pointer: &str) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    pub(super) fn with_reason(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// The value of `WWW-Authenticate`.
    pub(super) fn challenging(mut self, challenge: String) -> Self {
        self.challenge = Some(challenge.into());
        self
    }

    /// The name of the error, for metrics; or the reason, where there is one.
    pub(super) fn label(&self) -> &'static str {
        self.reason.unwrap_or(self.error.describe().0)
    }

    /// Whether other credentials might be accepted.
    pub(super) fn is_about_credentials(&self) -> bool {
        matches!(self.error, Error::MissingCredentials | Error::UnknownCredentials | Error::NoAdminKeys)
    }

    /// A field of the body that cannot be used.
    pub(super) fn field(pointer: &str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Error::InvalidField, detail).at(pointer)
    }
}

/// The media type of every error.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let (slug, status, title) = self.error.describe();
        let details = ProblemDetails {
            kind: format!("urn:doorward:problem:{slug}"),
            title,
            status: status.as_u16(),
            detail: self.detail,
            pointer: self.pointer,
            reason: self.reason,
        };
        let mut response = Response::new(Body::from(serde_json::to_vec(&details).unwrap_or_default()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(seconds) = self.error.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        if let Some(challenge) = self.challenge.and_then(|text| HeaderValue::try_from(&*text).ok()) {
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

pub(super) async fn not_found() -> Problem {
    Problem::new(Error::NotFound, "see /openapi.json for the endpoints")
}

pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(Error::MethodNotAllowed, "see the `Allow` header for the allowed methods")
}

/// Error responses with one kind of body: their statuses with their meanings.
pub(super) fn errors<B: ToSchema, const N: usize>(
    media_type: &str,
    meanings: [(StatusCode, &str); N],
) -> BTreeMap<String, RefOr<openapi::Response>> {
    let response = |(status, meaning): (StatusCode, &str)| {
        let content = Content::new(Some(Ref::from_schema_name(B::name())));
        let response = ResponseBuilder::new().description(meaning).content(media_type, content).build();
        (status.as_str().to_owned(), response.into())
    };
    meanings.map(response).into()
}
