//! The clocks that a guarantee must not depend on alone: this machine's wall clock, the store's, the issuers'.
//!
//! - A revocation is forgotten only when it has expired by the earlier of both wall clocks *and* this process has held
//!   it for one retention on the monotonic clock ([`RevocationIndex::purge`]).
//! - A watermark that no caller names is the later of both wall clocks, plus the lead of the tokens
//!   ([`Clocks`](crate::authz::revocation::Clocks)).
//! - The monotonic clock reveals a jump of the wall clock, and the log is read again.
//!
//! [`RevocationIndex::purge`]: crate::authz::revocation::RevocationIndex::purge

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::super::ledger::{LedgerError, RedisLedger};
use super::health::Health;
use super::{Replica, RevocationLedger};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{self, Lead};
use crate::clock::Steady;

/// The interval of checks for leads that were not shared yet.
const SHARE_EVERY: Duration = Duration::from_millis(50);
/// The interval of reading the notes of other instances.
const LEARN_EVERY: Duration = Duration::from_millis(500);
/// The time for which the store's clock must have been stable before a lead is measured by it.
const STABLE: Duration = Duration::from_secs(30);
/// The interval of checks of the wall clock.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A smaller jump is an adjustment, which the smallest leeway of a watermark covers.
const JUMP: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Clocks {
    /// In milliseconds; 0 until [`Replica::retain_for`] sets it.
    retention: AtomicU64,
    leeway: AtomicU64,
    /// The log must be read from its start: a skipped entry may matter.
    read_again: AtomicBool,
    /// Until then the view must not be used for decisions.
    must_read_again: AtomicBool,
    /// The reader of the log skipped an entry that had expired.
    passed_over: AtomicBool,
    /// The leads of the issuers, by each of their names.
    leads: Mutex<Vec<(IssuerName, Lead)>>,
    /// The same by further names under which their tokens are noted.
    further_leads: Mutex<Vec<(IssuerName, Lead)>>,
    readings: Mutex<Readings>,
    /// The wall clock at the start of this process.
    began: (Timestamp, Steady),
}

/// The readings of the leads that other instances noted.
#[derive(Default)]
struct Readings {
    /// The start of the last one that succeeded.
    last: Option<Steady>,
    /// Why there was none for longer than [`Lead::READ_FOR`], as it was logged.
    fault: Option<Box<str>>,
}

impl Clocks {
    /// `retention` is `None` until [`Replica::retain_for`] sets it: nothing is forgotten before.
    pub(super) fn new(retention: Option<Duration>) -> Self {
        let retention = AtomicU64::new(retention.map_or(0, millis));
        Self { retention, began: (crate::clock::now(), Steady::now()), ..Self::default() }
    }

    /// The longest time for which a token may be accepted after it was issued.
    pub(super) fn retention(&self) -> Duration {
        match self.retention.load(Ordering::Acquire) {
            0 => Duration::MAX,
            millis => Duration::from_millis(millis),
        }
    }

    /// The longest time for which a token is accepted after its end.
    pub(super) fn leeway(&self) -> Duration {
        Duration::from_millis(self.leeway.load(Ordering::Acquire))
    }

    pub(super) fn note_passed_over(&self) {
        self.passed_over.store(true, Ordering::Release);
    }

    /// Whether the log must be read again; true once per request.
    pub(super) fn take_read_again(&self) -> bool {
        self.read_again.swap(false, Ordering::AcqRel)
    }

    /// Requests that the log is read again.
    pub(super) fn request_reread(&self) {
        self.read_again.store(true, Ordering::Release);
    }

    /// Whether the view is stale until the log was read again.
    pub(super) fn wants_read_again(&self) -> bool {
        self.must_read_again.load(Ordering::Acquire)
    }

    pub(super) fn was_read_again(&self) {
        self.must_read_again.store(false, Ordering::Release);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Replica {
    /// The wall clocks now, for a watermark that no caller names.
    pub fn clocks(&self) -> revocation::Clocks {
        revocation::Clocks { local: crate::clock::now(), store: self.store_clock() }
    }

    /// The store's time; `None` for an embedded store.
    ///
    /// Before the first reading it is 1970: by that clock nothing has expired, and no watermark is made, because it
    /// differs too much from this machine's.
    pub fn store_clock(&self) -> Option<Timestamp> {
        match &self.ledger {
            RevocationLedger::Embedded(_) => None,
            RevocationLedger::Redis(ledger) => Some(ledger.store_clock().unwrap_or_default()),
        }
    }

    /// Milliseconds by which this machine's clock is ahead of the store's, negative if it is behind; `None` for an
    /// embedded store, or before the first reading.
    pub fn ahead_ms(&self) -> Option<i64> {
        let read = match &self.ledger {
            RevocationLedger::Embedded(_) => None,
            RevocationLedger::Redis(ledger) => ledger.store_clock(),
        };
        revocation::Clocks { local: crate::clock::now(), store: read }.ahead_ms()
    }

    /// The earlier of both wall clocks: a token that has expired by it has expired by both.
    pub fn earliest(&self) -> Timestamp {
        self.clocks().earliest()
    }

    /// The longest time after its issue for which an instance on this store accepts a token, as far as instances have
    /// noted it; `None` before the notes were read.
    pub fn longest_retention(&self) -> Option<Duration> {
        match &self.ledger {
            RevocationLedger::Embedded(_) => Some(Duration::ZERO),
            RevocationLedger::Redis(ledger) => ledger.longest_retention(),
        }
    }

    /// The minimum of [`Self::earliest`] and the wall clock as extrapolated from the start of this process: for an
    /// operator's action that must not lose live revocations, and that may be refused without harm.
    pub fn earliest_if_set(&self) -> Timestamp {
        let (wall, steady) = self.clocks.began;
        self.earliest().min(wall.plus(steady.elapsed()))
    }

    /// Sets the retention (the longest time for which a token may be accepted) and the leeway after its end. Call it
    /// before issuers that allow more are put in force.
    ///
    /// Entries that were dropped under a smaller bound are read again from the log; until then the view is stale.
    pub fn retain_for(&self, longest: Duration, leeway: Duration) {
        let longest_ms = millis(longest);
        self.clocks.leeway.fetch_max(millis(leeway), Ordering::AcqRel);
        let before = self.clocks.retention.fetch_max(longest_ms, Ordering::AcqRel);
        if before != 0 {
            self.warn_of_forgotten(Duration::from_millis(before), longest);
        }
        let RevocationLedger::Redis(ledger) = &self.ledger else { return };
        let is_raised = ledger.retain_for(longest, leeway) || (before != 0 && before < longest_ms);
        let has_forgotten = !self.index.forgotten().is_empty() || self.clocks.passed_over.load(Ordering::Acquire);
        if is_raised && before != 0 {
            self.clocks.must_read_again.store(has_forgotten, Ordering::Release);
            self.clocks.request_reread();
            if has_forgotten {
                self.freshness.suspend();
            }
        }
    }

    /// Logs that a longer bound needs revocations that every instance has forgotten.
    fn warn_of_forgotten(&self, before: Duration, longest: Duration) {
        let known = match &self.ledger {
            RevocationLedger::Embedded(_) => before,
            RevocationLedger::Redis(_) => RedisLedger::keeps_for(before),
        };
        if longest > known {
            let (known_for_seconds, needed_for_seconds) = (known.as_secs(), longest.as_secs());
            tracing::warn!(
                known_for_seconds,
                needed_for_seconds,
                "tokens may be older now than the oldest revocations that are certainly known: raise max_lifetime in steps"
            );
        }
    }

    /// Shares the leads of these issuers, by each of their names, with the other instances; the embedded file keeps
    /// them for the next process.
    ///
    /// Those of a name that is not configured any more stay: its tokens may be accepted under another name later.
    pub fn share_leads(&self, mut leads: Vec<(IssuerName, Lead)>) {
        match &self.ledger {
            RevocationLedger::Embedded(ledger) => ledger.raise_leads(&leads),
            // The clocks are not compared yet.
            RevocationLedger::Redis(_) => leads.iter().for_each(|(_, lead)| lead.set_clock(None, Duration::ZERO)),
        }
        let mut shared = self.clocks.leads.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, lead) in &leads {
            shared.iter().filter(|(known, _)| known == name).for_each(|(_, before)| lead.inherit(before));
            if self.is_shared() && !shared.iter().any(|(known, before)| known == name && before.is_same(lead)) {
                lead.await_reading(); // Nobody has asked by this name.
            }
        }
        shared.retain(|(name, _)| !leads.iter().any(|(known, _)| known == name));
        leads.append(&mut shared);
        *shared = leads;
    }

    fn leads(&self) -> Vec<(IssuerName, Lead)> {
        self.clocks.leads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// By the further names, too.
    fn all_leads(&self) -> Vec<(IssuerName, Lead)> {
        let further = self.clocks.further_leads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        [self.leads(), further].concat()
    }

    /// The leads to note for other instances: none of an instance that has never decided, whose names may be those of
    /// other issuers in the store.
    pub(super) fn published_leads(&self) -> Vec<(IssuerName, Lead)> {
        if self.has_decided() { self.leads() } else { Vec::new() }
    }

    /// The issuers with tokens whose lead was not measured here (see [`Lead::is_unmeasured`]).
    pub(super) fn unmeasured(&self) -> Vec<IssuerName> {
        self.published_leads().into_iter().filter(|(_, lead)| lead.is_unmeasured()).map(|(name, _)| name).collect()
    }

    /// All names under which the tokens of a name's issuers are known: instances may have each of them.
    pub(super) fn names_beside(&self, name: &IssuerName) -> Vec<IssuerName> {
        let all = self.all_leads();
        let own: Vec<_> = all.iter().filter(|(known, _)| known == name).map(|(_, lead)| lead).collect();
        all.iter().filter(|(_, lead)| own.iter().any(|own| own.is_same(lead))).map(|(name, _)| name.clone()).collect()
    }

    /// Adds names under which leads of the issuers in force are noted: those of processes that ended, or of issuers that
    /// are not configured any more. The names stay, because the notes that had them may end.
    pub(super) fn add_lead_names(&self, further: Vec<(IssuerName, Lead)>) {
        if let RevocationLedger::Embedded(ledger) = &self.ledger {
            ledger.raise_leads(&further);
        }
        let leads = self.leads();
        let mut known = self.clocks.further_leads.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, lead)| leads.iter().any(|(_, own)| own.is_same(lead)));
        for (name, lead) in further {
            leads.iter().filter(|(known, _)| *known == name).for_each(|(_, before)| lead.inherit(before));
            if !known.iter().any(|(other, known)| *other == name && known.is_same(&lead)) {
                known.push((name, lead));
            }
        }
    }

    /// Notes again the leads that this process has read in the store, and that it has lost.
    pub(super) async fn put_back_leads(&self) -> Result<(), LedgerError> {
        match &self.ledger {
            RevocationLedger::Embedded(_) => Ok(()), // Written with the file.
            RevocationLedger::Redis(ledger) => ledger.put_back_margins().await,
        }
    }

    /// Notes the leads under the issuers' own names.
    pub(super) async fn note_leads(&self) -> Result<(), LedgerError> {
        match &self.ledger {
            RevocationLedger::Embedded(ledger) => ledger.keep_leads(&self.published_leads()).await,
            RevocationLedger::Redis(ledger) => {
                let (all, began) = (self.all_leads(), Steady::now());
                let shared = ledger.share_margins(&self.published_leads(), &all).await;
                if shared.is_ok() {
                    self.note_reading(&all, began, &shared);
                }
                shared
            }
        }
    }

    /// Takes over the leads that other instances have seen, for a new watermark; `false` if they cannot be read: the
    /// watermark must then cover the whole leeway, as [`Lead::is_known`] decides soon for all others.
    #[must_use]
    pub async fn read_leads(&self) -> bool {
        let RevocationLedger::Redis(ledger) = &self.ledger else { return true };
        let (all, began) = (self.all_leads(), Steady::now());
        let read = ledger.read_margins(&all).await;
        self.note_reading(&all, began, &read);
        read.is_ok()
    }

    /// Records a reading, and logs that there was none for a while, or is one again. A store that does not answer is given
    /// the time of a failover.
    fn note_reading(&self, leads: &[(IssuerName, Lead)], began: Steady, read: &Result<(), LedgerError>) {
        if read.is_ok() {
            for (_, lead) in leads {
                lead.note_read(began.uptime());
            }
        }
        let mut readings = self.clocks.readings.lock().unwrap_or_else(PoisonError::into_inner);
        if read.is_ok() {
            readings.last = readings.last.max(Some(began));
        }
        let Some(age) = readings.last.map(Steady::elapsed) else { return };
        let patience = match read {
            Ok(()) | Err(LedgerError::Refused { .. }) => Lead::READ_FOR,
            Err(_) => Health::LASTING,
        };
        if age <= Lead::READ_FOR && readings.fault.take().is_some() {
            tracing::info!("the leads and dates that other instances noted are read again");
        } else if age > patience && readings.fault.is_none() {
            let fault = read.as_ref().err().map_or_else(|| "the store answers slowly".to_owned(), ToString::to_string);
            tracing::warn!(
                error = %fault,
                "the leads and dates that other instances noted cannot be read: sign-outs of users cover the whole leeway"
            );
            readings.fault = Some(fault.into());
        }
    }

    /// Why the leads of other instances are not known, for `/readyz`.
    pub fn unread_leads(&self) -> Option<Box<str>> {
        self.clocks.readings.lock().unwrap_or_else(PoisonError::into_inner).fault.clone()
    }

    /// Shares at once, with other instances, how far verified tokens are dated ahead; never returns.
    pub(super) async fn share_margins(&self, ledger: &RedisLedger) {
        let (mut shared, mut agreed) = (Vec::new(), false);
        let mut learnt = None;
        loop {
            let (leads, read, clocks) = (self.leads(), Steady::now(), self.clocks());
            let is_exact = read.elapsed() < SHARE_EVERY; // By a clock that was read later, leads would be too short.
            // A lead that was measured wrongly would stay: by clocks that are further apart than the leeway none is
            // measured, nor, if the store's was set lately, by clocks that differ at all. Dates need no clock, and cover
            // what is verified meanwhile.
            let agree = clocks.agree_within(self.clocks.leeway());
            let apart = if ledger.stable_for() >= STABLE { self.clocks.leeway() } else { Duration::ZERO };
            let earliest = clocks.agree_within(apart).then(|| (clocks.earliest(), read.uptime()));
            // No issuer's clock leads by more than the leeway, as it is measured by the later of the two.
            let longest = self.clocks.leeway().max(Lead::LEAST) + clocks.skew();
            for (_, lead) in leads.iter().filter(|_| is_exact || earliest.is_none()) {
                lead.set_clock(earliest, longest);
            }
            let seen =
                || leads.iter().map(|(_, lead)| (lead.seen(), lead.beyond(clocks.earliest()))).collect::<Vec<_>>();
            let now = seen();
            let is_noted = now != shared && self.note_leads().await.is_ok();
            if is_noted {
                shared = now;
            }
            let is_due = learnt.is_none_or(|learnt: Steady| learnt.elapsed() >= LEARN_EVERY);
            if !is_noted && (is_due || agree && !agreed) {
                learnt = Some(Steady::now());
                let _ = self.read_leads().await; // Read again in a moment, and for each watermark.
            }
            agreed = agree;
            sleep(SHARE_EVERY).await;
        }
    }

    /// Detects a wall clock that jumps, or that differs from the store's; for ever.
    pub(super) async fn watch_clock(&self) {
        let mut anchor = (crate::clock::now(), Steady::now());
        let mut differed = false;
        loop {
            sleep(LOOK_EVERY).await;
            let clocks = self.clocks();
            let differs = self.ahead_ms().is_some() && clocks.skew() > Lead::LEAST;
            if differs != differed {
                let ahead_seconds = clocks.local.since(clocks.earliest()).as_secs_f64();
                let behind_seconds = clocks.latest().since(clocks.local).as_secs_f64();
                if differs {
                    tracing::warn!(ahead_seconds, behind_seconds, "this machine's clock differs from the store's");
                } else {
                    tracing::info!("this machine's clock and the store's agree again");
                }
                differed = differs;
            }
            let (wall, steady) = (crate::clock::now(), Steady::now());
            let expected = anchor.0.plus(steady.since(anchor.1));
            let (ahead, behind) = (wall.since(expected), expected.since(wall));
            if ahead.max(behind) > JUMP {
                let (ahead_seconds, behind_seconds) = (ahead.as_secs_f64(), behind.as_secs_f64());
                tracing::warn!(ahead_seconds, behind_seconds, "this machine's clock jumped; the log is read again");
                self.clocks.request_reread();
            }
            anchor = (wall, steady);
        }
    }
}
