//! The proofs that were used at this process: bounded in number and in time.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::ProofId;

/// The recently used proofs.
///
/// Entries are never evicted, or a client could make a proof usable again by sending many others: while the memory is
/// full, proofs are refused. Only a client with a valid token and proof adds entries.
#[derive(Default)]
pub struct SpentProofs(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    known: HashSet<[u8; 16]>,
    order: VecDeque<Spent>,
}

struct Spent {
    /// Half of the digest: two of half a million proofs collide with a probability of 2^-91.
    id: [u8; 16],
    until: Duration,
}

/// The answer to whether a proof was used before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spending {
    First,
    Again,
    /// Not determined.
    Unknown,
}

impl SpentProofs {
    /// The most proofs, of some 64 bytes each: about 40 MB. With a window of 60 s that is 3,000 proofs a second.
    pub const CAPACITY: usize = 500_000;

    /// Records a proof as used for `keep`; `uptime`: a monotonic clock.
    pub fn spend(&self, id: &ProofId, keep: Duration, uptime: Duration) -> Spending {
        let mut memory = self.lock();
        memory.forget(uptime);
        let id = short(id);
        if memory.known.contains(&id) {
            return Spending::Again;
        }
        if memory.order.len() >= Self::CAPACITY {
            return Spending::Unknown;
        }
        memory.known.insert(id);
        memory.order.push_back(Spent { id, until: uptime + keep });
        Spending::First
    }

    /// Whether a proof was used, without recording it.
    pub fn knows(&self, id: &ProofId) -> bool {
        self.lock().known.contains(&short(id))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// In the order of use, which is that of the ends, except between issuers with different windows: there an entry
    /// may stay longer than needed.
    fn forget(&mut self, uptime: Duration) {
        while let Some(oldest) = self.order.front()
            && oldest.until <= uptime
        {
            let id = oldest.id;
            self.order.pop_front();
            self.known.remove(&id);
        }
    }
}

fn short(id: &ProofId) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&id.bytes()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confirmation::Thumbprint;

    fn id(number: usize) -> ProofId {
        ProofId(Thumbprint::of(&number.to_be_bytes()))
    }

    #[test]
    fn a_proof_is_used_once_and_the_memory_is_bounded() {
        let (spent, keep) = (SpentProofs::default(), Duration::from_secs(150));
        let spend = |number, uptime| spent.spend(&id(number), keep, Duration::from_secs(uptime));
        assert_eq!((spend(1, 0), spend(1, 149)), (Spending::First, Spending::Again));
        assert!(spent.knows(&id(1)) && !spent.knows(&id(2)));
        assert_eq!(spend(1, 150), Spending::First, "it is too old to be accepted, and was forgotten");
        for number in 10..10 + SpentProofs::CAPACITY {
            assert_eq!(spend(number, 401), Spending::First);
        }
        assert_eq!(
            (spend(9, 402), spend(10, 402)),
            (Spending::Unknown, Spending::Again),
            "nothing is forgotten for room"
        );
        assert_eq!(spend(9, 552), Spending::First);
    }
}
