//! Wiring: binds, builds, spawns and supervises; reloads and drains. The only module that spawns.

pub mod assemble;
mod budget;
mod connections;
mod listen;
mod listeners;
pub mod log;
mod pace;
mod reload;
mod streams;
mod supervisor;
mod tls;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::check;
use crate::api::http::Readiness;
use crate::config::Config;
use crate::state::State;
use crate::traces::Traces;
use listeners::Listeners;
use log::Log;
use reload::Reload;
pub use reload::log_warnings;
use supervisor::Supervisor;

/// Runs the service until it is told to stop; `file` is read again when it changes.
pub async fn serve(config: Config, file: PathBuf, log: &Log) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    allow_many_files();
    // Listening comes first: a taken port must show before anything is started.
    let listeners = Listeners::bind(&config.listen).await?;
    let (state, ringer) = assemble::state(&config)?;
    log.count_lost(state.metrics.degraded.with_label_values(&["log", "drop"]));
    let readiness = Arc::new(Readiness::default());
    let limits = config.limits;

    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new(stop.clone());
    tasks.spawn("replica", state.replica.clone().run(stop.clone()));
    if let Some(ringer) = ringer {
        let stopped = stop.clone();
        tasks.spawn("alarm", async move {
            tokio::select! {
                () = ringer.run() => {}
                () = stopped.cancelled() => {}
            }
        });
    }
    let reload = Reload::new(file, &config, state.clone(), listeners.tls.clone())?;
    tasks.spawn("reload", reload.run(stop.clone()));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(check::SERVICE_NAME, tonic_health::ServingStatus::NotServing).await;
    tasks.spawn("health", report_health(state.clone(), readiness.clone(), reporter, stop.clone()));

    let drain = CancellationToken::new();
    tasks.spawn("streams", streams::keep(state.clone(), limits.drain, drain.clone(), stop.clone()));
    let mut servers = Supervisor::new(drain.clone());
    listeners.serve(&config, &state, &readiness, health, &mut servers, &drain)?;

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
