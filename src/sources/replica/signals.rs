//! The notes about streams of security events in the store (see [`crate::sources::signals`]).

use std::time::Duration;

use super::super::ledger::{LedgerError, RevocationLedger, SignalNote, SignalNotes};
use super::Replica;

impl Replica {
    /// What the instances know about the stream of a transmitter.
    pub async fn signal_notes(&self, id: &str) -> Result<SignalNotes, LedgerError> {
        match &self.ledger {
            RevocationLedger::Embedded(ledger) => {
                Ok(SignalNotes { owner: Some(self.name.to_string()), ..ledger.signal_notes(id) })
            }
            RevocationLedger::Redis(ledger) => ledger.signal_notes(id).await,
        }
    }

    /// Replaces a part of it.
    pub async fn note_signal(&self, id: &str, note: &SignalNote) -> Result<(), LedgerError> {
        match &self.ledger {
            RevocationLedger::Embedded(ledger) => ledger.note_signal(id, note).await,
            RevocationLedger::Redis(ledger) => ledger.note_signal(id, note).await,
        }
    }

    /// Takes or renews the lease on the stream for `lasts`; false if another instance has it.
    pub async fn own_signals(&self, id: &str, lasts: Duration) -> Result<bool, LedgerError> {
        match &self.ledger {
            RevocationLedger::Embedded(_) => Ok(true),
            RevocationLedger::Redis(ledger) => ledger.own_signals(id, &self.name, lasts).await,
        }
    }

    /// The records of all streams by the ids of their transmitters, also of transmitters that are not configured here.
    pub async fn signal_records(&self) -> Result<Vec<(String, String)>, LedgerError> {
        match &self.ledger {
            RevocationLedger::Embedded(ledger) => Ok(ledger.signal_records()),
            RevocationLedger::Redis(ledger) => ledger.signal_records().await,
        }
    }
}
