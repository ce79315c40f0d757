//! `POST /v1/registrations`: with `revocation.list: allow`, an auth service registers the tokens that it issues.

use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use utoipa::ToSchema;

use super::Http;
use super::extract::{Json, MayRegister};
use super::problem::{Error, Problem, ProblemDetails};
use super::revocations::{Instant, expiry, issuer_named, verify};
use crate::authz::revocation::{Revocation, TargetId};
use crate::clock;

/// The token to register: by its id and expiry, or the token itself.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistrationRequest {
    /// The configured name of the issuer; may be left out when one is configured, or with `token`.
    issuer: Option<String>,
    /// `jti`, or `sha256:` and 64 hex digits for a token without one.
    #[schema(min_length = 1)]
    id: Option<String>,
    /// The access token itself, instead of `id` and `expires_at`.
    token: Option<String>,
    /// The token's own `exp`; needed with `id`, and at most `max_lifetime` and the leeway from now. The leeway is
    /// added.
    expires_at: Option<Instant>,
}

/// A registration in force.
#[derive(Serialize, ToSchema)]
pub(super) struct RegistrationReceipt {
    issuer: String,
    /// The id in the store: an unusual or long id is written as `sha256:` and its digest.
    id: String,
    /// RFC 3339.
    expires_at: String,
    /// The place in the log; null when nothing was written because the token has expired.
    position: Option<String>,
}

/// Registers a token, so that `list: allow` accepts it.
///
/// 201 means that the registration is in the store, and that every instance accepts the token from now on. Repeating a
/// request changes nothing. A registration cannot be withdrawn: revoke the token instead.
#[utoipa::path(
    post, path = "/v1/registrations", operation_id = "register", tag = "revocations", security(("admin_key" = [])),
    request_body = RegistrationRequest,
    responses(
        (status = 201, description = "The registration is stored.", body = RegistrationReceipt),
        Json<RegistrationRequest>,
        MayRegister,
        (status = 503, description = "The registration is not stored. It applies in this instance alone; try again after `Retry-After`.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(http): State<Http>,
    MayRegister(by): MayRegister,
    Json(request): Json<RegistrationRequest>,
) -> Result<Response<Body>, Problem> {
    let registration = resolve(&http, &request).await?;
    let issuer = registration.target.issuer.clone();
    let mut receipt = RegistrationReceipt {
        issuer: issuer.to_string(),
        id: registration.target.id.to_string(),
        expires_at: clock::format_rfc3339(registration.expires_at),
        position: None,
    };
    if registration.expires_at > http.state.replica.earliest() {
        let written = http.state.replica.register(registration).await;
        let position = written.map_err(|error| {
            warn!(%by, %issuer, error = error.label(), "registration not stored");
            let detail = "the registration applies in this instance, other instances may not know it: try again";
            Problem::new(Error::StoreUnavailable, detail).with_reason(error.label())
        })?;
        info!(%by, %issuer, %position, "registered");
        receipt.position = Some(position.to_string());
    }
    Ok((StatusCode::CREATED, axum::Json(receipt)).into_response())
}

/// Parses the request; fetches keys that are not loaded yet.
async fn resolve(http: &Http, request: &RegistrationRequest) -> Result<Revocation, Problem> {
    let policy = http.state.policy();
    let named = request.issuer.as_deref().map(|name| issuer_named(&policy, name)).transpose()?;
    match (&request.id, &request.token) {
        (Some(_), Some(_)) => Err(Problem::field("/token", "give either `id` or `token`")),
        (None, None) => Err(Problem::field("/id", "give `id` or `token`")),
        (None, Some(token)) => {
            let (issuer, token) = verify(http, token).await?;
            if named.is_some_and(|named| named.name != issuer.name) {
                return Err(Problem::field("/issuer", "the token is from another issuer"));
            }
            let target = token.registration().ok_or_else(|| Problem::field("/token", "the token has no id"))?;
            Ok(Revocation::registering(target.issuer, target.id, token.expires_at().plus(issuer.leeway)))
        }
        (Some(id), None) => {
            let only = match policy.authorizer.issuers.as_slice() {
                [only] => Some(only),
                _ => None,
            };
            let issuer = named
                .or(only)
                .ok_or_else(|| Problem::field("/issuer", "is needed: more than one issuer is configured"))?;
            if id.is_empty() {
                return Err(Problem::field("/id", "must not be empty"));
            }
            let needed = || Problem::field("/expires_at", "is needed for a token by its id: its `exp`");
            let expires_at =
                expiry(request.expires_at.as_ref().ok_or_else(needed)?, issuer, http.state.replica.clocks().latest())?;
            let id = TargetId::from_stored(id);
            Ok(Revocation::registering(issuer.name.clone(), id, expires_at.plus(issuer.leeway)))
        }
    }
}
