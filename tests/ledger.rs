//! The ledger and the replica against real Redis servers.
#![expect(clippy::unwrap_used, reason = "a fixture that fails is a test that fails")]

#[path = "ledger/support.rs"]
mod support;

#[path = "ledger/contract.rs"]
mod contract;
#[path = "ledger/faults.rs"]
mod faults;
#[path = "ledger/figures.rs"]
mod figures;
#[path = "ledger/follow.rs"]
mod follow;
#[path = "ledger/topologies.rs"]
mod topologies;
