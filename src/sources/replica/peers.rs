//! The instances on one store, as they describe themselves.

use std::time::Duration;

use super::super::ledger::{Leases, LedgerError, Position, Report, RevocationLedger};
use super::Replica;
use crate::authz::claims::Timestamp;

/// An instance's last report.
#[derive(Clone, Debug)]
pub struct Peer {
    pub name: String,
    pub position: Position,
    /// Counted up to now.
    pub view_age: Option<Duration>,
    pub uptime: Duration,
    pub state: String,
    pub version: String,
    /// Milliseconds by which its wall clock was ahead of the store's, negative if behind.
    pub skew_ms: Option<i64>,
    /// Streams that are open.
    pub streams: usize,
    /// `service`, or `module` inside Envoy.
    pub role: String,
}

impl Replica {
    /// The report that this instance publishes.
    pub fn this(&self) -> Peer {
        let now = crate::clock::now();
        peer(&self.name, &Report { at: now, position: *self.applied.borrow(), ..self.report() }, now)
    }

    /// The instances that may be deciding, this one first.
    pub async fn peers(&self) -> Result<Vec<Peer>, LedgerError> {
        let mut peers = vec![self.this()];
        if let RevocationLedger::Redis(ledger) = &self.ledger {
            let Leases { now, running, .. } = ledger.leases().await?;
            let others = running.iter().filter(|lease| lease.name != self.name);
            peers.extend(others.map(|lease| peer(&lease.name, &lease.report.clone().unwrap_or_default(), now)));
        }
        Ok(peers)
    }
}

fn peer(name: &str, report: &Report, now: Timestamp) -> Peer {
    Peer {
        name: name.to_owned(),
        position: report.position,
        view_age: report.view_age.map(|age| age.saturating_add(now.since(report.at))),
        uptime: report.uptime.saturating_add(now.since(report.at)),
        state: report.state.to_string(),
        version: report.version.to_string(),
        skew_ms: report.skew_ms,
        streams: report.streams,
        role: if report.role.is_empty() { "service".to_owned() } else { report.role.to_string() },
    }
}

/// The name of this process: its host, and a random part, because a restarted process is a different one.
#[must_use]
pub fn instance_name() -> Box<str> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')).collect();
    let host = if host.is_empty() { "doorward" } else { &host[..host.len().min(63)] };
    format!("{host}.{:08x}", rand::random::<u32>()).into()
}
