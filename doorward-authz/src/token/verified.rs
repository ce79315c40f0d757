//! A token whose form, signature and times are right.

use std::sync::Arc;

use super::times::Times;
use crate::claims::{ClaimSet, HeldText, IssuerName, Timestamp};
use crate::confirmation::Confirmation;
use crate::encoded::{Cached, Encoded};
use crate::jwks::KeyDigest;
use crate::revocation::{Kind, Target};
use crate::status_list::StatusReference;

/// A token that an issuer we trust signed for us, or vouched for when asked, in form and in time.
///
/// Only [`super::TrustedIssuer::verify`] and [`super::TrustedIssuer::vouch`] return one; it may be revoked. Clones
/// share its facts.
#[derive(Clone, Debug)]
pub struct VerifiedToken(Arc<Facts>);

#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) issuer: IssuerName,
    pub(super) key_id: Option<Arc<str>>,
    pub(super) key: Option<KeyDigest>,
    /// Also holds the names below.
    pub(super) claims: ClaimSet,
    pub(super) times: Times,
    pub(super) token_id: HeldText,
    pub(super) user_id: Option<HeldText>,
    pub(super) session_id: Option<HeldText>,
    pub(super) client_id: Option<HeldText>,
    pub(super) email: Option<HeldText>,
    /// The current one first.
    pub(super) actors: Box<[Box<str>]>,
    /// Whether the current one is named by another issuer.
    pub(super) is_actor_foreign: bool,
    pub(super) confirmation: Option<Box<Confirmation>>,
    pub(super) status: Option<Box<StatusReference>>,
    pub(super) targets: Box<[Target]>,
    pub(super) kept: Cached<Encoded<Vec<String>>>,
}

impl VerifiedToken {
    pub(super) fn new(facts: Facts) -> Self {
        Self(Arc::new(facts))
    }

    pub(super) fn times(&self) -> Times {
        self.0.times
    }

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

    fn held(&self, name: Option<HeldText>) -> Option<&str> {
        name.map(|name| self.0.claims.held(name))
    }

    /// `jti`, or `sha256:` and the digest of the signing input.
    #[must_use]
    pub fn token_id(&self) -> &str {
        self.0.claims.held(self.0.token_id)
    }

    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.held(self.0.user_id)
    }

    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        self.held(self.0.session_id)
    }

    #[must_use]
    pub fn client_id(&self) -> Option<&str> {
        self.held(self.0.client_id)
    }

    #[must_use]
    pub fn email(&self) -> Option<&str> {
        self.held(self.0.email)
    }

    /// The parties that act for the user, the current one first; empty for a token without `act`.
    pub fn actors(&self) -> impl Iterator<Item = &str> {
        self.0.actors.iter().map(|actor| &**actor)
    }

    /// The party that acts for the user now.
    #[must_use]
    pub fn actor(&self) -> Option<&str> {
        self.actors().next()
    }

    /// The party that acts for the user now, unless `act` names another issuer than the token's: `iss` and `sub` together
    /// may be needed to identify it (RFC 8693 section 4.1), so a bare name gives it no rights.
    #[must_use]
    pub fn own_actor(&self) -> Option<&str> {
        self.actor().filter(|_| !self.0.is_actor_foreign)
    }

    /// The key or certificate that a sender must prove to have; `None`: a bearer token.
    #[must_use]
    pub fn confirmation(&self) -> Option<&Confirmation> {
        self.0.confirmation.as_deref()
    }

    /// The place of its status in a list; `None` for a token without one, or of an issuer whose lists are not read.
    #[must_use]
    pub fn status(&self) -> Option<&StatusReference> {
        self.0.status.as_deref()
    }

    /// This token, bound as its issuer's response requires.
    #[must_use]
    pub(crate) fn bound_by(self, confirmation: Confirmation) -> Self {
        let mut facts = Arc::unwrap_or_clone(self.0);
        facts.confirmation = Some(Box::new(confirmation));
        Self(Arc::new(facts))
    }

    /// This token, refused by the revocation of these as well.
    #[must_use]
    pub(crate) fn also_targeted_by(self, targets: impl Iterator<Item = Target>) -> Self {
        let more: Vec<_> = targets.filter(|target| !self.0.targets.contains(target)).collect();
        if more.is_empty() {
            return self;
        }
        let mut facts = Arc::unwrap_or_clone(self.0);
        facts.targets = facts.targets.into_iter().chain(more).collect();
        Self(Arc::new(facts))
    }

    /// The encoding of this token for `maker`; `None` if it was made for another.
    pub(crate) fn kept(&self, maker: &Arc<Encoded<Vec<String>>>, make: impl FnOnce() -> Box<[u8]>) -> Option<&[u8]> {
        self.0.kept.get_or_make(maker, make)
    }

    /// How much memory it takes at most, so that a cache can be bounded.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        let facts = &*self.0;
        // Allowance for later encodings: two headers and the metadata, whose values come from the claims, and the
        // sealed facts of the stream.
        let kept = 512 + facts.claims.json_len();
        let ids: usize = facts.targets.iter().map(|target| allocated(target.id.bytes())).sum();
        let targets = size_of_val(&*facts.targets);
        let rest = [size_of::<Facts>(), targets, facts.claims.bytes(), kept].map(allocated);
        let confirmation = facts.confirmation.as_ref().map_or(0, |confirmation| allocated(confirmation.bytes()));
        let actors = facts.actors.iter().map(|actor| allocated(actor.len()) + size_of::<Box<str>>()).sum::<usize>();
        let status = facts
            .status
            .as_ref()
            .map_or(0, |status| allocated(size_of::<StatusReference>()) + allocated(status.uri.len() + 16));
        ids + actors + confirmation + status + rest.iter().sum::<usize>()
    }

    /// The target that registers this token, for `list: allow`.
    #[must_use]
    pub fn registration(&self) -> Option<Target> {
        self.registrations().next()
    }

    /// As [`Self::registration`], under former names of the issuer and by both readings of an id, too.
    pub fn registrations(&self) -> impl Iterator<Item = Target> {
        let tokens = self.targets().iter().filter(|target| target.kind == Kind::Token);
        tokens.map(|target| Target::registration(target.issuer.clone(), target.id.clone()))
    }

    /// The targets whose revocation refuses this token.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.0.targets
    }
}

/// The most memory that an allocation of `bytes` takes: the allocator's size classes lie an eighth apart.
pub(crate) const fn allocated(bytes: usize) -> usize {
    (bytes + bytes / 8).next_multiple_of(16)
}
