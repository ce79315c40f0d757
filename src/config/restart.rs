//! Settings that take effect only after a restart: those whose description has `x-restart`.

use schemars::schema_for;
use serde_json::{Map, Value};

use super::revocation::Store;
use super::{Config, Limits, Log, Revocation, Telemetry};
use crate::authz::authorizer::FreshnessPolicy;

impl Config {
    /// This configuration, as far as it can take effect in a process that was started with another one: settings
    /// that need a restart keep their `started` values.
    #[must_use]
    pub fn until_restart(self, started: &Self) -> Self {
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
            limits: self.limits.until_restart(&started.limits),
            ..self
        }
    }

    /// The keys in which this differs from the part that can take effect, [`Config::until_restart`].
    #[must_use]
    pub fn needs_restart(&self, started: &Self) -> Vec<String> {
        let kept = self.clone().until_restart(started);
        let store = match (&self.revocation.store, &kept.revocation.store) {
            (Store::Redis { .. }, Store::Redis { .. }) => "revocation.redis",
            (Store::Embedded { .. }, Store::Embedded { .. }) => "revocation.embedded",
            _ => "revocation.store",
        };
        let (listen, old_listen) = (&self.listen, &kept.listen);
        let (revocation, old_revocation) = (&self.revocation, &kept.revocation);
        let (telemetry, old_telemetry) = (&self.telemetry, &kept.telemetry);
        let named = [
            ("console.enabled", self.console != kept.console),
            ("listen.check", listen.check != old_listen.check),
            ("listen.http", listen.http != old_listen.http),
            ("listen.admin", listen.admin != old_listen.admin),
            ("listen.cors_origins", listen.cors_origins != old_listen.cors_origins),
            ("listen.tls", listen.tls != old_listen.tls),
            ("revocation.list", revocation.list != old_revocation.list),
            ("revocation.read", revocation.read != old_revocation.read),
            ("revocation.allow_eviction", revocation.allow_eviction != old_revocation.allow_eviction),
            (store, revocation.store != old_revocation.store),
            ("telemetry.log.format", telemetry.log.format != old_telemetry.log.format),
            ("telemetry.log.level", telemetry.log.level != old_telemetry.log.level),
            ("telemetry.otlp", telemetry.otlp_endpoint != old_telemetry.otlp_endpoint),
            ("telemetry.replay_alarm", telemetry.replay_alarm != old_telemetry.replay_alarm),
        ];
        let named = named.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned());
        let (new, old) = (self.limits.to_map(), kept.limits.to_map());
        let limits = new.into_iter().filter(|(key, value)| old.get(key) != Some(value));
        named.chain(limits.map(|(key, _)| format!("limits.{key}"))).collect()
    }
}

impl Limits {
    fn until_restart(self, started: &Self) -> Self {
        let schema = schema_for!(Self).to_value();
        let (mut kept, mut started) = (self.to_map(), started.to_map());
        for (key, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            if property.get("x-restart").is_some() {
                kept.extend(started.remove_entry(key));
            }
        }
        serde_json::from_value(Value::Object(kept)).unwrap_or(self)
    }

    fn to_map(self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
}
