//! The numbers of waiting decisions, by resource.
//!
//! A waiting decision keeps its request in memory. Most decisions need not wait; the others are
//! counted by the resource that they wait for, so that a key provider that hangs does not affect
//! sign-outs.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The decisions that wait now.
#[derive(Default)]
pub struct Waits {
    pub keys: Waiting,
    pub introspection: Waiting,
    pub status_lists: Waiting,
    pub store: Waiting,
    pub verification: Waiting,
    /// Held by the one of them whose signature is verified.
    pub turn: tokio::sync::Mutex<()>,
}

/// The decisions that wait for one kind of resource.
#[derive(Default)]
pub struct Waiting(AtomicUsize);

/// A permit to wait; returned on drop.
pub struct Place<'a>(&'a Waiting);

impl Waiting {
    /// `None` if `max` wait already: further decisions are refused instead of queued.
    pub fn enter(&self, max: usize) -> Option<Place<'_>> {
        let entered = |count: usize| (count < max).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, entered).is_ok().then(|| Place(self))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_come_back() {
        let waiting = Waiting::default();
        let first = waiting.enter(2);
        let second = waiting.enter(2);
        assert!(first.is_some() && second.is_some());
        assert!(waiting.enter(2).is_none() && waiting.enter(2).is_none(), "who is turned away takes no place along");
        drop(first);
        assert!(waiting.enter(2).is_some());
        assert!(waiting.enter(1).is_none(), "a smaller limit of a new configuration holds at once");
    }
}
