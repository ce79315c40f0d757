//! The configuration: the written form ([`ConfigFile`]) is converted to the usable one ([`Config`]).
//!
//! Text and environment are parsed to a tree of values with their places (`source`, `env`); the JSON Schema
//! finds unknown, missing and mistyped keys (`schema`); the rest is deserialized, and every section checks its
//! values. Faults of all steps are collected and reported at once. A `Config` has no invalid values.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::authz::answer::{ErrorSettings, PayloadHeader, Responder};
use crate::authz::api_key::ApiKeys;
use crate::authz::authorizer::{Authorizer, FreshnessPolicy};
use crate::authz::dpop::ProofUse;
use crate::authz::introspection::IntrospectionPolicy;
use crate::authz::request_uri::ProxyTrust;
use crate::authz::resource::ProtectedResource;
use crate::authz::rule::{OnStale, Rule};
use crate::authz::rules::Rules;
use crate::authz::token_cache::TokenCache;
use crate::sources::files::{Stamp, Stamps};
use crate::sources::ledger::{AdoptedKeys, Names};
use crate::state::DecisionLog;
use crate::state::admin_key::AdminKey;

mod access;
mod check;
mod env;
mod fault;
pub mod file;
mod issuers;
mod listen;
mod patterns;
mod proxy;
mod reach;
mod requests;
mod resource;
mod restart;
mod revocation;
mod rules;
mod schema;
mod service;
mod shown;
mod signals;
mod source;
mod templates;

pub(crate) use fault::shown_url;
pub use fault::{Fault, Faults, KeyPath, Place};
pub use file::{ConfigFile, Detail, Errors, Limits, List, LogFormat, LogLevel, Read, Span, SubjectFormat, When};
pub use issuers::{Introspection, IssuerConfig, KeySource};
pub use listen::{CheckAddress, Listen, Tls};
pub use requests::{Identity, Payload, TokenConfig};
use restart::Fixed;
pub use revocation::{Revocation, Store};
pub use schema::schema;
pub use service::{Log, ReplayAlarm, Telemetry};
pub use signals::Transmitter;
pub(crate) use source::Source;

/// A configuration without faults.
#[derive(Clone)]
pub struct Config {
    pub listen: Listen,
    /// At least one.
    pub issuers: Vec<IssuerConfig>,
    pub token: TokenConfig,
    pub proxy: ProxyTrust,
    /// The metadata of the protected resource for clients.
    pub resource: Option<ProtectedResource>,
    pub identity: Identity,
    /// How long proxies that ask over HTTP may keep an answer.
    pub kept_answers: Duration,
    pub rules: Vec<Rule>,
    pub api_keys: ApiKeys,
    /// The greatest age of the view of revocations, and the decision beyond it.
    pub max_staleness: Duration,
    pub on_stale: OnStale,
    pub revocation: Revocation,
    /// Accepts that issuers' names get another meaning.
    pub accept_loss: bool,
    /// The time for which an entry of the log may matter: the longest `max_lifetime` of an issuer plus twice
    /// its leeway.
    pub retention: Duration,
    pub errors: Errors,
    pub admin_keys: Vec<AdminKey>,
    /// Whether the operator's console is served.
    pub console: bool,
    pub transmitters: Vec<Transmitter>,
    pub telemetry: Telemetry,
    pub decision_log: DecisionLog,
    pub limits: Limits,
    fixed: Fixed,
    watched: Stamps,
}

/// A configuration, and warnings of probable mistakes in it.
#[derive(Clone)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Fault>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("warnings", &self.warnings).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads a file and the `DOORWARD__…` variables of the environment.
    pub fn load(path: &Path, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, Faults> {
        let name = path.display().to_string();
        let stamp = Stamp::of(path); // Taken before the reading, so that a change meanwhile is noticed.
        let unreadable = |message: String| {
            let fault = Fault { place: None, path: KeyPath::root(), message, value: None };
            Faults {
                file: name.clone(),
                faults: vec![fault],
                watched: Stamps::from([(path.to_owned(), stamp.clone())]),
            }
        };
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(source::MAX_BYTES as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        if bytes.len() > source::MAX_BYTES {
            return Err(unreadable(format!("is over {} bytes", source::MAX_BYTES)));
        }
        let text = String::from_utf8(bytes).map_err(|_| unreadable("is not UTF-8 text".to_owned()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut loaded = Self::parse(&text, &name, folder, env);
        let watched = match &mut loaded {
            Ok(loaded) => &mut loaded.config.watched,
            Err(faults) => &mut faults.watched,
        };
        watched.insert(path.to_owned(), stamp);
        loaded
    }

    /// As [`Config::load`], for text already read; relative file names start in `folder`.
    pub fn parse(
        text: &str,
        name: &str,
        folder: &Path,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Loaded, Faults> {
        let failed = |mut faults: Vec<Fault>| {
            faults.sort();
            faults.dedup();
            Faults { file: name.to_owned(), faults, watched: Stamps::new() }
        };
        let (mut source, mut faults) = source::Source::parse(text);
        if faults.iter().any(|fault| fault.path == KeyPath::root()) {
            return Err(failed(faults)); // Not YAML: checking would be useless.
        }
        let schema = schema::Schema::new();
        faults.extend(env::apply(&mut source, &schema, env));
        source.judge(|path| schema.form(path));

        let mut blamed = source::Blamed::default();
        let unreplaced = source.placeholders();
        faults.extend(unreplaced.iter().map(|path| env::unreplaced(&source, path)));
        let mut misfits = schema.check(&source);
        misfits.retain(|misfit| !unreplaced.contains(&misfit.path));
        faults.extend(misfits.iter().map(|misfit| misfit.fault(&source)));
        for path in unreplaced.iter().chain(misfits.iter().map(|misfit| &misfit.path)) {
            blamed.add(path);
            source.remove(path, schema.neutral(path));
        }
        let file: ConfigFile = match serde_json::from_value(source.tree.clone()) {
            Ok(file) => file,
            Err(error) => {
                if faults.is_empty() {
                    faults.push(source.fault(&KeyPath::root(), format!("cannot be understood: {error}")));
                }
                return Err(failed(faults));
            }
        };

        let mut check = check::Check::new(&source, blamed, folder);
        let config = build(&mut check, &file, Fixed::of(&schema, &source));
        faults.append(&mut check.faults);
        if !faults.is_empty() {
            return Err(Faults { watched: check.files, ..failed(faults) });
        }
        let mut warnings = check.warnings;
        warnings.sort();
        Ok(Loaded { config, warnings })
    }

    /// The decision's part: everything except the revocations.
    #[must_use]
    pub fn authorizer(&self) -> Authorizer {
        Authorizer {
            issuers: self.issuers.iter().map(|issuer| Arc::new(issuer.trusted.clone())).collect(),
            rules: Arc::new(Rules::new(self.rules.clone())),
            default_rule: Arc::new(Rule::default()),
            api_keys: Arc::new(self.api_keys.clone()),
            tokens: Arc::new(self.token.settings.clone()),
            freshness: FreshnessPolicy {
                max_staleness: self.max_staleness,
                on_stale: self.on_stale,
                always_lookup: self.revocation.read == Read::Lookup,
                allow_list: self.revocation.list == List::Allow,
            },
            introspection: Arc::new(self.introspection()),
            proxy: Arc::new(self.proxy.clone()),
            nonces: None, // Set later, with a secret of the fleet.
            verified: Arc::new(TokenCache::new(self.limits.token_cache())),
        }
    }

    /// The introspection settings.
    fn introspection(&self) -> IntrospectionPolicy {
        let asked = |when| {
            let issuers = self.issuers.iter();
            issuers
                .filter(move |issuer| issuer.introspection.as_ref().is_some_and(|asked| asked.when == when))
                .map(|issuer| issuer.trusted.name.clone())
        };
        IntrospectionPolicy { opaque: asked(When::Opaque).next(), always: asked(When::Always).collect() }
    }

    /// The answering part, to be swapped together with [`Config::authorizer`].
    #[must_use]
    pub fn responder(&self) -> Responder {
        let errors = ErrorSettings { reasons: self.errors.detail == Detail::Reason, realm: self.errors.realm.clone() };
        let header = |payload: &Payload| {
            let header = PayloadHeader::new(payload.header.clone(), payload.signer.clone());
            header.with_profile(payload.profile.clone())
        };
        let payload = self.identity.payload.as_ref().map(header);
        let responder =
            Responder::new(self.identity.headers.clone(), payload, errors, &self.token.settings, self.token.forward);
        let responder = match &self.resource {
            Some(resource) => responder.describing(resource.clone()),
            None => responder,
        };
        let asks = self.issuers.iter().any(|issuer| issuer.trusted.proof == ProofUse::Required);
        if asks { responder.with_dpop_challenge() } else { responder }
    }

    /// A rule for certain MCP messages, if there is one: then callers must name the message that a request carries.
    #[must_use]
    pub fn rule_for_messages(&self) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.matches.as_ref().is_some_and(|matches| matches.mcp.is_some()))
    }

    /// The files whose change requires a reload: the configuration itself and all files that it names, with their
    /// state before they were read.
    #[must_use]
    pub fn watched_files(&self) -> &Stamps {
        &self.watched
    }
}

/// The variables of the process, for [`Config::load`]. Unlike `std::env::vars`, this does not panic on values
/// that are not UTF-8.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (lossy(name), lossy(value)))
}

fn build(check: &mut check::Check<'_>, file: &ConfigFile, fixed: Fixed) -> Config {
    let mut issuers = issuers::issuers(check, &file.issuers, &file.limits);
    let transmitters = signals::transmitters(check, file);
    for issuer in &mut issuers {
        let by_email = |from: &Transmitter| from.trusted.target == issuer.trusted.name && from.trusted.subjects.email;
        issuer.trusted.revocable_by_email = transmitters.iter().any(by_email);
    }
    // The token of a revocation may be dated ahead, by the leeway at most.
    let retained = |issuer: &IssuerConfig| issuer.trusted.retention() + issuer.trusted.leeway;
    let retention = issuers.iter().map(retained).max().unwrap_or_default();
    let revocation = revocation::revocation(check, &file.revocation);
    if let Store::Redis { adopt: Some(adopt), .. } = &revocation.store {
        let by_text = matches!(adopt, AdoptedKeys::Each { names: Names::TokenSha256, .. });
        // The key of a token expires with it: a token that was valid longer would be accepted again.
        for issuer in &mut issuers {
            issuer.trusted.expiry_leeway = Duration::ZERO;
            issuer.trusted.revocable_by_text = by_text;
        }
    }
    let (token, proxy) = (requests::token(check, &file.token), proxy::proxy(check, &file.proxy));
    let resource = resource::resource(check, file.resource.as_ref(), &issuers, &token, &proxy);
    let config = Config {
        listen: listen::listen(check, &file.listen),
        issuers,
        token,
        proxy,
        resource,
        identity: requests::identity(check, &file.identity),
        kept_answers: *file.forward_auth.cache,
        rules: rules::rules(check, file),
        api_keys: access::api_keys(check, &file.api_keys),
        max_staleness: *file.revocation.max_staleness,
        on_stale: rules::on_stale(file.revocation.on_stale),
        revocation,
        accept_loss: file.revocation.accept_loss,
        retention,
        errors: service::errors(check, &file.errors),
        admin_keys: access::admin_keys(check, &file.admin),
        console: access::console(check, file),
        transmitters,
        telemetry: service::telemetry(check, &file.telemetry),
        decision_log: file.telemetry.log.decisions,
        limits: file.limits,
        fixed,
        watched: Stamps::new(),
    };
    requests::header_uses(check, file);
    Config { watched: check.files.clone(), ..config }
}

#[cfg(test)]
mod tests;
