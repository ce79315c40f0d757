//! What keeps state fresh: it reads the outside world and hands the decision something that is
//! already in memory.

pub mod alarm;
pub mod files;
pub mod http;
pub mod introspection;
pub mod jwks;
pub mod ledger;
pub mod names;
pub mod replica;
mod retry;
pub mod signals;
pub mod streams;
