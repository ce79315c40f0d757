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
//! What (2) means is a lease as the store has it: an instance that is cut off uses its view for as long as that lease
//! was made for, though a reload allows more since ([`Freshness`](super::Freshness)).
//!
//! It rests on: steady clocks (CLOCK_BOOTTIME) that run at the same pace for the length of a lease; a store that keeps
//! the leases. That a lease has run out by the server's clock counts only if this instance has seen that clock go as
//! evenly as its own for the length of a lease; what such a clock may gain meanwhile is in that length ([`lasting`]).
//! A store that was emptied, restarted or failed over may have lost leases, so the list of one that has
//! not been the same for the length of a lease confirms nothing: by then, an instance that it forgot has a new
//! lease or no view. Instances differ in their `max_staleness`, so the length is that of the longest lease that any of
//! them was seen to take: in the store, or by this instance since it started. An entry that an instance could not apply
//! is reported by it, and not confirmed.
//! A full store takes no new words, but lets a lease be prolonged: its holder goes on deciding, and is waited for
//! as long as it cannot say how far it is. A log that was removed may go on with smaller ids, if the store's clock was
//! set back: how far an instance was in the log before says nothing of this one. With `on_stale: allow` a cut-off
//! instance accepts for ever, and a receipt speaks of the others only. A decision that was being made while its process was frozen may end
//! later; the proxy has given it up by then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::super::ledger::{
    Feed, Leases, LedgerError, Position, RedisLedger, Report, RevocationLedger, Server, ServerClock, lasting,
};
use super::Replica;
use super::health::Obstacle;
use crate::authz::revocation::Revocation;
use crate::clock::Steady;

/// Between renewals.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How late a renewal may be before views stop being published.
const LATE: Duration = Duration::from_secs(3);
/// Between looks at who has confirmed; doubled each time up to the second.
const POLL: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];
/// Entries that could not be applied, the newest of which are reported.
const UNAPPLIED: usize = 64;
/// Entries that asked for a receipt, as a report names them; who asked reads it within milliseconds.
const REMEMBERED: usize = 32;
/// How long a report that is asked for waits until streams have ended. Orders are sent within a millisecond unless
/// the connection is stuck; the next report says it then.
const END_WITHIN: Duration = Duration::from_millis(50);

/// The state of this instance's lease across connections.
pub(super) struct LeaseState {
    started: Steady,
    /// The longest that a view of this instance may be used, in milliseconds.
    hold_ms: AtomicU64,
    /// Somebody waits to hear how far this instance is.
    asked: AtomicBool,
    /// The server that the log is read from.
    follows: Mutex<Server>,
    unapplied: Mutex<VecDeque<Position>>,
    /// Entries that asked for a receipt lately, and how many streams ended by what they revoke.
    ended: Mutex<VecDeque<(Position, usize)>>,
    /// Everything up to here was applied, and the streams that it hit had ended.
    carried_out: Mutex<Position>,
}

impl Default for LeaseState {
    fn default() -> Self {
        Self {
            started: Steady::now(),
            hold_ms: AtomicU64::new(30_000),
            asked: AtomicBool::new(false),
            follows: Mutex::default(),
            unapplied: Mutex::default(),
            ended: Mutex::default(),
            carried_out: Mutex::default(),
        }
    }
}

/// The lease on one connection.
#[derive(Default)]
pub(super) struct Held {
    clock: Option<ServerClock>,
    renewed: Option<Steady>,
    /// Reads that begin up to here may be published.
    covers: Option<Steady>,
}

impl Held {
    /// Whether a read that begins now may become the view: the lease is in the store already, and
    /// runs for as long as the view can be used.
    pub(super) fn covers(&self, start: Steady) -> bool {
        self.covers.is_some_and(|until| start <= until)
    }
}

/// The receipt of a revocation.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Instances that may be deciding.
    pub instances: usize,
    /// The number of instances that have confirmed.
    pub applied: usize,
    /// The names of the instances that have not confirmed.
    pub waiting: Vec<String>,
    /// How long it takes until the store surely lists every instance that may be deciding; `None`: it does.
    pub uncertain_for: Option<Duration>,
    /// Streams that ended by it.
    pub streams: usize,
    /// The lease of an instance ran out that has not reported since, within the leeway before the wait or during it: it
    /// may have verified tokens whose dates it told nobody.
    pub lapsed: bool,
}

impl Receipt {
    /// Whether no instance accepts what was revoked.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.waiting.is_empty() && self.uncertain_for.is_none()
    }
}

/// An instance as it last described itself.
#[derive(Clone, Debug)]
pub struct Peer {
    pub name: String,
    pub position: Position,
    /// As of now.
    pub view_age: Option<Duration>,
    pub uptime: Duration,
    pub state: String,
    pub version: String,
    /// Milliseconds by which its wall clock was ahead of the store's, negative if behind.
    pub skew_ms: Option<i64>,
    /// Streams that are open.
    pub streams: usize,
}

impl LeaseState {
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

    /// An entry that asks for a receipt could not be applied: this instance does not confirm it.
    pub(super) fn note_unapplied(&self, position: Position) {
        let mut unapplied = self.unapplied.lock().unwrap_or_else(PoisonError::into_inner);
        unapplied.push_back(position);
        if unapplied.len() > UNAPPLIED {
            unapplied.pop_front();
        }
    }

    /// So many streams ended by what this entry, which asks for a receipt, revokes.
    pub(super) fn note_ended(&self, entry: Position, count: usize) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() == REMEMBERED {
            ended.pop_front();
        }
        ended.push_back((entry, count));
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
        if self.lease_state.hold_ms.swap(hold_ms, Ordering::AcqRel) < hold_ms {
            self.lease_state.note_asked(); // The lease is too short now: renew it at once.
        }
    }

    /// Renews the lease if it is time, or if somebody waits to hear from us.
    pub(super) async fn keep_lease(
        &self,
        feed: &mut Feed<'_>,
        clock: ServerClock,
        held: &mut Held,
    ) -> Result<(), LedgerError> {
        let lease_state = &self.lease_state;
        let due = held.renewed.is_none_or(|renewed| renewed.elapsed() >= RENEW_EVERY);
        let asked = lease_state.asked.swap(false, Ordering::AcqRel);
        if !asked && !due {
            return Ok(());
        }
        if !self.streams_have_ended(if asked { END_WITHIN } else { Duration::ZERO }).await && asked {
            lease_state.note_asked();
        }
        // A view of the last read that is covered may be used for so long.
        let lasts = LATE + lease_state.hold();
        let clock = held.clock.unwrap_or(clock);
        self.freshness.lease_at_most(Steady::now() + lasts);
        let (clock, began) = feed.renew(&self.name, clock, lasting(lasts), self.report(), &self.leads()).await?;
        if let Some(began) = began {
            self.freshness.lease_until(began + lasts);
        }
        *held = Held { clock: Some(clock), renewed: Some(Steady::now()), covers: began.map(|began| began + LATE) };
        Ok(())
    }

    /// Waits until the streams that everything applied so far hits have ended, and notes how far that is.
    async fn streams_have_ended(&self, patience: Duration) -> bool {
        let (applied, mark) = (*self.applied.borrow(), self.streams.mark());
        let by = Steady::now() + patience;
        while !self.streams.is_carried_out(mark) {
            if Steady::now() >= by {
                return false;
            }
            sleep(POLL[0]).await;
        }
        let mut carried_out = self.lease_state.carried_out.lock().unwrap_or_else(PoisonError::into_inner);
        *carried_out = applied;
        true
    }

    /// Another log is followed, whose ids may be smaller: of it nothing is reported yet.
    pub(super) fn report_anew(&self) {
        *self.lease_state.carried_out.lock().unwrap_or_else(PoisonError::into_inner) = Position::default();
    }

    fn report(&self) -> Report {
        let lease_state = &self.lease_state;
        Report {
            position: *lease_state.carried_out.lock().unwrap_or_else(PoisonError::into_inner),
            streams: self.streams.open_count(),
            ended: lease_state.ended.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect(),
            // While the log is being repaired the view may lack anything: it has no age.
            view_age: self.freshness.age(Steady::now()).filter(|age| *age < Duration::MAX),
            uptime: lease_state.started.elapsed(),
            state: self.status().state.as_str().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            skew_ms: self.ahead_ms(),
            unapplied: lease_state.unapplied.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect(),
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

    /// The description that this instance publishes.
    pub fn this(&self) -> Peer {
        let now = crate::clock::now();
        peer(&self.name, &Report { at: now, position: *self.applied.borrow(), ..self.report() }, now)
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
            let ended = self.streams_have_ended(patience).await;
            let waiting = if ended { Vec::new() } else { vec![self.name.to_string()] };
            let streams = self.streams.take_ended(revocation);
            return Receipt {
                instances: 1,
                applied: usize::from(ended),
                waiting,
                uncertain_for: None,
                streams,
                lapsed: false,
            };
        };
        let deadline = Steady::now() + patience;
        // Without the question it takes until the next renewals.
        let wanted = ledger.ask(revocation).await.unwrap_or(stored).max(stored);
        let waiting = vec![self.name.to_string()];
        let mut receipt = Receipt { instances: 1, applied: 0, waiting, uncertain_for: None, streams: 0, lapsed: false };
        let mut since = None;
        let [mut pause, longest] = POLL;
        loop {
            if let Ok(leases) = self.leases(ledger).await {
                let since = *since.get_or_insert(leases.now.minus(self.clocks.leeway()));
                receipt = self.receipt(&leases, wanted, ledger.longest_lease());
                receipt.lapsed = leases.lapsed.iter().any(|(_, ended)| *ended > since);
                if receipt.is_confirmed() {
                    return receipt;
                }
            }
            let left = deadline.since(Steady::now());
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

    /// `longest`: no lease of any instance runs for longer.
    fn receipt(&self, listed: &Leases, wanted: Position, longest: Duration) -> Receipt {
        let leases = &listed.running;
        let has = |report: &Report| (wanted..=listed.newest).contains(&report.position);
        let lacks = |report: &Report| !has(report) || report.unapplied.contains(&wanted);
        let behind = leases.iter().filter(|lease| lease.report.as_ref().is_none_or(lacks));
        let mut waiting: Vec<_> = behind.map(|lease| lease.name.to_string()).collect();
        let applied = leases.len() - waiting.len();
        // By a clock that may have jumped, a lease that still runs has run out.
        let doubtful = if listed.even_for < longest { &*listed.lapsed } else { &[] };
        waiting.extend(doubtful.iter().map(|(name, _)| name.to_string()));
        let reports = leases.iter().filter_map(|lease| lease.report.as_ref());
        let ended = reports.flat_map(|report| &report.ended).filter(|(entry, _)| *entry == wanted);
        Receipt {
            instances: leases.len() + doubtful.len(),
            applied,
            waiting,
            uncertain_for: self.uncertain_for(listed, longest),
            streams: ended.map(|(_, count)| count).sum(),
            lapsed: false,
        }
    }

    /// How long it takes until the store has surely kept every lease that may still run: until it has been the
    /// primary that this instance reads, with these data, for as long as the longest lease, by a clock that this instance
    /// has seen go evenly all the time.
    fn uncertain_for(&self, listed: &Leases, longest: Duration) -> Option<Duration> {
        let follows = self.lease_state.follows.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = Obstacle::is_still(&follows, &listed.server).is_ok();
        let whole_for = listed.whole_since.filter(|_| is_same).map(|since| listed.now.since(since));
        let sure_for = whole_for.unwrap_or_default().min(listed.even_for);
        Some(longest.saturating_sub(sure_for)).filter(|left| !left.is_zero())
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
        skew_ms: report.skew_ms,
        streams: report.streams,
    }
}

/// Names this process: its host, and something of its own, because a restarted process is another one.
pub(super) fn instance_name() -> Box<str> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    let host = if host.is_empty() { "doorward" } else { &host[..host.len().min(63)] };
    format!("{host}.{:08x}", rand::random::<u32>()).into()
}
