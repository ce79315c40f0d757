//! The meaning of issuer names (see [`crate::sources::names`]).
//!
//! ```text
//! doorward:{r}:issuers  sorted set: a meaning as JSON, when an instance last used it (ms)
//! ```

use std::time::Duration;

use super::super::LedgerError;
use super::RedisLedger;
use super::answer::{Answer, short};
use super::session::Command;
use crate::authz::claims::Timestamp;
use crate::sources::names::{Names, Note};

/// Twice the longest lifetime of a revocation under any configuration.
const KEPT: Duration = Duration::from_secs(801 * 24 * 3600);

impl RedisLedger {
    /// Fails if the store has not `epoch`, if that is given.
    pub(in crate::sources) async fn noted_names(&self, epoch: Option<&str>) -> Result<Vec<Note>, LedgerError> {
        let all = Command::new("ZRANGE").arg(&*self.keys.issuers).args(["0", "-1", "WITHSCORES"]);
        // A loss of the notes before they are read shows in the epoch, which is read after them.
        let meta = Command::new("GET").arg(&*self.keys.meta);
        let answers = self.shared.pipeline(self, vec![all, meta]).await?;
        let [notes, meta] = answers.as_slice() else { return Err(short()) };
        if epoch.is_some_and(|epoch| meta.text() != Some(epoch)) {
            return Err(LedgerError::Unavailable { cause: "the store has lost its data".into() });
        }
        let read = |text: &str, seen| Names::is_note(text).then(|| (text.to_owned(), seen));
        self.members(&self.keys.issuers, notes, read)
    }

    pub(in crate::sources) async fn note_names(
        &self,
        names: &[String],
        drop: &[String],
        seen: Timestamp,
    ) -> Result<(), LedgerError> {
        let pairs = names.iter().map(|text| (seen, text)).chain(drop.iter().map(|text| (Timestamp::default(), text)));
        let pairs = pairs.flat_map(|(seen, text)| [seen.as_millis().to_string(), text.clone()]);
        let add = Command::new("ZADD").arg(&*self.keys.issuers).args(pairs);
        let forget = Command::new("ZREMRANGEBYSCORE").arg(&*self.keys.issuers).arg("-inf");
        let forget = forget.arg(self.earliest().minus(KEPT).max(Timestamp::default()).as_millis());
        self.shared.pipeline(self, vec![add, forget]).await.map(|_| ())
    }
}
