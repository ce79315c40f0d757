//! Messages that were processed already, by their `jti`: bounded in number and in time.
//!
//! Each process has its own memory of used ids. A message that is replayed to another instance changes nothing there:
//! its revocation consists of its own claims, so it merges into the existing one. The memory serves only the refusal
//! that the standards require, and its count. So the oldest entry may be evicted when the memory is full: the
//! alternative, to refuse the next sign-out, would be worse.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;

use super::claims::Timestamp;

/// The id of a message, and the time up to which it could be accepted again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MessageId {
    digest: [u8; 32],
    until: Timestamp,
}

impl MessageId {
    /// `until`: the message is not accepted later.
    #[must_use]
    pub fn new(issuer: &str, jti: &str, until: Timestamp) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&issuer.len().to_be_bytes()); // Otherwise `a` `bc` would equal `ab` `c`.
        context.update(issuer.as_bytes());
        context.update(jti.as_bytes());
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self { digest, until }
    }
}

/// The recently processed messages.
#[derive(Default)]
pub struct Replays(Mutex<Memory>);

#[derive(Default)]
struct Memory {
    known: HashSet<[u8; 32]>,
    order: VecDeque<MessageId>,
}

impl Replays {
    /// The most messages, of some 40 bytes each: about 10 MB.
    const CAPACITY: usize = 100_000;

    pub fn knows(&self, id: &MessageId) -> bool {
        self.lock().known.contains(&id.digest)
    }

    /// Remembers a message after it was applied, not before: a failed one is sent again.
    pub fn remember(&self, id: MessageId, now: Timestamp) {
        let mut memory = self.lock();
        while let Some(oldest) = memory.order.front()
            && (oldest.until <= now || memory.order.len() >= Self::CAPACITY)
        {
            let digest = oldest.digest;
            memory.order.pop_front();
            memory.known.remove(&digest);
        }
        if memory.known.insert(id.digest) {
            memory.order.push_back(id);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(jti: &str, until: i64) -> MessageId {
        MessageId::new("https://a.test", jti, Timestamp::from_secs(until))
    }

    #[test]
    fn a_message_is_known_while_it_could_be_accepted_and_the_memory_is_bounded() {
        let (replays, now) = (Replays::default(), Timestamp::from_secs(100));
        replays.remember(id("a", 200), now);
        assert!(replays.knows(&id("a", 999)) && !replays.knows(&id("b", 200)));
        assert_ne!(MessageId::new("ab", "c", now), MessageId::new("a", "bc", now));
        replays.remember(id("b", 300), Timestamp::from_secs(199));
        assert!(replays.knows(&id("a", 200)));
        replays.remember(id("c", 400), Timestamp::from_secs(200));
        assert!(!replays.knows(&id("a", 200)) && replays.knows(&id("b", 300)));
        for number in 0..Replays::CAPACITY + 10 {
            replays.remember(id(&number.to_string(), 1000), Timestamp::from_secs(210));
        }
        assert_eq!(replays.lock().order.len(), Replays::CAPACITY);
        assert_eq!(replays.lock().known.len(), Replays::CAPACITY);
        assert!(!replays.knows(&id("0", 1000)) && replays.knows(&id("11", 1000)));
    }
}
