//! The DPoP proofs that were used at any instance (RFC 9449 section 11.1).
//!
//! ```text
//! doorward:{r}:proof:ID  empty, for as long as the proof could be accepted; ID is a digest
//! ```

use std::time::Duration;

use super::super::LedgerError;
use super::RedisLedger;
use super::session::{Command, unexpected};
use crate::authz::dpop::ProofId;

impl RedisLedger {
    /// See [`crate::sources::replica::Replica::spend_proof`]: one round trip on the shared connection of lookups.
    pub(in crate::sources) async fn spend_proof(
        &self,
        id: &ProofId,
        keep: Option<Duration>,
    ) -> Result<bool, LedgerError> {
        let key = self.keys.proof(id);
        let command = match keep {
            // The store measures the time: this machine's wall clock cannot shorten it.
            Some(keep) => {
                let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX).max(1);
                Command::new("SET").arg(key).arg("").args(["NX", "PX"]).arg(keep.to_string())
            }
            None => Command::new("EXISTS").arg(key),
        };
        // Boxed: the library's futures are large.
        let answer = Box::pin(self.shared.call(self, command, self.config.lookup_deadline)).await?;
        match keep {
            Some(_) if answer.is_null() => Ok(false),
            Some(_) if answer.as_str().as_deref() == Some("OK") => Ok(true),
            None => answer.as_i64().map(|found| found == 0).ok_or_else(|| unexpected("integer", &answer)),
            Some(_) => Err(unexpected("OK", &answer)),
        }
    }
}
