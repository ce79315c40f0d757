//! `doorward hash-key`: API and admin keys are kept as digests only.

use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, ValueEnum};

use super::{fail, print};
use crate::authz::api_key::digest_of;
use crate::authz::claims::IssuerName;

/// Read a key on standard input and print its line for the configuration, or make a key and print its whole entry.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  doorward hash-key --new --name on-call\n  doorward hash-key --new --of api --name web-shop\n  \
    printf %s \"$KEY\" | doorward hash-key\n\nExit codes: 0 printed, 1 failed, 2 wrong usage."
)]
pub(super) struct HashKeyArgs {
    /// Make a key of 256 random bits and print it once on standard error.
    #[arg(long)]
    new: bool,
    /// The kind of key: its entry belongs under `admin.keys`, or under `api_keys.keys`.
    #[arg(long, value_enum, default_value_t = Holder::Admin, requires = "new")]
    of: Holder,
    /// The name of the key's holder.
    #[arg(long, value_name = "NAME", default_value = "change-me", requires = "new", value_parser = name)]
    name: String,
}

/// The kind of key.
#[derive(Clone, Copy, ValueEnum)]
enum Holder {
    /// A user of the HTTP API.
    Admin,
    /// A client of the services.
    Api,
}

/// The syntax of `admin.keys[].name`; an API key's `id` may have more characters.
fn name(text: &str) -> Result<String, &'static str> {
    let named = IssuerName::parse(text).map(|name| name.to_string());
    named.ok_or("must be a name of `a` to `z`, `0` to `9` and `-`")
}

/// Shorter keys can be guessed.
const MIN_LEN: usize = 16;
/// Longer keys do not fit into a header.
const MAX_LEN: usize = 4096;

pub(super) fn run(args: &HashKeyArgs) -> ExitCode {
    match key(args.new) {
        Ok(key) => {
            let hex: Vec<_> = digest_of(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            let (hex, name) = (hex.concat(), &args.name);
            match args.of {
                _ if !args.new => print(format_args!("sha256: {hex}")),
                Holder::Admin => print(format_args!("- {{name: {name}, sha256: {hex}, may: [revoke, read]}}")),
                Holder::Api => print(format_args!("- {{id: {name}, sha256: {hex}}}")),
            }
        }
        Err(error) => fail(&error),
    }
}

fn key(new: bool) -> anyhow::Result<String> {
    if new {
        let key = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        // Without the key its digest is useless.
        writeln!(std::io::stderr(), "key: {key}").context("write the key on standard error")?;
        return Ok(key);
    }
    let mut key = String::new();
    let more = MAX_LEN as u64 + 3; // One more byte, and the newline.
    std::io::stdin().take(more).read_to_string(&mut key).context("read the key on standard input")?;
    let key = key.trim_end_matches(['\r', '\n']).to_owned();
    anyhow::ensure!(key.len() <= MAX_LEN, "the key has more than {MAX_LEN} bytes");
    anyhow::ensure!(key.len() >= MIN_LEN, "the key has {} bytes; use at least {MIN_LEN}, or --new", key.len());
    Ok(key)
}
