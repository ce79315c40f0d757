//! `POST /v1/explain`: one decision by the live state, step by step; it changes nothing.

use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::Http;
use super::extract::{Json, MayRead};
use super::problem::{AdminErrors, BodyErrors, Problem};
use crate::api::{Learned, ask, explain, look_up};
use crate::authz::authorizer::Outcome;
use crate::authz::denial::Denial;
use crate::authz::rule::RequestView;
use crate::clock;

/// The request to decide.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainRequest {
    #[serde(default = "get")]
    #[schema(default = "GET")]
    method: String,
    /// The path with its query.
    #[serde(default = "root")]
    #[schema(default = "/")]
    path: String,
    #[serde(default = "localhost")]
    #[schema(default = "localhost")]
    host: String,
    /// The request's headers.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The rule that the route names (`context_extensions: {doorward.rule: NAME}`).
    rule: Option<String>,
    /// The access token; stands for `authorization: Bearer` and it.
    token: Option<String>,
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

fn localhost() -> String {
    "localhost".to_owned()
}

/// Decides a request and says why, step by step.
///
/// The revocations that this instance knows are consulted, and the store when the policy wants it.
/// Nothing is recorded: a sign-out rule signs nobody out here.
#[utoipa::path(
    post, path = "/v1/explain", tag = "operation", security(("admin_key" = [])),
    request_body = ExplainRequest,
    responses(
        (status = 200, description = "The decision with each of its steps: rule, access, api_client, keys, token, verified, revocation, requirements, answer.", body = Object),
        BodyErrors,
        AdminErrors,
    )
)]
pub(super) async fn explain(
    State(http): State<Http>,
    _: MayRead,
    Json(asked): Json<ExplainRequest>,
) -> Result<axum::Json<Value>, Problem> {
    let state = &http.state;
    let mut fields: Vec<(String, String)> =
        asked.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    fields.extend(asked.token.map(|token| ("authorization".to_owned(), format!("Bearer {token}"))));
    let headers: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = RequestView {
        method: &asked.method,
        target: &asked.path,
        host: &asked.host,
        headers: &headers,
        rule: asked.rule.as_deref(),
        source: None,
    };
    let mut policy = state.policy();
    let mut learned = Learned::recall(state, &policy, &request);
    let first = policy.authorizer.authorize(&request, learned.view(state), clock::now());
    if let (Outcome::Denied(Denial::UnknownKey), Some(issuer)) = (&first.outcome, first.evidence.issuer.clone()) {
        drop(first);
        let _ = tokio::time::timeout(policy.max_wait, state.keys().refresh(&issuer)).await;
        policy = state.policy();
    }
    let mut now = clock::now();
    let mut decision = policy.authorizer.authorize(&request, learned.view(state), now);
    if let Outcome::NeedsIntrospection(issuer) = &decision.outcome {
        learned.testimony = Box::pin(ask(state, &policy, &request, issuer)).await;
        now = clock::now();
        decision = policy.authorizer.authorize(&request, learned.view(state), now);
    }
    if let (Outcome::NeedsLookup, Some(token)) = (&decision.outcome, decision.evidence.token.as_ref()) {
        let allow_list = policy.authorizer.freshness.allow_list;
        learned.answer = Some(Box::pin(look_up(state, token, allow_list)).await);
        now = clock::now();
        decision = policy.authorizer.authorize(&request, learned.view(state), now);
    }
    let view = learned.view(state);
    Ok(axum::Json(explain::explain(&policy, &request, &decision, Some(view), now)))
}
