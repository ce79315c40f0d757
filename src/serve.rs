//! Wiring: binds, builds, spawns and supervises; reloads and drains. The only module that spawns.

pub mod assemble;
mod budget;
mod connections;
mod listen;
mod listeners;
pub mod log;
mod read_quota;
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
use crate::api::http::{Missing, Readiness};
use crate::clock::Steady;
use crate::config::{Config, Store};
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
    let (state, webhook_sender) = assemble::state(&config)?;
    log.count_lost(state.metrics.degraded.with_label_values(&["log", "drop"]));
    let readiness = Arc::new(Readiness::default());
    let limits = config.limits;

    let stop = CancellationToken::new();
    let mut tasks = Supervisor::new(stop.clone());
    tasks.spawn("replica", state.replica.clone().run(stop.clone()));
    if let Some(webhook_sender) = webhook_sender {
        let stopped = stop.clone();
        tasks.spawn("alarm", async move {
            tokio::select! {
                () = webhook_sender.run() => {}
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
    in_force(&config);

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        name = tasks.ended() => anyhow::bail!("the task `{name}` ended unexpectedly"),
        name = servers.ended() => anyhow::bail!("the task `{name}` ended unexpectedly"),
    }
    info!("draining");
    readiness.drain();
    // Gives load balancers time to notice the failing health check before connections close; a second signal skips it.
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

/// What was read, on one line: an operator sees at a glance whether it is the file that was meant.
fn in_force(config: &Config) {
    let issuers: Vec<_> = config.issuers.iter().map(|issuer| issuer.trusted.name.as_str()).collect();
    let issuers = issuers.join(", ");
    let store = match &config.revocation.store {
        Store::Embedded { path: None } => "embedded, in memory: a restart forgets every sign-out",
        Store::Embedded { path: Some(_) } => "embedded, in a file",
        Store::Redis(_) => "redis",
    };
    let (rules, admin_keys, api_keys) = (config.rules.len(), config.admin_keys.len(), config.api_keys.iter().count());
    let max_staleness = humantime::format_duration(config.freshness.max_staleness).to_string();
    info!(issuers, rules, store, max_staleness, admin_keys, api_keys, "in force");
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

/// How long something must be missing before the log warns: keys and the log of revocations take a moment at every
/// start, and a store that fails over is back by then.
const LASTING: Duration = Duration::from_secs(5);

/// Keeps `grpc.health.v1` in step with `/readyz`, and says in the log when readiness changes and why.
async fn report_health(
    state: Arc<State>,
    readiness: Arc<Readiness>,
    reporter: tonic_health::server::HealthReporter,
    stop: CancellationToken,
) {
    let mut last: Option<Vec<Missing>> = None;
    let mut since = Steady::now();
    let mut warned = false;
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
            match missing.as_slice() {
                [] => info!("ready"),
                missing => info!(missing = Missing::parts(missing), why = Missing::reasons(missing), "not ready"),
            }
            if missing.is_empty() || last.as_ref().is_none_or(Vec::is_empty) {
                (since, warned) = (Steady::now(), false);
            }
            last = Some(missing);
        }
        if let Some(missing) = last.as_deref().filter(|missing| !missing.is_empty() && !warned)
            && since.elapsed() > LASTING
        {
            let seconds = since.elapsed().as_secs();
            warn!(missing = Missing::parts(missing), why = Missing::reasons(missing), seconds, "still not ready");
            warned = true;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
            () = stop.cancelled() => return,
        }
    }
}
