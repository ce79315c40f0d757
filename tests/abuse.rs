//! Hostile peers of the listeners: each abuse runs against the real binary with a good client beside it.
//!
//! The figures (memory, p99) are printed: `cargo test --test main abuse:: -- --nocapture --test-threads 1`.

mod costly;
mod floods;
mod full;
mod messages;
mod overload;
mod slow;
mod watch;
mod wire;
