//! The targets of the fuzzers, and of the ordinary tests with every seed: each takes any bytes and
//! panics where what must always hold does not.

pub mod check;
pub mod configuration;
pub mod jwks;
pub mod log_entry;
pub mod logout_token;
pub mod path;
pub mod security_event;
pub mod signer;
pub mod token;

/// A target takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the names of their folders under `seeds`.
pub const TARGETS: [(&str, Target); 8] = [
    ("check", check::run),
    ("configuration", configuration::run),
    ("jwks", jwks::run),
    ("log_entry", log_entry::run),
    ("logout_token", logout_token::run),
    ("path", path::run),
    ("security_event", security_event::run),
    ("token", token::run),
];
