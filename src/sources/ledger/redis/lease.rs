//! Leases: the instances that may be deciding, and the progress of each in the log.
//!
//! ```text
//! doorward:{r}:instances      sorted set: the instance's name, until when its lease runs (server's clock, ms)
//! doorward:{r}:instance:NAME  its report, space-separated, with the lease's time to live
//! doorward:{r}:leases         sorted set: a lease's length in milliseconds, until when one of that length may run
//! ```
//!
//! A lease runs while either of the first two keys has it. The lease is written on the connection that reads the log,
//! so an instance that reads one server never has its lease at another. A full server refuses new reports, but accepts
//! a new time to live: an existing lease is prolonged with its previous report.
//!
//! The lengths of leases are noted separately, and every instance remembers them while it runs: a store that lost
//! leases has lost their lengths, too.

use std::time::Duration;

use fred::types::Value;

use super::super::{LedgerError, Position};
use super::answer::{self, Answer, short};
use super::clock::{self, ServerClock};
use super::feed::{self, Feed};
use super::server::Server;
use super::session::Command;
use super::store;
use super::wire;
use super::{RedisLedger, clock_note, members, retention};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{LONGEST_LEEWAY, Lead, Revocation};
use crate::clock::Steady;

/// An instance's published description.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::sources) struct Report {
    /// The time of the report, by the server's clock.
    pub(in crate::sources) at: Timestamp,
    /// Everything in the log up to here is applied.
    pub(in crate::sources) position: Position,
    pub(in crate::sources) view_age: Option<Duration>,
    pub(in crate::sources) uptime: Duration,
    pub(in crate::sources) state: Box<str>,
    pub(in crate::sources) version: Box<str>,
    /// Entries that request a receipt and could not be applied.
    pub(in crate::sources) unapplied: Vec<Position>,
    /// Milliseconds by which its wall clock is ahead of the store's.
    pub(in crate::sources) skew_ms: Option<i64>,
    /// Streams that are open.
    pub(in crate::sources) streams: usize,
    /// The kind of this process; empty: the service.
    pub(in crate::sources) role: Box<str>,
    /// Streams that were ended by the latest entries that request a receipt.
    pub(in crate::sources) ended: Vec<(Position, usize)>,
    /// Issuers with tokens that it verified while it measured no lead; no more than the configuration has.
    pub(in crate::sources) unmeasured: Vec<IssuerName>,
}

/// The answer to a renewal.
#[derive(Debug)]
pub(in crate::sources) struct Renewal {
    pub(in crate::sources) clock: ServerClock,
    /// The lease runs from this moment, or from a later one; `None`: there is no lease, and the server has no memory for
    /// one.
    pub(in crate::sources) began: Option<Steady>,
    /// The store had no lease of this name.
    pub(in crate::sources) is_new: bool,
    /// The report was written, not the key's time to live alone.
    pub(in crate::sources) is_written: bool,
    /// The store has notes about issuers' names.
    pub(in crate::sources) has_names: bool,
    /// How long ago an instance last saw that the store may have lost leases, as it was noted before.
    pub(in crate::sources) lost_for: Option<Duration>,
}

/// A running lease.
#[derive(Clone, Debug)]
pub(in crate::sources) struct Lease {
    pub(in crate::sources) name: Box<str>,
    /// `None`: the report cannot be read.
    pub(in crate::sources) report: Option<Report>,
}

/// Running leases at one time of the server.
#[derive(Clone, Debug, Default)]
pub(in crate::sources) struct Leases {
    pub(in crate::sources) now: Timestamp,
    pub(in crate::sources) running: Vec<Lease>,
    /// The newest entry after the reports were read: a report that is beyond it is about another log.
    pub(in crate::sources) newest: Position,
    pub(in crate::sources) server: Server,
    /// The epoch of the data; empty if there is none.
    pub(in crate::sources) epoch: Box<str>,
    /// The time since which the store has kept all leases; `None` if not established.
    pub(in crate::sources) whole_since: Option<Timestamp>,
    /// Names of leases that expired by the server's clock and were not given back, with their ends; 1970 for an end by
    /// a clock that was set since: it is at most the longest lease later than that change.
    pub(in crate::sources) lapsed: Vec<(Box<str>, Timestamp)>,
    /// The time for which this process has seen the server's clock stable, up to now.
    pub(in crate::sources) stable_for: Duration,
    /// The same of all instances, within [`RedisLedger::INEXACT`]; zero if not established.
    pub(in crate::sources) stable_for_all: Duration,
    /// When an instance last saw that the store may have lost leases; 1970 by a clock that was set since.
    pub(in crate::sources) lost_at: Option<Timestamp>,
}

impl Feed<'_> {
    /// Renews a lease by `length` of the server's clock, and reads the clock again.
    ///
    /// `lost_for`: how long ago this process saw that the store may have lost leases. It is noted for as long as a receipt
    /// of any instance may depend on it.
    pub(in crate::sources) async fn renew(
        &mut self,
        name: &str,
        clock: ServerClock,
        length: Duration,
        report: Report,
        leads: &[(IssuerName, Lead)],
        lost_for: Option<Duration>,
    ) -> Result<Renewal, LedgerError> {
        let report = Report { at: clock.now(), ..report };
        let (keys, deadline) = (&self.ledger.keys, self.ledger.deadline());
        let length_ms = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
        let until = report.at.plus(length).as_millis();
        let lease = Command::new("ZADD").arg(&*keys.instances).arg(until).arg(name);
        let description = Command::new("SET").arg(keys.instance(name)).arg(encoded(&report)).arg("PX").arg(length_ms);
        let (note, note_length) = (
            retention::note(keys, self.ledger.retention(), report.at),
            retention::note_lease(keys, length, report.at.plus(length)),
        );
        self.ledger.note_lease(length);
        // Before the report: an instance that confirms has then also published the leads of the tokens that it verified
        // before.
        let mut commands = self.ledger.note_margins(leads);
        let lost_at = commands.len();
        commands.push(Command::new("GET").arg(&*keys.lost));
        let lost_for = lost_for.filter(|ago| *ago < self.ledger.longest_lease() + LONGEST_LEEWAY);
        commands.extend(lost_for.map(|ago| store::note_lost(keys, report.at.minus(ago))));
        let place = commands.len();
        commands.extend([lease, description, note, note_length]);
        if self.ledger.clock.stable_for(clock) >= self.ledger.longest_lease() {
            let over = Command::new("ZREMRANGEBYSCORE").arg(&*keys.leases).arg("-inf");
            commands.push(over.arg(report.at.as_millis())); // After a change of the clock, a running lease may look expired.
        }
        let since = self.ledger.clock.since();
        commands.extend(self.ledger.clock.note(keys, report.at, crate::clock::now()));
        let noted = [
            Command::new("EXISTS").arg(&*keys.issuers),
            clock_note::Note::command(keys),
            retention::lease_notes_command(keys),
            retention::notes_command(keys),
            Command::new("TIME"),
        ];
        commands.extend(noted);
        let asked = Steady::now();
        match self.session.pipeline(commands, deadline).await {
            Ok(answers) => {
                let [.., names, even, lengths, retentions, time] = answers.as_slice() else { return Err(short()) };
                let (is_new, has_names) = (answers[place].as_i64() == Some(1), names.as_i64() != Some(0));
                self.ledger.warn_of_margins(&answers);
                self.ledger.take_leases(lengths)?;
                self.ledger.take_retentions(retentions)?;
                let clock = ServerClock::read(asked, answer::time(time)?);
                self.ledger.clock.noted(since);
                self.ledger.clock.observe(clock);
                self.ledger.clock.compare(self.ledger.clock_note(even)?, clock, crate::clock::now());
                let lost_at = answers[lost_at].text().and_then(|noted| store::lost_at(noted, clock.now()));
                let lost_at = lost_at.filter(|at| *at > Timestamp::default());
                let lost_for = lost_at.map(|at| clock.now().since(at));
                Ok(Renewal { clock, began: Some(asked), is_new, is_written: true, has_names, lost_for })
            }
            Err(error) if error.is_out_of_memory() => {
                let asked = Steady::now();
                let extend = Command::new("PEXPIRE").arg(keys.instance(name)).arg(length_ms);
                let extended = self.session.call(extend, deadline).await?.as_i64() == Some(1);
                Ok(Renewal {
                    clock,
                    began: extended.then_some(asked),
                    is_new: false,
                    is_written: false,
                    has_names: true,
                    lost_for: None,
                })
            }
            Err(error) => Err(error),
        }
    }
}

impl RedisLedger {
    /// Expired leases are kept for the longest lease and this: a receipt judges by them what was verified within the leeway
    /// before, and it is longer than any write that was delayed beyond the lease's end.
    const KEPT: Duration = LONGEST_LEEWAY;
    /// How far a clock that counts as even may have gone back, and a moment of it be estimated too late.
    pub(in crate::sources) const INEXACT: Duration = Duration::from_secs(15);

    /// All running leases.
    pub(in crate::sources) async fn leases(&self) -> Result<Leases, LedgerError> {
        let get = |key: &str| Command::new("GET").arg(key);
        let all = Command::new("ZRANGE").arg(&*self.keys.instances).args(["0", "-1", "WITHSCORES"]);
        // The loss of leases before this read shows in the facts that are read after it.
        let commands = vec![
            all,
            retention::lease_notes_command(&self.keys),
            get(&self.keys.meta),
            get(&self.keys.server),
            get(&self.keys.lost),
            clock_note::Note::command(&self.keys),
            Command::new("TIME"),
            Server::command(),
        ];
        let asked = Steady::now();
        let answers = self.shared.pipeline(self, commands).await?;
        let [all, lengths, epoch, noted, lost, even, time, info] = answers.as_slice() else { return Err(short()) };
        self.take_leases(lengths)?;
        let is_ours = |name: &str, until| members::is_instance(name).then(|| (Box::<str>::from(name), until));
        let all = self.members(&self.keys.instances, all, is_ours)?;
        let (now, server) = (answer::time(time)?, Server::read(info));
        let noted = noted.text().unwrap_or_default();
        let epoch: Box<str> = epoch.text().unwrap_or_default().into();
        let whole_since = store::whole_since(&epoch, noted, &server.replication_id).filter(|_| !epoch.is_empty());
        let clock = ServerClock::read(asked, now);
        let stable_for = self.clock.stable_for(clock);
        let stable_for_all = self.clock.stable_for_all(self.clock_note(even)?, clock).max(stable_for);
        let lost_at = store::lost_at(lost.text().unwrap_or_default(), now);
        let mut leases =
            Leases { now, server, epoch, whole_since, stable_for, stable_for_all, lost_at, ..Leases::default() };
        if all.is_empty() {
            return Ok(leases);
        }
        // The holder of an expired lease has no view any more.
        let reported = Command::new("MGET").args(all.iter().map(|(name, _)| self.keys.instance(name)));
        let answers = self.shared.pipeline(self, vec![reported, self.newest_command()]).await?;
        let [reported, newest] = answers.as_slice() else { return Err(short()) };
        leases.newest = feed::newest(newest)?;
        let reported = reported.parts().unwrap_or_default();
        let over = self.over_by_steady_time(&all, reported, now, stable_for).await?;
        let longest = self.longest_lease();
        let kept = Self::KEPT + longest;
        let (mut some_old, mut old_are_gone) = (false, true);
        for ((name, until), reported) in all.into_iter().zip(reported) {
            let is_old = until.plus(kept) < now;
            some_old |= is_old;
            old_are_gone &= !is_old || reported.is_nil();
            if over.contains(&name) {
                leases.lapsed.push((name, Timestamp::default()));
                continue;
            }
            // A later end was written by another clock: the lease counts as expired, which matters only once this clock
            // has been stable for the length of a lease.
            let is_made_now = longest.is_zero() || until <= now.plus(longest + clock::TOLERANCE);
            if !is_made_now && reported.is_nil() {
                self.warn_of_endless_lease(&name);
            }
            if is_made_now && until > now || !reported.is_nil() {
                leases.running.push(Lease { name, report: reported.text().and_then(read) });
            } else if until > Timestamp::default() {
                leases.lapsed.push((name, if is_made_now { until } else { Timestamp::default() }));
            }
        }
        // An instance that returns must first write its name again, which makes it recent. After a jump of the clock
        // all of them look old.
        if some_old && old_are_gone && stable_for_all >= kept {
            let before = now.minus(kept).as_millis();
            let sweep = Command::new("ZREMRANGEBYSCORE").arg(&*self.keys.instances).arg("-inf").arg(before);
            self.shared.call(self, sweep, self.deadline()).await?;
        }
        Ok(leases)
    }

    /// The leases that were taken when the server's clock was ahead, and have expired since by the monotonic clock: by
    /// the server's clock they would run until it reaches that time again.
    async fn over_by_steady_time(
        &self,
        all: &[(Box<str>, Timestamp)],
        reported: &[Value],
        now: Timestamp,
        stable_for: Duration,
    ) -> Result<Vec<Box<str>>, LedgerError> {
        // A report with a time in the future dates from before the clock became stable.
        let is_past = |until: &Timestamp, report: Report| {
            report.at > now.plus(Self::INEXACT) && stable_for >= until.since(report.at)
        };
        let pairs = all.iter().zip(reported);
        let past: Vec<_> = pairs
            .filter(|((_, until), reported)| {
                reported.text().and_then(read).is_some_and(|report| is_past(until, report))
            })
            .map(|(lease, _)| lease)
            .collect();
        if past.is_empty() {
            return Ok(Vec::new());
        }
        let commands = past.iter().map(|(name, _)| Command::new("PEXPIRETIME").arg(self.keys.instance(name)));
        let ends = self.shared.pipeline(self, commands.collect()).await?;
        // A full server prolongs the key alone, which ends before the lease would then.
        let is_as_long = |until: Timestamp, end: &Value| {
            end.as_i64().is_some_and(|end| Timestamp::from_millis(end) > until.minus(Self::INEXACT))
        };
        let over = past.into_iter().zip(&ends).filter(|((_, until), end)| is_as_long(*until, end));
        Ok(over.map(|((name, _), _)| name.clone()).collect())
    }

    /// Ends a lease at once; its holder must not decide any more.
    ///
    /// A receipt relies on it that a withdrawn lease has left no lead unreported: if the margins cannot be noted, or one is
    /// not measured, the lease is left to lapse.
    pub(in crate::sources) async fn withdraw(
        &self,
        name: &str,
        leads: &[(IssuerName, Lead)],
    ) -> Result<(), LedgerError> {
        self.shared.pipeline(self, self.note_margins(leads)).await?;
        if leads.iter().any(|(_, lead)| lead.is_unmeasured()) {
            return Err(LedgerError::Unavailable { cause: "a lead is not measured".into() });
        }
        let end = Command::new("ZADD").arg(&*self.keys.instances).arg("0").arg(name);
        self.shared.call(self, end, self.deadline()).await?;
        let delete = Command::new("DEL").arg(self.keys.instance(name));
        self.shared.call(self, delete, self.deadline()).await.map(drop)
    }

    /// Writes an entry again, with a mark: an instance that reads the mark reports its progress at once. Repeating an
    /// entry changes nothing else.
    pub(in crate::sources) async fn request_progress(&self, revocation: &Revocation) -> Result<Position, LedgerError> {
        let add = Command::new("XADD").arg(&*self.keys.log).arg("*");
        let fields = wire::fields(&self.dated(revocation));
        let add = fields.into_iter().fold(add, |add, (name, value)| add.arg(name).arg(value));
        let answer = self.shared.call(self, add.args([wire::RECEIPT, "1"]), self.deadline()).await?;
        answer::position(&answer)
    }
}

/// Space-separated; later versions may append fields.
fn encoded(report: &Report) -> String {
    let Report { at, position, view_age, uptime, state, version, .. } = report;
    let Report { unapplied, skew_ms, streams, role, ended, unmeasured, .. } = report;
    let skew = skew_ms.map(|millis| format!(" skew={millis}")).unwrap_or_default();
    let role = if role.is_empty() { String::new() } else { format!(" role={role}") };
    let unapplied: Vec<_> = unapplied.iter().map(|position| format!(" unapplied={position}")).collect();
    let ended: Vec<_> = ended.iter().map(|(position, count)| format!(" ended={position}/{count}")).collect();
    let unmeasured: Vec<_> = unmeasured.iter().map(|issuer| format!(" unmeasured={issuer}")).collect();
    let more = [unapplied, ended, unmeasured].concat().concat();
    let view_age = view_age.map_or("-".to_owned(), |age| age.as_millis().to_string());
    let (at, uptime) = (at.as_millis(), uptime.as_secs());
    format!("{position} {at} {view_age} {uptime} {state} {version}{skew} streams={streams}{role}{more}")
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
        role: more.iter().find_map(|word| word.strip_prefix("role=")).unwrap_or_default().into(),
        ended: more.iter().filter_map(ended).collect(),
        unmeasured: more.iter().filter_map(|word| IssuerName::parse(word.strip_prefix("unmeasured=")?)).collect(),
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
            role: "module".into(),
            ended: vec![(Position { millis: 1, sequence: 2 }, 3), (Position { millis: 4, sequence: 5 }, 0)],
            unmeasured: ["main", "other"].into_iter().filter_map(IssuerName::parse).collect(),
        };
        assert_eq!(read(&encoded(&report)), Some(report.clone()));
        assert_eq!(read(&format!("{} more", encoded(&report))), Some(report));
        for odd in ["", "1-1 2 3", "x 2 3 4 s v", "1-1 2 3 4 s v unapplied=x"] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }
}
