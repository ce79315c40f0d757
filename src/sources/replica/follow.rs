//! Catching up with the log and following it.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::sleep;

use super::super::ledger::{Feed, FeedItem, Life, Position, RedisLedger, Snapshot, StoreFacts};
use super::super::retry::Backoff;
use super::gap::{Baseline, Gap};
use super::health::Obstacle;
use super::lease::Held;
use super::stats::Operation;
use super::{Replica, ReplicaState};
use crate::authz::claims::Timestamp;
use crate::clock::Steady;

/// The pauses between attempts to connect: short enough to be ready within two seconds of the store's return, and
/// to reconnect before another instance relies on a store that returned empty.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(300)];
/// The interval of comparisons of the log with its expected state.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Entries count as new if everything that was added before this span has been read.
const LIVE: Duration = Duration::from_secs(5);
/// The pause that groups a burst into fewer reads than one for each entry.
const COALESCE: Duration = Duration::from_millis(2);
/// The shortest time between checks of the epoch and the role, under load.
const SOURCE_EVERY: Duration = Duration::from_millis(100);
/// The time for which a store is not relied on after it was founded, restarted or failed over: instances may be
/// about to write back entries that it lost. Connected instances notice within a read (`block`, and 110 ms with 200
/// of them), others within the longest pause of [`BACKOFF`] and the time to connect; from then on they announce the
/// repair. If the only instance that knows a lost entry takes longer, the others lack the entry until it is written
/// back.
const SETTLE: Duration = Duration::from_millis(750);
/// The interval of checks whether that time is over.
const SETTLE_LOOK: Duration = Duration::from_millis(50);
/// The longest wait for an instance that has announced a repair.
const SETTLE_AT_MOST: Duration = Duration::from_secs(30);

/// The progress in the log, across connections.
#[derive(Default)]
pub(super) struct Reading {
    /// Read to the end: the view is built from this log.
    baseline: Option<Baseline>,
    /// Read at least in part from the start.
    has_begun: bool,
}

impl Replica {
    /// Follows for as long as it is polled, over new connections whenever one ends.
    pub(super) async fn follow(&self, ledger: &RedisLedger) {
        let mut reading = Reading::default();
        let mut backoff = Backoff::new(BACKOFF);
        loop {
            let began = Steady::now();
            let Err(obstacle) = self.follow_connection(ledger, &mut reading).await;
            self.stats.set_store_up(false);
            self.stats.disconnects.inc();
            if let Obstacle::Ledger(error) = &obstacle {
                self.stats.count(Operation::Read, Err(error));
            }
            self.health.hindered(&obstacle);
            if began.elapsed() > BACKOFF[1] * 4 {
                backoff.succeeded(); // The connection worked for a while.
            }
            sleep(backoff.failed().mul_f64(rand::random_range(0.5..=1.0))).await;
        }
    }

    /// Follows over one connection until an error.
    async fn follow_connection(&self, ledger: &RedisLedger, reading: &mut Reading) -> Result<Infallible, Obstacle> {
        let mut feed = ledger.feed().await?;
        let facts = feed.facts().await?;
        let mut fit = self.examine(facts, ledger)?;
        loop {
            let mut life = feed.life(&self.name, self.lease_state.followed().as_deref()).await?;
            self.lease_state.note_store(&feed.server, &life);
            self.names_changed.notify_one(); // This server may lack the notes.
            // The log may have been replaced since: `follow_log` checks before the read counts.
            let known = if let Some(known) = &mut reading.baseline {
                known
            } else {
                self.health.set(ReplicaState::CatchingUp);
                if reading.has_begun {
                    // At once: other instances may be about to rely on this log.
                    feed.mark_repairing(&self.name, life.clock).await?;
                    self.note_loss();
                    if let Err(error) = self.restore_names().await {
                        tracing::debug!(%error, "issuers' names not noted again yet");
                    }
                }
                reading.has_begun = true;
                let Some(read) = self.replay(&mut feed, ledger, &life.epoch).await? else { continue };
                reading.baseline.insert(read)
            };
            let ended = self.follow_log(&mut feed, ledger, &mut life, known, &mut fit).await;
            self.lease_state.note_settled(None);
            let gap = ended?;
            self.lease_state.note_lost();
            self.stats.gaps.inc();
            tracing::warn!(gap = gap.label(), cause = %gap, "revocation log lost entries; reading it again");
            if let Some((_, whole)) = known.whole {
                self.freshness.publish(whole); // Later reads may have lacked entries.
            }
            self.health.set(ReplicaState::Repairing);
            reading.baseline = None;
        }
    }

    /// Reads the log from its start up to its current end; `None` if the store got a new epoch meanwhile.
    async fn replay(
        &self,
        feed: &mut Feed<'_>,
        ledger: &RedisLedger,
        epoch: &str,
    ) -> Result<Option<Baseline>, Obstacle> {
        let _ = self.read_leads().await; // For entries without an instant; unread, they cover the leeway.
        let Snapshot { page, stream, .. } = feed.snapshot(Position::END).await?;
        if page.source.is_some_and(|source| source.epoch.as_deref() != Some(epoch)) {
            return Ok(None);
        }
        let end = stream.unwrap_or_default();
        let mut beyond = 0;
        let last = feed
            .replay(end.last, |items| {
                self.apply(ledger, items, false);
                beyond += items.iter().filter(|item| item.position > end.last).count() as u64;
            })
            .await?;
        self.stats.count(Operation::Read, Ok(()));
        // An empty log may have been trimmed: continue at its end, not at its start.
        let read = Baseline::new(epoch.into(), last.max(end.last), end.added + beyond);
        self.report_anew();
        self.applied.send_replace(read.last);
        self.loss_is_known();
        Ok(Some(read))
    }

    /// Reads the log from its start again and merges it: skipped entries may matter now.
    async fn read_again(&self, feed: &mut Feed<'_>, ledger: &RedisLedger) -> Result<(), Obstacle> {
        let Snapshot { stream, .. } = feed.snapshot(Position::END).await?;
        let stream = stream.unwrap_or_default();
        feed.replay(stream.last, |items| self.apply(ledger, items, false)).await?;
        self.stats.count(Operation::Read, Ok(()));
        let needed = self.earliest().minus(ledger.retention());
        let first = Timestamp::from_millis(i64::try_from(stream.first.millis).unwrap_or(i64::MAX));
        if stream.length < stream.added && first > needed {
            let (needed, first) = (needed.to_rfc3339(), first.to_rfc3339());
            tracing::warn!(%needed, %first, "the log no longer has every entry that the settings in force need: \
                                             revocations before `first` were trimmed; repeat those that must still \
                                             apply");
        }
        Ok(())
    }

    /// Follows the log until it has lost entries.
    async fn follow_log(
        &self,
        feed: &mut Feed<'_>,
        ledger: &RedisLedger,
        life: &mut Life,
        known: &mut Baseline,
        fit: &mut bool,
    ) -> Result<Gap, Obstacle> {
        let began = Steady::now();
        let (mut checked, mut published): (Option<Steady>, Option<Steady>) = (None, None);
        let mut needs_goal = false; // The last page did not reach the end of the log.
        let (mut is_settled, mut is_told, mut lease) = (false, false, Held::default());
        loop {
            if self.clocks.take_read_again() {
                if let Err(error) = self.read_again(feed, ledger).await {
                    self.clocks.request_reread();
                    return Err(error);
                }
                self.clocks.was_read_again();
            }
            self.keep_lease(feed, life.clock, &mut lease).await?;
            let mut block = ledger.config().block;
            if !is_settled {
                match self.settling(feed, life, began).await? {
                    None => {
                        is_settled = true;
                        checked = None; // So that the next read does not wait for an entry.
                        self.lease_state.note_settled(Some(&life.epoch));
                    }
                    Some(wait) => {
                        block = block.min(wait);
                        if !std::mem::replace(&mut is_told, true) {
                            tracing::info!(
                                "the store was founded, restarted or failed over: waiting up to a second for \
                                 instances that may write back what it lost (an empty store does not show whether it \
                                 was ever used)"
                            );
                        }
                    }
                }
            }
            // Only a read that begins now, on a store that has settled, makes the view fresh.
            let start = Steady::now();
            feed.is_live = self.freshness.log_age(start).is_some_and(|age| age < LIVE);
            let covered = lease.covers(start);
            let is_due = checked.is_none_or(|checked| checked.elapsed() >= CHECK_EVERY);
            let (page, facts_read) = if (is_due && !known.has_goal()) || needs_goal {
                let Snapshot { page, stream, facts } = feed.snapshot(known.last).await?;
                self.stats.count(Operation::Check, Ok(()));
                (page, Some((stream, facts)))
            } else {
                let ask_source = published.is_none_or(|published| published.elapsed() >= SOURCE_EVERY);
                let block = if ask_source { block } else { block.min(SOURCE_EVERY) };
                let page = feed.next(known.last, block, ask_source).await?;
                self.stats.count(Operation::Read, Ok(()));
                (page, None)
            };
            needs_goal = false;
            self.take(ledger, known, &page.items);
            if let Some(source) = &page.source {
                Obstacle::is_still(&feed.server, &source.server)?;
                if let Err(gap) = known.check_epoch(source.epoch.as_deref()) {
                    return Ok(gap);
                }
            }
            if let Some((stream, facts)) = facts_read {
                let alive = self.earliest().minus(ledger.retention());
                if let Err(gap) = known.check(stream, page.complete, alive) {
                    return Ok(gap);
                }
                *fit = self.examine(facts, ledger)?;
                self.note_end(stream.as_ref());
                if page.complete {
                    known.note_whole(stream, start);
                } else if covered && is_settled {
                    known.aim(&stream.unwrap_or_default(), start);
                }
                checked = Some(start);
            }
            let as_of = if page.complete {
                known.drop_goal();
                Some(start).filter(|_| page.source.is_some() && is_settled && covered)
            } else {
                needs_goal = !known.has_goal();
                match known.reached() {
                    Ok(as_of) => as_of,
                    Err(gap) => return Ok(gap),
                }
            };
            if (page.complete || as_of.is_some()) && self.unsaved.lacks(as_of.unwrap_or(start)) {
                return Ok(Gap::OwnLost);
            }
            self.stats.set_store_up(true);
            if let Some(as_of) = as_of {
                self.freshness.publish(as_of);
                if self.clocks.wants_read_again() {
                    self.freshness.suspend(); // The clock was set while this page was read.
                }
                published = Some(Steady::now());
                if *fit {
                    self.report_following();
                }
            }
            if !page.items.is_empty() && page.complete && !self.lease_state.is_asked() {
                sleep(COALESCE).await;
            }
        }
    }

    fn report_following(&self) {
        if let Some(error) = self.adopted.failure() {
            self.health.hindered(&Obstacle::Ledger(error));
        } else if self.freshness.adopted.age(Steady::now()).is_none() {
            self.health.set(ReplicaState::Adopting);
        } else if let Some(obstacle) = self.cannot_add().filter(|_| self.health.is_ready()) {
            self.health.hindered(&obstacle); // The log is read nevertheless.
        } else {
            self.health.set(ReplicaState::Following);
        }
    }

    /// The time to wait before the next check; `None` if the log can be relied on.
    async fn settling(
        &self,
        feed: &mut Feed<'_>,
        life: &mut Life,
        began: Steady,
    ) -> Result<Option<Duration>, Obstacle> {
        if life.since.is_none() {
            *life = feed.life(&self.name, self.lease_state.followed().as_deref()).await?;
        }
        let (now, is_repairing) = feed.repairing(&self.name, began.elapsed()).await?;
        let wait = match life.since {
            // A full server: no instance can write entries back, or announce that.
            None => SETTLE_LOOK,
            Some(_) if began.elapsed() >= SETTLE_AT_MOST => {
                tracing::warn!("a peer is still writing back revocations; continuing with the current log");
                return Ok(None);
            }
            Some(since) => match SETTLE.saturating_sub(now.since(since).max(began.elapsed())) {
                Duration::ZERO if is_repairing => SETTLE_LOOK,
                Duration::ZERO => return Ok(None),
                left => left,
            },
        };
        self.health.set(ReplicaState::Settling);
        Ok(Some(wait))
    }

    /// Refuses a store that may lose entries; `false` if this instance is ready and continues to use it.
    fn examine(&self, facts: StoreFacts, ledger: &RedisLedger) -> Result<bool, Obstacle> {
        match Obstacle::examine(facts, ledger.config().allow_eviction) {
            Err(obstacle) if obstacle.is_tolerable() && self.health.is_ready() => {
                self.health.hindered(&obstacle);
                Ok(false)
            }
            judged => judged.map(|()| true),
        }
    }

    /// Applies the entries that were read, and counts them.
    fn take(&self, ledger: &RedisLedger, known: &mut Baseline, items: &[FeedItem]) {
        if items.is_empty() {
            return;
        }
        self.apply(ledger, items, true);
        known.advance(items.iter().map(|item| item.position));
        self.applied.send_replace(known.last);
    }

    fn apply(&self, ledger: &RedisLedger, items: &[FeedItem], following: bool) {
        let (now, uptime) = (self.earliest(), Steady::now().uptime());
        let retention = self.clocks.retention();
        let (keeps, set_at) = (RedisLedger::keeps_for(ledger.retention()), ledger.set_at());
        let seen = self.seen();
        let mut unreadable = None;
        for FeedItem { position, revocation, asks, .. } in items {
            if *asks && following {
                self.lease_state.note_asked();
            }
            if let (Some(seen), Ok(revocation)) = (&seen, revocation) {
                seen.apply(revocation, uptime);
            }
            match revocation {
                // Expired long ago by both clocks.
                Ok(revocation) if revocation.expires_at.plus(retention) <= now => self.clocks.note_passed_over(),
                Ok(revocation) => {
                    self.apply_here(revocation, uptime);
                    self.outliving.note(*position, revocation, keeps, set_at);
                    if *asks && following {
                        self.lease_state.note_ended(*position, self.streams.take_ended(revocation));
                    }
                }
                Err(field) => {
                    if *asks {
                        self.lease_state.note_unapplied(*position);
                    }
                    self.stats.unreadable.inc();
                    unreadable = Some((position, field));
                }
            }
            if following {
                let written_at = Timestamp::from_millis(i64::try_from(position.millis).unwrap_or(i64::MAX));
                self.stats.lag.observe(now.since(written_at).as_secs_f64());
            }
        }
        if let Some((entry, field)) = unreadable {
            tracing::warn!(%entry, field, "log entry not understood");
        }
        self.count_foreign(items);
        self.unsaved.read_back(items.iter().filter_map(|item| item.revocation.as_ref().ok()));
        self.stats.entries.inc_by(items.len() as u64);
    }
}
