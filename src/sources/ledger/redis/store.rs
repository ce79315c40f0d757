//! The identity of the store: the server, the epoch of its data, and the instance that repairs a loss.
//!
//! ```text
//! doorward:{r}:meta       the epoch of the log: its founder, and the time; it is lost with a flush
//! doorward:{r}:server     the replication id of the server that instances read from, and since when
//! doorward:{r}:lost       when an instance last saw that this store was emptied or replaced: it may have lost leases
//! doorward:{r}:repairing  sorted set: instances that found a loss, and the end of the wait for them
//! doorward:{r}:repairer   the one that writes entries back; it expires unless that one renews it
//! ```
//!
//! Times are of the server's clock, in milliseconds. The replication id changes whenever a server starts or becomes
//! the primary: a server with the same id as before has been the primary, in the same process, all the time
//! between.

use std::time::Duration;

use fred::types::Value;

use super::super::LedgerError;
use super::answer::{self, Answer, short};
use super::clock::{ServerClock, TOLERANCE};
use super::feed::Feed;
use super::server::StoreFacts;
use super::session::Command;
use super::wire::Keys;
use super::{RedisLedger, clock_note, members, retention};
use crate::authz::claims::Timestamp;
use crate::clock::Steady;

/// The epoch of a store: one server process from its start.
#[derive(Clone, Debug)]
pub(in crate::sources) struct Life {
    pub(in crate::sources) epoch: Box<str>,
    /// The time since which the store has had this epoch; `None` if that could not be noted, because the server is
    /// full.
    pub(in crate::sources) since: Option<Timestamp>,
    pub(in crate::sources) clock: ServerClock,
    /// The data are noted at another server: this one may hold an older copy.
    pub(in crate::sources) is_moved: bool,
}

/// The longest wait for an instance that has announced a repair, unless it renews the announcement.
const REPAIR: Duration = Duration::from_secs(5);
/// The tolerance of a mark's end: it is computed from a reading of the clock that may be late.
const MARK_SLACK: Duration = Duration::from_secs(1);

/// The time since which the store has had this epoch at this server, by its keys `meta` and `server`; `None` if
/// another server is noted.
pub(super) fn whole_since(epoch: &str, noted: &str, replication_id: &str) -> Option<Timestamp> {
    let (id, since) = noted.split_once(' ')?;
    if id != replication_id || id.is_empty() {
        return None;
    }
    let founded = epoch.rsplit_once(' ').and_then(|(_, millis)| millis.parse().ok()).unwrap_or_default();
    Some(Timestamp::from_millis(since.parse::<i64>().ok()?.max(founded)))
}

/// Notes that the store may have lost leases. An instance that does so has followed it since, so a later loss is in its
/// note.
pub(super) fn note_lost(keys: &Keys, at: Timestamp) -> Command {
    Command::new("SET").arg(&*keys.lost).arg(at.as_millis())
}

/// The time in such a note; 1970 for one that is to come: it is of a clock that was set since, or of another program.
pub(super) fn lost_at(noted: &str, now: Timestamp) -> Option<Timestamp> {
    let at = Timestamp::from_millis(noted.parse().ok()?);
    Some(if at <= now.plus(TOLERANCE) { at } else { Timestamp::default() })
}

impl Feed<'_> {
    /// The facts about the server, to be read first on a connection.
    pub(in crate::sources) async fn facts(&mut self) -> Result<StoreFacts, LedgerError> {
        let info = match self.session.call(StoreFacts::command(), self.ledger.deadline()).await {
            // A proxy that does not implement INFO.
            Err(LedgerError::Refused { message, .. }) if message.starts_with("ERR ") => Value::Null,
            info => info?,
        };
        let facts = StoreFacts::read(&info);
        self.server = facts.server.clone();
        if &*self.server.role == "master" {
            // The clock is recorded also for a store that must not be read, for writes to it.
            let asked = Steady::now();
            let time = self.session.call(Command::new("TIME"), self.ledger.deadline()).await?;
            self.ledger.clock.begin(ServerClock::read(asked, answer::time(&time)?));
        }
        Ok(facts)
    }

    /// The epoch of the store that this connection reads; creates one, named by `name`, if there is none, and notes
    /// the server if it has changed. `known`: the epoch that this process followed before.
    ///
    /// The first instance to find that the store was emptied or replaced removes the sign of it, so it notes the loss
    /// before that: it may end before its first lease.
    pub(in crate::sources) async fn life(&mut self, name: &str, known: Option<&str>) -> Result<Life, LedgerError> {
        let (keys, deadline) = (&self.ledger.keys, self.ledger.deadline());
        let get = |key: &str| Command::new("GET").arg(key);
        let asked = Steady::now();
        let commands = vec![get(&keys.meta), get(&keys.server), clock_note::Note::command(keys), Command::new("TIME")];
        let answers = self.session.pipeline(commands, deadline).await?;
        let [epoch, noted, even, time] = answers.as_slice() else { return Err(short()) };
        let now = answer::time(time)?;
        let clock = ServerClock::read(asked, now);
        self.ledger.clock.observe(clock);
        self.ledger.clock.compare(self.ledger.clock_note(even)?, clock, crate::clock::now());
        let epoch: Box<str> = if let Some(epoch) = members::text(&keys.meta, epoch)? {
            epoch.into()
        } else {
            let found = Command::new("SET").arg(&*keys.meta).arg(format!("{name} {}", now.as_millis())).arg("NX");
            // A server is noted after an epoch.
            let is_lost = known.is_some() || !noted.is_nil();
            let lost = is_lost.then(|| note_lost(keys, now));
            let commands = lost.into_iter().chain([found, get(&keys.meta)]).collect();
            let answers = self.session.pipeline(commands, deadline).await?;
            answers.last().and_then(Answer::text).ok_or_else(short)?.into()
        };
        let (id, noted) = (&self.server.replication_id, noted.text().unwrap_or_default());
        if let Some(since) = whole_since(&epoch, noted, id) {
            return Ok(Life { epoch, since: Some(since), clock, is_moved: false });
        }
        let is_moved = noted.split_once(' ').is_some_and(|(before, _)| before != &**id);
        let is_lost = is_moved || known.is_some_and(|known| *known != *epoch);
        let mut note: Vec<_> = is_lost.then(|| note_lost(keys, now)).into_iter().collect();
        note.push(Command::new("SET").arg(&*keys.server).arg(format!("{id} {}", now.as_millis())));
        // The store may have lost the note of the longest lease.
        let longest = self.ledger.longest_lease();
        if !longest.is_zero() {
            note.push(retention::note_lease(keys, longest, now.plus(longest)));
        }
        match self.session.pipeline(note, deadline).await {
            Ok(_) => Ok(Life { epoch, since: Some(now), clock, is_moved }),
            Err(error) if error.is_out_of_memory() => Ok(Life { epoch, since: None, clock, is_moved }),
            Err(error) => Err(error),
        }
    }

    /// Asks other instances to wait until `name` has written the lost entries back.
    pub(in crate::sources) async fn mark_repairing(
        &mut self,
        name: &str,
        clock: ServerClock,
    ) -> Result<(), LedgerError> {
        let mark = mark(self.ledger, name, clock.now());
        match self.session.call(mark, self.ledger.deadline()).await {
            Err(error) if !error.is_out_of_memory() => Err(error),
            _ => Ok(()), // A full server accepts no entries, and no instance relies on it until it does.
        }
    }

    /// The server's clock, and whether to wait for an instance other than `name`.
    ///
    /// A mark expires within [`REPAIR`], so a mark that ends later was made before the server's clock was set back:
    /// `waited` is the time for which its instance has been waited for, on the monotonic clock.
    pub(in crate::sources) async fn repairing(
        &mut self,
        name: &str,
        waited: Duration,
    ) -> Result<(Timestamp, bool), LedgerError> {
        let marks = Command::new("ZRANGE").arg(&*self.ledger.keys.repairing).args(["0", "-1", "WITHSCORES"]);
        let answers = self.session.pipeline(vec![Command::new("TIME"), marks], self.ledger.deadline()).await?;
        let [time, marks] = answers.as_slice() else { return Err(short()) };
        let now = answer::time(time)?;
        let holds = |until: Timestamp| until > now && (until <= now.plus(REPAIR + MARK_SLACK) || waited < REPAIR);
        let read = |marked: &str, until| members::is_instance(marked).then(|| marked != name && holds(until));
        let holds = self.ledger.members(&self.ledger.keys.repairing, marks, read)?;
        Ok((now, holds.contains(&true)))
    }
}

impl RedisLedger {
    /// Renews the request to wait for `name`.
    pub(in crate::sources) async fn keep_repairing(&self, name: &str) -> Result<(), LedgerError> {
        let now = answer::time(&self.shared.call(self, Command::new("TIME"), self.deadline()).await?)?;
        let forget = Command::new("ZREMRANGEBYSCORE").arg(&*self.keys.repairing).arg("-inf").arg(now.as_millis());
        self.shared.pipeline(self, vec![mark(self, name, now), forget]).await.map(drop)
    }

    /// Like [`Self::keep_repairing`]; also returns whether `name` shall write the lost entries back: the first
    /// instance to ask does, so that not all do it at once, until it ends or stops renewing.
    pub(in crate::sources) async fn is_repairer(&self, name: &str) -> Result<bool, LedgerError> {
        self.keep_repairing(name).await?;
        self.is_first(name).await
    }

    /// Whether `name` is the instance that does a task once for all instances.
    pub(in crate::sources) async fn is_first(&self, name: &str) -> Result<bool, LedgerError> {
        self.claim(&self.keys.repairer, name, REPAIR).await
    }

    /// Takes or renews a lease of `length`; false if another name has it. A full server renews one, and refuses a new one.
    pub(super) async fn claim(&self, key: &str, name: &str, length: Duration) -> Result<bool, LedgerError> {
        let lasts = length.as_millis().to_string();
        let commands = vec![Command::new("GET").arg(key), Command::new("PEXPIRETIME").arg(key), Command::new("TIME")];
        let answers = self.shared.pipeline(self, commands).await?;
        let [holder, ends, time] = answers.as_slice() else { return Err(short()) };
        if holder.is_nil() {
            let claim = Command::new("SET").arg(key).arg(name).args(["NX", "PX"]).arg(lasts.as_str());
            return Ok(!self.shared.call(self, claim, self.deadline()).await?.is_nil());
        }
        let is_ours = holder.text() == Some(name);
        // One that lies further ahead was claimed before the server's clock was set back; one without an end (-1), by
        // another program.
        let latest = answer::time(time)?.plus(length + MARK_SLACK).as_millis();
        if is_ours {
            self.shared.call(self, Command::new("PEXPIRE").arg(key).arg(lasts.as_str()), self.deadline()).await?;
        } else if ends.as_i64().is_some_and(|ends| ends > latest || ends == -1) {
            self.shared.call(self, Command::new("DEL").arg(key), self.deadline()).await?;
        }
        Ok(is_ours)
    }

    /// Ends the wait for `name`.
    pub(in crate::sources) async fn end_repairing(&self, name: &str) -> Result<(), LedgerError> {
        let end = Command::new("ZADD").arg(&*self.keys.repairing).arg("0").arg(name);
        let repairer = Command::new("GET").arg(&*self.keys.repairer);
        let answers = self.shared.pipeline(self, vec![end, repairer]).await?;
        if answers.get(1).and_then(Answer::text) == Some(name) {
            self.shared.call(self, Command::new("DEL").arg(&*self.keys.repairer), self.deadline()).await?;
        }
        Ok(())
    }
}

fn mark(ledger: &RedisLedger, name: &str, now: Timestamp) -> Command {
    Command::new("ZADD").arg(&*ledger.keys.repairing).arg(now.plus(REPAIR).as_millis()).arg(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_as_old_as_its_server_and_its_epoch() {
        let since = |epoch, noted, id| whole_since(epoch, noted, id).map(Timestamp::as_millis);
        assert_eq!(since("host.1 1000", "a 3000", "a"), Some(3000));
        assert_eq!(since("host.1 5000", "a 3000", "a"), Some(5000), "flushed since");
        assert_eq!(since("by-hand", "a 3000", "a"), Some(3000));
        for (noted, id) in [("", "a"), ("b 3000", "a"), ("a", "a"), ("a x", "a"), (" 3000", "")] {
            assert_eq!(since("host.1 1000", noted, id), None, "{noted:?}");
        }
    }

    #[test]
    fn a_loss_that_is_to_come_was_noted_by_another_clock() {
        let lost = |noted| lost_at(noted, Timestamp::from_millis(5_000)).map(Timestamp::as_millis);
        assert_eq!(lost("4000"), Some(4_000));
        assert_eq!(lost("6000"), Some(6_000), "estimated a little late");
        assert_eq!(lost("6001"), Some(0));
        for odd in ["", "soon", "4 000", "99999999999999999999"] {
            assert_eq!(lost(odd), None, "{odd:?}");
        }
    }
}
