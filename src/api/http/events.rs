//! `GET /v1/events`: changes, as server-sent events (WHATWG HTML section 9.2).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use futures_util::stream;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::extract::{MayRead, bearer};
use super::problem::{Error, Problem, ProblemDetails};
use super::{Http, instances, refusals};
use crate::authz::api_key::{KeyDigest, digest_of};
use crate::authz::revocation::Kind;
use crate::state::admin_key::Permission;

/// Marks a response whose body is open-ended: its connection is not idle meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct OpenEnded;

/// The interval of checks for changes.
const TICK: Duration = Duration::from_secs(1);
/// The listing interval grows by this for each instance of the fleet: a thousand instances are listed every ten
/// seconds.
const PER_INSTANCE: Duration = Duration::from_millis(10);
/// After this number of checks without news a comment is sent, so that proxies keep the connection.
const QUIET: u32 = 15;

/// The state that all watchers share.
pub(super) struct Watching {
    permits: Arc<Semaphore>,
    /// The last listing of the fleet, and when it is old: the store is asked once for all who watch.
    fleet: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Watching {
    /// Watchers at once, at this instance.
    const MAX: usize = 8;
}

impl Default for Watching {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(Self::MAX)), fleet: Mutex::default() }
    }
}

/// Sends changes, as server-sent events.
///
/// `instances` has the body of `/v1/instances`, every second, less often in a fleet of more than a hundred; `refusals`
/// has that of `/v1/refusals`, and `revocations` the number of each kind, at most once in a second after a change.
/// `end` is the last event: its `reason` is `draining`, or `credentials` when the key is not configured any more or
/// may not read any more. At most 8 clients watch an instance at once.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "watch", tag = "operation", security(("admin_key" = [])),
    responses(
        (status = 200, description = "A stream of server-sent events.", body = String, content_type = "text/event-stream"),
        MayRead,
        (status = 429, description = "Too many clients read the events of this instance.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn events(
    State(http): State<Http>,
    _: MayRead,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let permit = http.watching.permits.clone().try_acquire_owned();
    let permit = permit.map_err(|_| {
        Problem::new(
            Error::Busy,
            "too many clients read the events of this instance: close one, or use another instance",
        )
    })?;
    let key = digest_of(bearer(&headers).unwrap_or_default());
    let watch =
        Watch { http, key, _permit: permit, due: VecDeque::new(), seen: Seen::default(), quiet: 0, over: false };
    Ok(respond(Body::from_stream(stream::unfold(watch, |mut watch| async move {
        let event = watch.next().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(event)), watch))
    }))))
}

/// An open-ended response.
pub(super) fn respond(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.extensions_mut().insert(OpenEnded);
    response
}

/// One event of the stream; JSON has no line breaks.
pub(super) fn event(name: &str, data: &impl Serialize) -> String {
    format!("event: {name}\ndata: {}\n\n", serde_json::to_string(data).unwrap_or_default())
}

/// A watcher.
struct Watch {
    http: Http,
    /// The SHA-256 of the admin key.
    key: KeyDigest,
    _permit: OwnedSemaphorePermit,
    due: VecDeque<String>,
    seen: Seen,
    quiet: u32,
    over: bool,
}

/// The state that was sent last.
#[derive(Default)]
struct Seen {
    fleet: Option<Arc<str>>,
    refusals: Option<u64>,
    revocations: Option<Vec<usize>>,
}

impl Watch {
    /// The next event; `None` after the last.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(event) = self.due.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            if self.seen.fleet.is_some() {
                tokio::time::sleep(TICK).await;
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let end = |reason: &str| event("end", &json!({"reason": reason}));
        let state = self.http.state.clone();
        let may = state.policy().admin_keys.of(&self.key).is_some_and(|key| key.may(Permission::Read));
        if !may || self.http.readiness.is_draining() {
            self.over = true;
            self.due.push_back(end(if may { "draining" } else { "credentials" }));
            return;
        }
        let fleet = self.fleet().await;
        if self.seen.fleet.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &fleet)) {
            self.due.push_back(fleet.to_string());
            self.seen.fleet = Some(fleet);
        }
        let changes = state.refusals.changes();
        if self.seen.refusals != Some(changes) {
            self.due.push_back(event("refusals", &refusals::all(&state)));
            self.seen.refusals = Some(changes);
        }
        let counts = state.replica.index().counts();
        let counts: Vec<usize> = Kind::ALL.iter().zip(counts).map(|(_, count)| count).collect();
        if self.seen.revocations.as_ref() != Some(&counts) {
            let named: serde_json::Map<_, _> =
                Kind::ALL.iter().zip(&counts).map(|(kind, count)| (kind.to_string(), json!(count))).collect();
            self.due.push_back(event("revocations", &named));
            self.seen.revocations = Some(counts);
        }
        self.quiet = if self.due.is_empty() { self.quiet + 1 } else { 0 };
        if self.quiet == QUIET {
            self.quiet = 0;
            self.due.push_back(":\n\n".to_owned());
        }
    }

    /// The event that lists the fleet; it is shared by all who watch.
    async fn fleet(&self) -> Arc<str> {
        let mut fleet = self.http.watching.fleet.lock().await;
        if let Some((old_at, listed)) = &*fleet
            && Instant::now() < *old_at
        {
            return listed.clone();
        }
        let listed = instances::fleet(&self.http).await;
        let size = u32::try_from(listed.len()).unwrap_or(u32::MAX);
        // A little less than a look: each look finds another one.
        let fresh_for = (PER_INSTANCE.saturating_mul(size)).max(TICK.mul_f32(0.9));
        let listed: Arc<str> = event("instances", &listed).into();
        *fleet = Some((Instant::now() + fresh_for, listed.clone()));
        listed
    }
}
