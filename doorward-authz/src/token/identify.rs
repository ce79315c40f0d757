//! The identity that a token names, and the targets that revoke it.

use serde_json::Value;

use super::reading::{NAME, joined, name, text};
use super::times::Times;
use super::verified::Facts;
use super::{TrustedIssuer, VerifiedToken};
use crate::actor::Actor;
use crate::claims::{self, ClaimPath, ClaimSet, IssuerName};
use crate::confirmation::Confirmation;
use crate::encoded::Cached;
use crate::issuer_id::user_of_tenant;
use crate::jwks::Key;
use crate::refusal::Refusal;
use crate::revocation::{Kind, Target, TargetId};
use crate::status_list::StatusReference;

/// The user, the session and the client that a token names.
pub(crate) struct Named {
    pub(crate) tenant: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) client: Option<String>,
    pub(crate) actors: Vec<Actor>,
}

impl TrustedIssuer {
    /// `unnamed` names a token that has no `jti`, and `text_digest` every token whose issuer is revocable by it.
    pub(crate) fn identify(
        &self,
        mut claims: ClaimSet,
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
            .and_then(|email| if let Value::String(email) = email { Some(email) } else { None });
        let status = match &self.status_list {
            Some(policy) => StatusReference::read(&claims, policy)?.map(Box::new),
            None => None,
        };
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
        self.add_targets(&named, &mut targets); // Before addresses: a sign-out revokes the first of a kind.
        let address = email.as_deref().filter(|_| self.revocable_by_email);
        targets.extend(
            address.into_iter().flat_map(|address| self.names().map(move |name| Target::email(name.clone(), address))),
        );
        if let Some(id) = key.and_then(Key::id) {
            self.add_readings(Kind::Key, id, &mut targets);
        }
        let named_by_itself = |kind: &Kind| *kind != Kind::Token || has_id;
        let confirmation = Confirmation::read(&claims).map(Box::new);
        if address.is_some() {
            self.seen.note_address();
        }
        self.seen.note(targets.iter().map(|target| target.kind).filter(named_by_itself));
        let token_id = claims.hold(&token_id)?;
        let mut hold = |name: Option<String>| name.map(|name| claims.hold(&name)).transpose();
        Ok(VerifiedToken::new(Facts {
            issuer: self.name.clone(),
            key_id: key.and_then(Key::shared_id),
            key: key.map(Key::digest),
            token_id,
            user_id: hold(named.user)?,
            session_id: hold(named.session)?,
            client_id: hold(named.client)?,
            email: hold(email)?,
            claims,
            times,
            is_actor_foreign: named.actors.first().is_some_and(|actor| actor.is_foreign),
            actors: named.actors.into_iter().map(|actor| actor.id.into()).collect(),
            confirmation,
            status,
            targets: targets.into(),
            kept: Cached::default(),
        }))
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
                // A present claim without a name is an empty text.
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

    /// The revocable identities that claims name.
    pub(crate) fn named(&self, claims: &ClaimSet) -> Result<Named, Refusal> {
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

    /// The targets of these names, each under every name of the issuer.
    pub(crate) fn targets(&self, named: &Named) -> Vec<Target> {
        let mut targets = Vec::new();
        self.add_targets(named, &mut targets);
        targets
    }

    fn add_targets(&self, named: &Named, targets: &mut Vec<Target>) {
        // Users of several tenants may have the same id: without its tenant, an id identifies no user.
        let tenant = named.tenant.as_deref();
        let is_known = tenant.is_some() || !self.issuer.is_multi_tenant();
        let user = named.user.as_deref().filter(|_| is_known).map(|user| user_of_tenant(tenant, user));
        let (session, client) = (named.session.as_deref(), named.client.as_deref());
        let one = [(Kind::Session, session), (Kind::User, user.as_deref()), (Kind::Client, client)];
        let actors = named.actors.iter().flat_map(Actor::ids).map(|id| (Kind::Actor, id));
        for (kind, id) in one.into_iter().filter_map(|(kind, id)| Some((kind, id?))).chain(actors) {
            self.add_readings(kind, id, targets);
        }
    }

    /// Adds the targets of a claim: by its text under the current name first, then by the digest that the text may
    /// denote, and under former names.
    fn add_readings(&self, kind: Kind, claim: &str, targets: &mut Vec<Target>) {
        let digest = TargetId::written_digest(claim);
        for name in self.names() {
            let ids = [Some(TargetId::new(claim)), digest.clone()];
            targets.extend(ids.into_iter().flatten().map(|id| Target::new(name.clone(), kind, id)));
        }
    }

    /// The names under which revocations of its tokens may stand, that of today first.
    pub fn names(&self) -> impl Iterator<Item = &IssuerName> {
        [&self.name].into_iter().chain(&self.formerly)
    }
}
