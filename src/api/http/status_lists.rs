//! `GET /status-lists/{issuer}`: what is revoked here as a signed status list, for verifiers that do not ask Doorward.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Mutex;
use utoipa::{IntoParams, ToSchema};

use super::Http;
use super::problem::{Error, Problem, ProblemDetails};
use crate::authz::revocation::TargetId;
use crate::authz::status_publisher::StatusPublisher;
use crate::clock::{self, Steady};

/// The lists that were made last, by issuer. Locked while one is made: requests that come meanwhile wait for it.
pub(super) type Published = Mutex<HashMap<String, Arc<PublishedList>>>;

pub(super) struct PublishedList {
    /// Its settings; a reload replaces them.
    by: Arc<StatusPublisher>,
    made: Steady,
    text: Bytes,
    etag: String,
}

impl PublishedList {
    /// A list is made anew when half of its `ttl` is over, so that a fetched one may be kept for the other half.
    fn is_current(&self, by: &Arc<StatusPublisher>) -> bool {
        Arc::ptr_eq(&self.by, by) && self.made.elapsed() < by.ttl / 2
    }

    fn max_age(&self) -> Duration {
        self.by.ttl.saturating_sub(self.made.elapsed())
    }
}

/// The status list of an issuer's tokens.
///
/// A token that is revoked here by itself has the value 1 (INVALID) at its index; what revokes a session, a user, a client,
/// a key, an actor or an issuer is not in the list. Anybody may read it.
#[utoipa::path(
    get, path = "/status-lists/{issuer}", operation_id = "status_list", tag = "identity",
    params(("issuer" = String, Path, description = "The name of the issuer, which has `publish_status_list`.")),
    responses(
        (status = 200, description = "A status list token (draft-ietf-oauth-status-list).", body = String, content_type = "application/statuslist+jwt"),
        (status = 304, description = "The list is that of `If-None-Match`."),
        (status = 404, description = "No list is published for this issuer.", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "The revocations are not known to be complete now.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(
    State(http): State<Http>,
    Path(issuer): Path<String>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let publisher = publisher(&http, &issuer)?;
    let list = current(&http, &issuer, &publisher).await?;
    let matches =
        |asked: &str| asked == "*" || asked.split(',').any(|tag| tag.trim().trim_start_matches("W/") == list.etag);
    let is_known = headers.get(header::IF_NONE_MATCH).and_then(|asked| asked.to_str().ok()).is_some_and(matches);
    let kept = [
        (header::CACHE_CONTROL, format!("public, max-age={}", list.max_age().as_secs())),
        (header::ETAG, list.etag.clone()),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned()),
    ];
    if is_known {
        return Ok((StatusCode::NOT_MODIFIED, kept).into_response());
    }
    let kind = [(header::CONTENT_TYPE, "application/statuslist+jwt")];
    Ok((kept, kind, list.text.clone()).into_response())
}

/// The token whose index is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Token {
    /// The `jti` of the token.
    token_id: String,
}

/// The place of a token's status.
#[derive(Serialize, ToSchema)]
pub(super) struct Place {
    uri: String,
    /// The first 32 bits of the SHA-256 of the id, modulo the number of indexes.
    idx: u32,
}

/// The claim `status.status_list` of a token that is about to be issued.
///
/// It is a function of the id alone: issuers may compute it themselves.
#[utoipa::path(
    get, path = "/status-lists/{issuer}/index", operation_id = "status_list_index", tag = "identity",
    params(("issuer" = String, Path, description = "The name of the issuer, which has `publish_status_list`."), Token),
    responses(
        (status = 200, description = "The place.", body = Place),
        (status = 400, description = "`token_id` is missing, or there is another parameter.", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 404, description = "No list is published for this issuer.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn index(
    State(http): State<Http>,
    Path(issuer): Path<String>,
    token: Result<Query<Token>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Place>, Problem> {
    let publisher = publisher(&http, &issuer)?;
    let Query(Token { token_id }) = token.map_err(|_| {
        Problem::new(Error::InvalidParameter, "`token_id` must be the `jti` of a token, and the only parameter")
    })?;
    Ok(Json(Place { uri: publisher.uri.clone(), idx: publisher.index_of(&TargetId::new(&token_id)) }))
}

/// The public key that verifies the list of an issuer.
#[utoipa::path(
    get, path = "/status-lists/{issuer}/jwks.json", operation_id = "status_list_keys", tag = "identity",
    params(("issuer" = String, Path, description = "The name of the issuer, which has `publish_status_list`.")),
    responses(
        (status = 200, description = "A JSON Web Key Set.", body = Object, content_type = "application/jwk-set+json"),
        (status = 404, description = "No list is published for this issuer.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn keys(State(http): State<Http>, Path(issuer): Path<String>) -> Result<impl IntoResponse, Problem> {
    let publisher = publisher(&http, &issuer)?;
    let headers = [(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, "public, max-age=60")];
    Ok((headers, json!({"keys": [publisher.key.public()]}).to_string()))
}

fn publisher(http: &Http, issuer: &str) -> Result<Arc<StatusPublisher>, Problem> {
    let policy = http.state.policy();
    let found = policy.publishers.iter().find(|(name, _)| name.as_str() == issuer);
    let found = found.map(|(_, publisher)| publisher.clone());
    found.ok_or_else(|| Problem::new(Error::NotFound, "no status list is published for an issuer of this name"))
}

/// The list that was made a moment ago, or a new one. No list is made while the view of the revocations is too old: a
/// verifier goes on with what it has, until that expires.
async fn current(http: &Http, issuer: &str, by: &Arc<StatusPublisher>) -> Result<Arc<PublishedList>, Problem> {
    let unavailable = |detail| Problem::new(Error::NotCurrent, detail);
    let mut lists = http.published.lock().await;
    if let Some(list) = lists.get(issuer).filter(|list| list.is_current(by)) {
        return Ok(list.clone());
    }
    let most = http.state.policy().authorizer.freshness.max_staleness;
    let Some(age) = http.state.replica.view_age().filter(|age| *age <= most) else {
        return Err(unavailable("a list of now would lack revocations; the last one may be used until it expires"));
    };
    // Up to then the view is complete. A list of now would replace that of an instance whose view is newer.
    let complete_until = clock::now().minus(age);
    let (state, publisher, made) = (http.state.clone(), by.clone(), Steady::now());
    // Other revocations are decided meanwhile: it takes a second for a million.
    let text = tokio::task::spawn_blocking(move || publisher.publish(state.replica.index(), complete_until));
    let text = text.await.ok().flatten().ok_or_else(|| unavailable("the list cannot be signed"))?;
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let etag = URL_SAFE_NO_PAD.encode(digest);
    let list = Arc::new(PublishedList { by: by.clone(), made, text: text.into(), etag: format!("\"{etag}\"") });
    lists.insert(issuer.to_owned(), list.clone());
    Ok(list)
}
