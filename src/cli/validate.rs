//! `doorward validate`: every fault of a configuration at once.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{ConfigArgs, load};
use crate::config;

/// Checks a configuration and prints every fault with its place, the value and what would be right.
#[derive(Args)]
#[command(
    after_help = "Example:\n  doorward validate --config /etc/doorward/doorward.yaml\n  doorward validate --schema > doorward.schema.json"
)]
pub(super) struct ValidateArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE", env = "DOORWARD_CONFIG", required_unless_present = "schema")]
    config: Option<PathBuf>,
    /// Prints the JSON Schema of the file instead.
    #[arg(long)]
    schema: bool,
}

pub(super) fn run(args: &ValidateArgs) -> ExitCode {
    if args.schema {
        println!("{:#}", config::schema());
        return ExitCode::SUCCESS;
    }
    let Some(file) = args.config.clone() else { return ExitCode::from(super::INVALID) };
    match load(&ConfigArgs { config: file.clone() }) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprintln!("warning: {}", warning.line(&file.display().to_string()));
            }
            println!("{}: ok", file.display());
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}
