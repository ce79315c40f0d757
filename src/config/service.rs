//! Settings of the process as a whole: error responses and telemetry.

use secrecy::{ExposeSecret, SecretString};

use super::check::Check;
use super::fault::KeyPath;
use super::file::{Errors, LogFormat, LogLevel, TelemetryFile};
use crate::traces::Traces;

/// Logs and traces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Telemetry {
    pub log: Log,
    pub otlp_endpoint: Option<String>,
    pub replay_alarm: Option<ReplayAlarm>,
}

/// The form of the log, and its least severe level.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
}

/// The webhook that is notified when a revoked token is presented.
#[derive(Clone, Debug)]
pub struct ReplayAlarm {
    pub url: String,
    pub token: Option<SecretString>,
    pub per_minute: u32,
}

impl Eq for ReplayAlarm {}

impl PartialEq for ReplayAlarm {
    fn eq(&self, other: &Self) -> bool {
        let text = |token: &Option<SecretString>| token.as_ref().map(|token| token.expose_secret().to_owned());
        (&self.url, text(&self.token), self.per_minute) == (&other.url, text(&other.token), other.per_minute)
    }
}

pub(super) fn errors(check: &mut Check<'_>, file: &Errors) -> Errors {
    let fits = (1..=128).contains(&file.realm.len())
        && file.realm.bytes().all(|b| matches!(b, 0x20..=0x7e) && !matches!(b, b'"' | b'\\'));
    if !fits {
        let at = KeyPath::root().key("errors").key("realm");
        check.fault(&at, "must be 1 to 128 bytes of printable ASCII without `\"` and `\\`");
    }
    file.clone()
}

pub(super) fn telemetry(check: &mut Check<'_>, file: &TelemetryFile) -> Telemetry {
    if let Some(endpoint) = &file.otlp.endpoint {
        let at = KeyPath::root().key("telemetry").key("otlp").key("endpoint");
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            check.fault(&at, "must be a http or https URL such as `http://otel-collector:4317`: it is for gRPC");
        }
        if !Traces::BUILT_IN {
            check
                .fault(&at, "needs a build with OTLP: leave it out, or build doorward with the default feature `otlp`");
        }
        // The collector is usually a local one without TLS, and traces contain no secrets.
        check.url(&at, endpoint, true);
    }
    let replay_alarm = file.replay_alarm.as_ref().map(|file| {
        let at = KeyPath::root().key("telemetry").key("replay_alarm");
        check.url(&at.key("url"), &file.url, file.insecure);
        let token = check.secret(&at, "token", file.token.as_ref(), file.token_file.as_ref());
        ReplayAlarm { url: file.url.clone(), token, per_minute: file.per_minute }
    });
    let log = Log { format: file.log.format, level: file.log.level };
    Telemetry { log, otlp_endpoint: file.otlp.endpoint.clone(), replay_alarm }
}
