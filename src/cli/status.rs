//! `doorward status`: the instances of the running service.

use std::process::ExitCode;

use clap::Args;

use super::server::{Failure, ServerArgs, print_json};

/// Lists the instances, the age of their view and their place in the log.
///
/// The admin key is read from DOORWARD_ADMIN_KEY.
#[derive(Args)]
#[command(after_help = "Example:\n  DOORWARD_ADMIN_KEY=... doorward status --server http://127.0.0.1:9192")]
pub(super) struct StatusArgs {
    /// Prints the answer as JSON.
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
        return Ok(print_json(&reply.body));
    }
    let instances = reply.body["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
    let width =
        instances.iter().filter_map(|instance| Some(instance["name"].as_str()?.len())).max().unwrap_or(0).max(8);
    println!("{:width$}  {:>10}  {:<20}  {:<14}  {:<9}  UP", "INSTANCE", "VIEW AGE", "POSITION", "STATE", "VERSION");
    for instance in instances {
        let text = |name: &str| instance[name].as_str().unwrap_or("-").to_owned();
        let age = instance["view_age_ms"].as_u64().map_or("-".to_owned(), |age| format!("{age} ms"));
        let up = instance["uptime_seconds"].as_u64().unwrap_or_default();
        println!(
            "{:width$}  {age:>10}  {:<20}  {:<14}  {:<9}  {}",
            text("name"),
            text("position"),
            text("state"),
            text("version"),
            humantime::format_duration(std::time::Duration::from_secs(up)),
        );
    }
    if reply.body["complete"] == false {
        eprintln!("doorward: the store could not be asked for the other instances");
    }
    Ok(ExitCode::SUCCESS)
}
