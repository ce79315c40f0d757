//! The time that a worker may spend on tokens that are refused.
//!
//! A worker of Envoy serves many connections, and a client can send any number of tokens with bad signatures, each of
//! which takes some 30 µs of RSA. So a worker verifies signatures only as long as refused tokens have taken less than
//! [`MOST`] of the current [`WINDOW`]; after that the engine's thread verifies one after another, and tokens that were
//! verified before are decided by the worker as always.

use std::cell::Cell;
use std::time::{Duration, Instant};

use doorward::authz::authorizer::{Decision, Outcome};

pub const WINDOW: Duration = Duration::from_millis(10);
/// A fifth of the window, and the verification that exceeds it.
pub const MOST: Duration = Duration::from_millis(2);

#[derive(Clone, Copy)]
struct Spent {
    since: Instant,
    total: Duration,
}

thread_local! {
    static SPENT: Cell<Option<Spent>> = const { Cell::new(None) };
}

/// Whether this worker may verify signatures.
pub fn is_left(now: Instant) -> bool {
    SPENT.get().is_none_or(|spent| spent.total < MOST || now.duration_since(spent.since) >= WINDOW)
}

/// Whether a decision counts: its token was not verified before, and is not accepted.
pub fn counts(decision: &Decision<'_>) -> bool {
    let is_accepted = matches!(&decision.outcome, Outcome::Allowed(grant) if grant.principal.is_some());
    decision.evidence.remembered == Some(false) && !is_accepted
}

/// Charges a decision that began at `started` and has just ended.
pub fn charge(started: Instant) {
    let now = Instant::now();
    let spent = SPENT.get().filter(|spent| now.duration_since(spent.since) < WINDOW);
    let Spent { since, total } = spent.unwrap_or(Spent { since: started, total: Duration::ZERO });
    SPENT.set(Some(Spent { since, total: total + now.duration_since(started) }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_is_used_up_ends() {
        let start = Instant::now();
        assert!(is_left(start));
        charge(start.checked_sub(MOST).unwrap());
        assert!(!is_left(start));
        assert!(is_left(start + WINDOW), "the next window");
    }
}
