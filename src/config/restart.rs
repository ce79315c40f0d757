//! Settings that take effect only after a restart: those whose description has `x-restart`.
//!
//! `listen`, `console`, `revocation` and `telemetry` of a [`Config`] have such settings only, and are kept whole.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fault::KeyPath;
use super::schema::Schema;
use super::source::Source;
use super::{Config, Limits};
use crate::authz::api_key::{KeyDigest, digest_of};

/// The keys of these settings, each with the digest of its value as it is written, or of the default: a value may be a
/// secret.
#[derive(Clone)]
pub(super) struct Fixed(BTreeMap<String, KeyDigest>);

impl Fixed {
    pub(super) fn of(schema: &Schema, source: &Source) -> Self {
        let digest = |path: KeyPath| {
            let value = source.get(&path).cloned().or_else(|| schema.default(&path)).unwrap_or_default();
            (path.to_string(), digest_of(value.to_string().as_bytes()))
        };
        Self(schema.fixed_keys().into_iter().map(digest).collect())
    }

    /// The keys of a section with another value; the section itself, if a file that it names has another content.
    fn changed(&self, started: &Self, section: &str) -> Vec<String> {
        let is_in_section = |key: &str| key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'));
        let changed = self.0.iter().filter(|(key, value)| is_in_section(key) && started.0.get(*key) != Some(value));
        let keys: Vec<_> = changed.map(|(key, _)| key.clone()).collect();
        if keys.is_empty() { vec![section.to_owned()] } else { keys }
    }
}

impl Config {
    /// This configuration, as far as it can take effect in a process that was started with another one: settings
    /// that need a restart keep their `started` values.
    #[must_use]
    pub fn until_restart(self, started: &Self) -> Self {
        Self {
            listen: started.listen.clone(),
            console: started.console,
            revocation: started.revocation.clone(),
            telemetry: started.telemetry.clone(),
            limits: self.limits.until_restart(started.limits, &started.fixed),
            fixed: started.fixed.clone(),
            ..self
        }
    }

    /// The keys in which this differs from the part that can take effect, [`Config::until_restart`].
    #[must_use]
    pub fn needs_restart(&self, started: &Self) -> Vec<String> {
        let kept = self.clone().until_restart(started);
        // A key may be written anew without any effect: by other text, or beside the feature that is chosen.
        let sections = [
            ("console", self.console != kept.console),
            ("listen", self.listen != kept.listen),
            ("revocation", self.revocation != kept.revocation),
            ("telemetry", self.telemetry != kept.telemetry),
            ("limits", self.limits != kept.limits),
        ];
        let changed = sections.into_iter().filter(|(_, differs)| *differs);
        changed.flat_map(|(section, _)| self.fixed.changed(&started.fixed, section)).collect()
    }
}

impl Limits {
    fn until_restart(self, started: Self, fixed: &Fixed) -> Self {
        let (mut kept, mut started) = (self.to_map(), started.to_map());
        for key in fixed.0.keys().filter_map(|key| key.strip_prefix("limits.")) {
            kept.extend(started.remove_entry(key));
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
