//! What Prometheus scrapes. Labels come from closed sets: configured names and our own enums, never
//! anything that a request said.

use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::authz::authorizer::ProofResult;
use crate::authz::denial::Denial;
use crate::authz::jwks::{LeftOut, RejectedKey};
use crate::authz::revocation::{Kind, RevocationIndex};
use crate::sources::streams::Cause;

/// The registry of one process and its instruments.
pub struct Metrics {
    registry: Registry,
    /// Decisions by outcome, reason and rule.
    pub checks: IntCounterVec,
    /// From the request's arrival to its answer.
    pub check_duration: Histogram,
    /// Refusals that shadow rules did not enforce.
    pub shadow_refusals: IntCounterVec,
    /// Tokens whose signature was checked before.
    pub token_cache_hits: IntCounter,
    /// Lookups that missed the cache.
    pub token_cache_misses: IntCounter,
    /// Dead tokens that were tried.
    pub revoked_presented: IntCounterVec,
    /// Proofs that bound tokens are used by their holders, and what came of them.
    pub proofs: IntCounterVec,
    /// Requests that passed, or were decided, with a control weakened.
    pub degraded: IntCounterVec,
    pub revocation_lag: Histogram,
    store_operations: IntCounterVec,
    store_gaps: IntCounter,
    store_reseeded: IntCounter,
    store_reseed_waiting: IntGauge,
    store_unsaved: IntGauge,
    store_unreadable: IntCounter,
    store_foreign: IntCounter,
    adopted_keys: IntGauge,
    pub jwks_fetches: IntCounterVec,
    jwks_unfit_keys: IntGaugeVec,
    /// Questions to an issuer about a token (RFC 7662), and what came of them.
    pub introspections: IntCounterVec,
    /// Messages to the ways in for other servers, and what came of them.
    pub inlet_events: IntCounterVec,
    /// Requests to transmitters of signals.
    pub signal_requests: IntCounterVec,
    /// Notifications about presented revoked tokens, by result.
    pub replay_alarms: IntCounterVec,
    pub config_reloads: IntCounterVec,
    /// Streams that were ended, by cause.
    pub streams_ended: IntCounterVec,
    /// From the cause to the order to Envoy.
    pub stream_end: Histogram,
    streams: IntGaugeVec,
    /// Batches of spans sent to the collector.
    pub trace_exports: IntCounterVec,
    /// By listener and what became of them: accepted, refused for the limit, closed as slow, stuck or idle, made to wait.
    pub connections: IntCounterVec,
    revocations: IntGaugeVec,
    registrations: IntGauge,
    view_age: Gauge,
    store_up: IntGauge,
    /// Whether the store outlives this process.
    pub store_durable: IntGauge,
    /// By transmitter: whether it was reached and its stream is there.
    pub signals_stream_up: IntGaugeVec,
    jwks_age: GaugeVec,
    clock_skew: GaugeVec,
}

/// Gauges that are read from the state when a scrape comes.
pub struct Reading<'a> {
    pub index: &'a RevocationIndex,
    pub view_age: Option<Duration>,
    pub store_up: bool,
    /// Store operations by operation and result.
    pub store_operations: Vec<(&'static str, &'static str, u64)>,
    pub losses: Losses,
    /// Keys of another service that name a token.
    pub adopted: u64,
    /// Streams that are open, and those that were told to end and have not.
    pub streams: (usize, usize),
    /// By issuer, the time since its keys were last loaded.
    pub jwks_age: Vec<(String, Duration)>,
    /// By whose clock: seconds by which this machine's is ahead of the store's, and an issuer's tokens of it.
    pub clock_skew: Vec<(String, f64)>,
}

/// Entries that the store lost, refused or returned unreadable, and the progress of re-seeding.
#[derive(Default)]
pub struct Losses {
    pub gaps: u64,
    pub reseeded: u64,
    pub reseed_waiting: u64,
    pub unsaved: u64,
    pub unreadable: u64,
    /// Entries of issuers that are not configured.
    pub foreign: u64,
}

/// 10 µs to 1 s.
const CHECK_BUCKETS: [f64; 16] =
    [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0];
/// 0.1 ms to 30 s.
const LAG_BUCKETS: [f64; 14] = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Every control that can be weakened or dropped, with what stands in for it.
const DEGRADED: [(&str, &str); 8] = [
    ("keys", "withdrawn"),
    ("revocations", "stale_view"),
    ("revocations", "lookup"),
    ("proofs", "local"),
    ("memory", "refuse"),
    ("deadline", "refuse"),
    ("concurrency", "refuse"),
    ("log", "drop"),
];

impl Metrics {
    /// Fails only if two instruments share a name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let token_cache = counters(
            &registry,
            "doorward_token_cache_total",
            "Tokens looked up among those verified before, by result; a miss is verified.",
            &["result"],
        )?;
        let metrics = Self {
            checks: counters(&registry, "doorward_checks_total", "Decisions made.", &["decision", "reason", "rule"])?,
            check_duration: histogram(
                &registry,
                "doorward_check_duration_seconds",
                "Time from a check's arrival to its answer.",
                &CHECK_BUCKETS,
            )?,
            shadow_refusals: counters(
                &registry,
                "doorward_shadow_refusals_total",
                "Refusals that a rule with enforce: false let pass.",
                &["reason", "rule"],
            )?,
            token_cache_hits: token_cache.with_label_values(&["hit"]),
            token_cache_misses: token_cache.with_label_values(&["miss"]),
            revoked_presented: counters(
                &registry,
                "doorward_revoked_presented_total",
                "Revoked tokens that were tried, by the kind of revocation that hit.",
                &["kind"],
            )?,
            proofs: counters(
                &registry,
                "doorward_proofs_total",
                "Requests with a bound token, by what came of the proof that its sender may use it.",
                &["result"],
            )?,
            degraded: counters(
                &registry,
                "doorward_degraded_total",
                "Decisions made with a control weakened, and what stood in for it.",
                &["control", "fallback"],
            )?,
            revocation_lag: histogram(
                &registry,
                "doorward_revocation_lag_seconds",
                "Time from a revocation's writing to its application here.",
                &LAG_BUCKETS,
            )?,
            store_operations: counters(
                &registry,
                "doorward_store_operations_total",
                "Operations on the revocation store.",
                &["operation", "result"],
            )?,
            store_gaps: counter(
                &registry,
                "doorward_store_gaps_total",
                "Times the log was found to have lost something, and was read again.",
            )?,
            store_reseeded: counter(
                &registry,
                "doorward_store_reseeded_total",
                "Revocations that this process gave back to the store.",
            )?,
            store_reseed_waiting: integer(
                &registry,
                "doorward_store_reseed_waiting",
                "Revocations that the store lost and was not given back yet.",
            )?,
            store_unsaved: integer(
                &registry,
                "doorward_store_unsaved",
                "Revocations that hold here and the store refused so far.",
            )?,
            store_unreadable: counter(
                &registry,
                "doorward_store_unreadable_total",
                "Entries of the log that could not be understood.",
            )?,
            store_foreign: counter(
                &registry,
                "doorward_store_foreign_total",
                "Entries of the log for issuers that are not configured, and keys of revocations without an entry.",
            )?,
            adopted_keys: integer(
                &registry,
                "doorward_adopted_keys",
                "Keys of another service that revoke a token, in the last complete scan (adopt).",
            )?,
            jwks_fetches: counters(
                &registry,
                "doorward_jwks_fetches_total",
                "Attempts to load an issuer's keys.",
                &["issuer", "result"],
            )?,
            jwks_unfit_keys: gauges(
                &registry,
                "doorward_jwks_unfit_keys",
                "Keys of an issuer's current set that are not used, by cause.",
                &["issuer", "cause"],
            )?,
            introspections: counters(
                &registry,
                "doorward_introspections_total",
                "Questions to an issuer about a token; `suspended` and `busy` ones were not asked.",
                &["issuer", "result"],
            )?,
            inlet_events: counters(
                &registry,
                "doorward_inlet_events_total",
                "Revocation requests, logout tokens and security events, and what came of them.",
                &["inlet", "result"],
            )?,
            signal_requests: counters(
                &registry,
                "doorward_signals_requests_total",
                "Requests to transmitters of security events.",
                &["operation", "result"],
            )?,
            replay_alarms: counters(
                &registry,
                "doorward_replay_alarms_total",
                "Alarms about revoked tokens that were presented, and what became of them.",
                &["result"],
            )?,
            config_reloads: counters(
                &registry,
                "doorward_config_reloads_total",
                "Attempts to reload the configuration.",
                &["result"],
            )?,
            streams_ended: counters(
                &registry,
                "doorward_streams_ended_total",
                "Streams that were ended or refused, by cause.",
                &["cause"],
            )?,
            stream_end: histogram(
                &registry,
                "doorward_stream_end_seconds",
                "Time from the revocation's application to the order that ends its stream.",
                &LAG_BUCKETS,
            )?,
            streams: gauges(&registry, "doorward_streams", "Streams of this process.", &["state"])?,
            trace_exports: counters(
                &registry,
                "doorward_trace_exports_total",
                "Batches of spans sent to the OTLP collector.",
                &["result"],
            )?,
            connections: counters(
                &registry,
                "doorward_connections_total",
                "Connections taken, refused at the limit, and closed because they were slow to begin, took no answers or were idle.",
                &["listener", "result"],
            )?,
            revocations: gauges(&registry, "doorward_revocations", "Revoked targets held in this process.", &["kind"])?,
            registrations: integer(
                &registry,
                "doorward_registrations",
                "Registered tokens held in this process (list: allow).",
            )?,
            view_age: gauge(
                &registry,
                "doorward_view_age_seconds",
                "Time since the start of the last completed read of the revocations; +Inf before the first.",
            )?,
            store_up: integer(
                &registry,
                "doorward_store_up",
                "Whether the last operation on the revocation store succeeded.",
            )?,
            store_durable: integer(
                &registry,
                "doorward_store_durable",
                "Whether revocations outlive this process: 0 for the embedded store without a path.",
            )?,
            signals_stream_up: gauges(
                &registry,
                "doorward_signals_stream_up",
                "Whether a transmitter that is polled, or whose stream is set up, was reached and its stream is enabled.",
                &["transmitter"],
            )?,
            jwks_age: register(
                &registry,
                GaugeVec::new(
                    Opts::new("doorward_jwks_age_seconds", "Time since an issuer's keys were last loaded."),
                    &["issuer"],
                )?,
            )?,
            clock_skew: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "doorward_clock_skew_seconds",
                        "How far this machine's clock is ahead of the store's (of=\"store\"), and the most that an \
                         issuer's tokens were dated ahead of it (of its name).",
                    ),
                    &["of"],
                )?,
            )?,
            registry,
        };
        let build = gauges(&metrics.registry, "doorward_build_info", "The running version; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        for reload in ["ok", "refused"] {
            metrics.config_reloads.with_label_values(&[reload]);
        }
        // A series that is there before its first count shows that count as a rise.
        metrics.inlet_events.with_label_values(&["backchannel_logout", "applied"]);
        metrics.signal_requests.with_label_values(&["poll", "ok"]);
        metrics.replay_alarms.with_label_values(&["delivered"]);
        for kind in Kind::ALL {
            metrics.revoked_presented.with_label_values(&[kind.as_str()]);
        }
        for result in ProofResult::ALL {
            metrics.proofs.with_label_values(&[result.label()]);
        }
        for (control, fallback) in DEGRADED {
            metrics.degraded.with_label_values(&[control, fallback]);
        }
        for cause in Cause::ALL {
            metrics.streams_ended.with_label_values(&[cause.label()]);
        }
        metrics.checks.with_label_values(&["denied", Denial::InternalError.label(), "default"]);
        Ok(metrics)
    }

    /// The keys of an issuer will be fetched.
    pub fn expect_fetches(&self, issuer: &str) {
        for result in ["ok", "failed"] {
            self.jwks_fetches.with_label_values(&[issuer, result]);
        }
    }

    /// How many keys of an issuer's current set are left out, by cause.
    pub fn unfit_keys(&self, issuer: &str, unfit: &[LeftOut]) {
        for cause in RejectedKey::ALL {
            let count = unfit.iter().filter(|found| found.cause == cause).count();
            self.jwks_unfit_keys
                .with_label_values(&[issuer, cause.label()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The exposition text (version 0.0.4) with the gauges as they are now.
    pub fn render(&self, reading: &Reading<'_>) -> Result<Vec<u8>, prometheus::Error> {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let counts = reading.index.counts();
        for (kind, count) in Kind::ALL.into_iter().zip(counts) {
            self.revocations.with_label_values(&[kind.as_str()]).set(gauge(count));
        }
        let (open, ending) = reading.streams;
        for (state, count) in [("open", open), ("ending", ending)] {
            self.streams.with_label_values(&[state]).set(gauge(count));
        }
        self.registrations.set(gauge(counts[Kind::Registration as usize]));
        self.view_age
            .set(reading.view_age.filter(|age| *age < Duration::MAX).map_or(f64::INFINITY, |age| age.as_secs_f64()));
        self.store_up.set(i64::from(reading.store_up));
        for (operation, result, count) in &reading.store_operations {
            let counter = self.store_operations.with_label_values(&[operation, result]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        let Losses { gaps, reseeded, reseed_waiting, unsaved, unreadable, foreign } = reading.losses;
        for (counter, count) in [
            (&self.store_gaps, gaps),
            (&self.store_reseeded, reseeded),
            (&self.store_unreadable, unreadable),
            (&self.store_foreign, foreign),
        ] {
            counter.inc_by(count.saturating_sub(counter.get()));
        }
        let gauges = [
            (&self.store_reseed_waiting, reseed_waiting),
            (&self.store_unsaved, unsaved),
            (&self.adopted_keys, reading.adopted),
        ];
        for (gauge, count) in gauges {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        for (issuer, age) in &reading.jwks_age {
            self.jwks_age.with_label_values(&[issuer]).set(age.as_secs_f64());
        }
        for (of, seconds) in &reading.clock_skew {
            self.clock_skew.with_label_values(&[of]).set(*seconds);
        }
        let mut text = Vec::new();
        let families = self.registry.gather();
        TextEncoder::new().encode(&families, &mut text)?;
        // Metrics without a series are described as well.
        let may_be_empty: [(&dyn Collector, &str); 9] = [
            (&self.shadow_refusals, "counter"),
            (&self.jwks_fetches, "counter"),
            (&self.jwks_unfit_keys, "gauge"),
            (&self.jwks_age, "gauge"),
            (&self.clock_skew, "gauge"),
            (&self.introspections, "counter"),
            (&self.trace_exports, "counter"),
            (&self.connections, "counter"),
            (&self.signals_stream_up, "gauge"),
        ];
        for (metric, kind) in may_be_empty {
            for Desc { fq_name, help, .. } in metric.desc() {
                if !families.iter().any(|family| family.name() == fq_name) {
                    text.extend(format!("# HELP {fq_name} {help}\n# TYPE {fq_name} {kind}\n").into_bytes());
                }
            }
        }
        Ok(text)
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(registry, IntCounter::new(name, help)?)
}

fn integer(registry: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(registry, IntGauge::new(name, help)?)
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    register(registry, Gauge::new(name, help)?)
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
    register(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
}
