//! Decisions as spans, sent over OTLP and joined to the proxy's trace (W3C Trace Context).
//!
//! A span has Doorward's own names only: values of the request are in the proxy's span.

use std::time::Duration;

#[cfg_attr(not(feature = "otlp"), path = "traces/no_otlp.rs")]
mod otlp;

pub use otlp::Traces;

/// The attributes of a decision's span.
pub struct Decided<'a> {
    pub decision: &'static str,
    pub reason: &'static str,
    /// The configured name.
    pub rule: &'a str,
    /// The configured name.
    pub issuer: Option<&'a str>,
    pub took: Duration,
}
