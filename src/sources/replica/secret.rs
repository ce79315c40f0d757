//! The secret that the instances on one store share, with which they prove to each other whose a stream is.

use std::time::Duration;

use tokio::time::sleep;

use super::super::ledger::RedisLedger;
use super::Replica;

/// Between looks: a store that was emptied is given back the secret in force before new instances make another.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between attempts after a failure.
const RETRY: Duration = Duration::from_millis(100);

impl Replica {
    /// Keeps to the secret of the store, and founds it there if there is none; for ever.
    pub(super) async fn keep_secret(&self, ledger: &RedisLedger) {
        let own = rand::random();
        loop {
            let offered = self.secret.borrow().unwrap_or(own);
            let pause = match ledger.stream_secret(offered).await {
                Ok(secret) => {
                    self.secret.send_if_modified(|known| known.replace(secret) != Some(secret));
                    LOOK_EVERY
                }
                Err(_) => RETRY, // The follower says what is wrong with the store.
            };
            sleep(pause).await;
        }
    }
}
