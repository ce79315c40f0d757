//! Doorward makes JWT sign-out instant.

pub mod authz;
pub mod config;
