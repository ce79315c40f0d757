//! Deletes the stream of a transmitter: on an operator's request, or because it is not configured any more.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::super::http::Chain;
use super::super::ledger::LedgerError;
use super::super::replica::Replica;
use super::health::{StreamRecord, StreamState};
use super::{Receiver, SignalError, problem};

/// Why a stream was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The operator has set the stream up, and deletes it.
    #[error("`stream` is not set for this transmitter")]
    NotManaged,
    /// The transmitter did not delete it.
    #[error("{0}")]
    Transmitter(String),
    #[error(transparent)]
    Store(#[from] LedgerError),
}

impl Receiver {
    /// Attempts of [`Self::farewell`], and the pause between them: a fleet reloads its configuration within that time.
    const FAREWELLS: u32 = 12;
    const PAUSE: Duration = Duration::from_secs(10);
    const LEASE: Duration = Duration::from_secs(30);

    /// Deletes the stream at the transmitter; returns its id, or `None` if there was none.
    ///
    /// It is not created again with the same settings, unless `recreate` is set: then at once, with another id.
    pub async fn delete(&self, store: &Replica, recreate: bool) -> Result<Option<String>, DeleteError> {
        let settings = self.settings.stream.as_ref().ok_or(DeleteError::NotManaged)?;
        let before = store.signal_notes(&self.id).await?.stream;
        let record = before.as_deref().and_then(StreamRecord::parse).unwrap_or_default();
        let deleted = StreamRecord {
            issuer: self.settings.issuer.clone(),
            audience: self.settings.audience.clone(),
            settings: self.fingerprint(),
            deleted: true,
            state: StreamState::Deleted,
            ..StreamRecord::default()
        };
        // First the record: the owner must not set up another when it finds the stream gone.
        let note = |record| super::super::ledger::SignalNote::Stream(record);
        store.note_signal(&self.id, &note(Some(deleted.text()))).await?;
        let done = async {
            let endpoints = self.endpoints(settings).await?;
            let mut id = record.stream_id;
            if id.is_none() {
                let found = self.find(settings, &endpoints).await?;
                id = found.and_then(|stream| stream["stream_id"].as_str().map(str::to_owned));
            }
            if let Some(id) = &id {
                self.delete_own(settings, &endpoints, id).await?;
            }
            Ok::<_, SignalError>(id)
        };
        let done = done.await;
        match &done {
            Err(_) => store.note_signal(&self.id, &note(before)).await?,
            Ok(_) if recreate => store.note_signal(&self.id, &note(None)).await?,
            Ok(_) => store.note_signal(&self.id, &note(Some(deleted.text()))).await?,
        }
        self.health.changed.notify_one();
        if done.is_ok() {
            info!(transmitter = %self.settings.name, recreate, "signals stream deleted on request");
        }
        done.map_err(|error| DeleteError::Transmitter(problem("delete the stream", &error)))
    }

    /// Deletes the stream of a transmitter that is not configured any more. Every instance calls it; the owner of the
    /// stream deletes it, the others wait for that, and the next owner does it if the owner is gone.
    ///
    /// `kept`: a transmitter with the same issuer is still configured, whose stream this may be.
    pub async fn farewell(&self, store: &Replica, kept: bool) {
        let Some(settings) = &self.settings.stream else { return };
        for _ in 0..Self::FAREWELLS {
            match self.leave(settings, store, kept).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    warn!(transmitter = %self.settings.name, error = %Chain(&error), "signals stream not deleted yet");
                }
            }
            sleep(Self::PAUSE).await;
        }
        warn!(transmitter = %self.settings.name, issuer = self.settings.issuer, "signals stream not deleted: its transmitter keeps it");
    }

    /// False while another instance owns the stream.
    async fn leave(&self, settings: &super::StreamSettings, store: &Replica, kept: bool) -> Result<bool, SignalError> {
        let Some(text) = store.signal_notes(&self.id).await?.stream else { return Ok(true) };
        if !store.own_signals(&self.id, Self::LEASE).await? {
            return Ok(false);
        }
        let id = StreamRecord::parse(&text).and_then(|record| record.stream_id).filter(|_| !kept);
        if let Some(id) = &id {
            let endpoints = self.endpoints(settings).await?;
            self.delete_own(settings, &endpoints, id).await?;
            info!(transmitter = %self.settings.name, "signals stream deleted: the transmitter is not configured any more");
        }
        store.note_signal(&self.id, &super::super::ledger::SignalNote::Stream(None)).await?;
        Ok(true)
    }
}
