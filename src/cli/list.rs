//! `doorward list`: lists the revocations.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;
use url::form_urlencoded::Serializer;

use super::FAILED;
use super::server::{Failure, ServerArgs};

/// List the revocations: target, author, reason, start and end.
///
/// The admin key is read from DOORWARD_ADMIN_KEY; it needs the permission `read`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  DOORWARD_ADMIN_KEY=... doorward list --user alice\n  doorward list --kind client --issuer main --json | jq -r .id\n\n\
    Exit codes: 0 listed, 1 failed, 2 wrong usage."
)]
pub(super) struct ListArgs {
    /// List only revocations of this user; the same as --kind user --id U.
    #[arg(long, value_name = "U", conflicts_with_all = ["kind", "id"])]
    user: Option<String>,
    /// List only revocations of this kind: token, session, user, client, key, issuer or actor.
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// List only revocations of this target.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// List only revocations of this issuer, by its configured name.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Print one JSON object for each revocation, each on a line of its own.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) fn run(args: &ListArgs) -> ExitCode {
    list(args, &mut io::stdout().lock()).unwrap_or_else(|failure| failure.report())
}

/// Prints each page as it arrives: the list may have a million lines.
fn list(args: &ListArgs, out: &mut dyn Write) -> Result<ExitCode, Failure> {
    let (kind, id) = match &args.user {
        Some(user) => (Some("user"), Some(user.as_str())),
        None => (args.kind.as_deref(), args.id.as_deref()),
    };
    let (mut cursor, mut count) = (None::<String>, 0);
    loop {
        let asked = [("issuer", args.issuer.as_deref()), ("kind", kind), ("id", id), ("cursor", cursor.as_deref())];
        let mut query = Serializer::new(String::new());
        query.extend_pairs(asked.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let reply = args.server.get(&format!("v1/revocations?{}", query.finish()))?;
        let page = reply.body["revocations"].as_array().map(Vec::as_slice).unwrap_or_default();
        if print(args, out, page, count == 0).is_err() {
            return Ok(ExitCode::from(FAILED)); // The reader of standard output is gone.
        }
        count += page.len();
        cursor = reply.body["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            let none = count == 0 && !args.json && writeln!(out, "no matching revocation").is_err();
            return Ok(if none { ExitCode::from(FAILED) } else { ExitCode::SUCCESS });
        }
    }
}

fn print(args: &ListArgs, out: &mut dyn Write, page: &[Value], is_first: bool) -> io::Result<()> {
    if args.json {
        return page.iter().try_for_each(|item| writeln!(out, "{item}"));
    }
    if is_first && !page.is_empty() {
        let head = ["ISSUER", "KIND", "ID", "SINCE", "UNTIL", "BY", "REASON"];
        writeln!(out, "{}", line(head.map(str::to_owned)))?;
    }
    page.iter().try_for_each(|item| writeln!(out, "{}", line(cells(item))))
}

/// Two spaces between columns: an id or a reason may be of any length and is never cut.
fn line([issuer, kind, id, since, until, by, reason]: [String; 7]) -> String {
    let line = format!("{issuer:<12}  {kind:<7}  {id:<36}  {since:<20}  {until:<20}  {by:<14}  {reason}");
    line.trim_end().to_owned()
}

fn cells(item: &Value) -> [String; 7] {
    let text = |name: &str| item[name].as_str().filter(|text| !text.is_empty());
    let shown = |name: &str| text(name).unwrap_or("-").to_owned();
    // Without a watermark from the caller, the time of the revocation is its start.
    let since = text("since").or_else(|| text("at").filter(|at| *at != "*"));
    let by = text("by").or_else(|| (text("origin") == Some("signed_out")).then_some("(signed out)"));
    [
        shown("issuer"),
        shown("kind"),
        shown("id"),
        since.map_or("-".to_owned(), to_the_second),
        text("expires_at").map_or("-".to_owned(), to_the_second),
        by.unwrap_or("-").to_owned(),
        text("reason").unwrap_or_default().to_owned(),
    ]
}

/// `2026-06-01T10:20:30.456Z` without its fraction.
fn to_the_second(instant: &str) -> String {
    instant.split_once('.').map_or_else(|| instant.to_owned(), |(second, _)| format!("{second}Z"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(item: Value, expected: [&str; 7]) {
        assert_eq!(cells(&item), expected.map(str::to_owned));
    }

    #[test]
    fn a_line_has_author_reason_start_and_end() {
        let until = "2026-06-02T10:20:31Z";
        check(
            json!({"issuer": "main", "kind": "token", "id": "j", "origin": "revoked", "at": "*", "expires_at": until,
                "since": "2026-06-01T10:20:30.456Z", "by": "on-call", "reason": "lost phone"}),
            ["main", "token", "j", "2026-06-01T10:20:30Z", until, "on-call", "lost phone"],
        );
        check(
            json!({"issuer": "main", "kind": "user", "id": "u", "origin": "signed_out", "at": "2026-06-01T10:20:30.999Z",
                "expires_at": until, "since": null, "by": null, "reason": null}),
            ["main", "user", "u", "2026-06-01T10:20:30Z", until, "(signed out)", ""],
        );
        check(
            json!({"issuer": "main", "kind": "key", "id": "k", "origin": "revoked", "at": "*", "expires_at": until}),
            ["main", "key", "k", "-", until, "-", ""],
        );
    }
}
