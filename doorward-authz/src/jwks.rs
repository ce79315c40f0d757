//! The keys of an issuer: a JSON Web Key Set (RFC 7517) reduced to the keys that may verify a token.

mod algorithm;
mod key;
mod rejected;
mod soundness;

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::hmac;
use serde_json::Value;

pub use self::algorithm::{ASYMMETRIC, Algorithm, algorithm_name, algorithm_named, is_hmac};
pub use self::key::{Key, KeyDigest};
use self::key::{Material, key_id, read_key};
pub use self::rejected::{LeftOut, RejectedKey};
use super::denial::Denial;

/// The usable keys of one issuer.
#[derive(Clone, Default, PartialEq)]
pub struct Jwks {
    keys: Vec<Key>,
}

/// The document is not a key set.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("parse as JSON")]
    Json(#[source] serde_json::Error),
    #[error("no array `keys` at the top level (RFC 7517 section 5)")]
    NoKeys,
    #[error("{0} keys, at most {max} are read", max = Jwks::MAX_KEYS)]
    TooMany(usize),
}

impl Jwks {
    /// More keys than any provider publishes; each may cost a signature check.
    pub const MAX_KEYS: usize = 100;
    /// The number of keys that are tried for a token without a `kid`.
    pub const MAX_TRIES: usize = 4;

    /// Reads a key set; keys that are not fit are left out and reported, the others work.
    pub fn parse(document: &[u8], algorithms: &[Algorithm]) -> Result<(Self, Vec<LeftOut>), JwksError> {
        let document: Value = serde_json::from_slice(without_mark(document)).map_err(JwksError::Json)?;
        Self::from_value(&document, algorithms)
    }

    /// As [`Jwks::parse`], for a document already read as JSON.
    pub fn from_value(document: &Value, algorithms: &[Algorithm]) -> Result<(Self, Vec<LeftOut>), JwksError> {
        let members = document.get("keys").and_then(Value::as_array).ok_or(JwksError::NoKeys)?;
        if members.len() > Self::MAX_KEYS {
            return Err(JwksError::TooMany(members.len()));
        }
        let mut left_out = Vec::new();
        let mut found: Vec<(Key, usize)> = Vec::new();
        for (place, member) in members.iter().enumerate() {
            match read_key(member, algorithms) {
                // The same key twice is one key, however it is written.
                Ok(key) if found.iter().any(|(seen, _)| *seen == key) => {}
                Ok(key) => found.push((key, place)),
                Err(cause) => {
                    let id = member.get("kid").and_then(|id| key_id(id).ok().flatten());
                    left_out.push(LeftOut { cause, place, id });
                }
            }
        }
        // A `kid` may name one key per algorithm, as a token names both; two keys for one algorithm are ambiguous.
        let mut holders: HashMap<(Arc<str>, &str), usize> = HashMap::new();
        let named = |key: &Key| key.id.clone().map(|id| (id, algorithm_name(key.algorithm())));
        for id in found.iter().filter_map(|(key, _)| named(key)) {
            *holders.entry(id).or_default() += 1;
        }
        let (keys, duplicates): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(key, _)| named(key).is_none_or(|id| holders[&id] == 1));
        let duplicates = duplicates.into_iter();
        left_out.extend(duplicates.map(|(key, place)| {
            let id = key.id().map(str::to_owned);
            LeftOut { cause: RejectedKey::DuplicateId, place, id }
        }));
        Ok((Self { keys: keys.into_iter().map(|(key, _)| key).collect() }, left_out))
    }

    /// A shared secret for HS256, HS384 or HS512; it has no id and serves whatever `kid` a token names.
    #[must_use]
    pub fn from_secret(secret: &[u8], algorithms: &[Algorithm]) -> Self {
        let key = |algorithm: &Algorithm| {
            let hash = match algorithm {
                Algorithm::HS256 => hmac::HMAC_SHA256,
                Algorithm::HS384 => hmac::HMAC_SHA384,
                Algorithm::HS512 => hmac::HMAC_SHA512,
                _ => return None, // A secret verifies no other algorithms.
            };
            Some(Key::new(None, *algorithm, Material::Secret(Box::new(hmac::Key::new(hash, secret)))))
        };
        Self { keys: algorithms.iter().filter_map(key).collect() }
    }

    /// Whether the key is one of these, under whatever `kid`.
    #[must_use]
    pub fn has(&self, digest: KeyDigest) -> bool {
        self.keys.iter().any(|key| key.digest() == digest)
    }

    /// The digests of its keys, at most [`Jwks::MAX_KEYS`].
    pub fn digests(&self) -> impl Iterator<Item = KeyDigest> {
        self.keys.iter().map(Key::digest)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys that may have signed a token with this `kid` and algorithm, at most [`Jwks::MAX_TRIES`]: those
    /// of that name, then those without one.
    pub fn candidates(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Vec<&Key>, Denial> {
        let kid = kid.filter(|_| !is_hmac(algorithm));
        let fits = |key: &&Key| key.algorithm() == algorithm;
        let named = self.keys.iter().filter(|key| kid.is_none() || key.id() == kid);
        let unnamed = self.keys.iter().filter(|key| kid.is_some() && key.id().is_none());
        let fitting: Vec<_> = named.chain(unnamed).filter(fits).take(Self::MAX_TRIES).collect();
        if !fitting.is_empty() {
            Ok(fitting)
        } else if self.names(kid) && !self.keys.is_empty() {
            Err(Denial::AlgorithmNotAllowed)
        } else {
            Err(Denial::UnknownKey)
        }
    }

    /// Whether a token that names this `kid`, or none, can be expected to be signed by a key of this set.
    #[must_use]
    pub fn names(&self, kid: Option<&str>) -> bool {
        kid.is_none() || self.keys.iter().any(|key| key.id() == kid)
    }
}

/// A document without the byte order mark that some servers write before it, and which is not of it (RFC 8259
/// section 8.1).
#[must_use]
pub fn without_mark(document: &[u8]) -> &[u8] {
    document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document)
}

#[cfg(test)]
mod tests;
