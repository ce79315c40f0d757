//! Figures for the metrics: plain counters, read whenever someone asks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::ledger::LedgerError;

/// The operations on the store; a closed set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Revocations written.
    Append,
    /// The log read on, or from its start.
    Read,
    /// The log compared with what it should be.
    Check,
    /// A lookup of one token.
    Lookup,
    /// The keys of another service read.
    Adopt,
    /// A batch put back that the store had lost.
    Reseed,
    /// A DPoP proof used.
    Proof,
}

impl Operation {
    pub const ALL: [Self; 7] =
        [Self::Append, Self::Read, Self::Check, Self::Lookup, Self::Adopt, Self::Reseed, Self::Proof];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Read => "read",
            Self::Check => "check",
            Self::Lookup => "lookup",
            Self::Adopt => "adopt",
            Self::Reseed => "reseed",
            Self::Proof => "proof",
        }
    }
}

/// Counters of one replica, since it was made.
#[derive(Debug, Default)]
pub struct ReplicaStats {
    store_up: AtomicBool,
    operations: [[AtomicU64; RESULTS]; Operation::ALL.len()],
    /// Log entries applied, replays included.
    pub entries: AtomicU64,
    /// Log entries that could not be understood.
    pub unreadable: AtomicU64,
    /// Keys of another service that name a token, in the last complete scan.
    pub adopted: AtomicU64,
    /// Log entries of issuers that are not configured.
    pub foreign: AtomicU64,
    /// Losses found in the log.
    pub gaps: AtomicU64,
    /// Connections that ended while following.
    pub disconnects: AtomicU64,
    /// Revocations put back after the store lost them.
    pub reseeded: AtomicU64,
    /// Revocations still to be put back.
    pub reseed_waiting: AtomicU64,
    /// Revocations that hold here and that the store refused so far.
    pub unsaved: AtomicU64,
}

/// `ok`, then the labels of the errors.
const RESULTS: usize = LedgerError::LABELS.len() + 1;

impl ReplicaStats {
    /// Whether the last thing asked of the store by the follower succeeded, or written to the file of this node.
    pub fn store_up(&self) -> bool {
        self.store_up.load(Ordering::Relaxed)
    }

    /// Every `(operation, result)` with its count; the same closed set every time.
    pub fn operations(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        Operation::ALL.into_iter().zip(&self.operations).flat_map(|(operation, counts)| {
            let results = std::iter::once("ok").chain(LedgerError::LABELS);
            results.zip(counts).map(move |(result, count)| (operation.as_str(), result, count.load(Ordering::Relaxed)))
        })
    }

    /// Returns what it was.
    pub(super) fn set_store_up(&self, up: bool) -> bool {
        self.store_up.swap(up, Ordering::Relaxed)
    }

    pub(super) fn count(&self, operation: Operation, result: Result<(), &LedgerError>) {
        let at = match result {
            Ok(()) => 0,
            Err(error) => LedgerError::LABELS.iter().position(|label| *label == error.label()).map_or(0, |at| at + 1),
        };
        self.operations[operation as usize][at].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}
