//! `POST /global-token-revocation` (draft-parecki-oauth-global-token-revocation), which Okta calls Universal
//! Logout: an identity provider or a security tool revokes all tokens of a user.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::info;
use utoipa::ToSchema;

use super::Http;
use super::extract::{Json, admin_key, bearer};
use super::form::admit;
use super::problem::{Error, Problem, ProblemDetails};
use super::revocations::Stamp;
use crate::api::event_source::{EventSource, receive, revoke, transmitter};
use crate::authz::denial::Denial;
use crate::authz::refusal::Refusal;
use crate::authz::replay::MessageId;
use crate::authz::revocation::{Kind, Note, Revocation, Target};
use crate::authz::signals::{Transmitter, Unmapped, user_targets};
use crate::authz::token::{TrustedIssuer, UnverifiedToken};
use crate::clock;
use crate::state::Policy;
use crate::state::admin_key::Permission;

/// The subject whose tokens are revoked.
#[derive(Deserialize, ToSchema)]
pub(super) struct GlobalRevocationRequest {
    /// A subject identifier (RFC 9493): `format` is `iss_sub`, `opaque`, `email` or `aliases`.
    #[schema(value_type = Object)]
    sub_id: Map<String, Value>,
}

/// The authenticated caller.
enum Caller {
    /// With an admin key of this name.
    Operator(Arc<str>),
    /// With a JWT that it signed.
    Transmitter(Arc<Transmitter>, MessageId),
}

/// Revokes all tokens of a user that were issued up to now.
///
/// Credentials: an admin key that may `revoke`, or a JWT of a configured transmitter whose `audience` is the
/// URL of this endpoint, with `iss`, `sub`, `aud`, `iat`, `exp` and a `jti` that is used once.
#[utoipa::path(
    post, path = "/global-token-revocation", tag = "sign-out", security(("admin_key" = []), ("assertion" = [])),
    request_body = GlobalRevocationRequest,
    responses(
        (status = 204, description = "The user's tokens are revoked, and the revocation is stored."),
        (status = 401, description = "The credentials are missing or not valid.", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 403, description = "The key may not revoke.", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "The issuer of the subject is not configured.", body = ProblemDetails, content_type = "application/problem+json"),
        Json<GlobalRevocationRequest>,
        (status = 429, description = "Too many requests of this kind at once; nothing was applied.", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "The revocation is not stored; try again after `Retry-After`.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn global_token_revocation(
    State(http): State<Http>,
    request: Request,
) -> Result<StatusCode, Response<Body>> {
    let done = revoke_user(&http, request).await;
    let label = done.as_ref().map_or_else(Problem::label, |()| "applied");
    EventSource::GlobalRevocation.count(&http.state, label);
    done.map(|()| StatusCode::NO_CONTENT).map_err(IntoResponse::into_response)
}

async fn revoke_user(http: &Http, request: Request) -> Result<(), Problem> {
    let caller = authenticate(http, request.headers()).await?;
    let Json(asked) = Json::<GlobalRevocationRequest>::from_request(request, http).await?;
    let _permit = admit(http)
        .ok_or_else(|| Problem::new(Error::Busy, "limits.inlet_requests in the configuration is the bound"))?;
    let policy = http.state.policy();
    let (target, users) = match &caller {
        Caller::Operator(_) => by_operator(&policy, &asked.sub_id)?,
        Caller::Transmitter(from, _) => {
            let target = policy.authorizer.issuer_named(&from.target);
            let target =
                target.ok_or_else(|| Problem::new(Error::UnknownUser, "its target issuer is not configured"))?;
            (
                target,
                from.user(&asked.sub_id, target).map_err(|error| {
                    unmapped(&asked.sub_id, error, |iss| from.issuer == iss || target.issuer.name(iss).is_some())
                })?,
            )
        }
    };
    let stamp = Stamp::read(&http.state.replica).await;
    let instant = stamp.instant(target, Kind::User)?;
    let note = match &caller {
        Caller::Operator(by) => Note::new(clock::now(), by, ""),
        Caller::Transmitter(..) => None,
    };
    let closing = |user| Revocation { note: note.clone(), ..target.closing_user(user, instant) };
    let revocations = users.into_iter().map(closing).collect();
    revoke(&http.state, EventSource::GlobalRevocation, revocations).await.map_err(|error| {
        let detail = "the revocation applies in this instance, other instances may not know it: try again";
        Problem::new(Error::StoreUnavailable, detail).with_reason(error.label())
    })?;
    match caller {
        Caller::Operator(by) => info!(%by, "a user's tokens revoked"),
        Caller::Transmitter(from, id) => {
            http.state.replays.remember(id, clock::now());
            info!(transmitter = %from.name, "a user's tokens revoked");
        }
    }
    Ok(())
}

/// An operator names the issuer by `iss`; other names are looked for with the only issuer there is.
fn by_operator<'a>(
    policy: &'a Policy,
    subject: &Map<String, Value>,
) -> Result<(&'a Arc<TrustedIssuer>, Vec<Target>), Problem> {
    let issuers = &policy.authorizer.issuers;
    let target = match (subject.get("iss").and_then(Value::as_str), issuers.as_slice()) {
        (Some(iss), _) => policy.authorizer.issuer(iss).ok(),
        (None, [only]) => Some(only),
        (None, _) => {
            let detail = "more than one issuer is configured: use the format `iss_sub`";
            return Err(Problem::new(Error::InvalidSubject, detail).at("/sub_id"));
        }
    };
    let known = |iss: &str| policy.authorizer.issuer(iss).is_ok();
    let target = target.ok_or_else(|| unmapped(subject, Unmapped::Nobody, known))?;
    let users = user_targets(subject, target).map_err(|error| unmapped(subject, error, known))?;
    Ok((target, users))
}

/// Why a subject cannot be mapped: it is of another issuer (404), or cannot be used (400).
fn unmapped(subject: &Map<String, Value>, error: Unmapped, is_known: impl Fn(&str) -> bool) -> Problem {
    if let Unmapped::NamedOtherwise(Refusal { detail: Some(detail), .. }) = error {
        return Problem::new(Error::InvalidSubject, detail.into_string()).at("/sub_id");
    }
    let named = subject.get("iss").and_then(Value::as_str);
    if named.is_some_and(|iss| !is_known(iss)) {
        return Problem::new(Error::UnknownUser, "`iss` is not an issuer that is configured for this transmitter")
            .at("/sub_id/iss");
    }
    let detail = "must be a subject identifier (RFC 9493) in a format that is configured, with all its members";
    Problem::new(Error::InvalidSubject, detail).at("/sub_id")
}

async fn authenticate(http: &Http, headers: &HeaderMap) -> Result<Caller, Problem> {
    // A JWT has two dots, and an admin key may have any number: so the key is looked up first.
    let by_key = admin_key(http, headers, Permission::Revoke);
    let problem = match by_key {
        Ok(name) => return Ok(Caller::Operator(name)),
        Err(problem) if !problem.is_about_credentials() => return Err(problem),
        Err(problem) => problem,
    };
    let Some(token) = bearer(headers).and_then(|token| std::str::from_utf8(token).ok()) else { return Err(problem) };
    if token.split('.').count() != 3 {
        return Err(problem);
    }
    let realm = http.state.policy().responder.realm().to_owned();
    let refused = |denial: Denial| match denial {
        Denial::KeysUnavailable => Problem::new(Error::KeysUnavailable, denial.message()).with_reason(denial.label()),
        _ => Problem::new(Error::UnknownCredentials, "the JWT is not from a transmitter that may revoke")
            .with_reason(denial.label())
            .challenging(format!("Bearer realm=\"{realm}\", error=\"invalid_token\"")),
    };
    let signer = |policy: &Policy, token: &UnverifiedToken<'_>| transmitter(policy, token, None);
    let check = |_: &Policy, from: &Transmitter, token: UnverifiedToken<'_>| from.authenticate(token, clock::now());
    let verified = receive(&http.state, EventSource::GlobalRevocation, token, signer, check).await;
    let (from, id) = verified.map_err(|error| refused(error.refusal.denial))?;
    if http.state.replays.knows(&id) {
        return Err(Problem::new(Error::UnknownCredentials, "this JWT was used before").with_reason("replayed"));
    }
    Ok(Caller::Transmitter(from, id))
}
