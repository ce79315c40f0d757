//! Extractors of handlers: the caller's permission, a JSON body, query parameters. Each refuses
//! with a problem.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use utoipa::IntoResponses;
use utoipa::openapi::{self, RefOr};

use super::Http;
use super::form::media_type;
use super::problem::{Error, MEDIA_TYPE, Problem, ProblemDetails, errors};
use crate::state::admin_key::{AdminKey, Permission};

/// The name of an admin key that may revoke.
pub(super) struct MayRevoke(pub(super) Arc<str>);

/// The name of an admin key that may register.
pub(super) struct MayRegister(pub(super) Arc<str>);

/// Proof that the caller's admin key may read.
pub(super) struct MayRead;

/// The caller's admin key, with any permission.
pub(super) struct AnyKey(pub(super) AdminKey);

impl FromRequestParts<Http> for MayRevoke {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, http: &Http) -> Result<Self, Problem> {
        admin_key(http, &parts.headers, Permission::Revoke).map(Self)
    }
}

impl FromRequestParts<Http> for MayRegister {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, http: &Http) -> Result<Self, Problem> {
        admin_key(http, &parts.headers, Permission::Register).map(Self)
    }
}

impl FromRequestParts<Http> for MayRead {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, http: &Http) -> Result<Self, Problem> {
        admin_key(http, &parts.headers, Permission::Read).map(|_| Self)
    }
}

impl FromRequestParts<Http> for AnyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, http: &Http) -> Result<Self, Problem> {
        known_key(http, &parts.headers).map(Self)
    }
}

/// The refusals of an endpoint that takes one of these extractors.
macro_rules! refuses_keys {
    ($($extractor:ident)+) => {$(
        impl IntoResponses for $extractor {
            fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
                errors::<ProblemDetails, _>(
                    MEDIA_TYPE,
                    [
                        (StatusCode::UNAUTHORIZED, "No admin key, or an unknown one."),
                        (StatusCode::FORBIDDEN, "The key may not do this, or none is configured."),
                    ],
                )
            }
        }
    )+};
}

refuses_keys! { MayRevoke MayRegister MayRead AnyKey }

/// The name of the caller's admin key (RFC 6750 section 2.1), if it has the permission.
pub(super) fn admin_key(http: &Http, headers: &HeaderMap, permission: Permission) -> Result<Arc<str>, Problem> {
    let key = known_key(http, headers)?;
    if !key.may(permission) {
        return Err(Problem::new(
            Error::NotPermitted,
            "the `may` of this key in admin.keys lacks the permission that this endpoint requires",
        ));
    }
    Ok(key.name)
}

fn known_key(http: &Http, headers: &HeaderMap) -> Result<AdminKey, Problem> {
    let policy = http.state.policy();
    if policy.admin_keys.is_empty() {
        return Err(Problem::new(Error::NoAdminKeys, "set admin.keys in the configuration"));
    }
    let realm = policy.responder.realm();
    let Some(presented) = bearer(headers) else {
        return Err(Problem::new(Error::MissingCredentials, "send `Authorization: Bearer` and an admin key")
            .challenging(format!("Bearer realm=\"{realm}\"")));
    };
    let Some(key) = policy.admin_keys.find(presented) else {
        return Err(Problem::new(Error::UnknownCredentials, "the key is not in admin.keys")
            .challenging(format!("Bearer realm=\"{realm}\", error=\"invalid_token\"")));
    };
    Ok(key.clone())
}

/// The credentials of the one `Authorization: Bearer` field.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next().filter(|_| fields.next().is_none())?.as_bytes();
    let (scheme, key) = field.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

/// A body in JSON.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<Http> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, http: &Http) -> Result<Self, Problem> {
        if media_type(request.headers()).as_deref() != Some("application/json") {
            return Err(Problem::new(Error::UnsupportedMediaType, "send `Content-Type: application/json`"));
        }
        let too_large = || Problem::new(Error::TooLarge, "limits.http_body_bytes in the configuration is the bound");
        let announced =
            request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: u64| {
            usize::try_from(length).map_or(true, |length| length > http.limits.http_body_bytes)
        }) {
            return Err(too_large()); // Refused at once, before the body is read.
        }
        let body = Bytes::from_request(request, http).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => too_large(),
            _ => Problem::new(Error::MalformedJson, "the body could not be read to its end"),
        })?;
        // Serde also accepts a list for a struct, by the order of its members.
        if body.trim_ascii_start().starts_with(b"[") {
            return Err(Problem::field("", "must be an object"));
        }
        let mut reader = serde_json::Deserializer::from_slice(&body);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let pointer = pointer(error.path());
            let cause = error.into_inner();
            if cause.is_data() {
                Problem::field(&pointer, cause.to_string())
            } else {
                Problem::new(Error::MalformedJson, cause.to_string())
            }
        })?;
        reader.end().map_err(|error| Problem::new(Error::MalformedJson, error.to_string()))?;
        Ok(Self(value))
    }
}

impl<T> IntoResponses for Json<T> {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        errors::<ProblemDetails, _>(
            MEDIA_TYPE,
            [
                (StatusCode::BAD_REQUEST, "The body is not JSON, or the token in it is not valid."),
                (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large."),
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The content type is not JSON."),
                (StatusCode::UNPROCESSABLE_ENTITY, "A field is not valid; `pointer` names it."),
            ],
        )
    }
}

/// A JSON pointer (RFC 6901).
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

/// The parameters of the query.
pub(super) struct Parameters<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Http> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, http: &Http) -> Result<Self, Problem> {
        match Query::from_request_parts(parts, http).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(Problem::new(Error::InvalidParameter, rejection.body_text())),
        }
    }
}
