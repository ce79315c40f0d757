//! `doorward completions` and `doorward man`: generated from the definition of the commands.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use super::{Cli, fail, print};

/// Print the completions of a shell: bash, elvish, fish, powershell or zsh.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  source <(doorward completions bash)\n  doorward completions zsh > ~/.zfunc/_doorward\n  \
    doorward completions fish > ~/.config/fish/completions/doorward.fish\n\nExit codes: 0 printed, 1 failed, 2 wrong usage."
)]
pub(super) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Print the manual page, or write the page of each command into a folder.
#[derive(Args)]
#[command(after_help = "Examples:\n  doorward man | man -l -\n  doorward man --dir /usr/local/share/man/man1\n\n\
    Exit codes: 0 written, 1 failed, 2 wrong usage.")]
pub(super) struct ManArgs {
    /// Write doorward.1 and doorward-COMMAND.1 into this folder; it is created if it is missing.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> ExitCode {
    let mut script = Vec::new(); // Standard output may be closed or full; the generator would panic.
    clap_complete::generate(args.shell, &mut Cli::command(), "doorward", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}

pub(super) fn man(args: &ManArgs) -> ExitCode {
    let done = match &args.dir {
        Some(dir) => write_pages(dir).with_context(|| format!("write manual pages into {}", dir.display())),
        None => page(command()).context("make the manual page").map(|page| print(page.trim_end())),
    };
    done.unwrap_or_else(|error| fail(&error))
}

/// The head of a page has the version alone, so that a page does not change with each commit.
fn command() -> Command {
    Cli::command().version(env!("CARGO_PKG_VERSION"))
}

fn write_pages(dir: &Path) -> io::Result<ExitCode> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command(), dir)?;
    Ok(ExitCode::SUCCESS)
}

fn page(command: Command) -> io::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
