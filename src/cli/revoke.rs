//! `doorward revoke`: revokes through the HTTP API of the running service.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::print;
use super::server::{Failure, ServerArgs, unconfirmed};

/// Revokes a token, a session, or all tokens of a user, a client or an issuer.
///
/// The admin key is read from DOORWARD_ADMIN_KEY.
#[derive(Args)]
#[command(
    after_help = "Example:\n  DOORWARD_ADMIN_KEY=... doorward revoke --user alice --reason 'lost phone' --wait all"
)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// When the token expires, for --token-id: RFC 3339, or seconds since 1970.
    #[arg(long, value_name = "E", conflicts_with_all = ["token", "session", "user", "client", "all"])]
    expires: Option<String>,
    /// The configured name of the issuer; may be left out when there is one, or with --token.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// A note for the log.
    #[arg(long, value_name = "R")]
    reason: Option<String>,
    /// Returns when every instance refuses; exit code 1 if some could not confirm it in time.
    #[arg(long, value_name = "WHOM")]
    wait: Option<Wait>,
    /// How long --wait waits.
    #[arg(long, value_name = "DURATION", default_value = "10s", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Prints the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// The access token itself, or `-` to read it on standard input.
    #[arg(long, value_name = "T")]
    token: Option<String>,
    /// The token with this `jti`; needs --expires.
    #[arg(long, value_name = "JTI", requires = "expires")]
    token_id: Option<String>,
    /// All tokens of this session (`sid`).
    #[arg(long, value_name = "S")]
    session: Option<String>,
    /// All tokens of this user, issued up to now.
    #[arg(long, value_name = "U")]
    user: Option<String>,
    /// All tokens of this client, issued up to now.
    #[arg(long, value_name = "C")]
    client: Option<String>,
    /// All tokens of the issuer, issued up to now.
    #[arg(long)]
    all: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wait {
    All,
}

pub(super) fn run(args: &RevokeArgs) -> ExitCode {
    revoke(args).unwrap_or_else(|failure| failure.report())
}

fn revoke(args: &RevokeArgs) -> Result<ExitCode, Failure> {
    let mut body = args.target.body()?;
    let mut set = |name: &str, value: Option<&String>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), json!(value));
        }
    };
    set("issuer", args.issuer.as_ref());
    set("reason", args.reason.as_ref());
    if let Some(expires) = &args.expires {
        let expires = expires.parse::<i64>().map_or_else(|_| json!(expires), |seconds| json!(seconds));
        body.insert("expires_at".to_owned(), expires);
    }
    let (path, patience) = match args.wait {
        None => ("v1/revocations".to_owned(), Duration::ZERO),
        Some(Wait::All) => (format!("v1/revocations?wait=all&timeout={}ms", args.timeout.as_millis()), args.timeout),
    };
    let reply = args.server.post(&path, &Value::Object(body), patience)?;
    let done = if args.json { print(format_args!("{:#}", reply.body)) } else { print_text(&reply.body) };
    if reply.body["confirmed"] == json!(false) {
        let waiting = reply.body["waiting"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let waiting = waiting.collect::<Vec<_>>().join(", ");
        let mut causes = Vec::new();
        if !waiting.is_empty() {
            causes.push(format!("not confirmed in time by {waiting}"));
        }
        if let Some(until) = reply.body["uncertain_until"].as_str() {
            causes.push(format!("the store may not list every instance until {until}"));
        }
        return Ok(unconfirmed(&format!("stored, but {}", causes.join("; "))));
    }
    Ok(done)
}

impl TargetArgs {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        let by_id =
            [("token", &self.token_id), ("session", &self.session), ("user", &self.user), ("client", &self.client)];
        let body = if let Some(token) = &self.token {
            json!({"kind": "token", "token": read_token(token)?})
        } else if let Some((kind, Some(id))) = by_id.into_iter().find(|(_, id)| id.is_some()) {
            json!({"kind": kind, "id": id})
        } else {
            json!({"kind": "issuer"})
        };
        Ok(match body {
            Value::Object(body) => body,
            _ => Map::new(),
        })
    }
}

fn read_token(token: &str) -> anyhow::Result<String> {
    if token != "-" {
        return Ok(token.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().take(1 << 20).read_to_string(&mut text).context("read the token on standard input")?;
    Ok(text.trim().to_owned())
}

fn print_text(body: &Value) -> ExitCode {
    let text = |name: &str| body[name].as_str().unwrap_or_default();
    if body["position"].is_null() {
        return print(format_args!(
            "{} {} of {} has expired: nothing to revoke",
            text("kind"),
            text("id"),
            text("issuer")
        ));
    }
    let upto = if text("at") == "*" { String::new() } else { format!(", issued up to {}", text("at")) };
    let until = text("expires_at");
    let (instances, took) = (&body["instances"], &body["took_ms"]);
    let confirmed = match body["confirmed"].as_bool() {
        Some(true) => format!("\nconfirmed by {instances} instances in {took} ms"),
        _ => String::new(),
    };
    let (kind, id, issuer) = (text("kind"), text("id"), text("issuer"));
    let unseen = if body["seen"] == json!(false) {
        format!("\nno token of {issuer} that this instance has verified names a {kind}")
    } else {
        String::new()
    };
    print(format_args!("revoked {kind} {id} of {issuer}{upto}, until {until}{confirmed}{unseen}"))
}
