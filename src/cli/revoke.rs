//! `doorward revoke`: revokes through the HTTP API of the running service.

use std::collections::HashSet;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;
use std::{iter, thread};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::server::{Failure, ServerArgs, unconfirmed};
use super::{FAILED, print};
use crate::authz::claims::Timestamp;
use crate::clock;

/// Revoke a token, a session, or all tokens of a user, a client or an issuer.
///
/// The admin key is read from DOORWARD_ADMIN_KEY.
#[derive(Args)]
#[command(
    after_help = "Example:\n  DOORWARD_ADMIN_KEY=... doorward revoke --user alice --reason 'lost phone' --wait all\n\n\
    Exit codes: 0 revoked (with --wait: confirmed), 1 failed or not confirmed, 2 wrong usage."
)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// When the token expires, for --token-id: RFC 3339, or seconds since 1970.
    #[arg(long, value_name = "E", conflicts_with_all = ["token", "session", "user", "client", "actor", "all"])]
    expires: Option<String>,
    /// The configured name of the issuer; may be left out when there is one, or with --token.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// A note for the log.
    #[arg(long, value_name = "R")]
    reason: Option<String>,
    /// Return when every instance applies the revocation; exit with 1 if an instance has not confirmed it in
    /// time.
    #[arg(long, value_name = "WHOM")]
    wait: Option<Wait>,
    /// The longest wait of --wait.
    #[arg(long, value_name = "DURATION", default_value = "10s", requires = "wait", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Print the response as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// Revoke at this Doorward, too: one in another region, with the same admin key. With --wait, every instance in each of the
    /// regions must confirm. May be repeated.
    #[arg(long, value_name = "URL")]
    also: Vec<String>,
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
    /// All tokens of this user, issued up to now and the lead of the issuer's clock.
    #[arg(long, value_name = "U")]
    user: Option<String>,
    /// All tokens of this client, issued up to now and the lead of the issuer's clock.
    #[arg(long, value_name = "C")]
    client: Option<String>,
    /// All tokens with this actor in `act`, of every user, issued up to now and the lead of the issuer's clock.
    #[arg(long, value_name = "A")]
    actor: Option<String>,
    /// All tokens of the issuer, issued up to now and the lead of its clock.
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
        None => ("v1/revocations".to_owned(), None),
        Some(Wait::All) => {
            (format!("v1/revocations?wait=all&timeout={}ms", args.timeout.as_millis()), Some(args.timeout))
        }
    };
    let body = Value::Object(body);
    if !args.also.is_empty() {
        return revoke_in_all(args, &path, &body, patience);
    }
    let receipt = Receipt::read(args.server.post(&path, &body, patience)?.body, args.wait.is_some())?;
    let done = if args.json { print(format_args!("{:#}", receipt.json())) } else { print(receipt.summary()) };
    Ok(match receipt.doubts().as_slice() {
        [] => done,
        doubts => unconfirmed(&format!("stored, but {}", doubts.join("; "))),
    })
}

/// Asks a service in each region, all at once: one that cannot be reached delays no other.
fn revoke_in_all(args: &RevokeArgs, path: &str, body: &Value, patience: Option<Duration>) -> Result<ExitCode, Failure> {
    let servers: Vec<_> =
        iter::once(args.server.clone()).chain(args.also.iter().map(|url| args.server.at(url))).collect();
    let mut places = HashSet::new();
    if let Some(twice) = servers.iter().find(|server| !places.insert(server.place())) {
        let server = twice.shown();
        return Err(Failure::Usage(format!("--also: {server} is named twice: name one Doorward in each region")));
    }
    let replies: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> =
            servers.iter().map(|server| scope.spawn(move || server.post(path, body, patience))).collect();
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap_or_else(|_| Err(anyhow!("it was not asked").into())))
            .collect()
    });
    let (mut answers, mut summaries, mut code) = (Vec::new(), Vec::new(), ExitCode::SUCCESS);
    for (server, reply) in servers.iter().map(ServerArgs::shown).zip(replies) {
        match reply.and_then(|reply| Ok(Receipt::read(reply.body, args.wait.is_some())?)) {
            Ok(receipt) => {
                let doubts = receipt.doubts();
                if !doubts.is_empty() {
                    code = unconfirmed(&format!("{server}: stored, but {}", doubts.join("; ")));
                }
                summaries.push(format!("{server}:\n{}", receipt.summary()));
                let mut answer = receipt.json();
                answer["server"] = json!(server);
                answers.push(answer);
            }
            Err(failure) => code = failure.at(&server).report(),
        }
    }
    let shown = if args.json { format!("{:#}", Value::Array(answers)) } else { summaries.join("\n") };
    Ok(if print(shown) == ExitCode::SUCCESS { code } else { ExitCode::from(FAILED) })
}

impl TargetArgs {
    fn body(&self) -> Result<Map<String, Value>, Failure> {
        let by_id = [
            ("token", &self.token_id),
            ("session", &self.session),
            ("user", &self.user),
            ("client", &self.client),
            ("actor", &self.actor),
        ];
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

/// The answer of the service.
struct Receipt {
    body: Value,
    /// A confirmation was asked for.
    waited: bool,
    /// Instances that have not confirmed in time.
    unconfirmed: Vec<String>,
    /// Until this time the store may not list every instance.
    uncertain_until: Option<String>,
}

impl Receipt {
    /// Fails if the answer does not say that the revocation is stored.
    fn read(body: Value, waited: bool) -> anyhow::Result<Self> {
        if body["position"].as_str().is_none_or(str::is_empty) {
            bail!("the answer has no `position`, so it is not Doorward's: check the address, and proxies before it");
        }
        let waiting = body["waiting"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let (unconfirmed, until) = (waiting.map(str::to_owned).collect(), body["uncertain_until"].as_str());
        Ok(Self { waited, unconfirmed, uncertain_until: until.map(str::to_owned), body })
    }

    fn text(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }

    fn is_confirmed(&self) -> bool {
        self.body["confirmed"] == json!(true)
    }

    fn is_unconfirmed(&self) -> bool {
        !self.is_confirmed() && (self.waited || !self.body["confirmed"].is_null())
    }

    /// The reasons why it is not certain that every instance applies this revocation.
    fn doubts(&self) -> Vec<String> {
        if !self.is_unconfirmed() {
            return Vec::new();
        }
        let unconfirmed = (!self.unconfirmed.is_empty())
            .then(|| format!("unconfirmed: {} did not answer in time", self.unconfirmed.join(", ")));
        let until = self.uncertain_until.as_ref();
        let uncertain = until.map(|until| format!("uncertain: the store may not list every instance until {until}"));
        let unstated = (self.unconfirmed.is_empty() && until.is_none()).then(|| {
            "unconfirmed: the answer does not say that it is confirmed; a proxy may drop the query `wait=all`"
                .to_owned()
        });
        unconfirmed.into_iter().chain(uncertain).chain(unstated).collect()
    }

    /// The answer, with separate members for the missing confirmations: `outcome`, `unconfirmed` (instances)
    /// and `uncertain_until`.
    fn json(&self) -> Value {
        let outcome = match () {
            () if self.is_confirmed() => "confirmed",
            () if !self.is_unconfirmed() => "stored",
            () if self.unconfirmed.is_empty() && self.uncertain_until.is_some() => "uncertain",
            () => "unconfirmed",
        };
        let mut answer = self.body.clone();
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("outcome".to_owned(), json!(outcome));
            if self.is_unconfirmed() {
                answer.remove("waiting");
                answer.insert("unconfirmed".to_owned(), json!(self.unconfirmed));
            }
        }
        answer
    }

    /// The result, in a sentence for an operator.
    fn summary(&self) -> String {
        let (id, issuer, at) = (self.text("id"), self.text("issuer"), self.text("at"));
        let what = match self.text("kind") {
            "token" => format!("the token {id} of {issuer}"),
            "issuer" => format!("every token of the issuer {issuer}"),
            "key" => format!("every token of {issuer} that the key {id} signed"),
            kind => format!("every token of the {kind} {id} of {issuer}"),
        };
        let (up_to, then) = match (at, self.text("kind")) {
            ("*", "key") => (String::new(), "; the issuer must sign with another key".to_owned()),
            ("*", _) => (String::new(), "; a new sign-in works".to_owned()),
            (at, _) => (format!(" issued up to {at}"), new_sign_ins(at, clock::now())),
        };
        let until = self.text("expires_at");
        let mut lines = vec![
            format!("refused from now on: {what}{up_to}{then}"),
            format!("kept until {until}, when the last of these tokens has expired"),
        ];
        if self.is_confirmed() {
            let (instances, took) = (&self.body["instances"], &self.body["took_ms"]);
            let noun = if *instances == json!(1) { "instance" } else { "instances" };
            lines.push(format!("confirmed by {instances} {noun} in {took} ms"));
        }
        if self.body["seen"] == json!(false) {
            let kind = self.text("kind");
            let article = if kind.starts_with('i') { "an" } else { "a" };
            lines.push(format!("no token of {issuer} that this instance has verified names {article} {kind}"));
        }
        if let Some(streams) = self.body["streams"].as_u64() {
            lines.push(format!("{streams} open {} ended", if streams == 1 { "stream" } else { "streams" }));
        }
        lines.join("\n")
    }
}

/// Tokens that are dated up to the watermark are refused, and the watermark may be in the future, by the
/// issuer's lead.
fn new_sign_ins(at: &str, now: Timestamp) -> String {
    let lies_ahead = clock::parse_rfc3339(at).is_some_and(|at| at >= now);
    if lies_ahead { format!("; new sign-ins work from {at}") } else { "; new sign-ins work".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: &str = "2026-06-02T10:20:31Z";

    fn receipt(changes: Value) -> Receipt {
        let mut body = json!({
            "issuer": "main", "kind": "user", "id": "alice", "at": "2026-06-01T16:30:34.000Z", "expires_at": UNTIL,
            "position": "1-0",
        });
        let Value::Object(changes) = changes else { panic!("an object") };
        body.as_object_mut().unwrap().extend(changes);
        Receipt::read(body, false).unwrap()
    }

    #[track_caller]
    fn check(changes: Value, expected: &str) {
        let words = receipt(changes).summary();
        assert_eq!(words.lines().next(), Some(expected), "{words}");
    }

    #[test]
    fn a_revocation_is_described() {
        check(
            json!({}),
            "refused from now on: every token of the user alice of main issued up to 2026-06-01T16:30:34.000Z; new \
             sign-ins work",
        );
        let always = |kind: &str| json!({"kind": kind, "id": "x", "at": "*"});
        check(always("token"), "refused from now on: the token x of main; a new sign-in works");
        check(always("session"), "refused from now on: every token of the session x of main; a new sign-in works");
        check(
            always("key"),
            "refused from now on: every token of main that the key x signed; the issuer must sign with another key",
        );
        check(
            json!({"kind": "issuer", "id": "main"}),
            "refused from now on: every token of the issuer main issued up to 2026-06-01T16:30:34.000Z; new sign-ins work",
        );
        let confirmed = receipt(json!({"confirmed": true, "instances": 3, "took_ms": 2.5, "streams": 4})).summary();
        assert!(confirmed.ends_with("confirmed by 3 instances in 2.5 ms\n4 open streams ended"), "{confirmed}");
        let one = receipt(json!({"confirmed": true, "instances": 3, "took_ms": 2.5, "streams": 1})).summary();
        assert!(one.ends_with("\n1 open stream ended"), "{one}");
    }

    #[test]
    fn a_watermark_ahead_names_the_time_from_which_sign_ins_work() {
        let at = "2026-06-01T16:30:34.000Z";
        let instant = clock::parse_rfc3339(at).unwrap();
        let from = "; new sign-ins work from 2026-06-01T16:30:34.000Z";
        for (now, expected) in [
            (instant.minus(Duration::from_secs(30)), from),
            (instant, from),
            (instant.plus(Duration::from_millis(1)), "; new sign-ins work"),
        ] {
            assert_eq!(new_sign_ins(at, now), expected);
        }
    }

    #[test]
    fn unconfirmed_and_uncertain_are_distinguished() {
        let late = json!({"confirmed": false, "waiting": ["one", "two"]});
        let unsure = json!({"confirmed": false, "waiting": [], "uncertain_until": UNTIL});
        for (changes, outcome, unconfirmed, doubts) in [
            (json!({}), "stored", Value::Null, 0),
            (json!({"confirmed": true}), "confirmed", Value::Null, 0),
            (late, "unconfirmed", json!(["one", "two"]), 1),
            (unsure, "uncertain", json!([]), 1),
            (json!({"confirmed": false}), "unconfirmed", json!([]), 1),
            (json!({"confirmed": "yes"}), "unconfirmed", json!([]), 1),
            (json!({"took_ms": 3}), "unconfirmed", json!([]), 1),
        ] {
            let receipt = Receipt { waited: outcome != "stored", ..receipt(changes) };
            let answer = receipt.json();
            assert_eq!((&answer["outcome"], &answer["unconfirmed"]), (&json!(outcome), &unconfirmed));
            assert_eq!((receipt.doubts().len(), &answer["waiting"]), (doubts, &Value::Null));
        }
    }

    #[test]
    fn an_answer_without_a_position_is_no_receipt() {
        for body in [json!({}), json!({"confirmed": true}), json!({"confirmed": true, "position": ""}), Value::Null] {
            assert!(Receipt::read(body, true).is_err());
        }
    }
}
