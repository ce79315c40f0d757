//! Doorward's decision inside Envoy: an HTTP filter as a dynamic module.
//!
//! ```text
//! hooks    what Envoy calls: each guards against panics, borrows, calls, falls back
//! filter   one stream: read the request, decide, apply or wait; end it when its token is revoked
//! request  the request as the decision reads it
//! plan     a decision as edits of the stream, owned
//! edits    edits of the request's headers
//! slot     where an answer from the engine's thread meets its stream
//! config   the filter's configuration, and the engines of the process
//! abi      Envoy's binary interface, and the only wrappers of it
//! ```
//!
//! Rules, tokens, revocations, answers, metrics and the HTTP API are the library's ([`doorward`]); the engine runs on
//! a separate thread. Envoy's workers decide themselves and never wait.
//!
//! # Invariants
//!
//! 1. A request passes only by a plan that was made from a decision. A panic, a filter that could not be created and
//!    a missing answer refuse it.
//! 2. The library does not set a signal handler, an allocator, the `umask` or a limit of the process, and does not
//!    end the process.
//! 3. No object of Envoy is accessed after `respond`, `resume` or `end`: they consume the `abi::Stream`.
//! 4. A waker is used while its stream lives, and under the lock of its `slot::Slot` alone.
//! 5. An engine in Envoy does not listen for checks, so the encoding kept with a token
//!    ([`doorward::authz::answer::Forward::kept`]) is that of `plan`.

// The futures of the engine are deep, and optimised builds lay them out here.
#![recursion_limit = "256"]

#[expect(unsafe_code, reason = "the boundary to Envoy")]
mod abi;
mod budget;
mod config;
mod edits;
mod faults;
mod filter;
#[expect(unsafe_code, reason = "the functions that Envoy calls")]
mod hooks;
#[cfg(test)]
#[expect(unsafe_code, reason = "Envoy's side of the boundary")]
mod host;
mod plan;
mod request;
mod slot;

/// The locks of [`slot`].
mod sync {
    pub use std::sync::{Mutex, MutexGuard};
}
