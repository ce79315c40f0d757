//! A log that accepts no entry any more, because one of its entries has the last possible id.
//!
//! Any client that may write to Redis can add such an entry, and XADD fails from then on. The log is copied, with new
//! ids for entries that lie in the future, and replaced in one step ([`RedisLedger::write_log_anew`]). The epoch
//! changes with it, so an answer about the old log is never taken for one about the new log, and instances check
//! whether the copy has all revocations that they apply, as after a loss.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::ledger::{Position, RedisLedger, StreamInfo};
use super::Replica;
use super::health::Obstacle;

/// `None`: entries can be added. Else, why the log was not written anew; empty before the first attempt.
#[derive(Default)]
pub(super) struct Exhausted(Mutex<Option<Box<str>>>);

impl Replica {
    /// Takes in where the log ends.
    pub(super) fn note_end(&self, stream: Option<&StreamInfo>) {
        let is_exhausted = stream.is_some_and(|stream| stream.last == Position::END);
        let mut noted = self.exhausted();
        if is_exhausted && noted.is_none() {
            *noted = Some(Box::default());
            self.loss_noted.notify_one();
        } else if !is_exhausted {
            *noted = None;
        }
    }

    /// Why no entry can be added, if that is so.
    pub(super) fn cannot_add(&self) -> Option<Obstacle> {
        self.exhausted().clone().map(|failed| Obstacle::LogExhausted { failed })
    }

    /// Has the log written anew by one instance.
    pub(super) async fn renew_log(&self, ledger: &RedisLedger) {
        let renewed = match ledger.is_first(&self.name).await {
            Ok(true) => ledger.write_log_anew(&self.name).await,
            waits => waits,
        };
        match renewed {
            Ok(true) => {
                *self.exhausted() = None;
                tracing::warn!("an entry of the log had the last possible id; the log was rewritten");
            }
            Ok(false) => {} // Another instance does it, or has done it.
            Err(error) => *self.exhausted() = Some(format!(" (it was not rewritten: {error})").into()),
        }
    }

    fn exhausted(&self) -> MutexGuard<'_, Option<Box<str>>> {
        self.exhausted.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
