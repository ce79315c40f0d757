//! `GET /v1/instances`: who decides, and how current each is.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Http;
use super::extract::MayRead;
use super::problem::{AdminErrors, Problem};

/// The fleet.
#[derive(Serialize, ToSchema)]
pub(super) struct Instances {
    instances: Vec<Instance>,
}

/// One running Doorward.
#[derive(Serialize, ToSchema)]
struct Instance {
    name: String,
    /// Whether it is the one that answers.
    this: bool,
    version: String,
    uptime_seconds: u64,
    /// The time since the start of its last completed read of the store; null before the first, and
    /// while a gap is being repaired.
    view_age_ms: Option<u64>,
    /// Everything in the log up to here is applied.
    position: String,
    /// What its replica is doing.
    state: String,
}

/// Lists the instances, their view's age and their place in the log.
#[utoipa::path(
    get, path = "/v1/instances", tag = "operation", security(("admin_key" = [])),
    responses(
        (status = 200, description = "The instances.", body = Instances),
        AdminErrors,
    )
)]
pub(super) async fn instances(State(http): State<Http>, _: MayRead) -> Result<axum::Json<Instances>, Problem> {
    let replica = &http.state.replica;
    let age = replica.freshness().age(std::time::Instant::now());
    let this = Instance {
        name: replica.name().to_owned(),
        this: true,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: http.started.elapsed().as_secs(),
        view_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        position: replica.applied().borrow().to_string(),
        state: replica.status().state.to_string(),
    };
    Ok(axum::Json(Instances { instances: vec![this] }))
}
