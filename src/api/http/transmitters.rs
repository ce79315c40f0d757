//! `/v1/signals`: the transmitters of security events, the state of their streams, and deleting one.

use std::sync::Arc;

use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Http;
use super::extract::{MayRead, MayRevoke, Parameters};
use super::problem::{Error, Problem, ProblemDetails};
use crate::clock::format_rfc3339;
use crate::sources::signals::{DeleteError, Receiver, Shown, StreamRecord, StreamState, Tally};

/// The transmitters.
#[derive(Serialize, ToSchema)]
pub(super) struct Signals {
    /// As this instance knows them, in the order of `signals.transmitters`.
    transmitters: Vec<Transmitter>,
    /// Streams in the store whose transmitter is not configured here; `null` if the store does not answer.
    left_over: Option<Vec<LeftOver>>,
}

/// A configured transmitter.
#[derive(Serialize, ToSchema)]
pub(super) struct Transmitter {
    /// `signals.` and its place in `signals.transmitters`.
    name: String,
    issuer: String,
    audience: String,
    /// `push` or `poll`.
    delivery: &'static str,
    /// Whether Doorward sets the stream up, and deletes it.
    managed: bool,
    /// `enabled`, `setting_up`, `paused`, `disabled`, `silent`, `unreachable` or `deleted`; null for a stream that an
    /// operator has set up and that is pushed.
    state: Option<&'static str>,
    /// The instance that owns the stream; null while none does.
    owner: Option<String>,
    stream_id: Option<String>,
    /// When the latest requested verification event arrived.
    verified_at: Option<String>,
    /// The latest failure.
    problem: Option<String>,
    /// When this instance received its latest event.
    last_event_at: Option<String>,
    /// The events that this instance has received.
    events: Events,
}

/// Counts of events by their outcome.
#[derive(Serialize, ToSchema)]
struct Events {
    applied: u64,
    /// Without effect on tokens, by their type, or too old.
    ignored: u64,
    /// Without a subject that can be mapped to tokens: acknowledged, without effect.
    unmapped: u64,
    /// Applied by an email address, while no token verified here had named one.
    unseen: u64,
    /// Signed by the transmitter or polled from it, and refused.
    refused: u64,
}

/// A stream whose transmitter is not configured here.
#[derive(Serialize, ToSchema)]
struct LeftOver {
    issuer: String,
    audience: String,
    stream_id: String,
}

/// The outcome of a deletion.
#[derive(Serialize, ToSchema)]
pub(super) struct Deleted {
    name: String,
    /// The stream that was deleted; null: there was none.
    stream_id: Option<String>,
    /// Whether another one is set up.
    recreated: bool,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteQuery {
    /// Set up another stream afterwards.
    #[serde(default)]
    recreate: bool,
}

/// Lists the transmitters of security events and the state of their streams.
#[utoipa::path(
    get, path = "/v1/signals", tag = "operation", security(("admin_key" = [])),
    responses((status = 200, description = "The transmitters.", body = Signals), MayRead)
)]
pub(super) async fn list(State(http): State<Http>, _: MayRead) -> axum::Json<Signals> {
    let receivers = http.state.receivers();
    let records = http.state.replica.signal_records().await;
    let is_left = |id: &String| receivers.iter().all(|receiver| receiver.id() != id);
    let left_over = |(id, record): (String, String)| {
        let StreamRecord { issuer, audience, stream_id, .. } = StreamRecord::parse(&record).filter(|_| is_left(&id))?;
        Some(LeftOver { issuer, audience, stream_id: stream_id? })
    };
    axum::Json(Signals {
        transmitters: shown(&http),
        left_over: records.ok().map(|records| records.into_iter().filter_map(left_over).collect()),
    })
}

/// The transmitters as this instance knows them.
pub(super) fn shown(http: &Http) -> Vec<Transmitter> {
    http.state.receivers().iter().map(|receiver| transmitter(receiver.shown())).collect()
}

/// The faults that an operator must mend: `(name, state)` of each stream whose events do not arrive.
pub(super) fn down(receivers: &[Arc<Receiver>]) -> Vec<(String, &'static str)> {
    let is_down = |state: &StreamState| !matches!(state, StreamState::Enabled | StreamState::SettingUp);
    let shown = receivers.iter().map(|receiver| receiver.shown());
    shown.filter_map(|shown| Some((shown.name.to_string(), shown.state.filter(is_down)?.as_str()))).collect()
}

/// Deletes the stream at a transmitter.
///
/// It is not set up again with the same settings, unless `recreate` is set. The key needs the permission `revoke`.
#[utoipa::path(
    delete, path = "/v1/signals/{name}", tag = "operation", security(("admin_key" = [])),
    params(("name" = String, Path, description = "The name of the transmitter, such as `signals.1`."), DeleteQuery),
    responses(
        (status = 200, description = "Deleted, or there was none.", body = Deleted),
        (status = 400, description = "A parameter is not valid.", body = ProblemDetails, content_type = "application/problem+json"),
        MayRevoke,
        (status = 404, description = "No transmitter with this name has a stream.", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 503, description = "The transmitter or the store did not delete it.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(
    State(http): State<Http>,
    MayRevoke(by): MayRevoke,
    Path(name): Path<String>,
    Parameters(query): Parameters<DeleteQuery>,
) -> Result<axum::Json<Deleted>, Problem> {
    let receivers = http.state.receivers();
    let receiver = receivers.iter().find(|receiver| receiver.name().as_str() == name);
    let receiver = receiver.ok_or_else(|| Problem::new(Error::NotFound, "GET /v1/signals lists the transmitters"))?;
    match receiver.delete(&http.state.replica, query.recreate).await {
        Ok(stream_id) => {
            tracing::info!(transmitter = %receiver.name(), %by, "signals stream deleted");
            Ok(axum::Json(Deleted { name, stream_id, recreated: query.recreate }))
        }
        Err(DeleteError::NotManaged) => {
            Err(Problem::new(Error::NotFound, "`stream` is not set for it: delete its stream at the transmitter"))
        }
        Err(DeleteError::Store(error)) => {
            Err(Problem::new(Error::StoreUnavailable, "the stream was not deleted").with_reason(error.label()))
        }
        Err(error @ DeleteError::Transmitter(_)) => Err(Problem::new(Error::NotTaken, error.to_string())),
    }
}

fn transmitter(shown: Shown) -> Transmitter {
    let count = |tally: Tally| shown.events[tally as usize];
    Transmitter {
        name: shown.name.to_string(),
        issuer: shown.issuer,
        audience: shown.audience,
        delivery: if shown.polled { "poll" } else { "push" },
        managed: shown.managed,
        state: shown.state.map(StreamState::as_str),
        owner: shown.owner,
        stream_id: shown.stream_id,
        verified_at: shown.verified_at.map(format_rfc3339),
        problem: shown.problem,
        last_event_at: shown.last_event.map(format_rfc3339),
        events: Events {
            applied: count(Tally::Applied),
            ignored: count(Tally::Ignored),
            unmapped: count(Tally::Unmapped),
            unseen: count(Tally::Unseen),
            refused: count(Tally::Refused),
        },
    }
}
