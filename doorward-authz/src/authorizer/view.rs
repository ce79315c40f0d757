//! What a decision is made with, beside the configuration.

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
    /// [`Duration::MAX`] while a view that lost track is put right.
    pub age: Option<Duration>,
    /// The store's time; `None` for a store without a clock of its own.
    pub store_clock: Option<Timestamp>,
    /// Whether the keys that this request needs were fetched; `None` before that was tried.
    pub keys: Option<KeyFetch>,
    /// What the store said when it was asked for this very request.
    pub answer: Option<StoreAnswer>,
    /// What the issuer said when it was asked about this very token, now or a moment ago.
    pub introspection_response: Option<&'a IntrospectionResponse>,
    /// The status lists that are held; `None`: none can be.
    pub status_lists: Option<&'a StatusLists>,
    /// The monotonic clock by which lists grow old.
    pub uptime: Duration,
    /// Whether the status list that this request needs was fetched; `None` before that was tried.
    pub status_list: Option<ListFetch>,
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
            proof: None,
        }
    }
}

/// The end of an attempt to fetch an issuer's keys for one request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyFetch {
    /// The issuer's keys are those that the authorizer has now.
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
    /// Nothing revokes the token, and with `list: allow` it is registered.
    Clear,
    /// Nothing revokes the token, and it is not registered.
    Unregistered,
    Hit(Hit),
    Unavailable,
}
