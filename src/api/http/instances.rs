//! `GET /v1/instances`: the running instances and the age of their views.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::about::millis;
use super::extract::MayRead;
use super::probes::Readiness;
use super::transmitters::{self, Transmitter};
use super::{Http, Missing};
use crate::sources::relay::RelayStatus;
use crate::state::Peer;

/// The fleet.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "the names are the API's")]
pub(super) struct Instances {
    /// The answering instance is first.
    instances: Vec<Instance>,
    /// False: the store did not return the others.
    complete: bool,
    /// The age from which on a view is not relied on, in milliseconds, by the configuration of the answering instance.
    max_staleness_ms: u64,
    /// Why the answering instance is not ready, as in `/readyz?fresh`; empty when it is.
    missing: Vec<NotReady>,
    /// The faults to repair although the instance is ready.
    warnings: Vec<NotReady>,
    /// The transmitters of security events, as the one that answers knows them.
    signals: Vec<Transmitter>,
    /// The relays to other regions (`revocation.redis.relay`).
    relays: Vec<Relayed>,
}

/// A relay to the Redis of another region.
#[derive(Serialize, ToSchema)]
struct Relayed {
    /// `relay.` and its place in `revocation.redis.relay`.
    name: String,
    /// The host and port of the other region's Redis.
    to: String,
    /// `starting`, `catching_up`, `following`, `unreachable`, `refused`, `names_differ` or `same_store`.
    state: &'static str,
    /// The other region is at most 30 s behind.
    up: bool,
    /// Everything that was written to this region's Redis this long ago is in the other one; null before that is known.
    lag_ms: Option<u64>,
    /// The instance that runs it; null while none does.
    owner: Option<String>,
    /// The obstacle.
    problem: Option<String>,
}

/// A part that is not as it should be.
#[derive(Serialize, ToSchema)]
struct NotReady {
    part: &'static str,
    reason: String,
}

/// A running Doorward instance.
#[derive(Serialize, ToSchema)]
struct Instance {
    name: String,
    /// Whether this is the answering instance.
    this: bool,
    version: String,
    /// `service`, or `module` inside Envoy.
    role: String,
    uptime_seconds: u64,
    /// The time since the start of its last completed read of the store, as far as the answering instance has read;
    /// null before the first, and while a gap is being repaired.
    view_age_ms: Option<u64>,
    /// Everything in the log up to here is applied.
    position: String,
    /// The state of the instance's replica.
    state: String,
    /// Seconds by which its wall clock is ahead of the store's, negative if it is behind; null without a store, or
    /// for an instance of an earlier version.
    clock_skew_seconds: Option<f64>,
    /// The open streams at the instance that end with their session.
    streams: usize,
}

/// Lists the instances, their view's age and their place in the log.
///
/// An instance that ended without removing its lease is listed until the lease expires.
#[utoipa::path(
    get, path = "/v1/instances", tag = "operation", security(("admin_key" = [])),
    responses((status = 200, description = "The instances of the fleet.", body = Instances), MayRead)
)]
pub(super) async fn instances(State(http): State<Http>, _: MayRead) -> axum::Json<Instances> {
    axum::Json(fleet(&http).await)
}

impl Instances {
    pub(super) fn len(&self) -> usize {
        self.instances.len()
    }
}

/// The instances as they are now.
pub(super) async fn fleet(http: &Http) -> Instances {
    let replica = &http.state.replica;
    let (peers, complete) = match replica.peers().await {
        Ok(peers) => (peers, true),
        Err(_) => (vec![replica.this()], false),
    };
    let instances = peers.into_iter().map(|peer| instance(peer, replica.name())).collect();
    let not_ready = |Missing { part, reason }| NotReady { part, reason };
    Instances {
        instances,
        complete,
        max_staleness_ms: millis(http.state.policy().authorizer.freshness.max_staleness),
        missing: http.readiness.missing(&http.state, true).into_iter().map(not_ready).collect(),
        warnings: Readiness::warnings(&http.state).into_iter().map(not_ready).collect(),
        signals: transmitters::shown(http),
        relays: http.state.relays().iter().map(|relay| relayed(relay.status())).collect(),
    }
}

fn relayed(status: RelayStatus) -> Relayed {
    let RelayStatus { name, to, state, owner, lag, is_up, problem, .. } = status;
    Relayed { name: name.into(), to, state: state.as_str(), up: is_up, lag_ms: lag.map(millis), owner, problem }
}

fn instance(peer: Peer, this: &str) -> Instance {
    Instance {
        this: peer.name == this,
        name: peer.name,
        version: peer.version,
        role: peer.role,
        uptime_seconds: peer.uptime.as_secs(),
        view_age_ms: peer.view_age.map(millis),
        position: peer.position.to_string(),
        state: peer.state,
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a skew: far below 2^53")]
        clock_skew_seconds: peer.skew_ms.map(|millis| millis as f64 / 1000.0),
        streams: peer.streams,
    }
}
