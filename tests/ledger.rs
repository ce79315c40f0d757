//! The ledger and the replica against real Redis servers.

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
