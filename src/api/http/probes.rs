//! `/livez`, `/readyz` and `/metrics`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{Response, StatusCode, header};
use serde_json::{Value, json};

use super::Http;
use super::transmitters::down;
use crate::metrics::Reading;
use crate::state::{KeySource, ReplicaState, State as Shared};

/// The shortest time between two expositions: each takes as long as ten decisions.
const SPACING: Duration = Duration::from_millis(1);

/// Whether this process accepts traffic: not while it drains, and not after a part of it has
/// failed.
#[derive(Default)]
pub struct Readiness {
    draining: AtomicBool,
    failed: AtomicBool,
}

/// A part of this process that is not ready, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Missing {
    pub part: &'static str,
    pub reason: String,
}

impl Missing {
    /// The parts, each once, for a field of a log line.
    #[must_use]
    pub fn parts(missing: &[Self]) -> String {
        let mut parts: Vec<_> = missing.iter().map(|missing| missing.part).collect();
        parts.dedup();
        parts.join(", ")
    }

    /// The reasons, in the same order.
    #[must_use]
    pub fn reasons(missing: &[Self]) -> String {
        missing.iter().map(|missing| missing.reason.as_str()).collect::<Vec<_>>().join("; ")
    }
}

impl Readiness {
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// A part that is not restarted has ended.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Whether this process is about to end.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// The parts that are not ready; empty when all are.
    pub fn missing(&self, state: &Shared, fresh: bool) -> Vec<Missing> {
        let mut missing = Vec::new();
        let mut add = |part, reason| missing.push(Missing { part, reason });
        if self.is_draining() {
            add("process", "draining".to_owned());
        }
        if self.has_failed() {
            add("process", "a task ended unexpectedly".to_owned());
        }
        let (policy, keys) = (state.policy(), state.keys());
        // Sorted, so that equal states read the same.
        let from = |wanted: &dyn Fn(&KeySource) -> bool| {
            let sources = keys.iter().filter(|source| wanted(source));
            let mut places: Vec<_> =
                sources.map(|source| format!("{} (from {})", source.issuer, source.settings().place())).collect();
            places.sort();
            places.join(", ")
        };
        let untried = from(&|source| !source.tried());
        if !untried.is_empty() {
            add("keys", format!("not yet tried: {untried}"));
        }
        if policy.authorizer.issuers.iter().all(|issuer| issuer.keys.is_none()) {
            let sources = from(&|_| true);
            add("keys", format!("no issuer's keys are loaded: {sources}").trim_end_matches(": ").to_owned());
        }
        let revocations = state.replica.status();
        if !revocations.ready {
            let store = state.replica.place().map_or_else(String::new, |place| format!(" ({place})"));
            let detail = revocations.detail.map_or_else(String::new, |detail| format!(": {detail}"));
            add("revocations", format!("{}{store}{detail}", revocations.state.as_str()));
        }
        if fresh {
            let max = policy.authorizer.freshness.max_staleness;
            if state.replica.view_age().is_none_or(|age| age > max) {
                add("freshness", "the view of the revocations is older than max_staleness".to_owned());
            }
        }
        missing
    }

    /// Faults that an operator must fix although the process is ready.
    pub(super) fn warnings(state: &Shared) -> Vec<Missing> {
        let revocations = state.replica.status();
        let lasting = [ReplicaState::NamesDiffer, ReplicaState::LogExhausted, ReplicaState::Refusing];
        let detail = revocations.detail.filter(|_| revocations.ready && lasting.contains(&revocations.state));
        let reason = |detail| format!("{}: {detail}", revocations.state);
        let revocations = detail.map(|detail| Missing { part: "revocations", reason: reason(detail) });
        let leads = state.replica.unread_leads().map(|fault| Missing {
            part: "leads",
            reason: format!(
                "those of other instances cannot be read: {fault}; sign-outs of users cover the whole leeway"
            ),
        });
        let signals = down(&state.receivers()).into_iter().map(|(name, state)| {
            let reason = format!("{name} is {state}: its security events do not arrive");
            Missing { part: "signals", reason }
        });
        let relays = state.relays();
        let relays = relays.iter().map(|relay| relay.status()).filter(|status| status.is_overdue);
        let relays = relays.map(|status| Missing { part: "relay", reason: status.warning() });
        revocations.into_iter().chain(leads).chain(signals).chain(relays).collect()
    }
}

/// The process is alive.
#[utoipa::path(
    get, path = "/livez", tag = "probes",
    responses(
        (status = 200, description = "The process is alive.", body = String),
        (status = 503, description = "A task has failed. Only inside Envoy: the service exits instead.", body = String),
    )
)]
pub(super) async fn livez(State(http): State<Http>) -> (StatusCode, &'static str) {
    if http.readiness.has_failed() {
        (StatusCode::SERVICE_UNAVAILABLE, "a task ended unexpectedly\n")
    } else {
        (StatusCode::OK, "ok\n")
    }
}

/// Readiness: 200, or 503 with the parts that are not ready.
#[utoipa::path(
    get, path = "/readyz", tag = "probes",
    params(("fresh" = Option<String>, Query, description = "With any value but `false` and `0`: also 503 while the view of the revocations is older than `max_staleness`.")),
    responses(
        (status = 200, description = "Ready. `warnings`, if present, lists faults to fix.", body = Object),
        (status = 503, description = "Not ready. `missing` lists the reasons.", body = Object),
    )
)]
pub(super) async fn readyz(State(http): State<Http>, RawQuery(query): RawQuery) -> Response<Body> {
    let asks = |part: &str| match part.split_once('=') {
        None => part == "fresh",
        Some((name, value)) => name == "fresh" && !matches!(value, "false" | "0"),
    };
    let fresh = query.is_some_and(|query| query.split('&').any(asks));
    let missing = http.readiness.missing(&http.state, fresh);
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let is_ready = missing.is_empty();
    let listed = |parts: Vec<Missing>| -> Vec<Value> {
        parts.into_iter().map(|Missing { part, reason }| json!({"part": part, "reason": reason})).collect()
    };
    let warnings = listed(Readiness::warnings(&http.state));
    let mut body = json!({"ready": is_ready, "missing": listed(missing)});
    if !warnings.is_empty() {
        body["warnings"] = Value::Array(warnings);
    }
    answer(status, "application/json", format!("{body}\n").into_bytes())
}

/// The metrics in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "probes",
    responses((status = 200, description = "The text exposition, version 0.0.4.", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(http): State<Http>) -> Response<Body> {
    let mut last = http.scraped.lock().await;
    tokio::time::sleep_until(*last + SPACING).await;
    *last = tokio::time::Instant::now();
    let state = &http.state;
    let reading = Reading {
        index: state.replica.index(),
        view_age: state.replica.view_age(),
        inbound_lag: state.replica.inbound_lag(),
        clock_skew: clock_skew(state),
        streams: (state.streams().open_count(), state.streams().ending_count()),
        jwks_age: state.keys().iter().filter_map(|source| Some((source.issuer.to_string(), source.age()?))).collect(),
    };
    state.relays().iter().for_each(|relay| state.metrics.relays.show(&relay.status()));
    match state.metrics.render(&reading) {
        // Prometheus 3 refuses an exposition without its version.
        Ok(text) => answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
        Err(_) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", b"metrics cannot be encoded\n".to_vec()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a skew: far below 2^53")]
fn clock_skew(state: &Shared) -> Vec<(String, f64)> {
    let store = state.replica.ahead_ms().map(|millis| ("store".to_owned(), millis as f64 / 1000.0));
    let leads = state.policy().authorizer.leads();
    let issuers = leads.into_iter().map(|(issuer, lead)| (issuer.to_string(), lead.seen().as_secs_f64()));
    store.into_iter().chain(issuers).collect()
}

fn answer(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
