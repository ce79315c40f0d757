//! The decision: tokens, revocations and rules as pure functions. No I/O, no async, no clock.

#[macro_use]
mod labels;

pub mod actor;
pub mod answer;
pub mod api_key;
pub mod authorizer;
pub mod certificate;
pub mod claims;
pub mod confirmation;
pub mod denial;
pub mod dpop;
pub mod encoded;
pub mod identity;
pub mod introspection;
pub mod issuer_id;
pub mod jwks;
pub mod logout_token;
pub mod mcp;
mod message;
pub mod named_user;
pub mod path;
pub mod readings;
pub mod refresh_token;
pub mod refusal;
pub mod replay;
pub mod request_uri;
pub mod resource;
pub mod revocation;
pub mod rule;
pub mod rules;
pub mod signals;
pub mod signing;
pub mod status_list;
pub mod status_publisher;
pub mod stream_proof;
pub mod token;
pub mod token_cache;
pub mod token_source;
pub mod token_use;
