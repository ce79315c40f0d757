//! DPoP proofs (RFC 9449): a request's sender proves that it has the key to which its token is bound.

mod memory;
mod nonce;

use std::time::Duration;

use aws_lc_rs::digest;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq;

use super::claims::{ClaimSet, Timestamp};
use super::confirmation::Thumbprint;
use super::denial::Denial;
use super::jwks::{ASYMMETRIC, Key, algorithm_name};
use super::refusal::{List, Shown, type_of};
use super::request_uri::normal_uri;
use super::revocation::Forgotten;
use super::token::{BearerToken, UnverifiedToken};
pub use memory::{Spending, SpentProofs};
pub use nonce::Nonces;

/// The field with a proof (RFC 9449 section 4.1), and the scheme of the tokens that need one (section 7.1).
pub const FIELD: &str = "dpop";
pub const SCHEME: &str = "DPoP";
/// The field in which a client is sent a nonce (RFC 9449 section 8.1).
pub const NONCE_FIELD: &str = "dpop-nonce";

/// Whether an issuer's tokens must be proved by their senders.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProofUse {
    /// Bound tokens must be proved, others need not.
    Verify,
    /// Bound tokens must be proved, others are refused.
    Required,
    /// Proofs are ignored here: the upstream checks them.
    Ignore,
}

/// The settings for an issuer's DPoP proofs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DpopPolicy {
    /// The largest distance of a proof's creation from now.
    pub window: Duration,
    /// Whether a proof must have a nonce of Doorward's, which then dates it.
    pub nonce: bool,
    pub replay: ReplayPolicy,
}

/// The place where used proofs are recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReplayPolicy {
    /// In this process: another instance accepts the proof once more.
    Local,
    /// In the store that all instances share; while it cannot be reached, in this process if that is `or_local`.
    Shared { or_local: bool },
}

/// The inputs that a proof is compared with.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    pub token: BearerToken<'a>,
    /// `cnf.jkt` of the token.
    pub key: Thumbprint,
    pub method: &'a str,
    /// In normal form, without its query.
    pub uri: &'a str,
    /// The largest difference of the instances' clocks.
    pub leeway: Duration,
    pub policy: DpopPolicy,
    /// Issues and verifies nonces.
    pub nonces: Option<&'a Nonces>,
    /// The times up to which used proofs may have been forgotten: later than now if the clock was set back.
    pub forgotten: &'a Forgotten,
}

/// A proof of possession that fits its token and its request; whether it was used before is still open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedProof {
    id: ProofId,
    /// The digest of all inputs of its verification except the time.
    seal: [u8; 32],
    /// The time for which it must be remembered.
    pub keep: Duration,
    pub replay: ReplayPolicy,
    /// Whether the client needs a new nonce soon.
    pub wants_nonce: bool,
}

/// The id of a proof: a digest of its key and its `jti`, so that no value of a client shapes a key in the store.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ProofId(Thumbprint);

impl ProofId {
    /// In base64url, 43 characters.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.to_string()
    }

    const fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }
}

/// Why a proof is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum BadProof {
    /// The detail for an operator, in Doorward's own words; values of a client are escaped by [`Shown`].
    Invalid(Box<str>),
    /// The proof has no nonce of Doorward's, or an expired one.
    Nonce,
}

impl VerifiedProof {
    /// The longest proof that is read, in bytes: one with an RSA key of 8192 bits takes half of it.
    pub const MAX_BYTES: usize = 8192;

    /// Checks a proof by RFC 9449 section 4.3, except for replay: a function of its arguments alone.
    pub fn verify(field: &[u8], expected: &Expected<'_>, now: Timestamp) -> Result<Self, BadProof> {
        // Joined repeated fields contain a comma, which a proof does not.
        let bearer = BearerToken::parse(field, Self::MAX_BYTES);
        let parsed = bearer.and_then(UnverifiedToken::parse_with_header);
        let (proof, header) = parsed.map_err(|_| invalid("the proof is not one well-formed signed JWT"))?;
        if proof.header().token_type.as_deref() != Some("dpop+jwt") {
            return Err(invalid("`typ` of the proof is not `dpop+jwt`"));
        }
        let key = verified_key(&proof, &header)?;
        if key != expected.key {
            return Err(invalid("the proof is made with another key than the token is bound to (`cnf.jkt`)"));
        }
        let claims = proof.unverified_claims(); // Its signature is good.
        let text = |name: &str| match claims.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            Some(other) => Err(invalid(format!("`{name}` of the proof is {}; it must be text", type_of(&other)))),
            None => Err(invalid(format!("`{name}` of the proof is missing"))),
        };
        let jti = text("jti")?;
        if text("htm")? != expected.method {
            return Err(invalid("`htm` of the proof differs from the request's method"));
        }
        check_uri(&text("htu")?, expected.uri)?;
        let hash = Thumbprint::of(expected.token.as_str().as_bytes()).to_string();
        if !bool::from(text("ath")?.as_bytes().ct_eq(hash.as_bytes())) {
            return Err(invalid("`ath` of the proof is not the hash of the token"));
        }
        let wants_nonce = check_times(claims, expected, now)?;
        Ok(Self {
            id: ProofId(digest_of(&[key.bytes(), jti.as_bytes()])),
            seal: *seal(field, expected).bytes(),
            keep: expected.policy.window * 2 + expected.leeway,
            replay: expected.policy.replay,
            wants_nonce,
        })
    }

    /// Whether this is the result of [`Self::verify`] for the same input.
    #[must_use]
    pub fn is_of(&self, field: &[u8], expected: &Expected<'_>) -> bool {
        self.seal == *seal(field, expected).bytes()
    }

    #[must_use]
    pub const fn id(&self) -> ProofId {
        self.id
    }
}

/// Checks the signature with the proof's own key, and returns the key's thumbprint (RFC 7638).
fn verified_key(proof: &UnverifiedToken<'_>, header: &ClaimSet) -> Result<Thumbprint, BadProof> {
    let algorithm = proof.algorithm().filter(|algorithm| ASYMMETRIC.contains(algorithm)).ok_or_else(|| {
        let names = ASYMMETRIC.iter().copied().map(algorithm_name);
        invalid(format!("`alg` of the proof is {}; accepted: {}", Shown(&proof.header().algorithm), List(names)))
    })?;
    let jwk = header.get("jwk").ok_or_else(|| invalid("`jwk` of the proof is missing"))?;
    // Refuses private and weak keys, as for an issuer.
    let key =
        Key::from_jwk(&jwk, algorithm).map_err(|cause| invalid(format!("`jwk` of the proof is {}", cause.label())))?;
    if !proof.is_signed_by(&key) {
        return Err(invalid("the proof's signature is not valid"));
    }
    thumbprint(&jwk).ok_or_else(|| invalid("`jwk` of the proof has no thumbprint"))
}

fn thumbprint(jwk: &Value) -> Option<Thumbprint> {
    // The members that count, so that no other can make the key unreadable (RFC 7638 section 3.2).
    let members = ["kty", "crv", "x", "y", "n", "e"].into_iter();
    let bare: Map<_, _> = members.filter_map(|name| Some((name.to_owned(), jwk.get(name)?.clone()))).collect();
    let jwk: Jwk = serde_json::from_value(Value::Object(bare)).ok()?;
    Thumbprint::parse(&jwk.thumbprint(ThumbprintHash::SHA256).ok()?)
}

/// Compares two URIs; the error does not repeat them, because paths may be confidential.
fn check_uri(named: &str, expected: &str) -> Result<(), BadProof> {
    let named =
        normal_uri(named).ok_or_else(|| invalid("`htu` of the proof is not an absolute URI of http or https"))?;
    let parts = |uri: &'_ str| {
        let (scheme, rest) = uri.split_once("://").unwrap_or_default();
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        [scheme.to_owned(), host.to_owned(), path.to_owned()]
    };
    let differs = |((name, ours), theirs): ((&'static str, String), String)| (ours != theirs).then_some(name);
    let mut pairs = ["scheme", "host", "path"].into_iter().zip(parts(expected)).zip(parts(&named));
    match pairs.find_map(differs) {
        None => Ok(()),
        Some(part) => Err(invalid(format!("`htu` of the proof has another {part} than the request (`proxy.{part}`)"))),
    }
}

/// Checks the time of the proof's creation: by its nonce where one is required, else by its `iat` (RFC 9449 section
/// 4.3, check 11). `Ok(true)` if half of the nonce's lifetime is over.
fn check_times(claims: &ClaimSet, expected: &Expected<'_>, now: Timestamp) -> Result<bool, BadProof> {
    let DpopPolicy { window, nonce, .. } = expected.policy;
    let created = claims.get("iat").and_then(|iat| Timestamp::from_numeric_date(&iat));
    let created = created.ok_or_else(|| invalid("`iat` of the proof is missing, or not a number of seconds"))?;
    if nonce {
        let Some(Value::String(named)) = claims.get("nonce") else { return Err(BadProof::Nonce) };
        let issued = expected.nonces.and_then(|nonces| nonces.issued_at(&named)).ok_or(BadProof::Nonce)?;
        let latest = now.max(expected.forgotten.up_to(Some(issued)));
        let (age, ahead) = (latest.since(issued), issued.since(now));
        return if age > window || ahead > expected.leeway { Err(BadProof::Nonce) } else { Ok(age > window / 2) };
    }
    let (age, ahead) = (now.since(created), created.since(now));
    if age > window || ahead > window {
        let (away, side) = if age > window { (age, "behind") } else { (ahead, "ahead of") };
        let (away, window) = (away.as_secs(), window.as_secs());
        return Err(invalid(format!("`iat` of the proof is {away} s {side} this clock; `dpop.window` is {window} s")));
    }
    if expected.forgotten.up_to(Some(created)).since(created) > window {
        return Err(invalid("the proof was too old already before this clock was set back"));
    }
    Ok(false)
}

fn seal(field: &[u8], expected: &Expected<'_>) -> Thumbprint {
    let (token, method, uri) = (expected.token.as_str(), expected.method, expected.uri);
    digest_of(&[field, token.as_bytes(), expected.key.bytes(), method.as_bytes(), uri.as_bytes()])
}

/// A digest of length-prefixed parts.
fn digest_of(parts: &[&[u8]]) -> Thumbprint {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    Thumbprint::from_digest(&context.finish())
}

fn invalid(detail: impl Into<Box<str>>) -> BadProof {
    BadProof::Invalid(detail.into())
}

impl From<BadProof> for Denial {
    fn from(_: BadProof) -> Self {
        Self::ProofInvalid
    }
}

/// The algorithms of proofs, as challenges name them (RFC 9449 section 7.1).
#[must_use]
pub fn algorithms() -> String {
    ASYMMETRIC.iter().copied().map(algorithm_name).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
