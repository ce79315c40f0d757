//! `doorward signals`: the transmitters of security events, and deleting the stream of one.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::print;
use super::server::{Failure, ServerArgs};

/// Show or delete the streams of security events (Shared Signals).
///
/// The admin key is read from DOORWARD_ADMIN_KEY.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  DOORWARD_ADMIN_KEY=... doorward signals status\n  doorward signals delete signals.1\n\n\
    Exit codes: 0 done, 1 failed, 2 wrong usage."
)]
pub(super) struct SignalsArgs {
    #[command(subcommand)]
    command: SignalsCommand,
}

#[derive(Subcommand)]
enum SignalsCommand {
    Status(StatusArgs),
    Delete(DeleteArgs),
}

/// List the transmitters, the state of their streams and the counts of their events.
///
/// The admin key needs the permission `read`. The counts are those of the instance that answers.
#[derive(Args)]
#[command(after_help = "Example:\n  DOORWARD_ADMIN_KEY=... doorward signals status\n\n\
    Exit codes: 0 listed, 1 failed, 2 wrong usage.")]
struct StatusArgs {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Delete the stream at a transmitter.
///
/// It is not set up again with the same settings; remove the transmitter from the configuration afterwards. The admin
/// key needs the permission `revoke`.
#[derive(Args)]
#[command(after_help = "Example:\n  DOORWARD_ADMIN_KEY=... doorward signals delete signals.1\n\n\
    Exit codes: 0 deleted, 1 failed, 2 wrong usage.")]
struct DeleteArgs {
    /// The name of the transmitter, as `status` lists it.
    #[arg(value_name = "NAME")]
    name: String,
    /// Set up another stream afterwards.
    #[arg(long)]
    recreate: bool,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &SignalsArgs) -> ExitCode {
    let done = match &args.command {
        SignalsCommand::Status(args) => status(args),
        SignalsCommand::Delete(args) => delete(args),
    };
    done.unwrap_or_else(|failure| failure.report())
}

fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let reply = args.server.get("v1/signals")?;
    if args.json {
        return Ok(print(format_args!("{:#}", reply.body)));
    }
    let list = |name: &str| reply.body[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let [transmitters, left_over] = ["transmitters", "left_over"].map(list);
    let mut lines: Vec<_> = transmitters.iter().flat_map(lines).collect();
    lines.extend(left_over.iter().map(|stream| {
        let [issuer, id] = ["issuer", "stream_id"].map(|name| stream[name].as_str().unwrap_or("-"));
        format!("not configured here: the stream {id} at {issuer}; delete it there if no instance has it configured")
    }));
    if lines.is_empty() {
        lines.push("no transmitter is configured".to_owned());
    }
    Ok(print(lines.join("\n")))
}

/// The lines about a transmitter.
fn lines(transmitter: &Value) -> Vec<String> {
    let text = |name: &str| transmitter[name].as_str().unwrap_or("-");
    let count = |name: &str| transmitter["events"][name].as_u64().unwrap_or_default();
    let managed = if transmitter["managed"] == true { "" } else { ", set up by hand" };
    let mut lines = vec![
        format!("{}  {}  {}  ({}{managed})", text("name"), text("state"), text("issuer"), text("delivery")),
        format!("  stream {}  owner {}  verified {}", text("stream_id"), text("owner"), text("verified_at")),
        format!(
            "  events  applied {}  ignored {}  unmapped {}  unseen {}  refused {}  last {}",
            count("applied"),
            count("ignored"),
            count("unmapped"),
            count("unseen"),
            count("refused"),
            text("last_event_at"),
        ),
    ];
    if let Some(problem) = transmitter["problem"].as_str() {
        lines.push(format!("  problem {problem}"));
    }
    if count("unmapped") + count("unseen") > 0 {
        let formats = "their subjects are not among `subjects`, or name nobody that tokens name";
        lines.push(format!("  unmapped and unseen events may have had no effect: {formats}"));
    }
    lines
}

fn delete(args: &DeleteArgs) -> Result<ExitCode, Failure> {
    let is_name =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if args.name.is_empty() || !is_name(&args.name) {
        return Err(Failure::Usage(format!("{}: must be a name such as `signals.1`", args.name)));
    }
    let query = if args.recreate { "?recreate=true" } else { "" };
    let reply = args.server.delete(&format!("v1/signals/{}{query}", args.name))?;
    if args.json {
        return Ok(print(format_args!("{:#}", reply.body)));
    }
    let next = if args.recreate { "; another one is set up" } else { "; it is not set up again" };
    Ok(print(match reply.body["stream_id"].as_str() {
        Some(id) => format!("deleted: the stream {id}{next}"),
        None => format!("there was no stream{next}"),
    }))
}
