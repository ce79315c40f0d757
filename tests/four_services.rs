//! The example that a new user copies from: Accounts, three services, a page.

pub(crate) mod support;

mod hosts;
