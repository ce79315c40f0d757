//! The pure heart: what a token says, what is revoked, and the decision. No I/O, no async, no clock.

pub mod admin_key;
pub mod answer;
pub mod api_key;
pub mod authorizer;
pub mod claims;
pub mod denial;
pub mod identity;
pub mod introspection;
pub mod issuer_id;
pub mod jwks;
pub mod logout_token;
pub mod path;
pub mod readings;
pub mod refresh_token;
pub mod replay;
pub mod revocation;
pub mod rule;
pub mod rules;
pub mod signals;
pub mod signing;
pub mod streams;
pub mod token;
pub mod token_cache;
pub mod token_source;
pub mod token_use;
pub mod written;
