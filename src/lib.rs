//! Doorward makes JWT sign-out instant: an Envoy `ext_authz` service that verifies tokens, refuses them the moment they
//! are revoked, and sends the caller's identity upstream.
//!
//! # The map, in reading order
//!
//! ```text
//! authz     the decision, in its own crate (`doorward-authz`): claims → revocation → token → rule → authorizer → answer
//! sources   the data of decisions: keys, the revocation ledger, its replica in this process
//! state     the policy in force behind one pointer, with the admin keys, and the revocations
//! config    from the written form to the usable one, all faults at once
//! api       the protocol front ends: Envoy's gRPC, HTTP; all decide through `api::decide`
//! engine    everything behind the front ends: wiring, supervision, reload, live streams, the HTTP API
//! serve     the process: signals, the listener for checks, limits, drain, exit
//! lint      finds dangerous settings in an Envoy configuration; one function per trap
//! cli       the commands; `dev` is the development issuer, `metrics` for Prometheus (`instruments`: as a table), `traces` for an
//!           OTLP collector (feature `otlp`)
//! ```
//!
//! An arrow means "uses", and no edge goes back; a test reads the `use` lines:
//! `main → cli → serve → engine → api → config → state → sources → authz`, `metrics → {sources, authz}`, `traces → clock → authz`.
//!
//! # One request
//!
//! `api::check` borrows a [`authz::rule::RequestView`] from Envoy's message,
//! [`authz::authorizer::Authorizer::authorize`] decides without I/O, [`authz::answer::Responder`] writes the answer. A
//! need that the decision cannot meet without I/O (a key not fetched yet, a lookup in the store) is a value that it
//! returns; `api::decide` resolves the need and decides again.
//!
//! # One revocation
//!
//! Every request to revoke is parsed to a [`authz::revocation::Revocation`]. [`sources::replica::Replica::revoke`]
//! applies it here at once and appends it to the ledger; every other instance follows the log and merges it by the
//! latest watermark, so order, duplicates and replays change nothing.
//!
//! # Invariants
//!
//! 1. No `CheckResponse` without an explicit status; no refusal as a gRPC error.
//! 2. No `Principal` without a `VerifiedToken`, no identity header without a `Principal`; every identity header is set
//!    or removed on every allowed request, never both.
//! 3. Every accepted token has `iss`, `exp` and what its issuer's policy requires; it is never accepted later than
//!    `max_lifetime + leeway` after its `iat`, the time for which a revocation is kept.
//! 4. A token issued in the second of a watermark is revoked; without `iat` by any watermark.
//! 5. On the replica path a decision performs no I/O and holds no lock across a wait.
//! 6. A revocation that was answered 2xx is in the store; a revocation that an instance has applied stays in force
//!    until it expires, whatever happens to the store.
//! 7. A supervised task that ends unexpectedly ends the process; a bad configuration never replaces a
//!    good one.
//! 8. Token text, keys and secrets never reach a log, a metric, a trace or an error.

#![warn(clippy::print_stderr)] // `eprintln!` panics where standard error is closed or full.

pub use doorward_authz as authz;

pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dev;
pub mod engine;
pub mod instruments;
pub mod lint;
pub mod metrics;
pub mod serve;
pub mod sources;
pub mod state;
pub mod traces;
