//! The cause of a security event, for operators: kept beside the revocation (see [`Note`]).

use serde_json::{Map, Value};

use super::event;
use crate::claims::{ClaimSet, IssuerName, Timestamp};
use crate::revocation::Note;

/// The note of a revocation: by the transmitter, with the event, `initiating_entity` and `reason_admin` of CAEP 1.0
/// section 2 (`reason` of RISC), and `txn` of RFC 8417. Its length and its characters are bounded by [`Note::new`].
pub(super) fn note(
    from: &IssuerName,
    (uri, event): (&str, &Map<String, Value>),
    claims: &ClaimSet,
    now: Timestamp,
) -> Option<Box<Note>> {
    let text = |name: &str| event.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let mut said = event::short_name(uri).unwrap_or_default().to_owned();
    if let Some(entity) = text("initiating_entity") {
        said.push_str(" by ");
        said.push_str(entity);
    }
    if let Some(reason) = event.get("reason_admin").and_then(readable).or_else(|| text("reason")) {
        said.push_str(": ");
        said.push_str(reason);
    }
    let txn = claims.get("txn");
    if let Some(txn) = txn.as_ref().and_then(Value::as_str).filter(|txn| !txn.is_empty()) {
        said = format!("{} (txn {})", cut(&said, Note::MAX_REASON - MAX_TXN), cut(txn, MAX_TXN - " (txn )".len()));
    }
    Note::new(now, from.as_str(), &said)
}

/// The room for ` (txn …)` in a note, in bytes.
const MAX_TXN: usize = 80;

/// A reason in English, or in its first language; earlier drafts wrote text without a language.
fn readable(reason: &Value) -> Option<&str> {
    match reason {
        Value::String(text) => Some(text),
        Value::Object(languages) => languages.get("en").or_else(|| languages.values().next())?.as_str(),
        _ => None,
    }
}

fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(event: Value, txn: Value, expected: &str) {
        let Value::Object(event) = event else { panic!("not an object") };
        let claims = ClaimSet::parse(json!({"txn": txn}).to_string().into_bytes()).unwrap();
        let uri = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
        let note = note(&IssuerName::of_transmitter(1), (uri, &event), &claims, Timestamp::from_secs(1)).unwrap();
        assert_eq!((note.by.as_deref(), note.reason.as_deref()), (Some("signals.1"), Some(expected)));
    }

    #[test]
    fn a_note_has_event_entity_reason_and_transaction() {
        check(json!({}), json!(null), "session-revoked");
        check(
            json!({"initiating_entity": "policy", "reason_admin": {"it": "x", "en": "Policy Violation: C076E822"}}),
            json!("8675309"),
            "session-revoked by policy: Policy Violation: C076E822 (txn 8675309)",
        );
        check(json!({"reason_admin": {"it": "non conforme"}}), json!(7), "session-revoked: non conforme");
        check(json!({"reason": "hijacking", "reason_admin": 5}), json!(""), "session-revoked: hijacking");
        check(json!({"reason_admin": "a\nb"}), json!(null), "session-revoked: a\u{fffd}b");
        let long = long(&"é".repeat(500));
        assert!(long.ends_with(')') && long.len() <= Note::MAX_REASON, "{long}");
    }

    fn long(text: &str) -> String {
        let Value::Object(event) = json!({"reason_admin": text}) else { panic!("not an object") };
        let claims = ClaimSet::parse(json!({"txn": text}).to_string().into_bytes()).unwrap();
        let note = note(&IssuerName::of_transmitter(1), ("x", &event), &claims, Timestamp::from_secs(1)).unwrap();
        note.reason.unwrap().into_string()
    }
}
