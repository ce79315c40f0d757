//! An issuer, and the required form of its tokens.

use std::time::Duration;

use serde_json::Value;

use super::reading::joined;
use super::times::Times;
use super::unverified::{SPIFFE, UnverifiedToken, trust_domain};
use super::{Audiences, Seen, TokenTypes, VerifiedToken};
use crate::claims::{ClaimPath, ClaimSet, IssuerName, Timestamp};
use crate::denial::Denial;
use crate::dpop::{DpopPolicy, ProofUse};
use crate::issuer_id::IssuerId;
use crate::jwks::{Algorithm, Jwks};
use crate::refusal::{Refusal, Shown};
use crate::revocation::{Clocks, Hit, Kind, Lead, Origin, Revocation, RevocationIndex, TargetId, Watermark};
use crate::status_list::StatusListPolicy;
use crate::token_use::TokenUse;

/// A trusted issuer, and the required form of its tokens.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct TrustedIssuer {
    pub name: IssuerName,
    /// The issuer's former names: revocations under them apply. Another issuer may have such a name now.
    pub formerly: Vec<IssuerName>,
    /// The required `iss`.
    pub issuer: IssuerId,
    pub audiences: Audiences,
    pub algorithms: Vec<Algorithm>,
    pub token_types: TokenTypes,
    /// Whether a token that is marked as an ID token is accepted as an access token.
    pub accepts_id_tokens: bool,
    pub leeway: Duration,
    /// The part of the leeway that is granted after `exp`: zero where another service's keys revoke (`adopt`), because
    /// those end with the token's life.
    pub expiry_leeway: Duration,
    pub max_lifetime: Duration,
    pub claim_names: ClaimNames,
    /// Whether a token must name a user.
    pub needs_user: bool,
    /// Whether senders of its tokens must prove possession.
    pub proof: ProofUse,
    pub dpop: DpopPolicy,
    pub logout: LogoutPolicy,
    /// Whether events name users by their address, so that tokens must be found by it.
    pub revocable_by_email: bool,
    /// How far its tokens were seen to be dated ahead.
    pub lead: Lead,
    /// The kinds of targets that its tokens were seen to name.
    pub seen: Seen,
    /// Whether another service revokes tokens by the digest of their text (`adopt`).
    pub revocable_by_text: bool,
    /// `None`: what its tokens say about their status is not read.
    pub status_list: Option<StatusListPolicy>,
    /// `None` until they were loaded once.
    pub keys: Option<Jwks>,
}

/// The required content of the issuer's logout tokens, and the users or sessions that they sign out.
#[derive(Clone, Debug)]
pub struct LogoutPolicy {
    pub audiences: Audiences,
    /// Signs out the user even if a session is named, for issuers whose access tokens name none.
    pub always_user: bool,
}

/// The claims from which Doorward reads an identity; the first present one counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimNames {
    pub user_id: Vec<ClaimPath>,
    pub email: Vec<ClaimPath>,
    pub session_id: Vec<ClaimPath>,
    pub client_id: Vec<ClaimPath>,
    pub audience: Vec<ClaimPath>,
}

/// The treatment of an expired token that is otherwise valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expiry {
    Refused,
    /// For refresh and sign-out, which expired tokens must be able to ask for.
    Tolerated,
}

impl TrustedIssuer {
    /// How long a revocation of any kind but `token` is kept, and the longest that a token may be accepted after it
    /// was issued: one constant for both, so that no token outlives its revocation.
    #[must_use]
    pub fn retention(&self) -> Duration {
        self.max_lifetime + self.leeway
    }

    /// Checks everything about a token but its revocation.
    pub fn verify(&self, token: UnverifiedToken<'_>, now: Timestamp, expiry: Expiry) -> Result<VerifiedToken, Refusal> {
        let key = token.check_signature(self.keys.as_ref(), &self.algorithms)?;
        self.token_types.check(token.header.token_type.as_deref())?;
        self.check_use(token.header.token_type.as_deref(), &token.claims)?;
        self.check_trust_domain(&token.claims)?;
        let times = Times::read(&token.claims)?;
        self.check_times(times, now, expiry)?;
        self.check_audience(&token.claims)?;
        self.lead.observe(times.issued_at, now);
        let unnamed = || TargetId::digest(token.signing_input.as_bytes());
        let text = self.revocable_by_text.then(|| token.text_digest());
        self.identify(token.claims, unnamed, text, Some(key), times)
    }

    /// Whether this issuer signed a token that has expired, of whatever type, lifetime and audience.
    pub(crate) fn has_run_out(&self, token: UnverifiedToken<'_>, now: Timestamp) -> bool {
        let times =
            token.check_signature(self.keys.as_ref(), &self.algorithms).and_then(|_| Times::read(&token.claims));
        times.is_ok_and(|times| self.ends_at(times.issued_at, times.expires_at) <= now)
    }

    /// Refuses a token that is marked as something other than an access token.
    pub(crate) fn check_use(&self, header_type: Option<&str>, claims: &ClaimSet) -> Result<(), Refusal> {
        let detail = match TokenUse::mark(header_type, claims) {
            None | Some((TokenUse::Access, _)) => return Ok(()),
            Some((TokenUse::Id, _)) if self.accepts_id_tokens => return Ok(()),
            Some((TokenUse::Id, place)) => {
                format!("{place} marks it as an ID token; `accept: [access, id]` accepts ID tokens")
            }
            Some((TokenUse::Refresh, place)) => format!("{place} marks it as a refresh token"),
            Some((TokenUse::Message, place)) => format!("{place} marks it as a message between servers"),
        };
        Err(Refusal::new(Denial::WrongType, detail))
    }

    /// Refuses a SPIFFE ID of another trust domain: the keys of one domain must not speak for another (JWT-SVID
    /// section 6).
    fn check_trust_domain(&self, claims: &ClaimSet) -> Result<(), Refusal> {
        let mut domains = self.issuer.exact().filter(|iss| iss.starts_with(SPIFFE)).peekable();
        if domains.peek().is_none() {
            return Ok(());
        }
        let found = trust_domain(claims);
        if found.as_deref().is_some_and(|found| domains.any(|domain| domain == found)) {
            return Ok(());
        }
        let found = found.map_or("not a SPIFFE ID".to_owned(), |found| format!("of {}", Shown(&found)));
        Err(Refusal::invalid("sub", found, "a SPIFFE ID of the issuer's trust domain"))
    }

    pub(crate) fn check_audience(&self, claims: &ClaimSet) -> Result<(), Refusal> {
        self.check_audience_of(&self.audiences, claims)
    }

    /// Checks whether a token of this issuer names one of these audiences.
    pub(crate) fn check_audience_of(&self, accepted: &Audiences, claims: &ClaimSet) -> Result<(), Refusal> {
        let paths = &self.claim_names.audience;
        match self.audience_of(claims) {
            Some((path, named)) => accepted.check(path.as_str(), Some(named)),
            None => accepted.check(&joined(paths), None),
        }
    }

    /// The first claim that names an audience; an empty list names none.
    pub(crate) fn audience_of(&self, claims: &ClaimSet) -> Option<(&ClaimPath, Value)> {
        let mut found = self.claim_names.audience.iter().filter_map(|path| Some((path, path.find(claims)?)));
        found.find(|(_, named)| named.as_array().is_none_or(|items| !items.is_empty()))
    }

    /// Whether users, sessions and clients of its tokens have the names that they have by the other.
    #[must_use]
    pub fn names_alike(&self, other: &Self) -> bool {
        let names = |issuer: &Self| {
            let ClaimNames { user_id, session_id, client_id, .. } = &issuer.claim_names;
            [user_id.clone(), session_id.clone(), client_id.clone()]
        };
        names(self) == names(other)
    }

    /// When a token is not accepted any more.
    #[must_use]
    pub fn ends_at(&self, issued_at: Option<Timestamp>, expires_at: Timestamp) -> Timestamp {
        // The leeway is granted once: on the lifetime or on the expiry, so that retention covers both. A token without
        // `iat` has already received it on the lifetime.
        let longest = issued_at.map_or(expires_at, |at| at.plus(self.retention()));
        expires_at.plus(self.expiry_leeway).min(longest)
    }

    /// Checks only the times of a token that this issuer verified before.
    pub fn verify_again(&self, token: &VerifiedToken, now: Timestamp, expiry: Expiry) -> Result<(), Refusal> {
        self.check_times(token.times(), now, expiry)
    }

    pub(crate) fn check_times(&self, times: Times, now: Timestamp, expiry: Expiry) -> Result<(), Refusal> {
        let Times { issued_at, not_before, expires_at } = times;
        let soon = now.plus(self.leeway);
        // An iat in the future would outlive every later sign-out.
        for (claim, at) in [("iat", issued_at), ("nbf", not_before)] {
            if let Some(at) = at.filter(|at| *at > soon) {
                let ahead = at.since(now).as_secs();
                let leeway = self.leeway.as_secs();
                let found = format_args!("`{claim}` is {ahead} s ahead of this clock; `leeway` is {leeway} s");
                return Err(Refusal::new(Denial::NotYetValid, found));
            }
        }
        let longest = self.retention();
        for (claim, from) in [("iat", issued_at), ("now", Some(now))] {
            if let Some(from) = from.filter(|from| expires_at > from.plus(longest)) {
                let (lives, most) = (expires_at.since(from).as_secs(), self.max_lifetime.as_secs());
                let found = format_args!("`exp` - {claim} is {lives} s; `max_lifetime` is {most} s");
                return Err(Refusal::new(Denial::LifetimeTooLong, found));
            }
        }
        if expiry == Expiry::Refused && now >= self.ends_at(issued_at, expires_at) {
            return Err(Denial::Expired.into());
        }
        Ok(())
    }

    /// The default instant of a revocation: the later of the wall clocks, and how far tokens of the target may be
    /// dated ahead of it.
    ///
    /// For a user that is the largest lead of this issuer's tokens at any instance, at least [`Lead::LEAST`]; for a
    /// client or the whole issuer, where no user signs in again a moment later, or if the leads of other instances are
    /// not known, it is at least the leeway. Clocks that
    /// differ by more than the leeway are refused: one of them would give an instant that covers too little.
    pub fn instant(&self, kind: Kind, clocks: Clocks) -> Result<Timestamp, Denial> {
        if !clocks.agree_within(self.leeway) {
            return Err(Denial::ClockSkew);
        }
        let lead = match kind {
            Kind::User => self.least_lead(),
            _ => self.leeway.max(self.least_lead()),
        };
        let covered = clocks.latest().plus(lead);
        // A token that an instance has verified was issued, whatever any clock shows.
        let dated = Some(self.lead.dated()).filter(|dated| *dated <= clocks.latest_date());
        Ok(dated.map_or(covered, |dated| dated.max(covered)))
    }

    /// The instant of a user's revocation at a time of another sender's: later by the lead, and no earlier than a date that
    /// the lead does not cover, unless such a token was issued afterwards.
    pub(crate) fn covered_from(&self, sent: Timestamp, clocks: Clocks) -> Timestamp {
        let dated = self.lead.beyond(clocks.earliest()).unwrap_or_default();
        dated.min(sent.plus(self.leeway)).max(sent.plus(self.least_lead()))
    }

    /// How far the tokens of a user may be dated ahead of a clock that is not the issuer's own: by the whole leeway if it
    /// is not known what other instances saw.
    fn least_lead(&self) -> Duration {
        let seen = self.lead.seen().max(Lead::LEAST);
        if self.lead.is_known() { seen } else { self.leeway.max(seen) }
    }

    /// The revocation that signs out a token, its session or its user; of a token that names no session or no
    /// user, the token alone. Also of a token that has expired by these clocks: another instance may accept it.
    pub fn sign_out(&self, token: &VerifiedToken, scope: Kind, clocks: Clocks) -> Result<Option<Revocation>, Denial> {
        let named = |kind| token.targets().iter().find(|target| target.kind == kind);
        let Some(target) = named(scope).or_else(|| named(Kind::Token)).cloned() else { return Ok(None) };
        // If the issuer's clock runs ahead, this very token may be dated later than now; its life counts from its
        // date.
        let ahead = |instant: Timestamp| token.issued_at().map_or(instant, |at| at.max(instant));
        let (watermark, expires_at) = match target.kind {
            Kind::Token => (Watermark::FOREVER, token.expires_at().plus(self.leeway)),
            Kind::Session => (Watermark::FOREVER, ahead(clocks.latest()).plus(self.retention())),
            kind => {
                let instant = ahead(self.instant(kind, clocks)?);
                (Watermark::at(instant), instant.plus(self.retention()))
            }
        };
        Ok(Some(Revocation { target, watermark, expires_at, origin: Origin::SignedOut, note: None }))
    }

    /// As [`Self::sign_out`], for a token that is revoked: only the token itself is signed out, so that its thief
    /// cannot sign its user out of new sessions. An existing revocation of the scope's target is repeated unchanged,
    /// because the store may not have it yet.
    pub(crate) fn sign_out_again(
        &self,
        token: &VerifiedToken,
        scope: Kind,
        index: &RevocationIndex,
        clocks: Clocks,
    ) -> Option<Revocation> {
        let target = token.targets().iter().find(|target| target.kind == scope && scope != Kind::Token);
        let known = target.and_then(|target| Some((target, index.find([target], token.issued_at())?)));
        let Some((target, Hit { watermark, origin, .. })) = known else {
            return self.sign_out(token, Kind::Token, clocks).ok().flatten(); // Needs no instant.
        };
        let from = if watermark == Watermark::FOREVER { clocks.latest() } else { watermark.instant() };
        let expires_at = from.plus(self.retention());
        Some(Revocation { target: target.clone(), watermark, expires_at, origin, note: None })
    }
}
