//! Values of settings that are more than a text or a number, and what their schemas say.

use std::ops::Deref;
use std::time::Duration;

use schemars::transform::Transform;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

/// A duration such as `30s`, `5m` or `24h`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
#[schemars(inline, transform = duration)]
pub struct Span(Duration);

impl Span {
    pub(super) const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub(super) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Reads it as the file has it.
    pub(in crate::config) fn parse(text: &str) -> Option<Duration> {
        humantime::parse_duration(text).ok()
    }
}

impl Deref for Span {
    type Target = Duration;

    fn deref(&self) -> &Duration {
        &self.0
    }
}

impl TryFrom<String> for Span {
    type Error = humantime::DurationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        humantime::parse_duration(&text).map(Self)
    }
}

/// As people would write it; humantime would make `1day` of `24h`.
impl From<Span> for String {
    fn from(Span(duration): Span) -> Self {
        let millis = duration.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
        match units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit)) {
            Some((unit, name)) => format!("{}{name}", millis / unit),
            None if millis == 0 => "0s".to_owned(),
            None => format!("{millis}ms"),
        }
    }
}

fn duration(schema: &mut Schema) {
    schema.insert("title".to_owned(), "duration".into());
    schema.insert("examples".to_owned(), serde_json::json!(["30s", "5m", "24h"]));
    schema.insert("pattern".to_owned(), r"^(0|(\s*[0-9][0-9.\s]*[a-zA-Zµ]+)+\s*)$".into());
}

/// The bounds of a duration, both inclusive: `x-minimum` and `x-maximum`. The upper one is a text, or a [`Duration`]
/// that the code relies on, too.
pub(super) struct Within<Most>(pub(super) &'static str, pub(super) Most);

impl Transform for Within<&'static str> {
    fn transform(&mut self, schema: &mut Schema) {
        schema.insert("x-minimum".to_owned(), self.0.into());
        schema.insert("x-maximum".to_owned(), self.1.into());
    }
}

impl Transform for Within<Duration> {
    fn transform(&mut self, schema: &mut Schema) {
        const DAY: u64 = 86_400;
        let most = match self.1.as_secs() {
            seconds if seconds.is_multiple_of(DAY) => format!("{}d", seconds / DAY),
            _ => Span(self.1).into(),
        };
        schema.insert("x-minimum".to_owned(), self.0.into());
        schema.insert("x-maximum".to_owned(), most.into());
    }
}

/// The SHA-256 of a key in hex; its text is taken as it is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(transparent)]
#[schemars(inline, extend("title" = "digest", "pattern" = "^[0-9a-fA-F]{64}$"))]
pub struct Digest(pub String);

/// Marks keys as required in the schema, although reading goes on without them.
pub(super) struct Required(pub(super) &'static [&'static str]);

impl Transform for Required {
    fn transform(&mut self, schema: &mut Schema) {
        schema.insert("required".to_owned(), self.0.to_vec().into());
        let properties = schema.get_mut("properties").and_then(serde_json::Value::as_object_mut);
        for (name, property) in properties.into_iter().flatten() {
            if let Some(property) = property.as_object_mut().filter(|_| self.0.contains(&name.as_str())) {
                property.remove("default");
            }
        }
    }
}
