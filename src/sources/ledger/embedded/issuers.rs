//! The file's notes about issuers: the meaning of their names, and the leads of their tokens.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::super::LedgerError;
use super::{EmbeddedLedger, failed};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::Lead;
use crate::sources::names::{Note, is_later};

/// The meanings of issuer names → the last use of each in milliseconds, or below zero when it was dropped.
const NAMES: TableDefinition<'_, &str, i64> = TableDefinition::new("issuers-1");
/// The name of an issuer → the lead of its tokens, in milliseconds.
const LEADS: TableDefinition<'_, &str, u64> = TableDefinition::new("leads-1");

impl EmbeddedLedger {
    pub(in crate::sources) async fn noted_names(&self) -> Result<Vec<Note>, LedgerError> {
        let Some(file) = self.file.clone() else { return Ok(Vec::new()) };
        tokio::task::spawn_blocking(move || file.with(noted_names)).await.map_err(|error| failed(&error))?
    }

    pub(in crate::sources) async fn put_back_names(&self, lost: &[Note]) -> Result<(), LedgerError> {
        self.write_names(lost, is_later).await
    }

    pub(in crate::sources) async fn note_names(&self, notes: &[Note]) -> Result<(), LedgerError> {
        self.write_names(notes, |_, _| true).await
    }

    async fn write_names(&self, notes: &[Note], replaces: fn(Timestamp, Timestamp) -> bool) -> Result<(), LedgerError> {
        let Some(file) = self.file.clone().filter(|_| !notes.is_empty()) else { return Ok(()) };
        let notes = notes.to_vec();
        let write = move || file.with(|database| write_names(database, &notes, replaces));
        tokio::task::spawn_blocking(write).await.map_err(|error| failed(&error))?
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

/// Writes those that replace the note that the file has; `replaces` gets their time and that note's.
fn write_names(file: &Database, notes: &[Note], replaces: fn(Timestamp, Timestamp) -> bool) -> Result<(), redb::Error> {
    let transaction = file.begin_write()?;
    {
        let mut table = transaction.open_table(NAMES)?;
        for (text, at) in notes {
            let known = table.get(&**text)?.map(|known| Timestamp::from_millis(known.value()));
            if known.is_none_or(|known| replaces(*at, known)) {
                table.insert(&**text, at.as_millis())?;
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
