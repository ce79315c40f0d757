//! The protocol front ends: Envoy's gRPC and HTTP. All of them decide by [`decide()`], so answers cannot diverge.

pub mod check;
pub(crate) mod decide;
pub mod explain;
pub mod http;
pub mod inlet;
mod record;
mod refusals;
pub mod streams;
mod token_request;

pub use decide::{Caller, Flaw, Query, decide, decide_at_once, refuse};
