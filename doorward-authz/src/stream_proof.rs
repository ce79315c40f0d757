//! The sealed facts of a decision about its stream: Check writes them into the dynamic metadata, and the service of
//! the stream trusts only these.
//!
//! Only filters can write Envoy's metadata of `ext_authz`, so no client can. The seal is for the other filters
//! (`header_to_metadata`, Lua, a second `ext_authz`): through them a request could name another user's token,
//! and its stream would live as long as that token. A seal is an HMAC with a secret that the instances on one
//! store share (see the ledger's `proof_secret`).

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::claims::{IssuerName, Timestamp};
use crate::jwks::KeyDigest;
use crate::revocation::{Kind, Target, TargetId};
use crate::status_list::StatusReference;
use crate::token::VerifiedToken;

/// The secret of the instances' seals.
pub type Secret = [u8; 32];

/// The facts on which a stream's end depends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamFacts {
    pub issuer: IssuerName,
    /// The key that verified its token; `None`: verified by introspection.
    pub key: Option<KeyDigest>,
    pub issued_at: Option<Timestamp>,
    pub expires_at: Timestamp,
    /// All targets whose revocation refuses its token, under former names of the issuer as well.
    pub targets: Box<[Target]>,
    /// The place of its token's status.
    pub status: Option<StatusReference>,
}

impl StreamFacts {
    #[must_use]
    pub fn of(token: &VerifiedToken) -> Self {
        Self {
            issuer: token.issuer().clone(),
            key: token.key(),
            issued_at: token.issued_at(),
            expires_at: token.expires_at(),
            targets: token.targets().into(),
            status: token.status().cloned(),
        }
    }
}

/// The subject of the stream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Subject {
    /// The request had no identity: no sign-out ends the stream.
    Anonymous,
    Token(StreamFacts),
}

/// Seals facts, and verifies sealed ones.
#[derive(Debug)]
pub struct Proofs {
    /// The first one seals; the others were used earlier.
    keys: Vec<hmac::Key>,
    anonymous: Box<str>,
    rules: HashMap<Arc<str>, Box<str>>,
}

const TAG: usize = 16;
const SUBJECT: &[u8] = b"doorward stream subject\0";
const RULE: &[u8] = b"doorward stream rule\0";
const ANONYMOUS: u8 = 0;
const TOKEN: u8 = 1;

impl Proofs {
    /// `secrets`: the first one seals; at least one.
    #[must_use]
    pub fn new(secrets: &[Secret], rules: impl IntoIterator<Item = Arc<str>>) -> Self {
        let keys: Vec<_> = secrets.iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)).collect();
        let mut proofs = Self { keys, anonymous: Box::default(), rules: HashMap::new() };
        proofs.anonymous = proofs.sealed(vec![ANONYMOUS]).into();
        proofs.rules = rules
            .into_iter()
            .map(|name| {
                let tag = proofs.tag(RULE, name.as_bytes());
                (name, URL_SAFE_NO_PAD.encode(tag).into())
            })
            .collect();
        proofs
    }

    /// The subject of a stream with an identity.
    #[must_use]
    pub fn subject(&self, token: &VerifiedToken) -> String {
        self.sealed(StreamFacts::of(token).write())
    }

    /// The subject of a stream without an identity.
    #[must_use]
    pub fn anonymous(&self) -> &str {
        &self.anonymous
    }

    /// The proof that this rule decided.
    #[must_use]
    pub fn rule(&self, name: &str) -> Option<&str> {
        self.rules.get(name).map(|proof| &**proof)
    }

    /// The sealed facts; `None` if the seal is missing or does not match one of these secrets.
    #[must_use]
    pub fn read(&self, subject: &str, rule: &str, rule_proof: &str) -> Option<Subject> {
        let tag = URL_SAFE_NO_PAD.decode(rule_proof).ok()?;
        let subject = URL_SAFE_NO_PAD.decode(subject).ok()?;
        let (written, subject_tag) = subject.split_last_chunk::<TAG>()?;
        let key = self.keys.iter().find(|key| verifies(key, SUBJECT, written, subject_tag))?;
        if !verifies(key, RULE, rule.as_bytes(), &tag) {
            return None;
        }
        match written {
            [ANONYMOUS] => Some(Subject::Anonymous),
            [TOKEN, facts @ ..] => StreamFacts::read(facts).map(Subject::Token),
            _ => None,
        }
    }

    fn sealed(&self, mut written: Vec<u8>) -> String {
        let tag = self.tag(SUBJECT, &written);
        written.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(written)
    }

    fn tag(&self, domain: &[u8], text: &[u8]) -> Vec<u8> {
        self.keys.first().map(|key| tag(key, domain, text)[..TAG].to_vec()).unwrap_or_default()
    }
}

fn tag(key: &hmac::Key, domain: &[u8], text: &[u8]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    context.update(domain);
    context.update(text);
    let mut whole = [0; 32];
    whole.copy_from_slice(context.sign().as_ref());
    whole
}

fn verifies(key: &hmac::Key, domain: &[u8], text: &[u8], given: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    given.len() == TAG && bool::from(tag(key, domain, text)[..TAG].ct_eq(given))
}

/// Instead of a kind: the place of a status follows. Not a possible kind.
const STATUS: u8 = u8::MAX;

/// Not a possible time of a token.
const NEVER: i64 = i64::MIN;

impl StreamFacts {
    fn write(&self) -> Vec<u8> {
        let mut written = vec![TOKEN];
        piece(&mut written, self.issuer.as_str().as_bytes());
        piece(&mut written, self.key.as_ref().map_or(&[], |key| key));
        written.extend(self.issued_at.map_or(NEVER, Timestamp::as_millis).to_be_bytes());
        written.extend(self.expires_at.as_millis().to_be_bytes());
        for target in &self.targets {
            // Mostly it is the issuer's present name, which is encoded already.
            let name = if target.issuer == self.issuer { "" } else { target.issuer.as_str() };
            piece(&mut written, name.as_bytes());
            written.push(target.kind as u8);
            piece(&mut written, target.id.held());
        }
        if let Some(status) = &self.status {
            piece(&mut written, &[]);
            written.push(STATUS);
            piece(&mut written, status.uri.as_bytes());
            piece(&mut written, &status.index.to_be_bytes());
        }
        written
    }

    fn read(mut rest: &[u8]) -> Option<Self> {
        let issuer = IssuerName::parse(std::str::from_utf8(take(&mut rest)?).ok()?)?;
        let key = match take(&mut rest)? {
            [] => None,
            key => Some(key.try_into().ok()?),
        };
        let (issued_at, after) = rest.split_first_chunk::<8>()?;
        let (expires_at, after) = after.split_first_chunk::<8>()?;
        rest = after;
        let (mut targets, mut status) = (Vec::new(), None);
        while !rest.is_empty() {
            let issuer = match take(&mut rest)? {
                [] => issuer.clone(),
                name => IssuerName::parse(std::str::from_utf8(name).ok()?)?,
            };
            let (kind, after) = rest.split_first()?;
            rest = after;
            if *kind == STATUS {
                let uri = std::str::from_utf8(take(&mut rest)?).ok()?.into();
                let index = u32::from_be_bytes(take(&mut rest)?.try_into().ok()?);
                status = Some(StatusReference { uri, index });
                continue;
            }
            let kind = Kind::ALL.into_iter().find(|known| *known as u8 == *kind)?;
            let id = TargetId::from_held(take(&mut rest)?)?;
            targets.push(Target::new(issuer, kind, id));
        }
        let issued_at = Some(i64::from_be_bytes(*issued_at)).filter(|at| *at != NEVER).map(Timestamp::from_millis);
        let expires_at = Timestamp::from_millis(i64::from_be_bytes(*expires_at));
        Some(Self { issuer, key, issued_at, expires_at, targets: targets.into(), status })
    }
}

/// A piece of at most 255 bytes with its length before it; names and ids are shorter.
fn piece(written: &mut Vec<u8>, bytes: &[u8]) {
    let length = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
    written.push(length);
    written.extend_from_slice(&bytes[..usize::from(length)]);
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first()?;
    let (piece, after) = after.split_at_checked(usize::from(*length))?;
    *rest = after;
    Some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_back_and_only_complete() {
        let issuer = IssuerName::parse("main").unwrap();
        let ids = ["jti", "0f8fad5b-d9cb-469f-a165-70867728950e", "a:b", &"x".repeat(128)];
        let targets =
            Kind::ALL.into_iter().zip(ids).map(|(kind, id)| Target::new(issuer.clone(), kind, TargetId::new(id)));
        let former = Target::new(IssuerName::parse("before").unwrap(), Kind::User, TargetId::new("ann"));
        let facts = StreamFacts {
            issuer: issuer.clone(),
            key: Some([7; 16]),
            issued_at: None,
            expires_at: Timestamp::from_millis(1_700_000_000_123),
            targets: targets.chain([former]).collect(),
            status: Some(StatusReference { uri: "https://idp.test/1".into(), index: 70_000 }),
        };
        let proofs = Proofs::new(&[[1; 32], [2; 32]], ["default".into()]);
        let plain = StreamFacts { status: None, ..facts.clone() };
        assert_eq!(StreamFacts::read(&plain.write()[1..]), Some(plain));
        let sealed = proofs.sealed(facts.write());
        let rule = proofs.rule("default").unwrap();
        assert_eq!(proofs.read(&sealed, "default", rule), Some(Subject::Token(facts)));
        assert_eq!(proofs.read(proofs.anonymous(), "default", rule), Some(Subject::Anonymous));
        assert_eq!(proofs.read(&sealed, "other", rule), None);
        for at in 0..sealed.len() {
            assert_eq!(proofs.read(&sealed[..at], "default", rule), None, "cut off at {at}");
        }
        // A seal of the previous secret is accepted; one of an unknown secret is not.
        let before = Proofs::new(&[[2; 32]], ["default".into()]);
        assert!(proofs.read(before.anonymous(), "default", before.rule("default").unwrap()).is_some());
        assert!(proofs.read(before.anonymous(), "default", rule).is_none(), "both by one secret");
        assert!(before.read(&sealed, "default", rule).is_none());
    }
}
