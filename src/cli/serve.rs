//! `doorward serve`.

use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::{ConfigArgs, FAILED, fail, load};
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

    std::panic::set_hook(Box::new(log_panic));
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
            ExitCode::from(FAILED)
        }
    }
}

/// One line of the log like any other, without the panic's message: that may quote what was worked on.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    tracing::error!(location, thread = std::thread::current().name(), "panicked");
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_one_line_of_the_log_without_its_message() {
        const THREAD: &str = "panics";
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match std::thread::current().name() {
            Some(THREAD) => log_panic(panic),
            _ => others(panic), // Other tests go on beside this one.
        }));
        let written = Written::default();
        let output = written.clone();
        let panicking = move || {
            let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || output.clone()).finish();
            tracing::subscriber::with_default(log, || "é canary\n"[1..].len())
        };
        assert!(std::thread::Builder::new().name(THREAD.to_owned()).spawn(panicking).unwrap().join().is_err());
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["message"], &line["level"]), (&"panicked".into(), &"ERROR".into()));
        assert!(line["location"].as_str().unwrap().contains("serve.rs"), "{line}");
        assert!(!text.contains("canary"), "{text}");
    }
}
