//! `POST /v1/registrations`: with `revocation.list: allow`, an auth service registers what it issues.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Http;
use crate::api::MAX_WAIT;
use crate::authz::admin_key::Permission;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::denial::Denial;
use crate::authz::revocation::{Revocation, TargetId};
use crate::authz::token::{BearerToken, Expiry, TrustedIssuer, UnverifiedToken, VerifiedToken};
use crate::clock;
use crate::state::Policy;

/// What to register: a token by its id and expiry, or the token itself.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    /// The configured name of the issuer; may be left out when one is configured, or with `token`.
    issuer: Option<String>,
    /// `jti`, or `sha256:` and 64 hex digits for a token without one.
    id: Option<String>,
    /// The access token itself, instead of `id` and `expires_at`.
    token: Option<String>,
    /// The token's `exp`: RFC 3339 text, or whole seconds since 1970. The leeway is added.
    expires_at: Option<Value>,
}

/// 201 once the token is registered for every instance; what has expired is not written, and succeeds.
pub(super) async fn create(State(http): State<Http>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let created = async {
        let by = authenticate(&http, &headers)?;
        let request: Request = serde_json::from_slice(&body)
            .map_err(|error| Problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", error.to_string()))?;
        let registration = resolve(&http, &request).await?;
        register(&http, registration, &by).await
    };
    match created.await {
        Ok(receipt) => answer(StatusCode::CREATED, "application/json", &receipt),
        Err(problem) => problem.answer(),
    }
}

/// Registers for whoever has been authenticated as `by`.
async fn register(http: &Http, registration: Revocation, by: &str) -> Result<Value, Problem> {
    let issuer = registration.target.issuer.clone();
    let mut receipt = json!({
        "issuer": issuer.as_str(),
        "id": registration.target.id.as_str(),
        "expires_at": clock::format_rfc3339(registration.expires_at),
        "position": null,
    });
    if registration.expires_at > clock::now() {
        let written = http.state.replica.register(registration).await;
        let position = written.map_err(|error| {
            warn!(by, %issuer, error = error.label(), "registration not stored");
            let detail = "it holds in this instance, other instances may not know it: try again";
            Problem(StatusCode::SERVICE_UNAVAILABLE, "store-unavailable", detail.to_owned())
        })?;
        info!(by, %issuer, %position, "registered");
        receipt["position"] = json!(position.to_string());
    }
    Ok(receipt)
}

async fn resolve(http: &Http, request: &Request) -> Result<Revocation, Problem> {
    let policy = http.state.policy();
    let named = request.issuer.as_deref().map(|name| issuer_named(&policy, name)).transpose()?;
    let now = clock::now();
    match (&request.id, &request.token) {
        (Some(_), Some(_)) | (None, None) => Err(Problem::field("id", "give either `id` or `token`")),
        (None, Some(token)) => {
            let (issuer, token) = verify(http, token).await?;
            if named.is_some_and(|named| named.name != issuer.name) {
                return Err(Problem::field("issuer", "the token is of another issuer"));
            }
            let target = token.registration().ok_or_else(|| Problem::field("token", "has no id"))?;
            Ok(Revocation::registering(target.issuer, target.id, token.expires_at().plus(issuer.leeway)))
        }
        (Some(id), None) => {
            let only = match policy.authorizer.issuers.as_slice() {
                [only] => Some(&**only),
                _ => None,
            };
            let issuer = named
                .or(only)
                .ok_or_else(|| Problem::field("issuer", "is needed: more than one issuer is configured"))?;
            if id.is_empty() {
                return Err(Problem::field("id", "must not be empty"));
            }
            let expires_at = request.expires_at.as_ref().and_then(instant).ok_or_else(|| {
                Problem::field("expires_at", "must be the token's `exp`: RFC 3339 text, or whole seconds since 1970")
            })?;
            // The log is kept no longer than any token may live: more could not be promised.
            if expires_at > now.plus(issuer.max_lifetime + Duration::from_secs(1)) {
                return Err(Problem::field("expires_at", "is later than `max_lifetime` allows a token of this issuer"));
            }
            let id = TargetId::from_stored(id);
            Ok(Revocation::registering(issuer.name.clone(), id, expires_at.plus(issuer.leeway)))
        }
    }
}

fn instant(value: &Value) -> Option<Timestamp> {
    match value {
        Value::String(text) => clock::parse_rfc3339(text),
        number => Timestamp::from_numeric_date(number),
    }
}

fn issuer_named<'a>(policy: &'a Policy, name: &str) -> Result<&'a TrustedIssuer, Problem> {
    let issuer = IssuerName::parse(name).and_then(|name| policy.authorizer.issuer_named(&name));
    issuer.map(|issuer| &**issuer).ok_or_else(|| Problem::field("issuer", "no issuer of this name is configured"))
}

/// Verifies a token that was just issued: its key may be new.
async fn verify(http: &Http, token: &str) -> Result<(TrustedIssuer, VerifiedToken), Problem> {
    let attempt = || {
        let policy = http.state.policy();
        let bearer = BearerToken::parse(token.as_bytes(), policy.authorizer.tokens.max_bytes)?;
        let unverified = UnverifiedToken::parse(bearer)?;
        let issuer = policy.authorizer.issuer(unverified.unverified_issuer()?)?;
        Ok(((**issuer).clone(), issuer.verify(unverified, clock::now(), Expiry::Tolerated)))
    };
    let refused = |denial: Denial| {
        let status =
            if denial == Denial::KeysUnavailable { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
        Problem(status, "invalid-token", denial.message().to_owned())
    };
    let (issuer, verified) = attempt().map_err(refused)?;
    if !matches!(verified, Err(Denial::UnknownKey)) {
        return verified.map(|token| (issuer, token)).map_err(refused);
    }
    let _ = tokio::time::timeout(MAX_WAIT, http.state.keys().refresh(&issuer.name)).await;
    let (issuer, verified) = attempt().map_err(refused)?;
    verified.map(|token| (issuer, token)).map_err(refused)
}

/// The name of the caller's admin key, if it may register.
fn authenticate(http: &Http, headers: &HeaderMap) -> Result<String, Problem> {
    let policy = http.state.policy();
    if policy.admin_keys.is_empty() {
        return Err(Problem(StatusCode::FORBIDDEN, "no-admin-keys", "set admin.keys in the configuration".to_owned()));
    }
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next().filter(|_| fields.next().is_none()).map_or(&b""[..], HeaderValue::as_bytes);
    let presented = field
        .split_at_checked("Bearer ".len())
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
        .map_or(&b""[..], |(_, key)| key.trim_ascii());
    let key = policy.admin_keys.find(presented).ok_or_else(|| {
        Problem(
            StatusCode::UNAUTHORIZED,
            "unknown-credentials",
            "send `Authorization: Bearer` and an admin key".to_owned(),
        )
    })?;
    if !key.may(Permission::Register) {
        let detail = "its `may` in admin.keys does not list `register`".to_owned();
        return Err(Problem(StatusCode::FORBIDDEN, "not-permitted", detail));
    }
    Ok(key.name.to_string())
}

/// Problem details (RFC 9457): status, name, detail.
struct Problem(StatusCode, &'static str, String);

impl Problem {
    fn field(name: &str, detail: &str) -> Self {
        Self(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", format!("{name}: {detail}"))
    }

    fn answer(&self) -> Response<Body> {
        let Self(status, name, detail) = self;
        let body = json!({"type": format!("urn:doorward:problem:{name}"), "status": status.as_u16(), "detail": detail});
        let mut response = answer(*status, "application/problem+json", &body);
        match *status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
