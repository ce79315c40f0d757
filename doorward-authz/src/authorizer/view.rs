//! The input of a decision, beside the configuration.

use std::time::Duration;

use crate::claims::Timestamp;
use crate::dpop::{Spending, VerifiedProof};
use crate::introspection::IntrospectionResponse;
use crate::revocation::{Hit, RevocationIndex};

/// The view of the revocations that a decision is made with.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub index: &'a RevocationIndex,
    /// The time since the start of the last completed read; `None` before the first, and
    /// [`Duration::MAX`] while a gap in the view is being repaired.
    pub age: Option<Duration>,
    /// The store's time; `None` for a store without a separate clock.
    pub store_clock: Option<Timestamp>,
    /// Whether the keys that this request needs were fetched; `None` before that was tried.
    pub keys: Option<KeyFetch>,
    /// The store's answer for this very request.
    pub answer: Option<StoreAnswer>,
    /// The issuer's response about this very token, new or cached.
    pub introspection_response: Option<&'a IntrospectionResponse>,
    /// The proof of this very request, and whether it was used before.
    pub proof: Option<(&'a VerifiedProof, Spending)>,
}

impl<'a> View<'a> {
    /// A view that is as fresh as can be.
    #[must_use]
    pub const fn of(index: &'a RevocationIndex) -> Self {
        Self {
            index,
            age: Some(Duration::ZERO),
            store_clock: None,
            keys: None,
            answer: None,
            introspection_response: None,
            proof: None,
        }
    }
}

/// The end of an attempt to fetch an issuer's keys for one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyFetch {
    /// The authorizer now has the issuer's current keys.
    Fetched,
    /// The provider was not asked, or did not answer in time: the token's key may be a new one.
    Failed,
}

/// The store's answer to a lookup of one token's targets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoreAnswer {
    /// The token is not revoked, and with `list: allow` it is registered.
    Clear,
    /// The token is not revoked, and it is not registered.
    Unregistered,
    Hit(Hit),
    Unavailable,
}
