//! Wiring: binds, builds, spawns and supervises; reloads and drains. The only module that spawns.

pub mod assemble;
mod budget;
mod connections;
mod listen;
mod reload;
mod supervisor;
mod tls;
mod workers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing::{info, warn};

use crate::api::check;
use crate::api::http::{Http, HttpLimits, Part, Readiness, router};
use crate::config::Config;
use crate::metrics::Metrics;
use crate::sources::introspection::Introspectors;
use crate::sources::jwks;
use crate::sources::replica::Replica;
use crate::state::State;
use crate::traces::Traces;
use budget::Budget;
use connections::{Protocol, Server};
use listen::Listener;
use reload::Reload;
use supervisor::Supervisor;
use tls::Tls;
use workers::Workers;

/// Runs the service until it is told to stop; `file` is read again when it changes.
pub async fn serve(config: Config, file: PathBuf) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    allow_many_files();
    // Listening comes first: a taken port must show before anything is started.
    let check = Listener::bind_check(&config.listen.check).await?;
    let http = bind_http("listen.http", config.listen.http).await?;
    let admin = bind_http("listen.admin", config.listen.admin).await?;

    let tls = match &config.listen.tls {
        Some(files) => Some(Arc::new(Tls::load(files)?)),
        None => None,
    };

    let metrics = Arc::new(Metrics::new().context("register metrics")?);
    let traces = match &config.telemetry.otlp_endpoint {
        Some(endpoint) => {
            Some(Traces::new(endpoint, metrics.trace_exports.clone()).context("telemetry.otlp.endpoint")?)
        }
        None => None,
    };
    let replica = Arc::new(Replica::new(assemble::ledger(&config)?, Some(metrics.revocation_lag.clone())));
    let client = jwks::client().context("build the HTTP client")?;
    let (alarm, ringer) = assemble::alarm(&config, &metrics)?;
    let state = Arc::new(State::new(assemble::policy(&config), replica.clone(), Arc::clone(&metrics), alarm, traces));
    let introspectors = assemble::introspectors(&config, &Introspectors::default(), &metrics.introspections)?;
    state.set_introspectors(introspectors);
    let readiness = Arc::new(Readiness::default());
    let limits = config.limits;

    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new(stop.clone());
    tasks.spawn("replica", replica.run(stop.clone()));
    if let Some(ringer) = ringer {
        let stopped = stop.clone();
        tasks.spawn("alarm", async move {
            tokio::select! {
                () = ringer.run() => {}
                () = stopped.cancelled() => {}
            }
        });
    }
    let reload = Reload::new(file, &config, state.clone(), client, tls.clone())?;
    tasks.spawn("reload", reload.run(stop.clone()));

    let (health_reporter, health) = tonic_health::server::health_reporter();
    health_reporter.set_service_status(check::SERVICE_NAME, tonic_health::ServingStatus::NotServing).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(check::FILE_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let check_server = check::service(state.clone(), limits.grpc_message_bytes, limits.request_headers);
    let grpc = Routes::new(check_server.clone())
        .add_service(health)
        .add_service(reflection().build_v1().context("build gRPC reflection")?)
        .add_service(reflection().build_v1alpha().context("build gRPC reflection")?)
        .into_axum_router();

    let drain = CancellationToken::new();
    let bound = |http: &Option<Listener>| Some(http.as_ref()?.address());
    let addresses = (check.address(), bound(&http), bound(&admin));
    let mut servers = Supervisor::new(drain.clone());
    let budget = Budget::new(limits.buffered_bytes);
    let server = |name, protocol, router| {
        Server::new(name, protocol, router, &limits, budget.clone(), state.metrics.connections.clone())
    };
    let (workers, workers_ended) = Workers::start(&stop)?;
    tasks.spawn("connections", workers_ended);
    // A Unix socket is guarded by its mode.
    let check_tls = tls.clone().filter(|_| matches!(check, Listener::Tcp(..)));
    let grpc = server("check", Protocol::Grpc, grpc).with_check(check_server, workers).with_tls(check_tls);
    servers.spawn("grpc", grpc.serve(check, drain.clone()));
    let http_limits = HttpLimits {
        body_bytes: limits.http_body_bytes,
        timeout: limits.http_timeout,
        list_page: limits.list_page,
        receipt_timeout: limits.receipt_timeout,
        inlet_requests: limits.inlet_requests,
    };
    let app = Http::new(state.clone(), readiness.clone(), http_limits, &config.listen.cors_origins);
    // Without an address of its own, what needs an admin key is served beside the rest.
    let part = if admin.is_some() { Part::Public } else { Part::All };
    for (name, listener, part) in [("http", http, part), ("admin", admin, Part::Admin)] {
        let Some(listener) = listener else { continue };
        let http = server(name, Protocol::Http, router(app.clone(), part)).with_tls(tls.clone());
        servers.spawn(name, http.serve(listener, drain.clone()));
    }
    info!(
        version = env!("CARGO_PKG_VERSION"),
        check = addresses.0,
        http = addresses.1,
        admin = addresses.2,
        "listening"
    );
    tasks.spawn("health", report_health(state.clone(), readiness.clone(), health_reporter, stop.clone()));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        name = tasks.ended() => anyhow::bail!("the task `{name}` ended unexpectedly"),
        name = servers.ended() => anyhow::bail!("the task `{name}` ended unexpectedly"),
    }
    info!("draining");
    readiness.drain();
    // Who checks our health sends elsewhere before connections close; a second signal is in a hurry.
    tokio::select! {
        () = tokio::time::sleep(limits.drain_delay) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    drain.cancel();
    if !servers.finish(limits.drain).await {
        warn!(after = ?limits.drain, "requests still in flight are cut off");
    }
    stop.cancel();
    tasks.finish(limits.drain).await;
    if state.traces.is_some() {
        let _ = tokio::task::spawn_blocking(move || state.traces.as_ref().map(Traces::finish)).await;
    }
    info!("stopped");
    Ok(())
}

/// Each connection is an open file, and the usual soft limit of 1,024 is there for programs that use `select`.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const ENOUGH: u64 = 65_536;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    if current.is_some_and(|current| current < wanted) {
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
        if let Err(error) = raised {
            warn!(%error, "the limit of open files is not raised");
        }
    }
}

async fn bind_http(key: &'static str, address: Option<SocketAddr>) -> anyhow::Result<Option<Listener>> {
    match address {
        Some(address) => Listener::bind(key, address).await.map(Some),
        None => Ok(None),
    }
}

/// Keeps `grpc.health.v1` in step with `/readyz`, and says in the log when readiness changes and why.
async fn report_health(
    state: Arc<State>,
    readiness: Arc<Readiness>,
    reporter: tonic_health::server::HealthReporter,
    stop: CancellationToken,
) {
    let mut last: Option<Vec<(&'static str, String)>> = None;
    loop {
        let missing = readiness.missing(&state, false);
        if last.as_ref() != Some(&missing) {
            let status = if missing.is_empty() {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            reporter.set_service_status(check::SERVICE_NAME, status).await;
            reporter.set_service_status("", status).await;
            if missing.is_empty() {
                info!("ready");
            } else {
                warn!(missing = ?missing, "not ready");
            }
            last = Some(missing);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            () = stop.cancelled() => return,
        }
    }
}
