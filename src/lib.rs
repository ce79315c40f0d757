//! Doorward makes JWT sign-out instant.

pub mod authz;
pub mod clock;
pub mod sources;
