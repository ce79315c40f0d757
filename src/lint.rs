//! `doorward lint`: what in an Envoy configuration lets somebody in, passes a forged identity on, or turns
//! an outage into a refusal.
//!
//! [`Document`] is the text as values with their lines: a static file, a `/config_dump`, or a file of
//! `resources`. [`model`] is what matters of it: connection managers with their filters and routes, and
//! clusters. [`TRAPS`] is the list of what is looked for; each trap is one function over the model.
//! Nothing here is asked of a running Envoy, and nothing is guessed: what the document leaves to another
//! (RDS or CDS that is not in it) is not judged.

mod document;
mod matching;
mod model;
mod scalar;
mod traps;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::authz::dpop::{self, ProofUse};
use crate::authz::token_source::TokenSource;
use crate::config::{Config, KeyPath};
pub use document::Document;
use model::{Model, Node};
pub use traps::TRAPS;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Somebody gets in, an identity can be forged, a token leaks, or nothing works.
    Error,
    /// An outage, a cost or a surprise.
    Warning,
}

/// A trap to look for.
pub struct Trap {
    /// Stable: reports, `--allow` and the documentation name it.
    pub name: &'static str,
    pub severity: Severity,
    /// The configuration to write instead.
    pub fix: &'static str,
    /// Where it is documented, or the report that it was learnt from.
    pub source: &'static str,
    check: fn(&Model<'_>, &mut Found),
}

/// A trap that was found.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Finding {
    /// From 1; a JSON document has none.
    pub line: Option<u64>,
    /// Where it stands, or where something is missing.
    pub path: String,
    pub rule: &'static str,
    pub severity: Severity,
    /// The consequence.
    pub message: String,
    pub fix: &'static str,
    pub source: &'static str,
}

/// Where a trap was met.
#[derive(Default)]
struct Found(BTreeSet<(KeyPath, String)>);

impl Found {
    fn at(&mut self, node: &Node<'_>, message: impl Into<String>) {
        self.0.insert((node.path.clone(), message.into()));
    }
}

/// The configuration of the Doorward behind this Envoy, as far as it is known.
pub struct Expected {
    /// The headers it sets: its identity headers.
    identity: Vec<String>,
    /// Groups of request headers it reads; of each group one must be sent.
    reads: Vec<Vec<String>>,
    /// Whether it sets `cookie` anew, to take the token out.
    sets_cookie: bool,
    /// Whether it takes tokens off requests.
    withholds_token: bool,
    /// The names of its rules; `None` when its configuration was not given.
    rules: Option<BTreeSet<String>>,
    /// Whether it has a rule that is for some MCP messages; `None` when its configuration was not given.
    rules_for_messages: Option<bool>,
}

impl Default for Expected {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Self {
            identity: names(&["x-user-id", "x-user-email"]),
            reads: vec![names(&["authorization", "cookie"])],
            sets_cookie: false,
            withholds_token: false,
            rules: None,
            rules_for_messages: None,
        }
    }
}

impl From<&Config> for Expected {
    fn from(config: &Config) -> Self {
        let payload = config.identity.payload.iter().map(|payload| payload.header.clone());
        let identity = config.identity.headers.iter().map(|(name, _)| name.clone()).chain(payload);
        let token = config.token.settings.from.iter().filter_map(|source| match source {
            TokenSource::Header { name, .. } => Some(vec![name.clone()]),
            TokenSource::Cookie(_) | TokenSource::ChunkedCookie(_) => Some(vec!["cookie".to_owned()]),
            TokenSource::WebSocketProtocol(_) => Some(vec!["sec-websocket-protocol".to_owned()]),
            TokenSource::Query(_) => None, // The path is always sent.
        });
        let keys = &config.api_keys;
        let mut reads: Vec<_> = token.collect();
        if keys.iter().next().is_some() {
            reads.push(vec![keys.header.clone()]);
        }
        if keys.iter().any(|key| !key.platforms.is_empty()) {
            reads.push(vec![keys.platform_header.clone()]);
        }
        if keys.iter().any(|key| !key.domains.is_empty()) {
            reads.push(vec!["origin".to_owned(), "referer".to_owned()]);
        }
        if config.issuers.iter().any(|issuer| issuer.trusted.proof == ProofUse::Required) {
            reads.push(vec![dpop::FIELD.to_owned()]);
        }
        reads.extend(config.proxy.headers().map(|name| vec![name.to_owned()]));
        let rules = config.rules.iter().map(|rule| rule.name.to_string()).collect();
        let from_cookie = config
            .token
            .settings
            .from
            .iter()
            .any(|source| matches!(source, TokenSource::Cookie(_) | TokenSource::ChunkedCookie(_)));
        let sets_cookie = from_cookie && !config.token.forward;
        let withholds_token = !config.token.forward;
        let rules_for_messages = Some(config.rule_for_messages().is_some());
        Self {
            identity: identity.collect(),
            reads,
            sets_cookie,
            withholds_token,
            rules: Some(rules),
            rules_for_messages,
        }
    }
}

/// Looks for every trap; findings stand in the order of the document.
///
/// An error says why there is nothing to look at.
pub fn lint(document: &Document, expected: &Expected) -> Result<Vec<Finding>, String> {
    let model = Model::of(document, expected);
    if model.managers.is_empty() {
        return Err(
            "there is no HTTP connection manager in it: a static configuration, a /config_dump or listeners are needed"
                .to_owned(),
        );
    }
    let mut findings: Vec<_> = TRAPS
        .iter()
        .flat_map(|trap| {
            let mut found = Found::default();
            (trap.check)(&model, &mut found);
            found.0.into_iter().map(|(path, message)| Finding {
                line: document.line(&path),
                path: path.to_string(),
                rule: trap.name,
                severity: trap.severity,
                message,
                fix: trap.fix,
                source: trap.source,
            })
        })
        .collect();
    findings.sort();
    Ok(findings)
}
