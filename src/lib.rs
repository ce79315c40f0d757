//! Doorward makes JWT sign-out instant.

pub mod authz;
pub mod clock;
pub mod config;
pub mod sources;
