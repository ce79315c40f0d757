//! Keeps from asking an issuer that does not answer: its callers are refused at once instead of waiting,
//! and it is not buried in questions when it comes back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Open after some failures in a row; one question at a time then tries whether it works again.
#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    failures: u32,
    /// Nobody asks before this instant.
    open_until: Option<Instant>,
    /// How often it opened in a row.
    openings: u32,
}

/// Leave to ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Turn {
    Regular,
    /// The one that tries whether it works again.
    Probe,
}

impl Breaker {
    const MAX_FAILURES: u32 = 5;
    /// Doubled from the first to the last, so that a short outage costs little and a long one even less.
    const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

    pub(super) fn turn(&self, now: Instant) -> Option<Turn> {
        let mut state = self.state();
        match state.open_until {
            None => Some(Turn::Regular),
            Some(until) if now < until => None,
            Some(_) => {
                // Should the probe never return, because its caller left, another follows.
                state.open_until = Some(now + Self::pause(state.openings));
                Some(Turn::Probe)
            }
        }
    }

    /// True if it was open.
    pub(super) fn succeeded(&self) -> bool {
        std::mem::take(&mut *self.state()).open_until.is_some()
    }

    /// The pause, if this failure begins one.
    pub(super) fn failed(&self, turn: Turn, now: Instant) -> Option<Duration> {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        let opens = match turn {
            Turn::Probe => true,
            // Concurrent failures open the breaker once.
            Turn::Regular => state.open_until.is_none() && state.failures >= Self::MAX_FAILURES,
        };
        if !opens {
            return None;
        }
        let pause = Self::pause(state.openings);
        state.openings = state.openings.saturating_add(1);
        state.open_until = Some(now + pause);
        Some(pause)
    }

    fn pause(openings: u32) -> Duration {
        Self::PAUSE.0.saturating_mul(1 << openings.min(16)).min(Self::PAUSE.1)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_try() {
        let breaker = Breaker::default();
        let now = Instant::now();
        for _ in 0..4 {
            assert_eq!(breaker.failed(Turn::Regular, now), None);
        }
        assert!(!breaker.succeeded());
        for _ in 0..4 {
            assert_eq!(breaker.failed(Turn::Regular, now), None, "in a row");
        }
        let pause = breaker.failed(Turn::Regular, now).unwrap();
        assert_eq!(breaker.failed(Turn::Regular, now), None, "one that was on its way");
        assert_eq!(breaker.turn(now), None);
        let then = now + pause;
        assert_eq!((breaker.turn(then), breaker.turn(then)), (Some(Turn::Probe), None));
        let longer = breaker.failed(Turn::Probe, then).unwrap();
        assert!(longer > pause);
        assert_eq!(breaker.turn(then + pause), None);
        let later = then + longer;
        assert_eq!(breaker.turn(later), Some(Turn::Probe));
        assert!(breaker.turn(later + Breaker::PAUSE.1).is_some(), "a probe that never returned");
        assert!(breaker.succeeded());
        assert_eq!(breaker.turn(later), Some(Turn::Regular));
        for _ in 0..100 {
            breaker.failed(Turn::Probe, now);
        }
        assert_eq!(breaker.failed(Turn::Probe, now), Some(Breaker::PAUSE.1));
    }
}
