//! Decisions as spans, sent over OTLP and joined to the proxy's trace (W3C Trace Context).
//!
//! A span holds names of ours only: what a request said is in the proxy's own span.

use std::time::Duration;

#[cfg_attr(not(feature = "otlp"), path = "traces/no_otlp.rs")]
mod otlp;

pub use otlp::Traces;

/// A decision, as a span tells of it.
pub struct Decided<'a> {
    pub decision: &'static str,
    pub reason: &'static str,
    /// The configured name.
    pub rule: &'a str,
    /// The configured name.
    pub issuer: Option<&'a str>,
    pub took: Duration,
}
