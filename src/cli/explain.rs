//! `doorward explain`: one decision, step by step.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::{ConfigArgs, fail, load, print};
use crate::api::explain;
use crate::authz::authorizer::{StoreAnswer, View};
use crate::authz::revocation::RevocationIndex;
use crate::authz::rule::RequestView;
use crate::clock;
use crate::config::Config;
use crate::serve::assemble;
use crate::sources::jwks::{self, KeySource};

/// Runs one decision and prints each step; the token's signature is never printed.
///
/// It decides by the configuration alone: what is revoked is known to the running service only
/// (`POST /v1/explain` asks it).
#[derive(Args)]
#[command(
    after_help = "Example:\n  doorward explain --config doorward.yaml --path /admin/users \"$TOKEN\"\n  doorward explain --config doorward.yaml --json - < token.txt"
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
    /// A header field, such as 'origin: https://shop.example.com'.
    #[arg(long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The rule that the route names (`context_extensions: {doorward.rule: NAME}`).
    #[arg(long)]
    rule: Option<String>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// The access token, or `-` to read it on standard input; stands where the configuration looks for one first.
    token: Option<String>,
}

pub(super) fn run(args: &ExplainArgs) -> ExitCode {
    let config = match load(&args.config) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    match explain(args, &config) {
        Ok(explanation) if args.json => print(format_args!("{explanation:#}")),
        Ok(explanation) => print(text(&explanation)),
        Err(error) => fail(&error),
    }
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
    let headers: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = RequestView {
        method: &args.method,
        target: &path,
        host: &args.host,
        headers: &headers,
        rule: args.rule.as_deref(),
        source: None,
    };

    let mut failures = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    for issuer in &config.issuers {
        let Some(settings) = assemble::key_settings(config, issuer) else { continue };
        let name = &issuer.trusted.name;
        let client = jwks::client(settings.authorities.as_ref()).context("build the HTTP client")?;
        let source = KeySource::new(name.clone(), settings, client);
        match runtime.block_on(source.fetch_once()) {
            Ok(keys) => policy.authorizer = policy.authorizer.with_keys(name, Some(&keys)),
            Err(error) => failures.push((name, error)),
        }
    }
    let now = clock::now();
    let index = RevocationIndex::new();
    let age = Some(std::time::Duration::ZERO);
    // Neither the store nor an issuer is asked: what they would have to say is left out of the explanation.
    let view = View { age, answer: Some(StoreAnswer::Clear), ..View::of(&index) };
    let decision = policy.authorizer.authorize(&request, view, now);
    let mut explanation = explain::explain(&policy, &request, &decision, None, now);
    for (name, error) in failures {
        explanation["keys"][name.as_str()] = json!({"error": error});
    }
    Ok(explanation)
}

/// One line a step, in the order in which the decision takes them.
fn text(explanation: &Value) -> String {
    let told = explain::STEPS.iter().filter(|step| !explanation[**step].is_null() && explanation[**step] != json!({}));
    let mut lines: Vec<_> = told.map(|step| format!("{step:<12} {}", plain(&explanation[*step]))).collect();
    let (decision, reason) = (plain(&explanation["decision"]), plain(&explanation["reason"]));
    lines.push(format!("{:<12} {decision} ({reason})", "decision"));
    lines.join("\n")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
