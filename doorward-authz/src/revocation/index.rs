//! Every revocation that this process applies, for decisions.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::arena::Arena;
use super::forgotten::Forgotten;
use super::note::Notes;
use super::record::{Record, Watermarks};
use super::target_id::Form;
use super::{Hit, Kind, Revocation, Target};
use crate::claims::{IssuerName, Timestamp};

/// The index: exact, mergeable, small.
///
/// Readers of different shards never contend, and a writer locks one shard for one entry, so a burst of revocations
/// does not delay decisions.
pub struct RevocationIndex {
    hasher: DefaultHashBuilder,
    shards: Box<[RwLock<Shard>]>,
    /// A bit for each kind with an applied target: lookups skip the other kinds.
    kinds: AtomicU8,
    /// Locked before a shard, or without one.
    notes: Notes,
    /// See [`Self::forgotten`].
    forgotten: Forgotten,
}

/// By kind: in the order of [`Kind::ALL`], then the registrations.
type Counts = [usize; Kind::ALL.len() + 1];

/// A part of the index: records one after the other, found by a table of their places.
#[derive(Default)]
struct Shard {
    arena: Arena,
    /// Bytes of the arena that are not referenced any more.
    garbage: usize,
    places: HashTable<u32>,
    issuers: Names,
    counts: Counts,
}

/// The issuers, which records name by number. A name takes memory until the process ends; a log has few names.
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
    /// Enough that a reader seldom contends with the writer.
    const SHARDS: usize = 64;

    #[must_use]
    pub fn new() -> Self {
        let shards = (0..Self::SHARDS).map(|_| RwLock::default()).collect();
        let hasher = DefaultHashBuilder::default();
        Self { hasher, shards, kinds: AtomicU8::new(0), notes: Notes::default(), forgotten: Forgotten::default() }
    }

    /// Merges a revocation, also an expired one; true if that changed the index.
    ///
    /// `uptime` is the reading of a monotonic clock, with the same origin in every call.
    pub fn apply(&self, revocation: &Revocation, uptime: Duration) -> bool {
        let bit = bit(revocation.target.kind);
        if self.kinds.load(Ordering::Relaxed) & bit == 0 {
            self.kinds.fetch_or(bit, Ordering::Release); // Set first, so that no decision misses the target.
        }
        let hash = self.hash(&revocation.target);
        let taught = write(self.shard(hash)).merge(&self.hasher, hash, revocation, uptime);
        self.notes.keep(revocation);
        taught
    }

    /// Whether this revocation would not change the index.
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

    /// Deletes the targets that cannot refuse a live token any more, and returns their number.
    ///
    /// A target is deleted when both clocks agree: it expired a `leeway` before `now`, and did not change for `hold` of
    /// uptime. `leeway` is the longest time for which a token is accepted after its end here, independent of the
    /// revocation's writer. So a wall clock that is wrong for a while deletes nothing too early: a token lives no
    /// longer than `hold`, so all tokens of a target that was held for `hold` have expired by any clock.
    pub fn purge(&self, now: Timestamp, leeway: Duration, uptime: Duration, hold: Duration) -> usize {
        if now > Timestamp::default() {
            self.forgotten.look(now, uptime); // Otherwise the time is unknown.
        }
        let Some(learnt) = uptime.checked_sub(hold) else { return 0 };
        let seconds = |seconds: i64| u32::try_from(seconds.max(0)).unwrap_or(u32::MAX);
        let limits = Limits {
            expires: seconds(now.minus(leeway).as_secs()),
            leeway: u32::try_from(leeway.as_secs()).unwrap_or(u32::MAX),
            learnt: u32::try_from(learnt.as_secs()).unwrap_or(u32::MAX),
            hold,
        };
        let eras = self.forgotten.eras();
        let purged = self.shards.iter().map(|shard| write(shard).purge(&self.hasher, limits, &eras, &self.forgotten));
        let purged = purged.sum();
        if purged > 0 {
            self.notes.retain(|target| self.has(target));
        }
        purged
    }

    /// The ends of the revocations that were deleted. A token that one of them may have covered stays expired when the
    /// wall clock is set back.
    #[must_use]
    pub fn forgotten(&self) -> &Forgotten {
        &self.forgotten
    }

    /// Whether the index has this target.
    #[must_use]
    pub fn has(&self, target: &Target) -> bool {
        self.watermarks(target).is_some()
    }

    /// The numbers of revoked targets by kind, in the order of [`Kind::ALL`]; then the number of registered tokens.
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

    /// Every revocation in the index, one shard at a time.
    pub fn revocations(&self) -> impl Iterator<Item = Revocation> + '_ {
        self.entries().filter(|entry| entry.target.kind != Kind::Registration)
    }

    /// All entries, registrations included: for writing them back to a store that lost some.
    pub fn entries(&self) -> impl Iterator<Item = Revocation> + '_ {
        self.shards.iter().flat_map(|shard| {
            let mut entries = read(shard).entries();
            self.notes.annotate(&mut entries);
            entries
        })
    }

    /// What is merged for a target, by origin; without notes.
    #[must_use]
    pub fn of(&self, target: &Target) -> Vec<Revocation> {
        self.watermarks(target).map_or_else(Vec::new, |known| known.revocations(target).collect())
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
        // The table itself uses the low and the top seven bits, so the shard uses others.
        &self.shards[(hash >> 40) as usize % Self::SHARDS]
    }
}

const fn bit(kind: Kind) -> u8 {
    1 << kind as u8
}

/// Keyed at random in every process, so that an attacker cannot choose ids that collide.
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

    /// `eras`: see [`Forgotten::eras`].
    fn purge(&mut self, hasher: &DefaultHashBuilder, limits: Limits, eras: &[u32], forgotten: &Forgotten) -> usize {
        let before = self.places.len();
        let mut latest = vec![None; eras.len() + 1];
        let records = self.places.iter().map(|place| self.arena.record(*place));
        for record in records.filter(|record| limits.allow(*record)) {
            let latest = &mut latest[eras.partition_point(|began| *began <= record.learnt())];
            *latest = (*latest).max(Some((record.expires(), record.learnt())));
        }
        let goes = latest.iter().any(Option::is_some);
        for (expires, learnt) in latest.into_iter().flatten() {
            // Ordered before a decision can miss a deleted entry.
            forgotten.note(learnt, expires.saturating_add(limits.leeway), limits.hold);
        }
        if goes {
            self.compact(hasher, |record| limits.allow(record));
        }
        before - self.places.len()
    }

    /// Rewrites the records, without the deletable ones and the garbage.
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
            let target = Target::new(self.issuers.name(record).clone(), record.kind(), record.id());
            record.watermarks().revocations(&target).collect::<Vec<_>>()
        };
        self.places.iter().flat_map(of).collect()
    }
}

fn hash_of(hasher: &DefaultHashBuilder, issuers: &Names, record: Record<'_>) -> u64 {
    hash(hasher, issuers.name(record), record.kind(), record.id_parts())
}

/// The bounds of deletion. A record's `expires` is rounded up and its `learnt` down, so `learnt` must be a whole
/// second back, lest a target be deleted early.
#[derive(Clone, Copy)]
struct Limits {
    expires: u32,
    leeway: u32,
    learnt: u32,
    hold: Duration,
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
        let number = u32::try_from(self.by_number.len()).unwrap_or(u32::MAX); // Never reached: a log has fewer entries.
        self.by_number.push(name.clone());
        self.numbers.insert(name.clone(), number);
        number
    }
}
