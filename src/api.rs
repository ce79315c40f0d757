//! The protocol front ends: Envoy's gRPC and HTTP. All of them decide by [`decide()`], so answers cannot diverge.

pub mod check;
pub(crate) mod decide;
pub mod event_source;
pub mod explain;
pub mod http;
mod record;
mod refusals;
pub mod streams;
mod token_request;

pub use decide::{Caller, Flaw, Query, decide, decide_at_once, refuse};
