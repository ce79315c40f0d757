//! The decision: a pure function of a request, what is configured, what is revoked, and the time.

mod proof;

use std::sync::Arc;
use std::time::Duration;

use super::api_key::ApiKeys;
use super::claims::{ClaimSet, IssuerName, Timestamp};
use super::denial::Denial;
use super::dpop::{Nonces, Spending, VerifiedProof};
use super::introspection::{IntrospectionPolicy, IntrospectionResponse, TokenState, is_opaque};
use super::issuer_id;
use super::jwks::Jwks;
use super::refusal::Refusal;
use super::request_uri::ProxyTrust;
use super::revocation::{Clocks, Hit, Lead, Origin, Revocation, RevocationIndex, Watermark};
use super::rule::{Access, OnStale, RequestView, Rule, Then};
use super::rules::Rules;
use super::token::{BearerToken, Expiry, TrustedIssuer, UnverifiedToken, VerifiedToken};
use super::token_cache::TokenCache;
use super::token_source::{FoundToken, Scheme, TokenSettings};
use proof::{Proof, ProvedToken};
pub use proof::{ProofEvidence, ProofResult};

/// Everything a decision depends on but the revocations; immutable, replaced as a whole.
#[derive(Clone)]
pub struct Authorizer {
    pub issuers: Vec<Arc<TrustedIssuer>>,
    pub rules: Arc<Rules>,
    pub default_rule: Arc<Rule>,
    pub api_keys: Arc<ApiKeys>,
    pub tokens: Arc<TokenSettings>,
    pub freshness: FreshnessPolicy,
    pub introspection: Arc<IntrospectionPolicy>,
    pub proxy: Arc<ProxyTrust>,
    /// `None`: no proof can name a nonce.
    pub nonces: Option<Arc<Nonces>>,
    /// Shared with the authorizers that follow this one by [`Authorizer::with_keys`].
    pub verified: Arc<TokenCache>,
}

/// How old the view of the revocations may be, and what happens when it is older.
#[derive(Clone, Copy, Debug)]
pub struct FreshnessPolicy {
    pub max_staleness: Duration,
    pub on_stale: OnStale,
    /// `read: lookup`: the store is asked for every decision.
    pub always_lookup: bool,
    /// `list: allow`: a token must also be registered.
    pub allow_list: bool,
}

/// The view of the revocations that a decision is made with.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub index: &'a RevocationIndex,
    /// The time since the start of the last completed read; `None` before the first, and
    /// [`Duration::MAX`] while a view that lost track is put right.
    pub age: Option<Duration>,
    /// The store's time; `None` for a store without a clock of its own.
    pub store_clock: Option<Timestamp>,
    /// Whether the keys that this request needs were fetched; `None` before that was tried.
    pub keys: Option<KeyFetch>,
    /// What the store said when it was asked for this very request.
    pub answer: Option<StoreAnswer>,
    /// What the issuer said when it was asked about this very token, now or a moment ago.
    pub introspection_response: Option<&'a IntrospectionResponse>,
    /// The proof of this very request, and whether it was used before.
    pub proof: Option<(&'a VerifiedProof, Spending)>,
}

impl<'a> View<'a> {
    /// A view that is as fresh as can be.
    #[must_use]
    pub const fn of(index: &'a RevocationIndex) -> Self {
        Self {
            index,
            age: Some(Duration::ZERO),
            store_clock: None,
            keys: None,
            answer: None,
            introspection_response: None,
            proof: None,
        }
    }
}

/// The end of an attempt to fetch an issuer's keys for one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyFetch {
    /// The issuer's keys are those that the authorizer has now.
    Fetched,
    /// The provider was not asked, or did not answer in time: the token's key may be a new one.
    Failed,
}

/// The store's answer to a lookup of one token's targets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoreAnswer {
    /// Nothing revokes the token, and with `list: allow` it is registered.
    Clear,
    /// Nothing revokes the token, and it is not registered.
    Unregistered,
    Hit(Hit),
    Unavailable,
}

/// Proof that a token was verified, that its sender may use it and, but on trial, the rule's policy met: the only source
/// of identity headers.
#[derive(Clone, Debug)]
pub struct Principal {
    token: ProvedToken,
    verified_at: Timestamp,
}

impl Principal {
    #[must_use]
    pub const fn token(&self) -> &VerifiedToken {
        self.token.token()
    }

    #[must_use]
    pub const fn verified_at(&self) -> Timestamp {
        self.verified_at
    }

    /// Whether its sender proved by DPoP that it may use the token.
    #[must_use]
    pub const fn is_proved_by_dpop(&self) -> bool {
        self.token.is_by_dpop()
    }
}

/// What an allowed request is granted.
#[derive(Clone, Debug)]
pub struct Grant {
    /// `None` for a request that proved no identity.
    pub principal: Option<Principal>,
    /// The revocations to record before the request is answered, and what follows.
    pub sign_out: Option<(Vec<Revocation>, Then)>,
    /// The view was older than allowed and the policy lets pass.
    pub stale: bool,
    /// The refusal that a shadow rule did not enforce.
    pub shadowed: Option<Denial>,
    /// Why the request's token counts as none.
    pub ignored: Option<Denial>,
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Allowed(Box<Grant>),
    Denied(Denial),
    /// Undecided: fetch this, then decide again with it in the [`View`].
    Needs(Needs),
}

/// What a decision cannot know by itself. Each is asked for at most once in a request.
#[derive(Clone, Debug)]
pub enum Needs {
    /// This issuer's keys; without them the refusal is `UnknownKey`, or `KeysUnavailable` if it has none yet.
    Keys { issuer: IssuerName, refusal: Denial },
    /// This issuer's introspection response for the token.
    Introspection(IssuerName),
    /// What the store has on this token's targets.
    Lookup(VerifiedToken),
    /// Whether this proof was used before; from now on it is.
    Spending(Box<VerifiedProof>),
}

impl Needs {
    /// The number of kinds: the most that one request can need.
    pub const KINDS: usize = 4;

    /// The refusal if it cannot be fetched.
    #[must_use]
    pub const fn refusal(&self) -> Denial {
        match self {
            Self::Keys { refusal, .. } => *refusal,
            Self::Introspection(_) => Denial::IntrospectionUnavailable,
            Self::Lookup(_) | Self::Spending(_) => Denial::StoreUnavailable,
        }
    }
}

impl Outcome {
    /// The revocations to record before the request is answered.
    #[must_use]
    pub fn signs_out(&self) -> &[Revocation] {
        match self {
            Self::Allowed(grant) => grant.sign_out.as_ref().map_or(&[], |(revocations, _)| revocations),
            _ => &[],
        }
    }

    /// What refuses the request; one that still needs something is refused as if that had failed.
    #[must_use]
    pub const fn denial(&self) -> Option<Denial> {
        match self {
            Self::Allowed(_) => None,
            Self::Denied(denial) => Some(*denial),
            Self::Needs(needs) => Some(needs.refusal()),
        }
    }
}

/// What was established on the way; kept for metadata, logs and explanations, whatever the outcome.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub api_client: Option<Arc<str>>,
    /// The issuer whose `iss` the token names.
    pub issuer: Option<IssuerName>,
    pub token: Option<VerifiedToken>,
    /// What is wrong with the token that was refused first, for an operator.
    pub detail: Option<Box<str>>,
    /// Whether the token was among those that were verified before; `None` if that was not asked.
    pub remembered: Option<bool>,
    pub hit: Option<Hit>,
    /// What was hit reaches into the future.
    pub locked_out: Option<LockedOut>,
    /// What the request's proof came to; `None` if none was looked at.
    pub proof: Option<ProofEvidence>,
    /// Whether the token stands behind the scheme `DPoP`, or is bound to a key.
    pub is_dpop: bool,
}

/// A revocation covers tokens that are issued a moment after it, because its issuer may date them ahead: a user who
/// signs in again at once waits for that moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LockedOut {
    /// A token that was issued later is accepted.
    pub until: Timestamp,
    pub left: Duration,
}

pub struct Decision<'a> {
    pub rule: &'a Rule,
    pub outcome: Outcome,
    pub evidence: Evidence,
}

impl Decision<'_> {
    /// Refuses what was decided otherwise; a rule on trial only counts it.
    pub fn refuse(&mut self, denial: Denial) {
        self.outcome = match &self.outcome {
            Outcome::Allowed(grant) if !self.rule.enforce => {
                let grant = Grant { shadowed: Some(denial), sign_out: None, ..(**grant).clone() };
                Outcome::Allowed(Box::new(grant))
            }
            _ => Outcome::Denied(denial),
        };
    }
}

enum Stop {
    Denied(Denial),
    Needs(Needs),
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Denied(denial) => Self::Denied(denial),
            Stop::Needs(needs) => Self::Needs(needs),
        }
    }
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl Authorizer {
    /// Decides one request. Does no I/O; what needs any is returned as [`Outcome::Needs`], one at a time.
    #[must_use]
    pub fn authorize(&self, request: &RequestView<'_>, view: View<'_>, now: Timestamp) -> Decision<'_> {
        let rules = match self.rules.select(request, &self.default_rule) {
            Ok(rules) => rules,
            Err(refusal) => {
                let outcome = Outcome::Denied(refusal.denial);
                let evidence = Evidence { detail: refusal.detail, ..Evidence::default() };
                return Decision { rule: &self.default_rule, outcome, evidence };
            }
        };
        let decision = self.authorize_by(rules.first, request, view, now);
        rules.others.into_iter().fold(decision, |decision, rule| self.also(rule, decision, request, view, now))
    }

    /// Holds an allowed request to one more rule: that of another reading of its path.
    fn also<'a>(
        &self,
        rule: &'a Rule,
        decision: Decision<'a>,
        request: &RequestView<'_>,
        view: View<'_>,
        now: Timestamp,
    ) -> Decision<'a> {
        let Decision { outcome: Outcome::Allowed(mut grant), mut evidence, .. } = decision else { return decision };
        let Some(principal) = &grant.principal else { return self.authorize_by(rule, request, view, now) };
        let token = principal.token();
        let met = self.api_keys.check(request, rule.api_key, now).map_err(Stop::from).and_then(|client| {
            evidence.api_client = evidence.api_client.take().or_else(|| client.map(|key| key.id.clone()));
            let stale = self.check_revocation(rule, token, view, now, &mut evidence)?;
            let issuer = self.issuer_named(token.issuer()).ok_or(Denial::UnknownIssuer)?;
            meet(rule, token, issuer, now, &mut evidence)?;
            Ok(stale)
        });
        match met {
            Ok(stale) => {
                grant.stale |= stale;
                Decision { rule: decision.rule, outcome: Outcome::Allowed(grant), evidence }
            }
            Err(stop) => Decision { rule, outcome: stop.into(), evidence },
        }
    }

    /// Decides by a given rule, whatever requests it is for.
    #[must_use]
    pub fn authorize_by<'a>(
        &self,
        rule: &'a Rule,
        request: &RequestView<'_>,
        view: View<'_>,
        now: Timestamp,
    ) -> Decision<'a> {
        let mut evidence = Evidence::default();
        let mut granted = self.apply(rule, request, view, now, &mut evidence);
        if let (Err(Stop::Denied(denial)), false) = (&granted, rule.enforce) {
            let shadowed = Some(*denial);
            // On trial is what the rule asks, not who asks: a good token goes on naming its user.
            granted = match self.apply(&rule.without_conditions(), request, view, now, &mut evidence) {
                Ok(grant) => Ok(Grant { shadowed, ..grant }),
                Err(Stop::Denied(_)) => Ok(Grant { shadowed, ..Grant::anonymous() }),
                lacking => lacking,
            };
        }
        let outcome = granted.map_or_else(Outcome::from, |grant| Outcome::Allowed(Box::new(grant)));
        Decision { rule, outcome, evidence }
    }

    fn apply(
        &self,
        rule: &Rule,
        request: &RequestView<'_>,
        view: View<'_>,
        now: Timestamp,
        evidence: &mut Evidence,
    ) -> Result<Grant, Stop> {
        if let Some(client) = self.api_keys.check(request, rule.api_key, now)? {
            evidence.api_client = Some(client.id.clone());
        }
        if rule.access == Access::Public {
            return Ok(Grant::anonymous());
        }
        let granted = match rule.access {
            Access::Refresh | Access::SignOut(_) => self.apply_tolerantly(rule, request, view, now, evidence),
            _ => self.apply_strictly(rule, request, view, now, evidence),
        };
        granted.or_else(|stop| match stop {
            Stop::Denied(denial) if rule.ignores_bad_token && denial.is_about_token() => {
                evidence.token = None; // It names nobody in this request.
                Ok(Grant { ignored: Some(denial), ..Grant::anonymous() })
            }
            Stop::Denied(Denial::UnknownKey) if view.keys == Some(KeyFetch::Failed) => {
                Err(Denial::KeysUnavailable.into()) // The issuer may have it: not the token is at fault.
            }
            stop => Err(stop),
        })
    }

    /// Only a token that is good and not revoked passes, beside others that ran out.
    fn apply_strictly(
        &self,
        rule: &Rule,
        request: &RequestView<'_>,
        view: View<'_>,
        now: Timestamp,
        evidence: &mut Evidence,
    ) -> Result<Grant, Stop> {
        let Some(found) = self.token_of(request, now)? else {
            return match rule.access {
                Access::Optional => Ok(Grant::anonymous()),
                _ => Err(Denial::MissingToken.into()),
            };
        };
        evidence.is_dpop = found.scheme() == Scheme::Dpop;
        let (issuer, token) = self.verify(found.bearer(), Expiry::Refused, view, now, evidence)?;
        evidence.token = Some(token.clone());
        let proof = self.prove(rule, issuer, &found, &token, request, view, now, evidence)?;
        let stale = self.check_lists(rule, &token, view, now, evidence)?;
        meet(rule, &token, issuer, now, evidence)?;
        let token = proof.spend(token, view, evidence)?;
        Ok(Grant { principal: Some(Principal { token, verified_at: now }), stale, ..Grant::anonymous() })
    }

    /// A dead token must be able to ask for a new one, or to be signed out again: of several, each that verifies
    /// counts, and the others are not asked for. Being signed out ends all of them.
    fn apply_tolerantly(
        &self,
        rule: &Rule,
        request: &RequestView<'_>,
        view: View<'_>,
        now: Timestamp,
        evidence: &mut Evidence,
    ) -> Result<Grant, Stop> {
        let found = self.tokens.find(request);
        let (mut verified, mut refused) = (Vec::new(), found.denial.map(Stop::Denied));
        for token in found.tokens() {
            // Only one can be asked about, and the word on it must not be taken for another's.
            if !found.others.is_empty() && self.is_asked_about(token.bearer()) {
                continue;
            }
            evidence.is_dpop |= token.scheme() == Scheme::Dpop;
            let proved =
                self.verify(token.bearer(), Expiry::Tolerated, view, now, evidence).and_then(|(issuer, verified)| {
                    let proof = self.prove(rule, issuer, token, &verified, request, view, now, evidence)?;
                    Ok((issuer, verified, proof))
                });
            match proved {
                Ok(proved) => verified.push(proved),
                Err(stop) => {
                    refused.get_or_insert(stop);
                }
            }
        }
        // The one that is alive is the caller's.
        let alive = |(issuer, token, _): &(&Arc<TrustedIssuer>, VerifiedToken, Proof)| {
            issuer.verify_again(token, now, Expiry::Refused).is_ok()
                && view.index.find(token.targets(), token.issued_at()).is_none()
        };
        let Some(callers) = verified.iter().find(|one| alive(one)).or(verified.first()) else {
            let ended = match rule.access {
                Access::SignOut(sign_out) => Some((Vec::new(), sign_out.then)),
                _ => None,
            };
            return match (refused, rule.access) {
                (None, Access::Refresh) => Ok(Grant::anonymous()),
                // Who comes without any token passes; a cookie that nobody can take away must not lock out.
                (Some(Stop::Denied(denial)), Access::Refresh) if found.only_cookies && denial.is_about_token() => {
                    evidence.token = None;
                    Ok(Grant { ignored: Some(denial), ..Grant::anonymous() })
                }
                (None, _) if found.first.is_none() => Err(Denial::MissingToken.into()),
                // Of an opaque token that ran out, nothing is left to name whose it was; as little as of one
                // that never was, which could as well have been left out.
                (None | Some(Stop::Denied(Denial::TokenInactive)), _) => {
                    Ok(Grant { sign_out: ended, ..Grant::anonymous() })
                }
                (Some(stop), _) => Err(stop),
            };
        };
        let (issuer, token, proof) = callers;
        evidence.issuer = Some(issuer.name.clone());
        evidence.token = Some(token.clone());
        meet(rule, token, issuer, now, evidence)?;
        let sign_out = match rule.access {
            Access::SignOut(sign_out) => {
                let clocks = Clocks { local: now, store: view.store_clock };
                let ended = verified.iter().map(|(issuer, token, _)| issuer.sign_out(token, sign_out.scope, clocks));
                let ended = ended.collect::<Result<Vec<_>, _>>()?;
                Some((ended.into_iter().flatten().collect(), sign_out.then))
            }
            _ => None,
        };
        Ok(Grant {
            principal: Some(Principal { token: proof.spend(token.clone(), view, evidence)?, verified_at: now }),
            sign_out,
            ..Grant::anonymous()
        })
    }

    /// The token that a request is decided by: the only one, or the only one that has not run out.
    pub fn token_of<'a>(&self, request: &RequestView<'a>, now: Timestamp) -> Result<Option<FoundToken<'a>>, Denial> {
        let found = self.tokens.find(request);
        if let Some(denial) = found.denial {
            return Err(denial);
        }
        if found.others.is_empty() {
            return Ok(found.first);
        }
        let mut alive = found.tokens().filter(|token| !self.has_run_out(token.bearer(), now));
        match (alive.next(), alive.next()) {
            (Some(_), Some(_)) => Err(Denial::MultipleTokens),
            (only, _) => Ok(only.or(found.first.as_ref()).cloned()),
        }
    }

    /// Whether a token is of its issuer, and has expired.
    fn has_run_out(&self, bearer: BearerToken<'_>, now: Timestamp) -> bool {
        if self.is_asked_about(bearer) {
            return false;
        }
        match self.verified.find(bearer, &self.issuers) {
            Some((issuer, token)) => issuer.ends_at(token.issued_at(), token.expires_at()) <= now,
            None => UnverifiedToken::parse(bearer).map_err(Refusal::from).is_ok_and(|unverified| {
                let issuer = unverified.unverified_issuer().and_then(|iss| self.issuer(&iss));
                issuer.is_ok_and(|issuer| issuer.has_run_out(unverified, now))
            }),
        }
    }

    /// Whether a token says nothing itself, and its issuer is asked.
    fn is_asked_about(&self, bearer: BearerToken<'_>) -> bool {
        self.introspection.opaque.is_some() && is_opaque(bearer)
    }

    /// Reads a token and verifies it, or takes its issuer's word for it, or both.
    fn verify(
        &self,
        bearer: BearerToken<'_>,
        expiry: Expiry,
        view: View<'_>,
        now: Timestamp,
        evidence: &mut Evidence,
    ) -> Result<(&Arc<TrustedIssuer>, VerifiedToken), Stop> {
        let refused = |detail: &mut Option<Box<str>>, refusal: Refusal| {
            *detail = detail.take().or(refusal.detail);
            refusal.denial
        };
        let opaque = self.introspection.opaque.as_ref().filter(|_| is_opaque(bearer));
        if let Some(issuer) = opaque.and_then(|name| self.issuer_named(name)) {
            evidence.issuer = Some(issuer.name.clone());
            let token = issuer.vouch(bearer, word(view, &issuer.name)?, now, expiry);
            return Ok((issuer, token.map_err(|refusal| refused(&mut evidence.detail, refusal))?));
        }
        let remembered = self.verified.find(bearer, &self.issuers);
        evidence.remembered.get_or_insert(remembered.is_some());
        let (issuer, token) = if let Some((issuer, token)) = remembered {
            evidence.issuer = Some(issuer.name.clone());
            issuer.verify_again(&token, now, expiry).map_err(|refusal| refused(&mut evidence.detail, refusal))?;
            (issuer, token)
        } else {
            let unverified = UnverifiedToken::parse(bearer)?;
            let has_nonce = unverified.header().has_nonce;
            let verified = self.verify_anew(unverified, now, expiry, &mut evidence.issuer);
            let (issuer, token) = verified.map_err(|refusal| {
                let refusal = if has_nonce { refusal.and(FOR_MICROSOFT) } else { refusal };
                let denial = refused(&mut evidence.detail, refusal);
                match (&evidence.issuer, denial) {
                    (Some(issuer), Denial::UnknownKey | Denial::KeysUnavailable) if view.keys.is_none() => {
                        Stop::Needs(Needs::Keys { issuer: issuer.clone(), refusal: denial })
                    }
                    _ => denial.into(),
                }
            })?;
            self.verified.remember(bearer, issuer, &token);
            (issuer, token)
        };
        // Who is about to leave, or to come back, need not be alive; and the dead are not asked about.
        let asked = expiry == Expiry::Refused
            && self.introspection.always.contains(&issuer.name)
            && view.index.find(token.targets(), token.issued_at()).is_none();
        if !asked {
            return Ok((issuer, token));
        }
        let token = issuer.corroborate(token, word(view, &issuer.name)?, now);
        Ok((issuer, token.map_err(|refusal| refused(&mut evidence.detail, refusal))?))
    }

    /// Verifies a token by the keys of the issuer that it names, which is put into `named`.
    fn verify_anew(
        &self,
        unverified: UnverifiedToken<'_>,
        now: Timestamp,
        expiry: Expiry,
        named: &mut Option<IssuerName>,
    ) -> Result<(&Arc<TrustedIssuer>, VerifiedToken), Refusal> {
        let issuer = self.issuer(&unverified.unverified_issuer()?)?;
        *named = Some(issuer.name.clone());
        Ok((issuer, issuer.verify(unverified, now, expiry)?))
    }

    /// Refuses a revoked token and, with `list: allow`, one that is not registered; `Ok(true)` if the
    /// former could not be told for sure and the policy lets pass.
    fn check_lists(
        &self,
        rule: &Rule,
        token: &VerifiedToken,
        view: View<'_>,
        now: Timestamp,
        evidence: &mut Evidence,
    ) -> Result<bool, Stop> {
        let stale = self.check_revocation(rule, token, view, now, evidence)?;
        if self.freshness.allow_list {
            check_registration(token, view, now)?;
        }
        Ok(stale)
    }

    fn check_revocation(
        &self,
        rule: &Rule,
        token: &VerifiedToken,
        view: View<'_>,
        now: Timestamp,
        evidence: &mut Evidence,
    ) -> Result<bool, Stop> {
        evidence.hit = view.index.find(token.targets(), token.issued_at());
        if let Some(StoreAnswer::Hit(answer)) = view.answer {
            evidence.hit = evidence.hit.max_by_origin(answer);
        }
        let until = evidence.hit.map(|hit| hit.watermark).filter(|watermark| *watermark != Watermark::FOREVER);
        let until = until.map(Watermark::instant).filter(|until| *until >= now);
        evidence.locked_out = until.map(|until| LockedOut { until, left: until.since(now) });
        match evidence.hit {
            Some(Hit { origin: Origin::Revoked, .. }) => return Err(Denial::Revoked.into()),
            Some(Hit { origin: Origin::SignedOut, .. }) => return Err(Denial::SignedOut.into()),
            None => {}
        }
        if self.may_be_forgotten(token, view.index.forgotten()) {
            return Err(Denial::Expired.into());
        }
        let max_staleness = rule.max_staleness.unwrap_or(self.freshness.max_staleness);
        let fresh = view.age.is_some_and(|age| age <= max_staleness);
        if fresh && !self.freshness.always_lookup {
            return Ok(false);
        }
        let on_stale = if self.freshness.always_lookup {
            OnStale::Lookup
        } else {
            rule.on_stale.unwrap_or(self.freshness.on_stale)
        };
        match (on_stale, view.answer) {
            (OnStale::Deny, _) => Err(Denial::RevocationsStale.into()),
            // Before the first complete read nothing is known: that is not a stale view but none.
            (OnStale::Allow, _) => {
                if view.age.is_some() {
                    Ok(true)
                } else {
                    Err(Denial::RevocationsStale.into())
                }
            }
            (OnStale::Lookup, None) => Err(Stop::Needs(Needs::Lookup(token.clone()))),
            (OnStale::Lookup, Some(StoreAnswer::Clear | StoreAnswer::Unregistered)) => Ok(false),
            (OnStale::Lookup, Some(_)) => Err(Denial::StoreUnavailable.into()),
        }
    }

    /// Whether what revoked the token may be forgotten, because the token had expired before the clock was set back.
    fn may_be_forgotten(&self, token: &VerifiedToken, forgotten: Timestamp) -> bool {
        let leeway = || self.issuer_named(token.issuer()).map(|issuer| issuer.leeway).unwrap_or_default();
        token.expires_at() <= forgotten && token.expires_at().plus(leeway()) <= forgotten
    }

    /// The longest that a view of the revocations may be used by any rule.
    #[must_use]
    pub fn longest_staleness(&self) -> Duration {
        let rules = self.rules.iter().filter_map(|rule| rule.max_staleness);
        rules.max().unwrap_or_default().max(self.freshness.max_staleness)
    }

    /// The issuer whose `iss` this is; the configuration sees to it that there is one at most.
    pub fn issuer(&self, iss: &str) -> Result<&Arc<TrustedIssuer>, Refusal> {
        let found = self.issuers.iter().find(|issuer| issuer.issuer.name(iss).is_some());
        found.ok_or_else(|| issuer_id::unknown(self.issuers.iter().map(|issuer| &issuer.issuer), Some(iss)))
    }

    #[must_use]
    pub fn issuer_named(&self, name: &IssuerName) -> Option<&Arc<TrustedIssuer>> {
        self.issuers.iter().find(|issuer| issuer.name == *name)
    }

    /// The issuer of this name, or formerly of this name.
    #[must_use]
    pub fn issuer_once_named(&self, name: &IssuerName) -> Option<&Arc<TrustedIssuer>> {
        self.issuer_named(name).or_else(|| self.issuers.iter().find(|issuer| issuer.formerly.contains(name)))
    }

    /// How far the tokens of each issuer were seen to be dated ahead; shared with the issuers.
    pub fn leads(&self) -> Vec<(IssuerName, Lead)> {
        self.issuers.iter().map(|issuer| (issuer.name.clone(), issuer.lead.clone())).collect()
    }

    /// The same by every name under which revocations of an issuer may stand: instances that know it by another one
    /// share the lead. A name may be that of several issuers.
    pub fn leads_of_all_names(&self) -> Vec<(IssuerName, Lead)> {
        let leads = |issuer: &Arc<TrustedIssuer>| {
            let lead = issuer.lead.clone();
            issuer.names().cloned().map(move |name| (name, lead.clone())).collect::<Vec<_>>()
        };
        self.issuers.iter().flat_map(leads).collect()
    }

    /// This authorizer with what the one before it has learnt about the issuers that both have, whatever their names
    /// were: tokens that were dated ahead before are accepted still.
    #[must_use]
    pub fn continuing(&self, before: &Self) -> Self {
        let learnt = |issuer: &Arc<TrustedIssuer>| {
            let is_known =
                |known: &&Arc<TrustedIssuer>| known.name == issuer.name || known.issuer.overlaps(&issuer.issuer);
            let mut known: Vec<_> = before.issuers.iter().filter(is_known).collect();
            known.sort_by_key(|known| known.name != issuer.name);
            let Some(first) = known.first() else { return issuer.clone() };
            let same = first.claim_names == issuer.claim_names;
            let seen = if same { first.seen.clone() } else { issuer.seen.clone() };
            // Decisions that have begun go on raising what is shared.
            for other in &known {
                first.lead.raise(other.lead.seen());
            }
            Arc::new(TrustedIssuer { lead: first.lead.clone(), seen, ..(**issuer).clone() })
        };
        Self { issuers: self.issuers.iter().map(learnt).collect(), ..self.clone() }
    }

    /// This authorizer with other keys for one issuer, or none: how a key rotation takes effect. With the
    /// very same keys the issuer stays, and with it the tokens that it verified.
    #[must_use]
    pub fn with_keys(&self, name: &IssuerName, keys: Option<&Jwks>) -> Self {
        let replace = |issuer: &Arc<TrustedIssuer>| {
            if issuer.name == *name && issuer.keys.as_ref() != keys {
                Arc::new(TrustedIssuer { keys: keys.cloned(), ..(**issuer).clone() })
            } else {
                issuer.clone()
            }
        };
        Self { issuers: self.issuers.iter().map(replace).collect(), ..self.clone() }
    }
}

/// What a `nonce` in the JOSE header means: the signature is over its digest, which Microsoft does not document.
const FOR_MICROSOFT: &str = "the header has `nonce`: a token for Microsoft Graph or another service of Microsoft, which \
    only that service can verify; the client must request a scope of this API";

/// Holds a token to the requirements of a rule.
fn meet(
    rule: &Rule,
    token: &VerifiedToken,
    issuer: &TrustedIssuer,
    now: Timestamp,
    evidence: &mut Evidence,
) -> Result<(), Denial> {
    rule.require.check(token, issuer, now).map_err(|refusal| {
        evidence.detail = evidence.detail.take().or(refusal.detail);
        refusal.denial
    })
}

/// What the issuer says of an active token.
fn word<'a>(view: View<'a>, issuer: &IssuerName) -> Result<&'a ClaimSet, Stop> {
    match view
        .introspection_response
        .filter(|introspection_response| introspection_response.issuer == *issuer)
        .map(|introspection_response| &introspection_response.said)
    {
        None => Err(Stop::Needs(Needs::Introspection(issuer.clone()))),
        Some(TokenState::Active(claims)) => Ok(claims),
        Some(TokenState::Inactive) => Err(Denial::TokenInactive.into()),
        Some(TokenState::Unavailable) => Err(Denial::IntrospectionUnavailable.into()),
    }
}

/// A registration that is not in the view may be on its way: the store is asked before it is missed.
fn check_registration(token: &VerifiedToken, view: View<'_>, now: Timestamp) -> Result<(), Stop> {
    let is_known = |target| view.index.registers(&target, token.issued_at(), now);
    match view.answer {
        _ if token.registrations().any(is_known) => Ok(()),
        Some(StoreAnswer::Clear) => Ok(()),
        Some(StoreAnswer::Unregistered) => Err(Denial::NotRegistered.into()),
        Some(StoreAnswer::Hit(_) | StoreAnswer::Unavailable) => Err(Denial::StoreUnavailable.into()),
        None => Err(Stop::Needs(Needs::Lookup(token.clone()))),
    }
}

trait MaxByOrigin {
    fn max_by_origin(self, other: Hit) -> Option<Hit>;
}

impl MaxByOrigin for Option<Hit> {
    fn max_by_origin(self, other: Hit) -> Option<Hit> {
        self.into_iter().chain([other]).max_by_key(|hit| (hit.origin, hit.watermark))
    }
}

impl Grant {
    fn anonymous() -> Self {
        Self { principal: None, sign_out: None, stale: false, shadowed: None, ignored: None }
    }
}
