//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage or invalid configuration.

mod dev_token;
mod explain;
mod generated;
mod hash_key;
mod healthcheck;
mod init;
mod lint;
mod list;
mod relay;
mod report;
mod revoke;
mod serve;
mod server;
mod signals;
mod status;
mod validate;

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Loaded};
use crate::engine::log::Log;

/// Instant sign-out for JWTs, beside Envoy.
#[derive(Parser)]
#[command(name = "doorward", version = env!("DOORWARD_VERSION"), about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::ServeArgs),
    Init(init::InitArgs),
    Validate(validate::ValidateArgs),
    Explain(explain::ExplainArgs),
    Revoke(revoke::RevokeArgs),
    List(list::ListArgs),
    Status(status::StatusArgs),
    Signals(signals::SignalsArgs),
    Relay(relay::RelayArgs),
    DevToken(dev_token::DevTokenArgs),
    HashKey(hash_key::HashKeyArgs),
    Healthcheck(healthcheck::HealthcheckArgs),
    Lint(lint::LintArgs),
    Completions(generated::CompletionsArgs),
    Man(generated::ManArgs),
}

/// The configuration that a command uses.
#[derive(Args)]
struct ConfigArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "DOORWARD_CONFIG")]
    config: PathBuf,
}

/// The command failed.
const FAILED: u8 = 1;
/// The arguments or the configuration are not valid.
const INVALID: u8 = 2;

/// Runs the command that the process was started with.
#[must_use]
pub fn run() -> ExitCode {
    // One cryptography provider for TLS and signatures; with a second one rustls would panic at first use.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Revoke(args) => revoke::run(&args),
        Command::List(args) => list::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Signals(args) => signals::run(&args),
        Command::Relay(args) => relay::run(&args),
        Command::DevToken(args) => dev_token::run(&args),
        Command::HashKey(args) => hash_key::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::Lint(args) => lint::run(&args),
        Command::Completions(args) => generated::completions(&args),
        Command::Man(args) => generated::man(&args),
    }
}

/// The configuration of a file and the environment; its faults go to standard error.
fn load(args: &ConfigArgs) -> Result<Loaded, ExitCode> {
    Config::load(&args.config, crate::config::environment()).map_err(|faults| {
        complain(&faults);
        ExitCode::from(INVALID)
    })
}

/// Writes the answer of a command to standard output; it fails if the reader is gone.
fn print(answer: impl Display) -> ExitCode {
    match writeln!(std::io::stdout(), "{answer}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

/// Writes to standard error, if it can be written.
fn complain(message: impl Display) {
    let _ = writeln!(std::io::stderr(), "{message}"); // The exit code is returned nevertheless.
}

/// The exit code of a service that has ended; its failure is logged, and the log is written to its end.
fn ended(log: &Log, result: anyhow::Result<()>) -> ExitCode {
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "failed");
            ExitCode::from(FAILED)
        }
    };
    log.finish();
    code
}

/// Reports a failure with its causes.
fn fail(error: &anyhow::Error) -> ExitCode {
    complain(format_args!("doorward: {error:#}"));
    ExitCode::from(FAILED)
}
