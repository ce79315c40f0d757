//! The ledger and the replica against real Redis servers.

pub mod support;

mod adopt;
mod contract;
mod cut_off;
mod exhausted;
mod faults;
mod figures;
mod follow;
mod frozen;
mod lookup;
mod losses;
mod oracle;
mod topologies;
mod unreadable_notes;
