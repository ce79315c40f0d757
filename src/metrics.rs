//! The metrics for Prometheus. Labels come from closed sets: configured names and Doorward's enums, never values of a
//! request.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Encoder, IntCounter, IntCounterVec, Registry, TextEncoder};

use crate::authz::authorizer::ProofResult;
use crate::authz::denial::Denial;
use crate::authz::jwks::{LeftOut, RejectedKey};
use crate::authz::labels;
use crate::authz::revocation::{Kind, RevocationIndex};
use crate::instruments::{Row, instruments};
use crate::sources::alarm::AlarmResult;
use crate::sources::http::FetchResult;
use crate::sources::relay::RelayStats;
use crate::sources::replica::{LAG_BUCKETS, ReplicaStats};
use crate::sources::signals::Operation;
use crate::sources::streams::Cause;

/// 10 µs to 1 s.
const CHECK_BUCKETS: [f64; 16] =
    [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0];

instruments! {
    /// The instruments of a process; those of its store are [`ReplicaStats`].
    pub struct Instruments {
        /// Decisions made.
        pub checks: IntCounterVec = "doorward_checks_total" by ["decision", "reason", "rule"],
        /// Time from a check's arrival to its answer.
        pub check_duration: Histogram = "doorward_check_duration_seconds" in CHECK_BUCKETS,
        /// Refusals by rules with enforce: false, which were only counted.
        pub shadow_refusals: IntCounterVec = "doorward_shadow_refusals_total" by ["reason", "rule"],
        /// Lookups in the cache of verified tokens, by result.
        token_cache: IntCounterVec = "doorward_token_cache_total" by ["result"],
        /// Revoked tokens that were presented, by the kind of the revocation.
        pub revoked_presented: IntCounterVec = "doorward_revoked_presented_total" by ["kind"],
        /// Requests with a bound token, by the result of its proof.
        pub proofs: IntCounterVec = "doorward_proofs_total" by ["result"],
        /// Decisions made with a weakened control, by control and fallback.
        degraded: IntCounterVec = "doorward_degraded_total" by ["control", "fallback"],
        /// Attempts to load an issuer's keys.
        jwks_fetches: IntCounterVec = "doorward_jwks_fetches_total" by ["issuer", "result"],
        /// Keys of an issuer's current set that are not used, by cause.
        jwks_rejected_keys: IntGaugeVec = "doorward_jwks_unfit_keys" by ["issuer", "cause"],
        /// Time since an issuer's keys were last loaded.
        jwks_age: GaugeVec = "doorward_jwks_age_seconds" by ["issuer"],
        /// Introspection requests to an issuer; `suspended` and `busy` ones were not sent.
        pub introspections: IntCounterVec = "doorward_introspections_total" by ["issuer", "result"],
        /// Fetches of an issuer's status lists.
        status_list_fetches: IntCounterVec = "doorward_status_list_fetches_total" by ["issuer", "result"],
        /// Revocation requests, logout tokens and security events, by result.
        pub inlet_events: IntCounterVec = "doorward_inlet_events_total" by ["inlet", "result"],
        /// Requests to transmitters of security events.
        pub signal_requests: IntCounterVec = "doorward_signals_requests_total" by ["operation", "result"],
        /// Whether a transmitter with `poll` or `stream` was reached and its stream is enabled: 1 or 0.
        pub signals_stream_up: IntGaugeVec = "doorward_signals_stream_up" by ["transmitter"],
        /// Alarms about presented revoked tokens, by result.
        pub replay_alarms: IntCounterVec = "doorward_replay_alarms_total" by ["result"],
        /// Attempts to reload the configuration.
        config_reloads: IntCounterVec = "doorward_config_reloads_total" by ["result"],
        /// Streams that were ended or refused, by cause.
        pub streams_ended: IntCounterVec = "doorward_streams_ended_total" by ["cause"],
        /// Time from applying a revocation to the order that ends a stream.
        pub stream_end: Histogram = "doorward_stream_end_seconds" in LAG_BUCKETS,
        /// Streams of this process.
        streams: IntGaugeVec = "doorward_streams" by ["state"],
        /// Batches of spans sent to the OTLP collector.
        pub trace_exports: IntCounterVec = "doorward_trace_exports_total" by ["result"],
        /// Connections, by result: accepted, refused at the limit, or closed because they were slow, stuck or idle.
        pub connections: IntCounterVec = "doorward_connections_total" by ["listener", "result"],
        /// Revoked targets held in this process.
        revocations: IntGaugeVec = "doorward_revocations" by ["kind"],
        /// Registered tokens held in this process (list: allow).
        registrations: IntGauge = "doorward_registrations",
        /// Time since the start of the last completed read of the revocations; +Inf before the first.
        view_age: Gauge = "doorward_view_age_seconds",
        /// Everything that was written in another region this long ago is in this region's Redis; of the region whose relay
        /// is furthest behind. 0 if no relay has copied to it for a day.
        inbound_lag: Gauge = "doorward_relay_inbound_lag_seconds",
        /// Whether revocations survive a restart: 0 for the embedded store without a path.
        pub store_durable: IntGauge = "doorward_store_durable",
        /// How far this machine's clock is ahead of the store's (of="store"), and the most that an issuer's tokens were
        /// dated ahead of this machine's clock (of=the issuer's name).
        clock_skew: GaugeVec = "doorward_clock_skew_seconds" by ["of"],
        /// The running version; always 1.
        build_info: IntGaugeVec = "doorward_build_info" by ["version"],
    }
}

/// The registry of one process and its instruments.
pub struct Metrics {
    registry: Registry,
    instruments: Instruments,
    /// The metrics of the store, for the replica.
    pub store: ReplicaStats,
    /// The metrics of relays to other regions.
    pub relays: RelayStats,
    /// Tokens whose signature was checked before.
    pub token_cache_hits: IntCounter,
    /// Lookups that missed the cache.
    pub token_cache_misses: IntCounter,
}

impl Deref for Metrics {
    type Target = Instruments;

    fn deref(&self) -> &Instruments {
        &self.instruments
    }
}

/// Gauges that are read from the state at a scrape.
pub struct Reading<'a> {
    pub index: &'a RevocationIndex,
    pub view_age: Option<Duration>,
    /// See [`crate::sources::replica::Replica::inbound_lag`].
    pub inbound_lag: Option<Duration>,
    /// Open streams, and streams that were ordered to end and are still open.
    pub streams: (usize, usize),
    /// By issuer, the time since its keys were last loaded.
    pub jwks_age: Vec<(String, Duration)>,
    /// By clock: seconds by which this machine's is ahead of the store's, and an issuer's tokens are ahead of this
    /// machine's.
    pub clock_skew: Vec<(String, f64)>,
}

/// The counters of allowed requests, one for each rule of a policy: found by the address of the rule's name, so that the
/// most frequent count neither hashes labels nor takes the lock of their series.
#[derive(Clone, Default)]
pub struct AllowedCounters(Arc<[(Arc<str>, OnceLock<IntCounter>)]>);

impl AllowedCounters {
    #[must_use]
    pub fn new<'a>(rules: impl Iterator<Item = &'a Arc<str>>) -> Self {
        let mut counters: Vec<_> = rules.map(|rule| (rule.clone(), OnceLock::new())).collect();
        counters.sort_by_key(|(rule, _)| rule.as_ptr());
        Self(counters.into())
    }

    /// Counts a request that this rule allowed. A series begins with its first count.
    pub fn count(&self, checks: &IntCounterVec, rule: &Arc<str>) {
        let series = || checks.with_label_values(&["allowed", "ok", rule]);
        match self.0.binary_search_by_key(&rule.as_ptr(), |(known, _)| known.as_ptr()) {
            Ok(at) => self.0[at].1.get_or_init(series).inc(),
            Err(_) => series().inc(),
        }
    }
}

labels! {
    /// A control that is weakened or dropped, with its fallback.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum Degraded as [&'static str; 2] {
        /// The keys of an issuer are not used any more.
        KeysWithdrawn = ["keys", "withdrawn"],
        /// The decision used a view that is too old.
        StaleView = ["revocations", "stale_view"],
        /// The decision asked the store, because the view is too old.
        StoreLookup = ["revocations", "lookup"],
        /// The proof was compared with those of this process only.
        LocalProofs = ["proofs", "local"],
        /// There was no memory for a request.
        Memory = ["memory", "refuse"],
        /// The time of a request was over before its decision.
        Deadline = ["deadline", "refuse"],
        /// Too many decisions waited.
        Concurrency = ["concurrency", "refuse"],
        /// Lines of the log were dropped.
        LogDropped = ["log", "drop"],
    }
}

labels! {
    /// The result of a reload of the configuration.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum ReloadResult {
        Ok = "ok",
        Refused = "refused",
    }
}

impl Metrics {
    /// Fails only if two instruments share a name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let (registry, instruments) = (Registry::new(), Instruments::create()?);
        let (store, relays) = (ReplicaStats::new()?, RelayStats::new()?);
        instruments.register(&registry)?;
        store.register(&registry)?;
        relays.register(&registry)?;
        #[cfg(feature = "process-metrics")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let [token_cache_hits, token_cache_misses] =
            ["hit", "miss"].map(|result| instruments.token_cache.with_label_values(&[result]));
        let metrics = Self { registry, instruments, store, relays, token_cache_hits, token_cache_misses };
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        for result in ReloadResult::ALL {
            metrics.reloads(result);
        }
        // A series that exists before its first count shows that count as an increase.
        metrics.inlet_events.with_label_values(&["backchannel_logout", "applied"]);
        metrics.signal_requests.with_label_values(&[Operation::Poll.label(), FetchResult::Ok.label()]);
        for result in AlarmResult::ALL {
            metrics.replay_alarms.with_label_values(&[result.label()]);
        }
        for kind in Kind::ALL {
            metrics.revoked_presented.with_label_values(&[kind.as_str()]);
        }
        for result in ProofResult::ALL {
            metrics.proofs.with_label_values(&[result.label()]);
        }
        for degraded in Degraded::ALL {
            metrics.degraded(degraded);
        }
        for cause in Cause::ALL {
            metrics.streams_ended.with_label_values(&[cause.label()]);
        }
        metrics.checks.with_label_values(&["denied", Denial::InternalError.label(), "default"]);
        Ok(metrics)
    }

    /// Creates the series of an issuer whose keys are fetched.
    pub fn expect_fetches(&self, issuer: &str) {
        for result in FetchResult::ALL {
            self.jwks_fetches(issuer, result);
        }
    }

    /// Creates the series of an issuer whose status lists are read.
    pub fn expect_status_lists(&self, issuer: &str) {
        for result in FetchResult::ALL {
            self.status_list_fetches(issuer, result);
        }
    }

    /// Decisions made with a weakened control.
    pub fn degraded(&self, degraded: Degraded) -> IntCounter {
        self.instruments.degraded.with_label_values(&degraded.label())
    }

    /// Attempts to load an issuer's keys.
    pub fn jwks_fetches(&self, issuer: &str, result: FetchResult) -> IntCounter {
        self.instruments.jwks_fetches.with_label_values(&[issuer, result.label()])
    }

    /// Fetches of an issuer's status lists.
    pub fn status_list_fetches(&self, issuer: &str, result: FetchResult) -> IntCounter {
        self.instruments.status_list_fetches.with_label_values(&[issuer, result.label()])
    }

    /// Attempts to reload the configuration.
    pub fn reloads(&self, result: ReloadResult) -> IntCounter {
        self.instruments.config_reloads.with_label_values(&[result.label()])
    }

    /// Sets the number of keys of an issuer's current set that are left out, by cause.
    pub fn rejected_keys(&self, issuer: &str, left_out: &[LeftOut]) {
        for cause in RejectedKey::ALL {
            let count = left_out.iter().filter(|found| found.cause == cause).count();
            self.jwks_rejected_keys
                .with_label_values(&[issuer, cause.label()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The exposition text (version 0.0.4) with the current gauges.
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
        self.inbound_lag.set(reading.inbound_lag.unwrap_or_default().as_secs_f64());
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
        for Row { name, help, kind, .. } in Instruments::ROWS.iter().chain(ReplicaStats::ROWS).chain(RelayStats::ROWS) {
            if !families.iter().any(|family| family.name() == *name) {
                text.extend(format!("# HELP {name} {help}\n# TYPE {name} {kind}\n").into_bytes());
            }
        }
        Ok(text)
    }
}
