//! Programs that measure or run for long; they print figures and are not part of the ordinary run:
//!
//! ```text
//! cargo test --release --test main -- --ignored --nocapture load::latency
//! cargo test --release --test main -- --ignored --nocapture load::busy
//! cargo test --release --test main -- --ignored --nocapture load::sign_out
//! cargo test --release --test main -- --ignored --nocapture load::followers
//! DOORWARD_SOAK=20m cargo test --release --test main -- --ignored --nocapture load::soak
//! ```

mod busy;
mod faults;
mod followers;
mod latency;
mod sign_out;
mod soak;
mod tally;

use std::time::Duration;

/// p50, p99 and the largest.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let Some(max) = times.last() else { return "nothing measured".to_owned() };
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    format!("{} samples: p50 {:?}, p99 {:?}, max {max:?}", times.len(), at(50), at(99))
}
