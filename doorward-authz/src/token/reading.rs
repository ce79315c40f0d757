//! Typed access to claims.

use serde_json::Value;

use crate::claims::{ClaimPath, ClaimSet, Timestamp};
use crate::refusal::{Refusal, Shown, type_of};

/// The expected form of a time.
pub(super) const SECONDS: &str = "seconds since 1970 as a number (NumericDate, RFC 7519 section 2)";
/// The expected form of a name.
pub(super) const NAME: &str = "text or a whole number";

pub(crate) fn numeric_date(claims: &ClaimSet, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    // A claim of the wrong type must not count as absent, which would disable the check
    // (CVE-2026-25537).
    let Some(instant) = Timestamp::from_numeric_date(&value) else {
        let found = match &value {
            Value::Number(number) => number.to_string(),
            Value::String(text) => format!("the text {}", Shown(text)),
            other => type_of(other).to_owned(),
        };
        return Err(Refusal::invalid(name, found, SECONDS));
    };
    Ok(Some(instant))
}

pub(crate) fn text(claims: &ClaimSet, name: &str) -> Result<Option<String>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(Refusal::invalid(name, type_of(&other), "text")),
    }
}

/// Several names of claims; the first one present counts.
pub(super) fn joined(paths: &[ClaimPath]) -> String {
    paths.iter().map(ClaimPath::as_str).collect::<Vec<_>>().join("`, `")
}

/// A claim that names a revocable target: text, or a whole number as some issuers write user ids.
///
/// Any other type is refused: a token whose session cannot be read could not be revoked by its session.
pub(crate) fn name(claim: &str, value: Option<Value>) -> Result<Option<String>, Refusal> {
    match value {
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Ok(Some(number.to_string())),
        Some(Value::String(name)) => Ok(Some(name).filter(|name| !name.is_empty())),
        Some(other) => Err(Refusal::invalid(claim, type_of(&other), NAME)),
        None => Ok(None),
    }
}

/// [`name`] for a message between servers: an empty value is refused, because the sender meant a
/// subject.
pub(crate) fn filled_name(claim: &str, value: Option<Value>) -> Result<Option<String>, Refusal> {
    let is_there = value.is_some();
    match name(claim, value)? {
        None if is_there => Err(Refusal::invalid(claim, "empty text", NAME)),
        named => Ok(named),
    }
}
