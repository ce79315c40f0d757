//! The integration tests: one binary, the real parts.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fixture that fails is a test that fails"
)]

mod support;

mod cli;
mod decisions;
mod identity;
mod instances;
mod keys;
mod ledger;
mod lifecycle;
mod model;
mod story;
mod tidy;
