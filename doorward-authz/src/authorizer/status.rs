//! The status of a token by its issuer's list.

use std::fmt;

use super::attempt::Attempt;
use super::{ListFetch, Needs, Stop};
use crate::denial::Denial;
use crate::refusal::Refusal;
use crate::rule::OnStale;
use crate::status_list::{Status, StatusValue};
use crate::token::VerifiedToken;

impl Attempt<'_> {
    /// Refuses a token that the list revokes or suspends; `Ok(true)` if the list is too old to know for sure and the
    /// policy lets pass.
    ///
    /// A list that was never stored is asked for, whatever the policy: there is no view that could be stale. A value that
    /// refuses does so however old the list is.
    pub(super) fn check_status(&mut self, token: &VerifiedToken) -> Result<bool, Stop> {
        let Some(reference) = token.status() else { return Ok(false) }; // Nearly always.
        let authorizer = self.authorizer;
        let Some(issuer) = authorizer.issuer_named(token.issuer()) else { return Err(Denial::UnknownIssuer.into()) };
        let Some(policy) = &issuer.status_list else { return Ok(false) };
        let (view, now) = (self.view, self.now);
        let needs = || Stop::Needs(Needs::StatusList { issuer: issuer.name.clone(), uri: reference.uri.clone() });
        let stored = view.status_lists.and_then(|lists| lists.find(&issuer.name, &reference.uri, view.uptime));
        let Some(stored) = stored else {
            return Err(view.status_list.map_or_else(needs, |_| Denial::RevocationsStale.into()));
        };
        let Some(value) = stored.list.value(reference.index) else {
            // The issuer may have made the list longer since.
            let (index, entries) = (reference.index, stored.list.entries());
            return Err(match view.status_list {
                None => needs(),
                Some(ListFetch::Failed) => Denial::RevocationsStale.into(),
                Some(ListFetch::Fetched) => {
                    let accepted = format_args!("an index of the list, which has {entries} values");
                    self.refused(Refusal::invalid("status.status_list.idx", index, accepted)).into()
                }
            });
        };
        match policy.status(value) {
            Status::Valid => {}
            Status::Suspended => return Err(self.refused_by_list(Denial::Suspended, value)),
            Status::Revoked => return Err(self.refused_by_list(Denial::Revoked, value)),
        }
        if stored.is_fresh(policy.max_stale, issuer.leeway, view.uptime, now) {
            return Ok(false);
        }
        match (self.rule.on_stale.unwrap_or(authorizer.freshness.on_stale), view.status_list) {
            (OnStale::Allow, _) => Ok(true),
            (OnStale::Lookup, None) => Err(needs()),
            (OnStale::Deny, _) | (OnStale::Lookup, Some(_)) => Err(Denial::RevocationsStale.into()),
        }
    }

    fn refused_by_list(&mut self, denial: Denial, value: StatusValue) -> Stop {
        let found: fmt::Arguments<'_> = format_args!("the status list of the issuer has {value} for this token");
        self.refused(Refusal::new(denial, found)).into()
    }
}
