//! The streams of security events that the instances on one store share (see [`crate::sources::signals`]).
//!
//! ```text
//! doorward:{r}:signals               sorted set: the ids of transmitters that have a record
//! doorward:{r}:signals:ID            the record of the stream, JSON
//! doorward:{r}:signals-owner:ID      the instance that owns the stream; it expires unless that one renews it
//! doorward:{r}:signals-verified:ID   the state of the latest verification event that an instance received
//! doorward:{r}:signals-announced:ID  the latest status that the transmitter announced, and a number that differs each time
//! ```
//!
//! ID is a digest of the transmitter's configured issuer and audience; no text of a message is part of a key.

use std::time::Duration;

use super::super::{LedgerError, SignalNote, SignalNotes};
use super::RedisLedger;
use super::answer::{Answer, short};
use super::session::Command;

impl RedisLedger {
    pub(in crate::sources) async fn signal_notes(&self, id: &str) -> Result<SignalNotes, LedgerError> {
        let keys = ["", "-verified", "-announced", "-owner"].map(|part| self.keys.signals(part, id));
        let answer = self.shared.call(self, Command::new("MGET").args(keys), self.deadline()).await?;
        let Some([stream, verified, announced, owner]) = answer.parts() else { return Err(short()) };
        let text = |answer: &fred::types::Value| answer.text().map(str::to_owned);
        Ok(SignalNotes {
            stream: text(stream),
            verified: text(verified),
            announced: text(announced),
            owner: text(owner),
        })
    }

    pub(in crate::sources) async fn note_signal(&self, id: &str, note: &SignalNote) -> Result<(), LedgerError> {
        let set = |part, text: &str| Command::new("SET").arg(self.keys.signals(part, id)).arg(text);
        let commands = match note {
            SignalNote::Stream(Some(record)) => {
                vec![Command::new("ZADD").arg(&*self.keys.signals).arg("1").arg(id), set("", record)]
            }
            SignalNote::Stream(None) => vec![
                Command::new("ZADD").arg(&*self.keys.signals).arg("0").arg(id),
                Command::new("ZREMRANGEBYSCORE").arg(&*self.keys.signals).args(["-inf", "0"]),
                Command::new("DEL").arg(self.keys.signals("", id)),
                Command::new("DEL").arg(self.keys.signals("-verified", id)),
                Command::new("DEL").arg(self.keys.signals("-announced", id)),
            ],
            SignalNote::Verified(state) => vec![set("-verified", state)],
            SignalNote::Announced(status) => vec![set("-announced", status)],
        };
        self.shared.pipeline(self, commands).await.map(drop)
    }

    /// Takes or renews the lease on a stream; false if another instance has it.
    pub(in crate::sources) async fn own_signals(
        &self,
        id: &str,
        name: &str,
        lasts: Duration,
    ) -> Result<bool, LedgerError> {
        self.claim(&self.keys.signals("-owner", id), name, lasts).await
    }

    /// The records of all transmitters, also of those that are not configured here.
    pub(in crate::sources) async fn signal_records(&self) -> Result<Vec<(String, String)>, LedgerError> {
        /// More than any configuration has: each is a transmitter that was configured at some time.
        const MOST: &str = "999";
        let all = Command::new("ZRANGE").arg(&*self.keys.signals).args(["0", MOST]);
        let answer = self.shared.call(self, all, self.deadline()).await?;
        let ids: Vec<_> = answer.parts().unwrap_or_default().iter().filter_map(Answer::text).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let get = Command::new("MGET").args(ids.iter().map(|id| self.keys.signals("", id)));
        let records = self.shared.call(self, get, self.deadline()).await?;
        let records = ids.iter().zip(records.parts().unwrap_or_default());
        Ok(records.filter_map(|(id, record)| Some(((*id).to_owned(), record.text()?.to_owned()))).collect())
    }
}
