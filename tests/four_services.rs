//! The example `examples/four-services`, for real: Accounts and a service behind Envoy and Doorward.

mod accounts;
mod hosts;
pub mod introspection;
mod operation;
mod page;
mod shop;
pub mod support;
