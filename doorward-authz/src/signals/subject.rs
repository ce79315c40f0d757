//! Subject identifiers (RFC 9493; SSF 1.0 section 3): the subject of a message, as targets of an issuer.

use serde_json::{Map, Value};

use super::Transmitter;
use super::event::Effect;
use crate::claims::Timestamp;
use crate::refusal::Refusal;
use crate::revocation::{Kind, Revocation, Target, TargetId};
use crate::token::{TrustedIssuer, name};

/// The supported formats of names; `jwt_id`, and formats that combine other names, are always supported.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SubjectFormats {
    pub iss_sub: bool,
    pub opaque: bool,
    pub email: bool,
}

/// Why a subject has no target.
#[derive(Debug)]
pub enum Unmapped {
    /// The subject has no name that can be mapped to tokens.
    Nobody,
    /// The subject names a user of the issuer, but not by the claims of its tokens.
    NamedOtherwise(Refusal),
}

/// The issuers whose subject names a message may use.
struct Namer<'a> {
    formats: SubjectFormats,
    /// The sender's `iss`, if the message may name a subject of the sender as well as of the target.
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
    /// A bare name of a session may also be a user's: in CAEP's own examples an opaque subject of
    /// `session-revoked` is either.
    Either,
}

/// The targets of a subject.
#[derive(Default)]
struct Found {
    targets: Vec<Target>,
    /// Why the named user is not among them.
    refusal: Option<Refusal>,
}

impl Found {
    fn targets(self) -> Result<Vec<Target>, Unmapped> {
        if self.targets.is_empty() {
            return Err(self.refusal.map_or(Unmapped::Nobody, Unmapped::NamedOtherwise));
        }
        Ok(self.targets)
    }

    fn take(&mut self, named: Option<Result<Target, Refusal>>) {
        match named {
            Some(Ok(target)) => self.targets.push(target),
            Some(Err(refusal)) => {
                self.refusal.get_or_insert(refusal);
            }
            None => {}
        }
    }
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
        let targets = namer.targets(effect, subject.as_object().ok_or(Unmapped::Nobody)?)?;
        Ok(targets.into_iter().map(|named| revocation(target, named, instant, now)).collect())
    }

    /// The user of a revocation request.
    pub fn user(&self, subject: &Map<String, Value>, target: &TrustedIssuer) -> Result<Vec<Target>, Unmapped> {
        let namer = Namer { formats: self.subjects, sender: Some(&self.issuer), target };
        namer.targets(Effect::User, subject)
    }
}

/// The user of an operator's request.
pub fn user_targets(subject: &Map<String, Value>, target: &TrustedIssuer) -> Result<Vec<Target>, Unmapped> {
    let formats = SubjectFormats { iss_sub: true, opaque: true, email: target.revocable_by_email };
    Namer { formats, sender: None, target }.targets(Effect::User, subject)
}

fn revocation(issuer: &TrustedIssuer, target: Target, instant: Timestamp, now: Timestamp) -> Revocation {
    match target.kind {
        Kind::User | Kind::Actor => issuer.closing_user(target, instant),
        _ => issuer.closing_session(target, now),
    }
}

impl Namer<'_> {
    fn targets(&self, effect: Effect, subject: &Map<String, Value>) -> Result<Vec<Target>, Unmapped> {
        let mut found = Found::default();
        if !is_complex(subject) {
            let role = if effect == Effect::Session { Role::Either } else { Role::User };
            self.find(subject, role, &mut found);
            return found.targets();
        }
        let mut member = |name: &str, role| {
            if let Some(Value::Object(named)) = subject.get(name) {
                self.find(named, role, &mut found);
            }
            found.targets.is_empty()
        };
        // A device or a tenant beside the user would restrict the subject to some of the user's
        // sessions, which cannot be recognised in a token.
        if effect != Effect::Session || member("session", Role::Session) {
            member("user", Role::User);
        }
        // Beside a user, an application would be restricted to that user.
        if !["session", "user"].iter().any(|name| subject.contains_key(*name)) {
            member("application", Role::Actor);
        }
        found.targets()
    }

    /// Finds the targets of one name, or of all its aliases.
    fn find(&self, subject: &Map<String, Value>, role: Role, found: &mut Found) {
        let text = |name: &str| subject.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let named = |member: &str| name(member, subject.get(member).cloned()).ok().flatten();
        let format = text("format").or_else(|| text("subject_type")).unwrap_or_default().replace('-', "_");
        let issuer = || text("iss").and_then(|iss| self.target.issuer.name(iss));
        let ours = || issuer().is_some() || text("iss").is_some_and(|iss| self.sender == Some(iss));
        let target = |kind, id: &str| Target::new(self.target.name.clone(), kind, TargetId::new(id));
        let user = |id: &str| {
            let tenant = issuer().and_then(|named| named.tenant);
            self.target.user_by_sub(tenant, id).map(|user| target(Kind::User, &user))
        };
        // Subjects with their own id, instead of the claim that names a user.
        let direct = match role {
            Role::Session => Some(Kind::Session),
            Role::Actor => Some(Kind::Actor),
            Role::User | Role::Either => None,
        };
        let by_id = |id: String| direct.map_or_else(|| user(&id), |kind| Ok(target(kind, &id)));
        match (format.as_str(), role) {
            ("iss_sub", _) if self.formats.iss_sub && ours() => found.take(named("sub").map(by_id)),
            ("opaque", Role::Either) if self.formats.opaque => {
                let Some(id) = named("id") else { return };
                found.targets.push(target(Kind::Session, &id));
                found.targets.extend(user(&id).ok());
            }
            ("opaque", _) if self.formats.opaque => found.take(named("id").map(by_id)),
            ("email", Role::User | Role::Either) if self.formats.email => {
                let email = text("email").map(|address| Target::email(self.target.name.clone(), address));
                found.targets.extend(email);
            }
            ("jwt_id", _) if ours() => found.targets.extend(named("jti").map(|jti| target(Kind::Token, &jti))),
            ("aliases", _) => {
                let names = subject.get("identifiers").and_then(Value::as_array).into_iter().flatten();
                let names = names.filter_map(Value::as_object);
                // Aliases of aliases are forbidden (RFC 9493 section 3.2.8).
                let names = names.filter(|name| name.get("format").and_then(Value::as_str) != Some("aliases"));
                names.for_each(|name| self.find(name, role, found));
            }
            _ => {}
        }
    }
}

/// A subject that combines others.
fn is_complex(subject: &Map<String, Value>) -> bool {
    match subject.get("format") {
        None => !subject.contains_key("subject_type"),
        Some(format) => format == "complex",
    }
}
