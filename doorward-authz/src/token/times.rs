//! When a token may be used.

use super::reading::{SECONDS, numeric_date};
use crate::claims::{ClaimSet, Timestamp};
use crate::refusal::Refusal;

/// When a token may be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) issued_at: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(crate) expires_at: Timestamp,
}

impl Times {
    pub(crate) fn read(claims: &ClaimSet) -> Result<Self, Refusal> {
        let expires_at = numeric_date(claims, "exp")?.ok_or_else(|| Refusal::missing("exp", SECONDS))?;
        let (issued_at, not_before) = (numeric_date(claims, "iat")?, numeric_date(claims, "nbf")?);
        Ok(Self { issued_at, not_before, expires_at })
    }

    /// The times of a message without `exp`.
    pub(crate) fn of_message(claims: &ClaimSet, issued_at: Timestamp, expires_at: Timestamp) -> Result<Self, Refusal> {
        Ok(Self { issued_at: Some(issued_at), not_before: numeric_date(claims, "nbf")?, expires_at })
    }
}
