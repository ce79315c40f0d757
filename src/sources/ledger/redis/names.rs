//! The meaning of issuer names (see [`crate::sources::names`]).
//!
//! ```text
//! doorward:{r}:issuers  sorted set: a meaning as JSON, when an instance last used it (ms), or below zero when it was
//!                       dropped
//! ```

use std::time::Duration;

use super::super::LedgerError;
use super::RedisLedger;
use super::answer::{Answer, short};
use super::session::Command;
use crate::authz::claims::Timestamp;
use crate::sources::names::{Names, Note, is_dropped};

/// Twice the longest lifetime of a revocation under any configuration.
const KEPT: Duration = Duration::from_secs(801 * 24 * 3600);

impl RedisLedger {
    pub(in crate::sources) async fn noted_names(&self) -> Result<(Vec<Note>, Option<Box<str>>), LedgerError> {
        let all = Command::new("ZRANGE").arg(&*self.keys.issuers).args(["0", "-1", "WITHSCORES"]);
        // A loss of the notes before they are read shows in the epoch, which is read after them.
        let meta = Command::new("GET").arg(&*self.keys.meta);
        let answers = self.shared.pipeline(self, vec![all, meta]).await?;
        let [notes, meta] = answers.as_slice() else { return Err(short()) };
        let read = |text: &str, seen| Names::is_note(text).then(|| (text.to_owned(), seen));
        Ok((self.members(&self.keys.issuers, notes, read)?, meta.text().map(Into::into)))
    }

    pub(in crate::sources) async fn put_back_names(&self, lost: &[Note]) -> Result<(), LedgerError> {
        // Also without any: the answer shows that instances can write notes.
        let mut commands = Vec::from(self.forget_names());
        let (dropped, used): (Vec<_>, Vec<_>) = lost.iter().cloned().partition(|(_, at)| is_dropped(*at));
        commands.extend(self.add_names(&dropped, &[]));
        commands.extend(self.add_names(&used, &["GT"])); // An instance may have used it meanwhile.
        self.shared.pipeline(self, commands).await.map(drop)
    }

    pub(in crate::sources) async fn note_names(&self, notes: &[Note]) -> Result<(), LedgerError> {
        let mut commands: Vec<_> = self.add_names(notes, &[]).into_iter().collect();
        commands.extend(self.forget_names());
        self.shared.pipeline(self, commands).await.map(drop)
    }

    fn add_names(&self, notes: &[Note], how: &[&str]) -> Option<Command> {
        let pairs = notes.iter().flat_map(|(text, at)| [at.as_millis().to_string(), text.clone()]);
        let add = Command::new("ZADD").arg(&*self.keys.issuers).args(how.iter().copied()).args(pairs);
        (!notes.is_empty()).then_some(add)
    }

    /// Removes old notes. A note of 0 stays until an instance has noted when it was dropped: the others must see that, too.
    fn forget_names(&self) -> [Command; 2] {
        let before = self.earliest().minus(KEPT).max(Timestamp::default()).as_millis();
        let forget = || Command::new("ZREMRANGEBYSCORE").arg(&*self.keys.issuers);
        [forget().arg("(0").arg(before), forget().arg(-before).arg("(0")]
    }
}
