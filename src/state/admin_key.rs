//! Keys for the HTTP API's administrative endpoints.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::authz::api_key::{KeyDigest, digest_of};

/// The permissions of an admin key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Revoke.
    Revoke,
    /// Register token ids (`revocation.list: allow`).
    Register,
    /// List, explain, introspect.
    Read,
}

/// The key of one user of the HTTP API.
#[derive(Clone, Debug)]
pub struct AdminKey {
    /// Shown in the audit log.
    pub name: Arc<str>,
    pub digest: KeyDigest,
    pub may: Vec<Permission>,
}

/// All admin keys; without any, those endpoints refuse every request.
#[derive(Clone, Debug, Default)]
pub struct AdminKeys(Vec<AdminKey>);

impl AdminKeys {
    #[must_use]
    pub fn new(keys: Vec<AdminKey>) -> Self {
        Self(keys)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The configured key that was presented, if it is one.
    ///
    /// Every digest is compared in full, whether or not one matches: the duration reveals nothing
    /// about the keys.
    #[must_use]
    pub fn find(&self, presented: &[u8]) -> Option<&AdminKey> {
        self.of(&digest_of(presented))
    }

    /// As [`Self::find`], by the SHA-256 of the presented key: for a caller that must not keep the key itself.
    #[must_use]
    pub fn of(&self, digest: &KeyDigest) -> Option<&AdminKey> {
        self.0.iter().fold(None, |found, key| if bool::from(key.digest.ct_eq(digest)) { Some(key) } else { found })
    }
}

impl AdminKey {
    #[must_use]
    pub fn may(&self, permission: Permission) -> bool {
        self.may.contains(&permission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_is_found() {
        let key = |name: &str, key: &str| AdminKey {
            name: name.into(),
            digest: digest_of(key.as_bytes()),
            may: vec![Permission::Read],
        };
        let keys = AdminKeys::new(vec![key("a", "first-admin-key"), key("b", "second-admin-key")]);
        let name = |presented: &str| keys.find(presented.as_bytes()).map(|key| key.name.to_string());
        assert_eq!(name("first-admin-key").as_deref(), Some("a"));
        assert_eq!(name("second-admin-key").as_deref(), Some("b"));
        for wrong in ["", "first", "first-admin-key ", "FIRST-ADMIN-KEY"] {
            assert_eq!(name(wrong), None, "{wrong:?}");
        }
        assert!(keys.find(b"first-admin-key").is_some_and(|key| key.may(Permission::Read)));
        assert!(!keys.find(b"first-admin-key").is_some_and(|key| key.may(Permission::Revoke)));
        assert!(AdminKeys::default().is_empty());
    }
}
