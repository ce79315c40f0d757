//! `GET /v1/refusals`: the refusals of the last minutes, and their reasons.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::Http;
use super::about::millis;
use super::extract::MayRead;
use super::problem::{Error, Problem, ProblemDetails};
use crate::clock;
use crate::state::{Refusal, RefusalCount, RefusalKind, Refusals, State as Shared};

/// The refusals of this instance.
#[derive(Serialize, ToSchema)]
pub(super) struct RefusalList {
    /// The length of one number in `counts`, in milliseconds.
    slot_ms: u64,
    /// By reason, rule and issuer, the most frequent first; at most 256.
    kinds: Vec<CountedKind>,
    /// The explained refusals, the newest first: at most one of each kind in a second, 16 in a second, and 256 in all.
    explained: Vec<ExplainedRefusal>,
}

impl RefusalList {
    /// Whether nothing was refused in the window.
    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }
}

#[derive(Serialize, ToSchema)]
struct CountedKind {
    #[serde(flatten)]
    kind: KindOfRefusal,
    /// In the whole window of ten minutes.
    total: u64,
    /// In each slot of it, the oldest first; the last one is running.
    counts: Vec<u32>,
}

#[derive(Serialize, ToSchema)]
struct KindOfRefusal {
    /// As in the response's body.
    reason: &'static str,
    rule: String,
    /// The configured name of the issuer that the token names; null if it is not configured, or if there was no token.
    issuer: Option<String>,
    /// False: the rule is on trial (`enforce: false`), and the request was let in.
    enforced: bool,
}

/// A refusal that was explained, without its checks.
#[derive(Serialize, ToSchema)]
pub(super) struct ExplainedRefusal {
    /// For `/v1/refusals/{id}`; counts from 1 in each process.
    id: u64,
    /// RFC 3339.
    at: String,
    #[serde(flatten)]
    kind: KindOfRefusal,
    /// The fault of the token.
    detail: Option<String>,
    /// The request's `x-request-id`, as it stands in the logs.
    request_id: Option<String>,
    /// The client's address as the proxy reports it.
    source: Option<String>,
}

/// A refusal with the checks of its decision.
#[derive(Serialize, ToSchema)]
pub(super) struct RefusalWithChecks {
    #[serde(flatten)]
    refusal: ExplainedRefusal,
    /// The meaning of the reason for an operator.
    meaning: &'static str,
    /// As of `POST /v1/explain`: `check`, `passed` (null: not reached), `expected`, `got`; long texts are cut, and
    /// text that may be a token is left out.
    #[schema(value_type = Vec<Object>)]
    checks: Value,
}

/// Lists the refusals of this instance in the last ten minutes.
///
/// Each instance lists only its own refusals; `doorward_checks_total` counts those of all.
#[utoipa::path(
    get, path = "/v1/refusals", operation_id = "list_refusals", tag = "operation", security(("admin_key" = [])),
    responses((status = 200, description = "The counts by kind, and a sample of the refusals.", body = RefusalList), MayRead)
)]
pub(super) async fn list(State(http): State<Http>, _: MayRead) -> axum::Json<RefusalList> {
    axum::Json(all(&http.state))
}

pub(super) fn all(state: &Shared) -> RefusalList {
    let refusals = &state.refusals;
    RefusalList {
        slot_ms: millis(Refusals::SLOT),
        kinds: refusals.counts(Instant::now()).into_iter().map(counted).collect(),
        explained: refusals.explained().iter().map(explained).collect(),
    }
}

/// Explains one of the refusals, check by check.
#[utoipa::path(
    get, path = "/v1/refusals/{id}", operation_id = "explain_refusal", tag = "operation",
    params(("id" = String, Path, description = "The refusal's `id`.")), security(("admin_key" = [])),
    responses(
        (status = 200, description = "The refusal.", body = RefusalWithChecks),
        MayRead,
        (status = 404, description = "This instance does not have the refusal, or not any more.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn one(
    State(http): State<Http>,
    _: MayRead,
    Path(id): Path<String>,
) -> Result<axum::Json<RefusalWithChecks>, Problem> {
    let found = http.state.refusals.explained().into_iter().find(|refusal| id.parse() == Ok(refusal.id));
    let refusal =
        found.ok_or_else(|| Problem::new(Error::NotFound, "this instance does not have a refusal with this id"))?;
    let meaning = refusal.kind.reason.meaning();
    Ok(axum::Json(RefusalWithChecks { refusal: explained(&refusal), meaning, checks: refusal.checks.clone() }))
}

fn counted(count: RefusalCount) -> CountedKind {
    CountedKind { kind: kind(&count.kind), total: count.total(), counts: count.slots }
}

fn explained(refusal: &Arc<Refusal>) -> ExplainedRefusal {
    ExplainedRefusal {
        id: refusal.id,
        at: clock::format_rfc3339(refusal.at),
        kind: kind(&refusal.kind),
        detail: refusal.detail.as_deref().map(str::to_owned),
        request_id: refusal.request_id.as_deref().map(str::to_owned),
        source: refusal.source.map(|source| source.to_string()),
    }
}

fn kind(kind: &RefusalKind) -> KindOfRefusal {
    KindOfRefusal {
        reason: kind.reason.label(),
        rule: kind.rule.to_string(),
        issuer: kind.issuer.as_ref().map(ToString::to_string),
        enforced: kind.enforced,
    }
}
