//! `POST /oauth2/revoke` (RFC 7009) and `POST /oauth2/introspect` (RFC 7662).

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::info;
use utoipa::ToSchema;

use super::Http;
use super::form::{Client, OAuthError, admit, client, count, read};
use crate::api::event_source::{EventSource, issuer, receive, revoke};
use crate::api::token_request::decide_token;
use crate::authz::authorizer::{Decision, Outcome};
use crate::authz::claims::scopes;
use crate::authz::denial::Denial;
use crate::authz::dpop;
use crate::authz::revocation::Kind;
use crate::authz::rule::{Access, ApiKeyUse, Rule, SignOut, Then};
use crate::authz::token::{TrustedIssuer, UnverifiedToken, VerifiedToken};
use crate::clock;
use crate::state::Policy;
use crate::state::admin_key::Permission;

/// The form of both endpoints.
#[derive(Deserialize, ToSchema)]
pub(super) struct TokenForm {
    #[schema(value_type = String, required)]
    token: Option<String>,
    /// `access_token` or `refresh_token`.
    token_type_hint: Option<String>,
}

/// Revokes a token: an access token, or a JWT refresh token with the session it belongs to.
///
/// The token's signature is the credential; the token may have expired. An unknown token is answered 200 too, so that
/// the answer discloses nothing. Credentials are optional; if sent, they must be an admin key that may `revoke`, as
/// `Bearer KEY` or `Basic NAME:KEY`.
#[utoipa::path(
    post, path = "/oauth2/revoke", tag = "sign-out", security((), ("admin_key" = []), ("client" = [])),
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The token is no longer accepted, or never was."),
        OAuthError,
        Client,
    )
)]
pub(super) async fn revocation(State(http): State<Http>, request: Request) -> Response<Body> {
    let done = revoke_token(&http, request).await;
    count(&http, EventSource::Revoke, done.as_ref().copied().map_err(OAuthError::label));
    match done {
        Ok(_) => StatusCode::OK.into_response(),
        Err(error) => error.answer(&http),
    }
}

async fn revoke_token(http: &Http, request: Request) -> Result<&'static str, OAuthError> {
    let Client(by) = client(http, request.headers(), Permission::Revoke)?;
    let TokenForm { token, token_type_hint } = read(http, request).await?;
    let _permit = admit(http).ok_or(OAuthError::Busy)?;
    let token = &*token.ok_or(OAuthError::InvalidRequest("`token` is missing"))?;
    let hinted = token_type_hint.is_some_and(|hint| hint == "refresh_token");
    let rule = Rule {
        name: EventSource::Revoke.label().into(),
        access: Access::SignOut(SignOut { scope: Kind::Token, then: Then::Respond }),
        api_key: Some(ApiKeyUse::Ignored),
        needs_proof: false, // RFC 7009 does not require one: the finder of a stolen token may revoke it.
        ..Rule::default()
    };
    let read = |_: &Policy, decision: &Decision<'_>| decision.outcome.denial();
    let denial = decide_token(&http.state, token, &rule, read).await.unwrap_or(Some(Denial::InternalError));
    let Some(denial) = denial else {
        info!(inlet = rule.name.as_ref(), by = by.as_deref(), "token revoked");
        // A token without a mark of its kind, for a configured audience, was read as an access token; as a refresh
        // token it has a session.
        if hinted
            && let Err(denial) = revoke_refresh_token(http, token, hinted).await
            && denial.is_temporary()
        {
            return Err(OAuthError::Unavailable(denial.message()));
        }
        return Ok("applied");
    };
    if denial.is_temporary() {
        return Err(OAuthError::Unavailable(denial.message()));
    }
    match revoke_refresh_token(http, token, hinted).await {
        Ok(()) => Ok("applied"),
        Err(denial) if denial.is_temporary() => Err(OAuthError::Unavailable(denial.message())),
        Err(Denial::WrongType) if denial == Denial::WrongType => Err(OAuthError::UnsupportedTokenType),
        Err(_) => Ok("unknown"), // RFC 7009 section 2.2: no error for an invalid token.
    }
}

async fn revoke_refresh_token(http: &Http, token: &str, hinted: bool) -> Result<(), Denial> {
    let check = |_: &Policy, issuer: &TrustedIssuer, token: UnverifiedToken<'_>| {
        issuer.sign_out_by_refresh_token(token, hinted, clock::now())
    };
    let verified = receive(&http.state, EventSource::Revoke, token, issuer, check).await;
    let (_, revocation) = verified.map_err(|refused| refused.refusal.denial)?;
    revoke(&http.state, EventSource::Revoke, vec![revocation]).await.map_err(|_| Denial::StoreUnavailable)
}

/// Returns whether a token is accepted here, by the same decision as for a request that carries it.
///
/// Every other token is answered with `active: false` only, whatever the cause (RFC 7662 section 2.2). Credentials: an
/// admin key that may `read`, as `Bearer KEY` or `Basic NAME:KEY`.
#[utoipa::path(
    post, path = "/oauth2/introspect", tag = "operation", security(("admin_key" = []), ("client" = [])),
    request_body(content = TokenForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "`active`, and the claims of an active token.", body = Object),
        OAuthError,
        Client,
    )
)]
pub(super) async fn introspection(State(http): State<Http>, request: Request) -> Response<Body> {
    let response = introspect(&http, request).await;
    let label = |response: &Value| if response["active"] == true { "active" } else { "inactive" };
    count(&http, EventSource::Introspect, response.as_ref().map(label).map_err(OAuthError::label));
    match response {
        Ok(response) => Json(response).into_response(),
        Err(error) => error.answer(&http),
    }
}

async fn introspect(http: &Http, request: Request) -> Result<Value, OAuthError> {
    if http.state.policy().admin_keys.is_empty() {
        return Err(OAuthError::UnauthorizedClient("set admin.keys in the configuration"));
    }
    let Client(by) = client(http, request.headers(), Permission::Read)?;
    by.ok_or(OAuthError::InvalidClient("an admin key that may `read` is required"))?;
    let TokenForm { token, .. } = read(http, request).await?;
    let _permit = admit(http).ok_or(OAuthError::Busy)?;
    let token = &*token.ok_or(OAuthError::InvalidRequest("`token` is missing"))?;
    let rule = Rule {
        name: EventSource::Introspect.label().into(),
        api_key: Some(ApiKeyUse::Ignored),
        needs_proof: false, // The resource server has the proof, and receives `cnf` to check it.
        ..Rule::default()
    };
    let read = |_: &Policy, decision: &Decision<'_>| match &decision.outcome {
        Outcome::Allowed(grant) => Ok(grant.principal.as_ref().map(|principal| describe(principal.token()))),
        refused => Err(refused.denial().unwrap_or(Denial::InternalError)),
    };
    match decide_token(&http.state, token, &rule, read).await.unwrap_or(Err(Denial::InternalError)) {
        Ok(Some(active)) => Ok(active),
        Err(denial) if denial.is_temporary() => Err(OAuthError::Unavailable(denial.message())),
        Ok(None) | Err(_) => Ok(json!({"active": false})),
    }
}

/// The members of RFC 7662 section 2.2 that the token has.
fn describe(token: &VerifiedToken) -> Value {
    let mut response = Map::new();
    for name in ["iss", "sub", "aud", "exp", "iat", "nbf", "jti", "sid", "acr", "auth_time", "cnf", "act"] {
        response.extend(token.claims().get(name).map(|value| (name.to_owned(), value)));
    }
    let scopes = scopes(token.claims()).join(" ");
    let text = [("client_id", token.client_id()), ("username", token.email()), ("scope", Some(&*scopes))];
    let text = text.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)));
    response.extend(text.map(|(name, value)| (name.to_owned(), json!(value))));
    response.insert("active".to_owned(), json!(true));
    let is_dpop = token.confirmation().is_some_and(|confirmation| confirmation.key.is_some());
    response.insert("token_type".to_owned(), json!(if is_dpop { dpop::SCHEME } else { "Bearer" }));
    Value::Object(response)
}
