//! What a relay reads and writes in a store beside the log (see [`crate::sources::relay`]).
//!
//! ```text
//! doorward:{r}:relay:ID        the note of the relay's owner, JSON
//! doorward:{r}:relay-owner:ID  the process that runs the relay from this store; it expires unless that one renews it
//! doorward:{r}:relayed         sorted set, of the relays to this store: the region that one copies from, and the time
//!                              (of this store's clock, ms) up to which everything that was written there is here
//! ```
//!
//! ID is a digest of the other store's address and prefix. A relay is not an instance: it has no lease, and decides
//! nothing. It founds an epoch where there is none, because a region may have no instance; but the server is noted by
//! instances alone, who note the length of their leases with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::super::LedgerError;
use super::answer::{self, Answer, short};
use super::clock::ServerClock;
use super::feed::Unread;
use super::session::Command;
use super::{RedisLedger, clock_note, members, retention};
use crate::authz::claims::Timestamp;
use crate::clock::Steady;

/// What a relay notes in the store to which it copies.
pub(in crate::sources) struct Received {
    /// Names the region from which it copies.
    pub(in crate::sources) from: String,
    /// Its name until now.
    pub(in crate::sources) former: Option<String>,
    /// Everything that was written there this long ago is here.
    pub(in crate::sources) lag: Duration,
}

/// The oldest of the notes of relays to a store, in its milliseconds; 0: there is none, or they were not read yet.
#[derive(Default)]
pub(super) struct OldestReceived(AtomicI64);

/// The most notes of relays that are read, the oldest first: many more than there are relays.
const MOST_READ: &str = "1000";
/// A relay that was given up is not waited for any longer.
const WAITED_FOR: Duration = Duration::from_secs(24 * 3600);

/// The oldest note that counts. A note is that of an address, an epoch and a server. A region has one store, which may have
/// two addresses, or a new server since, but not both at once: regions that were made from a copy of one Redis have its
/// epoch, too.
fn oldest_of(notes: &[(String, Timestamp)]) -> Option<Timestamp> {
    fn names(note: &str) -> [(bool, [&str; 2]); 2] {
        let mut words = note.split(' ');
        let [place, epoch, server] = [(); 3].map(|()| words.next().unwrap_or_default());
        [(true, [place, epoch]), (false, [epoch, server])]
    }
    let mut newest = HashMap::new();
    for (note, at) in notes {
        for name in names(note) {
            let known = newest.entry(name).or_insert(*at);
            *known = (*at).max(*known);
        }
    }
    let counts = |(note, at): &&(String, Timestamp)| names(note).iter().all(|name| newest[name] == *at);
    notes.iter().filter(counts).map(|(_, at)| *at).min()
}

impl RedisLedger {
    /// How long ago everything was written in each other region that is here; of the region that is furthest behind.
    /// `None`: no relay has copied to this store for a day.
    pub(in crate::sources) fn inbound_lag(&self) -> Option<Duration> {
        let oldest = Some(self.received.0.load(Ordering::Relaxed)).filter(|oldest| *oldest > 0)?;
        Some(self.store_clock()?.since(Timestamp::from_millis(oldest)))
    }

    /// Reads the notes of the relays to this store.
    pub(in crate::sources) async fn read_received(&self) -> Result<(), LedgerError> {
        let Some(now) = self.store_clock() else { return Ok(()) };
        let noted = Command::new("ZRANGE").arg(&*self.keys.relayed).arg(now.minus(WAITED_FOR).as_millis());
        let noted = noted.args(["+inf", "BYSCORE", "LIMIT", "0", MOST_READ, "WITHSCORES"]);
        let answer = self.shared.call(self, noted, self.deadline()).await?;
        // A running relay corrects one from the future: it was written before the clock was set back, nobody knows when.
        let past = |at: Timestamp| at.min(now.minus(at.since(now)));
        let notes = self.members(&self.keys.relayed, &answer, |text, at| Some((text.to_owned(), past(at))))?;
        let oldest = oldest_of(&notes);
        self.received.0.store(oldest.map_or(0, Timestamp::as_millis), Ordering::Relaxed);
        Ok(())
    }

    /// Writes the note of a relay to this store, and drops those that are no longer waited for.
    pub(in crate::sources) async fn note_received(&self, received: Received) -> Result<(), LedgerError> {
        let Received { from, former, lag } = received;
        let now = self.store_clock().unwrap_or_default();
        let note = Command::new("ZADD").arg(&*self.keys.relayed).arg(now.minus(lag).as_millis()).arg(from);
        let note = former.into_iter().fold(note, |note, former| note.arg(0).arg(former));
        let over = Command::new("ZREMRANGEBYSCORE").arg(&*self.keys.relayed).arg("-inf");
        let over = over.arg(now.minus(WAITED_FOR).as_millis());
        self.shared.pipeline(self, vec![note, over]).await.map(drop)
    }

    /// Takes or renews the lease on a relay from this store; false if another process has it.
    pub(in crate::sources) async fn own_relay(
        &self,
        id: &str,
        name: &str,
        lasts: Duration,
    ) -> Result<bool, LedgerError> {
        self.claim(&self.keys.relay("-owner", id), name, lasts).await
    }

    /// Replaces the note of a relay.
    pub(in crate::sources) async fn note_relay(&self, id: &str, note: &str) -> Result<(), LedgerError> {
        let set = Command::new("SET").arg(self.keys.relay("", id)).arg(note);
        self.shared.call(self, set, self.deadline()).await.map(drop)
    }

    /// The note of a relay and its owner.
    pub(in crate::sources) async fn relay_note(&self, id: &str) -> Result<[Option<String>; 2], LedgerError> {
        let keys = ["", "-owner"].map(|part| self.keys.relay(part, id));
        let answer = self.shared.call(self, Command::new("MGET").args(keys), self.deadline()).await?;
        let Some([note, owner]) = answer.parts() else { return Err(short()) };
        Ok([note, owner].map(|text| text.text().map(str::to_owned)))
    }

    /// The epoch of the store; founds one, named by `name`, if there is none. `None`: the store is full.
    pub(in crate::sources) async fn epoch(&self, name: &str) -> Result<Option<Box<str>>, LedgerError> {
        let get = || Command::new("GET").arg(&*self.keys.meta);
        let found = self.shared.pipeline(self, vec![get(), Command::new("TIME")]).await?;
        let [epoch, time] = found.as_slice() else { return Err(short()) };
        if let Some(epoch) = members::text(&self.keys.meta, epoch)? {
            return Ok(Some(epoch.into()));
        }
        let epoch = format!("{name} {}", answer::time(time)?.as_millis());
        let set = Command::new("SET").arg(&*self.keys.meta).arg(epoch).arg("NX");
        match self.shared.pipeline(self, vec![set, get()]).await {
            Ok(answers) => Ok(answers.get(1).and_then(Answer::text).map(Into::into)),
            Err(error) if error.is_out_of_memory() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Notes that entries of this log are needed for `retention`, reads for how long others need them, and compares the
    /// store's clock with this machine's as an instance does; returns the store's time. A full store takes no notes.
    pub(in crate::sources) async fn tend(&self, retention: Duration) -> Result<Timestamp, LedgerError> {
        let (now, since) = (self.store_clock().unwrap_or_default(), self.clock.since());
        let mut commands = vec![retention::note(&self.keys, retention, now)];
        commands.extend(self.clock.note(&self.keys, now, crate::clock::now()));
        match self.shared.pipeline(self, commands).await {
            Ok(_) => self.clock.noted(since),
            Err(error) if error.is_out_of_memory() => {}
            Err(error) => return Err(error),
        }
        let asked = Steady::now();
        let clock = clock_note::Note::command(&self.keys);
        let commands = vec![retention::notes_command(&self.keys), clock, Command::new("TIME")];
        let answers = self.shared.pipeline(self, commands).await?;
        let [retentions, noted, time] = answers.as_slice() else { return Err(short()) };
        self.take_retentions(retentions)?;
        let clock = ServerClock::read(asked, answer::time(time)?);
        self.clock.observe(clock);
        self.clock.compare(self.clock_note(noted)?, clock, crate::clock::now());
        Ok(clock.now())
    }

    /// Reads the store's clock.
    pub(in crate::sources) async fn read_clock(&self) -> Result<(), LedgerError> {
        let asked = Steady::now();
        let time = self.shared.call(self, Command::new("TIME"), self.deadline()).await?;
        self.clock.observe(ServerClock::read(asked, answer::time(&time)?));
        Ok(())
    }

    /// Sets keys that were deferred, see [`super::RedisConfig::defers_keys`]; call it from time to time.
    pub(in crate::sources) async fn set_deferred_keys(&self) -> Result<(), LedgerError> {
        self.writer.set_deferred(self).await
    }

    /// Adds entries with the fields of those that are not understood here.
    pub(in crate::sources) async fn add_unread(&self, entries: &[&Unread]) -> Result<(), LedgerError> {
        let add = |entry: &&Unread| {
            let bytes = entry.bytes.iter().map(|part| &**part);
            Command::new("XADD").arg(&*self.keys.log).arg("*").args(bytes)
        };
        self.shared.pipeline(self, entries.iter().map(add).collect()).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_until_a_later_one_is_about_the_same_store() {
        for (notes, expected) in [
            (&[][..], None),
            (&[("a:1 E R", 5), ("b:1 F S", 4)], Some(4)),
            (&[("a:1 E R", 5), ("other:1 E R", 9)], Some(9)), // Another address.
            (&[("a:1 E R", 5), ("a:1 E S", 9)], Some(9)),     // Another server, after a failover.
            (&[("a:1 E", 5), ("a:1 E S", 9)], Some(9)),       // By an earlier version.
            (&[("a:1 E R", 5), ("b:1 E S", 9)], Some(5)),     // A region that was made from a copy.
            (&[("a:1 E R", 5), ("a:1 F R", 9)], Some(5)),     // Two databases of one server.
            (&[("a:1 E R", 5), ("a:1 E R", 5)], Some(5)),
            (&[("", 5)], Some(5)),
        ] {
            let notes: Vec<_> = notes.iter().map(|(note, at)| (note.to_string(), Timestamp::from_secs(*at))).collect();
            assert_eq!(oldest_of(&notes), expected.map(Timestamp::from_secs), "{notes:?}");
        }
    }
}
