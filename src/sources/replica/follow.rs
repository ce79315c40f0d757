//! Catching up with the log and following it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::super::ledger::{Feed, FeedItem, Life, RedisLedger, Snapshot, StoreFacts};
use super::gap::{Baseline, Gap};
use super::health::Obstacle;
use super::lease::Held;
use super::stats::{Operation, ReplicaStats};
use super::{Replica, ReplicaState};
use crate::authz::claims::Timestamp;

/// Between attempts to connect: short enough to be ready within two seconds of the store's return,
/// and to be back before another instance relies on a store that came back empty.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(300)];
/// Between comparisons of the log with what it should be.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// A burst is read in pieces instead of one read for each entry.
const COALESCE: Duration = Duration::from_millis(2);
/// Under load the epoch and the role are not asked for more often than this.
const SOURCE_EVERY: Duration = Duration::from_millis(100);
/// A store that was founded anew, restarted or failed over is not relied on for this long: it may be about
/// to grow by everything that instances know and it lost. Those that are connected notice within a read
/// (`block`, and 110 ms when there are 200 of them), those that must connect again within [`BACKOFF`]'s
/// longest and the time to connect; from then on they say that they are repairing. Those that take longer
/// than this, and hold what the store lost, leave the others without it until they have put it back.
const SETTLE: Duration = Duration::from_millis(750);
/// Between looks at whether that is over.
const SETTLE_LOOK: Duration = Duration::from_millis(50);
/// The longest wait for one that says it is repairing.
const SETTLE_AT_MOST: Duration = Duration::from_secs(30);

/// How far the log has been read, whatever the connection.
#[derive(Default)]
pub(super) struct Reading {
    /// To its end: the view is built from this log.
    baseline: Option<Baseline>,
    /// From its start, be it in part: something of a log is known.
    has_begun: bool,
}

impl Replica {
    /// Follows for as long as it is polled, over new connections whenever one ends.
    pub(super) async fn follow(&self, ledger: &RedisLedger) {
        let mut reading = Reading::default();
        let [mut backoff, longest] = BACKOFF;
        loop {
            let began = Instant::now();
            let Err(obstacle) = self.follow_connection(ledger, &mut reading).await;
            self.stats.set_store_up(false);
            ReplicaStats::add(&self.stats.disconnects, 1);
            if let Obstacle::Ledger(error) = &obstacle {
                self.stats.count(Operation::Read, Err(error));
            }
            self.health.hindered(&obstacle);
            if began.elapsed() > longest * 4 {
                backoff = BACKOFF[0]; // It worked for a while.
            }
            sleep(backoff.mul_f64(rand::random_range(0.5..=1.0))).await;
            backoff = (backoff * 2).min(longest);
        }
    }

    /// Follows over one connection until something goes wrong.
    async fn follow_connection(&self, ledger: &RedisLedger, reading: &mut Reading) -> Result<Infallible, Obstacle> {
        let mut feed = ledger.feed().await?;
        let facts = feed.facts().await?;
        self.tenure.note_server(&facts.server);
        let mut fit = self.examine(facts, ledger)?;
        loop {
            let mut life = feed.life(&self.name).await?;
            // What was known before may not be the log any more: `follow_log` looks before it counts.
            let known = if let Some(known) = &mut reading.baseline {
                known
            } else {
                self.health.set(ReplicaState::CatchingUp);
                if reading.has_begun {
                    // At once: others may be about to rely on what this log holds.
                    feed.mark_repairing(&self.name, life.clock).await?;
                    self.note_loss();
                }
                reading.has_begun = true;
                let Some(read) = self.replay(&mut feed, &life.epoch).await? else { continue };
                reading.baseline.insert(read)
            };
            let gap = self.follow_log(&mut feed, ledger, &mut life, known, &mut fit).await?;
            ReplicaStats::add(&self.stats.gaps, 1);
            tracing::warn!(gap = gap.label(), cause = %gap, "revocation log lost entries; reading it again");
            if let Some((_, whole)) = known.whole {
                self.freshness.publish(whole); // What was read since may have lacked something.
            }
            self.health.set(ReplicaState::Repairing);
            reading.baseline = None;
        }
    }

    /// Reads the log from its start; `None` if the store was founded anew on the way.
    async fn replay(&self, feed: &mut Feed<'_>, epoch: &str) -> Result<Option<Baseline>, Obstacle> {
        let last = feed.replay(|items| self.apply(items, false)).await?;
        let mut read = Baseline { epoch: epoch.into(), last, added: 0, whole: None };
        loop {
            let Snapshot { page, stream, .. } = feed.snapshot(read.last).await?;
            self.stats.count(Operation::Read, Ok(()));
            self.apply(&page.items, false);
            if let Some(newest) = page.items.last() {
                read.last = newest.position;
            }
            if page.source.is_some_and(|source| read.check_epoch(source.epoch.as_deref()).is_err()) {
                return Ok(None);
            }
            if page.complete {
                // An empty log may have been trimmed: go on from its end, not from its start.
                let stream = stream.unwrap_or_default();
                read.last = read.last.max(stream.last);
                read.added = stream.added;
                self.applied.send_replace(read.last);
                self.loss_is_known();
                return Ok(Some(read));
            }
        }
    }

    /// Follows the log until it turns out to have lost something.
    async fn follow_log(
        &self,
        feed: &mut Feed<'_>,
        ledger: &RedisLedger,
        life: &mut Life,
        known: &mut Baseline,
        fit: &mut bool,
    ) -> Result<Gap, Obstacle> {
        let began = Instant::now();
        let (mut checked, mut published): (Option<Instant>, Option<Instant>) = (None, None);
        let (mut is_settled, mut lease) = (false, Held::default());
        loop {
            self.keep_lease(feed, life.clock, &mut lease).await?;
            let mut block = ledger.config().block;
            if !is_settled {
                match self.settling(feed, life, began).await? {
                    None => is_settled = true,
                    Some(wait) => block = block.min(wait),
                }
            }
            // Only a read that begins now, on a store that has settled, makes the view fresh.
            let start = Instant::now();
            let covered = lease.covers(start);
            let (page, told) = if checked.is_none_or(|checked| checked.elapsed() >= CHECK_EVERY) {
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
            self.take(known, &page.items);
            if let Some(source) = &page.source {
                Obstacle::is_still(&feed.server, &source.server)?;
                if let Err(gap) = known.check_epoch(source.epoch.as_deref()) {
                    return Ok(gap);
                }
            }
            if let Some((stream, facts)) = told {
                let alive = crate::clock::now().minus(ledger.retention());
                if let Err(gap) = known.check(stream, page.complete, alive) {
                    return Ok(gap);
                }
                if page.complete {
                    *fit = self.examine(facts, ledger)?;
                    known.note_whole(stream, start);
                    checked = Some(start);
                }
            }
            if page.complete && self.unsaved.lacks(start, crate::clock::now()) {
                return Ok(Gap::OwnLost);
            }
            self.stats.set_store_up(true);
            if page.complete && page.source.is_some() && is_settled && covered {
                self.freshness.publish(start);
                published = Some(start);
                if *fit {
                    self.report_following();
                }
            }
            if !page.items.is_empty() && page.complete && !self.tenure.is_asked() {
                sleep(COALESCE).await;
            }
        }
    }

    fn report_following(&self) {
        if let Some(error) = self.adopted.failure() {
            self.health.hindered(&Obstacle::Ledger(error));
        } else if self.freshness.adopted.age(Instant::now()).is_none() {
            self.health.set(ReplicaState::Adopting);
        } else {
            self.health.set(ReplicaState::Following);
        }
    }

    /// How long to wait before asking again; `None` if what the log holds can be relied on.
    async fn settling(
        &self,
        feed: &mut Feed<'_>,
        life: &mut Life,
        began: Instant,
    ) -> Result<Option<Duration>, Obstacle> {
        if life.since.is_none() {
            *life = feed.life(&self.name).await?;
        }
        let (now, is_repairing) = feed.repairing(&self.name).await?;
        let wait = match life.since {
            // A full server: nobody can put anything back, nor say that it would.
            None => SETTLE_LOOK,
            Some(_) if began.elapsed() >= SETTLE_AT_MOST => {
                tracing::warn!("a peer is still putting back revocations; going on with what the log holds");
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

    /// Refuses a store that may forget; `false` is one that a running instance goes on with.
    fn examine(&self, facts: StoreFacts, ledger: &RedisLedger) -> Result<bool, Obstacle> {
        match Obstacle::examine(facts, ledger.config().allow_eviction) {
            Err(obstacle) if obstacle.is_tolerable() && self.health.is_ready() => {
                self.health.hindered(&obstacle);
                Ok(false)
            }
            judged => judged.map(|()| true),
        }
    }

    /// Applies what was read on, and counts it.
    fn take(&self, known: &mut Baseline, items: &[FeedItem]) {
        let Some(newest) = items.last() else { return };
        self.apply(items, true);
        known.advance(newest.position, items.len());
        self.applied.send_replace(known.last);
    }

    fn apply(&self, items: &[FeedItem], following: bool) {
        let now = crate::clock::now();
        let seen = self.seen();
        let mut unreadable = None;
        for FeedItem { position, revocation, asks } in items {
            if *asks && following {
                self.tenure.note_asked();
            }
            match revocation {
                Ok(revocation) => {
                    self.index.apply(revocation, now);
                    if let Some(seen) = &seen {
                        seen.apply(revocation, now);
                    }
                }
                Err(field) => {
                    ReplicaStats::add(&self.stats.unreadable, 1);
                    unreadable = Some((position, field));
                }
            }
            if following && let Some(lag) = &self.lag {
                let written_at = Timestamp::from_millis(i64::try_from(position.millis).unwrap_or(i64::MAX));
                lag.observe(now.since(written_at).as_secs_f64());
            }
        }
        if let Some((entry, field)) = unreadable {
            tracing::warn!(%entry, field, "log entry not understood");
        }
        self.count_foreign(items);
        self.unsaved.read_back(items.iter().filter_map(|item| item.revocation.as_ref().ok()));
        ReplicaStats::add(&self.stats.entries, items.len());
    }
}
