//! Which instance owns the stream of a transmitter, and what the owner and the others tell each other by the store.

use std::future::Future;
use std::time::Duration;

use tokio::time::sleep;
use tracing::warn;

use super::super::ledger::{LedgerError, SignalNote, SignalNotes};
use super::super::replica::Replica;
use super::super::retry::Backoff;
use super::health::{Health, Known, StreamRecord, StreamState, Written};
use super::{Receiver, Verdict};
use crate::authz::claims::Timestamp;
use crate::authz::signals::StreamStatus;
use crate::clock::Steady;

/// The lease of an owner; another instance takes over after it.
const LEASE: Duration = Duration::from_secs(15);
/// The interval of renewals, and of looks at the notes.
const TICK: Duration = Duration::from_secs(5);
/// The pauses before another stream is set up: doubled from the first to the longest if the streams do not last for so long.
const RENEWALS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3600)];
/// The times without a connection to the transmitter after which another instance may own the stream: doubled from the
/// first to the longest.
const PATIENCE: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(3600)];
/// The pause after a failure of the store.
const RETRY: Duration = Duration::from_millis(500);

impl Receiver {
    /// Receives for ever; `take` processes an event, given its id and its text, and returns the outcome.
    pub async fn run<F>(&self, store: &Replica, take: impl Fn(String, String) -> F + Sync)
    where
        F: Future<Output = Verdict> + Send,
    {
        if !self.is_active() {
            return std::future::pending().await;
        }
        // A part that is not configured counts as working.
        self.change(|known| {
            known.stream = if self.settings.stream.is_none() { Some(true) } else { known.stream };
            known.poll = if self.settings.poll.is_none() { Some(true) } else { known.poll };
        });
        let mut patience = Backoff::new(PATIENCE);
        loop {
            match store.own_signals(&self.id, LEASE).await {
                Ok(true) => {
                    self.change(|known| {
                        (known.owned, known.owner) = (true, Some(store.name().to_owned()));
                    });
                    let gives_up = tokio::select! {
                        () = self.serve(store, &take) => false,
                        gives_up = self.keep(store, &mut patience) => gives_up,
                    };
                    if gives_up {
                        let _ = store.own_signals(&self.id, Duration::from_millis(1)).await;
                        sleep(TICK * 2).await; // Each other instance tries to take it meanwhile.
                    }
                }
                Ok(false) => {
                    if let Ok(notes) = store.signal_notes(&self.id).await {
                        self.follow(&notes);
                    }
                    sleep(TICK).await;
                }
                Err(error) => {
                    self.without_store(&error);
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Lets another instance own the stream at once; this process ends.
    pub async fn release(&self, store: &Replica) {
        if self.is_active() && self.health.known().owned {
            let _ = store.own_signals(&self.id, Duration::from_millis(1)).await; // It ends by itself, too.
        }
    }

    async fn serve<F>(&self, store: &Replica, take: &(impl Fn(String, String) -> F + Sync))
    where
        F: Future<Output = Verdict> + Send,
    {
        let mut renewals = Backoff::new(RENEWALS);
        loop {
            let began = Steady::now();
            let stream = match &self.settings.stream {
                None => {
                    // The record says to the other instances whether polling works.
                    let notes = store.signal_notes(&self.id).await.unwrap_or_default();
                    self.health.known().written = Written::As(notes.stream);
                    None
                }
                Some(settings) => match self.set_up_patiently(settings, store).await {
                    Some(stream) => Some((settings, stream)),
                    None => return std::future::pending().await, // Deleted, until its record changes.
                },
            };
            let polled = async {
                let Some(poll) = &self.settings.poll else { return std::future::pending().await };
                let offered = stream.as_ref().and_then(|(_, stream)| stream.poll_url.as_ref());
                let Some(url) = poll.url.as_ref().or(offered) else {
                    warn!(transmitter = %self.settings.name, "the stream names no endpoint to poll");
                    return std::future::pending().await;
                };
                self.poll(url, poll, take).await;
            };
            let verified = async {
                match &stream {
                    Some((settings, stream)) => self.keep_verified(settings, stream).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = polled => {}
                () = verified => {} // The stream is gone: set up another.
            }
            if began.elapsed() > RENEWALS[1] {
                renewals.succeeded();
            }
            sleep(renewals.failed()).await;
        }
    }

    /// Renews the lease, reads the notes of the others and reports, until the lease is lost or the record of the stream
    /// was changed by another; or, true, until the transmitter could not be reached for some time: another instance may have
    /// a way to it, or credentials that it accepts.
    async fn keep(&self, store: &Replica, patience: &mut Backoff) -> bool {
        let (mut renewed, mut reached, bound) = (Steady::now(), Steady::now(), patience.failed());
        loop {
            tokio::select! {
                () = sleep(TICK) => {}
                () = self.health.changed.notified() => {}
            }
            match store.own_signals(&self.id, LEASE).await {
                Ok(true) => renewed = Steady::now(),
                Ok(false) => return false,
                // Another instance may own it from here on.
                Err(_) if renewed.elapsed() + TICK >= LEASE => return false,
                Err(_) => continue,
            }
            let state = self.health.known().state();
            match state {
                StreamState::Unreachable if reached.elapsed() > bound => return true,
                StreamState::Unreachable | StreamState::SettingUp => {}
                _ => {
                    reached = Steady::now();
                    patience.succeeded();
                }
            }
            let Ok(notes) = store.signal_notes(&self.id).await else { continue };
            let silent = self.settings.stream.as_ref().map_or(Duration::MAX, |stream| stream.silent_after);
            let mut is_changed = false;
            self.change(|known| {
                if let Some(state) = &notes.verified {
                    Health::note_verification(known, state);
                }
                if notes.announced.is_some() && notes.announced != known.announced {
                    known.announced.clone_from(&notes.announced);
                    if let Some((status, at)) = notes.announced.as_deref().and_then(announced_status) {
                        known.see_status(status, at);
                    }
                }
                known.silent |= Health::is_overdue(known, silent);
                is_changed = matches!(&known.written, Written::As(written) if *written != notes.stream);
            });
            if is_changed {
                return false;
            }
            let _ = self.report(store).await; // Repeated at the next tick.
        }
    }

    /// Writes the record of the stream if it has changed.
    async fn report(&self, store: &Replica) -> Result<(), LedgerError> {
        let (before, text) = {
            let known = self.health.known();
            // While the stream is being set up, the record is not to be compared.
            let Written::As(before) = known.written.clone() else { return Ok(()) };
            (before, self.record(&known).text())
        };
        if before.as_ref() != Some(&text) {
            self.write(store, Some(text)).await?;
        }
        Ok(())
    }

    /// Replaces the record of the stream.
    pub(super) async fn write(&self, store: &Replica, record: Option<String>) -> Result<(), LedgerError> {
        store.note_signal(&self.id, &SignalNote::Stream(record.clone())).await?;
        self.health.known().written = Written::As(record);
        Ok(())
    }

    /// The record of what is known.
    pub(super) fn record(&self, known: &Known) -> StreamRecord {
        StreamRecord {
            issuer: self.settings.issuer.clone(),
            audience: self.settings.audience.clone(),
            stream_id: known.stream_id.clone(),
            settings: self.fingerprint(),
            deleted: known.deleted,
            state: known.state(),
            verified_at: known.verified_at.map(Timestamp::as_millis),
            problem: known.problem.clone(),
        }
    }

    /// Shows what the owner reports.
    fn follow(&self, notes: &SignalNotes) {
        let record = notes.stream.as_deref().and_then(StreamRecord::parse).unwrap_or_default();
        self.change(|known| {
            known.owned = false;
            known.owner.clone_from(&notes.owner);
            // Without an owner nobody polls or verifies: one of the others is about to take over.
            known.reported = if notes.owner.is_some() { Some(record.state) } else { None };
            known.stream_id = record.stream_id;
            known.verified_at = record.verified_at.map(Timestamp::from_millis);
            known.problem = record.problem;
        });
    }

    /// Without the store no instance owns the stream, and no event can be stored.
    fn without_store(&self, error: &LedgerError) {
        self.change(|known| {
            (known.owned, known.owner) = (false, None);
            known.reported = Some(StreamState::Unreachable);
            known.problem = Some(format!("the store: {}", error.label()));
        });
    }

    /// Notes that a verification event has arrived, for the owner, which awaits it.
    pub async fn verified(&self, store: &Replica, state: Option<&str>) -> Result<(), LedgerError> {
        let (Some(state), Some(_)) = (state, &self.settings.stream) else { return Ok(()) };
        let mut here = false;
        self.change(|known| here = known.owned && Health::note_verification(known, state));
        if here {
            self.health.changed.notify_one();
            return Ok(());
        }
        store.note_signal(&self.id, &SignalNote::Verified(state.to_owned())).await
    }

    /// Notes a status that the transmitter announced at a time. One that is older than what is known has no effect.
    pub async fn announced(&self, store: &Replica, status: StreamStatus, at: Timestamp) -> Result<(), LedgerError> {
        if !self.is_active() {
            return Ok(());
        }
        let (mut here, mut is_newer) = (false, false);
        self.change(|known| (here, is_newer) = (known.owned, known.see_status(status, at)));
        if here {
            self.health.changed.notify_one();
        }
        if here || !is_newer {
            return Ok(());
        }
        // A third instance may have noted a later one.
        let noted = store.signal_notes(&self.id).await?.announced;
        if noted.as_deref().and_then(announced_status).is_some_and(|(_, noted)| noted > at) {
            return Ok(());
        }
        let note = format!("{} {}", status.as_str(), at.as_millis());
        store.note_signal(&self.id, &SignalNote::Announced(note)).await
    }
}

/// The status of a note, and its time; `None` if it is not understood.
fn announced_status(note: &str) -> Option<(StreamStatus, Timestamp)> {
    let (status, at) = note.split_once(' ')?;
    Some((StreamStatus::parse(status), Timestamp::from_millis(at.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_announcement_does_not_replace_a_newer_one() {
        let (mut known, at) = (Known::default(), Timestamp::from_millis);
        assert!(known.see_status(StreamStatus::Disabled, at(2_000)));
        assert!(!known.see_status(StreamStatus::Enabled, at(1_999)));
        assert_eq!(known.status, StreamStatus::Disabled);
        assert!(known.see_status(StreamStatus::Paused, at(2_000)), "of the same time: the one that arrives last");
        known.read_status(StreamStatus::Enabled, at(100_000));
        assert!(!known.see_status(StreamStatus::Disabled, at(39_999)));
        assert!(known.see_status(StreamStatus::Disabled, at(40_000)));
        known.read_status(StreamStatus::Enabled, at(1_000));
        assert_eq!(known.status, StreamStatus::Enabled, "a status that is read is that of now");
        assert_eq!(announced_status("paused 1790000000000"), Some((StreamStatus::Paused, at(1_790_000_000_000))));
        assert_eq!((announced_status("paused"), announced_status("paused x")), (None, None));
    }
}
