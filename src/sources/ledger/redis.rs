//! The ledger in Redis or Valkey (7 or later): one stream for instances to follow, one key per target for lookups.

mod adopt;
mod anew;
mod answer;
mod clock;
mod clock_note;
mod config;
mod feed;
mod foreign;
mod lease;
mod lookup;
mod margins;
mod members;
mod names;
mod proofs;
mod reach;
mod relay;
mod retention;
mod secret;
mod server;
mod session;
mod signals;
mod store;
mod strays;
mod wire;
mod writer;

use std::sync::Mutex;
use std::time::Duration;

use fred::types::config::Config;

use super::{LedgerError, Position};
use crate::authz::claims::Timestamp;
use crate::authz::revocation::{Clocks, Hit, Revocation, Target};
use crate::clock::Steady;
use session::Session;
use wire::Keys;

pub(in crate::sources) use adopt::Found;
pub use adopt::{Adopt, AdoptedKeys, Names};
pub(in crate::sources) use clock::{ServerClock, lasting};
pub use config::{Redis, RedisConfig, RedisConfigError};
pub(in crate::sources) use feed::{Feed, FeedItem, Snapshot, StreamInfo, Unread};
pub(in crate::sources) use lease::{Lease, Leases, Renewal, Report};
pub(in crate::sources) use relay::Received;
pub(in crate::sources) use server::{Server, StoreFacts};
pub(in crate::sources) use store::Life;
pub use wire::{Reader, fields as entry_fields, read_entry};

/// Revocations in Redis, shared by every instance that has the same URL and prefix.
///
/// Three connections: the follower's, which blocks; the writer's, which watches keys; and one for the rest. So no
/// kind of traffic waits for another.
pub struct RedisLedger {
    config: RedisConfig,
    client: Config,
    keys: Keys,
    slot: u16,
    writer: writer::Writer,
    shared: lookup::Shared,
    keeping: retention::Keeping,
    clock: clock::StoreClock,
    reported: members::ReportedFaults,
    known: Mutex<margins::Known>,
    received: relay::OldestReceived,
}

impl RedisLedger {
    /// Checks the configuration; does not connect yet.
    pub fn new(config: RedisConfig) -> Result<Self, RedisConfigError> {
        let client = config.server.client()?;
        let keys = Keys::new(&config.server.key_prefix);
        let slot = fred::util::redis_keyslot(keys.log.as_bytes());
        let (writer, shared) = (writer::Writer::new(), lookup::Shared::default());
        let ledger = Self {
            client,
            keys,
            slot,
            writer,
            shared,
            keeping: retention::Keeping::default(),
            clock: clock::StoreClock::default(),
            reported: members::ReportedFaults::default(),
            known: Mutex::default(),
            received: relay::OldestReceived::default(),
            config,
        };
        ledger.retain_for(ledger.config.retention, ledger.config.leeway);
        Ok(ledger)
    }

    #[must_use]
    pub fn config(&self) -> &RedisConfig {
        &self.config
    }

    /// See [`super::RevocationLedger::append`]; it completes only while [`Self::write`] runs.
    pub async fn append(&self, revocations: &[Revocation]) -> Result<Position, LedgerError> {
        if revocations.is_empty() {
            return Ok(Position::default());
        }
        self.writer.append(revocations.to_vec(), self.config.write_deadline).await
    }

    /// Writes the revocations of [`Self::append`], for as long as it is polled.
    pub(in crate::sources) async fn write(&self) {
        self.writer.run(self).await;
    }

    /// See [`super::RevocationLedger::lookup`].
    pub async fn lookup(&self, targets: &[Target], issued_at: Option<Timestamp>) -> Result<Option<Hit>, LedgerError> {
        // Boxed: otherwise every decision's future would reserve 28 KB for it, though most decisions need no lookup.
        Box::pin(self.shared.lookup(self, targets, issued_at)).await
    }

    /// Keeps a connection ready for [`Self::lookup`], for as long as it is polled.
    pub(in crate::sources) async fn keep_connected(&self) {
        self.shared.keep_connected(self).await;
    }

    /// See [`super::RevocationLedger::is_registered`].
    pub async fn is_registered(&self, target: &Target, issued_at: Option<Timestamp>) -> Result<bool, LedgerError> {
        self.shared.is_registered(self, target, issued_at).await
    }

    /// The store's time; `None` before the first reading.
    pub fn store_clock(&self) -> Option<Timestamp> {
        self.clock.at(Steady::now())
    }

    /// Refused revocations that expire after this instant are still offered to the store: the log would keep them as
    /// long.
    pub(in crate::sources) fn offered_after(&self) -> Timestamp {
        self.earliest().minus(Self::keeps_for(self.retention()))
    }

    /// This machine's clock and the store's, which is 1970 before it was read.
    fn clocks(&self) -> Clocks {
        Clocks { local: crate::clock::now(), store: Some(self.store_clock().unwrap_or_default()) }
    }

    /// The earlier of this machine's clock and the store's: a token that has expired by it has expired by both.
    /// Before the store's clock was read, none has.
    pub(in crate::sources) fn earliest(&self) -> Timestamp {
        self.clocks().earliest()
    }

    async fn session(&self) -> Result<Session, LedgerError> {
        let opened = Session::open(&self.client, self.slot, self.config.connect_deadline).await;
        match opened {
            Err(error @ (LedgerError::Unavailable { .. } | LedgerError::Timeout { .. })) => {
                // Boxed: it is seldom needed, and would enlarge every enclosing future.
                Box::pin(reach::otherwise(self, error)).await
            }
            opened => opened,
        }
    }

    fn deadline(&self) -> Duration {
        self.config.command_deadline
    }
}
