//! Records a refusal: its count always, its explanation only for a sample.

use std::time::Instant;

use serde_json::{Map, Value};

use super::explain;
use crate::authz::authorizer::{Decision, Outcome};
use crate::authz::denial::Denial;
use crate::authz::rule::RequestView;
use crate::clock;
use crate::state::{Policy, Refusal, RefusalKind, State};

/// The longest text in an explanation, in characters.
const MAX_TEXT: usize = 96;
/// The most members of a list or an object in an explanation.
const MAX_MEMBERS: usize = 8;
/// The most text in an explanation, in bytes, with [`VALUE_BYTES`] more for each value; as JSON it is less than twice
/// that.
const MAX_BYTES: usize = 4096;
/// The cost of a value beside its text.
const VALUE_BYTES: usize = 8;

/// Records a refusal, or the refusal that a rule in shadow mode would have caused.
///
/// Only facts that the decision established are kept: no path, no header of the request but its id, no text of a
/// token.
pub(super) fn note(
    state: &State,
    policy: &Policy,
    request: &RequestView<'_>,
    decision: &Decision<'_>,
    denial: Denial,
    request_id: Option<&str>,
) {
    let evidence = &decision.evidence;
    let kind = RefusalKind {
        reason: denial,
        rule: decision.rule.name.clone(),
        issuer: evidence.issuer.clone(),
        enforced: !matches!(decision.outcome, Outcome::Allowed(_)),
    };
    if !state.refusals.count(&kind, Instant::now()) {
        return;
    }
    let now = clock::now();
    let checks = bounded(&explain::checks(policy, request, decision, Some(denial), now));
    let detail = evidence.detail.as_deref().map(|detail| cut(detail).into());
    let (request_id, source) = (request_id.map(Into::into), request.source.address());
    state.refusals.keep(Refusal { id: 0, at: now, kind, detail, request_id, source, checks });
}

/// The checks, bounded, and without the client's input beside its token: an API key's site may be a whole address,
/// with credentials in it.
fn bounded(checks: &Value) -> Value {
    let mut left = MAX_BYTES;
    let bounded = checks.as_array().into_iter().flatten().map(|check| {
        let mut kept = Map::new();
        for (name, value) in check.as_object().into_iter().flatten() {
            let shown = matches!(name.as_str(), "check" | "passed") || check["check"] != "api key";
            if shown {
                kept.insert(name.clone(), shorten(value, &mut left));
            }
        }
        Value::Object(kept)
    });
    Value::Array(bounded.collect())
}

fn shorten(value: &Value, left: &mut usize) -> Value {
    if *left == 0 {
        return Value::String("…".to_owned());
    }
    *left = left.saturating_sub(VALUE_BYTES);
    match value {
        Value::String(text) => {
            let text = cut(text);
            let fits = text.len() <= *left;
            *left = left.saturating_sub(text.len());
            Value::String(if fits { text } else { "…".to_owned() })
        }
        Value::Array(items) => {
            let more = (items.len() > MAX_MEMBERS).then(|| Value::String("…".to_owned()));
            items.iter().take(MAX_MEMBERS).map(|item| shorten(item, left)).chain(more).collect()
        }
        Value::Object(members) => {
            let kept = members.iter().take(MAX_MEMBERS).map(|(name, value)| {
                let name = cut(name);
                *left = left.saturating_sub(name.len());
                (name, shorten(value, left))
            });
            Value::Object(kept.collect())
        }
        Value::Number(_) | Value::Bool(_) | Value::Null => value.clone(),
    }
}

/// At most [`MAX_TEXT`] characters, and no token: one may stand in the claim of another. Every JWT that is written
/// without spaces begins its parts with `eyJ`.
fn cut(text: &str) -> String {
    if text.contains("eyJ") {
        return "(not shown)".to_owned();
    }
    match text.char_indices().nth(MAX_TEXT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_explanation_has_a_bound_whatever_the_token_says() {
        let long = "x".repeat(10_000);
        let deep = json!({"a": [[[long, long], long], {"b": long}], "c": vec![long.clone(); 100]});
        let checks: Vec<_> = (0..17).map(|n| json!({"check": n.to_string(), "passed": null, "got": deep})).collect();
        let text = bounded(&json!(checks)).to_string();
        assert!(text.len() < 2 * MAX_BYTES, "{}", text.len());
        // The bound also holds for nested lists without any text.
        let wide = (0..4).fold(json!(0), |inner, _| json!(vec![inner; 8]));
        let checks: Vec<_> = (0..17).map(|n| json!({"check": n.to_string(), "passed": null, "got": wide})).collect();
        let text = bounded(&json!(checks)).to_string();
        assert!(text.len() < 2 * MAX_BYTES, "{}", text.len());
        let short = json!([{"check": "type", "passed": false, "expected": ["at+jwt"], "got": "id+jwt"}]);
        assert_eq!(bounded(&short), short);
    }

    #[test]
    fn it_shows_no_token_and_no_site_of_a_client() {
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2ln";
        let checks = json!([
            {"check": "issuer", "passed": false, "got": token, "expected": [format!("Bearer {token}")]},
            {"check": "required claims", "passed": false, "got": {token: {"nested": [token]}}},
            {"check": "api key", "passed": false, "got": {"referer": "https://a.test/?key=secret"}},
        ]);
        let text = bounded(&checks).to_string();
        assert!(!text.contains("eyJ") && !text.contains("secret"), "{text}");
    }
}
