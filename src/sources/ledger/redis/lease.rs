//! Leases: which instances may be deciding with what they know, and how far each has read.
//!
//! ```text
//! doorward:{r}:instances      sorted set: the instance's name, until when its lease runs (server's clock, ms)
//! doorward:{r}:instance:NAME  what it says of itself, in words
//! ```
//!
//! A lease is written on the connection that reads the log, so an instance that reads one server never
//! has its lease at another.

use std::time::{Duration, Instant};

use fred::types::Value;

use super::super::{LedgerError, Position};
use super::RedisLedger;
use super::answer::{self, Answer, short};
use super::feed::Feed;
use super::session::Command;
use super::wire;
use crate::authz::claims::Timestamp;
use crate::authz::revocation::Revocation;

/// What an instance says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::sources) struct Report {
    /// When it said so, by the server's clock.
    pub(in crate::sources) at: Timestamp,
    /// Everything in the log up to here is applied.
    pub(in crate::sources) position: Position,
    pub(in crate::sources) view_age: Option<Duration>,
    pub(in crate::sources) uptime: Duration,
    /// How long ago it found that the store had lost something.
    pub(in crate::sources) loss_age: Option<Duration>,
    pub(in crate::sources) state: Box<str>,
    pub(in crate::sources) version: Box<str>,
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
    pub(in crate::sources) leases: Vec<Lease>,
}

/// The server's clock, and the moment before it was asked: the server showed this no earlier than then.
#[derive(Clone, Copy, Debug)]
pub(in crate::sources) struct ServerClock {
    asked: Instant,
    showed: Timestamp,
}

impl ServerClock {
    /// What the server's clock shows about now; it may show more.
    fn now(&self) -> Timestamp {
        self.showed.plus(self.asked.elapsed())
    }
}

impl Feed<'_> {
    pub(in crate::sources) async fn clock(&mut self) -> Result<ServerClock, LedgerError> {
        let asked = Instant::now();
        Ok(ServerClock { asked, showed: self.time().await? })
    }

    /// Renews a lease by `length`, counted from the clock's reading, and reads the clock anew.
    ///
    /// The moment returned with it is the earliest at which the lease can run out: instances count on
    /// their own monotonic clock, the lease on the server's.
    pub(in crate::sources) async fn renew(
        &mut self,
        name: &str,
        clock: ServerClock,
        length: Duration,
        report: Report,
    ) -> Result<(ServerClock, Instant), LedgerError> {
        let report = Report { at: clock.now(), ..report };
        let keys = &self.ledger.keys;
        let until = clock.showed.plus(length).as_millis();
        let lease = Command::new("ZADD").arg(&*keys.instances).arg(until).arg(name);
        let says = Command::new("SET").arg(keys.instance(name)).arg(words(&report));
        let says = says.arg("PX").arg(i64::try_from(length.as_millis()).unwrap_or(i64::MAX));
        let asked = Instant::now();
        let commands = vec![lease, says, Command::new("TIME")];
        let answers = self.session.pipeline(commands, self.ledger.deadline()).await?;
        let [_, _, time] = answers.as_slice() else { return Err(short()) };
        Ok((ServerClock { asked, showed: answer::time(time)? }, clock.asked + length))
    }
}

impl RedisLedger {
    /// Leases that ran out are kept this much longer, for nobody: it only has to be later than any
    /// writer that was overtaken by its own end.
    const KEPT: Duration = Duration::from_secs(600);

    /// Every lease that runs.
    pub(in crate::sources) async fn leases(&self) -> Result<Leases, LedgerError> {
        // The clock first: a lease that had run out by then, and is read later, has run out.
        let now = answer::time(&self.shared.call(self, Command::new("TIME"), self.deadline()).await?)?;
        let all = Command::new("ZRANGE").arg(&*self.keys.instances).args(["0", "-1", "WITHSCORES"]);
        let all = self.shared.call(self, all, self.deadline()).await?;
        let pairs = all.parts().unwrap_or_default().chunks_exact(2);
        let (mut names, mut forgotten) = (Vec::new(), false);
        for pair in pairs {
            let name = pair[0].text().ok_or_else(short)?;
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this age: far below 2^53")]
            let until = pair[1].as_f64().map(|until| Timestamp::from_millis(until as i64)).ok_or_else(short)?;
            if until > now {
                names.push(Box::<str>::from(name));
            }
            forgotten |= until.plus(Self::KEPT) < now;
        }
        if forgotten {
            let before = now.minus(Self::KEPT).as_millis();
            let sweep = Command::new("ZREMRANGEBYSCORE").arg(&*self.keys.instances).arg("-inf").arg(before);
            self.shared.call(self, sweep, self.deadline()).await?;
        }
        if names.is_empty() {
            return Ok(Leases { now, leases: Vec::new() });
        }
        let says = Command::new("MGET").args(names.iter().map(|name| self.keys.instance(name)));
        let says = self.shared.call(self, says, self.deadline()).await?;
        let says = says.parts().unwrap_or_default().iter().map(|text| text.text().and_then(read));
        let leases = names.into_iter().zip(says).map(|(name, report)| Lease { name, report }).collect();
        Ok(Leases { now, leases })
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
        answer::position::<Value>(&answer)
    }
}

/// Space-separated; later versions may add words at the end.
fn words(report: &Report) -> String {
    let Report { at, position, view_age, uptime, loss_age, state, version } = report;
    let millis = |age: &Option<Duration>| age.map_or("-".to_owned(), |age| age.as_millis().to_string());
    let (at, view_age, loss_age) = (at.as_millis(), millis(view_age), millis(loss_age));
    format!("{position} {at} {view_age} {} {loss_age} {state} {version}", uptime.as_secs())
}

fn read(text: &str) -> Option<Report> {
    let words: Vec<_> = text.split(' ').collect();
    let [position, at, view_age, uptime, loss_age, state, version, ..] = words.as_slice() else { return None };
    let millis = |word: &str| {
        if word == "-" { Some(None) } else { word.parse().ok().map(|age| Some(Duration::from_millis(age))) }
    };
    Some(Report {
        at: Timestamp::from_millis(at.parse().ok()?),
        position: position.parse().ok()?,
        view_age: millis(view_age)?,
        uptime: Duration::from_secs(uptime.parse().ok()?),
        loss_age: millis(loss_age)?,
        state: (*state).into(),
        version: (*version).into(),
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
            loss_age: None,
            state: "following".into(),
            version: "0.1.0".into(),
        };
        assert_eq!(read(&words(&report)), Some(report.clone()));
        assert_eq!(read(&format!("{} more", words(&report))), Some(report));
        for odd in ["", "1-1 2 3", "x 2 3 4 - s v"] {
            assert_eq!(read(odd), None, "{odd:?}");
        }
    }
}
