//! The JSON Schema of the file, and its violations in plain language.

use serde_json::{Map, Value};

use super::fault::{Fault, KeyPath, Step};
use super::file::{ConfigFile, Span};
use super::shown::Shown;
use super::source::{Form, Source};

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
        let mut found = Vec::new();
        self.judge(&self.root, &source.tree, &KeyPath::root(), &mut found);
        found
    }

    /// Collects the violations of one node of the schema. It implements the keywords that [`schema`] uses; a test
    /// compares the verdicts with those of the crate `jsonschema` for all keywords. The crate itself would bring 28 more
    /// packages and 55 CPU seconds of compilation into every build, and its errors name no cure: this module would
    /// still write the messages.
    fn judge(&self, node: &Value, value: &Value, path: &KeyPath, found: &mut Vec<SchemaViolation>) {
        let node = self.resolved(node);
        if let Some(variants) = variants(node) {
            let verdict = |variant| {
                let mut found = Vec::new();
                self.judge(variant, value, path, &mut found);
                found
            };
            let mut verdicts: Vec<_> = variants.iter().map(verdict).collect();
            if verdicts.iter().any(Vec::is_empty) {
                return;
            }
            // The intended variant is the one whose faults are deeper.
            match verdicts.iter().position(|faults| faults.iter().all(|fault| fault.path != *path)) {
                Some(meant) => found.append(&mut verdicts[meant]),
                None => found.push(self.mistyped(path, value)),
            }
            return;
        }
        let listed = node.get("enum").and_then(Value::as_array).is_none_or(|values| values.contains(value));
        let is_constant = node.get("const").is_none_or(|constant| constant == value);
        if !listed || !is_constant || !types(node).iter().any(|name| is_of_type(value, name)) || !is_within(node, value)
        {
            return found.push(self.mistyped(path, value));
        }
        match value {
            Value::String(text) if is_titled(node, "duration") => {
                // The bounds stand at the key itself, where `node` was before a `$ref` or a variant.
                let bound = |name| self.keyword(path, name).and_then(Value::as_str);
                let within = |text| {
                    let least = bound("x-minimum").and_then(Span::parse)?;
                    let most = bound("x-maximum").and_then(Span::parse)?;
                    Some((least..=most).contains(&Span::parse(text)?))
                };
                if Span::parse(text).is_none() {
                    found.push(self.mistyped(path, value));
                } else if within(text) == Some(false) {
                    let bound = |name| bound(name).unwrap_or_default();
                    let message = format!("must be from {} to {}", bound("x-minimum"), bound("x-maximum"));
                    found.push(SchemaViolation { path: path.clone(), message, unknown: false });
                }
            }
            Value::Object(map) => self.judge_map(node, map, path, found),
            Value::Array(items) => {
                let most = node.get("maxItems").and_then(Value::as_u64).filter(|most| items.len() as u64 > *most);
                if let Some(most) = most {
                    let message = format!("must have at most {most} items (found {})", items.len());
                    return found.push(SchemaViolation { path: path.clone(), message, unknown: false });
                }
                let Some(node) = node.get("items") else { return };
                items.iter().enumerate().for_each(|(at, item)| self.judge(node, item, &path.index(at), found));
            }
            _ => {}
        }
    }

    fn judge_map(&self, node: &Value, map: &Map<String, Value>, path: &KeyPath, found: &mut Vec<SchemaViolation>) {
        let properties = node.get("properties");
        for (name, value) in map {
            let at = path.key(name);
            match properties.and_then(|known| known.get(name)).or_else(|| node.get("additionalProperties")) {
                Some(Value::Bool(false)) => {
                    let message = unknown_key(name, &self.keys(path));
                    found.push(SchemaViolation { path: at, message, unknown: true });
                }
                Some(node) => self.judge(node, value, &at, found),
                None => {}
            }
        }
        let required = node.get("required").and_then(Value::as_array).into_iter().flatten();
        for name in required.filter_map(Value::as_str).filter(|name| !map.contains_key(*name)) {
            let path = path.key(name);
            let message = format!("is missing; it must be {}", self.expected(&path));
            found.push(SchemaViolation { path, message, unknown: false });
        }
    }

    fn mistyped(&self, path: &KeyPath, found: &Value) -> SchemaViolation {
        let mut message = format!("must be {}", self.expected(path));
        if message == "must be text" && (found.is_number() || found.is_boolean()) {
            message.push_str("; put it in quotes"); // YAML reads `123` and `true` as other types.
        }
        SchemaViolation { path: path.clone(), message, unknown: false }
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
            let is_duration = is_titled(node, "duration");
            let is_text = |name: &&str| !matches!(*name, "integer" | "number" | "boolean" | "null");
            is_duration || node.get("enum").or(node.get("const")).is_some() || !types(node).iter().any(is_text)
        };
        let nodes = self.at(path);
        !nodes.is_empty() && nodes.iter().all(closed)
    }

    /// How a text at a path may be shown. A text is not shown unless its key allows it; the items of a list, and the
    /// keys of a map with arbitrary keys, are shown as the list or the map is.
    pub(super) fn shown(&self, path: &KeyPath) -> Option<Shown> {
        Shown::named(self.keyword(path, "x-shown")?.as_str()?)
    }

    /// Whether a credential stands here or around: its text is taken as it is.
    pub(super) fn is_secret(&self, path: &KeyPath) -> bool {
        let is_secret = |property: &Value| property.get("writeOnly").is_some() || is_titled(property, "digest");
        self.properties(path).into_iter().flatten().any(is_secret)
    }

    /// The keys that need a restart; of a whole section that does, its keys.
    pub(super) fn fixed_keys(&self) -> Vec<KeyPath> {
        let mut found = Vec::new();
        self.find_fixed(&self.root, &KeyPath::root(), false, &mut found);
        found
    }

    fn find_fixed(&self, node: &Value, at: &KeyPath, is_fixed: bool, found: &mut Vec<KeyPath>) {
        for (name, property) in self.resolved(node).get("properties").and_then(Value::as_object).into_iter().flatten() {
            let (path, is_fixed) = (at.key(name), is_fixed || property.get("x-restart").is_some());
            if self.resolved(property).get("properties").is_some() && (!is_fixed || at.steps().is_empty()) {
                self.find_fixed(property, &path, is_fixed, found);
            } else if is_fixed {
                found.push(path);
            }
        }
    }

    /// The properties of the value at a path that follow from its key.
    pub(super) fn form(&self, path: &KeyPath) -> Form {
        let harmless = self.is_harmless(path).then_some(Shown::Written);
        Form { shown: harmless.or_else(|| self.shown(path)), is_secret: self.is_secret(path) }
    }

    /// A keyword of our own at the innermost key of a path.
    fn keyword(&self, path: &KeyPath, name: &str) -> Option<&Value> {
        self.properties(path)?.last()?.get(name)
    }

    /// The descriptions of the keys on the way to a path, as they are written, with the keywords beside a `$ref`;
    /// `None` for a path that is not in the schema.
    fn properties(&self, path: &KeyPath) -> Option<Vec<&Value>> {
        let (mut nodes, mut found) = (self.spread(&self.root), Vec::new());
        for step in path.steps() {
            let mut next = Vec::new();
            for node in nodes {
                let property = match step {
                    Step::Key(name) => node.get("properties").and_then(|properties| properties.get(name)),
                    Step::Index(_) => None,
                };
                found.extend(property);
                next.extend(property.or_else(|| match step {
                    Step::Key(_) => node.get("additionalProperties").filter(|_| is_open(node)),
                    Step::Index(_) if *node == Value::Bool(true) => Some(node), // Anything, and so a list.
                    Step::Index(_) => node.get("items"),
                }));
            }
            if next.is_empty() {
                return None;
            }
            nodes = next.into_iter().flat_map(|node| self.spread(node)).collect();
        }
        Some(found)
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
        let node = self.resolved(node);
        match variants(node) {
            Some(variants) => variants.iter().flat_map(|variant| self.spread(variant)).collect(),
            None => vec![node],
        }
    }

    /// The node that a `$ref` names, or the node itself.
    fn resolved<'a>(&'a self, node: &'a Value) -> &'a Value {
        let name = node.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix('#'));
        name.and_then(|pointer| self.root.pointer(pointer)).unwrap_or(node)
    }
}

fn is_titled(node: &Value, title: &str) -> bool {
    node.get("title").is_some_and(|found| found == title)
}

fn variants(node: &Value) -> Option<&Vec<Value>> {
    node.get("anyOf").or_else(|| node.get("oneOf"))?.as_array()
}

fn is_of_type(value: &Value, json_type: &str) -> bool {
    match json_type {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64() || value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    }
}

/// Whether a number is within the node's bounds, which are exact as `f64`.
fn is_within(node: &Value, value: &Value) -> bool {
    let Some(number) = value.as_f64() else { return true };
    let bound = |name| node.get(name).and_then(Value::as_f64);
    bound("minimum").is_none_or(|min| number >= min) && bound("maximum").is_none_or(|max| number <= max)
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
            let noun = if is_titled(node, "duration") { "a duration" } else { "text" };
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
        return "the key itself must not be in this file: write `sha256: DIGEST` instead, the line that \
                `printf %s \"$KEY\" | doorward hash-key` prints, and replace the key if others can read the file"
            .to_owned();
    }
    // A long name has no similar key: it is not compared letter by letter.
    let written = name.to_lowercase();
    let near = known.iter().filter(|_| name.len() <= 64).map(|key| (strsim::osa_distance(&written, key), *key)).min();
    match near {
        Some((distance, key)) if distance <= 1 + name.len() / 4 => format!("is not a known key; did you mean `{key}`?"),
        _ if known.is_empty() => "is not a known key".to_owned(),
        _ => format!("is not a known key; known are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests;
