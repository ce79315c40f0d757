//! `doorward explain`: one decision, step by step.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{ConfigArgs, FAILED, complain, fail, load, print};
use crate::api::explain;
use crate::authz::authorizer::{KeyFetch, Needs, Outcome, StoreAnswer, View};
use crate::authz::denial::Denial;
use crate::authz::dpop::Spending;
use crate::authz::mcp::McpMessage;
use crate::authz::revocation::RevocationIndex;
use crate::authz::rule::RequestView;
use crate::clock;
use crate::config::Config;
use crate::engine::assemble;
use crate::sources::jwks::KeySource;

/// Decide one request and print each check with its result, the expected and the actual value; never the signature.
///
/// The decision uses the configuration alone, without revocations: only the running service has them (`POST
/// /v1/explain`).
#[derive(Args)]
#[command(
    after_help = "Example:\n  doorward explain --config doorward.yaml --path /admin/users \"$TOKEN\"\n  doorward explain --config doorward.yaml --json - < token.txt\n  \
    doorward explain --config doorward.yaml --path /healthz --expect allow\n\n\
    Exit codes: 0 explained (with --expect: as expected), 1 failed (with --expect: decided otherwise), 2 wrong usage or \
    invalid configuration."
)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[arg(long, default_value = "GET")]
    method: String,
    /// The path with its query.
    #[arg(long, default_value = "/")]
    path: String,
    #[arg(long, default_value = "localhost")]
    host: String,
    /// `http` or `https`.
    #[arg(long, default_value = "https")]
    scheme: String,
    /// A header field, such as 'origin: https://shop.example.com'.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The rule that the route names (`context_extensions: {doorward.rule: NAME}`).
    #[arg(long)]
    rule: Option<String>,
    /// The JSON-RPC method of the request's MCP message.
    #[arg(long, value_name = "METHOD")]
    mcp_method: Option<String>,
    /// The tool that the message calls.
    #[arg(long, value_name = "NAME", requires = "mcp_method")]
    mcp_tool: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Exit with 1 unless the decision is this one. A refusal for missing keys or a missing rule counts as neither.
    #[arg(long, value_enum, value_name = "DECISION")]
    expect: Option<Expect>,
    /// The access token, or `-` to read it from standard input. The request has it in the first place of `token.from`.
    token: Option<String>,
}

/// The expected decision.
#[derive(Clone, Copy, ValueEnum)]
enum Expect {
    Allow,
    Deny,
}

impl Expect {
    const fn decision(self) -> &'static str {
        match self {
            Self::Allow => "allowed",
            Self::Deny => "denied",
        }
    }
}

pub(super) fn run(args: &ExplainArgs) -> ExitCode {
    let config = match load(&args.config) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let explanation = match explain(args, &config) {
        Ok(explanation) => explanation,
        Err(error) => return fail(&error),
    };
    let printed = if args.json { print(format_args!("{explanation:#}")) } else { print(text(&explanation)) };
    let Some(expected) = args.expect.map(Expect::decision) else { return printed };
    let (decision, reason) = (plain(&explanation["decision"]), plain(&explanation["reason"]));
    if decision != expected {
        complain(format_args!("doorward: expected {expected}, but it is {decision} ({reason})"));
        return ExitCode::from(FAILED);
    }
    let is_unknown = |rule: &String| config.rules.iter().all(|known| *known.name != **rule);
    let rule = args.rule.as_ref().filter(|rule| is_unknown(rule));
    if rule.is_some() || decision == "denied" && is_undecided(&reason) {
        complain(format_args!("doorward: expected {expected}, but the decision could not be made: {reason}"));
        return ExitCode::from(FAILED);
    }
    printed
}

/// Whether it is a refusal for lack of data, such as keys that cannot be fetched; it never counts as expected.
fn is_undecided(reason: &str) -> bool {
    Denial::ALL.iter().any(|denial| denial.is_temporary() && denial.label() == reason)
}

fn explain(args: &ExplainArgs, config: &Config) -> anyhow::Result<Value> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for header in &args.headers {
        let (name, value) =
            header.split_once(':').with_context(|| format!("--header '{header}': write 'name: value'"))?;
        fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let token = match args.token.as_deref() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().take(1 << 20).read_to_string(&mut text).context("read the token on standard input")?;
            Some(text.trim().to_owned())
        }
        token => token.map(str::to_owned),
    };
    let mut policy = assemble::policy(config);
    let mut path = args.path.clone();
    if let Some(token) = &token {
        policy.authorizer.tokens.put(token, &mut fields, &mut path);
    }
    if args.mcp_method.is_some() {
        explain::describe_body(&mut fields);
    }
    let headers: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = RequestView {
        method: &args.method,
        target: &path,
        host: &args.host,
        headers: &headers,
        rule: args.rule.as_deref(),
        scheme: &args.scheme,
        mcp: args.mcp_method.as_deref().map(|method| McpMessage { method, tool: args.mcp_tool.as_deref() }),
        ..RequestView::NOTHING
    };

    let mut failures = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    for issuer in &config.issuers {
        let Some(settings) = assemble::key_settings(&issuer.keys) else { continue };
        let name = &issuer.trusted.name;
        let source = KeySource::new(name.clone(), settings.clone()).context("build the HTTP client")?;
        match runtime.block_on(source.fetch_once()) {
            Ok(keys) => policy.authorizer = policy.authorizer.with_keys(name, Some(&keys)),
            Err(error) => failures.push((name, error)),
        }
    }
    let now = clock::now();
    let index = RevocationIndex::new();
    let age = Some(std::time::Duration::ZERO);
    // Neither the store nor an issuer is contacted: the explanation leaves their checks out.
    let view = View { age, keys: Some(KeyFetch::Fetched), answer: Some(StoreAnswer::Clear), ..View::of(&index) };
    let mut decision = policy.authorizer.authorize(&request, view, now);
    let proof;
    if let Outcome::Needs(Needs::Spending(good)) = decision.outcome {
        proof = good;
        let view = View { proof: Some((&proof, Spending::First)), ..view };
        decision = policy.authorizer.authorize(&request, view, now);
    }
    let mut explanation = explain::explain(&policy, &request, &decision, None, now);
    for (name, error) in failures {
        explanation["keys"][name.as_str()] = json!({"error": error});
    }
    Ok(explanation)
}

/// The checks first, then the established facts, one line each, in the order of the decision.
fn text(explanation: &Value) -> String {
    let checks = explanation["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<_> = checks.iter().map(check).collect();
    lines.push(String::new());
    let shown = explain::STEPS.iter().filter(|step| !explanation[**step].is_null() && explanation[**step] != json!({}));
    lines.extend(shown.map(|step| format!("{step:<16} {}", plain(&explanation[*step]))));
    let (decision, reason) = (plain(&explanation["decision"]), plain(&explanation["reason"]));
    lines.push(format!("{:<16} {decision} ({reason})", "decision"));
    lines.join("\n")
}

/// `✗ audience  expected ["shop"], got ["other"]`; `·` was not reached, or is not required.
fn check(check: &Value) -> String {
    let name = plain(&check["check"]);
    match check["passed"].as_bool() {
        Some(true) => {
            let got = if check["got"].is_null() { String::new() } else { check["got"].to_string() };
            format!("✓ {name:<16} {got}").trim_end().to_owned()
        }
        Some(false) => {
            let part = |part: &str| (!check[part].is_null()).then(|| format!("{part} {}", check[part]));
            let compared: Vec<_> = [part("expected"), part("got")].into_iter().flatten().collect();
            format!("✗ {name:<16} {}", compared.join(", ")).trim_end().to_owned()
        }
        None => format!("· {name}"),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
