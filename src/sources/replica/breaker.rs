//! A breaker for lookups: a store that does not answer costs few requests their patience, not all.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Open after [`Breaker::FAILURES`] in a row: lookups are refused at once. After [`Breaker::PAUSE`]
/// one of them is let through; what becomes of it closes the breaker or begins another pause.
#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    failures: u32,
    failed_at: Option<Instant>,
    /// The one that is let through while it is open.
    probing: bool,
}

impl Breaker {
    /// More than a connection that broke takes with it on a quiet instance.
    const FAILURES: u32 = 5;
    /// Long enough to matter under load, short against a failover.
    const PAUSE: Duration = Duration::from_millis(500);

    /// Leave to ask, until `deadline` from now; `None` while it is open.
    pub(super) fn admit(&self, deadline: Duration) -> Option<Attempt<'_>> {
        let now = Instant::now();
        let mut state = self.state();
        if state.failures >= Self::FAILURES {
            let is_resting = state.failed_at.is_some_and(|at| now.saturating_duration_since(at) < Self::PAUSE);
            if is_resting || state.probing {
                return None;
            }
            state.probing = true;
        }
        Some(Attempt { breaker: self, began: now, deadline, outcome: None })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lookup that was let through; dropping it without a result counts as a failure.
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    began: Instant,
    deadline: Duration,
    outcome: Option<bool>,
}

impl Attempt<'_> {
    pub(super) fn ended(mut self, succeeded: bool) {
        self.outcome = Some(succeeded);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // A caller that left early says nothing of the store, else clients that hang up could open the
        // breaker; one that waited for most of the deadline does.
        let outcome = self.outcome.or_else(|| (self.began.elapsed() * 2 >= self.deadline).then_some(false));
        let mut state = self.breaker.state();
        state.probing = false;
        match outcome {
            Some(true) => state.failures = 0,
            Some(false) => {
                state.failures = state.failures.saturating_add(1);
                state.failed_at = Some(Instant::now());
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn opened() -> Breaker {
        let breaker = Breaker::default();
        for _ in 0..Breaker::FAILURES {
            breaker.admit(DEADLINE).unwrap().ended(false);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let breaker = Breaker::default();
        for _ in 0..20 {
            breaker.admit(DEADLINE).unwrap().ended(false);
            breaker.admit(DEADLINE).unwrap().ended(true);
        }
        assert!(opened().admit(DEADLINE).is_none());
    }

    #[test]
    fn after_a_pause_one_is_let_through_and_decides() {
        let breaker = opened();
        let rest = || breaker.state().failed_at = Instant::now().checked_sub(Breaker::PAUSE);
        rest();
        let probe = breaker.admit(DEADLINE).unwrap();
        assert!(breaker.admit(DEADLINE).is_none(), "only one");
        probe.ended(false);
        assert!(breaker.admit(DEADLINE).is_none(), "another pause");
        rest();
        drop(breaker.admit(DEADLINE).unwrap());
        let probe = breaker.admit(DEADLINE).expect("a caller that left says nothing");
        probe.ended(true);
        assert!(breaker.admit(DEADLINE).is_some() && breaker.admit(DEADLINE).is_some());
    }

    #[test]
    fn callers_that_leave_count_only_after_most_of_the_deadline() {
        let breaker = Breaker::default();
        for _ in 0..20 {
            drop(breaker.admit(DEADLINE));
        }
        assert!(breaker.admit(DEADLINE).is_some());
        for _ in 0..20 {
            drop(breaker.admit(Duration::ZERO));
        }
        assert!(breaker.admit(DEADLINE).is_none());
    }
}
