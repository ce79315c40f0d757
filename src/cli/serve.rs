//! `doorward serve`.

use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{ConfigArgs, fail, load};
use crate::config::{LogFormat, LogLevel};

/// Runs the service.
#[derive(Args)]
#[command(after_help = "Example:\n  doorward serve --config /etc/doorward/doorward.yaml")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub(super) fn run(args: &ServeArgs) -> ExitCode {
    let loaded = match load(&args.config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let log = loaded.config.telemetry.log;
    let filter = EnvFilter::new(match log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    });
    let output = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => output.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
        LogFormat::Text => output.init(),
    }
    for warning in &loaded.warnings {
        tracing::warn!(warning = warning.line(&args.config.config.display().to_string()), "configuration");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("start the runtime")),
    };
    match runtime.block_on(crate::serve::serve(loaded.config, args.config.config.clone())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "failed");
            fail(&error)
        }
    }
}
