//! The streams of security events of a single node: their records are in the file, the rest is in memory.

use std::sync::{MutexGuard, PoisonError};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::super::{LedgerError, SignalNote, SignalNotes};
use super::{EmbeddedLedger, failed};

/// The id of a transmitter → the record of its stream, JSON.
const STREAMS: TableDefinition<'_, &str, &str> = TableDefinition::new("signals-1");

impl EmbeddedLedger {
    pub(in crate::sources) fn signal_notes(&self, id: &str) -> SignalNotes {
        self.signals().get(id).cloned().unwrap_or_default()
    }

    pub(in crate::sources) async fn note_signal(&self, id: &str, note: &SignalNote) -> Result<(), LedgerError> {
        {
            let mut signals = self.signals();
            let notes = signals.entry(id.to_owned()).or_default();
            match note {
                SignalNote::Stream(record) => notes.stream.clone_from(record),
                SignalNote::Verified(state) => notes.verified = Some(state.clone()),
                SignalNote::Announced(status) => notes.announced = Some(status.clone()),
            }
        }
        let (SignalNote::Stream(record), Some(file)) = (note, self.file.clone()) else { return Ok(()) };
        let (id, record) = (id.to_owned(), record.clone());
        let write = move || file.with(|database| write(database, &id, record.as_deref()));
        tokio::task::spawn_blocking(write).await.map_err(|error| failed(&error))?
    }

    pub(in crate::sources) fn signal_records(&self) -> Vec<(String, String)> {
        let signals = self.signals();
        signals.iter().filter_map(|(id, notes)| Some((id.clone(), notes.stream.clone()?))).collect()
    }

    fn signals(&self) -> MutexGuard<'_, super::Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The records in the file.
pub(super) fn read(file: &Database) -> Result<super::Signals, redb::Error> {
    let transaction = file.begin_read()?;
    let table = match transaction.open_table(STREAMS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(super::Signals::default()),
        table => table?,
    };
    let mut signals = super::Signals::default();
    for record in table.iter()? {
        let (id, record) = record?;
        let notes = SignalNotes { stream: Some(record.value().to_owned()), ..SignalNotes::default() };
        signals.insert(id.value().to_owned(), notes);
    }
    Ok(signals)
}

fn write(file: &Database, id: &str, record: Option<&str>) -> Result<(), redb::Error> {
    let transaction = file.begin_write()?;
    {
        let mut table = transaction.open_table(STREAMS)?;
        match record {
            Some(record) => drop(table.insert(id, record)?),
            None => drop(table.remove(id)?),
        }
    }
    transaction.commit()?;
    Ok(())
}
