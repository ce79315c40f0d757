//! The log on standard error, written by a separate thread: a decision never waits for the log's reader, and never
//! fails because a line cannot be written.
//!
//! Lines wait in one buffer. A line that does not fit, or that standard error refuses (its reader is gone,
//! its disk full), is dropped and counted: `doorward_degraded_total{control="log",fallback="drop"}`.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;
use tracing_subscriber::EnvFilter;

use crate::config::{self, LogFormat, LogLevel};

/// The bytes that may wait to be written, about 3,000 refusals; the writer may have as many again.
const MOST: usize = 1 << 20;
/// The capacity in bytes that an empty buffer keeps.
const KEPT: usize = 1 << 14;
/// The pause between two writes: it batches a flood of lines, and wakes the thread once per batch.
const PAUSE: Duration = Duration::from_millis(1);
/// The longest wait for the last lines at shutdown.
const AT_THE_END: Duration = Duration::from_secs(1);

/// The log of the process.
pub struct Log {
    lines: Arc<Lines>,
}

impl Log {
    /// Sends events and panics to standard error from now on; call it once in a process.
    pub fn start(settings: config::Log) -> io::Result<Self> {
        let lines = Arc::new(Lines::default());
        let writer = lines.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || writer.write_out())?;
        let filter = EnvFilter::new(match settings.level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        });
        // An error that the library reports by `eprintln!` would be a panic if standard error cannot be written.
        let output =
            tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false).with_writer(lines.clone());
        match settings.format {
            LogFormat::Auto if io::stderr().is_terminal() => output.with_target(false).init(),
            LogFormat::Text => output.init(),
            LogFormat::Auto | LogFormat::Json => {
                output.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
            }
        }
        std::panic::set_hook(Box::new(log_panic));
        Ok(Self { lines })
    }

    /// Sets the counter of lines that are lost from now on.
    pub fn count_lost(&self, lost: IntCounter) {
        let _ = self.lines.lost.set(lost); // The first stays.
    }

    /// Waits until all is written, for a second at most.
    pub fn finish(&self) {
        let mut waiting = self.lines.waiting();
        waiting.over = true;
        self.lines.changed.notify_all();
        let _ = self.lines.changed.wait_timeout_while(waiting, AT_THE_END, |waiting| !waiting.written);
    }
}

/// Logs a panic without its message, which may quote request data.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string);
    tracing::error!(location, thread = thread::current().name(), "panicked");
}

/// Lines on their way to standard error.
#[derive(Default)]
struct Lines {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    lost: OnceLock<IntCounter>,
}

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// The sender is closed: there will be no more lines.
    over: bool,
    /// All received lines are written.
    written: bool,
}

/// A formatted event is written as one line, at once.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        if waiting.lines.len() + line.len() > MOST {
            self.lose(line);
        } else {
            waiting.lines.extend_from_slice(line);
            if waiting.lines.len() == line.len() {
                self.changed.notify_all();
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes lines as they arrive, until the sender is closed.
    fn write_out(&self) {
        let mut lines = Vec::new();
        loop {
            let nothing = |waiting: &mut Waiting| waiting.lines.is_empty() && !waiting.over;
            let mut waiting = self.changed.wait_while(self.waiting(), nothing).unwrap_or_else(PoisonError::into_inner);
            if waiting.lines.is_empty() {
                waiting.written = true;
                self.changed.notify_all();
                return;
            }
            std::mem::swap(&mut waiting.lines, &mut lines);
            drop(waiting);
            self.lose(write(&lines));
            lines.clear();
            lines.shrink_to(KEPT);
            thread::sleep(PAUSE);
        }
    }

    fn lose(&self, lines: &[u8]) {
        if let Some(lost) = self.lost.get() {
            lost.inc_by(lines.split(|byte| *byte == b'\n').skip(1).count() as u64);
        }
    }
}

/// Writes as much as standard error accepts, and returns the rest.
fn write(mut lines: &[u8]) -> &[u8] {
    let mut output = io::stderr();
    while !lines.is_empty() {
        match output.write(lines) {
            Ok(0) => break,
            Ok(written) => lines = &lines[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Another process that shares the terminal or the pipe has made it non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(10 * PAUSE),
            Err(_) => break,
        }
    }
    lines
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
            _ => others(panic), // Other tests run concurrently.
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
        assert!(line["location"].as_str().unwrap().contains("log.rs"), "{line}");
        assert!(!text.contains("canary"), "{text}");
    }
}
