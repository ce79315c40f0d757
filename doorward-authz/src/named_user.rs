//! The user of a message or of an operator's request, by the names in the issuer's tokens.
//!
//! A revocation of a user by a name that no token has would refuse no token. So only a name by which tokens are
//! revoked counts; any other is refused, and the error names the required claim.

use std::fmt;

use super::claims::{ClaimPath, ClaimSet};
use super::denial::Denial;
use super::issuer_id::user_of_tenant;
use super::message::missing;
use super::refusal::Refusal;
use super::token::{TrustedIssuer, filled_name};

/// An id without the required tenant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WithoutTenant;

impl fmt::Display for WithoutTenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "must be `TENANT|USER`, with a tenant that is accepted (`tenants`): users of this issuer are known by their \
             tenant, and the same id in another tenant is another user",
        )
    }
}

impl TrustedIssuer {
    /// The user in the claims of a message; `None` without one.
    ///
    /// A token names its user by the first present claim of `claims.user_id`. A message without the first of these
    /// claims may mean a user whose tokens have it, so it is refused (`MissingClaim`).
    pub(super) fn user_in_message(&self, claims: &ClaimSet) -> Result<Option<String>, Refusal> {
        let tenant = self.issuer.tenant_of(claims)?;
        let mut paths = self.claim_names.user_id.iter();
        let Some(path) = paths.next() else { return Ok(None) };
        match filled_name(path.as_str(), path.find(claims))? {
            Some(_) if tenant.is_none() && self.issuer.is_multi_tenant() => Err(missing("tid")),
            Some(user) => Ok(Some(user_of_tenant(tenant.as_deref(), &user).into_owned())),
            None if claims.contains_key("sub") || paths.any(|path| path.find(claims).is_some()) => {
                Err(self.named_otherwise())
            }
            None => Ok(None),
        }
    }

    /// The user with this `sub` of another server, of this tenant if there is one.
    ///
    /// `MissingClaim` if tokens name their users by another claim, `InvalidClaim` if the tenant is missing.
    pub(super) fn user_by_sub(&self, tenant: Option<&str>, sub: &str) -> Result<String, Refusal> {
        if !self.names_users_by_sub() {
            return Err(self.named_otherwise());
        }
        match tenant {
            Some(tenant) => Ok(user_of_tenant(Some(tenant), sub).into_owned()),
            None => match self.check_user_id(sub) {
                Ok(()) => Ok(sub.to_owned()),
                Err(error) => Err(Refusal::new(Denial::InvalidClaim, format_args!("the id of the user {error}"))),
            },
        }
    }

    /// Checks the id of a user in revocations: with the tenant, if the names of users include it.
    pub fn check_user_id(&self, id: &str) -> Result<(), WithoutTenant> {
        let is_whole = |(tenant, user): (&str, &str)| self.issuer.may_have_tenant(tenant) && !user.is_empty();
        let fits = !self.issuer.is_multi_tenant() || id.split_once('|').is_some_and(is_whole);
        if fits { Ok(()) } else { Err(WithoutTenant) }
    }

    /// Whether every token with a `sub` is revoked by it.
    fn names_users_by_sub(&self) -> bool {
        self.claim_names.user_id.first().is_some_and(|path| matches!(path.as_str(), "sub" | "/sub"))
    }

    fn named_otherwise(&self) -> Refusal {
        let claim = self.claim_names.user_id.first().map(ClaimPath::as_str).unwrap_or_default();
        let found = format_args!(
            "`{claim}` is missing; tokens of this issuer name their user by it (`claims.user_id`), and are not found by \
             `sub`"
        );
        Refusal::new(Denial::MissingClaim, found)
    }
}
