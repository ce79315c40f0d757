//! The decision: a pure function of a request, the configuration, the revocations, and the time.

mod attempt;
mod outcome;
mod proof;
mod status;
mod view;

use std::sync::Arc;
use std::time::Duration;

use super::api_key::ApiKeys;
use super::claims::{IssuerName, Timestamp};
use super::denial::Denial;
use super::dpop::Nonces;
use super::introspection::{IntrospectionPolicy, is_opaque};
use super::issuer_id;
use super::jwks::Jwks;
use super::refusal::Refusal;
use super::request_uri::ProxyTrust;
use super::revocation::{Lead, RevocationIndex};
use super::rule::{OnStale, RequestView, Rule};
use super::rules::Rules;
use super::token::{BearerToken, TrustedIssuer, UnverifiedToken, VerifiedToken};
use super::token_cache::TokenCache;
use super::token_source::{FoundToken, TokenSettings};
use attempt::{Attempt, Verified};
use outcome::Stop;
pub use outcome::{Decision, Evidence, Grant, LockedOut, Needs, Outcome, Principal};
pub use proof::{ProofEvidence, ProofResult};
pub use view::{KeyFetch, ListFetch, StoreAnswer, Verification, View};

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

impl Authorizer {
    /// Decides one request. Does no I/O: a need for it is returned as [`Outcome::Needs`], one at a time.
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
        rules
            .others
            .into_iter()
            .fold(decision, |decision, rule| Attempt::new(self, rule, request, view, now).also(rule, decision))
    }

    /// Decides by a given rule, whether or not it matches the request.
    #[must_use]
    pub fn authorize_by<'a>(
        &self,
        rule: &'a Rule,
        request: &RequestView<'_>,
        view: View<'_>,
        now: Timestamp,
    ) -> Decision<'a> {
        let (outcome, evidence) = Attempt::new(self, rule, request, view, now).decide();
        Decision { rule, outcome, evidence }
    }

    /// The token that decides a request: the only one, or the only one that has not expired.
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

    /// The only token of a request, if it was verified before, which nearly every one was: then its form is right.
    fn known_token<'a>(&self, request: &RequestView<'a>) -> Option<(FoundToken<'a>, Verified<'_>)> {
        let found = self.tokens.alone(request)?;
        let (issuer, token) = self.verified.find(found.bearer(), &self.issuers)?;
        Some((found, Verified { issuer, token }))
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

    /// Whether a token is opaque, and its issuer must be asked about it.
    fn is_asked_about(&self, bearer: BearerToken<'_>) -> bool {
        self.introspection.opaque.is_some() && is_opaque(bearer)
    }

    /// Whether the token's revocation may be forgotten, because the token had expired before the clock was set back.
    fn may_be_forgotten(&self, token: &VerifiedToken, index: &RevocationIndex) -> bool {
        let (forgotten, ends) = (index.forgotten(), token.expires_at());
        if ends > forgotten.latest() {
            return false; // Nearly always.
        }
        let leeway = self.issuer_named(token.issuer()).map(|issuer| issuer.leeway).unwrap_or_default();
        ends.plus(leeway) <= forgotten.up_to(token.issued_at())
    }

    /// The longest that a view of the revocations may be used by any rule.
    #[must_use]
    pub fn longest_staleness(&self) -> Duration {
        let rules = self.rules.iter().filter_map(|rule| rule.max_staleness);
        rules.max().unwrap_or_default().max(self.freshness.max_staleness)
    }

    /// The issuer with this `iss`; the configuration ensures that at most one matches.
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

    /// The same by every name under which revocations of an issuer may stand, and by each form of its `iss`
    /// ([`IssuerId::forms`](crate::issuer_id::IssuerId::forms), [`IssuerName::of_iss`]): instances that use another of its
    /// names share the lead, whatever became of the name. Several issuers may share one.
    pub fn leads_of_all_names(&self) -> Vec<(IssuerName, Lead)> {
        let leads = |issuer: &Arc<TrustedIssuer>| {
            let lead = issuer.lead.clone();
            let by_iss = issuer.issuer.forms().into_iter().map(|iss| IssuerName::of_iss(&iss));
            issuer.names().cloned().chain(by_iss).map(move |name| (name, lead.clone())).collect::<Vec<_>>()
        };
        self.issuers.iter().flat_map(leads).collect()
    }

    /// This authorizer with the observations of the one before about the issuers that both have, whatever their names
    /// were: tokens that are dated ahead remain accepted.
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
            // Decisions in progress continue to raise the shared leads.
            for other in &known {
                first.lead.raise(other.lead.seen());
                first.lead.note_dated(other.lead.dated());
            }
            Arc::new(TrustedIssuer { lead: first.lead.clone(), seen, ..(**issuer).clone() })
        };
        Self { issuers: self.issuers.iter().map(learnt).collect(), ..self.clone() }
    }

    /// This authorizer with other keys for one issuer, or none: the effect of a key rotation. If the keys are the
    /// same, the issuer stays, and with it the tokens that it verified.
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
