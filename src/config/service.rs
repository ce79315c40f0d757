//! Settings of the process as a whole: error responses, telemetry, limits.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::check::{Check, HOUR, MINUTE};
use super::fault::KeyPath;
use super::file::{Detail, ErrorsFile, LimitsFile, LogFile, Span, TelemetryFile};
use crate::authz::token_cache::TokenCacheLimits;
use crate::traces::Traces;

/// How refusals are worded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Errors {
    pub detail: Detail,
    /// Can stand in a quoted string as it is.
    pub realm: String,
}

/// Logs and traces.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Telemetry {
    pub log: Log,
    pub otlp_endpoint: Option<String>,
    pub replay_alarm: Option<ReplayAlarm>,
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

/// The log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Log {
    pub format: super::LogFormat,
    pub level: super::LogLevel,
    pub decisions: super::LogDecisions,
}

/// Every bound of the process; each is described at [`LimitsFile`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    pub connections: usize,
    pub handshake_timeout: Duration,
    pub idle_timeout: Duration,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    pub header_list_bytes: u32,
    pub request_timeout: Duration,
    pub buffered_bytes: usize,
    pub waiting_decisions: usize,
    pub grpc_message_bytes: usize,
    pub grpc_concurrent_streams: u32,
    pub streams: usize,
    pub grpc_pending_resets: usize,
    pub overhead_bytes_per_second: u32,
    pub http_concurrent_streams: u32,
    pub http_body_bytes: usize,
    pub http_timeout: Duration,
    pub request_headers: usize,
    pub decision_timeout: Duration,
    pub store_timeout: Duration,
    pub lookup_timeout: Duration,
    pub receipt_timeout: Duration,
    pub list_page: usize,
    pub jwks_bytes: usize,
    pub token_cache: TokenCacheLimits,
    pub introspection_cache: usize,
    pub introspection_waiting: usize,
    pub inlet_requests: usize,
    pub drain_delay: Duration,
    pub drain: Duration,
}

pub(super) fn errors(check: &mut Check<'_>, file: &ErrorsFile) -> Errors {
    let fits = (1..=128).contains(&file.realm.len())
        && file.realm.bytes().all(|b| matches!(b, 0x20..=0x7e) && !matches!(b, b'"' | b'\\'));
    if !fits {
        let at = KeyPath::root().key("errors").key("realm");
        check.fault(&at, "must be 1 to 128 bytes of printable ASCII without `\"` and `\\`");
    }
    Errors { detail: file.detail, realm: file.realm.clone() }
}

pub(super) fn telemetry(check: &mut Check<'_>, file: &TelemetryFile) -> Telemetry {
    let LogFile { format, level, decisions } = file.log;
    if let Some(endpoint) = &file.otlp.endpoint {
        let at = KeyPath::root().key("telemetry").key("otlp").key("endpoint");
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            check.fault(&at, "must be a http or https URL such as `http://otel-collector:4317`: gRPC goes over it");
        }
        if !Traces::BUILT_IN {
            check.fault(
                &at,
                "needs a build with OTLP: leave it out, or build doorward with the feature `otlp`, a default one",
            );
        }
        // The collector is usually a neighbour without TLS, and traces hold no secrets.
        check.url(&at, endpoint, true);
    }
    let replay_alarm = file.replay_alarm.as_ref().map(|file| {
        let at = KeyPath::root().key("telemetry").key("replay_alarm");
        check.url(&at.key("url"), &file.url, file.insecure);
        let token = check.secret(&at, "token", file.token.as_ref(), file.token_file.as_ref());
        ReplayAlarm { url: file.url.clone(), token, per_minute: file.per_minute }
    });
    Telemetry { log: Log { format, level, decisions }, otlp_endpoint: file.otlp.endpoint.clone(), replay_alarm }
}

pub(super) fn limits(check: &mut Check<'_>, file: &LimitsFile) -> Limits {
    let at = KeyPath::root().key("limits");
    let mut span = |key: &str, span: &Span, range| check.duration(&at.key(key), span, range);
    let millis = Duration::from_millis;
    Limits {
        connections: file.connections,
        handshake_timeout: span("handshake_timeout", &file.handshake_timeout, millis(100)..=MINUTE),
        idle_timeout: span("idle_timeout", &file.idle_timeout, millis(100)..=24 * HOUR),
        keepalive_interval: span("keepalive_interval", &file.keepalive_interval, millis(100)..=HOUR),
        keepalive_timeout: span("keepalive_timeout", &file.keepalive_timeout, millis(100)..=MINUTE),
        header_list_bytes: file.header_list_bytes,
        request_timeout: span("request_timeout", &file.request_timeout, millis(100)..=MINUTE),
        buffered_bytes: file.buffered_bytes,
        waiting_decisions: file.waiting_decisions,
        grpc_message_bytes: file.grpc_message_bytes,
        grpc_concurrent_streams: file.grpc_concurrent_streams,
        streams: file.streams,
        grpc_pending_resets: file.grpc_pending_resets,
        overhead_bytes_per_second: file.overhead_bytes_per_second,
        http_concurrent_streams: file.http_concurrent_streams,
        http_body_bytes: file.http_body_bytes,
        http_timeout: span("http_timeout", &file.http_timeout, millis(100)..=10 * MINUTE),
        request_headers: file.request_headers,
        decision_timeout: span("decision_timeout", &file.decision_timeout, millis(10)..=MINUTE),
        store_timeout: span("store_timeout", &file.store_timeout, millis(10)..=MINUTE),
        lookup_timeout: span("lookup_timeout", &file.lookup_timeout, millis(5)..=MINUTE),
        receipt_timeout: span("receipt_timeout", &file.receipt_timeout, millis(100)..=HOUR),
        list_page: file.list_page,
        jwks_bytes: file.jwks_bytes,
        token_cache: TokenCacheLimits { tokens: file.token_cache, bytes: file.token_cache_bytes },
        introspection_cache: file.introspection_cache,
        introspection_waiting: file.introspection_waiting,
        inlet_requests: file.inlet_requests,
        drain_delay: span("drain_delay", &file.drain_delay, Duration::ZERO..=HOUR),
        drain: span("drain", &file.drain, Duration::ZERO..=HOUR),
    }
}
