//! The protocol front ends: Envoy's gRPC and HTTP. All of them decide by [`decide`], so answers cannot diverge.

pub mod check;
pub(crate) mod decide;
pub mod explain;
pub mod http;
pub mod inlet;
mod present;
mod record;
pub mod streams;

pub use decide::{Caller, Flaw, Query, decide, decide_at_once, refuse};
