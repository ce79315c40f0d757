//! Retries after failures of another server: a backoff, and a circuit breaker.

use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A pause, doubled from the first to the longest.
#[derive(Debug)]
pub(super) struct Backoff {
    bounds: [Duration; 2],
    next: Duration,
}

impl Backoff {
    pub(super) const fn new(bounds: [Duration; 2]) -> Self {
        Self { bounds, next: bounds[0] }
    }

    /// The pause before the next attempt.
    pub(super) fn failed(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.bounds[1]);
        pause
    }

    /// Resets the pause. True if there was a failure since the last success.
    pub(super) fn succeeded(&mut self) -> bool {
        std::mem::replace(&mut self.next, self.bounds[0]) > self.bounds[0]
    }
}

/// A circuit breaker: callers of a server that does not answer are refused at once instead of waiting, and the server
/// is not flooded when it returns.
///
/// Open after [`Breaker::FAILURES`] in a row. After a pause one caller is let through as a probe; its outcome closes
/// the breaker or begins a longer pause.
pub(super) struct Breaker {
    pauses: [Duration; 2],
    report: Report,
    state: Mutex<State>,
}

struct State {
    /// Consecutive failures.
    failures: u32,
    backoff: Backoff,
    /// Open: only a probe is let through, not before this time.
    open_until: Option<Instant>,
    /// A probe is in flight.
    probing: bool,
}

/// Receives every change, with the error that caused it; `None` if callers left before there was an answer.
type Report = Box<dyn Fn(Change, Option<&dyn Error>) + Send + Sync>;

/// The effect of an attempt on the breaker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    Opened { pause: Duration },
    Closed,
}

impl Breaker {
    /// More than the requests that fail with one broken connection on a quiet instance.
    const FAILURES: u32 = 5;

    /// `pauses`: the first and the longest; long enough to matter under load, short against an outage.
    pub(super) fn new(
        pauses: [Duration; 2],
        report: impl Fn(Change, Option<&dyn Error>) + Send + Sync + 'static,
    ) -> Self {
        let state = State { failures: 0, backoff: Backoff::new(pauses), open_until: None, probing: false };
        Self { pauses, report: Box::new(report), state: Mutex::new(state) }
    }

    /// A permit for an attempt that ends within `deadline`; `None` while the breaker is open.
    pub(super) fn admit(&self, deadline: Duration) -> Option<Attempt<'_>> {
        self.admit_at(Instant::now(), deadline)
    }

    fn admit_at(&self, now: Instant, deadline: Duration) -> Option<Attempt<'_>> {
        let mut state = self.state();
        let is_probe = state.open_until.is_some();
        if is_probe && (state.probing || state.open_until > Some(now)) {
            return None;
        }
        state.probing |= is_probe;
        Some(Attempt { breaker: self, is_probe, began: now, deadline, is_over: false })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that was let through; dropping it without an outcome counts as a failure after most of its deadline.
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    began: Instant,
    deadline: Duration,
    is_over: bool,
}

impl Attempt<'_> {
    pub(super) fn ended(mut self, result: Result<(), &dyn Error>) {
        if let Some(change) = self.end(Instant::now(), Some(result.is_ok())) {
            (self.breaker.report)(change, result.err());
        }
    }

    fn end(&mut self, now: Instant, succeeded: Option<bool>) -> Option<Change> {
        self.is_over = true;
        let mut state = self.breaker.state();
        if self.is_probe {
            state.probing = false;
        }
        if succeeded? {
            let was_open = state.open_until.is_some();
            (state.failures, state.open_until) = (0, None);
            state.backoff = Backoff::new(self.breaker.pauses);
            return was_open.then_some(Change::Closed);
        }
        state.failures = state.failures.saturating_add(1);
        // Concurrent failures open it once.
        let opens = self.is_probe || (state.open_until.is_none() && state.failures >= Breaker::FAILURES);
        opens.then(|| {
            let pause = state.backoff.failed();
            state.open_until = Some(now + pause);
            Change::Opened { pause }
        })
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // A caller that left early does not count, or clients that hang up could open the breaker; one that
            // waited for most of the deadline counts as a failure.
            let outcome = (self.began.elapsed() * 2 >= self.deadline).then_some(false);
            if let Some(change) = self.end(Instant::now(), outcome) {
                (self.breaker.report)(change, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(5);

    /// An attempt at `now`, which is let through.
    fn attempt(breaker: &Breaker, now: Instant, succeeded: bool) -> Option<Change> {
        breaker.admit_at(now, DEADLINE).unwrap().end(now, Some(succeeded))
    }

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::new([FIRST, LONGEST], |_, _| {});
        for number in 1..=Breaker::FAILURES {
            let opens = (number == Breaker::FAILURES).then_some(Change::Opened { pause: FIRST });
            assert_eq!(attempt(&breaker, now, false), opens);
        }
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let (breaker, now) = (Breaker::new([FIRST, LONGEST], |_, _| {}), Instant::now());
        for _ in 0..20 {
            assert_eq!(attempt(&breaker, now, false), None);
            assert_eq!(attempt(&breaker, now, true), None);
        }
        assert!(opened(now).admit_at(now, DEADLINE).is_none());
    }

    #[test]
    fn concurrent_failures_open_it_once() {
        let (breaker, now) = (Breaker::new([FIRST, LONGEST], |_, _| {}), Instant::now());
        let attempts: Vec<_> = (0..20).map(|_| breaker.admit_at(now, DEADLINE).unwrap()).collect();
        let changes: Vec<_> = attempts.into_iter().filter_map(|mut attempt| attempt.end(now, Some(false))).collect();
        assert_eq!(changes, [Change::Opened { pause: FIRST }]);
    }

    #[test]
    fn after_a_pause_one_is_let_through_and_decides() {
        let now = Instant::now();
        let breaker = opened(now);
        let mut probe = breaker.admit_at(now + FIRST, DEADLINE).unwrap();
        assert!(breaker.admit_at(now + FIRST, DEADLINE).is_none(), "only one");
        assert_eq!(probe.end(now + FIRST, Some(false)), Some(Change::Opened { pause: FIRST * 2 }));
        assert!(breaker.admit_at(now + FIRST * 2, DEADLINE).is_none(), "a longer pause");
        let later = now + FIRST * 3;
        drop(breaker.admit_at(later, DEADLINE).unwrap());
        assert_eq!(attempt(&breaker, later, true), Some(Change::Closed), "a caller that left says nothing");
        assert_eq!(attempt(&breaker, later, false), None, "it is closed");
        let mut pauses = Vec::new();
        let (breaker, mut now) = (opened(now), now + FIRST);
        for _ in 0..10 {
            let Some(Change::Opened { pause }) = attempt(&breaker, now, false) else { panic!("not opened") };
            pauses.push(pause);
            now += pause;
        }
        assert!(pauses.is_sorted() && pauses.last() == Some(&LONGEST), "{pauses:?}");
    }

    #[test]
    fn callers_that_leave_count_only_after_most_of_the_deadline() {
        let breaker = Breaker::new([FIRST, LONGEST], |_, _| {});
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
