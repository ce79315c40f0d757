//! The earlier keys of issuers: a stream is refused if the key of its token was withdrawn, and not if this
//! instance has not loaded the key yet.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::authz::claims::IssuerName;
use crate::authz::jwks::{Jwks, KeyDigest};

/// The keys that were in force, by issuer; for configured issuers alone.
#[derive(Default)]
pub(super) struct KeyHistory(Mutex<HashMap<IssuerName, Keys>>);

#[derive(Default)]
struct Keys {
    /// The last loaded keys, at most [`Jwks::MAX_KEYS`]; after a change of names those of both.
    in_force: Vec<KeyDigest>,
    /// The newest last.
    withdrawn: VecDeque<KeyDigest>,
}

/// The most remembered withdrawn keys of one issuer: those of two complete sets.
const MAX_WITHDRAWN: usize = 2 * Jwks::MAX_KEYS;

impl KeyHistory {
    /// Sets the keys in force, and returns the previous ones; `None` (not loaded) changes nothing.
    pub(super) fn follow(&self, issuer: &IssuerName, keys: Option<&Jwks>) -> Vec<KeyDigest> {
        let Some(keys) = keys else { return Vec::new() };
        let mut history = self.lock();
        let Keys { in_force, withdrawn } = history.entry(issuer.clone()).or_default();
        let gone: Vec<_> = in_force.iter().copied().filter(|key| !keys.has(*key)).collect();
        *in_force = keys.digests().collect();
        withdrawn.retain(|key| !keys.has(*key));
        withdrawn.extend(&gone);
        withdrawn.drain(..withdrawn.len().saturating_sub(MAX_WITHDRAWN));
        gone
    }

    pub(super) fn has_withdrawn(&self, issuer: &IssuerName, key: KeyDigest) -> bool {
        self.lock().get(issuer).is_some_and(|keys| keys.withdrawn.contains(&key))
    }

    pub(super) fn rename(&self, old: &IssuerName, new: &IssuerName) {
        let mut history = self.lock();
        if let Some(Keys { in_force, withdrawn }) = history.remove(old) {
            let joined = history.entry(new.clone()).or_default();
            joined.in_force.extend(in_force);
            joined.withdrawn.extend(withdrawn);
        }
    }

    pub(super) fn forget(&self, issuer: &IssuerName) {
        self.lock().remove(issuer);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IssuerName, Keys>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::jwks::Algorithm;

    fn keys(of: usize) -> Jwks {
        Jwks::from_secret(&of.to_be_bytes(), &[Algorithm::HS256])
    }

    #[test]
    fn a_key_that_is_not_in_force_any_more_is_withdrawn_until_it_returns() {
        let (history, issuer) = (KeyHistory::default(), IssuerName::parse("main").unwrap());
        let digest = |of: usize| keys(of).digests().next().unwrap();
        assert!(history.follow(&issuer, Some(&keys(0))).is_empty());
        assert!(history.follow(&issuer, None).is_empty(), "not loaded is not withdrawn");
        assert_eq!(history.follow(&issuer, Some(&keys(1))), [digest(0)]);
        assert_eq!([0, 1, 2].map(|of| history.has_withdrawn(&issuer, digest(of))), [true, false, false]);
        let new = IssuerName::parse("new").unwrap();
        history.rename(&issuer, &new);
        assert_eq!([&issuer, &new].map(|name| history.has_withdrawn(name, digest(0))), [false, true]);
        history.follow(&new, Some(&keys(0)));
        assert_eq!([0, 1].map(|of| history.has_withdrawn(&new, digest(of))), [false, true]);
        for of in 2..3 * MAX_WITHDRAWN {
            history.follow(&new, Some(&keys(of)));
        }
        assert_eq!(history.lock()[&new].withdrawn.len(), MAX_WITHDRAWN);
        history.forget(&new);
        assert!(history.lock().is_empty());
    }
}
