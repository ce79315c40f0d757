//! The ledger and the replica against real Redis servers.

pub mod support;

mod adopt;
mod contract;
mod faults;
mod figures;
mod follow;
mod lookup;
mod topologies;
