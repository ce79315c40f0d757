//! Status lists of the tokens that are revoked here (draft-ietf-oauth-status-list), for verifiers that do not ask
//! Doorward: workers of a CDN, partners, offline ones.
//!
//! A revocation names a token by its id, and a list by an index; so the index is a function of the id. Two ids may have
//! one index: the list then refuses a token that is not revoked, and never accepts one that is.

use std::time::Duration;

use aws_lc_rs::digest;
use serde_json::{Map, Value, json};

use super::claims::{IssuerName, Timestamp};
use super::revocation::{Kind, RevocationIndex, TargetId};
use super::signing::SigningKey;
use super::status_list::StatusList;

/// The `typ` of a list (section 5.1).
const LIST_TYPE: &str = "statuslist+jwt";

/// Publishes the list of one issuer.
pub struct StatusPublisher {
    /// Where verifiers fetch it: its `sub`, and the `uri` of tokens.
    pub uri: String,
    /// The names under which tokens of the issuer are revoked.
    pub names: Vec<IssuerName>,
    pub key: SigningKey,
    /// The number of indexes, a power of two.
    pub entries: u32,
    /// The time for which verifiers may keep a list.
    pub ttl: Duration,
    /// The time after which they must not use it.
    pub lifetime: Duration,
}

impl StatusPublisher {
    /// The index of a token in the list.
    #[must_use]
    pub fn index_of(&self, token: &TargetId) -> u32 {
        index_of(token, self.entries)
    }

    /// The list of an index that has every revocation until `complete_until`, signed. Takes time linear in the number of
    /// revocations. `None` if it cannot be signed.
    ///
    /// It is dated by that time, not by the clock: of the lists of two instances, verifiers keep the newer one.
    ///
    /// It has what revokes single tokens. What revokes a session, a user, a client, a key, an actor or everything cannot
    /// be expressed by indexes, because the tokens that it covers are not known here.
    #[must_use]
    pub fn publish(&self, index: &RevocationIndex, complete_until: Timestamp) -> Option<String> {
        let targets = index.revocations().map(|revocation| revocation.target);
        let tokens = targets.filter(|target| target.kind == Kind::Token && self.names.contains(&target.issuer));
        let list = StatusList::of_invalid(self.entries, tokens.map(|target| self.index_of(&target.id)));
        let claims: Map<String, Value> = [
            ("sub", json!(self.uri)),
            ("iat", json!(complete_until.as_secs())),
            ("exp", json!(complete_until.plus(self.lifetime).as_secs())),
            ("ttl", json!(self.ttl.as_secs())),
            ("status_list", list.to_claim()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect();
        self.key.sign(LIST_TYPE, &claims)
    }
}

/// The first 32 bits of the SHA-256 of the id, big-endian, modulo `entries`.
///
/// The id is written as in the log: as it is in the token, or as `sha256:` and its digest in lower-case hex if it is
/// longer than 128 bytes or has bytes beyond `[A-Za-z0-9._~@|+=-]`.
fn index_of(token: &TargetId, entries: u32) -> u32 {
    let digest = digest::digest(&digest::SHA256, token.to_string().as_bytes());
    let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
    u32::from_be_bytes(first) % entries.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `python3 -c 'import hashlib,sys; print(int(hashlib.sha256(sys.argv[1].encode()).hexdigest()[:8],16)%2**24)' ID`
    #[test]
    fn the_index_is_that_of_any_other_implementation() {
        for (id, index) in [
            ("9f1c4c0e", 13_091_701),
            ("0F8FAD5B-d9cb-469f-a165-70867728950e", 14_232_520),
            ("0f8fad5b-d9cb-469f-a165-70867728950e", 1_237_485),
            ("0123456789abcdef0123456789abcdef", 11_648_323),
            ("a:b", 6_797_170),
        ] {
            assert_eq!(index_of(&TargetId::new(id), 1 << 24), index, "{id}");
        }
    }
}
