//! Catching up with the log and following it.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::super::ledger::{Epoch, Feed, FeedItem, RedisLedger, Snapshot};
use super::gap::{Baseline, Gap};
use super::health::Obstacle;
use super::lease::Held;
use super::stats::{Operation, ReplicaStats};
use super::{Replica, ReplicaState};
use crate::authz::claims::Timestamp;

/// Between attempts to connect: short enough to be ready within two seconds of the store's return,
/// and to be back before a new instance relies on a store that came back empty.
const BACKOFF: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(300)];
/// Between comparisons of the log with what it should be.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// A burst is read in pieces instead of one read for each entry.
const COALESCE: Duration = Duration::from_millis(2);
/// Under load the epoch is not asked for more often than this.
const EPOCH_EVERY: Duration = Duration::from_millis(100);
/// After a store was founded anew, restarted or failed over, or while a peer puts back what it lost, a
/// new instance waits: the log may be about to grow by everything that the others know. They are back
/// within [`BACKOFF`]'s longest and the time to connect; those that take longer than this, and hold
/// what the store lost, leave the new instance without it until they have put it back.
const SETTLE: Duration = Duration::from_millis(750);
/// The longest such wait for a peer.
const SETTLE_AT_MOST: Duration = Duration::from_secs(30);

impl Replica {
    /// Follows for as long as it is polled, over new connections whenever one ends.
    pub(super) async fn follow(&self, ledger: &RedisLedger) {
        let mut baseline = None;
        let [mut backoff, longest] = BACKOFF;
        loop {
            let began = Instant::now();
            let Err(obstacle) = self.follow_connection(ledger, &mut baseline).await;
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
    async fn follow_connection(
        &self,
        ledger: &RedisLedger,
        baseline: &mut Option<Baseline>,
    ) -> Result<Infallible, Obstacle> {
        let mut feed = ledger.feed().await?;
        let mut fit = self.examine(&mut feed, ledger).await?;
        loop {
            let epoch = feed.found_epoch(&self.name).await?;
            // What was known before may not be the log any more: `follow_log` looks before it counts.
            let known = if let Some(known) = baseline.take() {
                known
            } else {
                self.health.set(ReplicaState::CatchingUp);
                let Some(read) = self.replay(&mut feed, &epoch).await? else { continue };
                read
            };
            let known = baseline.insert(known);
            let gap = self.follow_log(&mut feed, ledger, known, &mut fit).await?;
            ReplicaStats::add(&self.stats.gaps, 1);
            tracing::warn!(gap = gap.label(), cause = %gap, "revocation log lost entries; reading it again");
            self.freshness.suspend();
            self.health.set(ReplicaState::Repairing);
            *baseline = None;
            self.note_loss();
            self.tenure.note_loss();
        }
    }

    /// Reads the log from its start; `None` if the store was founded anew on the way.
    async fn replay(&self, feed: &mut Feed<'_>, epoch: &str) -> Result<Option<Baseline>, Obstacle> {
        self.forget_seen();
        let last = feed.replay(|items| self.apply(items, false)).await?;
        let mut read = Baseline { epoch: epoch.into(), last, added: 0 };
        loop {
            let Snapshot { page, stream } = feed.snapshot(read.last).await?;
            self.stats.count(Operation::Read, Ok(()));
            self.apply(&page.items, false);
            if let Some(newest) = page.items.last() {
                read.last = newest.position;
            }
            if read.check_epoch(&page.epoch).is_err() {
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
        known: &mut Baseline,
        fit: &mut bool,
    ) -> Result<Gap, Obstacle> {
        let began = Instant::now();
        let mut checked: Option<Instant> = None;
        let mut published: Option<Instant> = None;
        let mut settled = self.health.is_ready();
        let mut lease = Held::default();
        loop {
            self.keep_lease(feed, &mut lease).await?;
            let start = Instant::now();
            let covered = lease.covers(start);
            let check = checked.is_none_or(|checked| checked.elapsed() >= CHECK_EVERY);
            let page = if check {
                let Snapshot { page, stream } = feed.snapshot(known.last).await?;
                self.stats.count(Operation::Check, Ok(()));
                self.take(known, &page.items);
                if let Err(gap) = known.check(&page.epoch, stream, page.complete) {
                    return Ok(gap);
                }
                if page.complete {
                    if checked.is_some() {
                        *fit = self.examine(feed, ledger).await?;
                    }
                    checked = Some(start);
                }
                page
            } else {
                let ask_epoch = published.is_none_or(|published| published.elapsed() >= EPOCH_EVERY);
                let page = feed.next(known.last, ask_epoch).await?;
                self.stats.count(Operation::Read, Ok(()));
                self.take(known, &page.items);
                if let Err(gap) = known.check_epoch(&page.epoch) {
                    return Ok(gap);
                }
                page
            };
            self.stats.set_store_up(true);
            if page.complete && page.epoch != Epoch::NotAsked {
                if settled && covered {
                    self.freshness.publish(start);
                    published = Some(start);
                    if *fit && (check || !self.health.is_ready()) {
                        self.report_following();
                    }
                } else if !settled {
                    // This read may be older than what a peer has put back: only the next one counts.
                    settled = self.has_settled(feed, known, began).await?;
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

    /// Whether a new instance may rely on what the log holds.
    async fn has_settled(&self, feed: &mut Feed<'_>, known: &Baseline, began: Instant) -> Result<bool, Obstacle> {
        let waited = began.elapsed();
        if waited >= SETTLE_AT_MOST {
            tracing::warn!("a peer is still putting back revocations; going on with what the log holds");
            return Ok(true);
        }
        let founded_at = known.epoch.rsplit_once(' ').and_then(|(_, millis)| millis.parse().ok());
        let founded_at = Timestamp::from_millis(founded_at.unwrap_or_default()).max(feed.served_since().await?);
        let is_old = waited >= SETTLE || feed.time().await?.since(founded_at) >= SETTLE;
        if is_old && !feed.reseeding().await? {
            return Ok(true);
        }
        self.health.set(ReplicaState::Settling);
        Ok(false)
    }

    /// Refuses a store that may forget; `false` is one that a running instance goes on with.
    async fn examine(&self, feed: &mut Feed<'_>, ledger: &RedisLedger) -> Result<bool, Obstacle> {
        match Obstacle::examine(feed.facts().await?, ledger.config().allow_eviction) {
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
        ReplicaStats::add(&self.stats.entries, items.len());
    }
}
