//! `POST /v1/explain`: one decision by the live state, step by step; it changes nothing.

use axum::extract;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::Http;
use super::extract::{Json, MayRead};
use super::problem::{Error, Problem};
use crate::api::decide::{Deciding, Query, decide_with};
use crate::api::explain;
use crate::authz::authorizer::Decision;
use crate::authz::mcp::McpMessage;
use crate::authz::rule::RequestView;
use crate::authz::token::VerifiedToken;
use crate::clock;
use crate::state::State;

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
    /// `http` or `https`.
    #[serde(default = "https")]
    #[schema(default = "https")]
    scheme: String,
    /// The request's headers.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// The rule that the route names (`context_extensions: {doorward.rule: NAME}`).
    rule: Option<String>,
    /// The MCP message that the request carries.
    mcp: Option<ExplainedMessage>,
    /// The access token; put into the first place of `token.from`.
    token: Option<String>,
}

/// An MCP message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainedMessage {
    /// The JSON-RPC method, such as `tools/call`.
    method: String,
    /// The tool that `tools/call` names.
    tool: Option<String>,
}

impl ExplainedMessage {
    fn view(&self) -> McpMessage<'_> {
        McpMessage { method: &self.method, tool: self.tool.as_deref() }
    }
}

fn get() -> String {
    "GET".to_owned()
}

fn root() -> String {
    "/".to_owned()
}

fn https() -> String {
    "https".to_owned()
}

fn localhost() -> String {
    "localhost".to_owned()
}

/// Decides a request and explains the decision, step by step.
///
/// Consults the revocations that this instance has applied, and the store where the policy requires it. Nothing is
/// recorded: a sign-out rule revokes nothing here.
#[utoipa::path(
    post, path = "/v1/explain", tag = "operation", security(("admin_key" = [])),
    request_body = ExplainRequest,
    responses(
        (status = 200, description = "The decision with each of its `checks` (`check`, `passed`, `expected`, `got`) and the established facts: rule, access, api_client, keys, token, verified, revocation, requirements, answer, the open `streams`; and `detail`, the fault of the token.", body = Object),
        Json<ExplainRequest>,
        MayRead,
    )
)]
pub(super) async fn explain(
    extract::State(http): extract::State<Http>,
    _: MayRead,
    Json(mut asked): Json<ExplainRequest>,
) -> Result<axum::Json<Value>, Problem> {
    let state = &http.state;
    let policy = state.policy();
    let mut fields: Vec<(String, String)> =
        asked.headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    if let Some(token) = &asked.token {
        policy.authorizer.tokens.put(token, &mut fields, &mut asked.path);
    }
    if asked.mcp.is_some() {
        explain::describe_body(&mut fields);
    }
    let headers: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = RequestView {
        method: &asked.method,
        target: &asked.path,
        mcp: asked.mcp.as_ref().map(ExplainedMessage::view),
        host: &asked.host,
        headers: &headers,
        rule: asked.rule.as_deref(),
        scheme: &asked.scheme,
        ..RequestView::NOTHING
    };
    let read = |deciding: &Deciding<'_>, decision: &Decision<'_>| {
        let mut explained = explain::explain(&deciding.policy, &request, decision, Some(deciding.view()), clock::now());
        explained["streams"] = streams(state, decision.evidence.token.as_ref());
        explained
    };
    let explained = decide_with(Query::new(state, &request).dry_run(), read).await;
    explained.map(axum::Json).ok_or_else(|| Problem::new(Error::NotTaken, "the decision failed"))
}

/// The number of open streams at this instance, and the number that a revocation of each of the token's targets would
/// end.
fn streams(state: &State, token: Option<&VerifiedToken>) -> Value {
    let streams = state.streams();
    // Former names of the issuer, and both readings of an id, count as one revocation.
    let mut targets = BTreeMap::<_, Vec<_>>::new();
    for target in token.into_iter().flat_map(VerifiedToken::targets) {
        targets.entry(target.kind.to_string()).or_default().push(target.clone());
    }
    let would_end: Map<_, _> =
        targets.into_iter().map(|(kind, targets)| (kind, json!(streams.count(&targets)))).collect();
    json!({"open": streams.open_count(), "would_end": would_end})
}
