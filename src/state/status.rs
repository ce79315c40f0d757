//! Status lists and the streams of their tokens.

use std::sync::Arc;

use super::State;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::status_list::{Status, StatusListPolicy, StatusReference, StoredList};
use crate::authz::token::{TrustedIssuer, VerifiedList};
use crate::clock::{self, Steady};
use crate::sources::status_lists::StatusListSources;
use crate::sources::streams::Cause;

impl State {
    /// The sources of the status lists.
    pub fn status_sources(&self) -> Arc<StatusListSources> {
        self.status_sources.load_full()
    }

    /// Lists of issuers whose lists are not read any more are dropped.
    pub fn set_status_sources(&self, sources: StatusListSources) {
        self.status_lists.retain(|issuer, _, _| sources.of(issuer).is_some());
        self.status_sources.store(Arc::new(sources));
    }

    /// Stores a list that an issuer published, by a request that began then, and ends the streams whose tokens it
    /// refuses; `false` if a later one is stored.
    pub fn store_status_list(&self, issuer: &TrustedIssuer, uri: &Arc<str>, list: VerifiedList, began: Steady) -> bool {
        let Some(policy) = &issuer.status_list else { return false };
        let VerifiedList { list, issued_at, expires_at, .. } = list;
        let stored = StoredList { list, issued_at, expires_at, fetched: began.uptime() };
        if !self.status_lists.store(&issuer.name, uri, stored.clone()) {
            return false;
        }
        self.streams().check_status_list(&issuer.name, uri, |index| cause(policy, &stored, index));
        true
    }

    /// Why a stream may not begin whose token has this place. A list that is not stored here has let the token pass at
    /// another instance: it is fetched, and ends the stream if it refuses the token.
    pub fn check_status(
        &self,
        issuer: &TrustedIssuer,
        reference: &StatusReference,
        is_strict: bool,
    ) -> Result<(), Cause> {
        let Some(policy) = &issuer.status_list else { return Ok(()) };
        let uptime = Steady::now().uptime();
        let Some(stored) = self.status_lists.find(&issuer.name, &reference.uri, uptime) else {
            if let Some(source) = self.status_sources().of(&issuer.name) {
                source.want(&reference.uri);
            }
            return Ok(());
        };
        if let Some(cause) = cause(policy, &stored, reference.index) {
            return Err(cause);
        }
        let is_fresh = stored.is_fresh(policy.max_stale, issuer.leeway, uptime, clock::now());
        if is_fresh || !is_strict { Ok(()) } else { Err(Cause::Stale) }
    }

    /// Ends the streams whose status lists are too old, unless their rules allow that.
    pub fn end_streams_of_stale_lists(&self, now: Timestamp, at: Steady) {
        for (name, uri) in self.streams().status_lists() {
            if self.is_stale(&name, &uri, now, at) {
                self.streams().end_stale_status_list(&name, &uri);
            }
        }
    }

    /// Looks a list up as a decision does, so that it stays in use; asks for one that is not stored.
    fn is_stale(&self, name: &IssuerName, uri: &Arc<str>, now: Timestamp, at: Steady) -> bool {
        let policy = self.policy();
        let Some(issuer) = policy.authorizer.issuer_named(name) else { return false };
        let Some(lists) = &issuer.status_list else { return false };
        if let Some(stored) = self.status_lists.find(name, uri, at.uptime()) {
            return !stored.is_fresh(lists.max_stale, issuer.leeway, at.uptime(), now);
        }
        let sources = self.status_sources();
        let Some(source) = sources.of(name) else { return false };
        source.want(uri);
        source.known_for(uri, at).is_none_or(|known| known > lists.max_stale)
    }
}

/// Why a list ends the stream of a token; `None` if it does not.
fn cause(policy: &StatusListPolicy, stored: &StoredList, index: u32) -> Option<Cause> {
    match stored.list.value(index).map(|value| policy.status(value)) {
        Some(Status::Valid) => None,
        Some(Status::Suspended) => Some(Cause::Suspended),
        Some(Status::Revoked) => Some(Cause::Revoked),
        None => Some(Cause::Stale), // It was made shorter, or is older than the token.
    }
}
