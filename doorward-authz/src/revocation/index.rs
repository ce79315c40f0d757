//! Every revocation this process knows, ready for the decision.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::arena::Arena;
use super::note::Notes;
use super::record::{Record, Watermarks};
use super::target_id::Form;
use super::{Hit, Kind, Origin, Revocation, Target};
use crate::claims::{IssuerName, Timestamp};

/// The index: exact, mergeable, small.
///
/// Readers of different shards never meet, and a writer holds one shard for one entry, so a burst of
/// revocations cannot hold up decisions.
pub struct RevocationIndex {
    hasher: DefaultHashBuilder,
    shards: Box<[RwLock<Shard>]>,
    /// A bit for each kind of which a target was ever applied: the others are not looked for.
    kinds: AtomicU8,
    /// Locked beside no shard, or before it.
    notes: Notes,
    /// See [`Self::forgotten`]; whole seconds since 1970.
    forgotten: AtomicU32,
}

/// By kind: in the order of [`Kind::ALL`], then the registrations.
type Counts = [usize; Kind::ALL.len() + 1];

/// A part of the index: records one after the other, found by a table of their places.
#[derive(Default)]
struct Shard {
    arena: Arena,
    /// Bytes of the arena that no place leads to any more.
    garbage: usize,
    places: HashTable<u32>,
    issuers: Names,
    counts: Counts,
}

/// The issuers that records name by number. A name takes memory until the process ends; the log names few.
#[derive(Default)]
struct Names {
    by_number: Vec<IssuerName>,
    numbers: HashMap<IssuerName, u32>,
}

impl Default for RevocationIndex {
    fn default() -> Self {
        Self::new()
    }
}

impl RevocationIndex {
    /// Enough that a reader seldom meets the writer.
    const SHARDS: usize = 64;

    #[must_use]
    pub fn new() -> Self {
        let shards = (0..Self::SHARDS).map(|_| RwLock::default()).collect();
        let hasher = DefaultHashBuilder::default();
        Self { hasher, shards, kinds: AtomicU8::new(0), notes: Notes::default(), forgotten: AtomicU32::new(0) }
    }

    /// Merges a revocation, whatever its `expires_at`; true if that taught the index anything.
    ///
    /// `uptime` counts on a clock that nobody sets, from a moment that is the same in every call.
    pub fn apply(&self, revocation: &Revocation, uptime: Duration) -> bool {
        let bit = bit(revocation.target.kind);
        if self.kinds.load(Ordering::Relaxed) & bit == 0 {
            self.kinds.fetch_or(bit, Ordering::Release); // Before a decision can miss what comes.
        }
        let hash = self.hash(&revocation.target);
        let taught = write(self.shard(hash)).merge(&self.hasher, hash, revocation, uptime);
        self.notes.keep(revocation);
        taught
    }

    /// Whether this revocation would teach the index nothing.
    #[must_use]
    pub fn knows(&self, revocation: &Revocation) -> bool {
        self.watermarks(&revocation.target).is_some_and(|mut known| !known.merge(revocation, Duration::ZERO))
    }

    /// The revocation that covers a token with these targets, if any; `Revoked` before `SignedOut`.
    #[must_use]
    pub fn find<'a>(&self, targets: impl IntoIterator<Item = &'a Target>, issued_at: Option<Timestamp>) -> Option<Hit> {
        targets
            .into_iter()
            .filter_map(|target| self.watermarks(target)?.hit(target.kind, issued_at))
            .max_by_key(|hit| (hit.origin, hit.watermark))
    }

    /// Whether a token that was issued then is registered by this target.
    #[must_use]
    pub fn registers(&self, target: &Target, issued_at: Option<Timestamp>, now: Timestamp) -> bool {
        self.watermarks(target).is_some_and(|known| {
            now < Timestamp::from_secs(i64::from(known.expires)) && known.hit(target.kind, issued_at).is_some()
        })
    }

    /// Forgets the targets that can hit no live token, and returns how many went.
    ///
    /// A target goes when both clocks agree: it expired a `leeway` before `now`, and for `hold` of uptime nothing
    /// was learnt about it. `leeway` is the longest that a token is accepted after its end here, whatever the writer of
    /// the revocation granted. A wall clock that is wrong for a while thus takes nothing away: a token lives no
    /// longer than `hold`, so the tokens of a target that was held for it are dead whatever the wall clock says.
    pub fn purge(&self, now: Timestamp, leeway: Duration, uptime: Duration, hold: Duration) -> usize {
        let Some(learnt) = uptime.checked_sub(hold) else { return 0 };
        let seconds = |seconds: i64| u32::try_from(seconds.max(0)).unwrap_or(u32::MAX);
        let limits = Limits {
            expires: seconds(now.minus(leeway).as_secs()),
            leeway: u32::try_from(leeway.as_secs()).unwrap_or(u32::MAX),
            learnt: u32::try_from(learnt.as_secs()).unwrap_or(u32::MAX),
        };
        let purged = self.shards.iter().map(|shard| write(shard).purge(&self.hasher, limits, &self.forgotten));
        let purged = purged.sum();
        if purged > 0 {
            self.notes.retain(|target| self.has(target));
        }
        purged
    }

    /// Revocations that expired after this instant are all here. A token that has expired by it stays expired
    /// when the wall clock is set back: what revoked it may be forgotten.
    #[must_use]
    pub fn forgotten(&self) -> Timestamp {
        Timestamp::from_secs(i64::from(self.forgotten.load(Ordering::Acquire)))
    }

    /// Whether anything is known about this target.
    #[must_use]
    pub fn has(&self, target: &Target) -> bool {
        self.watermarks(target).is_some()
    }

    /// How many targets of each kind are revoked, in the order of [`Kind::ALL`]; then, how many tokens are
    /// registered.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for shard in &self.shards {
            for (count, more) in counts.iter_mut().zip(read(shard).counts) {
                *count += more;
            }
        }
        counts
    }

    /// Every revocation known, one shard at a time.
    pub fn revocations(&self) -> impl Iterator<Item = Revocation> + '_ {
        self.entries().filter(|entry| entry.target.kind != Kind::Registration)
    }

    /// Everything known, registrations included: what a store that lost entries is given back.
    pub fn entries(&self) -> impl Iterator<Item = Revocation> + '_ {
        self.shards.iter().flat_map(|shard| {
            let mut entries = read(shard).entries();
            self.notes.annotate(&mut entries);
            entries
        })
    }

    fn watermarks(&self, target: &Target) -> Option<Watermarks> {
        if self.kinds.load(Ordering::Acquire) & bit(target.kind) == 0 {
            return None;
        }
        let hash = self.hash(target);
        let shard = read(self.shard(hash));
        let place = shard.find(hash, target)?;
        Some(shard.arena.record(place).watermarks())
    }

    fn hash(&self, target: &Target) -> u64 {
        hash(&self.hasher, &target.issuer, target.kind, target.id.parts())
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        // The table itself uses the low and the top seven bits; take others.
        &self.shards[(hash >> 40) as usize % Self::SHARDS]
    }
}

const fn bit(kind: Kind) -> u8 {
    1 << kind as u8
}

/// Keyed at random in every process, so that nobody can choose ids that collide.
fn hash(hasher: &DefaultHashBuilder, issuer: &IssuerName, kind: Kind, (form, id): (Form, &[u8])) -> u64 {
    hasher.hash_one((issuer.as_str(), kind as u8, form as u8, id))
}

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(shard: &RwLock<Shard>) -> RwLockWriteGuard<'_, Shard> {
    shard.write().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn find(&self, hash: u64, target: &Target) -> Option<u32> {
        let same = |place: &u32| {
            let record = self.arena.record(*place);
            record.kind() == target.kind
                && record.id_parts() == target.id.parts()
                && *self.issuers.name(record) == target.issuer
        };
        self.places.find(hash, same).copied()
    }

    fn merge(&mut self, hasher: &DefaultHashBuilder, hash: u64, revocation: &Revocation, uptime: Duration) -> bool {
        let Target { issuer, kind, id } = &revocation.target;
        let known = self.find(hash, &revocation.target);
        let mut watermarks = known.map(|place| self.arena.record(place).watermarks()).unwrap_or_default();
        if !watermarks.merge(revocation, uptime) {
            return false;
        }
        let issuer_at = self.issuers.number(issuer);
        let write = |block: &mut Vec<u8>| Record::write(block, *kind, issuer_at, id, &watermarks);
        let Some(place) = self.arena.add(write) else { return false };
        if let Some(old) = known {
            self.garbage += self.arena.record(old).len();
            if let Some(slot) = self.places.find_mut(hash, |place| *place == old) {
                *slot = place;
            }
        } else {
            self.counts[*kind as usize] += 1;
            let (arena, issuers) = (&self.arena, &self.issuers);
            self.places.insert_unique(hash, place, |place| hash_of(hasher, issuers, arena.record(*place)));
        }
        if self.garbage > self.arena.len() / 2 {
            self.compact(hasher, |_| false);
        }
        true
    }

    fn purge(&mut self, hasher: &DefaultHashBuilder, limits: Limits, forgotten: &AtomicU32) -> usize {
        let before = self.places.len();
        let records = self.places.iter().map(|place| self.arena.record(*place));
        let latest = records.filter(|record| limits.allow(*record)).map(Record::expires).max();
        if let Some(latest) = latest {
            forgotten.fetch_max(latest.saturating_add(limits.leeway), Ordering::AcqRel); // Before a decision can miss what goes.
            self.compact(hasher, |record| limits.allow(record));
        }
        before - self.places.len()
    }

    /// Rewrites the records, without those that may go and without garbage.
    fn compact(&mut self, hasher: &DefaultHashBuilder, may_go: impl Fn(Record<'_>) -> bool) {
        let mut next = Self { issuers: std::mem::take(&mut self.issuers), ..Self::default() };
        for record in self.places.iter().map(|place| self.arena.record(*place)) {
            if may_go(record) {
                continue;
            }
            let Some(place) = next.arena.add(|block| block.extend_from_slice(record.as_bytes())) else { continue };
            next.counts[record.kind() as usize] += 1;
            let (arena, issuers) = (&next.arena, &next.issuers);
            let rehash = |place: &u32| hash_of(hasher, issuers, arena.record(*place));
            next.places.insert_unique(rehash(&place), place, rehash);
        }
        *self = next;
    }

    fn entries(&self) -> Vec<Revocation> {
        let of = |place: &u32| {
            let record = self.arena.record(*place);
            let Watermarks { signed_out, revoked, expires, .. } = record.watermarks();
            let target = Target::new(self.issuers.name(record).clone(), record.kind(), record.id());
            let expires_at = Timestamp::from_secs(i64::from(expires));
            [(Origin::SignedOut, signed_out), (Origin::Revoked, revoked)].into_iter().filter_map(
                move |(origin, watermark)| {
                    Some(Revocation { target: target.clone(), watermark: watermark?, expires_at, origin, note: None })
                },
            )
        };
        self.places.iter().flat_map(of).collect()
    }
}

fn hash_of(hasher: &DefaultHashBuilder, issuers: &Names, record: Record<'_>) -> u64 {
    hash(hasher, issuers.name(record), record.kind(), record.id_parts())
}

/// The bound of forgetting. A record's `expires` is rounded up and its `learnt` down, so the latter must lie a whole
/// second back: nothing goes early.
#[derive(Clone, Copy)]
struct Limits {
    expires: u32,
    leeway: u32,
    learnt: u32,
}

impl Limits {
    fn allow(self, record: Record<'_>) -> bool {
        record.expires() <= self.expires && record.learnt() < self.learnt
    }
}

impl Names {
    fn name(&self, record: Record<'_>) -> &IssuerName {
        &self.by_number[record.issuer() as usize]
    }

    fn number(&mut self, name: &IssuerName) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.by_number.len()).unwrap_or(u32::MAX); // The log has fewer entries.
        self.by_number.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }
}
