//! `doorward init`: writes a first configuration.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{INVALID, complain, fail, print};

/// Write a commented configuration to begin with; an existing file is left unchanged.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  doorward init --issuer https://auth.example.com --audience shop\n  doorward init -\n\n\
    Exit codes: 0 written, 1 failed, 2 wrong usage."
)]
pub(super) struct InitArgs {
    /// The file, or `-` for standard output.
    #[arg(value_name = "FILE", default_value = "doorward.yaml")]
    file: PathBuf,
    /// The `iss` of the tokens.
    #[arg(long, value_name = "URL", value_parser = plain)]
    issuer: Option<String>,
    /// The `aud` of the tokens.
    #[arg(long, value_name = "A", value_parser = plain)]
    audience: Option<String>,
    /// The URL of the issuer's key set; without it, the URL comes from the discovery document.
    #[arg(long, value_name = "URL", value_parser = plain)]
    jwks_url: Option<String>,
}

/// The path of the schema in the package, which the template names.
const SCHEMA: &str = "/usr/share/doorward/doorward.schema.json";
/// The template, with the issuer and the audience of an example.
const TEMPLATE: &str = include_str!("init.yaml");

pub(super) fn run(args: &InitArgs) -> ExitCode {
    let text = filled(args);
    if args.file == Path::new("-") {
        return print(text.trim_end());
    }
    let name = args.file.display();
    let written = OpenOptions::new().write(true).create_new(true).open(&args.file);
    match written.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => print(format_args!("{name} is written; next: doorward validate --config {name}")),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            complain(format_args!("doorward: {name} exists and is left unchanged; name another file, or `-`"));
            ExitCode::from(INVALID)
        }
        Err(error) => fail(&anyhow::Error::new(error).context(format!("write {name}"))),
    }
}

fn filled(args: &InitArgs) -> String {
    // Only the package has the schema for editors.
    let (schema, rest) = TEMPLATE.split_once('\n').unwrap_or_default();
    let mut text = if Path::new(SCHEMA).exists() { format!("{schema}\n{rest}") } else { rest.to_owned() };
    let mut put = |example: &str, given: Option<String>| {
        if let Some(given) = given {
            text = text.replacen(example, &given, 1);
        }
    };
    put("issuer: https://auth.example.com ", args.issuer.as_ref().map(|issuer| format!("issuer: \"{issuer}\" ")));
    put("audiences: [shop]", args.audience.as_ref().map(|audience| format!("audiences: [\"{audience}\"]")));
    put("{discovery: true}", args.jwks_url.as_ref().map(|url| format!("{{jwks_url: \"{url}\"}}")));
    text
}

/// Text that needs no escapes between YAML's quotes.
fn plain(text: &str) -> Result<String, &'static str> {
    let fits =
        !text.is_empty() && text.chars().all(|c| !c.is_control() && !c.is_whitespace() && !matches!(c, '"' | '\\'));
    if fits { Ok(text.to_owned()) } else { Err("must be text without spaces, quotes and backslashes") }
}
