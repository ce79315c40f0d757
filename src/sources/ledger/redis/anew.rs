//! Writing the log anew when it can take no entry any more.

use std::time::Duration;

use fred::types::Value;

use super::super::{LedgerError, Position, RefusalKind};
use super::RedisLedger;
use super::answer::{self, Answer, short};
use super::feed::{Feed, stream_info};
use super::session::Command;

/// A log that is longer is left to an operator: the copy passes through this process, and Redis runs it in one step.
const MOST: u64 = 200_000;
/// How long Redis may take for it.
const PATIENCE: Duration = Duration::from_secs(30);

impl RedisLedger {
    /// Replaces a log that ends with the last possible id by a copy of it, and founds an epoch, named by `name`, in one
    /// transaction; `false` if it is not such a log, or was changed meanwhile.
    ///
    /// Entries keep their ids; those of the future get one of now, as which they are read.
    pub(in crate::sources) async fn write_log_anew(&self, name: &str) -> Result<bool, LedgerError> {
        let (session, log, deadline) = (self.session().await?, &*self.keys.log, self.deadline());
        let watch = Command::new("WATCH").args([log, &*self.keys.meta]);
        let commands = vec![watch, Command::new("XINFO").arg("STREAM").arg(log), Command::new("TIME")];
        let answers = session.pipeline(commands, deadline).await?;
        let [_, info, time] = answers.as_slice() else { return Err(short()) };
        let (stream, now) = (stream_info(info)?, answer::time(time)?.as_millis());
        if stream.last != Position::END {
            return Ok(false);
        }
        if stream.length > MOST {
            let message = format!("it has {} entries; this is done up to {MOST}", stream.length).into();
            return Err(LedgerError::Refused { kind: RefusalKind::Other, message });
        }
        let found = Command::new("SET").arg(&*self.keys.meta).arg(format!("{name} {now}"));
        let mut commands = vec![Command::new("DEL").arg(log), found];
        let mut after = Position::default();
        loop {
            let count = i64::try_from(Feed::COUNT).unwrap_or(i64::MAX);
            let read = Command::new("XREAD").arg("COUNT").arg(count).arg("STREAMS").arg(log).arg(after.to_string());
            let frame = session.call_raw(read, deadline).await?;
            let entries = answer::entries(&frame)?;
            for entry in entries {
                let (position, fields) = answer::entry(entry)?;
                after = position;
                let is_past = i64::try_from(position.millis).is_ok_and(|millis| millis <= now);
                let add = Command::new("XADD").arg(log);
                let add = if is_past { add.arg(position.to_string()) } else { add.arg("*") };
                let bytes = fields.iter().map(|field| field.bytes().map(Value::from).ok_or_else(short));
                commands.push(add.args(bytes.collect::<Result<Vec<_>, _>>()?));
            }
            if entries.len() < Feed::COUNT {
                break;
            }
        }
        Ok(session.transaction(commands, PATIENCE).await?.is_some())
    }
}
