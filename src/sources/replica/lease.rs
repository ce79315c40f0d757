//! This instance's lease, and receipts: the proof that every instance refuses a token.
//!
//! # The argument
//!
//! An instance accepts a token only with a view, and a view that is older than `max_staleness` does not count as one
//! (`on_stale: deny`). An instance publishes the view of a read only if its lease
//!
//! 1. was in the store before the read began, and
//! 2. will run until the view is too old, whatever happens to the instance.
//!
//! A receipt lists the leases after the revocation was written. An instance in the list confirms by itself that it has
//! applied the entry. An instance that is not in the list has no view now, by (2), and every view that it will publish
//! is of a read that begins after its next lease was written, by (1), which is after the list, so the read finds the
//! entry. Hence no instance accepts the token any more, and the receipt waits for an unreachable instance until its
//! lease expires.
//!
//! In (2) the lease is that in the store: an instance that is cut off uses its view for the length of that lease, even
//! if a reload has allowed more since ([`Freshness`](super::Freshness)).
//!
//! The argument assumes steady clocks (CLOCK_BOOTTIME) that run at the same pace for the length of a lease, and a
//! store that keeps the leases. A lease counts as expired by the server's clock only if this instance has seen that
//! clock be as stable as its own for the length of a lease; the length includes the time that such a clock may gain
//! meanwhile ([`lasting`]). A store that was emptied, restarted or failed over may have lost leases, so its list
//! confirms nothing until it has been the same store for the length of a lease: by then, an instance whose lease was
//! lost has a new lease or no view. Instances differ in their `max_staleness`, so the length is that of the longest
//! lease that any of them was seen to take: in the store, or by this instance since it started. An instance reports an
//! entry that it could not apply, and does not confirm it. A full store accepts no new reports, but lets a lease be
//! prolonged: its holder continues to decide, and the receipt waits while that instance cannot report its progress. A
//! removed log may continue with smaller ids, if the store's clock was set back: progress in the previous log does not
//! count for this one. With `on_stale: allow` a cut-off instance accepts the token for ever, and a receipt covers the
//! others only. A decision that was frozen with its process may end later; the proxy has timed out by then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::super::ledger::{
    Feed, Leases, LedgerError, Life, Position, RedisLedger, Renewal, Report, RevocationLedger, Server, ServerClock,
    lasting,
};
use super::Replica;
use super::health::Obstacle;
use crate::authz::claims::Timestamp;
use crate::authz::revocation::Revocation;
use crate::clock::Steady;

/// The interval of renewals.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// The largest delay of a renewal after which views are still published.
const LATE: Duration = Duration::from_secs(3);
/// The pauses between checks for confirmations: doubled from the first up to the second.
const POLL: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(20)];
/// The longest time between renewals over which the store counts as having accepted writes.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// The precision of a note of the time at which the store may have lost leases.
const LOST_WITHIN: Duration = Duration::from_secs(1);
/// The most reported entries that could not be applied, newest first.
const UNAPPLIED: usize = 64;
/// The most receipts in a report; the requesting instance reads it within milliseconds.
const REMEMBERED: usize = 32;
/// The longest wait of a requested report for the end of streams. Orders are sent within a millisecond unless the
/// connection is stuck; the next report then has the number.
const END_WITHIN: Duration = Duration::from_millis(50);

/// The state of this instance's lease across connections.
pub(super) struct LeaseState {
    started: Steady,
    /// The kind of this process; unset: the service.
    role: OnceLock<&'static str>,
    /// The longest use of a view of this instance, in milliseconds.
    hold_ms: AtomicU64,
    /// A receipt waits for this instance's progress.
    asked: AtomicBool,
    follows: Mutex<Followed>,
    /// The epoch of the store that is relied on; `None` while none is.
    settled: Mutex<Option<Box<str>>>,
    /// Since when renewals have been written, and the last of them.
    writable: Mutex<Option<(Steady, Steady)>>,
    unapplied: Mutex<VecDeque<Position>>,
    /// Recent entries that request a receipt, with the number of streams that they ended.
    ended: Mutex<VecDeque<(Position, usize)>>,
    /// Every entry up to here was applied, and its streams had ended.
    carried_out: Mutex<Position>,
}

/// The store whose log is read.
#[derive(Default)]
struct Followed {
    server: Server,
    epoch: Box<str>,
    /// Since when it has been this one, with these data; `None` before the first.
    since: Option<Steady>,
    /// When this process last saw, or read of another one, that the store may have lost leases.
    lost: Option<Steady>,
}

impl Default for LeaseState {
    fn default() -> Self {
        Self {
            started: Steady::now(),
            role: OnceLock::new(),
            hold_ms: AtomicU64::new(30_000),
            asked: AtomicBool::new(false),
            follows: Mutex::default(),
            settled: Mutex::default(),
            writable: Mutex::default(),
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
    /// Whether a read that begins now may become the view: the lease is in the store already, and lasts as long as the
    /// view can be used.
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
    /// The time until the store certainly lists every instance that may be deciding; `None`: it does now.
    pub uncertain_for: Option<Duration>,
    /// The streams that it ended.
    pub streams: usize,
    /// Whether an instance may have verified tokens whose leads it did not report: its lease expired during the wait or
    /// within the leeway before it; the store may have lost such a lease; or it measured no lead.
    pub lapsed: bool,
}

impl Receipt {
    /// Whether no instance accepts the revoked token.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.waiting.is_empty() && self.uncertain_for.is_none()
    }
}

impl LeaseState {
    fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms.load(Ordering::Acquire))
    }

    /// A connection has begun to this server, with these data.
    pub(super) fn note_store(&self, server: &Server, life: &Life) {
        let mut follows = self.follows.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, is_first) = (Steady::now(), follows.since.is_none());
        if is_first || follows.server != *server || follows.epoch != life.epoch {
            // A store that this process finds at its start may be a new one, which has lost nothing.
            let lost = if is_first && !life.is_moved { None } else { Some(now) };
            *follows = Followed { server: server.clone(), epoch: life.epoch.clone(), since: Some(now), lost };
        }
    }

    /// The store may have lost leases: it lost something else.
    pub(super) fn note_lost(&self) {
        self.follows.lock().unwrap_or_else(PoisonError::into_inner).lost = Some(Steady::now());
    }

    /// Another process saw that so long ago. A difference of a moment is that of their clocks.
    fn take_lost(&self, ago: Duration) {
        let mut follows = self.follows.lock().unwrap_or_else(PoisonError::into_inner);
        let at = Steady::now().minus(ago);
        if at > follows.lost.map(|lost| lost + LOST_WITHIN) {
            follows.lost = at;
        }
    }

    /// When this process last saw, or read of another one, that the store may have lost leases.
    pub(super) fn lost(&self) -> Option<Steady> {
        self.follows.lock().unwrap_or_else(PoisonError::into_inner).lost
    }

    /// The epoch that this process followed last; `None` before the first.
    pub(super) fn followed(&self) -> Option<Box<str>> {
        let follows = self.follows.lock().unwrap_or_else(PoisonError::into_inner);
        follows.since.map(|_| follows.epoch.clone())
    }

    /// The time for which this process has followed this store, with these data.
    pub(super) fn followed_for(&self) -> Duration {
        let follows = self.follows.lock().unwrap_or_else(PoisonError::into_inner);
        follows.since.map(Steady::elapsed).unwrap_or_default()
    }

    /// Records whether a renewal was written, or the store accepted no new report.
    fn note_writable(&self, is_written: bool) {
        let mut writable = self.writable.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Steady::now();
        let since = writable.filter(|(_, last)| now.since(*last) < WRITTEN_WITHIN).map_or(now, |(since, _)| since);
        *writable = is_written.then_some((since, now));
    }

    /// The time for which every renewal was written: other instances could write, too.
    pub(super) fn writable_for(&self) -> Duration {
        let writable = self.writable.lock().unwrap_or_else(PoisonError::into_inner);
        writable.map(|(since, last)| last.since(since)).unwrap_or_default()
    }

    /// The store with this epoch is relied on from now on, or none is.
    pub(super) fn note_settled(&self, epoch: Option<&str>) {
        *self.settled.lock().unwrap_or_else(PoisonError::into_inner) = epoch.map(Into::into);
    }

    pub(super) fn settled(&self) -> Option<Box<str>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that an entry with a request for a receipt has been applied.
    pub(super) fn note_asked(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// Records that an entry with a request for a receipt could not be applied: this instance does not confirm it.
    pub(super) fn note_unapplied(&self, position: Position) {
        let mut unapplied = self.unapplied.lock().unwrap_or_else(PoisonError::into_inner);
        unapplied.push_back(position);
        if unapplied.len() > UNAPPLIED {
            unapplied.pop_front();
        }
    }

    /// Records the number of streams that an entry with a request for a receipt has ended.
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
    /// Sets the longest use of a view: the longest `max_staleness` of any rule. Call it before rules that allow more
    /// are put in force.
    pub fn hold_for(&self, longest: Duration) {
        let hold_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        if self.lease_state.hold_ms.swap(hold_ms, Ordering::AcqRel) < hold_ms {
            self.lease_state.note_asked(); // The present lease is too short: renew it at once.
        }
    }

    /// Names the kind of this process to its peers, once.
    pub fn set_role(&self, role: &'static str) {
        let _ = self.lease_state.role.set(role); // The kind never changes.
    }

    /// Renews the lease if it is due, or if a receipt waits for this instance.
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
        // The time for which a view of the last covered read may be used.
        let lasts = LATE + lease_state.hold();
        let clock = held.clock.unwrap_or(clock);
        self.freshness.lease_at_most(Steady::now() + lasts);
        let lost_for = lease_state.lost().map(Steady::elapsed);
        let renewal =
            feed.renew(&self.name, clock, lasting(lasts), self.report(), &self.published_leads(), lost_for).await?;
        let Renewal { clock, began, is_new, is_written, has_names, lost_for } = renewal;
        lease_state.note_writable(is_written);
        if let Some(began) = began {
            self.freshness.lease_until(began + lasts);
        }
        if is_new && held.renewed.is_some() {
            lease_state.note_lost(); // This lease was removed, and perhaps others.
        }
        if let Some(ago) = lost_for {
            lease_state.take_lost(ago);
        }
        if !has_names {
            self.names_changed.notify_one();
        }
        let covers = began.map(|began| began + LATE);
        *held = Held { clock: Some(clock), renewed: Some(Steady::now()), covers };
        Ok(())
    }

    /// Waits until the streams of all applied entries have ended, and records that place in the log.
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

    /// Resets the progress: the log that is followed now may have smaller ids.
    pub(super) fn report_anew(&self) {
        *self.lease_state.carried_out.lock().unwrap_or_else(PoisonError::into_inner) = Position::default();
    }

    pub(super) fn report(&self) -> Report {
        let lease_state = &self.lease_state;
        Report {
            position: *lease_state.carried_out.lock().unwrap_or_else(PoisonError::into_inner),
            streams: self.streams.open_count(),
            ended: lease_state.ended.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect(),
            // While the log is being repaired the view may be incomplete: it has no age.
            view_age: self.freshness.age(Steady::now()).filter(|age| *age < Duration::MAX),
            uptime: lease_state.started.elapsed(),
            state: self.status().state.as_str().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            skew_ms: self.ahead_ms(),
            role: self.lease_state.role.get().copied().unwrap_or_default().into(),
            unapplied: lease_state.unapplied.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect(),
            unmeasured: self.unmeasured(),
            ..Report::default()
        }
    }

    /// Removes the lease: after this, no decision is made any more.
    pub(super) async fn withdraw(&self) {
        let RevocationLedger::Redis(ledger) = &self.ledger else { return };
        self.freshness.suspend();
        if let Err(error) = ledger.withdraw(&self.name, &self.published_leads()).await {
            tracing::debug!(%error, "lease not removed; it expires by itself");
        }
    }

    /// Waits until no instance accepts the tokens of a stored revocation, or until `patience` ends.
    ///
    /// While it is not known that its names mean the same in the store, this instance confirms nothing: instances that
    /// decide may have other names. The wait ends when a conflict is known ([`Self::has_own_names`]).
    ///
    /// `stored`: the place that [`Self::revoke`] returned. `asked`: no later than the clocks were read for its watermark.
    /// `tell` gets each receipt on the way, some hundred in a second.
    pub async fn confirm(
        &self,
        revocation: &Revocation,
        stored: Position,
        asked: Steady,
        patience: Duration,
        tell: &(dyn Fn(&Receipt) + Sync),
    ) -> Receipt {
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
        // Without the request it takes until the next renewals.
        let wanted = ledger.request_progress(revocation).await.unwrap_or(stored).max(stored);
        let waiting = vec![self.name.to_string()];
        let mut receipt = Receipt { instances: 1, applied: 0, waiting, uncertain_for: None, streams: 0, lapsed: false };
        let [mut pause, longest] = POLL;
        loop {
            if let Ok(leases) = self.leases(ledger).await {
                receipt = self.receipt(&leases, wanted, ledger.longest_lease());
                if !self.freshness.is_named() && !receipt.waiting.iter().any(|name| **name == *self.name) {
                    receipt.waiting.push(self.name.to_string());
                    receipt.applied -= 1;
                }
                receipt.lapsed = self.has_unreported(&leases, &revocation.target.issuer, asked, ledger.longest_lease());
                if receipt.is_confirmed() {
                    return receipt;
                }
                tell(&receipt);
            }
            let left = deadline.since(Steady::now());
            if left.is_zero() || self.has_own_names().is_err() {
                return receipt;
            }
            sleep(pause.min(left)).await;
            pause = (pause * 2).min(longest);
        }
    }

    async fn leases(&self, ledger: &RedisLedger) -> Result<Leases, LedgerError> {
        let leases = ledger.leases().await?;
        let own = leases.running.iter().any(|lease| lease.name == self.name);
        // A store without this instance's lease has lost it, and possibly others.
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
        // By a clock that may have jumped, a running lease looks expired.
        let doubtful = if listed.stable_for < longest { &*listed.lapsed } else { &[] };
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

    /// The time until the store has certainly kept every lease that may still run: until it has been this instance's
    /// primary, with the same data, for the length of the longest lease, by a clock that was stable all the
    /// time. A note of when that began may come from a clock that was ahead; the time that this instance
    /// has observed counts as well.
    fn uncertain_for(&self, listed: &Leases, longest: Duration) -> Option<Duration> {
        let follows = self.lease_state.follows.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = Obstacle::is_still(&follows.server, &listed.server).is_ok();
        let noted = listed.whole_since.map(|since| listed.now.since(since));
        let seen = follows.since.filter(|_| follows.epoch == listed.epoch).map(Steady::elapsed);
        let whole_for = noted.max(seen).filter(|_| is_same);
        let sure_for = whole_for.unwrap_or_default().min(listed.stable_for);
        Some(longest.saturating_sub(sure_for)).filter(|left| !left.is_zero())
    }

    /// Whether the store may have lost a lease that runs. A new store has lost none.
    pub(super) fn may_lack_leases(&self, listed: &Leases, longest: Duration) -> bool {
        let follows = self.lease_state.follows.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = Obstacle::is_still(&follows.server, &listed.server).is_ok() && follows.epoch == listed.epoch;
        let is_recent = |since: Option<Steady>| since.is_some_and(|since| since.elapsed() < longest);
        let is_noted = listed.lost_at.is_some_and(|at| {
            // By another clock: no longer ago than this process has followed the store.
            if at > Timestamp::default() { at.plus(longest) > listed.now } else { is_recent(follows.since) }
        });
        !is_same || is_recent(follows.lost) || is_noted
    }
}
