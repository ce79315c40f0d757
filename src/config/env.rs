//! Overrides from the environment: `DOORWARD__REVOCATION__REDIS__URL`.
//!
//! Names are case-insensitive; `_` stands for a `-` of a key, as in the names of headers. The items of lists
//! have numbers: `DOORWARD__ISSUERS__0__ISSUER`; the number after the last adds an item. An entry of a map
//! that is not written is added to the map's default.

use std::collections::HashMap;

use serde_json::Value;

use super::fault::{Fault, KeyPath, Place, Step};
use super::schema::Schema;
use super::source::{Source, parse_scalar};

const PREFIX: &str = "DOORWARD__";

/// Writes the variables into the tree, in the order of their names; faults are names that match no key.
pub(super) fn apply(
    source: &mut Source,
    schema: &Schema,
    variables: impl Iterator<Item = (String, String)>,
) -> Vec<Fault> {
    let mut ours: Vec<_> = variables
        .filter(|(name, _)| name.get(..PREFIX.len()).is_some_and(|head| head.eq_ignore_ascii_case(PREFIX)))
        .collect();
    // Numbers sort as numbers, so that item 10 is added after item 9.
    ours.sort_by_key(|(name, _)| segments(name).map(|part| (part.parse::<usize>().ok(), part)).collect::<Vec<_>>());
    let mut faults = Vec::new();
    let mut named: HashMap<KeyPath, String> = HashMap::new();
    for (name, text) in ours {
        match resolve(source, schema, &name) {
            Ok(path) if named.contains_key(&path) => {
                let message = format!("is set by the variable {} already", named[&path]);
                faults.push(Fault { place: Some(Place::Variable(name)), path, message, value: None });
            }
            Ok(path) => {
                let value = read(schema, &path, &text);
                named.insert(path.clone(), name.clone());
                let map = path.parent().filter(|map| schema.is_open_map(map) && source.get(map).is_none());
                if let Some((map, default)) = map.and_then(|map| Some((map.clone(), schema.default(&map)?))) {
                    source.set(&map, default, Place::Variable(name.clone()));
                }
                source.set(&path, value, Place::Variable(name));
            }
            Err((path, message)) => {
                faults.push(Fault { place: Some(Place::Variable(name)), path, message, value: None });
            }
        }
    }
    faults
}

/// A fault for a text with an unreplaced placeholder, such as `${NAME}`.
pub(super) fn unreplaced(source: &Source, path: &KeyPath) -> Fault {
    let part = |step: &Step| match step {
        Step::Key(name) => name.replace('-', "_").to_ascii_uppercase(),
        Step::Index(index) => index.to_string(),
    };
    let parts: Vec<_> = path.steps().iter().map(part).collect();
    let variable = format!("{PREFIX}{}", parts.join("__"));
    source.fault(
        path,
        format!("has a placeholder that was not replaced; set the environment variable `{variable}` instead"),
    )
}

fn segments(name: &str) -> impl Iterator<Item = String> {
    name.get(PREFIX.len()..).unwrap_or_default().split("__").map(str::to_lowercase)
}

/// The key that a variable names.
fn resolve(source: &Source, schema: &Schema, name: &str) -> Result<KeyPath, (KeyPath, String)> {
    let mut path = KeyPath::root();
    for segment in segments(name) {
        if schema.is_list(&path) && segment.parse::<usize>().is_ok() {
            let index = segment.parse::<usize>().unwrap_or_default();
            let items = source.get(&path).and_then(Value::as_array).map_or(0, Vec::len);
            if index > items {
                let message = format!("the list has {items} items; the next has the number {items}");
                return Err((path.index(index), message));
            }
            path = path.index(index);
            continue;
        }
        let alike = |key: &&str| key.replace('-', "_").eq_ignore_ascii_case(&segment.replace('-', "_"));
        let known = schema.keys(&path);
        let written = source.get(&path).and_then(Value::as_object);
        let written = written.into_iter().flat_map(|map| map.keys().map(String::as_str));
        let open = schema.is_open_map(&path);
        path = match known.iter().copied().chain(written.filter(|_| open)).find(alike) {
            Some(key) => path.key(key),
            None if open && path.holds_headers() => path.key(&segment.replace('_', "-")),
            None if open => path.key(&segment),
            None => {
                let known = if known.is_empty() { String::new() } else { format!("; known are {}", known.join(", ")) };
                let message = if schema.is_list(&path) {
                    format!("the items of a list have numbers, not names such as `{segment}`")
                } else {
                    format!("is not a known key{known}")
                };
                return Err((path.key(&segment), message));
            }
        };
    }
    Ok(path)
}

/// The value of a variable: a YAML scalar if the key accepts its type, else the raw text. Text is parsed as
/// YAML only to remove its quotes: `a #1` and `&a` are neither a comment nor an anchor here.
fn read(schema: &Schema, path: &KeyPath, text: &str) -> Value {
    let raw = || Value::String(text.to_owned());
    if schema.is_secret(path) {
        return raw();
    }
    let quoted = text.starts_with(['"', '\'']);
    let Some(value) = parse_scalar(text).filter(|value| quoted || !value.is_string()) else { return raw() };
    let json_type = match &value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        _ => "string",
    };
    if schema.accepts(path, json_type) || !schema.accepts(path, "string") { value } else { raw() }
}
