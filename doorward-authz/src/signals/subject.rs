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
#[expect(clippy::struct_excessive_bools, reason = "one for each format")]
pub struct SubjectFormats {
    pub iss_sub: bool,
    pub opaque: bool,
    pub email: bool,
    pub scim: bool,
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
    /// A user was named by another name than an email address.
    by_name: bool,
    /// Why the named user is not among them.
    refusal: Option<Refusal>,
}

impl Found {
    fn add(&mut self, target: Target) {
        self.by_name = true;
        self.targets.push(target);
    }

    /// The targets, if there are any.
    fn checked(self) -> Result<Self, Unmapped> {
        if self.targets.is_empty() {
            return Err(self.refusal.map_or(Unmapped::Nobody, Unmapped::NamedOtherwise));
        }
        Ok(self)
    }

    fn take(&mut self, named: Option<Result<Target, Refusal>>) {
        match named {
            Some(Ok(target)) => self.add(target),
            Some(Err(refusal)) => {
                self.refusal.get_or_insert(refusal);
            }
            None => {}
        }
    }
}

impl Transmitter {
    /// The revocations of an event about a subject, and whether the subject is named by email addresses alone.
    pub(super) fn revocations(
        &self,
        effect: Effect,
        subject: &Value,
        target: &TrustedIssuer,
        instant: Timestamp,
        now: Timestamp,
    ) -> Result<(Vec<Revocation>, bool), Unmapped> {
        let namer = Namer { formats: self.subjects, sender: Some(&self.issuer), target };
        let Found { targets, by_name, .. } = namer.find_all(effect, subject.as_object().ok_or(Unmapped::Nobody)?)?;
        let revocations = targets.into_iter().map(|named| revocation(target, named, instant, now)).collect();
        Ok((revocations, !by_name))
    }

    /// The user of a revocation request.
    pub fn user(&self, subject: &Map<String, Value>, target: &TrustedIssuer) -> Result<Vec<Target>, Unmapped> {
        let namer = Namer { formats: self.subjects, sender: Some(&self.issuer), target };
        Ok(namer.find_all(Effect::User, subject)?.targets)
    }
}

/// The user of an operator's request.
pub fn user_targets(subject: &Map<String, Value>, target: &TrustedIssuer) -> Result<Vec<Target>, Unmapped> {
    let formats = SubjectFormats { iss_sub: true, opaque: true, email: target.revocable_by_email, scim: false };
    Ok(Namer { formats, sender: None, target }.find_all(Effect::User, subject)?.targets)
}

fn revocation(issuer: &TrustedIssuer, target: Target, instant: Timestamp, now: Timestamp) -> Revocation {
    match target.kind {
        Kind::User | Kind::Actor => issuer.closing_user(target, instant),
        _ => issuer.closing_session(target, now),
    }
}

impl Namer<'_> {
    fn find_all(&self, effect: Effect, subject: &Map<String, Value>) -> Result<Found, Unmapped> {
        let mut found = Found::default();
        if !is_complex(subject) {
            let role = if effect == Effect::Session { Role::Either } else { Role::User };
            self.find(subject, role, &mut found);
            return found.checked();
        }
        let mut member = |name: &str, role| {
            if let Some(Value::Object(named)) = subject.get(name) {
                self.find(named, role, &mut found);
            }
            found.targets.is_empty()
        };
        // A device or a tenant beside the user would restrict the subject to some of the user's
        // sessions, which cannot be recognised in a token.
        let by_session = effect == Effect::Session && !self.means_all_sessions(subject);
        if !by_session || member("session", Role::Session) {
            member("user", Role::User);
        }
        // Beside a user, an application would be restricted to that user.
        if !["session", "user"].iter().any(|name| has(subject, name)) {
            member("application", Role::Actor);
        }
        found.checked()
    }

    /// Whether a subject with a user and a session stands for all sessions of the user: Keycloak 26 writes the session
    /// `ALL` when an administrator signs a user out. The tokens of an issuer with `scope: user` name no session.
    fn means_all_sessions(&self, subject: &Map<String, Value>) -> bool {
        let session = subject.get("session").and_then(|session| session.get("id")).and_then(Value::as_str);
        has(subject, "user") && (self.target.logout.always_user || session == Some("ALL"))
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
                found.add(target(Kind::Session, &id));
                found.targets.extend(user(&id).ok());
            }
            ("opaque", _) if self.formats.opaque => found.take(named("id").map(by_id)),
            ("email", Role::User | Role::Either) if self.formats.email => {
                let email = text("email").map(|address| Target::email(self.target.name.clone(), address));
                found.targets.extend(email);
            }
            ("jwt_id", _) if ours() => {
                if let Some(jti) = named("jti") {
                    found.add(target(Kind::Token, &jti));
                }
            }
            // RFC 9967 section 2.1: `uri` has the id at the SCIM service, `externalId` that of its client. Either may
            // be the issuer's name of the user; the other is nobody's.
            ("scim", Role::User | Role::Either) if self.formats.scim => {
                let ids = [text("uri").and_then(scim_user), text("externalId")];
                ids.into_iter().flatten().for_each(|id| found.take(Some(user(id))));
            }
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

/// The id in the URI of a SCIM user (RFC 7644 section 3.2): the segment after `Users`.
fn scim_user(uri: &str) -> Option<&str> {
    let (before, id) = uri.rsplit_once('/')?;
    let is_plain = !id.is_empty() && !id.contains(['%', '?', '#']);
    (is_plain && before.rsplit('/').next() == Some("Users")).then_some(id)
}

/// Whether a member is there; `null` is an absent one.
fn has(subject: &Map<String, Value>, name: &str) -> bool {
    subject.get(name).is_some_and(|member| !member.is_null())
}

/// A subject that combines others.
fn is_complex(subject: &Map<String, Value>) -> bool {
    if has(subject, "format") { subject["format"] == "complex" } else { !has(subject, "subject_type") }
}
