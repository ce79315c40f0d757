//! `doorward serve`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::{ConfigArgs, ended, fail, load};
use crate::config::Config;
use crate::engine::log::Log;

/// Run the service.
#[derive(Args)]
#[command(after_help = "Example:\n  doorward serve --config /etc/doorward/doorward.yaml\n\n\
    Exit codes: 0 stopped by a signal, 1 failed, 2 wrong usage or invalid configuration.")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &ServeArgs) -> ExitCode {
    let loaded = match load(&args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let log = match Log::start(loaded.config.telemetry.log) {
        Ok(log) => log,
        Err(error) => return fail(&anyhow::Error::new(error).context("start the log")),
    };
    crate::engine::log_warnings(&loaded.warnings, &args.config.config.display().to_string());
    let result = serve(loaded.config, args.config.config.clone(), &log);
    ended(&log, result)
}

fn serve(config: Config, file: PathBuf, log: &Log) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let served = runtime.block_on(crate::serve::serve(config, file, log));
    runtime.shutdown_timeout(HANGING); // Dropping the runtime would wait without a limit.
    served
}

/// The longest wait at the end for a thread that hangs in reading a file.
const HANGING: Duration = Duration::from_secs(1);
