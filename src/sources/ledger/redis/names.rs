//! The meaning of issuer names (see [`crate::sources::names`]).
//!
//! ```text
//! doorward:{r}:issuers  sorted set: a meaning as JSON, when an instance last used it (ms)
//! ```

use std::time::Duration;

use super::super::{LedgerError, StoreId};
use super::RedisLedger;
use super::answer::{Answer, short};
use super::server::Server;
use super::session::Command;
use crate::authz::claims::Timestamp;
use crate::sources::names::{Names, Note};

/// Twice the longest lifetime of a revocation under any configuration.
const KEPT: Duration = Duration::from_secs(801 * 24 * 3600);

impl RedisLedger {
    pub(in crate::sources) async fn noted_names(&self) -> Result<(Vec<Note>, StoreId), LedgerError> {
        let all = Command::new("ZRANGE").arg(&*self.keys.issuers).args(["0", "-1", "WITHSCORES"]);
        // A loss of the notes before they are read shows in the epoch and the server, which are read after them.
        let meta = Command::new("GET").arg(&*self.keys.meta);
        let answers = self.shared.pipeline(self, vec![all, meta, Server::command()]).await?;
        let [notes, meta, info] = answers.as_slice() else { return Err(short()) };
        let store = StoreId { epoch: meta.text().map(Into::into), replication_id: Server::read(info).replication_id };
        let read = |text: &str, seen| Names::is_note(text).then(|| (text.to_owned(), seen));
        Ok((self.members(&self.keys.issuers, notes, read)?, store))
    }

    pub(in crate::sources) async fn put_back_names(&self, lost: &[Note]) -> Result<(), LedgerError> {
        // Also without any: the answer shows that instances can write notes.
        let mut commands = vec![self.forget_names()];
        let pairs = lost.iter().flat_map(|(text, seen)| [seen.as_millis().to_string(), text.clone()]);
        let add = Command::new("ZADD").arg(&*self.keys.issuers).arg("GT").args(pairs);
        commands.extend((!lost.is_empty()).then_some(add));
        self.shared.pipeline(self, commands).await.map(drop)
    }

    fn forget_names(&self) -> Command {
        let forget = Command::new("ZREMRANGEBYSCORE").arg(&*self.keys.issuers).arg("-inf");
        forget.arg(self.earliest().minus(KEPT).max(Timestamp::default()).as_millis())
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
        self.shared.pipeline(self, vec![add, self.forget_names()]).await.map(|_| ())
    }
}
