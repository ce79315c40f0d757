//! The checks that all messages between servers have in common.

use super::claims::{ClaimSet, Timestamp};
use super::denial::Denial;
use super::jwks::{Algorithm, Jwks};
use super::refusal::Refusal;
use super::token::{UnverifiedToken, numeric_date, text};

/// The claims of a message that its sender signed, and whose `typ` is one of `types`, in any case.
pub(super) fn signed(
    token: UnverifiedToken<'_>,
    keys: Option<&Jwks>,
    algorithms: &[Algorithm],
    types: &[&str],
) -> Result<ClaimSet, Refusal> {
    token.check_signature(keys, algorithms)?;
    let found = token.token_type();
    if types.iter().any(|accepted| accepted.eq_ignore_ascii_case(&found)) {
        return Ok(token.into_claims());
    }
    let accepted = types.iter().map(|accepted| format!("`{accepted}`")).collect::<Vec<_>>();
    let neither = if types.len() > 1 { "neither" } else { "not" };
    let found = format_args!("`typ` of the header is {neither} {}", accepted.join(" nor "));
    Err(Refusal::new(Denial::WrongType, found))
}

/// A required claim that the message does not have.
pub(super) fn missing(claim: &str) -> Refusal {
    Refusal::new(Denial::MissingClaim, format_args!("`{claim}` is missing"))
}

/// A text claim; an empty one is refused.
pub(super) fn filled(claims: &ClaimSet, name: &str) -> Result<Option<String>, Refusal> {
    let text = text(claims, name)?;
    if text.as_deref() == Some("") { Err(Refusal::invalid(name, "empty text", "text")) } else { Ok(text) }
}

/// The NumericDate of a message: `iat` must be present and not in the future.
pub(super) fn made_at(claims: &ClaimSet, latest: Timestamp) -> Result<Timestamp, Refusal> {
    let made_at = numeric_date(claims, "iat")?.ok_or_else(|| missing("iat"))?;
    if made_at > latest { Err(Denial::NotYetValid.into()) } else { Ok(made_at) }
}
