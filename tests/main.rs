//! The integration tests: one binary, the real parts.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fixture that fails is a test that fails"
)]

mod support;

mod abuse;
mod access;
mod actors;
mod allow_list;
mod api;
mod api_keys;
mod cli;
mod clients;
mod clocks;
mod console;
mod corpus;
mod costs;
mod decisions;
mod differential;
mod docs;
mod event_sources;
mod examples;
mod forward_auth;
mod four_services;
mod fuzz;
mod hostile_keys;
mod identity;
mod instances;
mod introspection;
mod keys;
mod kubernetes;
mod leaks;
mod ledger;
mod leftovers;
mod lifecycle;
mod lint;
mod load;
mod mcp;
mod module;
mod names;
mod paths;
mod proofs;
mod providers;
mod rate_limits;
mod relay;
mod reload;
mod samples;
mod status_lists;
mod stolen;
mod story;
mod streams;
mod tidy;
mod tls;
mod token_cache;
mod traces;
