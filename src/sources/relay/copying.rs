//! Copying over one pair of connections.

use std::convert::Infallible;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use super::super::ledger::{
    Feed, FeedItem, LedgerError, Position, Received, RedisLedger, RefusalKind, Server, Snapshot, StreamInfo,
};
use super::super::names::Names;
use super::super::replica::gap::Baseline;
use super::super::replica::health::Obstacle;
use super::known::KnownEntries;
use super::unread::UnreadEntries;
use super::{Relay, RelayState, Remark, TEND_EVERY, id_of};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{Lead, Revocation};
use crate::clock::Steady;

/// The interval of checks whether the logs are still the same.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// The wait for new entries.
const BLOCK: Duration = Duration::from_millis(400);
/// Entries in the other log, at most: some 1.5 GB of this process's memory.
const MOST: usize = 10_000_000;
/// Expired entries are dropped from memory at this interval.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// A log, as far as it was read.
#[derive(Default)]
struct Reading {
    /// `None`: it is read from its start.
    baseline: Option<Baseline>,
    server: Server,
}

/// What is known of both logs, across connections.
pub(super) struct Progress {
    from: Reading,
    to: Reading,
    /// The entries of the other log.
    pub(super) known: KnownEntries,
    pub(super) unread: UnreadEntries,
    /// The next append is not made before.
    pub(super) not_before: Instant,
    purged: Steady,
    /// `None`: not over these connections.
    tended: Option<Steady>,
    /// The name under which the relay last noted itself in the other store.
    received: Option<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            from: Reading::default(),
            to: Reading::default(),
            known: KnownEntries::default(),
            unread: UnreadEntries::default(),
            not_before: Instant::now(),
            purged: Steady::now(),
            tended: None,
            received: None,
        }
    }
}

type Leads = Vec<(IssuerName, Lead)>;

/// Why copying stopped; it is retried.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{place}: {cause}")]
    Store { place: String, cause: Obstacle },
    #[error("both addresses are those of one store: name two")]
    SameStore,
    #[error("{0}")]
    NamesDiffer(String),
    #[error("{place}: the log has more than {MOST} entries")]
    TooLong { place: String },
}

impl Fault {
    pub(super) fn at(ledger: &RedisLedger, cause: impl Into<Obstacle>) -> Self {
        let cause = match cause.into() {
            Obstacle::Ledger(LedgerError::Refused { kind: RefusalKind::ReadOnly, .. }) => {
                Obstacle::NotPrimary { role: "replica".into() }
            }
            cause => cause,
        };
        Self::Store { place: ledger.config().server.place(), cause }
    }

    pub(super) fn state(&self) -> RelayState {
        match self {
            Self::SameStore => RelayState::SameStore,
            Self::NamesDiffer(_) => RelayState::NamesDiffer,
            Self::TooLong { .. } => RelayState::Refused,
            Self::Store { cause, .. } => match cause {
                Obstacle::Changed => RelayState::Unreachable,
                Obstacle::NotPrimary { .. }
                | Obstacle::NoRole
                | Obstacle::MayEvict { .. }
                | Obstacle::LogExhausted { .. } => RelayState::Refused,
                Obstacle::Ledger(error) => match error {
                    LedgerError::Unavailable { .. }
                    | LedgerError::Timeout { .. }
                    | LedgerError::BreakerOpen
                    | LedgerError::Refused { kind: RefusalKind::Loading, .. } => RelayState::Unreachable,
                    LedgerError::Refused { .. }
                    | LedgerError::NotReplicated { .. }
                    | LedgerError::NamesDiffer
                    | LedgerError::File { .. } => RelayState::Refused,
                },
            },
        }
    }
}

impl Relay {
    /// Copies over one pair of connections until an error.
    pub(super) async fn copy(&self, progress: &mut Progress) -> Result<Infallible, Fault> {
        let (from, to) = tokio::join!(self.connect(&self.from), self.connect(&self.to));
        let (mut from, mut to) = (from?, to?);
        progress.from.connected(&from.server);
        progress.to.connected(&to.server);
        Box::pin(self.are_two_stores(&from.server, &to.server)).await?; // Boxed, as others here: seldom, and large.
        progress.tended = None;
        let mut checked = None::<Steady>;
        loop {
            Box::pin(self.tend(progress)).await?;
            if progress.known.needed() < self.needed() {
                progress.to.baseline = None; // By a longer need, the ends of all entries are others.
            }
            (from.copies_for, to.copies_for) = (Some(self.needed()), Some(self.needed()));
            if progress.to.baseline.is_none() {
                self.set(RelayState::CatchingUp);
                self.read_target(&mut to, progress).await?;
            }
            let Some(read) = progress.from.baseline.clone() else {
                self.set(RelayState::CatchingUp);
                Box::pin(self.copy_whole(&mut from, &mut to, progress)).await?;
                continue;
            };
            let (start, as_of) = (Steady::now(), self.from.store_clock());
            let is_due = checked.is_none_or(|checked| checked.elapsed() >= CHECK_EVERY);
            if is_due && !self.read_on(&mut to, progress).await? {
                continue;
            }
            match self.next_page(&mut from, read, is_due).await? {
                None => progress.from.baseline = None,
                Some((items, is_complete, next)) => {
                    if !self.pass(&items, &mut to, progress).await? {
                        continue;
                    }
                    checked = if is_due { Some(start) } else { checked };
                    let last = next.last.time();
                    progress.from.baseline = Some(next);
                    self.copied_up_to(if is_complete { as_of } else { as_of.min(Some(last)) });
                    self.set(RelayState::Following);
                    if is_complete {
                        self.caught_up();
                    }
                }
            }
        }
    }

    async fn connect<'a>(&self, ledger: &'a RedisLedger) -> Result<Feed<'a>, Fault> {
        let fault = |error: LedgerError| Fault::at(ledger, error);
        let mut feed = ledger.feed().await.map_err(fault)?;
        feed.copies_for = Some(self.needed());
        let facts = feed.facts().await.map_err(fault)?;
        Obstacle::examine(facts, ledger.config().allow_eviction).map_err(|cause| Fault::at(ledger, cause))?;
        Ok(feed)
    }

    /// One server may have two stores: two databases, or two prefixes. Each has an epoch of its own.
    async fn are_two_stores(&self, from: &Server, to: &Server) -> Result<(), Fault> {
        let epochs = [self.epoch(&self.from).await?, self.epoch(&self.to).await?];
        if from.replication_id == to.replication_id && epochs[0] == epochs[1] {
            return Err(Fault::SameStore);
        }
        Ok(())
    }

    async fn epoch(&self, ledger: &RedisLedger) -> Result<Option<Box<str>>, Fault> {
        // Two stores may be founded within one millisecond.
        let name = format!("{}.{:08x}", self.process, rand::random::<u32>());
        ledger.epoch(&name).await.map_err(|error| Fault::at(ledger, error))
    }

    /// Notes in both stores that their logs are needed, shares the margins of issuers' clocks between the regions, and
    /// checks that issuers' names mean the same in both; when it is time.
    async fn tend(&self, progress: &mut Progress) -> Result<(), Fault> {
        if progress.tended.is_some_and(|tended| tended.elapsed() < TEND_EVERY) {
            return Ok(());
        }
        let name = self.own_name(&progress.from);
        let received = name.clone().and_then(|name| self.received(name, progress.received.as_ref()));
        let (from, to, is_noted) =
            tokio::try_join!(self.tend_store(&self.from), self.tend_store(&self.to), self.note_received(received))?;
        if is_noted {
            progress.received = name;
        }
        if let Some(conflict) = from.conflict_in(&to) {
            return Err(Fault::NamesDiffer(conflict));
        }
        let (all, common) = self.leads_of(&from, &to);
        // Twice the first: what the second has is in the first afterwards, too.
        for (ledger, read) in [(&self.from, &all), (&self.to, &common), (&self.from, &all)] {
            match ledger.share_margins(&common, read).await {
                Err(error) if !error.is_out_of_memory() => return Err(Fault::at(ledger, error)),
                _ => {}
            }
        }
        self.to.set_deferred_keys().await.map_err(|error| Fault::at(&self.to, error))?;
        self.purge(progress);
        if progress.known.len() > MOST {
            return Err(Fault::TooLong { place: self.to.config().server.place() });
        }
        progress.tended = Some(Steady::now());
        Ok(())
    }

    /// The name of this region in the other store: its address may be the same in each, and its epoch, too, if it was made
    /// from a copy of another one. `None` before its log was read.
    fn own_name(&self, from: &Reading) -> Option<String> {
        let ids = [&from.baseline.as_ref()?.epoch, &from.server.replication_id].map(|id| id_of(id));
        Some(format!("{} {} {}", self.from.config().server.place(), ids[0], ids[1]))
    }

    /// What this relay notes in the other store: everything that was written here this long ago is there. `None` before
    /// that is known.
    fn received(&self, from: String, former: Option<&String>) -> Option<Received> {
        let former = former.filter(|former| **former != from).cloned();
        Some(Received { from, former, lag: self.status().lag? })
    }

    /// Whether it is noted; entries are copied without that, too.
    async fn note_received(&self, received: Option<Received>) -> Result<bool, Fault> {
        let Some(received) = received else { return Ok(false) };
        let noted = self.to.note_received(received).await;
        self.remark(Remark::Note, &self.to, noted.as_ref().err());
        match noted {
            Err(error) if !error.is_out_of_memory() && !error.is_wrong_type() => Err(Fault::at(&self.to, error)),
            noted => Ok(noted.is_ok()),
        }
    }

    /// The names in the notes of a store under which revocations may live.
    async fn tend_store(&self, ledger: &RedisLedger) -> Result<Names, Fault> {
        let fault = |error| Fault::at(ledger, error);
        let now = ledger.tend(self.needed()).await.map_err(fault)?;
        let (noted, _) = ledger.noted_names().await.map_err(fault)?;
        Ok(Names::read(noted).used_after(now.minus(self.needed())))
    }

    /// The margins of the issuers that this region knows, by which its entries are dated, and of those among them that the
    /// other one knows, too. Those that were known stay.
    fn leads_of(&self, from: &Names, to: &Names) -> (Leads, Leads) {
        let (here, there) = (from.issuers(), to.issuers());
        let mut leads = self.leads.lock().unwrap_or_else(PoisonError::into_inner);
        leads.retain(|(name, _)| here.contains(name) || there.contains(name));
        for name in here {
            if leads.iter().all(|(known, _)| *known != name) {
                leads.push((name, Lead::default()));
            }
        }
        (leads.clone(), leads.iter().filter(|(name, _)| there.contains(name)).cloned().collect())
    }

    /// Reads the other log from its start.
    async fn read_target(&self, to: &mut Feed<'_>, progress: &mut Progress) -> Result<(), Fault> {
        let fault = |error: LedgerError| Fault::at(&self.to, error);
        (progress.known, progress.unread) = (KnownEntries::new(self.needed()), UnreadEntries::default());
        progress.from.baseline = None; // What the other log has lost is copied again.
        self.epoch(&self.to).await?;
        let Snapshot { page, stream, .. } = to.snapshot(Position::END).await.map_err(fault)?;
        let (epoch, end) = (epoch(page.source.and_then(|source| source.epoch)), stream.unwrap_or_default());
        if end.length > MOST as u64 {
            return Err(Fault::TooLong { place: self.to.config().server.place() });
        }
        let Progress { known, unread, .. } = progress;
        let (mut beyond, latest) = (0, self.latest());
        let last = to
            .replay(end.last, |items| {
                note(known, unread, items, latest);
                beyond += beyond_end(items, &end);
            })
            .await
            .map_err(fault)?;
        progress.to.baseline = Some(Baseline::new(epoch, last.max(end.last), end.added + beyond));
        Ok(())
    }

    /// Reads what was added to the other log; false if it has lost entries: it must be read from its start.
    pub(super) async fn read_on(&self, to: &mut Feed<'_>, progress: &mut Progress) -> Result<bool, Fault> {
        let Some(mut read) = progress.to.baseline.clone() else { return Ok(false) };
        loop {
            let start = Steady::now();
            let Snapshot { page, stream, facts } =
                to.snapshot(read.last).await.map_err(|error| Fault::at(&self.to, error))?;
            let examined = Obstacle::is_still(&to.server, &facts.server);
            let examined = examined.and_then(|()| Obstacle::examine(facts, self.to.config().allow_eviction));
            examined.map_err(|cause| Fault::at(&self.to, cause))?;
            note(&mut progress.known, &mut progress.unread, &page.items, self.latest());
            read.advance(page.items.iter().map(|item| item.position));
            let epoch = epoch(page.source.and_then(|source| source.epoch));
            let alive = self.to.earliest().minus(self.needed());
            let judged = read.check_epoch(Some(&*epoch)).and_then(|()| read.check(stream, page.complete, alive));
            if let Err(gap) = judged {
                tracing::warn!(relay = %self.name, gap = gap.label(), cause = %gap, "the log of the other region lost entries; copying again");
                self.copied_up_to(None);
                progress.to.baseline = None;
                return Ok(false);
            }
            if page.complete {
                read.note_whole(stream, start);
                progress.to.baseline = Some(read);
                return Ok(true);
            }
        }
    }

    /// Copies the log from its start up to its present end.
    async fn copy_whole(&self, from: &mut Feed<'_>, to: &mut Feed<'_>, progress: &mut Progress) -> Result<(), Fault> {
        let fault = |error: LedgerError| Fault::at(&self.from, error);
        self.epoch(&self.from).await?;
        let Snapshot { page, stream, .. } = from.snapshot(Position::END).await.map_err(fault)?;
        let (epoch, end) = (epoch(page.source.and_then(|source| source.epoch)), stream.unwrap_or_default());
        let (mut last, mut beyond) = (Position::default(), 0);
        loop {
            Box::pin(self.tend(progress)).await?;
            let page = from.page_after(last).await.map_err(fault)?;
            if !self.pass(&page.items, to, progress).await? {
                return Ok(());
            }
            beyond += beyond_end(&page.items, &end);
            last = page.items.last().map_or(last, |item| item.position);
            if page.complete || last >= end.last {
                break;
            }
        }
        progress.from.baseline = Some(Baseline::new(epoch, last.max(end.last), end.added + beyond));
        Ok(())
    }

    /// The entries after those that were read, whether they are all, and the log as it is read with them; `None` if
    /// the log has lost entries.
    async fn next_page(
        &self,
        from: &mut Feed<'_>,
        mut read: Baseline,
        is_due: bool,
    ) -> Result<Option<(Vec<FeedItem>, bool, Baseline)>, Fault> {
        let start = Steady::now();
        let (page, stream) = if is_due {
            let Snapshot { page, stream, facts } =
                from.snapshot(read.last).await.map_err(|error| Fault::at(&self.from, error))?;
            let examined = Obstacle::examine(facts, self.from.config().allow_eviction);
            examined.map_err(|cause| Fault::at(&self.from, cause))?;
            (page, Some(stream))
        } else {
            (from.next(read.last, BLOCK, true).await.map_err(|error| Fault::at(&self.from, error))?, None)
        };
        let Some(source) = page.source else { return Ok(None) };
        Obstacle::is_still(&from.server, &source.server).map_err(|cause| Fault::at(&self.from, cause))?;
        read.advance(page.items.iter().map(|item| item.position));
        let mut judged = read.check_epoch(Some(&*epoch(source.epoch)));
        if let Some(stream) = stream {
            let alive = self.from.earliest().minus(self.needed());
            judged = judged.and_then(|()| read.check(stream, page.complete, alive));
            if page.complete {
                read.note_whole(stream, start);
            }
        }
        if let Err(gap) = judged {
            tracing::warn!(relay = %self.name, gap = gap.label(), cause = %gap, "the log of this region lost entries; reading it again");
            return Ok(None);
        }
        Ok(Some((page.items, page.complete, read)))
    }

    /// The longest that any instance in either region, or beyond it, needs an entry: an entry that is over by the settings
    /// of this region may refuse tokens in another one. Relays that run both ways keep this noted.
    pub(super) fn needed(&self) -> Duration {
        [&self.from, &self.to]
            .into_iter()
            .filter_map(RedisLedger::longest_retention)
            .fold(self.retention, Duration::max)
    }

    /// No entry of the other log was written later than this by its clock, which is read from time to time.
    fn latest(&self) -> Timestamp {
        self.to.store_clock().unwrap_or(Timestamp::MAX).plus(self.to.config().leeway)
    }

    /// Drops what no entry of this log can be compared with any more.
    fn purge(&self, progress: &mut Progress) {
        if progress.purged.elapsed() >= PURGE_EVERY {
            progress.purged = Steady::now();
            let now = self.from.earliest().minus(self.needed());
            progress.known.purge(now, self.needed(), progress.purged.uptime(), self.needed());
            progress.unread.purge(now);
        }
    }
}

impl Reading {
    /// A connection to another server, or to one that has a new role since: its log may be another one.
    fn connected(&mut self, server: &Server) {
        if self.server != *server {
            *self = Self { baseline: None, server: server.clone() };
        }
    }
}

/// A full store may have no epoch: it is empty then.
fn epoch(epoch: Option<Box<str>>) -> Box<str> {
    epoch.unwrap_or_default()
}

fn beyond_end(items: &[FeedItem], end: &StreamInfo) -> u64 {
    items.iter().filter(|item| item.position > end.last).count() as u64
}

/// Records entries of the other log. An instance may have read one with an id after `latest` at any time before that, and
/// takes its end from then: such an entry states what is written in it alone.
fn note(known: &mut KnownEntries, unread: &mut UnreadEntries, items: &[FeedItem], latest: Timestamp) {
    let uptime = Steady::now().uptime();
    for item in items {
        match (&item.revocation, &item.unread) {
            (Ok(entry), _) if item.position.time() > latest => {
                known.note(&Revocation { note: None, ..entry.clone() }, uptime);
            }
            (Ok(entry), _) => known.note(entry, uptime),
            (Err(_), Some(entry)) => unread.note(entry),
            (Err(_), None) => {}
        }
    }
}
