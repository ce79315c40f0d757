//! An Envoy configuration as text: YAML with its lines, or JSON.

use serde_json::Value;

use crate::config::{KeyPath, Place, Source};

/// A parsed configuration.
pub struct Document {
    pub(super) root: Value,
    /// The lines of the values; `None` for JSON.
    source: Option<Source>,
}

impl Document {
    /// The largest document that is read, in bytes: a `/config_dump` of 10,000 routes takes about 10 MB.
    pub const MAX_BYTES: usize = 64 << 20;
    /// The protobuf libraries of Envoy stop at a depth of 100.
    const MAX_DEPTH: usize = 100;

    /// Reads YAML or JSON; an error names the line that is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > Self::MAX_BYTES {
            return Err(format!("is over {} bytes", Self::MAX_BYTES));
        }
        // JSON is YAML as well, but the JSON parser reads a dump of many megabytes faster.
        if text.trim_start().starts_with('{')
            && let Ok(root) = serde_json::from_str(text)
        {
            return Ok(Self { root, source: None });
        }
        let (mut source, faults) = Source::parse_within(text, Self::MAX_DEPTH);
        if let Some(fault) = faults.first() {
            let line = match &fault.place {
                Some(Place::Line(line)) => format!("line {line}: "),
                _ => String::new(),
            };
            return Err(format!("{line}{}", fault.message));
        }
        Ok(Self { root: std::mem::take(&mut source.tree), source: Some(source) })
    }

    /// The line of a value, or of the node in which it is missing.
    pub(super) fn line(&self, path: &KeyPath) -> Option<u64> {
        match self.source.as_ref()?.place(path)? {
            Place::Line(line) => Some(line),
            Place::Variable(_) => None,
        }
    }
}
