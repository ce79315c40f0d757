//! Leases: which instances may be deciding with what they know, and how far each has read.
//!
//! ```text
//! doorward:{r}:instances      sorted set: the instance's name, until when its lease runs (server's clock, ms)
//! doorward:{r}:instance:NAME  what it says of itself, in words, with the lease's time to live
//! doorward:{r}:leases         sorted set: a lease's length in milliseconds, until when one of that length may run
//! ```
//!
//! A lease runs while either says so. It is written on the connection that reads the log, so an instance
//! that reads one server never has its lease at another. A full server lets no word be written, but still a
//! time to live be set: a lease that is there goes on, and says what it said before.
//!
//! How long the leases are is noted apart from them, and remembered by every instance for as long as it lives: a store
//! that forgot leases cannot say how long they run.

use std::time::Duration;

use super::super::{LedgerError, Position};
use super::answer::{self, Answer, short};
use super::clock::{self, ServerClock};
use super::feed::{self, Feed};
use super::session::Command;
use super::store::{self, Server};
use super::wire;
use super::{RedisLedger, even, margins, members, retention};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{Lead, Revocation};
use crate::clock::Steady;

/// The description that an instance publishes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::sources) struct Report {
    /// When it said so, by the server's clock.
    pub(in crate::sources) at: Timestamp,
    /// Everything in the log up to here is applied.
    pub(in crate::sources) position: Position,
    pub(in crate::sources) view_age: Option<Duration>,
    pub(in crate::sources) uptime: Duration,
    pub(in crate::sources) state: Box<str>,
    pub(in crate::sources) version: Box<str>,
    /// Entries that asked for a receipt and could not be applied.
    pub(in crate::sources) unapplied: Vec<Position>,
    /// Milliseconds by which its wall clock is ahead of the store's.
    pub(in crate::sources) skew_ms: Option<i64>,
    /// Streams that are open.
    pub(in crate::sources) streams: usize,
    /// Streams that were ended by what the last entries revoke that asked for a receipt.
    pub(in crate::sources) ended: Vec<(Position, usize)>,
}

/// A lease that runs.
#[derive(Clone, Debug)]
pub(in crate::sources) struct Lease {
    pub(in crate::sources) name: Box<str>,
    /// `None`: it cannot be read.
    pub(in crate::sources) report: Option<Report>,
}

/// Leases that run, as of one instant of the server.
#[derive(Clone, Debug, Default)]
pub(in crate::sources) struct Leases {
    pub(in crate::sources) now: Timestamp,
    pub(in crate::sources) running: Vec<Lease>,
    /// The newest entry after the reports were read: a report that is beyond it speaks of another log.
    pub(in crate::sources) newest: Position,
    pub(in crate::sources) server: Server,
    /// Since when it has kept the leases it was given; `None` if that is not known.
    pub(in crate::sources) whole_since: Option<Timestamp>,
    /// Names of leases that ran out, by the server's clock, and were not given back.
    pub(in crate::sources) lapsed: Vec<Box<str>>,
    /// For how long this process has seen the server's clock go evenly, up to now.
    pub(in crate::sources) even_for: Duration,
}

impl Feed<'_> {
    /// Renews a lease by `length`, and reads the clock anew.
    ///
    /// The lease runs for `length` of the server's clock from the moment returned with it, or from a later one.
    /// `None`: there is no lease, and no room for one.
    pub(in crate::sources) async fn renew(
        &mut self,
        name: &str,
        clock: ServerClock,
        length: Duration,
        report: Report,
        leads: &[(IssuerName, Lead)],
    ) -> Result<(ServerClock, Option<Steady>), LedgerError> {
        let report = Report { at: clock.now(), ..report };
        let (keys, deadline) = (&self.ledger.keys, self.ledger.deadline());
        let length_ms = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        let until = report.at.plus(length).as_millis();
        let lease = Command::new("ZADD").arg(&*keys.instances).arg(until).arg(name);
        let says = Command::new("SET").arg(keys.instance(name)).arg(words(&report)).arg("PX").arg(length_ms);
        let (note, note_length) = (
            retention::note(keys, self.ledger.retention(), report.at),
            retention::note_lease(keys, length, report.at.plus(length)),
        );
        self.ledger.note_lease(length);
        let mut commands = vec![lease, says, note, note_length];
        if self.ledger.clock.even_for(clock) >= self.ledger.longest_lease() {
            let over = Command::new("ZREMRANGEBYSCORE").arg(&*keys.leases).arg("-inf");
            commands.push(over.arg(report.at.as_millis())); // By a clock that was set, one that runs is over.
        }
        let since = self.ledger.clock.since();
        commands.extend(self.ledger.clock.note(keys, report.at, crate::clock::now()));
        // With the report: whoever confirms has told how far ahead the tokens are dated that it verified before.
        commands.extend(margins::notes(keys, leads));
        let noted = [even::Note::ask(keys), retention::ask_leases(keys), retention::ask(keys), Command::new("TIME")];
        commands.extend(noted);
        let asked = Steady::now();
        match self.session.pipeline(commands, deadline).await {
            Ok(answers) => {
                let [.., even, lengths, retentions, time] = answers.as_slice() else { return Err(short()) };
                self.ledger.take_leases(lengths)?;
                self.ledger.take_retentions(retentions)?;
                let clock = ServerClock::read(asked, answer::time(time)?);
                self.ledger.clock.noted(since);
                self.ledger.clock.observe(clock);
                self.ledger.clock.compare(self.ledger.clock_note(even)?, clock, crate::clock::now());
                Ok((clock, Some(asked)))
            }
            Err(error) if error.is_out_of_memory() => {
                let asked = Steady::now();
                let extend = Command::new("PEXPIRE").arg(keys.instance(name)).arg(length_ms);
                let extended = self.session.call(extend, deadline).await?.as_i64() == Some(1);
                Ok((clock, extended.then_some(asked)))
            }
            Err(error) => Err(error),
        }
    }
}

impl RedisLedger {
    /// Leases that ran out are kept this much longer, or for the longest lease, for nobody: it only has to be later than
    /// any writer that was overtaken by its own end.
    const KEPT: Duration = Duration::from_secs(600);

    /// Every lease that runs.
    pub(in crate::sources) async fn leases(&self) -> Result<Leases, LedgerError> {
        let get = |key: &str| Command::new("GET").arg(key);
        let all = Command::new("ZRANGE").arg(&*self.keys.instances).args(["0", "-1", "WITHSCORES"]);
        // Whatever took leases away before they were read shows in what is asked after them.
        let (meta, server) = (get(&self.keys.meta), get(&self.keys.server));
        let ask = vec![all, retention::ask_leases(&self.keys), meta, server, Command::new("TIME"), Server::ask()];
        let asked = Steady::now();
        let answers = self.shared.pipeline(self, ask).await?;
        let [all, lengths, epoch, noted, time, info] = answers.as_slice() else { return Err(short()) };
        self.take_leases(lengths)?;
        let is_ours = |name: &str, until| members::is_instance(name).then(|| (Box::<str>::from(name), until));
        let all = self.members(&self.keys.instances, all, is_ours)?;
        let (now, server) = (answer::time(time)?, Server::read(info));
        let noted = noted.text().unwrap_or_default();
        let whole_since = epoch.text().and_then(|epoch| store::whole_since(epoch, noted, &server.replication_id));
        let even_for = self.clock.even_for(ServerClock::read(asked, now));
        let mut leases = Leases { now, server, whole_since, even_for, ..Leases::default() };
        if all.is_empty() {
            return Ok(leases);
        }
        // A lease that has run out by now leaves its holder without a view by now.
        let says = Command::new("MGET").args(all.iter().map(|(name, _)| self.keys.instance(name)));
        let answers = self.shared.pipeline(self, vec![says, self.ask_newest()]).await?;
        let [says, newest] = answers.as_slice() else { return Err(short()) };
        leases.newest = feed::newest(newest)?;
        let says = says.parts().unwrap_or_default();
        let kept = Self::KEPT.max(self.longest_lease());
        let longest = self.longest_lease();
        let (mut some_old, mut old_are_gone) = (false, true);
        for ((name, until), says) in all.into_iter().zip(says) {
            let is_old = until.plus(kept) < now;
            some_old |= is_old;
            old_are_gone &= !is_old || says.is_nil();
            // One that would end later was made by another clock than this one: it is as one that has run out, which counts
            // only once this clock has gone evenly for as long as a lease.
            let is_made_now = longest.is_zero() || until <= now.plus(longest + clock::TOLERANCE);
            if !is_made_now && says.is_nil() {
                self.tell_of_ghost(&name);
            }
            if is_made_now && until > now || !says.is_nil() {
                leases.running.push(Lease { name, report: says.text().and_then(read) });
            } else if until > Timestamp::default() {
                leases.lapsed.push(name);
            }
        }
        // One of them that comes back must write its name anew first, which makes it young. A clock that has just
        // jumped makes all of them old.
        if some_old && old_are_gone && even_for >= kept {
            let before = now.minus(kept).as_millis();
            let sweep = Command::new("ZREMRANGEBYSCORE").arg(&*self.keys.instances).arg("-inf").arg(before);
            self.shared.call(self, sweep, self.deadline()).await?;
        }
        Ok(leases)
    }

    /// Ends a lease at once; whoever held it decides no more.
    pub(in crate::sources) async fn withdraw(&self, name: &str) -> Result<(), LedgerError> {
        let end = Command::new("ZADD").arg(&*self.keys.instances).arg("0").arg(name);
        self.shared.call(self, end, self.deadline()).await?;
        let says = Command::new("DEL").arg(self.keys.instance(name));
        self.shared.call(self, says, self.deadline()).await.map(drop)
    }

    /// Writes an entry once more, marked: whoever reads the mark says at once how far it has read.
    /// Repeating an entry changes nothing else.
    pub(in crate::sources) async fn ask(&self, revocation: &Revocation) -> Result<Position, LedgerError> {
        let add = Command::new("XADD").arg(&*self.keys.log).arg("*");
        let fields = wire::fields(revocation);
        let add = fields.into_iter().fold(add, |add, (name, value)| add.arg(name).arg(value));
        let answer = self.shared.call(self, add.args([wire::RECEIPT, "1"]), self.deadline()).await?;
        answer::position(&answer)
    }
}

/// Space-separated; later versions may add words at the end.
fn words(report: &Report) -> String {
    let Report { at, position, view_age, uptime, state, version, unapplied, skew_ms, streams, ended } = report;
    let skew = skew_ms.map(|millis| format!(" skew={millis}")).unwrap_or_default();
    let unapplied: Vec<_> = unapplied.iter().map(|position| format!(" unapplied={position}")).collect();
    let ended: Vec<_> = ended.iter().map(|(position, count)| format!(" ended={position}/{count}")).collect();
    let more = [unapplied, ended].concat().concat();
    let view_age = view_age.map_or("-".to_owned(), |age| age.as_millis().to_string());
    let (at, uptime) = (at.as_millis(), uptime.as_secs());
    format!("{position} {at} {view_age} {uptime} {state} {version}{skew} streams={streams}{more}")
}

fn read(text: &str) -> Option<Report> {
    let words: Vec<_> = text.split(' ').collect();
    let [position, at, view_age, uptime, state, version, more @ ..] = words.as_slice() else { return None };
    let unapplied = more.iter().filter_map(|word| word.strip_prefix("unapplied="));
    let ended = |word: &&str| {
        let (position, count) = word.strip_prefix("ended=")?.split_once('/')?;
        Some((position.parse().ok()?, count.parse().ok()?))
    };
    let view_age = if *view_age == "-" { None } else { Some(Duration::from_millis(view_age.parse().ok()?)) };
    Some(Report {
        at: Timestamp::from_millis(at.parse().ok()?),
        position: position.parse().ok()?,
        view_age,
        uptime: Duration::from_secs(uptime.parse().ok()?),
        state: (*state).into(),
        version: (*version).into(),
        skew_ms: more.iter().find_map(|word| word.strip_prefix("skew=")?.parse().ok()),
        unapplied: unapplied.map(str::parse).collect::<Result<_, _>>().ok()?,
        streams: more.iter().find_map(|word| word.strip_prefix("streams=")?.parse().ok()).unwrap_or_default(),
        ended: more.iter().filter_map(ended).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_as_they_are_written() {
        let report = Report {
            at: Timestamp::from_millis(1_700_000_000_123),
            position: Position { millis: 1_700_000_000_000, sequence: 7 },
            view_age: Some(Duration::from_millis(12)),
            uptime: Duration::from_secs(3600),
            state: "following".into(),
            version: "0.1.0".into(),
            skew_ms: Some(-12),
            unapplied: vec![Position { millis: 1, sequence: 2 }, Position { millis: 3, sequence: 4 }],
            streams: 7,
            ended: vec![(Position { millis: 1, sequence: 2 }, 3), (Position { millis: 4, sequence: 5 }, 0)],
        };
        assert_eq!(read(&words(&report)), Some(report.clone()));
        assert_eq!(read(&format!("{} more", words(&report))), Some(report));
        for odd in ["", "1-1 2 3", "x 2 3 4 s v", "1-1 2 3 4 s v unapplied=x"] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }
}
