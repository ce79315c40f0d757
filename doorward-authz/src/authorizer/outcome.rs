//! The outcome of a decision, and the facts established on the way.

use std::sync::Arc;
use std::time::Duration;

use super::proof::{ProofEvidence, ProvedToken};
use crate::claims::{IssuerName, Timestamp};
use crate::denial::Denial;
use crate::dpop::VerifiedProof;
use crate::revocation::{Hit, Revocation};
use crate::rule::{Rule, Then};
use crate::token::VerifiedToken;

/// Proof that a token was verified, that its sender may use it and, but on trial, the rule's policy met: the only source
/// of identity headers.
#[derive(Clone, Debug)]
pub struct Principal {
    pub(super) token: ProvedToken,
    pub(super) verified_at: Timestamp,
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

/// The properties of an allowed request.
#[derive(Clone, Debug)]
pub struct Grant {
    /// `None` for a request that proved no identity.
    pub principal: Option<Principal>,
    /// The revocations to record before the request is answered, and the answer.
    pub sign_out: Option<(Vec<Revocation>, Then)>,
    /// The view was older than allowed and the policy lets pass.
    pub stale: bool,
    /// The refusal that a shadow rule did not enforce.
    pub shadowed: Option<Denial>,
    /// Why the request's token counts as absent.
    pub ignored: Option<Denial>,
}

impl Grant {
    pub(super) fn anonymous() -> Self {
        Self { principal: None, sign_out: None, stale: false, shadowed: None, ignored: None }
    }
}

#[derive(Clone, Debug)]
pub enum Outcome {
    Allowed(Box<Grant>),
    Denied(Denial),
    /// Undecided: fetch this, then decide again with it in the [`View`](super::View).
    Needs(Needs),
}

/// An input that the pure decision lacks. Each kind is fetched at most once in a request.
#[derive(Clone, Debug)]
pub enum Needs {
    /// This issuer's keys; without them the refusal is `UnknownKey`, or `KeysUnavailable` if it has none yet.
    Keys { issuer: IssuerName, refusal: Denial },
    /// This issuer's introspection response for the token.
    Introspection(IssuerName),
    /// The store's entries for this token's targets.
    Lookup(VerifiedToken),
    /// The status list at this URI: it is not stored, or is stale, or ends before the token's place.
    StatusList { issuer: IssuerName, uri: Arc<str> },
    /// Whether this proof was used before; from now on it is.
    Spending(Box<VerifiedProof>),
    /// A turn to verify a signature.
    Verification,
}

impl Needs {
    /// The number of kinds: the most that one request can need.
    pub const KINDS: usize = 6;

    /// The refusal if it cannot be fetched.
    #[must_use]
    pub const fn refusal(&self) -> Denial {
        match self {
            Self::Keys { refusal, .. } => *refusal,
            Self::Introspection(_) => Denial::IntrospectionUnavailable,
            Self::StatusList { .. } => Denial::RevocationsStale,
            Self::Lookup(_) | Self::Spending(_) => Denial::StoreUnavailable,
            Self::Verification => Denial::Overloaded,
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

    /// The reason for a refusal; an outcome that still needs something is refused as if fetching that had failed.
    #[must_use]
    pub const fn denial(&self) -> Option<Denial> {
        match self {
            Self::Allowed(_) => None,
            Self::Denied(denial) => Some(*denial),
            Self::Needs(needs) => Some(needs.refusal()),
        }
    }
}

/// The facts established on the way; kept for metadata, logs and explanations, whatever the outcome.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    pub api_client: Option<Arc<str>>,
    /// The issuer that the token's `iss` names.
    pub issuer: Option<IssuerName>,
    pub token: Option<VerifiedToken>,
    /// The fault of the first refused token, for an operator.
    pub detail: Option<Box<str>>,
    /// Whether the token was in the cache of verified tokens; `None` if the cache was not consulted.
    pub remembered: Option<bool>,
    pub hit: Option<Hit>,
    /// Set if even a token that is issued now is covered by the matching revocation.
    pub locked_out: Option<LockedOut>,
    /// The result of the request's proof; `None` if no proof was examined.
    pub proof: Option<ProofEvidence>,
    /// Whether the token stands behind the scheme `DPoP`, or is bound to a key.
    pub is_dpop: bool,
}

/// A revocation covers tokens that are issued a moment after it, because its issuer may date them ahead: a user who
/// signs in again at once waits for that moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LockedOut {
    /// A token that is issued from then on is accepted.
    pub until: Timestamp,
    pub left: Duration,
}

impl LockedOut {
    /// The first whole second after a watermark: most issuers date tokens in whole seconds, rounded down (NumericDate,
    /// RFC 7519 section 2).
    pub(super) fn end(watermark: Timestamp) -> Timestamp {
        Timestamp::from_secs(watermark.as_secs().saturating_add(1))
    }
}

pub struct Decision<'a> {
    pub rule: &'a Rule,
    pub outcome: Outcome,
    pub evidence: Evidence,
}

impl Decision<'_> {
    /// Replaces the outcome with a refusal; a rule in shadow mode only records it.
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

pub(super) enum Stop {
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
