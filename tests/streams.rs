//! Signed out means out: WebSockets, server-sent events and gRPC streams end with the session, through real Envoy.

mod forged;
mod kinds;
mod lifetime;
mod receipts;
mod scale;
mod support;
