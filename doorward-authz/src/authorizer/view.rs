//! The input of a decision, beside the configuration.

use std::time::Duration;

use crate::claims::Timestamp;
use crate::dpop::{Spending, VerifiedProof};
use crate::introspection::IntrospectionResponse;
use crate::revocation::{Hit, RevocationIndex};
use crate::status_list::StatusLists;

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
    /// The stored status lists; `None`: there can be none.
    pub status_lists: Option<&'a StatusLists>,
    /// The monotonic clock by which lists grow old.
    pub uptime: Duration,
    /// Whether the status list that this request needs was fetched; `None` before that was tried.
    pub status_list: Option<ListFetch>,
    /// Whether a token that was not seen before may be verified now.
    pub verification: Verification,
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
            status_lists: None,
            uptime: Duration::ZERO,
            status_list: None,
            verification: Verification::Allowed,
            proof: None,
        }
    }
}

/// Whether the calling thread may verify a signature.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Verification {
    #[default]
    Allowed,
    /// The decision needs its turn first.
    Deferred,
    /// The turn did not come in time.
    Refused,
}

/// The end of an attempt to fetch an issuer's keys for one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyFetch {
    /// The authorizer now has the issuer's current keys.
    Fetched,
    /// The provider was not asked, or did not answer in time: the token's key may be a new one.
    Failed,
}

/// The end of an attempt to fetch a status list for one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ListFetch {
    /// The list is the published one.
    Fetched,
    /// It was not asked for, or did not come in time, or cannot be accepted.
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
