//! The engine: everything that decisions need, for every front end. Sources, reload, live streams, HTTP API.
//!
//! The engine does not handle signals, change limits of the process or end the process: [`crate::serve`] does, or the
//! host process. Only this module and `serve` spawn.

pub mod assemble;
mod budget;
pub(crate) mod connections;
mod hosted;
mod http;
pub(crate) mod listen;
pub mod log;
mod read_quota;
mod readiness;
mod relay;
mod reload;
mod source;
mod status_lists;
mod streams;
mod supervisor;
mod tls;
mod unix;
pub(crate) mod workers;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::http::Readiness;
use crate::config::{Config, Limits, Store};
use crate::metrics::Degraded;
use crate::state::State;
use crate::traces::Traces;
use budget::Budget;
use connections::{Protocol, Server};
pub use hosted::Hosted;
pub use http::HttpListeners;
use listen::Listener;
use log::Log;
pub use relay::run_relays;
use reload::Reload;
pub use reload::log_warnings;
pub use source::Source;
use supervisor::Supervisor;
use tls::Tls;

/// The engine: it reads and follows its sources until it is stopped.
pub struct Engine {
    state: Arc<State>,
    readiness: Arc<Readiness>,
    /// Whether nothing is missing.
    ready: watch::Receiver<bool>,
    /// The memory budget of all requests in flight.
    budget: Arc<Budget>,
    tls: Option<Arc<Tls>>,
    reload: Arc<Notify>,
    tasks: Supervisor,
    stop: CancellationToken,
    servers: Supervisor,
    drain: CancellationToken,
}

impl Engine {
    /// Starts with a configuration, which `source` may replace. Nothing listens yet. Call it within a runtime.
    pub fn start(config: &Config, source: Source, log: &Log) -> anyhow::Result<Self> {
        let tls = config.listen.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
        let (state, webhook_sender) = assemble::state(config)?;
        log.count_lost(state.metrics.degraded(Degraded::LogDropped));
        let readiness = Arc::new(Readiness::default());
        let (stop, drain) = (CancellationToken::new(), CancellationToken::new());
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
        let wanted = Arc::new(Notify::new());
        let relays = assemble::relays(config, state.replica.name(), &state.metrics.relays)?;
        for relay in &relays {
            let (relay, stopped) = (relay.clone(), stop.clone());
            tasks.spawn("relay", async move { relay.run(stopped).await });
        }
        state.set_relays(relays);
        let reload = Reload::new(source, wanted.clone(), config, state.clone(), tls.clone())?;
        tasks.spawn("reload", reload.run(stop.clone()));
        let (sender, ready) = watch::channel(false);
        tasks.spawn("readiness", readiness::watch(state.clone(), readiness.clone(), sender, stop.clone()));
        tasks.spawn("streams", streams::keep(state.clone(), *config.limits.drain, drain.clone(), stop.clone()));
        let (budget, servers) = (Budget::new(config.limits.buffered_bytes), Supervisor::new(drain.clone()));
        Ok(Self { state, readiness, ready, budget, tls, reload: wanted, tasks, stop, servers, drain })
    }

    #[must_use]
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    #[must_use]
    pub fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }

    /// True while nothing is missing.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// The certificates of the listeners.
    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    /// Reads the configuration again, whether or not it has changed.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// A server that shares the memory budget; `name` appears in metrics and logs.
    pub(crate) fn server(&self, name: &'static str, protocol: Protocol, router: Router, limits: &Limits) -> Server {
        Server::new(name, protocol, router, limits, self.budget.clone(), self.state.metrics.connections.clone())
    }

    /// Serves on a listener until the engine drains.
    pub(crate) fn serve(&mut self, name: &'static str, server: Server, listener: Listener) {
        self.servers.spawn(name, server.serve(listener, self.drain.clone()));
    }

    /// Runs a task of the host process for as long as the engine.
    pub(crate) fn supervise(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(name, task);
    }

    /// The name of the first task that ends, by itself or by a panic: a fault before [`Self::drain`].
    pub async fn ended(&mut self) -> &'static str {
        tokio::select! {
            name = self.tasks.ended() => name,
            name = self.servers.ended() => name,
        }
    }

    /// Accepts no more connections, lets requests in flight finish, and ends; each of the two takes at most
    /// `patience`.
    pub async fn drain(self, patience: Duration) {
        self.drain.cancel();
        if !self.servers.finish(patience).await {
            warn!(after = ?patience, "requests still in flight are aborted");
        }
        self.stop.cancel();
        self.tasks.finish(patience).await;
        let state = self.state;
        if state.traces.is_some() {
            let _ = tokio::task::spawn_blocking(move || state.traces.as_ref().map(Traces::finish)).await;
        }
    }
}

/// Logs the configuration that was read on one line: an operator sees at a glance whether it is the intended
/// file.
pub(crate) fn log_in_force(config: &Config) {
    let issuers: Vec<_> = config.issuers.iter().map(|issuer| issuer.trusted.name.as_str()).collect();
    let issuers = issuers.join(", ");
    let store = match &config.revocation.store {
        Store::Embedded { path: None } => "embedded, in memory: a restart loses every sign-out",
        Store::Embedded { path: Some(_) } => "embedded, in a file",
        Store::Redis { .. } => "redis",
    };
    let (rules, admin_keys, api_keys) = (config.rules.len(), config.admin_keys.len(), config.api_keys.iter().count());
    let max_staleness = humantime::format_duration(config.max_staleness).to_string();
    info!(issuers, rules, store, max_staleness, admin_keys, api_keys, "in force");
}
