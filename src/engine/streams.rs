//! Ends streams whose token expires or whose view grows stale, and all streams when the process ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::{self, Steady};
use crate::state::State;

/// The interval of checks for expired streams.
const SWEEP_EVERY: Duration = Duration::from_millis(100);
/// Batches in which streams end with the process, so that their clients do not all come back at once.
const BATCHES: u32 = 20;

/// Ends streams when it is time, until `stop`; from `drain` on all of them, within half of `patience`.
pub(super) async fn keep(state: Arc<State>, patience: Duration, drain: CancellationToken, stop: CancellationToken) {
    let mut secret = state.replica.secret();
    secret.mark_changed(); // The secret may have been read already.
    let mut tick = interval(SWEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = drain.cancelled() => break,
            Ok(()) = secret.changed() => {
                let known = *secret.borrow_and_update();
                if let Some(secret) = known {
                    state.share_secret(secret);
                }
            }
            _ = tick.tick() => {
                let (now, at) = (clock::now(), Steady::now());
                state.streams().sweep(now, state.replica.freshness().age(at));
                state.end_streams_of_stale_lists(now, at);
            }
        }
    }
    // Connections accept no more requests: a client that reconnects reaches another instance.
    let most = state.streams().open_count().div_ceil(BATCHES as usize).max(1);
    let mut tick = interval((patience / 2 / BATCHES).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {
                state.streams().drain(most);
            }
        }
    }
}
