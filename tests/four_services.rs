//! The example `examples/four-services`, for real: Accounts and a service behind Envoy and Doorward.

mod accounts;
mod operation;
mod shop;
pub mod support;
