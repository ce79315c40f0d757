//! One attempt at a decision: one request by one rule, with the view of this moment.

use std::sync::Arc;

use super::{
    Authorizer, Decision, Evidence, Grant, KeyFetch, LockedOut, Needs, Outcome, Principal, Stop, StoreAnswer,
    Verification, View,
};
use crate::claims::{ClaimSet, IssuerName, Timestamp};
use crate::denial::Denial;
use crate::dpop::VerifiedProof;
use crate::introspection::{TokenState, is_opaque};
use crate::refusal::Refusal;
use crate::revocation::{Clocks, Hit, Origin, Watermark};
use crate::rule::{Access, OnStale, RequestView, Rule};
use crate::token::{BearerToken, Expiry, TrustedIssuer, UnverifiedToken, VerifiedToken};
use crate::token_source::Scheme;

/// A request, the rule that decides it, and the facts established so far.
pub(super) struct Attempt<'a> {
    pub(super) authorizer: &'a Authorizer,
    pub(super) rule: &'a Rule,
    pub(super) request: &'a RequestView<'a>,
    pub(super) view: View<'a>,
    pub(super) now: Timestamp,
    pub(super) evidence: Evidence,
}

/// A token that is right in form and in time, and who signed it or vouches for it.
pub(super) struct Verified<'a> {
    pub(super) issuer: &'a TrustedIssuer,
    pub(super) token: VerifiedToken,
}

/// The sender's permission to use a token, if its proof was not used before.
pub(super) enum Proof {
    /// The token is not bound, or by a certificate that the sender has.
    Given,
    Dpop(Box<VerifiedProof>),
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        authorizer: &'a Authorizer,
        rule: &'a Rule,
        request: &'a RequestView<'a>,
        view: View<'a>,
        now: Timestamp,
    ) -> Self {
        Self { authorizer, rule, request, view, now, evidence: Evidence::default() }
    }

    /// Decides; in shadow mode lets a request pass that the rule refuses.
    pub(super) fn decide(mut self) -> (Outcome, Evidence) {
        let (granted, evidence) = match self.apply() {
            Err(Stop::Denied(denial)) if !self.rule.enforce => {
                let shadowed = Some(denial);
                // Shadow mode suspends the rule's conditions, not the identification: a valid token still names its
                // user.
                let lenient = self.rule.without_conditions();
                let mut again = Attempt { rule: &lenient, ..self };
                let granted = match again.apply() {
                    Ok(grant) => Ok(Grant { shadowed, ..grant }),
                    Err(Stop::Denied(_)) => Ok(Grant { shadowed, ..Grant::anonymous() }),
                    lacking => lacking,
                };
                (granted, again.evidence)
            }
            granted => (granted, self.evidence),
        };
        (granted.map_or_else(Outcome::from, |grant| Outcome::Allowed(Box::new(grant))), evidence)
    }

    /// Applies the rule of another reading of the path to a request that the first rule allows.
    pub(super) fn also<'r>(mut self, rule: &'r Rule, decision: Decision<'r>) -> Decision<'r> {
        let Decision { outcome: Outcome::Allowed(mut grant), evidence, rule: first } = decision else {
            return decision;
        };
        let Some(principal) = &grant.principal else {
            let (outcome, evidence) = self.decide();
            return Decision { rule, outcome, evidence };
        };
        self.evidence = evidence;
        let token = principal.token();
        match self.meets(token) {
            Ok(stale) => {
                grant.stale |= stale;
                Decision { rule: first, outcome: Outcome::Allowed(grant), evidence: self.evidence }
            }
            Err(stop) => Decision { rule, outcome: stop.into(), evidence: self.evidence },
        }
    }

    /// Whether a token that one rule accepted meets this one, too; `Ok(true)` as [`Self::check_revocation`].
    fn meets(&mut self, token: &VerifiedToken) -> Result<bool, Stop> {
        let client = self.authorizer.api_keys.check(self.request, self.rule.api_key, self.now)?;
        self.evidence.api_client = self.evidence.api_client.take().or_else(|| client.map(|key| key.id.clone()));
        let stale = self.check_revocation(token)? | self.check_status(token)?;
        let issuer = self.authorizer.issuer_named(token.issuer()).ok_or(Denial::UnknownIssuer)?;
        self.check_requirements(issuer, token)?;
        Ok(stale)
    }

    /// Checks a token by the requirements of the rule; `issuer`: that of the token.
    fn check_requirements(&mut self, issuer: &TrustedIssuer, token: &VerifiedToken) -> Result<(), Denial> {
        self.rule.require.check(token, issuer, self.now).map_err(|refusal| self.refused(refusal))
    }

    fn apply(&mut self) -> Result<Grant, Stop> {
        if let Some(client) = self.authorizer.api_keys.check(self.request, self.rule.api_key, self.now)? {
            self.evidence.api_client = Some(client.id.clone());
        }
        let granted = match self.rule.access {
            Access::Public => return Ok(Grant::anonymous()),
            Access::Refresh | Access::SignOut(_) => self.apply_tolerantly(),
            Access::Optional | Access::Protected => self.apply_strictly(),
        };
        granted.or_else(|stop| match stop {
            Stop::Denied(denial) if self.rule.ignores_bad_token && denial.is_about_token() => {
                self.evidence.token = None; // The ignored token names no user of this request.
                Ok(Grant { ignored: Some(denial), ..Grant::anonymous() })
            }
            Stop::Denied(Denial::UnknownKey) if self.view.keys == Some(KeyFetch::Failed) => {
                Err(Denial::KeysUnavailable.into()) // The issuer may have it: not the token is at fault.
            }
            stop => Err(stop),
        })
    }

    /// Only a valid token that is not revoked passes; expired tokens beside it are ignored.
    fn apply_strictly(&mut self) -> Result<Grant, Stop> {
        let authorizer = self.authorizer;
        let (found, known) = match authorizer.known_token(self.request) {
            Some((found, known)) => (Some(found), Some(known)),
            None => (authorizer.token_of(self.request, self.now)?, None),
        };
        let Some(found) = found else {
            return match self.rule.access {
                Access::Optional => Ok(Grant::anonymous()),
                _ => Err(Denial::MissingToken.into()),
            };
        };
        self.evidence.is_dpop = found.scheme() == Scheme::Dpop;
        let Verified { issuer, token } = match known {
            Some(known) => self.verify_again(known, Expiry::Refused),
            None => self.verify(found.bearer(), Expiry::Refused),
        }?;
        self.evidence.token = Some(token.clone());
        let proof = self.prove(issuer, &found, &token)?;
        let stale = self.check_lists(&token)?;
        self.check_requirements(issuer, &token)?;
        let token = self.spend(&proof, token)?;
        Ok(Grant { principal: Some(Principal { token, verified_at: self.now }), stale, ..Grant::anonymous() })
    }

    /// An expired or revoked token must be able to ask for a new one, or to be signed out again: of several tokens,
    /// each that verifies counts, and issuers are not asked about the others. A sign-out revokes all of them.
    fn apply_tolerantly(&mut self) -> Result<Grant, Stop> {
        let (authorizer, now) = (self.authorizer, self.now);
        let found = authorizer.tokens.find(self.request);
        let (mut verified, mut refused) = (Vec::new(), found.denial.map(Stop::Denied));
        for token in found.tokens() {
            // Only one token can be asked about, and the issuer's answer must not be applied to another.
            if !found.others.is_empty() && authorizer.is_asked_about(token.bearer()) {
                continue;
            }
            self.evidence.is_dpop |= token.scheme() == Scheme::Dpop;
            let proved = self.verify(token.bearer(), Expiry::Tolerated).and_then(|verified| {
                let proof = self.prove(verified.issuer, token, &verified.token)?;
                Ok((verified, proof))
            });
            match proved {
                Ok(proved) => verified.push(proved),
                Err(stop) => {
                    refused.get_or_insert(stop);
                }
            }
        }
        // The token that has neither expired nor been revoked is the caller's.
        let alive = |(Verified { issuer, token }, _): &(Verified<'_>, Proof)| {
            issuer.verify_again(token, now, Expiry::Refused).is_ok()
                && self.view.index.find(token.targets(), token.issued_at()).is_none()
        };
        let Some((callers, proof)) = verified.iter().find(|one| alive(one)).or(verified.first()) else {
            let ended = match self.rule.access {
                Access::SignOut(sign_out) => Some((Vec::new(), sign_out.then)),
                _ => None,
            };
            return match (refused, self.rule.access) {
                (None, Access::Refresh) => Ok(Grant::anonymous()),
                // A request without any token passes here, so a refused cookie must not lock out a client that cannot
                // delete it.
                (Some(Stop::Denied(denial)), Access::Refresh) if found.only_cookies && denial.is_about_token() => {
                    self.evidence.token = None;
                    Ok(Grant { ignored: Some(denial), ..Grant::anonymous() })
                }
                (None, _) if found.first.is_none() => Err(Denial::MissingToken.into()),
                // An expired opaque token no longer has a user to sign out; nor has one that was never valid, which
                // the client might as well have omitted.
                (None | Some(Stop::Denied(Denial::TokenInactive)), _) => {
                    Ok(Grant { sign_out: ended, ..Grant::anonymous() })
                }
                (Some(stop), _) => Err(stop),
            };
        };
        let Verified { issuer, token } = callers;
        self.evidence.issuer = Some(issuer.name.clone());
        self.evidence.token = Some(token.clone());
        self.check_requirements(issuer, token)?;
        let sign_out = match self.rule.access {
            Access::SignOut(sign_out) => {
                let clocks = Clocks { local: now, store: self.view.store_clock };
                let ended = verified.iter().map(|(one, _)| {
                    match self.view.index.find(one.token.targets(), one.token.issued_at()) {
                        None => one.issuer.sign_out(&one.token, sign_out.scope, clocks),
                        Some(_) => Ok(one.issuer.sign_out_again(&one.token, sign_out.scope, self.view.index, clocks)),
                    }
                });
                let ended = ended.collect::<Result<Vec<_>, _>>()?;
                Some((ended.into_iter().flatten().collect(), sign_out.then))
            }
            _ => None,
        };
        let token = self.spend(proof, token.clone())?;
        Ok(Grant { principal: Some(Principal { token, verified_at: now }), sign_out, ..Grant::anonymous() })
    }

    /// Reads a token and verifies it, or asks its issuer about it, or both.
    fn verify(&mut self, bearer: BearerToken<'_>, expiry: Expiry) -> Result<Verified<'a>, Stop> {
        let (authorizer, now) = (self.authorizer, self.now);
        let opaque = authorizer.introspection.opaque.as_ref().filter(|_| is_opaque(bearer));
        if let Some(issuer) = opaque.and_then(|name| authorizer.issuer_named(name)) {
            self.evidence.issuer = Some(issuer.name.clone());
            let token = issuer.vouch(bearer, self.introspected_claims(&issuer.name)?, now, expiry);
            return Ok(Verified { issuer, token: token.map_err(|refusal| self.refused(refusal))? });
        }
        if let Some((issuer, token)) = authorizer.verified.find(bearer, &authorizer.issuers) {
            return self.verify_again(Verified { issuer, token }, expiry);
        }
        self.evidence.remembered.get_or_insert(false);
        let (issuer, token) = self.verify_anew(bearer, expiry)?;
        self.corroborate(Verified { issuer, token }, expiry)
    }

    /// Checks the times of a token that was verified before.
    fn verify_again(&mut self, known: Verified<'a>, expiry: Expiry) -> Result<Verified<'a>, Stop> {
        self.evidence.remembered.get_or_insert(true);
        self.evidence.issuer = Some(known.issuer.name.clone());
        known.issuer.verify_again(&known.token, self.now, expiry).map_err(|refusal| self.refused(refusal))?;
        self.corroborate(known, expiry)
    }

    /// Asks the issuer about a token that is right otherwise, if the configuration requires it.
    fn corroborate(&mut self, verified: Verified<'a>, expiry: Expiry) -> Result<Verified<'a>, Stop> {
        let Verified { issuer, token } = &verified;
        // A sign-out or a refresh does not need an active token, and the issuer is not asked about revoked ones.
        let asked = expiry == Expiry::Refused
            && self.authorizer.introspection.always.contains(&issuer.name)
            && self.view.index.find(token.targets(), token.issued_at()).is_none();
        if !asked {
            return Ok(verified);
        }
        let Verified { issuer, token } = verified;
        let token = issuer.corroborate(token, self.introspected_claims(&issuer.name)?, self.now);
        Ok(Verified { issuer, token: token.map_err(|refusal| self.refused(refusal))? })
    }

    /// Verifies a token by the keys of the issuer that it names, and remembers it.
    fn verify_anew(
        &mut self,
        bearer: BearerToken<'_>,
        expiry: Expiry,
    ) -> Result<(&'a Arc<TrustedIssuer>, VerifiedToken), Stop> {
        let (authorizer, now) = (self.authorizer, self.now);
        let unverified = UnverifiedToken::parse(bearer)?;
        let has_nonce = unverified.header().has_nonce;
        let named = unverified.unverified_issuer().and_then(|iss| authorizer.issuer(&iss));
        self.evidence.issuer = named.as_ref().ok().map(|issuer| issuer.name.clone()).or(self.evidence.issuer.take());
        match self.view.verification {
            Verification::Deferred if named.is_ok() => return Err(Stop::Needs(Needs::Verification)),
            Verification::Refused if named.is_ok() => return Err(Denial::Overloaded.into()),
            _ => {}
        }
        let verified = named.and_then(|issuer| Ok((issuer, issuer.verify(unverified, now, expiry)?)));
        let (issuer, token) = verified.map_err(|refusal| {
            let denial = self.refused(if has_nonce { refusal.and(FOR_MICROSOFT) } else { refusal });
            match (&self.evidence.issuer, denial) {
                (Some(issuer), Denial::UnknownKey | Denial::KeysUnavailable) if self.view.keys.is_none() => {
                    Stop::Needs(Needs::Keys { issuer: issuer.clone(), refusal: denial })
                }
                _ => denial.into(),
            }
        })?;
        authorizer.verified.remember(bearer, issuer, &token);
        Ok((issuer, token))
    }

    /// Keeps the detail of the first refusal for the log.
    pub(super) fn refused(&mut self, refusal: Refusal) -> Denial {
        self.evidence.detail = self.evidence.detail.take().or(refusal.detail);
        refusal.denial
    }

    /// The issuer's claims of an active token.
    fn introspected_claims(&self, issuer: &IssuerName) -> Result<&'a ClaimSet, Stop> {
        match self.view.introspection_response.filter(|response| response.issuer == *issuer).map(|found| &found.state) {
            None => Err(Stop::Needs(Needs::Introspection(issuer.clone()))),
            Some(TokenState::Active(claims)) => Ok(claims),
            Some(TokenState::Inactive) => Err(Denial::TokenInactive.into()),
            Some(TokenState::Unavailable) => Err(Denial::IntrospectionUnavailable.into()),
        }
    }

    /// Refuses a revoked token, one that its issuer's status list refuses and, with `list: allow`, an unregistered one;
    /// `Ok(true)` as [`Self::check_revocation`].
    fn check_lists(&mut self, token: &VerifiedToken) -> Result<bool, Stop> {
        let stale = self.check_revocation(token)? | self.check_status(token)?;
        if self.authorizer.freshness.allow_list {
            self.check_registration(token)?;
        }
        Ok(stale)
    }

    /// Refuses a revoked token; `Ok(true)` if the view is too old to be sure and the policy lets the request pass.
    fn check_revocation(&mut self, token: &VerifiedToken) -> Result<bool, Stop> {
        let (view, now) = (self.view, self.now);
        let mut hit = view.index.find(token.targets(), token.issued_at());
        if let Some(StoreAnswer::Hit(answer)) = view.answer {
            hit = hit.into_iter().chain([answer]).max_by_key(|hit| (hit.origin, hit.watermark));
        }
        self.evidence.hit = hit;
        let until = hit.map(|hit| hit.watermark).filter(|watermark| *watermark != Watermark::FOREVER);
        let until = until.map(|watermark| LockedOut::end(watermark.instant())).filter(|until| *until > now);
        self.evidence.locked_out = until.map(|until| LockedOut { until, left: until.since(now) });
        match hit {
            Some(Hit { origin: Origin::Revoked, .. }) => return Err(Denial::Revoked.into()),
            Some(Hit { origin: Origin::SignedOut, .. }) => return Err(Denial::SignedOut.into()),
            None => {}
        }
        if self.authorizer.may_be_forgotten(token, view.index) {
            return Err(Denial::Expired.into());
        }
        let freshness = self.authorizer.freshness;
        let max_staleness = self.rule.max_staleness.unwrap_or(freshness.max_staleness);
        let fresh = view.age.is_some_and(|age| age <= max_staleness);
        if fresh && !freshness.always_lookup {
            return Ok(false);
        }
        let on_stale = match self.rule.on_stale {
            _ if freshness.always_lookup => OnStale::Lookup,
            by_rule => by_rule.unwrap_or(freshness.on_stale),
        };
        match (on_stale, view.answer) {
            (OnStale::Deny, _) => Err(Denial::RevocationsStale.into()),
            // Before the first complete read there is no view at all, which is worse than a stale one.
            (OnStale::Allow, _) if view.age.is_none() => Err(Denial::RevocationsStale.into()),
            (OnStale::Allow, _) => Ok(true),
            (OnStale::Lookup, None) => Err(Stop::Needs(Needs::Lookup(token.clone()))),
            (OnStale::Lookup, Some(StoreAnswer::Clear | StoreAnswer::Unregistered)) => Ok(false),
            (OnStale::Lookup, Some(_)) => Err(Denial::StoreUnavailable.into()),
        }
    }

    /// A registration that is not in the view may be on its way: the store is asked before it is missed.
    fn check_registration(&self, token: &VerifiedToken) -> Result<(), Stop> {
        let is_known = |target| self.view.index.registers(&target, token.issued_at(), self.now);
        match self.view.answer {
            _ if token.registrations().any(is_known) => Ok(()),
            Some(StoreAnswer::Clear) => Ok(()),
            Some(StoreAnswer::Unregistered) => Err(Denial::NotRegistered.into()),
            Some(StoreAnswer::Hit(_) | StoreAnswer::Unavailable) => Err(Denial::StoreUnavailable.into()),
            None => Err(Stop::Needs(Needs::Lookup(token.clone()))),
        }
    }
}

/// The meaning of a `nonce` in the JOSE header: the signature is over the nonce's digest, which Microsoft does not
/// document.
const FOR_MICROSOFT: &str = "the header has `nonce`: a token for Microsoft Graph or another service of Microsoft, which \
    only that service can verify; the client must request a scope of this API";
