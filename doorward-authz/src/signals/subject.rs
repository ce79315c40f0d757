//! Subject identifiers (RFC 9493; SSF 1.0 section 3): whom a message means, as targets of an issuer.

use serde_json::{Map, Value};

use super::Transmitter;
use super::event::Effect;
use crate::claims::Timestamp;
use crate::issuer_id::user_of_tenant;
use crate::revocation::{Kind, Revocation, Target, TargetId};
use crate::token::TrustedIssuer;

/// The formats of names that are understood; `jwt_id`, and what is made of other names, always is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SubjectFormats {
    pub iss_sub: bool,
    pub opaque: bool,
    pub email: bool,
}

/// Nobody is named in a way that leads to tokens.
#[derive(Debug)]
pub struct Unmapped;

/// The issuers whose subject names a message may use.
struct Namer<'a> {
    formats: SubjectFormats,
    /// The sender, whose `sub` it may be as well as the target's.
    sender: Option<&'a str>,
    target: &'a TrustedIssuer,
}

/// The meaning of a subject name.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Role {
    User,
    Session,
    /// An application: an agent that acts for users.
    Actor,
}

impl Transmitter {
    /// The revocations of an event about a subject.
    pub(super) fn revocations(
        &self,
        effect: Effect,
        subject: &Value,
        target: &TrustedIssuer,
        instant: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<Revocation>, Unmapped> {
        let namer = Namer { formats: self.subjects, sender: Some(&self.issuer), target };
        let targets = namer.targets(effect, subject.as_object().ok_or(Unmapped)?);
        if targets.is_empty() {
            return Err(Unmapped);
        }
        Ok(targets.into_iter().map(|named| revocation(target, named, instant, now)).collect())
    }

    /// The user that a revocation request names.
    pub fn user(&self, subject: &Map<String, Value>, target: &TrustedIssuer) -> Result<Vec<Target>, Unmapped> {
        let namer = Namer { formats: self.subjects, sender: Some(&self.issuer), target };
        namer.user(subject)
    }
}

/// The user that an operator's request names.
pub fn user_targets(subject: &Map<String, Value>, target: &TrustedIssuer) -> Result<Vec<Target>, Unmapped> {
    let formats = SubjectFormats { iss_sub: true, opaque: true, email: target.revocable_by_email };
    Namer { formats, sender: None, target }.user(subject)
}

fn revocation(issuer: &TrustedIssuer, target: Target, instant: Timestamp, now: Timestamp) -> Revocation {
    match target.kind {
        Kind::User | Kind::Actor => issuer.closing_user(target, instant),
        _ => issuer.closing_session(target, now),
    }
}

impl Namer<'_> {
    fn targets(&self, effect: Effect, subject: &Map<String, Value>) -> Vec<Target> {
        if !is_complex(subject) {
            let session = (effect == Effect::Session).then(|| self.named(subject, Role::Session));
            return session.into_iter().flatten().chain(self.named(subject, Role::User)).collect();
        }
        let member = |name: &str, role| match subject.get(name) {
            Some(Value::Object(named)) => self.named(named, role),
            _ => Vec::new(),
        };
        let session = if effect == Effect::Session { member("session", Role::Session) } else { Vec::new() };
        // A device or a tenant beside the user would mean less than all of the user's sessions; which of
        // them cannot be told from a token.
        let found = if session.is_empty() { member("user", Role::User) } else { session };
        // Beside a user an application would mean less than all that it does.
        let is_alone = !["session", "user"].iter().any(|name| subject.contains_key(*name));
        if found.is_empty() && is_alone { member("application", Role::Actor) } else { found }
    }

    fn user(&self, subject: &Map<String, Value>) -> Result<Vec<Target>, Unmapped> {
        let targets = self.targets(Effect::User, subject);
        if targets.is_empty() { Err(Unmapped) } else { Ok(targets) }
    }

    /// The targets of one name, or of all its aliases. A bare name of a session may as well be a user's: in
    /// CAEP's own examples an opaque subject of `session-revoked` is either.
    fn named(&self, subject: &Map<String, Value>, role: Role) -> Vec<Target> {
        let text = |name: &str| subject.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let format = text("format").or_else(|| text("subject_type")).unwrap_or_default().replace('-', "_");
        let named = || text("iss").and_then(|iss| self.target.issuer.name(iss));
        let ours = || named().is_some() || text("iss").is_some_and(|iss| self.sender == Some(iss));
        let target = |kind, id: &str| vec![Target::new(self.target.name.clone(), kind, TargetId::new(id))];
        let by_name = |id: &str| match role {
            Role::Session => target(Kind::Session, id),
            Role::Actor => target(Kind::Actor, id),
            Role::User if self.target.names_users_by_sub() => {
                let tenant = named().and_then(|named| named.tenant);
                target(Kind::User, &user_of_tenant(tenant, id))
            }
            Role::User => Vec::new(),
        };
        let found = match format.as_str() {
            "iss_sub" if self.formats.iss_sub && ours() => text("sub").map(by_name),
            "opaque" if self.formats.opaque => text("id").map(by_name),
            "email" if self.formats.email && role == Role::User => {
                text("email").map(|address| vec![Target::email(self.target.name.clone(), address)])
            }
            "jwt_id" if ours() => text("jti").map(|jti| target(Kind::Token, jti)),
            "aliases" => subject.get("identifiers").and_then(Value::as_array).map(|names| {
                let names = names.iter().filter_map(Value::as_object);
                // Aliases of aliases are forbidden (RFC 9493 section 3.2.8).
                let names = names.filter(|name| name.get("format").and_then(Value::as_str) != Some("aliases"));
                names.flat_map(|name| self.named(name, role)).collect()
            }),
            _ => None,
        };
        found.unwrap_or_default()
    }
}

/// A subject that is put together of others.
fn is_complex(subject: &Map<String, Value>) -> bool {
    match subject.get("format") {
        None => !subject.contains_key("subject_type"),
        Some(format) => format == "complex",
    }
}
