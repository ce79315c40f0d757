//! The status lists of an issuer: which token they are about, and which list is its own.

use std::sync::Arc;
use std::time::Duration;

use super::reading::{numeric_date, text};
use super::{TrustedIssuer, UnverifiedToken};
use crate::claims::{ClaimSet, Timestamp};
use crate::denial::Denial;
use crate::issuer_id::unknown;
use crate::refusal::{Refusal, Shown, type_of};
use crate::status_list::StatusList;

/// The `typ` of a list, in lower case (draft-ietf-oauth-status-list section 5.1).
const LIST_TYPE: &str = "statuslist+jwt";

/// A list that its issuer signed, in form and in time.
#[derive(Clone, Debug)]
pub struct VerifiedList {
    pub list: Arc<StatusList>,
    pub issued_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// The time for which it may be used before it is fetched again.
    pub ttl: Option<Duration>,
}

impl TrustedIssuer {
    /// Checks a status list (section 5.1 and 8.3): signed by a key of this issuer, of its own type, for this URI, issued
    /// in the past, not expired, and of at most `max_bytes` when decompressed.
    ///
    /// An `iss` is not required; one that is present must be this issuer.
    pub fn verify_status_list(
        &self,
        token: UnverifiedToken<'_>,
        uri: &str,
        max_bytes: usize,
        now: Timestamp,
    ) -> Result<VerifiedList, Refusal> {
        token.check_signature(self.keys.as_ref(), &self.algorithms)?;
        if token.token_type() != LIST_TYPE {
            return Err(Refusal::new(Denial::WrongType, format_args!("`typ` of the header is not `{LIST_TYPE}`")));
        }
        let claims = token.into_claims();
        if let Some(iss) = text(&claims, "iss")?.filter(|iss| self.issuer.name(iss).is_none()) {
            return Err(unknown([&self.issuer], Some(&iss)));
        }
        match text(&claims, "sub")? {
            Some(sub) if sub == uri => {}
            Some(sub) => return Err(Refusal::invalid("sub", Shown(&sub), "the URI that tokens name")),
            None => return Err(Refusal::missing("sub", "the URI that tokens name")),
        }
        let seconds = "seconds since 1970";
        let issued_at = numeric_date(&claims, "iat")?.ok_or_else(|| Refusal::missing("iat", seconds))?;
        let not_before = numeric_date(&claims, "nbf")?;
        if issued_at.max(not_before.unwrap_or(issued_at)) > now.plus(self.leeway) {
            return Err(Denial::NotYetValid.into());
        }
        let expires_at = numeric_date(&claims, "exp")?;
        if expires_at.is_some_and(|at| now >= at.plus(self.leeway)) {
            return Err(Denial::Expired.into());
        }
        let ttl = ttl(&claims)?;
        let list = claims.get("status_list").ok_or_else(|| Refusal::missing("status_list", "an object"))?;
        let list = StatusList::parse(&list, max_bytes);
        let list = Arc::new(list.map_err(|error| Refusal::new(Denial::InvalidClaim, error))?);
        Ok(VerifiedList { list, issued_at, expires_at, ttl })
    }
}

/// A positive number of seconds.
fn ttl(claims: &ClaimSet) -> Result<Option<Duration>, Refusal> {
    let Some(value) = claims.get("ttl") else { return Ok(None) };
    let seconds = value.as_f64().filter(|seconds| *seconds > 0.0);
    match seconds.map(Duration::try_from_secs_f64) {
        Some(ttl) => Ok(Some(ttl.unwrap_or(Duration::MAX))),
        None => Err(Refusal::invalid("ttl", type_of(&value), "a positive number of seconds")),
    }
}
