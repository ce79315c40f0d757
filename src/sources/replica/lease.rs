//! This instance's lease, and receipts: knowing that every instance refuses.
//!
//! # The argument
//!
//! An instance accepts a token only with a view, and a view that is older than `max_staleness` is
//! none (`on_stale: deny`). It publishes the view of a read only if its lease
//!
//! 1. was in the store before the read began, and
//! 2. will run until the view is too old, whatever happens to the instance.
//!
//! A receipt lists the leases after the revocation was written. An instance in the list confirms by
//! itself that it has applied the entry. One that is not in the list has no view now, by (2), and every
//! view that it will publish is of a read that begins after its next lease was written, by (1), which
//! is after the list, so the read finds the entry. Hence nobody accepts the token any more, and an
//! instance that cannot be reached is waited for until its lease runs out.
//!
//! It rests on: clocks that run at the same pace for the length of a lease, within the margin; a
//! server clock that does not jump forward by more than a few seconds; a store that keeps the leases.
//! A store that was emptied, restarted or failed over may have lost some, so the list of one that has not
//! been the same for the length of a lease confirms nothing: by then, whoever it forgot has a new lease or no
//! view. A full store takes no new words, but lets a lease be prolonged: its holder goes on deciding, and is
//! waited for as long as it cannot say how far it is. With `on_stale: allow` a cut-off instance accepts for ever, and a receipt
//! speaks of the others only. A decision that was being made while its process was frozen may end
//! later; the proxy has given it up by then.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::super::ledger::{
    Feed, Leases, LedgerError, Position, RedisLedger, Report, RevocationLedger, Server, ServerClock,
};
use super::Replica;
use super::health::Obstacle;
use crate::authz::revocation::Revocation;

/// Between renewals.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How much longer than the longest `max_staleness` a lease runs: several renewals may be late or lost
/// before the view stops being renewed.
const MARGIN: Duration = Duration::from_secs(5);
/// Between looks at who has confirmed; doubled each time up to the second.
const POLL: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];
/// Who waits when the store may have forgotten some.
const FORGOTTEN: &str = "instances that the store may have forgotten";

/// What is known of this instance's lease, whatever the connection.
pub(super) struct Tenure {
    started: Instant,
    /// The longest that a view of this instance may be used, in milliseconds.
    hold_ms: AtomicU64,
    /// Somebody waits to hear how far this instance is.
    asked: AtomicBool,
    /// The server that the log is read from.
    follows: Mutex<Server>,
}

impl Default for Tenure {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            hold_ms: AtomicU64::new(30_000),
            asked: AtomicBool::new(false),
            follows: Mutex::default(),
        }
    }
}

/// The lease on one connection.
#[derive(Default)]
pub(super) struct Held {
    clock: Option<ServerClock>,
    renewed: Option<Instant>,
    /// Reads that begin up to here may be published.
    covers: Option<Instant>,
}

impl Held {
    /// Whether a read that begins now may become the view: the lease is in the store already, and
    /// runs for as long as the view can be used.
    pub(super) fn covers(&self, start: Instant) -> bool {
        self.covers.is_some_and(|until| start <= until)
    }
}

/// What became of a revocation.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Instances that may be deciding.
    pub instances: usize,
    /// Those of them that have confirmed.
    pub applied: usize,
    /// Those of them that have not confirmed, by name; nobody accepts what was revoked if there is none.
    pub waiting: Vec<String>,
}

/// One instance, as it last said of itself.
#[derive(Clone, Debug)]
pub struct Peer {
    pub name: String,
    pub position: Position,
    /// As of now.
    pub view_age: Option<Duration>,
    pub uptime: Duration,
    pub state: String,
    pub version: String,
}

impl Tenure {
    fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms.load(Ordering::Acquire))
    }

    pub(super) fn note_server(&self, server: &Server) {
        server.clone_into(&mut self.follows.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// An entry that asks for a receipt has been applied.
    pub(super) fn note_asked(&self) {
        self.asked.store(true, Ordering::Release);
    }

    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }
}

impl Replica {
    /// How long a view may be used: the longest `max_staleness` of any rule. Call it before rules
    /// that allow more are put in force.
    pub fn hold_for(&self, longest: Duration) {
        let hold_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        if self.tenure.hold_ms.swap(hold_ms, Ordering::AcqRel) < hold_ms {
            self.tenure.note_asked(); // The lease is too short now: renew it at once.
        }
    }

    /// Keeps the log of the store at least this long from now on.
    pub fn retain_for(&self, longest: Duration) {
        if let RevocationLedger::Redis(ledger) = &self.ledger {
            ledger.retain_for(longest);
        }
    }

    /// Renews the lease if it is time, or if somebody waits to hear from us.
    pub(super) async fn keep_lease(
        &self,
        feed: &mut Feed<'_>,
        clock: ServerClock,
        held: &mut Held,
    ) -> Result<(), LedgerError> {
        let tenure = &self.tenure;
        let due = held.renewed.is_none_or(|renewed| renewed.elapsed() >= RENEW_EVERY);
        if !tenure.asked.swap(false, Ordering::AcqRel) && !due {
            return Ok(());
        }
        let hold = tenure.hold();
        let clock = held.clock.unwrap_or(clock);
        let (clock, runs_until) = feed.renew(&self.name, clock, hold + MARGIN, self.report()).await?;
        let covers = runs_until.and_then(|until| until.checked_sub(hold));
        *held = Held { clock: Some(clock), renewed: Some(Instant::now()), covers };
        Ok(())
    }

    fn report(&self) -> Report {
        Report {
            position: *self.applied.borrow(),
            // While the log is being repaired the view may lack anything: it has no age.
            view_age: self.freshness.age(Instant::now()).filter(|age| *age < Duration::MAX),
            uptime: self.tenure.started.elapsed(),
            state: self.health.status().state.as_str().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Report::default()
        }
    }

    /// Gives the lease back: after this, nothing is decided any more.
    pub(super) async fn withdraw(&self) {
        let RevocationLedger::Redis(ledger) = &self.ledger else { return };
        self.freshness.suspend();
        if let Err(error) = ledger.withdraw(&self.name).await {
            tracing::debug!(%error, "lease not withdrawn; it runs out by itself");
        }
    }

    /// What this instance says of itself.
    pub fn this(&self) -> Peer {
        let now = crate::clock::now();
        peer(&self.name, &Report { at: now, ..self.report() }, now)
    }

    /// The instances that may be deciding, this one first.
    pub async fn peers(&self) -> Result<Vec<Peer>, LedgerError> {
        let mut peers = vec![self.this()];
        if let RevocationLedger::Redis(ledger) = &self.ledger {
            let Leases { now, running, .. } = ledger.leases().await?;
            let others = running.iter().filter(|lease| lease.name != self.name);
            peers.extend(others.map(|lease| peer(&lease.name, &lease.report.clone().unwrap_or_default(), now)));
        }
        Ok(peers)
    }

    /// Waits until no instance accepts what a stored revocation refuses, or until `patience` ends.
    ///
    /// `stored`: where [`Self::revoke`] put it.
    pub async fn confirm(&self, revocation: &Revocation, stored: Position, patience: Duration) -> Receipt {
        let RevocationLedger::Redis(ledger) = &self.ledger else {
            return Receipt { instances: 1, applied: 1, waiting: Vec::new() };
        };
        let deadline = Instant::now() + patience;
        // Without the question it takes until the next renewals.
        let wanted = ledger.ask(revocation).await.unwrap_or(stored).max(stored);
        let mut receipt = Receipt { instances: 1, applied: 0, waiting: vec![self.name.to_string()] };
        let [mut pause, longest] = POLL;
        loop {
            if let Ok(leases) = self.leases(ledger).await {
                receipt = self.receipt(&leases, wanted);
                if receipt.waiting.is_empty() {
                    return receipt;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return receipt;
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn leases(&self, ledger: &RedisLedger) -> Result<Leases, LedgerError> {
        let leases = ledger.leases().await?;
        let own = leases.running.iter().any(|lease| lease.name == self.name);
        // A store without our own lease has forgotten it, and maybe others'.
        if own { Ok(leases) } else { Err(LedgerError::Unavailable { cause: "this instance has no lease".into() }) }
    }

    fn receipt(&self, listed: &Leases, wanted: Position) -> Receipt {
        let leases = &listed.running;
        let behind = leases.iter().filter(|lease| lease.report.as_ref().is_none_or(|report| report.position < wanted));
        let mut waiting: Vec<_> = behind.map(|lease| lease.name.to_string()).collect();
        let applied = leases.len() - waiting.len();
        if !self.lists_all(listed) {
            waiting.push(FORGOTTEN.to_owned());
        }
        Receipt { instances: leases.len(), applied, waiting }
    }

    /// Whether the store has kept every lease that may still run: it has been the primary that we read,
    /// with these data, for as long as a lease is.
    fn lists_all(&self, listed: &Leases) -> bool {
        let follows = self.tenure.follows.lock().unwrap_or_else(PoisonError::into_inner);
        let length = self.tenure.hold() + MARGIN;
        Obstacle::is_still(&follows, &listed.server).is_ok()
            && listed.whole_since.is_some_and(|since| listed.now.since(since) >= length)
    }
}

fn peer(name: &str, report: &Report, now: crate::authz::claims::Timestamp) -> Peer {
    Peer {
        name: name.to_owned(),
        position: report.position,
        view_age: report.view_age.map(|age| age.saturating_add(now.since(report.at))),
        uptime: report.uptime.saturating_add(now.since(report.at)),
        state: report.state.to_string(),
        version: report.version.to_string(),
    }
}

/// Names this process: its host, and something of its own, because a restarted process is another one.
pub(super) fn instance_name() -> Box<str> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    let host = if host.is_empty() { "doorward" } else { &host[..host.len().min(63)] };
    format!("{host}.{:08x}", rand::random::<u32>()).into()
}
