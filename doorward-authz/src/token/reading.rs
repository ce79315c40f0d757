//! Claims as the types that they must have.

use serde_json::Value;

use crate::claims::{ClaimPath, ClaimSet, Timestamp};
use crate::refusal::{Refusal, Shown, type_of};

/// What an instant must be.
pub(super) const SECONDS: &str = "seconds since 1970 as a number (NumericDate, RFC 7519 section 2)";
/// What names somebody.
pub(super) const NAME: &str = "text or a whole number";

pub(crate) fn numeric_date(claims: &ClaimSet, name: &str) -> Result<Option<Timestamp>, Refusal> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    // Mistyped is not absent: it would switch the check off (CVE-2026-25537).
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

/// Several names of claims, of which the first that is present counts.
pub(super) fn joined(paths: &[ClaimPath]) -> String {
    paths.iter().map(ClaimPath::as_str).collect::<Vec<_>>().join("`, `")
}

/// A claim that names what can be revoked: text, or a whole number as some issuers write user ids.
///
/// Any other type is refused: a token whose session cannot be read could not be revoked by it.
pub(crate) fn name(claim: &str, value: Option<Value>) -> Result<Option<String>, Refusal> {
    match value {
        Some(Value::Number(number)) if number.is_i64() || number.is_u64() => Ok(Some(number.to_string())),
        Some(Value::String(name)) => Ok(Some(name).filter(|name| !name.is_empty())),
        Some(other) => Err(Refusal::invalid(claim, type_of(&other), NAME)),
        None => Ok(None),
    }
}

/// As [`name`], of a message between servers: what is empty is refused, since the sender meant somebody.
pub(crate) fn filled_name(claim: &str, value: Option<Value>) -> Result<Option<String>, Refusal> {
    let is_there = value.is_some();
    match name(claim, value)? {
        None if is_there => Err(Refusal::invalid(claim, "empty text", NAME)),
        named => Ok(named),
    }
}
