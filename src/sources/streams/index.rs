//! The index of streams: by every target that can revoke their tokens, by the second in which these expire, by the key
//! that verified them, and by the status list that has their status.

use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Signal;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::jwks::KeyDigest;
use crate::authz::revocation::Target;

/// In the place of a slot, for none.
const NONE: u32 = u32::MAX;

#[derive(Default)]
pub(super) struct Index {
    pub(super) slots: Vec<Slot>,
    free_slots: Vec<u32>,
    pub(super) lists: Vec<List>,
    free_lists: Vec<u32>,
    pub(super) places: HashTable<u32>,
    /// Seconds in which tokens expire.
    pub(super) seconds: BTreeSet<i64>,
    /// The keys that verified the tokens of streams.
    pub(super) keys: BTreeSet<(IssuerName, KeyDigest)>,
    /// The status lists of the tokens of streams.
    pub(super) status_lists: BTreeSet<(IssuerName, Arc<str>)>,
    hasher: DefaultHashBuilder,
}

#[derive(Default)]
pub(super) struct Slot {
    pub(super) signal: Option<Arc<Signal>>,
    pub(super) issued_at: Option<Timestamp>,
    pub(super) stale_after_ms: Option<u32>,
    /// In the status list of its token, if there is one.
    pub(super) status_index: u32,
    pub(super) links: Vec<Link>,
}

/// A place in a list; neighbours are slots in the same list.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) list: u32,
    previous: u32,
    next: u32,
}

pub(super) struct List {
    pub(super) key: Key,
    head: u32,
}

#[derive(Clone, Eq, Hash, PartialEq)]
pub(super) enum Key {
    Target(Target),
    /// Tokens of this second expire, leeway included.
    Second(i64),
    /// The streams of this issuer whose tokens this key verified.
    Verified(IssuerName, KeyDigest),
    /// The streams of this issuer whose tokens have their place in the status list at this URI.
    StatusList(IssuerName, Arc<str>),
}

impl Key {
    /// The same key under another name of an issuer; `None` for a key without the name `old`.
    pub(super) fn under(&self, old: &IssuerName, new: &IssuerName) -> Option<Self> {
        match self {
            Self::Target(target) if target.issuer == *old => Some(Self::Target(target.clone().under(new.clone()))),
            Self::Verified(issuer, key) if issuer == old => Some(Self::Verified(new.clone(), *key)),
            Self::StatusList(issuer, uri) if issuer == old => Some(Self::StatusList(new.clone(), uri.clone())),
            Self::Target(_) | Self::Verified(..) | Self::StatusList(..) | Self::Second(_) => None,
        }
    }
}

impl Index {
    pub(super) fn place(&mut self, slot: Slot) -> u32 {
        if let Some(at) = self.free_slots.pop() {
            self.slots[at as usize] = slot;
            return at;
        }
        self.slots.push(slot);
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    pub(super) fn find(&self, key: &Key) -> Option<u32> {
        self.places.find(self.hasher.hash_one(key), |list| self.lists[*list as usize].key == *key).copied()
    }

    /// The slots in a list.
    pub(super) fn members(&self, list: u32) -> impl Iterator<Item = u32> + '_ {
        let next = move |at: &u32| {
            let link = self.slots[*at as usize].links.iter().find(|link| link.list == list);
            link.map(|link| link.next).filter(|next| *next != NONE)
        };
        let head = self.lists[list as usize].head;
        std::iter::successors((head != NONE).then_some(head), next)
    }

    /// Puts a stream into the list of a key, once.
    pub(super) fn enter(&mut self, at: u32, key: Key) {
        let list = self.find(&key).unwrap_or_else(|| self.add_list(key));
        if !self.slots[at as usize].links.iter().any(|link| link.list == list) {
            let link = self.link(list, at);
            self.slots[at as usize].links.push(link);
        }
    }

    /// Takes a stream out of every list; `None` if it is out already.
    pub(super) fn take(&mut self, at: u32) -> Option<Arc<Signal>> {
        let slot = &mut self.slots[at as usize];
        let signal = slot.signal.take()?;
        for link in std::mem::take(&mut slot.links) {
            self.unlink(link);
        }
        self.free_slots.push(at);
        Some(signal)
    }

    /// Puts a stream at the head of a list.
    fn link(&mut self, list: u32, at: u32) -> Link {
        let next = std::mem::replace(&mut self.lists[list as usize].head, at);
        if let Some(link) = self.link_of(next, list) {
            link.previous = at;
        }
        Link { list, previous: NONE, next }
    }

    fn add_list(&mut self, key: Key) -> u32 {
        match &key {
            Key::Second(second) => drop(self.seconds.insert(*second)),
            Key::Verified(issuer, key) => drop(self.keys.insert((issuer.clone(), *key))),
            Key::StatusList(issuer, uri) => drop(self.status_lists.insert((issuer.clone(), uri.clone()))),
            Key::Target(_) => {}
        }
        let hash = self.hasher.hash_one(&key);
        let list = List { key, head: NONE };
        let at = if let Some(at) = self.free_lists.pop() {
            self.lists[at as usize] = list;
            at
        } else {
            self.lists.push(list);
            u32::try_from(self.lists.len() - 1).unwrap_or(NONE)
        };
        let (lists, hasher) = (&self.lists, &self.hasher);
        self.places.insert_unique(hash, at, |at| hasher.hash_one(&lists[*at as usize].key));
        at
    }

    fn unlink(&mut self, link: Link) {
        match self.link_of(link.previous, link.list) {
            Some(previous) => previous.next = link.next,
            None => self.lists[link.list as usize].head = link.next,
        }
        if let Some(next) = self.link_of(link.next, link.list) {
            next.previous = link.previous;
        }
        if self.lists[link.list as usize].head == NONE {
            let key = &self.lists[link.list as usize].key;
            match key {
                Key::Second(second) => drop(self.seconds.remove(second)),
                Key::Verified(issuer, key) => drop(self.keys.remove(&(issuer.clone(), *key))),
                Key::StatusList(issuer, uri) => drop(self.status_lists.remove(&(issuer.clone(), uri.clone()))),
                Key::Target(_) => {}
            }
            if let Ok(place) = self.places.find_entry(self.hasher.hash_one(key), |at| *at == link.list) {
                place.remove();
            }
            self.lists[link.list as usize].key = Key::Second(0); // Frees the name.
            self.free_lists.push(link.list);
        }
    }

    fn link_of(&mut self, at: u32, list: u32) -> Option<&mut Link> {
        self.slots.get_mut(at as usize)?.links.iter_mut().find(|link| link.list == list)
    }
}
