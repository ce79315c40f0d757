//! Doorward makes JWT sign-out instant.

pub mod api;
pub mod authz;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dev;
pub mod metrics;
pub mod serve;
pub mod sources;
pub mod state;
