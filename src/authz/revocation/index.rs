//! Every revocation this process knows, ready for the decision.

use std::hash::BuildHasher;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::{DefaultHashBuilder, HashTable};

use super::arena::Arena;
use super::record::{Record, Watermarks};
use super::target_id::Form;
use super::{Hit, Kind, Origin, Revocation, Target};
use crate::authz::claims::{IssuerName, Timestamp};

/// The index: exact, mergeable, small.
///
/// Readers of different shards never meet, and a writer holds one shard for one entry, so a burst of
/// revocations cannot hold up decisions.
pub struct RevocationIndex {
    hasher: DefaultHashBuilder,
    shards: Box<[RwLock<Shard>]>,
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
    issuers: Vec<IssuerName>,
    counts: Counts,
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
        Self { hasher: DefaultHashBuilder::default(), shards }
    }

    /// Merges a revocation; true if that taught the index anything.
    ///
    /// What has expired is not kept: no token it could hit is alive.
    pub fn apply(&self, revocation: &Revocation, now: Timestamp) -> bool {
        if revocation.expires_at <= now {
            return false;
        }
        let hash = self.hash(&revocation.target);
        write(self.shard(hash)).merge(&self.hasher, hash, revocation)
    }

    /// Whether this revocation would teach the index nothing.
    #[must_use]
    pub fn knows(&self, revocation: &Revocation) -> bool {
        self.watermarks(&revocation.target).is_some_and(|mut watermarks| !watermarks.merge(revocation))
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

    /// Forgets what can no longer hit a live token; returns how many targets went.
    pub fn purge(&self, now: Timestamp) -> usize {
        self.shards.iter().map(|shard| write(shard).purge(&self.hasher, now)).sum()
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
        self.shards.iter().flat_map(|shard| read(shard).entries())
    }

    fn watermarks(&self, target: &Target) -> Option<Watermarks> {
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
                && self.issuers[usize::from(record.issuer())] == target.issuer
        };
        self.places.find(hash, same).copied()
    }

    fn merge(&mut self, hasher: &DefaultHashBuilder, hash: u64, revocation: &Revocation) -> bool {
        let Target { issuer, kind, id } = &revocation.target;
        let Some(issuer_at) = self.intern(issuer) else { return false };
        let known = self.find(hash, &revocation.target);
        let mut watermarks = known.map(|place| self.arena.record(place).watermarks()).unwrap_or_default();
        if !watermarks.merge(revocation) {
            return false;
        }
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
            self.compact(hasher, 0);
        }
        true
    }

    /// The place of an issuer's name; `None` once there are more than anyone configures.
    fn intern(&mut self, issuer: &IssuerName) -> Option<u16> {
        let at = self.issuers.iter().position(|known| known == issuer).unwrap_or_else(|| {
            self.issuers.push(issuer.clone());
            self.issuers.len() - 1
        });
        u16::try_from(at).ok()
    }

    fn purge(&mut self, hasher: &DefaultHashBuilder, now: Timestamp) -> usize {
        let before = self.places.len();
        // Rounded up when it was taken in, down here: nothing is forgotten early.
        let limit = u32::try_from(now.as_secs().max(0)).unwrap_or(u32::MAX);
        if self.places.iter().any(|place| self.arena.record(*place).expires() <= limit) {
            self.compact(hasher, limit);
        }
        before - self.places.len()
    }

    /// Rewrites the records that expire after `limit`, in seconds, and drops the others and all garbage.
    fn compact(&mut self, hasher: &DefaultHashBuilder, limit: u32) {
        let mut next = Self { issuers: std::mem::take(&mut self.issuers), ..Self::default() };
        for record in self.places.iter().map(|place| self.arena.record(*place)) {
            if record.expires() <= limit {
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
            let Watermarks { signed_out, revoked, expires } = record.watermarks();
            let target = Target::new(self.issuers[usize::from(record.issuer())].clone(), record.kind(), record.id());
            let expires_at = Timestamp::from_secs(i64::from(expires));
            [(Origin::SignedOut, signed_out), (Origin::Revoked, revoked)].into_iter().filter_map(
                move |(origin, watermark)| {
                    Some(Revocation { target: target.clone(), watermark: watermark?, expires_at, origin, reason: None })
                },
            )
        };
        self.places.iter().flat_map(of).collect()
    }
}

fn hash_of(hasher: &DefaultHashBuilder, issuers: &[IssuerName], record: Record<'_>) -> u64 {
    hash(hasher, &issuers[usize::from(record.issuer())], record.kind(), record.id_parts())
}
