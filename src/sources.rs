//! The sources of the state: they read external systems, so that decisions use memory alone.

pub mod alarm;
pub mod files;
pub mod http;
pub mod introspection;
pub mod jwks;
pub mod ledger;
pub mod names;
pub mod relay;
pub mod replica;
mod retry;
pub mod signals;
pub mod status_lists;
pub mod streams;
