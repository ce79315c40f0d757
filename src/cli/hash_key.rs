//! `doorward hash-key`: API and admin keys are kept as digests only.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;

use super::{fail, print};
use crate::authz::api_key::digest_of;

/// Reads a key on standard input, or makes one, and prints the line for the configuration.
#[derive(Args)]
#[command(after_help = "Example:\n  doorward hash-key --new\n  printf %s \"$KEY\" | doorward hash-key")]
pub(super) struct HashKeyArgs {
    /// Makes a key of 256 random bits; it is printed on standard error, once.
    #[arg(long)]
    new: bool,
}

/// Shorter keys can be guessed.
const MIN_LEN: usize = 16;
/// Longer ones fit no header.
const MAX_LEN: usize = 4096;

pub(super) fn run(args: &HashKeyArgs) -> ExitCode {
    match key(args.new) {
        Ok(key) => {
            let hex: Vec<_> = digest_of(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            print(format_args!("sha256: {}", hex.concat()))
        }
        Err(error) => fail(&error),
    }
}

fn key(new: bool) -> anyhow::Result<String> {
    if new {
        let key = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        // Without it the digest is of no use.
        writeln!(std::io::stderr(), "key: {key}").context("write the key on standard error")?;
        return Ok(key);
    }
    let mut key = String::new();
    let more = MAX_LEN as u64 + 3; // One more, and its newline.
    std::io::stdin().take(more).read_to_string(&mut key).context("read the key on standard input")?;
    let key = key.trim_end_matches(['\r', '\n']).to_owned();
    anyhow::ensure!(key.len() <= MAX_LEN, "the key has more than {MAX_LEN} bytes");
    anyhow::ensure!(key.len() >= MIN_LEN, "the key has {} bytes; use at least {MIN_LEN}, or --new", key.len());
    Ok(key)
}
