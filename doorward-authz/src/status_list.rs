//! Token Status Lists (draft-ietf-oauth-status-list): an issuer publishes the status of many of its tokens in one signed
//! list, and each token names its place in it.
//!
//! ```text
//! token → StatusReference (uri, idx) → StatusLists, which has the verified lists → StatusValue → Status
//! ```
//!
//! Lists are fetched elsewhere and in the background; here they are read, verified and stored. A token without a reference
//! is decided without a look at any of this.

mod list;
mod store;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

pub use self::list::{Bits, MalformedList, StatusList};
pub use self::store::{StatusLists, StoredList};
use super::claims::ClaimSet;
use super::refusal::{Refusal, Shown, type_of};

/// The claim of a token that names its status mechanisms.
const CLAIM: &str = "status";

/// The place of a token's status: the list's URI and the index in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StatusReference {
    pub uri: Arc<str>,
    pub index: u32,
}

impl StatusReference {
    /// The longest URI, in bytes: it stands in memory with every token and in the sealed facts of every stream.
    pub const MAX_URI: usize = 255;

    /// Reads the reference of a token; `None` for a token without `status.status_list`. `InvalidClaim` for one that
    /// cannot be followed: the token's status is not known, so the token is not accepted.
    pub(super) fn read(claims: &ClaimSet, policy: &StatusListPolicy) -> Result<Option<Self>, Refusal> {
        let status = match claims.get(CLAIM) {
            None => return Ok(None),
            Some(Value::Object(status)) => status,
            Some(other) => return Err(Refusal::invalid(CLAIM, type_of(&other), "an object")),
        };
        let Some(list) = status.get("status_list") else { return Ok(None) };
        let invalid = |member: &str, found: &dyn fmt::Display, accepted: &str| {
            Refusal::invalid(&format!("{CLAIM}.status_list{member}"), found, accepted)
        };
        let Value::Object(list) = list else { return Err(invalid("", &type_of(list), "an object")) };
        let (uri, index) = (list.get("uri").and_then(Value::as_str), list.get("idx").and_then(Value::as_u64));
        let Some(uri) = uri else { return Err(invalid(".uri", &"missing or not text", "a URI")) };
        let Some(index) = index.and_then(|index| u32::try_from(index).ok()) else {
            return Err(invalid(".idx", &"missing or not such a number", "a whole number below 2^32"));
        };
        if !policy.allows(uri) {
            let accepted = "a URI of the issuer's origin, or below one of `status_list.prefixes`";
            return Err(invalid(".uri", &Shown(uri), accepted));
        }
        Ok(Some(Self { uri: uri.into(), index }))
    }
}

/// The treatment of an issuer's status lists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StatusListPolicy {
    /// The beginnings of the URIs from which lists are fetched: scheme, host and perhaps a path, each with a `/` at its
    /// end, so that no other host and no other folder begins with it.
    pub prefixes: Vec<String>,
    /// The values of tokens that are accepted.
    pub valid: Vec<u8>,
    /// The values of tokens that are refused as suspended; every other value refuses as revoked.
    pub suspended: Vec<u8>,
    /// The age from which a list is stale.
    pub max_stale: Duration,
}

/// The meaning of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    Valid,
    Suspended,
    Revoked,
}

impl StatusListPolicy {
    #[must_use]
    pub fn status(&self, StatusValue(value): StatusValue) -> Status {
        if self.valid.contains(&value) {
            Status::Valid
        } else if self.suspended.contains(&value) {
            Status::Suspended
        } else {
            Status::Revoked
        }
    }

    /// Whether a list may be fetched from this URI. Compared as text: a URI with another reading is refused, such as one
    /// whose dots leave the folder of a prefix.
    #[must_use]
    pub fn allows(&self, uri: &str) -> bool {
        let rest = self.prefixes.iter().find_map(|prefix| uri.strip_prefix(prefix.as_str()));
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'"' | b'<' | b'>');
        let path = |rest: &str| rest.split('?').next().unwrap_or_default().to_ascii_lowercase().replace("%2e", ".");
        uri.len() <= StatusReference::MAX_URI
            && rest.is_some_and(|rest| {
                rest.bytes().all(is_plain) && path(rest).split('/').all(|segment| !matches!(segment, "." | ".."))
            })
    }
}

/// A value in a status list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StatusValue(pub u8);

impl fmt::Display for StatusValue {
    /// The value with its name in the registry of status types (section 7.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0x00 => "VALID",
            0x01 => "INVALID",
            0x02 => "SUSPENDED",
            0x03 | 0x0c..=0x0f => "application-specific",
            _ => "not registered",
        };
        write!(f, "0x{:02x} ({name})", self.0)
    }
}

#[cfg(test)]
mod tests;
