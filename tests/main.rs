//! The integration tests: one binary, the real parts.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fixture that fails is a test that fails"
)]

mod support;

mod api;
mod api_keys;
mod cli;
mod corpus;
mod decisions;
mod hostile_keys;
mod identity;
mod instances;
mod keys;
mod leaks;
mod ledger;
mod lifecycle;
mod paths;
mod story;
mod tidy;
mod tls;
