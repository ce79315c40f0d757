//! The metrics of a replica and its store.

use prometheus::IntCounter;

use super::super::ledger::LedgerError;
use crate::instruments::instruments;

/// The operations on the store; a closed set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// Revocations written.
    Append,
    /// The log read, further or from its start.
    Read,
    /// The log compared with its expected state.
    Check,
    /// A lookup of one token.
    Lookup,
    /// The keys of another service read.
    Adopt,
    /// A lost batch written back to the store.
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

/// 0.1 ms to 30 s.
pub const LAG_BUCKETS: [f64; 14] = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.5, 1.0, 5.0, 30.0];

instruments! {
    /// The instruments of a replica.
    pub struct ReplicaStats {
        /// Time from writing a revocation to applying it in this process.
        pub lag: Histogram = "doorward_revocation_lag_seconds" in LAG_BUCKETS,
        /// Operations on the revocation store.
        pub operations: IntCounterVec = "doorward_store_operations_total" by ["operation", "result"],
        /// Entries of the log that were applied here, replays included.
        pub entries: IntCounter = "doorward_store_entries_total",
        /// Entries of the log that could not be read.
        pub unreadable: IntCounter = "doorward_store_unreadable_total",
        /// Entries of the log for issuers that are not configured, and keys of revocations without an entry.
        pub foreign: IntCounter = "doorward_store_foreign_total",
        /// Keys of another service that revoke a token, in the last complete scan (adopt).
        pub adopted: IntGauge = "doorward_adopted_keys",
        /// Losses of entries that were found in the log; each time the log is read again.
        pub gaps: IntCounter = "doorward_store_gaps_total",
        /// Connections to the log that were lost while following it.
        pub disconnects: IntCounter = "doorward_store_disconnects_total",
        /// Lost revocations that this process wrote back to the store.
        pub reseeded: IntCounter = "doorward_store_reseeded_total",
        /// Revocations that the store lost and that are not written back yet.
        pub reseed_waiting: IntGauge = "doorward_store_reseed_waiting",
        /// Revocations that apply in this process only, because the store has not stored them yet.
        pub unsaved: IntGauge = "doorward_store_unsaved",
        /// Whether the last operation on the revocation store succeeded.
        up: IntGauge = "doorward_store_up",
    }
}

impl ReplicaStats {
    /// Every operation with every result exists from the start. Fails on a name that Prometheus does not allow.
    pub fn new() -> Result<Self, prometheus::Error> {
        let stats = Self::create()?;
        for operation in Operation::ALL {
            for result in LedgerError::LABELS.into_iter().chain([OK]) {
                stats.operations(operation, result).inc_by(0);
            }
        }
        Ok(stats)
    }

    /// Records whether the follower's last request to the store, or the last write to this node's file,
    /// succeeded.
    #[must_use]
    pub fn store_up(&self) -> bool {
        self.up.get() == 1
    }

    /// The operations with this result: `ok`, or the label of an error.
    #[must_use]
    pub fn operations(&self, operation: Operation, result: &str) -> IntCounter {
        self.operations.with_label_values(&[operation.as_str(), result])
    }

    /// Returns the previous value.
    pub(super) fn set_store_up(&self, up: bool) -> bool {
        let was_up = self.store_up();
        self.up.set(up.into());
        was_up
    }

    pub(super) fn count(&self, operation: Operation, result: Result<(), &LedgerError>) {
        self.operations(operation, result.map_or_else(LedgerError::label, |()| OK)).inc();
    }
}

/// The result of an operation that succeeded.
const OK: &str = "ok";

/// The value of a gauge; a count beyond its range becomes its maximum.
pub(super) fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
