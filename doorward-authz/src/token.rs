//! From text to proof: [`BearerToken`] → [`UnverifiedToken`] → [`VerifiedToken`].
//!
//! Holding a `VerifiedToken` means that a trusted issuer signed it for us, in form and in time.

mod accepted;
mod bearer;
mod reading;
mod seen;
mod unverified;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

pub use self::accepted::{Audiences, TokenTypes};
pub use self::bearer::BearerToken;
use self::reading::{NAME, SECONDS, joined};
pub(super) use self::reading::{filled_name, name, numeric_date, text};
pub use self::seen::Seen;
pub use self::unverified::{Header, UnverifiedToken};
use self::unverified::{SPIFFE, trust_domain};
use super::actor::Actor;
use super::claims::{self, ClaimPath, ClaimSet, IssuerName, Timestamp};
use super::confirmation::Confirmation;
use super::denial::Denial;
use super::dpop::{DpopPolicy, ProofUse};
use super::encoded::{Cached, Encoded};
use super::issuer_id::{IssuerId, user_of_tenant};
use super::jwks::{Algorithm, Jwks, Key, KeyDigest};
use super::refusal::{Refusal, Shown};
use super::revocation::{Clocks, Kind, Lead, Origin, Revocation, Target, TargetId, Watermark};
use super::token_use::TokenUse;

/// An issuer we trust, and what its tokens must look like.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct TrustedIssuer {
    pub name: IssuerName,
    /// Names that its tokens were accepted under before: what is revoked under them applies. Another issuer may have
    /// such a name now.
    pub formerly: Vec<IssuerName>,
    /// What `iss` must be.
    pub issuer: IssuerId,
    pub audiences: Audiences,
    pub algorithms: Vec<Algorithm>,
    pub token_types: TokenTypes,
    /// Whether a token that says it is an ID token is taken for an access token.
    pub accepts_id_tokens: bool,
    pub leeway: Duration,
    /// What of it is granted after `exp`: none where another service's keys revoke (`adopt`), since they end
    /// with the token's life.
    pub expiry_leeway: Duration,
    pub max_lifetime: Duration,
    pub claim_names: ClaimNames,
    /// Whether a token must name a user.
    pub needs_user: bool,
    /// Whether those who send its tokens must prove that they may.
    pub proof: ProofUse,
    pub dpop: DpopPolicy,
    pub logout: LogoutPolicy,
    /// Whether events name users by their address, so that tokens must be found by it.
    pub revocable_by_email: bool,
    /// How far its tokens were seen to be dated ahead.
    pub lead: Lead,
    /// What its tokens were seen to name.
    pub seen: Seen,
    /// Whether another service revokes tokens by the digest of their text (`adopt`).
    pub revocable_by_text: bool,
    /// `None` until they were loaded once.
    pub keys: Option<Jwks>,
}

/// What the issuer's logout tokens must name, and whom they sign out.
#[derive(Clone, Debug)]
pub struct LogoutPolicy {
    pub audiences: Audiences,
    /// The user even if a session is named, for issuers whose access tokens name none.
    pub always_user: bool,
}

/// Where an issuer writes what Doorward needs to know; the first that is present counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimNames {
    pub user_id: Vec<ClaimPath>,
    pub email: Vec<ClaimPath>,
    pub session_id: Vec<ClaimPath>,
    pub client_id: Vec<ClaimPath>,
    pub audience: Vec<ClaimPath>,
}

/// What happens to a token that is right in everything but has run out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Expiry {
    Refused,
    /// For refresh and sign-out, which expired tokens must be able to ask for.
    Tolerated,
}

/// A token that an issuer we trust signed for us, or vouched for when asked, in form and in time.
///
/// It can only be had from [`TrustedIssuer::verify`] and [`TrustedIssuer::vouch`]; it says nothing about
/// revocation. Clones share what it says.
#[derive(Clone, Debug)]
pub struct VerifiedToken(Arc<Facts>);

#[derive(Clone, Debug)]
struct Facts {
    issuer: IssuerName,
    key_id: Option<Box<str>>,
    key: Option<KeyDigest>,
    claims: ClaimSet,
    times: Times,
    token_id: Box<str>,
    user_id: Option<Box<str>>,
    session_id: Option<Box<str>>,
    client_id: Option<Box<str>>,
    email: Option<Box<str>>,
    /// The current one first.
    actors: Box<[Box<str>]>,
    confirmation: Option<Box<Confirmation>>,
    targets: Box<[Target]>,
    kept: Cached<Encoded<Vec<String>>>,
}

/// When a token may be used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) issued_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    pub(super) expires_at: Timestamp,
}

impl Times {
    pub(super) fn read(claims: &ClaimSet) -> Result<Self, Refusal> {
        let expires_at = numeric_date(claims, "exp")?.ok_or_else(|| Refusal::missing("exp", SECONDS))?;
        let (issued_at, not_before) = (numeric_date(claims, "iat")?, numeric_date(claims, "nbf")?);
        Ok(Self { issued_at, not_before, expires_at })
    }

    /// The times of a message without `exp`.
    pub(super) fn of_message(claims: &ClaimSet, issued_at: Timestamp, expires_at: Timestamp) -> Result<Self, Refusal> {
        Ok(Self { issued_at: Some(issued_at), not_before: numeric_date(claims, "nbf")?, expires_at })
    }
}

/// The user, the session and the client that a token names.
pub(super) struct Named {
    pub(super) tenant: Option<String>,
    pub(super) user: Option<String>,
    pub(super) session: Option<String>,
    pub(super) client: Option<String>,
    pub(super) actors: Vec<Actor>,
}

impl TrustedIssuer {
    /// How long a revocation of anything but a single token is kept, and the longest that a token may
    /// be accepted after it was issued: one constant for both, so none outlives what revoked it.
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
    pub(super) fn has_run_out(&self, token: UnverifiedToken<'_>, now: Timestamp) -> bool {
        let times =
            token.check_signature(self.keys.as_ref(), &self.algorithms).and_then(|_| Times::read(&token.claims));
        times.is_ok_and(|times| self.ends_at(times.issued_at, times.expires_at) <= now)
    }

    /// Refuses a token that says it is not an access token.
    pub(super) fn check_use(&self, header_type: Option<&str>, claims: &ClaimSet) -> Result<(), Refusal> {
        let said = match TokenUse::mark(header_type, claims) {
            None | Some((TokenUse::Access, _)) => return Ok(()),
            Some((TokenUse::Id, _)) if self.accepts_id_tokens => return Ok(()),
            Some((TokenUse::Id, place)) => {
                format!("{place} says that it is an ID token; `accept: [access, id]` accepts those")
            }
            Some((TokenUse::Refresh, place)) => format!("{place} says that it is a refresh token"),
            Some((TokenUse::Message, place)) => format!("{place} says that it is a message between servers"),
        };
        Err(Refusal::new(Denial::WrongType, said))
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

    pub(super) fn check_audience(&self, claims: &ClaimSet) -> Result<(), Refusal> {
        self.check_audience_of(&self.audiences, claims)
    }

    /// Checks whether a token of this issuer names one of these audiences.
    pub(super) fn check_audience_of(&self, accepted: &Audiences, claims: &ClaimSet) -> Result<(), Refusal> {
        let paths = &self.claim_names.audience;
        match self.audience_of(claims) {
            Some((path, named)) => accepted.check(path.as_str(), Some(named)),
            None => accepted.check(&joined(paths), None),
        }
    }

    /// The first claim that names an audience; an empty list names none.
    pub(super) fn audience_of(&self, claims: &ClaimSet) -> Option<(&ClaimPath, Value)> {
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
        // The leeway is granted once: on the lifetime or on the expiry, so that retention covers both. A token
        // that does not say when it was issued has had it on the lifetime.
        let longest = issued_at.map_or(expires_at, |at| at.plus(self.retention()));
        expires_at.plus(self.expiry_leeway).min(longest)
    }

    /// Checks what time alone can change about a token that this issuer verified before.
    pub fn verify_again(&self, token: &VerifiedToken, now: Timestamp, expiry: Expiry) -> Result<(), Refusal> {
        self.check_times(token.0.times, now, expiry)
    }

    pub(super) fn check_times(&self, times: Times, now: Timestamp, expiry: Expiry) -> Result<(), Refusal> {
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

    /// `unnamed` names a token that has no `jti`, and `text_digest` every token whose issuer is revocable by it.
    pub(super) fn identify(
        &self,
        claims: ClaimSet,
        unnamed: impl FnOnce() -> TargetId,
        text_digest: Option<TargetId>,
        key: Option<&Key>,
        times: Times,
    ) -> Result<VerifiedToken, Refusal> {
        let named = self.named(&claims)?;
        self.check_user(named.user.as_deref(), &claims)?;
        let email = self
            .claim_names
            .email
            .iter()
            .find_map(|path| path.find(&claims))
            .and_then(|email| email.as_str().map(str::to_owned));
        let jti = text(&claims, "jti")?;
        if jti.as_deref() == Some("") {
            return Err(Refusal::invalid("jti", "empty text", "text"));
        }
        let has_id = jti.is_some();
        let token_target = jti.as_deref().map_or_else(unnamed, TargetId::new);
        let jti_as_digest = jti.as_deref().and_then(TargetId::written_digest);
        let token_id = jti.unwrap_or_else(|| token_target.to_string());

        let mut targets = Vec::with_capacity(Kind::ALL.len());
        for name in self.names() {
            let ids = [Some(&token_target), jti_as_digest.as_ref(), text_digest.as_ref()];
            targets.extend(ids.into_iter().flatten().map(|id| Target::new(name.clone(), Kind::Token, id.clone())));
            targets.push(Target::issuer(name.clone()));
        }
        targets.extend(self.targets(&named)); // Before addresses: the first of a kind is what is signed out.
        let address = email.as_deref().filter(|_| self.revocable_by_email);
        targets.extend(
            address.into_iter().flat_map(|address| self.names().map(move |name| Target::email(name.clone(), address))),
        );
        let key_id = key.and_then(Key::id);
        targets.extend(key_id.into_iter().flat_map(|id| self.readings(Kind::Key, id)));
        let named_by_itself = |kind: &Kind| *kind != Kind::Token || has_id;
        let confirmation = Confirmation::read(&claims).map(Box::new);
        self.seen.note(targets.iter().map(|target| target.kind).filter(named_by_itself));
        Ok(VerifiedToken(Arc::new(Facts {
            issuer: self.name.clone(),
            key_id: key_id.map(Into::into),
            key: key.map(Key::digest),
            claims,
            times,
            token_id: token_id.into(),
            user_id: named.user.map(Into::into),
            session_id: named.session.map(Into::into),
            client_id: named.client.map(Into::into),
            email: email.map(Into::into),
            actors: named.actors.into_iter().map(|actor| actor.id.into()).collect(),
            confirmation,
            targets: targets.into(),
            kept: Cached::default(),
        })))
    }

    /// Checks whom a token names as its user.
    fn check_user(&self, user: Option<&str>, claims: &ClaimSet) -> Result<(), Refusal> {
        let paths = &self.claim_names.user_id;
        let present = || paths.iter().find(|path| path.find(claims).is_some()).map(ClaimPath::as_str);
        match user {
            Some(user) if claims::is_b2c_nobody(user) => {
                let claim = present().unwrap_or_default();
                let cure = "Azure AD B2C writes it for every user: write `claims: {user_id: oid}`";
                let found = format_args!("the constant `{}...`", claims::B2C_NOBODY);
                Err(Refusal::invalid(claim, found, "the id of one user").and(cure))
            }
            Some(user) if !claims::names_someone(user) => {
                let found = format_args!("text of {} bytes that cannot be read on one line", user.len());
                let accepted = format_args!(
                    "1 to {} bytes without controls, invisible characters and outer blanks",
                    claims::MAX_HEADER_VALUE
                );
                Err(Refusal::invalid(present().unwrap_or_default(), found, accepted))
            }
            Some(_) => Ok(()),
            None => match present() {
                // What is there and names nobody is empty.
                Some(claim) => Err(Refusal::invalid(claim, "empty text", NAME)),
                None if self.needs_user => {
                    let accepted =
                        "the user's id (`claims.user_id`; `subject: optional` accepts tokens without a user)";
                    Err(Refusal::missing(&joined(paths), accepted))
                }
                None => Ok(()),
            },
        }
    }

    /// Whom claims name that can be revoked.
    pub(super) fn named(&self, claims: &ClaimSet) -> Result<Named, Refusal> {
        let first = |paths: &[ClaimPath]| {
            let found = paths.iter().find_map(|path| Some((path.as_str(), path.find(claims)?)));
            found.map_or(Ok(None), |(claim, value)| name(claim, Some(value)))
        };
        Ok(Named {
            tenant: self.issuer.tenant_of(claims)?,
            user: first(&self.claim_names.user_id)?,
            session: first(&self.claim_names.session_id)?,
            client: first(&self.claim_names.client_id)?,
            actors: Actor::chain(claims)?,
        })
    }

    pub(super) fn targets(&self, named: &Named) -> impl Iterator<Item = Target> {
        // Users of several tenants may have one id. What does not say whose it is names nobody.
        let tenant = named.tenant.as_deref();
        let is_known = tenant.is_some() || !self.issuer.is_multi_tenant();
        let user = named.user.as_deref().filter(|_| is_known).map(|user| user_of_tenant(tenant, user));
        let actors: Vec<_> = named.actors.iter().flat_map(Actor::ids).map(|id| (Kind::Actor, id.to_owned())).collect();
        let named = [(Kind::Session, named.session.clone()), (Kind::User, user), (Kind::Client, named.client.clone())];
        let named = named.into_iter().filter_map(|(kind, id)| Some((kind, id?))).chain(actors);
        named.flat_map(move |(kind, id)| self.readings(kind, &id).collect::<Vec<_>>())
    }

    /// What a claim names: by its text under the name of today first, then by the digest that the text may be the
    /// writing of, and under former names.
    fn readings(&self, kind: Kind, claim: &str) -> impl Iterator<Item = Target> {
        let ids = [Some(TargetId::new(claim)), TargetId::written_digest(claim)];
        let under = move |name: &IssuerName| {
            let (name, ids) = (name.clone(), ids.clone());
            ids.into_iter().flatten().map(move |id| Target::new(name.clone(), kind, id))
        };
        self.names().flat_map(under)
    }

    /// The names under which revocations of its tokens may stand, that of today first.
    pub fn names(&self) -> impl Iterator<Item = &IssuerName> {
        [&self.name].into_iter().chain(&self.formerly)
    }

    /// The instant of a revocation that names none: the later of the wall clocks, and how far tokens of the target
    /// may be dated ahead of it.
    ///
    /// For a user that is what this issuer's tokens were seen to lead by at any instance, at least [`Lead::LEAST`]; for
    /// a client or the whole issuer, which sign nobody in again a moment later, it is at least the leeway. Clocks
    /// that are further apart than the leeway are refused: one of them would stamp an instant that covers too little.
    pub fn instant(&self, kind: Kind, clocks: Clocks) -> Result<Timestamp, Denial> {
        let most = self.leeway.max(Lead::LEAST);
        if clocks.skew() > most {
            return Err(Denial::ClockSkew);
        }
        let lead = match kind {
            Kind::User => self.least_lead(),
            _ => most.max(self.lead.seen()),
        };
        Ok(clocks.latest().plus(lead))
    }

    /// How far the tokens of a user may be dated ahead of a clock that is not the issuer's own.
    pub(super) fn least_lead(&self) -> Duration {
        self.lead.seen().max(Lead::LEAST)
    }

    /// The revocation that signs out a token, its session or its user; of a token that names no session or no
    /// user, the token alone. Also of a token that has expired by these clocks: another instance may accept it.
    pub fn sign_out(&self, token: &VerifiedToken, scope: Kind, clocks: Clocks) -> Result<Option<Revocation>, Denial> {
        let named = |kind| token.targets().iter().find(|target| target.kind == kind);
        let Some(target) = named(scope).or_else(|| named(Kind::Token)).cloned() else { return Ok(None) };
        // An issuer whose clock runs ahead may have dated this very token later than now; it lives by its date.
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
}

impl VerifiedToken {
    #[must_use]
    pub fn issuer(&self) -> &IssuerName {
        &self.0.issuer
    }

    /// The `kid` of the key that verified it.
    #[must_use]
    pub fn key_id(&self) -> Option<&str> {
        self.0.key_id.as_deref()
    }

    /// The key that verified it; `None`: its issuer vouched for it.
    #[must_use]
    pub fn key(&self) -> Option<KeyDigest> {
        self.0.key
    }

    #[must_use]
    pub fn claims(&self) -> &ClaimSet {
        &self.0.claims
    }

    #[must_use]
    pub fn issued_at(&self) -> Option<Timestamp> {
        self.0.times.issued_at
    }

    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.0.times.expires_at
    }

    /// `jti`, or `sha256:` and the digest of the signing input.
    #[must_use]
    pub fn token_id(&self) -> &str {
        &self.0.token_id
    }

    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.0.user_id.as_deref()
    }

    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        self.0.session_id.as_deref()
    }

    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.0.client_id.as_deref()
    }

    #[must_use]
    pub fn email(&self) -> Option<&str> {
        self.0.email.as_deref()
    }

    /// Who acts for the user, the current actor first; empty for a token without `act`.
    pub fn actors(&self) -> impl Iterator<Item = &str> {
        self.0.actors.iter().map(|actor| &**actor)
    }

    /// Who acts for the user now.
    #[must_use]
    pub fn actor(&self) -> Option<&str> {
        self.actors().next()
    }

    /// What its sender must prove to hold; `None`: whoever has it may use it.
    #[must_use]
    pub fn confirmation(&self) -> Option<&Confirmation> {
        self.0.confirmation.as_deref()
    }

    /// This token, bound as its issuer says that it is.
    #[must_use]
    pub(super) fn bound_by(self, confirmation: Confirmation) -> Self {
        let mut facts = Arc::unwrap_or_clone(self.0);
        facts.confirmation = Some(Box::new(confirmation));
        Self(Arc::new(facts))
    }

    /// This token, refused by the revocation of these as well.
    #[must_use]
    pub(super) fn also_targeted_by(self, targets: impl Iterator<Item = Target>) -> Self {
        let more: Vec<_> = targets.filter(|target| !self.0.targets.contains(target)).collect();
        if more.is_empty() {
            return self;
        }
        let mut facts = Arc::unwrap_or_clone(self.0);
        facts.targets = facts.targets.into_iter().chain(more).collect();
        Self(Arc::new(facts))
    }

    /// The encoding of this token for `maker`; `None` if it was made for another.
    pub(super) fn kept(&self, maker: &Arc<Encoded<Vec<String>>>, make: impl FnOnce() -> Box<[u8]>) -> Option<&[u8]> {
        self.0.kept.get_or_make(maker, make)
    }

    /// How much memory it takes at most, so that a cache can be bounded.
    #[must_use]
    pub(super) fn bytes(&self) -> usize {
        let facts = &*self.0;
        // Made later: two headers and the metadata, whose values are of the claims, and whose stream it is.
        let kept = 512 + facts.claims.json_len();
        let named = [&facts.key_id, &facts.user_id, &facts.session_id, &facts.client_id, &facts.email];
        let named: usize = named.into_iter().flatten().map(|name| allocated(name.len())).sum();
        let ids: usize = facts.targets.iter().map(|target| allocated(target.id.bytes())).sum();
        let targets = size_of_val(&*facts.targets);
        let rest = [size_of::<Facts>(), facts.token_id.len(), targets, facts.claims.bytes(), kept].map(allocated);
        let confirmation = facts.confirmation.as_ref().map_or(0, |confirmation| allocated(confirmation.bytes()));
        let actors = facts.actors.iter().map(|actor| allocated(actor.len()) + size_of::<Box<str>>()).sum::<usize>();
        named + ids + actors + confirmation + rest.iter().sum::<usize>()
    }

    /// What registers this token, where only registered ones are accepted.
    #[must_use]
    pub fn registration(&self) -> Option<Target> {
        self.registrations().next()
    }

    /// As [`Self::registration`], under former names of the issuer and by both readings of an id, too.
    pub fn registrations(&self) -> impl Iterator<Item = Target> {
        let tokens = self.targets().iter().filter(|target| target.kind == Kind::Token);
        tokens.map(|target| Target::registration(target.issuer.clone(), target.id.clone()))
    }

    /// Everything whose revocation refuses this token.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.0.targets
    }
}

/// What the allocator takes for so many bytes, at most: its sizes lie an eighth apart.
pub(super) const fn allocated(bytes: usize) -> usize {
    (bytes + bytes / 8).next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer_id::Spelling;
    use crate::revocation::LONGEST_LEEWAY;
    use proptest::prelude::*;
    use serde_json::json;

    fn issuer(leeway: u64, max_lifetime: u64) -> TrustedIssuer {
        let path = |name: &str| vec![ClaimPath::new(name)];
        TrustedIssuer {
            name: IssuerName::parse("main").unwrap(),
            formerly: Vec::new(),
            issuer: IssuerId::new(vec![Spelling::Exact("https://idp".into())]),
            needs_user: true,
            audiences: Audiences::Any,
            algorithms: vec![Algorithm::ES256],
            token_types: TokenTypes::new(&[]).unwrap(),
            accepts_id_tokens: false,
            leeway: Duration::from_millis(leeway),
            expiry_leeway: Duration::from_millis(leeway),
            max_lifetime: Duration::from_millis(max_lifetime),
            claim_names: ClaimNames {
                user_id: path("sub"),
                email: path("email"),
                session_id: path("sid"),
                client_id: path("azp"),
                audience: path("aud"),
            },
            proof: ProofUse::Verify,
            dpop: DpopPolicy {
                window: Duration::from_secs(60),
                nonce: false,
                replay: super::super::dpop::ReplayPolicy::Local,
            },
            logout: LogoutPolicy { audiences: Audiences::Any, always_user: false },
            revocable_by_email: false,
            lead: Lead::default(),
            seen: Seen::default(),
            revocable_by_text: false,
            keys: None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever a revocation hits when it is made is refused until nobody would accept it anyway.
        #[test]
        fn retention_outlasts_every_token_that_the_revocation_hits(
            leeway in 0..90_u64, lifetime in 1..600_u64, iat in prop::option::of(0..1000_u32), exp in 0..2000_u32,
            revoked_at in 0..1_200_000_i64, later in 0..900_000_u64, kind in 0..3_usize,
        ) {
            let (issuer, kind) = (issuer(leeway * 500, lifetime * 1000), [Kind::Token, Kind::Session, Kind::User][kind]);
            let mut claims = json!({"sub": "u", "sid": "s", "jti": "j", "exp": exp});
            if let Some(iat) = iat {
                claims["iat"] = json!(f64::from(iat) / 1.5);
            }
            let claims = ClaimSet::from(claims);
            let revoked_at = Timestamp::from_millis(revoked_at);
            let times = Times::read(&claims).unwrap();
            if issuer.check_times(times, revoked_at, Expiry::Refused).is_err() {
                return Ok(());
            }
            let token = issuer.identify(claims, || unreachable!(), None, None, times).unwrap();
            let revocation = issuer.sign_out(&token, kind, Clocks::local(revoked_at)).unwrap().expect("it is alive");
            prop_assert!(revocation.watermark.covers(times.issued_at));
            for forgotten in [revocation.expires_at, revocation.expires_at.plus(Duration::from_millis(later))] {
                prop_assert!(issuer.check_times(times, forgotten, Expiry::Refused).is_err(), "accepted at {forgotten:?}");
            }
        }
    }

    #[test]
    fn an_instant_covers_what_the_issuer_dates_ahead() {
        let issuer = issuer(30_000, 3_600_000);
        let (local, seconds) = (Timestamp::from_secs(1_000), Duration::from_secs);
        let clocks = |store| Clocks { local, store: Some(Timestamp::from_secs(store)) };
        let lead = |kind, clocks| issuer.instant(kind, clocks).map(|instant| instant.since(local));
        assert_eq!(lead(Kind::User, Clocks::local(local)), Ok(seconds(1)));
        assert_eq!(lead(Kind::Client, Clocks::local(local)), Ok(seconds(30)));
        assert_eq!(lead(Kind::Issuer, Clocks::local(local)), Ok(seconds(30)));
        issuer.lead.observe(Some(Timestamp::from_secs(990)), local);
        issuer.lead.observe(None, local);
        assert_eq!(lead(Kind::User, clocks(1_000)), Ok(seconds(1)), "tokens of the past lead by nothing");
        issuer.lead.observe(Some(Timestamp::from_secs(1_007)), local);
        assert_eq!(lead(Kind::User, clocks(1_000)), Ok(seconds(7)));
        assert_eq!(lead(Kind::User, clocks(980)), Ok(seconds(7)), "the later of the clocks counts");
        assert_eq!(lead(Kind::User, clocks(1_020)), Ok(seconds(27)));
        assert_eq!(lead(Kind::User, clocks(1_031)), Err(Denial::ClockSkew));
        assert_eq!(lead(Kind::Issuer, clocks(969)), Err(Denial::ClockSkew));
        issuer.lead.raise(seconds(60));
        assert_eq!(lead(Kind::User, clocks(1_000)), Ok(seconds(60)), "an instance with a longer leeway has seen it");
        assert_eq!(lead(Kind::Client, clocks(1_000)), Ok(seconds(60)));
        issuer.lead.raise(seconds(86_400));
        assert_eq!(lead(Kind::User, clocks(1_000)), Ok(LONGEST_LEEWAY), "no leeway is longer");
        let measured = Lead::default();
        measured.note_local_ahead(seconds(25));
        measured.observe(Some(Timestamp::from_secs(995)), local);
        assert_eq!(measured.seen(), seconds(20), "by the earlier clock");
    }
}
