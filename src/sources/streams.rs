//! Live streams, and the index that finds the streams of a revocation.
//!
//! A check is made once, when a stream opens; so each open stream is indexed by every target that can revoke its
//! token, and a log entry ends exactly the streams of its tokens, by the rule of the decision: the watermark covers
//! the token's `iat`, or its absence. A stream that no revocation ends has no index entry: it counts towards the
//! limit, and ends with the process.
//!
//! A stream is registered first and then looked up in the revocations. An entry is applied first and then looked up
//! here. So the later step of the two finds the earlier one.

mod cause;
mod index;
mod status;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::jwks::KeyDigest;
use crate::authz::revocation::{Kind, Revocation, Target, Watermark};
use crate::authz::stream_proof::StreamFacts;
pub use cause::Cause;
use index::{Index, Key, Slot};

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
    index: Index,
    /// Pending orders.
    pending: BTreeSet<u64>,
    orders: u64,
    /// The smallest bound of staleness since the index was last empty, in milliseconds.
    strictest: Option<u32>,
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

/// Revocations whose count of ended streams is remembered for receipts.
const RECENT: usize = 1024;

impl Default for LiveStreams {
    fn default() -> Self {
        Self { inner: Mutex::default(), open: AtomicUsize::new(0), max: AtomicUsize::new(usize::MAX) }
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
            inner.index.enter(stream.slot, key);
        }
        inner.index.slots[stream.slot as usize].links.shrink_to_fit();
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
        let slot = inner.index.place(Slot { signal: Some(signal.clone()), ..slot });
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
        let lists = targets.iter().filter_map(|target| inner.index.find(&Key::Target(target.clone())));
        lists.flat_map(|list| inner.index.members(list)).collect::<BTreeSet<_>>().len()
    }

    /// Takes the number of streams that a revocation ended. The number is returned once: a repetition gets 0.
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
        let Some(list) = inner.index.find(&Key::Target(Target::issuer(old.clone()))) else { return };
        for at in inner.index.members(list).collect::<Vec<_>>() {
            let links = inner.index.slots[at as usize].links.iter();
            let keys = links.filter_map(|link| inner.index.lists[link.list as usize].key.under(old, new));
            for key in keys.collect::<Vec<_>>() {
                inner.index.enter(at, key);
            }
        }
    }

    /// Ends the streams of an issuer whose tokens were verified by a key that is not among the remaining ones.
    pub fn keep_keys(&self, issuer: &IssuerName, stays: impl Fn(KeyDigest) -> bool) {
        let mut inner = self.lock();
        let gone = inner.index.keys.iter().filter(|(of, key)| of == issuer && !stays(*key));
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
        while let Some(second) = inner.index.seconds.first().copied().filter(|second| *second <= now.as_secs()) {
            self.end_list(&mut inner, &Key::Second(second), Cause::Expired, |_| true);
        }
        let age_ms = age.map_or(u128::MAX, |age| age.as_millis());
        if inner.strictest.is_some_and(|bound| u128::from(bound) < age_ms) {
            let stale = |slot: &Slot| slot.stale_after_ms.is_some_and(|bound| u128::from(bound) < age_ms);
            self.end_all(&mut inner, usize::MAX, Cause::Stale, stale);
            let bounds =
                inner.index.slots.iter().filter(|slot| slot.signal.is_some()).filter_map(|slot| slot.stale_after_ms);
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
        let slots = inner.index.slots.iter().enumerate().filter(|(_, slot)| slot.signal.is_some() && hit(slot));
        let slots: Vec<_> = slots.map(|(at, _)| at).take(most).collect();
        let now = Instant::now();
        for at in slots.into_iter().filter_map(|at| u32::try_from(at).ok()) {
            self.end(inner, at, cause, now);
        }
    }

    fn end_list(&self, inner: &mut Inner, key: &Key, cause: Cause, hit: impl Fn(&Slot) -> bool) -> usize {
        let Some(list) = inner.index.find(key) else { return 0 };
        let hits: Vec<_> = inner.index.members(list).filter(|at| hit(&inner.index.slots[*at as usize])).collect();
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
        let signal = inner.index.take(at)?;
        if self.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Frees the memory of a burst.
            (inner.index, inner.strictest) = (Index::default(), None);
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

#[cfg(test)]
mod tests;
