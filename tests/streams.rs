//! Signed out means out: WebSockets, server-sent events and gRPC streams end with the session, through real Envoy.

#![allow(clippy::float_cmp, reason = "counts that a metric shows")]
#![allow(clippy::print_stdout, reason = "figures of a run")]

mod bounds;
pub mod forged;
pub mod keys;
mod kinds;
mod lifetime;
mod receipts;
mod reload;
mod scale;
pub mod support;
