//! The meaning of issuer names (see [`crate::sources::names`]).
//!
//! ```text
//! doorward:{r}:issuers  sorted set: a meaning as JSON, when an instance last used it (ms)
//! ```

use std::time::Duration;

use super::super::LedgerError;
use super::RedisLedger;
use super::session::Command;
use crate::authz::claims::Timestamp;
use crate::sources::names::{Names, Note};

/// Twice the longest lifetime of a revocation under any configuration.
const KEPT: Duration = Duration::from_secs(801 * 24 * 3600);

impl RedisLedger {
    pub(in crate::sources) async fn noted_names(&self) -> Result<Vec<Note>, LedgerError> {
        let all = Command::new("ZRANGE").arg(&*self.keys.issuers).args(["0", "-1", "WITHSCORES"]);
        let notes = self.shared.call(self, all, self.deadline()).await?;
        let read = |text: &str, seen| Names::is_note(text).then(|| (text.to_owned(), seen));
        self.members(&self.keys.issuers, &notes, read)
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
