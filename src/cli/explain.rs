//! `doorward explain`: one decision, step by step.

use std::io::Read;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Map, Value, json};

use super::{ConfigArgs, fail, load};
use crate::authz::answer::{Answer, metadata};
use crate::authz::authorizer::{Outcome, View};
use crate::authz::revocation::RevocationIndex;
use crate::authz::rule::RequestView;
use crate::authz::token::{BearerToken, UnverifiedToken};
use crate::clock;
use crate::config::Config;
use crate::serve::assemble;
use crate::sources::jwks::{self, KeySource};

/// Runs one decision and prints each step; the token's signature is never printed.
///
/// It decides by the configuration alone: what is revoked is known to the running service only.
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
    /// The access token, or `-` to read it on standard input.
    token: Option<String>,
}

pub(super) fn run(args: &ExplainArgs) -> ExitCode {
    let config = match load(&args.config) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    match explain(args, &config) {
        Ok(explanation) if args.json => {
            println!("{explanation:#}");
            ExitCode::SUCCESS
        }
        Ok(explanation) => {
            print_text(&explanation);
            ExitCode::SUCCESS
        }
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
    if let Some(token) = &token {
        fields.push(("authorization".to_owned(), format!("Bearer {token}")));
    }
    let headers: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = RequestView {
        method: &args.method,
        target: &args.path,
        host: &args.host,
        headers: &headers,
        rule: args.rule.as_deref(),
    };

    let mut authorizer = config.authorizer();
    let mut keys = Map::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    for issuer in &config.issuers {
        let Some(settings) = assemble::key_settings(config, issuer) else { continue };
        let source =
            KeySource::new(issuer.trusted.name.clone(), settings, jwks::client().context("build the HTTP client")?);
        let loaded = runtime.block_on(source.fetch_once());
        let outcome = match &loaded {
            Ok(keys) => json!({"usable": keys.len()}),
            Err(error) => json!({"error": error}),
        };
        keys.insert(issuer.trusted.name.to_string(), outcome);
        authorizer = authorizer.with_keys(&issuer.trusted.name, loaded.ok().as_ref());
    }
    let index = RevocationIndex::new();
    let now = clock::now();
    let decision = authorizer.authorize(
        &request,
        View { index: &index, age: Some(std::time::Duration::ZERO), answer: None, testimony: None },
        now,
    );
    let answer = config.responder().answer(&decision, &request);

    let unverified = token.as_deref().and_then(|token| {
        let bearer = BearerToken::parse(token.as_bytes(), config.token.settings.max_bytes).ok()?;
        UnverifiedToken::parse(bearer).ok()
    });
    let header = unverified.as_ref().map(|token| {
        let header = token.header();
        json!({"alg": header.algorithm, "kid": header.key_id, "typ": header.token_type, "iss": token.unverified_issuer().ok()})
    });
    let verified = decision.evidence.token.as_ref().map(|token| {
        json!({
            "issuer": token.issuer().as_str(),
            "key": token.key_id(),
            "user_id": token.user_id(),
            "token_id": token.token_id(),
            "session_id": token.session_id(),
            "client_id": token.client_id(),
            "expires_in_seconds": (token.expires_at().as_millis() - now.as_millis()) / 1000,
            "issued_seconds_ago": token.issued_at().map(|at| (now.as_millis() - at.as_millis()) / 1000),
        })
    });
    let answer = match answer {
        Answer::Forward(forward) => json!({
            "set": forward.set.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "remove": forward.remove,
        }),
        Answer::Respond(respond) => {
            json!({"status": respond.status, "headers": respond.headers.into_iter().collect::<std::collections::BTreeMap<_, _>>(), "body": respond.body})
        }
    };
    let allowed = matches!(decision.outcome, Outcome::Allowed(_));
    let summary = metadata(decision.rule, &decision.outcome, &decision.evidence);
    Ok(json!({
        "decision": if allowed { "allowed" } else { "denied" },
        "reason": summary.get("reason"),
        "rule": &*decision.rule.name,
        "access": format!("{:?}", decision.rule.access).to_lowercase(),
        "api_client": decision.evidence.api_client.as_deref(),
        "keys": keys,
        "token": header,
        "verified": verified,
        "revocation": "not consulted: ask the running service",
        "answer": answer,
    }))
}

/// One line a step, in the order in which the decision takes them.
fn print_text(explanation: &Value) {
    for step in ["rule", "access", "api_client", "keys", "token", "verified", "revocation", "answer"] {
        if !explanation[step].is_null() && explanation[step] != json!({}) {
            println!("{step:<11} {}", plain(&explanation[step]));
        }
    }
    println!("decision    {} ({})", plain(&explanation["decision"]), plain(&explanation["reason"]));
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
