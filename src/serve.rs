//! The process: signals, the listener for checks, limits, shutdown. Decisions are made in [`crate::engine`].

mod checks;
mod listen;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Config;
use crate::engine::log::Log;
use crate::engine::{Engine, HttpListeners, Source, log_in_force, run_relays};
use crate::sources::relay::RelaySettings;

/// Runs the service until SIGTERM or SIGINT; `file` is read again when it changes, and on SIGHUP.
pub async fn serve(config: Config, file: PathBuf, log: &Log) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("watch for SIGHUP")?;
    // The default ends the process when a file reaches its limit; the write must fail, as on a full disk.
    let _file_limit =
        signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).context("watch for SIGXFSZ")?;
    allow_many_files();
    // Binds first: an occupied port must be reported before anything is started.
    let check_listener = listen::bind(&config.listen.check).await?;
    let http_listeners = HttpListeners::bind(&config.listen).await?;
    let (check, [http, admin]) = (check_listener.address(), http_listeners.addresses());
    let mut engine = Engine::start(&config, Source::File(file), log)?;
    checks::serve(&mut engine, check_listener, &config).await?;
    engine.serve_http(http_listeners, &config);
    info!(version = env!("CARGO_PKG_VERSION"), check, http, admin, "listening");
    log_in_force(&config);

    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => engine.reload(),
            name = engine.ended() => anyhow::bail!("the task `{name}` ended unexpectedly"),
        }
    }
    info!("draining");
    engine.readiness().drain();
    // Gives load balancers time to notice the failing health check before connections close; a second signal skips it.
    tokio::select! {
        () = tokio::time::sleep(*config.limits.drain_delay) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    engine.drain(*config.limits.drain).await;
    info!("stopped");
    Ok(())
}

/// Runs relays between regions until SIGTERM or SIGINT; fails if two regions must not be connected.
pub fn relay(settings: Vec<RelaySettings>, listen: Option<SocketAddr>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
        let stop = CancellationToken::new();
        let ended = run_relays(settings, listen, stop.clone());
        let stopped = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = ended => ended,
            () = stopped => Ok(()), // It never ends.
        }
    })
}

/// Each connection is an open file; the usual soft limit of 1,024 exists for programs that use `select`.
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
