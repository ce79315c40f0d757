//! Live streams, and the index that finds the streams of a revocation.
//!
//! A check is made once, when a stream opens; so each open stream is indexed by every target that can revoke its
//! token, and a log entry ends exactly the streams of its tokens, by the rule of the decision: the watermark covers
//! the token's `iat`, or its absence. A stream that no revocation ends has no index entry: it counts towards the
//! limit, and ends with the process.
//!
//! A stream is registered first and then looked up in the revocations. An entry is applied first and then looked up
//! here. So the second of the two finds the first.

mod status;

use std::collections::{BTreeSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::denial::Denial;
use crate::authz::jwks::KeyDigest;
use crate::authz::revocation::{Kind, Origin, Revocation, Target, Watermark};
use crate::authz::stream_proof::StreamFacts;

/// Why Doorward ends a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    SignedOut,
    Revoked,
    /// The status list of its issuer suspends its token.
    Suspended,
    /// Its token has expired, leeway included.
    Expired,
    /// The key that verified its token is not published or configured any more.
    KeyWithdrawn,
    /// The key that verified its token is not known here, and its issuer's keys cannot be fetched.
    KeysUnavailable,
    /// The issuer of its token is not configured any more, or names its users, sessions or clients by other claims.
    IssuerRemoved,
    /// The view of the revocations, or the status list of its issuer, is older than its rule allows.
    Stale,
    /// This process shuts down.
    Draining,
    /// It has no seal of a decision.
    Unproven,
    /// The limit of streams is reached.
    Crowded,
    /// Its messages differ from those of `request_header_mode` and `response_trailer_mode` alone.
    Unexpected,
}

impl Cause {
    pub const ALL: [Self; 12] = [
        Self::SignedOut,
        Self::Revoked,
        Self::Suspended,
        Self::Expired,
        Self::KeyWithdrawn,
        Self::KeysUnavailable,
        Self::IssuerRemoved,
        Self::Stale,
        Self::Draining,
        Self::Unproven,
        Self::Crowded,
        Self::Unexpected,
    ];

    /// The stable public name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::SignedOut => "signed_out",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::KeyWithdrawn => "key_withdrawn",
            Self::KeysUnavailable => "keys_unavailable",
            Self::IssuerRemoved => "issuer_removed",
            Self::Stale => "stale",
            Self::Draining => "draining",
            Self::Unproven => "unproven",
            Self::Crowded => "crowded",
            Self::Unexpected => "unexpected",
        }
    }

    /// The denial of a request with this token; an error, if only the stream is refused, is a sentence for the
    /// client's developer.
    pub const fn denial(self) -> Result<Denial, &'static str> {
        Ok(match self {
            Self::SignedOut => Denial::SignedOut,
            Self::Revoked => Denial::Revoked,
            Self::Suspended => Denial::Suspended,
            Self::Expired => Denial::Expired,
            Self::KeyWithdrawn => Denial::UnknownKey,
            Self::KeysUnavailable => Denial::KeysUnavailable,
            Self::IssuerRemoved => Denial::UnknownIssuer,
            Self::Stale => Denial::RevocationsStale,
            Self::Draining => return Err("this instance shuts down; another instance accepts the stream"),
            Self::Crowded => return Err("the limit of open streams is reached"),
            Self::Unproven => return Err("the stream does not prove that its request was allowed"),
            Self::Unexpected => return Err("the proxy sends an unexpected message of the stream"),
        })
    }
}

impl From<Origin> for Cause {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::SignedOut => Self::SignedOut,
            Origin::Revoked => Self::Revoked,
        }
    }
}

/// An order to end.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub cause: Cause,
    pub at: Instant,
    order: u64,
}

impl Ended {
    /// The end of a stream that is not in the index.
    #[must_use]
    pub fn now(cause: Cause) -> Self {
        Self { cause, at: Instant::now(), order: u64::MAX }
    }
}

/// The streams of this process.
pub struct LiveStreams {
    inner: Mutex<Inner>,
    hasher: DefaultHashBuilder,
    open: AtomicUsize,
    max: AtomicUsize,
}

/// An open stream; dropping it closes the entry.
pub struct LiveStream {
    streams: Arc<LiveStreams>,
    slot: u32,
    signal: Arc<Signal>,
}

#[derive(Default)]
struct Signal {
    ended: OnceLock<Ended>,
    waker: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct Inner {
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    lists: Vec<List>,
    free_lists: Vec<u32>,
    places: HashTable<u32>,
    /// Seconds in which tokens expire.
    seconds: BTreeSet<i64>,
    /// Pending orders.
    pending: BTreeSet<u64>,
    orders: u64,
    /// The smallest bound of staleness since the index was last empty, in milliseconds.
    strictest: Option<u32>,
    /// The keys that verified the tokens of streams.
    keys: BTreeSet<(IssuerName, KeyDigest)>,
    /// The status lists of the tokens of streams.
    status_lists: BTreeSet<(IssuerName, Arc<str>)>,
    /// The numbers of streams that revocations ended, newest last, until a receipt takes them.
    recent: VecDeque<(Cut, usize)>,
}

/// The identity of a revocation for a receipt; a later one of the same target differs in one of these.
#[derive(Eq, PartialEq)]
struct Cut {
    target: Target,
    watermark: Watermark,
    expires_at: Timestamp,
}

impl Cut {
    fn of(revocation: &Revocation) -> Self {
        let Revocation { target, watermark, expires_at, .. } = revocation;
        Self { target: target.clone(), watermark: *watermark, expires_at: *expires_at }
    }
}

#[derive(Default)]
struct Slot {
    signal: Option<Arc<Signal>>,
    issued_at: Option<Timestamp>,
    stale_after_ms: Option<u32>,
    /// In the status list of its token, if there is one.
    status_index: u32,
    links: Vec<Link>,
}

/// A place in a list; neighbours are slots in the same list.
#[derive(Clone, Copy)]
struct Link {
    list: u32,
    previous: u32,
    next: u32,
}

struct List {
    key: Key,
    head: u32,
}

#[derive(Clone, Eq, Hash, PartialEq)]
enum Key {
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
    fn under(&self, old: &IssuerName, new: &IssuerName) -> Option<Self> {
        match self {
            Self::Target(target) if target.issuer == *old => Some(Self::Target(target.clone().under(new.clone()))),
            Self::Verified(issuer, key) if issuer == old => Some(Self::Verified(new.clone(), *key)),
            Self::StatusList(issuer, uri) if issuer == old => Some(Self::StatusList(new.clone(), uri.clone())),
            Self::Target(_) | Self::Verified(..) | Self::StatusList(..) | Self::Second(_) => None,
        }
    }
}

const NONE: u32 = u32::MAX;
/// Revocations whose count of ended streams is remembered for receipts.
const RECENT: usize = 1024;

impl Default for LiveStreams {
    fn default() -> Self {
        Self {
            inner: Mutex::default(),
            hasher: DefaultHashBuilder::default(),
            open: AtomicUsize::new(0),
            max: AtomicUsize::new(usize::MAX),
        }
    }
}

impl LiveStreams {
    /// The most streams at once.
    pub fn limit(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// The number of open streams.
    pub fn open_count(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The number of streams that were ordered to end and have not ended.
    pub fn ending_count(&self) -> usize {
        self.lock().pending.len()
    }

    /// Registers a stream, which the caller must then look up in the revocations.
    ///
    /// `ends_at`: the time from which its token is not accepted. `stale_after`: the age of the view that ends it.
    pub fn open(
        self: &Arc<Self>,
        facts: &StreamFacts,
        ends_at: Timestamp,
        stale_after: Option<Duration>,
    ) -> Result<LiveStream, Cause> {
        let mut inner = self.lock();
        let stale_after_ms = stale_after.map(|age| u32::try_from(age.as_millis()).unwrap_or(u32::MAX));
        let status_index = facts.status.as_ref().map(|status| status.index).unwrap_or_default();
        let slot = Slot { issued_at: facts.issued_at, stale_after_ms, status_index, ..Slot::default() };
        let stream = self.place(&mut inner, slot)?;
        if let Some(bound) = stale_after_ms {
            inner.strictest = Some(inner.strictest.map_or(bound, |strictest| strictest.min(bound)));
        }
        let issuer = &facts.issuer;
        let keys = facts.targets.iter().cloned().map(Key::Target);
        let keys = keys.chain([Key::Target(Target::issuer(issuer.clone())), Key::Second(ends_at.as_secs_ceil())]);
        let keys = keys.chain(facts.key.map(|key| Key::Verified(issuer.clone(), key)));
        let list = facts.status.as_ref().map(|status| Key::StatusList(issuer.clone(), status.uri.clone()));
        for key in keys.chain(list) {
            inner.enter(&self.hasher, stream.slot, key);
        }
        inner.slots[stream.slot as usize].links.shrink_to_fit();
        Ok(stream)
    }

    /// Registers a stream that only its client, its server and the end of this process end.
    pub fn keep(self: &Arc<Self>) -> Result<LiveStream, Cause> {
        self.place(&mut self.lock(), Slot::default())
    }

    fn place(self: &Arc<Self>, inner: &mut Inner, slot: Slot) -> Result<LiveStream, Cause> {
        if self.open.load(Ordering::Relaxed) >= self.max.load(Ordering::Relaxed) {
            return Err(Cause::Crowded);
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        let signal = Arc::new(Signal::default());
        let slot = inner.place(Slot { signal: Some(signal.clone()), ..slot });
        Ok(LiveStream { streams: self.clone(), slot, signal })
    }

    /// Ends the streams of an applied revocation; returns their number.
    pub fn revoke(&self, revocation: &Revocation) -> usize {
        if self.open_count() == 0 || revocation.target.kind == Kind::Registration {
            return 0;
        }
        let key = Key::Target(revocation.target.clone());
        let covered = |slot: &Slot| revocation.watermark.covers(slot.issued_at);
        let mut inner = self.lock();
        let ended = self.end_list(&mut inner, &key, revocation.origin.into(), covered);
        if ended > 0 {
            if inner.recent.len() == RECENT {
                inner.recent.pop_front();
            }
            inner.recent.push_back((Cut::of(revocation), ended));
        }
        ended
    }

    /// The number of open streams that a revocation of one of these targets could end. Takes time linear in the number
    /// of streams: for operators alone.
    pub fn count(&self, targets: &[Target]) -> usize {
        let inner = self.lock();
        let lists = targets.iter().filter_map(|target| inner.find(&self.hasher, &Key::Target(target.clone())));
        lists.flat_map(|list| inner.members(list)).collect::<BTreeSet<_>>().len()
    }

    /// Takes the number of streams that a revocation ended: it is returned once, so a repetition has ended none.
    pub fn take_ended(&self, revocation: &Revocation) -> usize {
        let (cut, recent) = (Cut::of(revocation), &mut self.lock().recent);
        let mut taken = 0;
        recent.retain(|(known, count)| {
            let is_it = *known == cut;
            taken += if is_it { *count } else { 0 };
            !is_it
        });
        taken
    }

    /// Ends the streams of an issuer that is not configured any more.
    pub fn remove_issuer(&self, issuer: &IssuerName) {
        let key = Key::Target(Target::issuer(issuer.clone()));
        self.end_list(&mut self.lock(), &key, Cause::IssuerRemoved, |_| true);
    }

    /// Revocations under the new name of an issuer also end the streams that were opened under the old one.
    pub fn rename_issuer(&self, old: &IssuerName, new: &IssuerName) {
        let mut inner = self.lock();
        let Some(list) = inner.find(&self.hasher, &Key::Target(Target::issuer(old.clone()))) else { return };
        for at in inner.members(list).collect::<Vec<_>>() {
            let links = inner.slots[at as usize].links.iter();
            let keys = links.filter_map(|link| inner.lists[link.list as usize].key.under(old, new));
            for key in keys.collect::<Vec<_>>() {
                inner.enter(&self.hasher, at, key);
            }
        }
    }

    /// Ends the streams of an issuer whose tokens were verified by a key that is not among the remaining ones.
    pub fn keep_keys(&self, issuer: &IssuerName, stays: impl Fn(KeyDigest) -> bool) {
        let mut inner = self.lock();
        let gone = inner.keys.iter().filter(|(of, key)| of == issuer && !stays(*key));
        for (issuer, key) in gone.cloned().collect::<Vec<_>>() {
            self.end_list(&mut inner, &Key::Verified(issuer, key), Cause::KeyWithdrawn, |_| true);
        }
    }

    /// Ends the streams whose tokens have expired, and those whose rules do not allow a view of this age.
    pub fn sweep(&self, now: Timestamp, age: Option<Duration>) {
        if self.open_count() == 0 {
            return;
        }
        let mut inner = self.lock();
        while let Some(second) = inner.seconds.first().copied().filter(|second| *second <= now.as_secs()) {
            self.end_list(&mut inner, &Key::Second(second), Cause::Expired, |_| true);
        }
        let age_ms = age.map_or(u128::MAX, |age| age.as_millis());
        if inner.strictest.is_some_and(|bound| u128::from(bound) < age_ms) {
            let stale = |slot: &Slot| slot.stale_after_ms.is_some_and(|bound| u128::from(bound) < age_ms);
            self.end_all(&mut inner, usize::MAX, Cause::Stale, stale);
            let bounds = inner.slots.iter().filter(|slot| slot.signal.is_some()).filter_map(|slot| slot.stale_after_ms);
            inner.strictest = bounds.min();
        }
    }

    /// Ends at most this many streams because the process ends; returns how many are left.
    pub fn drain(&self, most: usize) -> usize {
        self.end_all(&mut self.lock(), most, Cause::Draining, |_| true);
        self.open_count()
    }

    /// A mark for [`Self::is_carried_out`]: every order given until now is before it.
    pub fn mark(&self) -> u64 {
        self.lock().orders
    }

    /// Whether every order before the mark has been carried out.
    pub fn is_carried_out(&self, mark: u64) -> bool {
        self.lock().pending.first().is_none_or(|order| *order >= mark)
    }

    fn end_all(&self, inner: &mut Inner, most: usize, cause: Cause, hit: impl Fn(&Slot) -> bool) {
        let slots = inner.slots.iter().enumerate().filter(|(_, slot)| slot.signal.is_some() && hit(slot));
        let slots: Vec<_> = slots.map(|(at, _)| at).take(most).collect();
        let now = Instant::now();
        for at in slots.into_iter().filter_map(|at| u32::try_from(at).ok()) {
            self.end(inner, at, cause, now);
        }
    }

    fn end_list(&self, inner: &mut Inner, key: &Key, cause: Cause, hit: impl Fn(&Slot) -> bool) -> usize {
        let Some(list) = inner.find(&self.hasher, key) else { return 0 };
        let hits: Vec<_> = inner.members(list).filter(|at| hit(&inner.slots[*at as usize])).collect();
        let now = Instant::now();
        for at in &hits {
            self.end(inner, *at, cause, now);
        }
        hits.len()
    }

    fn end(&self, inner: &mut Inner, at: u32, cause: Cause, now: Instant) {
        let Some(signal) = self.release(inner, at) else { return };
        let order = inner.orders;
        inner.orders += 1;
        inner.pending.insert(order);
        let _ = signal.ended.set(Ended { cause, at: now, order }); // Only a used slot is ended, and once.
        let waker = signal.waker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes a stream out of the index.
    fn release(&self, inner: &mut Inner, at: u32) -> Option<Arc<Signal>> {
        let slot = &mut inner.slots[at as usize];
        let signal = slot.signal.take()?;
        for link in std::mem::take(&mut slot.links) {
            inner.unlink(&self.hasher, link);
        }
        inner.free_slots.push(at);
        if self.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Frees the memory of a burst.
            let (pending, orders, recent) =
                (std::mem::take(&mut inner.pending), inner.orders, std::mem::take(&mut inner.recent));
            *inner = Inner { pending, orders, recent, ..Inner::default() };
        }
        Some(signal)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LiveStream {
    /// Ready when the stream has to end.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Some(ended) = self.signal.ended.get() {
            return Poll::Ready(*ended);
        }
        let mut waker = self.signal.waker.lock().unwrap_or_else(PoisonError::into_inner);
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        // The stream may have been ended meanwhile.
        self.signal.ended.get().map_or(Poll::Pending, |ended| Poll::Ready(*ended))
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        let mut inner = self.streams.lock();
        match self.signal.ended.get() {
            Some(ended) => {
                inner.pending.remove(&ended.order);
            }
            None => drop(self.streams.release(&mut inner, self.slot)),
        }
    }
}

impl Inner {
    fn place(&mut self, slot: Slot) -> u32 {
        if let Some(at) = self.free_slots.pop() {
            self.slots[at as usize] = slot;
            return at;
        }
        self.slots.push(slot);
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    fn find(&self, hasher: &DefaultHashBuilder, key: &Key) -> Option<u32> {
        self.places.find(hasher.hash_one(key), |list| self.lists[*list as usize].key == *key).copied()
    }

    /// The slots in a list.
    fn members(&self, list: u32) -> impl Iterator<Item = u32> + '_ {
        let next = move |at: &u32| {
            let link = self.slots[*at as usize].links.iter().find(|link| link.list == list);
            link.map(|link| link.next).filter(|next| *next != NONE)
        };
        let head = self.lists[list as usize].head;
        std::iter::successors((head != NONE).then_some(head), next)
    }

    /// Puts a stream into the list of a key, once.
    fn enter(&mut self, hasher: &DefaultHashBuilder, at: u32, key: Key) {
        let list = self.find(hasher, &key).unwrap_or_else(|| self.add_list(hasher, key));
        if !self.slots[at as usize].links.iter().any(|link| link.list == list) {
            let link = self.link(list, at);
            self.slots[at as usize].links.push(link);
        }
    }

    /// Puts a stream at the head of a list.
    fn link(&mut self, list: u32, at: u32) -> Link {
        let next = std::mem::replace(&mut self.lists[list as usize].head, at);
        if let Some(link) = self.link_of(next, list) {
            link.previous = at;
        }
        Link { list, previous: NONE, next }
    }

    fn add_list(&mut self, hasher: &DefaultHashBuilder, key: Key) -> u32 {
        match &key {
            Key::Second(second) => drop(self.seconds.insert(*second)),
            Key::Verified(issuer, key) => drop(self.keys.insert((issuer.clone(), *key))),
            Key::StatusList(issuer, uri) => drop(self.status_lists.insert((issuer.clone(), uri.clone()))),
            Key::Target(_) => {}
        }
        let hash = hasher.hash_one(&key);
        let list = List { key, head: NONE };
        let at = if let Some(at) = self.free_lists.pop() {
            self.lists[at as usize] = list;
            at
        } else {
            self.lists.push(list);
            u32::try_from(self.lists.len() - 1).unwrap_or(NONE)
        };
        let lists = &self.lists;
        self.places.insert_unique(hash, at, |at| hasher.hash_one(&lists[*at as usize].key));
        at
    }

    fn unlink(&mut self, hasher: &DefaultHashBuilder, link: Link) {
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
            if let Ok(place) = self.places.find_entry(hasher.hash_one(key), |at| *at == link.list) {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::authz::revocation::{RevocationIndex, TargetId};
    use crate::authz::status_list::StatusReference;

    const NEVER: Timestamp = Timestamp::from_secs(1_000_000);

    fn issuer() -> IssuerName {
        IssuerName::parse("main").unwrap()
    }

    fn target(kind: Kind, id: &str) -> Target {
        Target::new(issuer(), kind, TargetId::new(id))
    }

    fn facts(token: &str, user: &str, iat: i64) -> StreamFacts {
        let targets = [target(Kind::Token, token), target(Kind::User, user), target(Kind::Key, "k")];
        let issued_at = Some(Timestamp::from_secs(iat));
        StreamFacts { issuer: issuer(), key: None, issued_at, expires_at: NEVER, targets: targets.into(), status: None }
    }

    fn revocation(target: Target, watermark: Watermark) -> Revocation {
        Revocation { target, watermark, expires_at: NEVER, origin: Origin::SignedOut, note: None }
    }

    fn ended(stream: &LiveStream) -> Option<Cause> {
        match stream.poll_ended(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(ended) => Some(ended.cause),
            Poll::Pending => None,
        }
    }

    fn open(streams: &Arc<LiveStreams>, token: &str, user: &str, iat: i64) -> LiveStream {
        streams.open(&facts(token, user, iat), NEVER, None).unwrap()
    }

    #[test]
    fn a_revocation_ends_exactly_the_streams_that_it_hits() {
        let streams = Arc::<LiveStreams>::default();
        let old = open(&streams, "t1", "alice", 100);
        let new = open(&streams, "t2", "alice", 200);
        let bob = open(&streams, "t3", "bob", 100);
        let until = Watermark::at(Timestamp::from_secs(150));
        assert_eq!(streams.revoke(&revocation(target(Kind::User, "alice"), until)), 1);
        assert_eq!((ended(&old), ended(&new), ended(&bob)), (Some(Cause::SignedOut), None, None));
        assert_eq!(streams.revoke(&revocation(target(Kind::Session, "alice"), Watermark::FOREVER)), 0);
        assert_eq!(streams.revoke(&revocation(target(Kind::User, "alice"), until)), 0, "once");
        assert_eq!((streams.open_count(), streams.ending_count()), (2, 1));
        let mark = streams.mark();
        assert!(!streams.is_carried_out(mark), "not before it was sent");
        drop(old);
        assert!(streams.is_carried_out(mark));
        let first = revocation(target(Kind::User, "alice"), until);
        assert_eq!((streams.take_ended(&first), streams.take_ended(&first)), (1, 0), "a receipt tells it once");
        assert_eq!(streams.revoke(&revocation(Target::issuer(issuer()), Watermark::FOREVER)), 2);
        assert_eq!((ended(&new), ended(&bob)), (Some(Cause::SignedOut), Some(Cause::SignedOut)));
    }

    #[test]
    fn slots_are_used_again_and_lists_stay_whole() {
        let streams = Arc::<LiveStreams>::default();
        let mut live: Vec<LiveStream> = Vec::new();
        for round in 0..2_000_usize {
            let user = format!("user-{}", round % 7);
            live.push(open(&streams, &format!("t{round}"), &user, 100));
            if round % 3 != 0 {
                live.swap_remove(round * 31 % live.len());
            }
        }
        assert_eq!(streams.open_count(), live.len());
        let mut hit = 0;
        for user in 0..7 {
            hit += streams.revoke(&revocation(target(Kind::User, &format!("user-{user}")), Watermark::FOREVER));
        }
        assert_eq!(hit, live.len());
        assert!(live.iter().all(|stream| ended(stream).is_some()));
        drop(live);
        assert_eq!((streams.open_count(), streams.ending_count()), (0, 0));
        let inner = streams.lock();
        assert_eq!((inner.slots.len(), inner.lists.len(), inner.places.len(), inner.seconds.len()), (0, 0, 0, 0));
    }

    #[test]
    fn time_ends_what_has_expired_and_what_is_too_stale() {
        let streams = Arc::<LiveStreams>::default();
        let at = Timestamp::from_secs;
        let soon = streams.open(&facts("a", "u", 1), at(10), None).unwrap();
        let strict = streams.open(&facts("b", "u", 1), at(20), Some(Duration::from_secs(2))).unwrap();
        let lenient = streams.open(&facts("c", "u", 1), at(20), Some(Duration::from_secs(9))).unwrap();
        streams.sweep(Timestamp::from_millis(9_999), Some(Duration::from_secs(2)));
        assert_eq!(streams.open_count(), 3);
        streams.sweep(at(10), Some(Duration::from_secs(2)));
        assert_eq!((ended(&soon), ended(&strict)), (Some(Cause::Expired), None));
        streams.sweep(at(11), Some(Duration::from_millis(2_001)));
        assert_eq!((ended(&strict), ended(&lenient)), (Some(Cause::Stale), None));
        streams.sweep(at(11), None);
        assert_eq!(ended(&lenient), Some(Cause::Stale));
    }

    #[test]
    fn keys_and_issuers_go_with_their_streams() {
        let streams = Arc::<LiveStreams>::default();
        let by = |key: u8| {
            let facts = StreamFacts { key: Some([key; 16]), ..facts("t", "u", 1) };
            streams.open(&facts, NEVER, None).unwrap()
        };
        let (first, second, vouched) = (by(1), by(2), open(&streams, "a", "u", 1));
        streams.keep_keys(&IssuerName::parse("other").unwrap(), |_| false);
        streams.keep_keys(&issuer(), |key| key == [1; 16]);
        assert_eq!((ended(&first), ended(&second), ended(&vouched)), (None, Some(Cause::KeyWithdrawn), None));
        streams.keep_keys(&issuer(), |_| false);
        assert_eq!((ended(&first), ended(&vouched)), (Some(Cause::KeyWithdrawn), None));
        streams.remove_issuer(&issuer());
        assert_eq!(ended(&vouched), Some(Cause::IssuerRemoved));
    }

    #[test]
    fn a_status_list_ends_the_streams_at_its_places() {
        let (streams, uri) = (Arc::<LiveStreams>::default(), Arc::<str>::from("https://idp.test/1"));
        let at = |index: u32, stale_after| {
            let status = Some(StatusReference { uri: uri.clone(), index });
            streams.open(&StreamFacts { status, ..facts("t", "u", 1) }, NEVER, stale_after).unwrap()
        };
        let [revoked, suspended, strict] = [1, 2, 3].map(|index| at(index, Some(Duration::from_secs(9))));
        let (lenient, without) = (at(3, None), open(&streams, "a", "u", 1));
        assert_eq!(streams.status_lists(), [(issuer(), uri.clone())]);
        streams.check_status_list(&issuer(), &uri, |index| match index {
            1 => Some(Cause::Revoked),
            2 => Some(Cause::Suspended),
            _ => None,
        });
        let causes = [&revoked, &suspended, &strict, &lenient, &without].map(ended);
        assert_eq!(causes, [Some(Cause::Revoked), Some(Cause::Suspended), None, None, None]);
        let renamed = IssuerName::parse("new").unwrap();
        streams.rename_issuer(&issuer(), &renamed);
        streams.end_stale_status_list(&renamed, &uri);
        assert_eq!([&strict, &lenient, &without].map(ended), [Some(Cause::Stale), None, None]);
        streams.check_status_list(&renamed, &uri, |_| Some(Cause::Revoked));
        assert_eq!(streams.status_lists(), []);
    }

    #[test]
    fn a_stream_is_found_under_every_name_of_its_issuer() {
        let (streams, new) = (Arc::<LiveStreams>::default(), IssuerName::parse("new").unwrap());
        let facts = |user: &str| StreamFacts { key: Some([1; 16]), ..facts("t", user, 1) };
        let [alice, bob, carol] =
            ["alice", "bob", "carol"].map(|user| streams.open(&facts(user), NEVER, None).unwrap());
        streams.rename_issuer(&issuer(), &new);
        streams.rename_issuer(&issuer(), &new);
        let renamed = |user: &str| Target::new(new.clone(), Kind::User, TargetId::new(user));
        let both = [target(Kind::User, "alice"), renamed("alice")];
        assert_eq!(streams.count(&both), 1, "once, by whatever name");
        assert_eq!(streams.revoke(&revocation(renamed("alice"), Watermark::FOREVER)), 1);
        assert_eq!(streams.revoke(&revocation(target(Kind::User, "bob"), Watermark::FOREVER)), 1);
        assert_eq!((ended(&alice), ended(&bob)), (Some(Cause::SignedOut), Some(Cause::SignedOut)));
        streams.keep_keys(&new, |_| false);
        assert_eq!(ended(&carol), Some(Cause::KeyWithdrawn));
        drop((alice, bob, carol));
        let inner = streams.lock();
        assert_eq!((inner.slots.len(), inner.lists.len(), inner.keys.len()), (0, 0, 0));
    }

    #[test]
    fn streams_without_an_end_count_and_end_with_the_process() {
        let streams = Arc::<LiveStreams>::default();
        streams.limit(2);
        let (kept, other) = (streams.keep().unwrap(), open(&streams, "a", "u", 1));
        assert_eq!((streams.open_count(), streams.keep().err()), (2, Some(Cause::Crowded)));
        streams.remove_issuer(&issuer());
        streams.sweep(NEVER, None);
        assert_eq!((ended(&kept), ended(&other)), (None, Some(Cause::IssuerRemoved)));
        assert_eq!(streams.drain(1), 0);
        assert_eq!(ended(&kept), Some(Cause::Draining));
    }

    /// The second of the two finds the first: the stream that opens, or the revocation that is applied.
    #[test]
    fn a_stream_that_opens_in_the_moment_of_its_revocation_ends() {
        for round in 0..1_000 {
            let (streams, index) = (Arc::<LiveStreams>::default(), RevocationIndex::new());
            let (facts, go) = (facts(&format!("t{round}"), "u", 1), AtomicBool::new(false));
            let entry = revocation(target(Kind::User, "u"), Watermark::FOREVER);
            let stream = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !go.load(Ordering::Acquire) {
                        std::hint::spin_loop();
                    }
                    index.apply(&entry, Duration::from_secs(1));
                    streams.revoke(&entry);
                });
                go.store(true, Ordering::Release);
                let stream = streams.open(&facts, NEVER, None).unwrap();
                index.find(&*facts.targets, facts.issued_at).is_none().then_some(stream)
            });
            assert!(stream.is_none_or(|stream| ended(&stream).is_some()), "round {round}");
        }
    }

    #[test]
    fn ten_thousand_streams_are_small_and_end_fast() {
        let streams = Arc::<LiveStreams>::default();
        let live: Vec<_> =
            (0..10_000).map(|at| open(&streams, &format!("{at:032x}"), &format!("user-{at}"), 1)).collect();
        let inner = streams.lock();
        let links: usize = inner.slots.iter().map(|slot| slot.links.capacity() * size_of::<Link>()).sum();
        let held = inner.slots.capacity() * size_of::<Slot>()
            + links
            + inner.lists.capacity() * (size_of::<List>() + 48)
            + inner.places.capacity() * 5
            + live.len() * (size_of::<Signal>() + 16);
        drop(inner);
        println!("{} bytes for each stream in the index", held / live.len());
        assert!(held / live.len() <= 1024, "{}", held / live.len());
        let began = Instant::now();
        assert_eq!(streams.revoke(&revocation(Target::issuer(issuer()), Watermark::FOREVER)), live.len());
        println!("all of an issuer's ended in {:?}", began.elapsed());
        assert!(live.iter().all(|stream| ended(stream).is_some()));
    }
}
