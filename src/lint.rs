//! `doorward lint`: finds settings of an Envoy configuration that bypass the check, forward a forged
//! identity, or turn an outage into a refusal.
//!
//! [`Document`] is the parsed text with line numbers: a static file, a `/config_dump`, or a file of
//! `resources`. [`model`] has the relevant parts: connection managers with their filters and routes, and
//! clusters. [`TRAPS`] is the list of the rules; each trap is one function over the model. Lint does not
//! contact a running Envoy, and does not guess: resources outside the document (from RDS or CDS) are not
//! checked.

mod document;
mod matching;
mod model;
mod node;
mod route;
mod scalar;
mod traps;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::authz::certificate::CertificateSource;
use crate::authz::dpop::{self, ProofUse};
use crate::authz::rule::PathMatch;
use crate::authz::token_source::TokenSource;
use crate::config::file::IdentityFile;
use crate::config::{Config, KeyPath};
pub use document::Document;
use model::Model;
use node::Node;
pub use traps::TRAPS;

/// The severity of a finding.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The check can be bypassed, an identity can be forged, a token leaks, or every request fails.
    Error,
    /// An outage, a cost or an unexpected effect.
    Warning,
}

/// A rule of lint.
pub struct Trap {
    /// Stable: reports, `--allow` and the documentation name it.
    pub name: &'static str,
    pub severity: Severity,
    /// The configuration to write instead.
    pub fix: &'static str,
    /// The documentation, or the report of the problem.
    pub source: &'static str,
    check: fn(&Model<'_>, &mut Found),
}

/// A trap in the document.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Finding {
    /// The line, from 1; `None` for a JSON document.
    pub line: Option<u64>,
    /// The path of the value, or of the node in which it is missing.
    pub path: String,
    pub rule: &'static str,
    pub severity: Severity,
    /// The consequence.
    pub message: String,
    pub fix: &'static str,
    pub source: &'static str,
}

/// The places of a trap.
#[derive(Default)]
struct Found(BTreeSet<(KeyPath, String)>);

impl Found {
    fn at(&mut self, node: &Node<'_>, message: impl Into<String>) {
        self.0.insert((node.path.clone(), message.into()));
    }
}

/// The configuration of the Doorward behind this Envoy, as far as the caller has it.
pub struct Expected {
    /// The headers it sets: its identity headers.
    identity: Vec<String>,
    /// Groups of request headers that it reads; one of each group must be sent.
    reads: Vec<Vec<String>>,
    /// Whether it replaces `cookie`, to remove the token.
    sets_cookie: bool,
    /// Whether it removes tokens from requests.
    withholds_token: bool,
    /// The names of its rules; `None` when its configuration was not given.
    rules: Option<BTreeSet<String>>,
    /// Whether it has a rule that is for some MCP messages; `None` when its configuration was not given.
    rules_for_messages: Option<bool>,
    /// The paths of these rules, or where they begin; patterns are left out.
    message_paths: Vec<String>,
    /// Whether its challenges name the page of the resource.
    has_resource: bool,
    /// The source of the client's certificate.
    certificate: CertificateSource,
}

impl Default for Expected {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Self {
            identity: IdentityFile::default().headers.into_keys().collect(),
            reads: vec![names(&["authorization", "cookie"])],
            sets_cookie: false,
            withholds_token: false,
            rules: None,
            rules_for_messages: None,
            message_paths: Vec::new(),
            has_resource: false,
            certificate: CertificateSource::Connection,
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
        let matches = config.rules.iter().filter_map(|rule| rule.matches.as_ref());
        let message_paths = matches.filter(|matches| matches.mcp.is_some()).filter_map(|matches| match &matches.path {
            PathMatch::Any => Some("/".to_owned()),
            PathMatch::Exact(path) | PathMatch::Prefix(path) => Some(path.clone()),
            PathMatch::Regex(_) => None,
        });
        let message_paths = message_paths.collect();
        Self {
            identity: identity.collect(),
            reads,
            sets_cookie,
            withholds_token,
            rules: Some(rules),
            rules_for_messages,
            message_paths,
            has_resource: config.resource.is_some(),
            certificate: config.proxy.certificate,
        }
    }
}

/// Checks all rules; findings are in the order of the document.
///
/// An error is the reason why the document cannot be checked.
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
