//! The streams whose tokens are in status lists.

use std::sync::Arc;
use std::time::Instant;

use super::{Cause, Key, LiveStreams};
use crate::authz::claims::IssuerName;

impl LiveStreams {
    /// The lists in which tokens of streams have their place.
    pub fn status_lists(&self) -> Vec<(IssuerName, Arc<str>)> {
        if self.open_count() == 0 { Vec::new() } else { self.lock().index.status_lists.iter().cloned().collect() }
    }

    /// Ends the streams whose places in a list have such a cause.
    pub fn check_status_list(&self, issuer: &IssuerName, uri: &Arc<str>, cause: impl Fn(u32) -> Option<Cause>) {
        let mut inner = self.lock();
        let key = Key::StatusList(issuer.clone(), uri.clone());
        let Some(list) = inner.index.find(&key) else { return };
        let members = inner.index.members(list);
        let members = members.filter_map(|at| Some((at, cause(inner.index.slots[at as usize].status_index)?)));
        let now = Instant::now();
        for (at, cause) in members.collect::<Vec<_>>() {
            self.end(&mut inner, at, cause, now);
        }
    }

    /// Ends the streams of a list that is too old, unless their rules allow that.
    pub fn end_stale_status_list(&self, issuer: &IssuerName, uri: &Arc<str>) {
        let key = Key::StatusList(issuer.clone(), uri.clone());
        self.end_list(&mut self.lock(), &key, Cause::Stale, |slot| slot.stale_after_ms.is_some());
    }
}
