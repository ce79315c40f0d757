//! Settings that take effect only after a restart.

use super::revocation::Store;
use super::{Config, Limits, Log, Revocation, Telemetry};
use crate::authz::authorizer::FreshnessPolicy;

/// The keys of sections whose values differ.
macro_rules! differing {
    ($old:ident, $new:ident, $($section:ident: $($key:ident)+;)+) => {
        [$($((concat!(stringify!($section), ".", stringify!($key)), $old.$section.$key != $new.$section.$key)),+),+]
    };
}

impl Config {
    /// This configuration as far as it can take effect in a process that was started with another one: what only
    /// a restart can change is as it was `started`.
    #[must_use]
    pub fn until_restart(self, started: &Self) -> Self {
        let limits = self.limits;
        let FreshnessPolicy { always_lookup, allow_list, .. } = started.freshness;
        Self {
            listen: started.listen.clone(),
            console: started.console,
            revocation: Revocation {
                retention: self.revocation.retention,
                accept_loss: self.revocation.accept_loss,
                ..started.revocation.clone()
            },
            freshness: FreshnessPolicy { always_lookup, allow_list, ..self.freshness },
            telemetry: Telemetry {
                log: Log { decisions: self.telemetry.log.decisions, ..started.telemetry.log },
                ..started.telemetry.clone()
            },
            limits: Limits {
                streams: limits.streams,
                waiting_decisions: limits.waiting_decisions,
                decision_timeout: limits.decision_timeout,
                jwks_bytes: limits.jwks_bytes,
                token_cache: limits.token_cache,
                introspection_cache: limits.introspection_cache,
                introspection_waiting: limits.introspection_waiting,
                ..started.limits
            },
            ..self
        }
    }

    /// The keys in which this differs from what can take effect of it, [`Config::until_restart`].
    #[must_use]
    pub fn needs_restart(&self, started: &Self) -> Vec<&'static str> {
        let kept = self.clone().until_restart(started);
        let store = match (&self.revocation.store, &kept.revocation.store) {
            (Store::Redis(_), Store::Redis(_)) => "revocation.redis",
            (Store::Embedded { .. }, Store::Embedded { .. }) => "revocation.embedded.path",
            _ => "revocation.store",
        };
        let elsewhere = [
            ("console.enabled", self.console != kept.console),
            (store, self.revocation.store != kept.revocation.store),
            ("telemetry.log.format", self.telemetry.log.format != kept.telemetry.log.format),
            ("telemetry.log.level", self.telemetry.log.level != kept.telemetry.log.level),
            ("telemetry.otlp.endpoint", self.telemetry.otlp_endpoint != kept.telemetry.otlp_endpoint),
        ];
        let named = differing! { self, kept,
            listen: check http admin cors_origins tls;
            revocation: list read allow_eviction;
            telemetry: replay_alarm;
            limits: connections handshake_timeout idle_timeout keepalive_interval keepalive_timeout header_list_bytes
                request_timeout buffered_bytes grpc_message_bytes grpc_concurrent_streams grpc_pending_resets
                overhead_bytes_per_second http_concurrent_streams http_body_bytes http_timeout request_headers
                store_timeout lookup_timeout receipt_timeout list_page inlet_requests drain_delay drain;
        };
        named.into_iter().chain(elsewhere).filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}
