//! `doorward status`: the instances of the running service.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::server::{Failure, ServerArgs};
use super::{complain, print};

/// List the instances, the age of their views and their places in the log; and the relays to other regions.
///
/// The admin key is read from DOORWARD_ADMIN_KEY.
#[derive(Args)]
#[command(after_help = "Example:\n  DOORWARD_ADMIN_KEY=... doorward status --server http://127.0.0.1:9192\n\n\
    Exit codes: 0 listed, 1 failed, 2 wrong usage.")]
pub(super) struct StatusArgs {
    /// Print the response as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &StatusArgs) -> ExitCode {
    status(args).unwrap_or_else(|failure| failure.report())
}

fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let reply = args.server.get("v1/instances")?;
    if args.json {
        return Ok(print(format_args!("{:#}", reply.body)));
    }
    let instances = reply.body["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    let width =
        instances.iter().filter_map(|instance| Some(instance["name"].as_str()?.len())).max().unwrap_or(0).max(8);
    let head = format!(
        "{:width$}  {:>10}  {:<20}  {:<14}  {:<9}  {:>9}  {:>7}  UP",
        "INSTANCE", "VIEW AGE", "POSITION", "STATE", "VERSION", "CLOCK", "STREAMS"
    );
    let row = |instance: &Value| {
        let text = |name: &str| instance[name].as_str().unwrap_or("-");
        let age = instance["view_age_ms"].as_u64().map_or("-".to_owned(), |age| format!("{age} ms"));
        let up = Duration::from_secs(instance["uptime_seconds"].as_u64().unwrap_or_default());
        let (name, position, state, version) = (text("name"), text("position"), text("state"), text("version"));
        let clock = instance["clock_skew_seconds"].as_f64().map_or("-".to_owned(), |ahead| format!("{ahead:+.3} s"));
        let up = humantime::format_duration(up);
        let streams = instance["streams"].as_u64().unwrap_or_default();
        format!("{name:width$}  {age:>10}  {position:<20}  {state:<14}  {version:<9}  {clock:>9}  {streams:>7}  {up}")
    };
    let relays = reply.body["relays"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rows = std::iter::once(head).chain(instances.iter().map(row)).chain(relays.iter().map(relay));
    let rows: Vec<_> = rows.collect();
    if reply.body["complete"] == false {
        complain("doorward: the store did not return the other instances");
    }
    Ok(print(rows.join("\n")))
}

/// The line about a relay.
fn relay(relay: &Value) -> String {
    let text = |name: &str| relay[name].as_str().unwrap_or("-");
    let lag = relay["lag_ms"].as_u64().map_or("-".to_owned(), |lag| format!("{lag} ms"));
    let problem = relay["problem"].as_str().map_or_else(String::new, |problem| format!("  {problem}"));
    format!("{}  {}  to {}  lag {lag}  owner {}{problem}", text("name"), text("state"), text("to"), text("owner"))
}
