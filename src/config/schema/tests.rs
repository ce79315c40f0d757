use std::path::Path;

use serde_json::json;

use super::*;
use crate::config::Config;
use crate::config::fault::Place;

/// Every place of a document.
fn places(value: &Value, path: &KeyPath, found: &mut Vec<KeyPath>) {
    found.push(path.clone());
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| places(value, &path.key(name), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, v)| places(v, &path.index(at), found)),
        _ => {}
    }
}

/// Texts are looked at later, with messages of their own; and durations as they are here.
fn without_patterns(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(map) => {
            map.remove("pattern");
            for value in map.values_mut() {
                *value = without_patterns(value.take());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_patterns(item.take())),
        _ => {}
    }
    schema
}

#[test]
fn what_its_patterns_refuse_is_refused() {
    let library = jsonschema::validator_for(&schema()).unwrap();
    let issuer = "{name: a, issuer: https://a.test, audiences: any, keys: {jwks: {keys: []}}";
    let durations = ["30s", "0", "1m 30s", "0.5h", " 1 s", "1min 2secs", "1m30s", "", "5", "s", "1h,", "-1s", "1_s"];
    let durations =
        durations.map(|text| (format!("issuers: [{issuer}, leeway: '{text}'}}]\n"), Span::parse(text).is_some()));
    let rules = [("path: a", false), ("path: /a", true), ("path_prefix: a", false), ("path_prefix: /", true)];
    let methods = [("methods: [get]", false), ("methods: [GET, M-SEARCH]", true), ("methods: ['']", false)];
    let rules = rules
        .into_iter()
        .chain(methods)
        .map(|(text, fits)| (format!("issuers: [{issuer}}}]\nrules: [{{name: a, match: {{{text}}}}}]\n"), fits));
    let digest = "0123456789abcdefABCDEF".repeat(3);
    let keys = [(&digest[..64], true), (&digest[..63], false), ("x", false)].map(|(text, fits)| {
        (format!("issuers: [{issuer}}}]\nadmin: {{keys: [{{name: a, may: [read], sha256: '{text}'}}]}}\n"), fits)
    });
    for (text, fits) in durations.into_iter().chain(rules).chain(keys) {
        assert_eq!(library.is_valid(&Source::parse(&text).0.tree), fits, "{text}");
        let loaded = Config::parse(&text, "c.yaml", Path::new(""), std::iter::empty());
        assert_eq!(loaded.is_ok(), fits, "{text} {loaded:?}");
    }
}

#[test]
fn its_verdict_is_that_of_a_library_for_json_schema() {
    let (schema, library) = (Schema::new(), jsonschema::validator_for(&without_patterns(schema())).unwrap());
    let tree = Source::parse(include_str!("../testdata/example.yaml")).0.tree;
    let mut paths = Vec::new();
    places(&tree, &KeyPath::root(), &mut paths);
    // Maps that the example leaves out.
    for path in ["limits", "proxy", "signals", "telemetry", "listen"].map(|name| KeyPath::root().key(name)) {
        paths.extend(schema.keys(&path).into_iter().map(|name| path.key(name)));
    }
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(64),
        json!(1.5),
        json!(1_000_000_000_000_u64),
        json!("any"),
        json!("deny"),
        json!(["x", 1]),
        json!({}),
        json!({"keys": []}),
        json!([{"name": "x", "issuer": "x", "audiences": "any", "keys": {}}]),
    ];
    let (mut refused, mut accepted) = (0, 0);
    for path in paths.iter().skip(1) {
        let replaced = values.iter().map(|value| (path.clone(), Some(value.clone())));
        let others = [(path.clone(), None), (path.key("unheard-of"), Some(json!(1)))];
        for (path, value) in replaced.chain(others) {
            let mut source = Source::default();
            source.tree.clone_from(&tree);
            match value {
                Some(value) => source.set(&path, value, Place::Line(1)),
                None => source.remove(&path, json!(null)),
            }
            let mut found = schema.check(&source);
            let is_text = |path: &KeyPath| source.get(path).is_some_and(Value::is_string);
            found.retain(|fault| !fault.message.contains("a duration such as") || !is_text(&fault.path));
            assert_eq!(found.is_empty(), library.is_valid(&source.tree), "{path}: {:#}", source.tree);
            if found.is_empty() { accepted += 1 } else { refused += 1 }
        }
    }
    assert!(refused > 500 && accepted > 100, "{refused} {accepted}");
}
