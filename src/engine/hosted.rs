//! The engine inside another process, such as Envoy: on a separate thread.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::log::Log;
use super::{Engine, HttpListeners, Source, log_in_force, log_warnings};
use crate::config::{Config, Limits, Loaded};
use crate::state::State;

/// An engine that runs for as long as the process: its revocations survive every change of the host's
/// configuration.
pub struct Hosted {
    state: Arc<State>,
    limits: Limits,
    ready: watch::Receiver<bool>,
    runtime: Handle,
}

/// The log of the process, with the settings of the first engine.
static LOG: Mutex<Option<Arc<Log>>> = Mutex::new(None);

/// Between two attempts to bind the HTTP listeners.
const AGAIN: Duration = Duration::from_secs(1);

impl Hosted {
    /// Starts it; returns when its store is opened and its HTTP listeners have been tried. An occupied port is not
    /// a failure, because the host's next process may start before this one ends: binding is retried.
    pub fn start(loaded: Loaded, source: Source) -> anyhow::Result<Self> {
        let Loaded { config, warnings } = loaded;
        // One cryptography provider for TLS and signatures; with a second one rustls would panic at first use.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let log = log(&config)?;
        log_warnings(&warnings, &source.name());
        let (limits, (started, answer)) = (config.limits, mpsc::channel());
        let runtime = Builder::new_current_thread().enable_all().build().context("start the runtime")?;
        let handle = runtime.handle().clone();
        let run = move || runtime.block_on(run(&config, source, &log, started));
        thread::Builder::new().name("doorward".to_owned()).spawn(run).context("start the thread of the engine")?;
        let (state, ready) = answer.recv().context("start the engine")??;
        Ok(Self { state, limits, ready, runtime: handle })
    }

    #[must_use]
    pub const fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The limits at the engine's start.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs work on the engine's thread. The work must end, and must report a panic to the caller that waits for it.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(work));
    }

    /// Waits until nothing is missing, for `at_most`; blocks its caller, which must not be the engine's thread.
    #[must_use]
    pub fn wait_ready(&self, at_most: Duration) -> bool {
        let mut ready = self.ready.clone();
        let waiting = async { tokio::time::timeout(at_most, ready.wait_for(|ready| *ready)).await };
        self.runtime.block_on(waiting).is_ok_and(|ready| ready.is_ok())
    }
}

fn log(config: &Config) -> anyhow::Result<Arc<Log>> {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(log) = &*log {
        return Ok(log.clone());
    }
    let started = Arc::new(Log::start(config.telemetry.log).context("start the log")?);
    Ok(log.insert(started).clone())
}

type Started = anyhow::Result<(Arc<State>, watch::Receiver<bool>)>;

/// The thread of the engine: for as long as the process.
async fn run(config: &Config, source: Source, log: &Log, started: mpsc::Sender<Started>) {
    let mut engine = match Engine::start(config, source, log) {
        Ok(engine) => engine,
        Err(error) => return drop(started.send(Err(error))), // The caller of `start` waits.
    };
    engine.state().replica.set_role("module");
    let mut open = try_to_listen(&mut engine, config, true).await;
    log_in_force(config);
    let _ = started.send(Ok((engine.state().clone(), engine.ready()))); // As above.
    loop {
        tokio::select! {
            task = engine.ended() => {
                // The service would end its process here. A host must not: `/livez` fails instead, and the view
                // grows stale.
                error!(task, "a task ended unexpectedly; this process must be replaced");
                engine.readiness().fail();
            }
            () = tokio::time::sleep(AGAIN), if !open => open = try_to_listen(&mut engine, config, false).await,
        }
    }
}

/// Whether the HTTP API is served now.
async fn try_to_listen(engine: &mut Engine, config: &Config, first: bool) -> bool {
    match HttpListeners::bind(&config.listen).await {
        Ok(listeners) => {
            let [http, admin] = listeners.addresses();
            engine.serve_http(listeners, config);
            info!(version = env!("CARGO_PKG_VERSION"), http, admin, "listening");
            true
        }
        Err(error) => {
            if first {
                let error = format!("{error:#}");
                warn!(error, "the HTTP listener is not started; trying again");
            }
            false
        }
    }
}
