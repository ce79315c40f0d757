//! What relays from other regions note in this region's store: an instance here exports it, because a relay that has
//! stopped does not.

use std::time::Duration;

use tokio::time::sleep;

use super::super::ledger::RedisLedger;
use super::{Replica, RevocationLedger};

/// The interval of reading the notes.
const EVERY: Duration = Duration::from_secs(10);

impl Replica {
    /// How long ago everything was written in each other region that is here, of the region that is furthest behind;
    /// `None` if no relay has copied to this store for a day.
    pub fn inbound_lag(&self) -> Option<Duration> {
        match &self.ledger {
            RevocationLedger::Embedded(_) => None,
            RevocationLedger::Redis(ledger) => ledger.inbound_lag(),
        }
    }

    /// Reads the notes; for ever.
    pub(super) async fn watch_inbound(&self, ledger: &RedisLedger) {
        loop {
            if let Err(error) = ledger.read_received().await {
                tracing::debug!(%error, "the notes of relays to this store are not read");
            }
            sleep(EVERY.mul_f64(rand::random_range(0.8..=1.0))).await;
        }
    }
}
