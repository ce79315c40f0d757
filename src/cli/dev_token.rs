//! `doorward dev-token`: tokens for trying Doorward out.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};

use super::{fail, print};
use crate::clock;
use crate::dev::{self, DevIssuer};

/// Issue a token of the development issuer; the first use creates the issuer's key.
#[derive(Args)]
#[command(
    after_help = "Example:\n  doorward dev-token --user alice --email alice@example.com --ttl 15m\n\nTrust it with:\n  issuers:\n    - {name: dev, issuer: https://dev.doorward.test, audiences: [demo], keys: {jwks_file: .doorward/dev.jwks.json}}\n\n\
    Exit codes: 0 printed, 1 failed, 2 wrong usage."
)]
pub(super) struct DevTokenArgs {
    /// The subject (`sub`).
    #[arg(long)]
    user: String,
    #[arg(long)]
    email: Option<String>,
    /// The lifetime of the token, such as 15m.
    #[arg(long, default_value = "15m", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// The session (`sid`).
    #[arg(long)]
    session: Option<String>,
    /// The client (`client_id`).
    #[arg(long)]
    client: Option<String>,
    /// Scopes, separated by spaces.
    #[arg(long)]
    scope: Option<String>,
    /// The token's id (`jti`); random unless given.
    #[arg(long)]
    token_id: Option<String>,
    /// A further claim; the value is JSON, or else text.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, Value)>,
    #[arg(long, default_value = dev::ISSUER)]
    issuer: String,
    #[arg(long, default_value = dev::AUDIENCE)]
    audience: String,
    /// The folder of the private key `dev.key.pem` and the public key set `dev.jwks.json`.
    #[arg(long, default_value = ".doorward")]
    dir: PathBuf,
}

pub(super) fn run(args: &DevTokenArgs) -> ExitCode {
    match mint(args) {
        Ok(token) => print(token),
        Err(error) => fail(&error),
    }
}

fn mint(args: &DevTokenArgs) -> anyhow::Result<String> {
    let now = clock::now();
    let mut claims = Map::new();
    let jti = args.token_id.clone().unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
    let named = [
        ("iss", Some(json!(args.issuer))),
        ("aud", Some(json!(args.audience))),
        ("sub", Some(json!(args.user))),
        ("jti", Some(json!(jti))),
        ("iat", Some(json!(now.as_secs()))),
        ("exp", Some(json!(now.plus(args.ttl).as_secs()))),
        ("email", args.email.clone().map(Value::from)),
        ("sid", args.session.clone().map(Value::from)),
        ("client_id", args.client.clone().map(Value::from)),
        ("scope", args.scope.clone().map(Value::from)),
    ];
    claims.extend(named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    claims.extend(args.claims.iter().cloned());
    Ok(DevIssuer::open(&args.dir)?.mint(&Value::Object(claims))?)
}

/// `NAME=VALUE`: a value that is not JSON is text.
fn claim(text: &str) -> Result<(String, Value), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| json!(value))))
}
