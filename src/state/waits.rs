//! How many decisions wait, and for what.
//!
//! A decision that waits holds its request. Most need not wait; those that do are counted by what they
//! wait for, so that a provider of keys that hangs takes nothing from those who sign out.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Decisions that wait now.
#[derive(Default)]
pub struct Waits {
    pub keys: Waiting,
    pub introspection: Waiting,
    pub store: Waiting,
}

/// The decisions that wait for one kind of answer.
#[derive(Default)]
pub struct Waiting(AtomicUsize);

/// A place among those that wait; left when it is dropped.
pub struct Place<'a>(&'a Waiting);

impl Waiting {
    /// `None` if `max` wait already: whoever comes is told so instead of standing in line behind them.
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
