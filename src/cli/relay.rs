//! `doorward relay`: copies the revocations of one region's Redis to another's.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use secrecy::SecretString;

use super::{INVALID, complain, ended, fail};
use crate::authz::revocation::{LONGEST_LEEWAY, LONGEST_LIFETIME};
use crate::config;
use crate::engine::log::Log;
use crate::sources::ledger::{Redis, RedisConfig};
use crate::sources::relay::{Relay, RelaySettings};
use crate::sources::replica::instance_name;

/// Copy the revocations of one region's Redis to another's, until it is stopped.
///
/// It reads the log of the one store whole, then follows it, and appends to the other what that lacks. Several may run:
/// one at a time copies. `revocation.redis.relay` does the same within the service.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  doorward relay --from rediss://eu.example:6379 --to rediss://us.example:6379 --both\n  \
    DOORWARD_RELAY_FROM=rediss://doorward@eu.example DOORWARD_RELAY_TO=rediss://doorward@us.example \\\n    \
    doorward relay --from-password-file eu --to-password-file us --listen 0.0.0.0:9192\n\n\
    Exit codes: 0 stopped by a signal, 1 failed (names of issuers that differ, twice the same store), 2 wrong usage."
)]
pub(super) struct RelayArgs {
    /// The Redis whose log is followed, as in `revocation.redis.url`. Other users of the machine can read a password here:
    /// give it by the environment or a file.
    #[arg(long, value_name = "URL", env = "DOORWARD_RELAY_FROM", hide_env_values = true)]
    from: String,
    /// The Redis that is appended to.
    #[arg(long, value_name = "URL", env = "DOORWARD_RELAY_TO", hide_env_values = true)]
    to: String,
    /// Copy in the other direction, too.
    #[arg(long)]
    both: bool,
    /// The file with the password of --from.
    #[arg(long, value_name = "FILE")]
    from_password_file: Option<PathBuf>,
    /// The file with the password of --to.
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<PathBuf>,
    /// The CA that signed the certificate of --from, PEM; by default the CAs of the system.
    #[arg(long, value_name = "FILE")]
    from_ca: Option<PathBuf>,
    /// The CA that signed the certificate of --to, PEM; by default the CAs of the system.
    #[arg(long, value_name = "FILE")]
    to_ca: Option<PathBuf>,
    /// The prefix of the keys in --from.
    #[arg(long, value_name = "PREFIX", default_value = "doorward:")]
    from_prefix: String,
    /// The prefix of the keys in --to.
    #[arg(long, value_name = "PREFIX", default_value = "doorward:")]
    to_prefix: String,
    /// The longest `max_lifetime` of an issuer in either region.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    max_lifetime: Duration,
    /// The longest `leeway` of an issuer in either region.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    leeway: Duration,
    /// Accept a Redis whose `maxmemory-policy` may drop revocations (`revocation.allow_eviction`).
    #[arg(long)]
    allow_eviction: bool,
    /// Serve /livez, /readyz and /metrics on this address.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

pub(super) fn run(args: &RelayArgs) -> ExitCode {
    let settings = match settings(args) {
        Ok(settings) => settings,
        Err(error) => {
            complain(format_args!("doorward: {error:#}"));
            return ExitCode::from(INVALID);
        }
    };
    let log = match Log::start(config::Log::default()) {
        Ok(log) => log,
        Err(error) => return fail(&anyhow::Error::new(error).context("start the log")),
    };
    let result = crate::serve::relay(settings, args.listen);
    ended(&log, result)
}

fn settings(args: &RelayArgs) -> anyhow::Result<Vec<RelaySettings>> {
    let server = |option: &str, url: &str, prefix: &str, password: Option<&PathBuf>, ca: Option<&PathBuf>| {
        let password = password.map(|file| {
            let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
            anyhow::Ok(SecretString::from(text.trim_end_matches(['\n', '\r'])))
        });
        let server = Redis {
            password: password.transpose()?,
            ca_file: ca.cloned(),
            key_prefix: prefix.to_owned(),
            ..Redis::from(url)
        };
        server.validate().with_context(|| format!("--{option}"))?;
        anyhow::Ok(server)
    };
    let from = server("from", &args.from, &args.from_prefix, args.from_password_file.as_ref(), args.from_ca.as_ref())?;
    let to = server("to", &args.to, &args.to_prefix, args.to_password_file.as_ref(), args.to_ca.as_ref())?;
    anyhow::ensure!(from.identity() != to.identity(), "--to must be another store than --from");
    for (option, given, most) in
        [("max-lifetime", args.max_lifetime, LONGEST_LIFETIME), ("leeway", args.leeway, LONGEST_LEEWAY)]
    {
        anyhow::ensure!(given <= most, "--{option} must be at most {}", humantime::format_duration(most));
    }
    let redis = |server: &Redis| RedisConfig {
        allow_eviction: args.allow_eviction,
        retention: args.max_lifetime + args.leeway * 2,
        leeway: args.leeway,
        ..Relay::config(server.clone())
    };
    let process = instance_name();
    let relay = |name: &str, from: &Redis, to: &Redis| RelaySettings {
        name: name.into(),
        process: process.clone(),
        from: redis(from),
        to: redis(to),
    };
    let mut relays = vec![relay("relay.1", &from, &to)];
    if args.both {
        relays.push(relay("relay.2", &to, &from));
    }
    Ok(relays)
}
