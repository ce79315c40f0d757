//! The whole system around Doorward, small enough to read: Accounts, which signs users in and out, and a
//! service that has no idea how.
//!
//! ```text
//! page ──▶ Envoy + Doorward ──┬─▶ Accounts      users, refresh tokens (SQL), signing keys
//!                ▲            └─▶ A, B, C       no JWT code, no Redis: they read headers
//!                └── events ──── Accounts       sign-out, revocation, Redis, security event
//! ```

mod accounts;
mod clock;
mod server;
mod service;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Accounts and three services behind Envoy and Doorward.
#[derive(Parser)]
#[command(name = "four-services", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Accounts(Box<accounts::Args>),
    Service(service::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    // One cryptography for all of TLS and signatures; a second provider would panic at first use.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let ended = match Cli::parse().command {
        Command::Accounts(args) => accounts::run(*args).await,
        Command::Service(args) => service::run(args).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("four-services: {error:#}");
            ExitCode::FAILURE
        }
    }
}
