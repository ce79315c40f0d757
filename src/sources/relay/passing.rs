//! Appending to the other log what it lacks.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::super::ledger::{Feed, FeedItem, Unread};
use super::Relay;
use super::copying::{Fault, Progress};
use super::known::KnownEntries;
use super::stats::Outcome;
use super::unread::is_fit;
use crate::authz::claims::Timestamp;
use crate::authz::revocation::{Kind, Revocation, Watermark};
use crate::clock::Steady;

/// Entries in one append: one round trip between the regions carries them.
const BATCH: usize = 500;
/// Entries that are appended in a second, at most: the other region's writers and instances have their share, too.
const PER_SECOND: u32 = 10_000;

/// What becomes of an entry.
enum Fate<'a> {
    /// An entry of the other log covers it.
    Known,
    Copied(&'a Revocation),
    PassedOn(&'a Unread),
    LeftOut(Outcome),
}

impl Relay {
    /// Appends the entries that the other log lacks; false if that log has lost entries.
    pub(super) async fn pass(
        &self,
        items: &[FeedItem],
        to: &mut Feed<'_>,
        progress: &mut Progress,
    ) -> Result<bool, Fault> {
        let is_lacking = |item| matches!(self.fate(item, progress), Fate::Copied(_) | Fate::PassedOn(_));
        // What came from there, or was appended by another relay meanwhile, is not appended again.
        if items.iter().any(is_lacking) && !self.read_on(to, progress).await? {
            return Ok(false);
        }
        let mut taken = KnownEntries::new(progress.known.needed());
        let uptime = Steady::now().uptime();
        let (mut lacking, mut unread, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            match self.fate(item, progress) {
                Fate::Copied(entry) => {
                    let entry = taken.with(progress.known.with(entry.clone()));
                    if !taken.knows(&entry) {
                        taken.note(&entry, uptime);
                        lacking.push(entry);
                    }
                }
                Fate::PassedOn(fields) => unread.push((item, fields)),
                Fate::LeftOut(outcome) => left_out.push((outcome, item)),
                Fate::Known => {}
            }
        }
        let lacking = last_of_each(lacking);
        for batch in lacking.chunks(BATCH) {
            self.to.append(batch).await.map_err(|error| Fault::at(&self.to, error))?;
            for entry in batch {
                progress.known.note(entry, Steady::now().uptime());
            }
            self.appended(Outcome::Copied, batch.len());
            progress.pace(batch.len()).await;
        }
        for batch in unread.chunks(BATCH) {
            let mut added = Vec::new();
            for &(item, fields) in batch {
                if progress.unread.knows(fields) {
                    continue;
                }
                if progress.unread.is_full() {
                    left_out.push((Outcome::TooMany, item));
                    continue;
                }
                progress.unread.note(fields);
                added.push(fields);
            }
            if added.is_empty() {
                continue;
            }
            if let Err(error) = self.to.add_unread(&added).await {
                progress.unread.forget(&added);
                return Err(Fault::at(&self.to, error));
            }
            self.appended(Outcome::PassedOn, added.len());
            progress.pace(added.len()).await;
        }
        for (outcome, item) in left_out {
            self.leave_out(outcome, item);
        }
        Ok(true)
    }

    fn fate<'a>(&self, item: &'a FeedItem, progress: &Progress) -> Fate<'a> {
        let over = self.from.earliest().minus(self.needed());
        match (&item.revocation, &item.unread) {
            (Ok(entry), _) if progress.known.knows(entry) => Fate::Known,
            (Ok(entry), _) if needed_from(item, entry) <= over => Fate::LeftOut(Outcome::Expired),
            (Ok(entry), _) => Fate::Copied(entry),
            (Err(_), Some(fields)) if progress.unread.knows(fields) => Fate::Known,
            (Err(_), Some(fields)) if is_fit(fields, over) => Fate::PassedOn(fields),
            (Err(_), _) => Fate::LeftOut(Outcome::Unreadable),
        }
    }

    fn appended(&self, outcome: Outcome, entries: usize) {
        self.stats.count(&self.name, outcome, entries);
        self.known().outage.appended(entries);
    }

    /// Counts an entry that is not copied; the first is named, unless it is merely old.
    fn leave_out(&self, outcome: Outcome, item: &FeedItem) {
        self.stats.count(&self.name, outcome, 1);
        if outcome != Outcome::Expired && !self.named[outcome as usize].swap(true, Ordering::Relaxed) {
            let field = item.revocation.as_ref().err().copied();
            let (position, result) = (item.position, outcome.as_str());
            tracing::warn!(relay = %self.name, %position, field, result, "an entry is not copied; further ones are counted");
        }
    }
}

/// The time from which on an instance needs the entry for its retention: as it reads one, it goes by the end that was
/// written for a token alone, and otherwise by the instant and the time of writing, too.
fn needed_from(item: &FeedItem, entry: &Revocation) -> Timestamp {
    if matches!(entry.target.kind, Kind::Token | Kind::Registration) {
        return entry.expires_at;
    }
    let written = item.position.time();
    let instant = Some(entry.watermark).filter(|instant| *instant != Watermark::FOREVER).map(Watermark::instant);
    written.max(entry.expires_at).max(instant.unwrap_or_default())
}

/// The last entry of each target and origin, which covers those before it, and those with a reason or an author.
fn last_of_each(mut entries: Vec<Revocation>) -> Vec<Revocation> {
    let mut later = HashSet::new();
    let has_audit =
        |entry: &Revocation| entry.note.as_ref().is_some_and(|note| note.by.is_some() || note.reason.is_some());
    entries.reverse();
    entries.retain(|entry| later.insert((entry.target.clone(), entry.origin)) || has_audit(entry));
    entries.reverse();
    entries
}

impl Progress {
    /// Waits after an append, so that there are not more than [`PER_SECOND`].
    async fn pace(&mut self, entries: usize) {
        let takes = Duration::from_secs(1) * u32::try_from(entries).unwrap_or(u32::MAX) / PER_SECOND;
        self.not_before = (self.not_before + takes).max(Instant::now());
        sleep_until(self.not_before).await;
    }
}
