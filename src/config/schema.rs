//! The JSON Schema of the file, and its violations in plain language.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::paths::LocationSegment;
use serde_json::Value;

use super::fault::{Fault, KeyPath, Step};
use super::file::ConfigFile;
use super::source::Source;

/// The JSON Schema (draft 2020-12) of the file.
#[must_use]
pub fn schema() -> Value {
    schemars::schema_for!(ConfigFile).to_value()
}

/// The schema, for lookups of single keys.
pub(super) struct Schema {
    root: Value,
}

/// A violation of the schema.
pub(super) struct SchemaViolation {
    pub(super) path: KeyPath,
    pub(super) message: String,
    unknown: bool,
}

impl SchemaViolation {
    /// An unknown key is shown without its value: it may be a password under a mistyped name.
    pub(super) fn fault(&self, source: &Source) -> Fault {
        let fault = source.fault(&self.path, self.message.clone());
        if self.unknown { Fault { value: None, ..fault } } else { fault }
    }
}

impl Schema {
    pub(super) fn new() -> Self {
        Self { root: schema() }
    }

    /// Every unknown, missing or mistyped key.
    pub(super) fn check(&self, source: &Source) -> Vec<SchemaViolation> {
        let Ok(validator) = jsonschema::validator_for(&self.root).map_err(|_| ()) else {
            return vec![SchemaViolation {
                path: KeyPath::root(),
                message: "the schema itself is broken".to_owned(),
                unknown: false,
            }];
        };
        let mut found = Vec::new();
        for error in validator.iter_errors(&source.tree) {
            self.explain(&error, &mut found);
        }
        found
    }

    fn explain(&self, error: &ValidationError<'_>, found: &mut Vec<SchemaViolation>) {
        let path = path_of(error);
        match error.kind() {
            Kind::AdditionalProperties { unexpected } => {
                let known = self.keys(&path);
                for name in unexpected {
                    let message = unknown_key(name, &known);
                    found.push(SchemaViolation { path: path.key(name), message, unknown: true });
                }
            }
            Kind::Required { property } => {
                let path = path.key(property.as_str().unwrap_or_default());
                let message = format!("is missing; it must be {}", self.expected(&path));
                found.push(SchemaViolation { path, message, unknown: false });
            }
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
                // The intended variant is the one whose faults are deeper.
                let meant =
                    context.iter().find(|errors| errors.iter().all(|error| path_of(error) != path || lies_in(error)));
                match meant {
                    Some(errors) => errors.iter().for_each(|error| self.explain(error, found)),
                    None => found.push(self.mistyped(path, error.instance())),
                }
            }
            _ => found.push(self.mistyped(path, error.instance())),
        }
    }

    fn mistyped(&self, path: KeyPath, found: &Value) -> SchemaViolation {
        let mut message = format!("must be {}", self.expected(&path));
        if message == "must be text" && (found.is_number() || found.is_boolean()) {
            message.push_str("; put it in quotes"); // YAML reads `123` and `true` as other types.
        }
        SchemaViolation { path, message, unknown: false }
    }

    /// The keys that a map may have.
    pub(super) fn keys(&self, path: &KeyPath) -> Vec<&str> {
        let maps = self.at(path);
        let properties = maps.iter().filter_map(|node| node.get("properties")?.as_object());
        properties.flat_map(|map| map.keys().map(String::as_str)).collect()
    }

    /// Whether a map may have any key.
    pub(super) fn is_open_map(&self, path: &KeyPath) -> bool {
        self.at(path).iter().any(|node| is_open(node))
    }

    /// The default at a path that the file does not mention.
    pub(super) fn default(&self, path: &KeyPath) -> Option<Value> {
        self.at(path).iter().find_map(|node| node.get("default").cloned())
    }

    pub(super) fn is_list(&self, path: &KeyPath) -> bool {
        self.accepts(path, "array")
    }

    /// Whether a value of this JSON type is allowed here.
    pub(super) fn accepts(&self, path: &KeyPath, json_type: &str) -> bool {
        self.at(path).iter().any(|node| types(node).contains(&json_type))
    }

    /// Whether a path accepts only a number, a duration, `true`, `false` or a value of a closed set, which
    /// cannot be secrets.
    pub(super) fn is_harmless(&self, path: &KeyPath) -> bool {
        let closed = |node: &&Value| {
            let is_duration = node.get("title").is_some_and(|title| title == "duration");
            let is_text = |name: &&str| !matches!(*name, "integer" | "number" | "boolean" | "null");
            is_duration || node.get("enum").or(node.get("const")).is_some() || !types(node).iter().any(is_text)
        };
        let nodes = self.at(path);
        !nodes.is_empty() && nodes.iter().all(closed)
    }

    /// The values that the schema accepts at a path, as text.
    fn expected(&self, path: &KeyPath) -> String {
        let nodes = self.at(path);
        let mut words: Vec<String> = Vec::new();
        let constants = nodes.iter().flat_map(|node| {
            let listed = node.get("enum").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            listed.iter().chain(node.get("const")).filter_map(Value::as_str)
        });
        let constants: Vec<String> = constants.map(|name| format!("`{name}`")).collect();
        if !constants.is_empty() {
            words.push(either(&constants));
        }
        for node in &nodes {
            if node.get("enum").or(node.get("const")).is_some() {
                continue;
            }
            words.extend(types(node).into_iter().map(|json_type| described(node, json_type)));
        }
        words.dedup();
        if words.is_empty() { "of another form".to_owned() } else { either(&words) }
    }

    /// A value of the right form, to replace a removed one in a list.
    pub(super) fn neutral(&self, path: &KeyPath) -> Value {
        let nodes = self.at(path);
        let constant = nodes.iter().find_map(|node| node.get("const").or_else(|| node.get("enum")?.get(0)));
        match nodes.first().and_then(|node| types(node).first().copied()) {
            _ if constant.is_some() => constant.cloned().unwrap_or_default(),
            Some("object") => Value::Object(serde_json::Map::new()),
            Some("string") => Value::String(String::new()),
            Some("array") => Value::Array(Vec::new()),
            Some("integer" | "number") => 0.into(),
            Some("boolean") => false.into(),
            _ => Value::Null,
        }
    }

    /// The schemas that apply to a value at this path, with references resolved and unions expanded.
    fn at(&self, path: &KeyPath) -> Vec<&Value> {
        let mut nodes = self.spread(&self.root);
        for step in path.steps() {
            let next = nodes.iter().filter_map(|node| match step {
                Step::Index(_) => node.get("items"),
                Step::Key(name) => node
                    .get("properties")
                    .and_then(|properties| properties.get(name))
                    .or_else(|| node.get("additionalProperties").filter(|_| is_open(node))),
            });
            nodes = next.flat_map(|node| self.spread(node)).collect();
        }
        nodes
    }

    fn spread<'a>(&'a self, node: &'a Value) -> Vec<&'a Value> {
        if let Some(name) = node.get("$ref").and_then(Value::as_str) {
            let target = name.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return target.map(|target| self.spread(target)).unwrap_or_default();
        }
        match node.get("anyOf").or(node.get("oneOf")).and_then(Value::as_array) {
            Some(variants) => variants.iter().flat_map(|variant| self.spread(variant)).collect(),
            None => vec![node],
        }
    }
}

fn path_of(error: &ValidationError<'_>) -> KeyPath {
    error.instance_path().segments().fold(KeyPath::root(), |path, segment| match segment {
        LocationSegment::Property(name) => path.key(&name),
        LocationSegment::Index(index) => path.index(index),
    })
}

/// Whether an error at a map is about its members, not about the map itself.
fn lies_in(error: &ValidationError<'_>) -> bool {
    matches!(error.kind(), Kind::AdditionalProperties { .. } | Kind::Required { .. })
}

fn is_open(node: &Value) -> bool {
    node.get("additionalProperties").is_some_and(|extra| *extra != Value::Bool(false))
}

fn types(node: &Value) -> Vec<&str> {
    match node.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ if *node == Value::Bool(true) || node.get("type").is_none() => {
            vec!["string", "number", "integer", "boolean", "array", "object", "null"]
        }
        _ => Vec::new(),
    }
}

fn described(node: &Value, json_type: &str) -> String {
    let examples = node.get("examples").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let examples: Vec<String> = examples.iter().filter_map(|e| Some(format!("`{}`", e.as_str()?))).collect();
    let bound = |name| node.get(name).and_then(Value::as_u64);
    match json_type {
        "string" => {
            let noun = if node.get("title").is_some_and(|title| title == "duration") { "a duration" } else { "text" };
            if examples.is_empty() { noun.to_owned() } else { format!("{noun} such as {}", either(&examples)) }
        }
        "integer" => match (bound("minimum"), bound("maximum")) {
            (Some(min), Some(max)) => format!("a whole number from {min} to {max}"),
            (Some(min), None) => format!("a whole number of at least {min}"),
            _ => "a whole number".to_owned(),
        },
        "number" => "a number".to_owned(),
        "boolean" => "`true` or `false`".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "a map".to_owned(),
        _ => "null".to_owned(),
    }
}

/// `a, b or c`.
pub(super) fn either(words: &[String]) -> String {
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, head)) => format!("{} or {last}", head.join(", ")),
        None => String::new(),
    }
}

fn unknown_key(name: &str, known: &[&str]) -> String {
    let is_credential = ["key", "value", "secret", "plain", "password", "token", "api_key"].contains(&name);
    if is_credential && known.contains(&"sha256") {
        return "a key never stands in this file: write `sha256: DIGEST` instead, the line that \
                `printf %s \"$KEY\" | doorward hash-key` prints, and replace the key if others can read the file"
            .to_owned();
    }
    // A long name is similar to none: it is not compared letter by letter.
    let written = name.to_lowercase();
    let near = known.iter().filter(|_| name.len() <= 64).map(|key| (strsim::osa_distance(&written, key), *key)).min();
    match near {
        Some((distance, key)) if distance <= 1 + name.len() / 4 => format!("is not a known key; did you mean `{key}`?"),
        _ if known.is_empty() => "is not a known key".to_owned(),
        _ => format!("is not a known key; known are {}", known.join(", ")),
    }
}
