//! The secret that the instances on one store share, with which they seal the subjects of streams for each
//! other.

use std::time::Duration;

use tokio::time::sleep;

use super::super::ledger::RedisLedger;
use super::Replica;

/// The interval of checks: a store that was emptied gets the secret in force again before new instances create
/// another.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The pause after a failure.
const RETRY: Duration = Duration::from_millis(100);

impl Replica {
    /// Follows the secret of the store, and creates it there if it is missing; for ever.
    pub(super) async fn keep_secret(&self, ledger: &RedisLedger) {
        let own = rand::random();
        loop {
            let offered = self.secret.borrow().unwrap_or(own);
            let pause = match ledger.stream_secret(offered).await {
                Ok(secret) => {
                    self.secret.send_if_modified(|known| known.replace(secret) != Some(secret));
                    LOOK_EVERY
                }
                Err(_) => RETRY, // The follower logs the fault of the store.
            };
            sleep(pause).await;
        }
    }
}
