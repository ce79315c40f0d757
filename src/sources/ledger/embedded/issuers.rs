//! The file's notes about issuers: the meaning of their names, and the leads of their tokens.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::super::{LedgerError, StoreId};
use super::{EmbeddedLedger, failed};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::Lead;
use crate::sources::names::Note;

/// The meanings of issuer names → the last use of each, in milliseconds.
const NAMES: TableDefinition<'_, &str, i64> = TableDefinition::new("issuers-1");
/// The name of an issuer → the lead of its tokens, in milliseconds.
const LEADS: TableDefinition<'_, &str, u64> = TableDefinition::new("leads-1");

impl EmbeddedLedger {
    pub(in crate::sources) async fn noted_names(&self) -> Result<(Vec<Note>, StoreId), LedgerError> {
        let Some(file) = self.file.clone() else { return Ok((Vec::new(), StoreId::default())) };
        let read = move || {
            let notes = file.with(noted_names)?;
            let replication_id = file.openings().to_string().into();
            Ok((notes, StoreId { epoch: None, replication_id }))
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| failed(&error))?
    }

    pub(in crate::sources) async fn put_back_names(&self, lost: &[Note]) -> Result<(), LedgerError> {
        let Some(file) = self.file.clone().filter(|_| !lost.is_empty()) else { return Ok(()) };
        let lost = lost.to_vec();
        let put_back = move || file.with(|database| put_back_names(database, &lost));
        tokio::task::spawn_blocking(put_back).await.map_err(|error| failed(&error))?
    }

    pub(in crate::sources) async fn note_names(
        &self,
        names: &[String],
        drop: &[String],
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let (names, drop) = (names.to_vec(), drop.to_vec());
        let note = move || file.with(|database| note_names(database, &names, &drop, now));
        tokio::task::spawn_blocking(note).await.map_err(|error| failed(&error))?
    }

    /// Raises leads to those of earlier processes.
    pub(in crate::sources) fn raise_leads(&self, leads: &[(IssuerName, Lead)]) {
        let kept = self.leads.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, lead) in leads {
            lead.raise(kept.get(name.as_str()).copied().unwrap_or_default());
        }
    }

    /// Writes the leads that have grown, and into a new file all that are known.
    pub(in crate::sources) async fn keep_leads(&self, leads: &[(IssuerName, Lead)]) -> Result<(), LedgerError> {
        let Some(file) = self.file.clone() else { return Ok(()) };
        let mut grown: HashMap<String, Duration> = HashMap::new();
        for (name, lead) in leads {
            let most = grown.entry(name.to_string()).or_default();
            *most = lead.seen().max(*most);
        }
        let kept = || self.leads.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let kept = kept();
            if self.lacks_leads.swap(false, Ordering::Relaxed) {
                for (name, lead) in kept.iter() {
                    let most = grown.entry(name.clone()).or_default();
                    *most = (*lead).max(*most);
                }
                grown.retain(|_, lead| !lead.is_zero());
            } else {
                grown.retain(|name, lead| *lead > kept.get(name).copied().unwrap_or_default());
            }
        }
        if grown.is_empty() {
            return Ok(());
        }
        let written = grown.clone();
        let write = move || file.with(|database| write_leads(database, &written));
        let written = tokio::task::spawn_blocking(write).await.map_err(|error| failed(&error)).flatten();
        self.lacks_leads.fetch_or(written.is_err(), Ordering::Relaxed);
        written?;
        kept().extend(grown);
        Ok(())
    }
}

fn noted_names(file: &Database) -> Result<Vec<Note>, redb::Error> {
    let transaction = file.begin_read()?;
    let table = match transaction.open_table(NAMES) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table?,
    };
    let mut notes = Vec::new();
    for note in table.iter()? {
        let (text, seen) = note?;
        notes.push((text.value().to_owned(), Timestamp::from_millis(seen.value())));
    }
    Ok(notes)
}

fn note_names(file: &Database, names: &[String], drop: &[String], now: Timestamp) -> Result<(), redb::Error> {
    let transaction = file.begin_write()?;
    {
        let mut table = transaction.open_table(NAMES)?;
        for text in drop {
            table.remove(&**text)?;
        }
        for text in names {
            table.insert(&**text, now.as_millis())?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn put_back_names(file: &Database, lost: &[Note]) -> Result<(), redb::Error> {
    let transaction = file.begin_write()?;
    {
        let mut table = transaction.open_table(NAMES)?;
        for (text, seen) in lost {
            let known = table.get(&**text)?.map(|known| known.value());
            if known < Some(seen.as_millis()) {
                table.insert(&**text, seen.as_millis())?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

pub(super) fn leads(file: &Database) -> Result<HashMap<String, Duration>, redb::Error> {
    let transaction = file.begin_read()?;
    let table = match transaction.open_table(LEADS) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(HashMap::new()),
        table => table?,
    };
    let read = |lead: Result<(redb::AccessGuard<'_, &str>, redb::AccessGuard<'_, u64>), redb::StorageError>| {
        let (name, millis) = lead?;
        Ok((name.value().to_owned(), Duration::from_millis(millis.value())))
    };
    table.iter()?.map(read).collect()
}

fn write_leads(file: &Database, leads: &HashMap<String, Duration>) -> Result<(), redb::Error> {
    let transaction = file.begin_write()?;
    {
        let mut table = transaction.open_table(LEADS)?;
        for (name, lead) in leads {
            table.insert(&**name, u64::try_from(lead.as_millis()).unwrap_or(u64::MAX))?;
        }
    }
    transaction.commit()?;
    Ok(())
}
