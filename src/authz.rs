//! The pure heart: what a token says, what is revoked, and the decision. No I/O, no async, no clock.

pub mod claims;
pub mod revocation;
