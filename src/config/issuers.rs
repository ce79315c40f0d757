//! Token issuers and the sources of their keys.

mod status_list;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::check::Check;
use super::fault::KeyPath;
use super::file::{
    Accepted, AudiencesFile, DpopFile, IntrospectionFile, IssuerFile, KeysFile, Limits, LogoutScope, OnStoreDown,
    OneOrMany, ProofFile, ReplayFile, Subject, When,
};
use crate::authz::claims::{ClaimPath, IssuerName};
use crate::authz::dpop::{DpopPolicy, ProofUse, ReplayPolicy};
use crate::authz::issuer_id::{IssuerId, Spelling, Tenants};
use crate::authz::jwks::{ASYMMETRIC, Algorithm, Jwks, JwksError, LeftOut, algorithm_name, algorithm_named};
use crate::authz::revocation::Lead;
use crate::authz::status_publisher::StatusPublisher;
use crate::authz::token::{Audiences, ClaimNames, LogoutPolicy, Seen, TokenTypes, TrustedIssuer};
use crate::clock::Steady;
use crate::sources::http::Authorities;
use crate::sources::jwks::{KeySettings, Location};
use crate::sources::status_lists::StatusListSettings;

/// An issuer and the source of its keys.
#[derive(Clone)]
pub struct IssuerConfig {
    /// Its `keys` are set unless they are fetched over the network.
    pub trusted: TrustedIssuer,
    pub keys: KeySource,
    pub introspection: Option<Introspection>,
    /// How its status lists are fetched, which `trusted.status_list` reads.
    pub status_lists: Option<StatusListSettings>,
    /// Publishes its revoked tokens as a status list.
    pub publisher: Option<Arc<StatusPublisher>>,
}

/// The source of an issuer's keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum KeySource {
    /// The configuration itself.
    Inline,
    /// A shared secret.
    Secret(PathBuf),
    /// Read again when the file changes, or fetched.
    Fetched(KeySettings),
}

/// The introspection settings of an issuer (RFC 7662).
#[derive(Clone, Debug)]
pub struct Introspection {
    pub url: String,
    pub client_id: String,
    pub client_secret: SecretString,
    pub cache: Duration,
    pub timeout: Duration,
    pub when: When,
    pub insecure: bool,
    /// Trusted instead of the system's.
    pub authorities: Option<Authorities>,
}

pub(super) fn issuers(check: &mut Check<'_>, files: &[IssuerFile], limits: &Limits) -> Vec<IssuerConfig> {
    let at = KeyPath::root().key("issuers");
    check.list(&at, files, ": without an issuer no token can be accepted");
    let mut names = HashSet::new();
    let mut spellings: Vec<IssuerId> = Vec::new();
    let mut asked_about_opaque = false;
    let mut found = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let at = at.index(index);
        if !file.name.is_empty() && !names.insert(&file.name) {
            check.fault(&at.key("name"), "another issuer has this name");
        }
        let issuer_id = issuer_id(check, &at, file);
        if spellings.iter().any(|other| other.overlaps(&issuer_id)) {
            check.fault(&at.key("issuer"), "another entry has this issuer: a token must have one policy");
        }
        spellings.push(issuer_id.clone());
        let opaque = file.introspection.as_ref().is_some_and(|file| file.when == When::Opaque);
        if opaque && std::mem::replace(&mut asked_about_opaque, true) {
            check.fault(&at.key("introspection").key("when"), "only one issuer can introspect opaque tokens");
        }
        found.extend(issuer(check, &at, file, issuer_id, limits));
    }
    found
}

const MAX_FORMER_NAMES: usize = 4;

/// Every `iss` of an entry; an empty one has a separate fault and is left out.
fn issuer_id(check: &mut Check<'_>, at: &KeyPath, file: &IssuerFile) -> IssuerId {
    let (at_issuer, at_tenants) = (at.key("issuer"), at.key("tenants"));
    let written = match &file.issuer {
        OneOrMany::One(one) => vec![(at_issuer.clone(), one)],
        OneOrMany::Many(many) => many.iter().enumerate().map(|(index, one)| (at_issuer.index(index), one)).collect(),
    };
    check.list(&at_issuer, &written, "");
    let tenants = match &file.tenants {
        None => None,
        Some(AudiencesFile::Keyword(keyword)) => {
            if keyword != "any" {
                check.fault(&at_tenants, "must be a list of tenant ids, or `any`");
            }
            Some(Tenants::Any)
        }
        Some(AudiencesFile::OneOf(list)) => {
            check.list(&at_tenants, list, "; for all tenants write `any`");
            for (index, tenant) in list.iter().enumerate() {
                check.no_wildcard(
                    &at_tenants.index(index),
                    tenant,
                    "for all tenants write `tenants: any`, without brackets",
                );
                if !Tenants::is_id(tenant) {
                    check.fault(&at_tenants.index(index), "must be a tenant id: letters, digits, `-`, `.` and `_`");
                }
            }
            Some(Tenants::OneOf(list.clone()))
        }
    };
    let templated = written.iter().any(|(_, text)| text.contains('{'));
    let mut spellings = Vec::new();
    for (at, text) in written {
        check.no_wildcard(&at, text, "write the `iss` that tokens have");
        check.text(&at, text);
        match text.split(Spelling::TENANT).collect::<Vec<_>>().as_slice() {
            parts if parts.iter().any(|part| part.contains(['{', '}'])) || parts.len() > 2 => {
                check.fault(&at, "may have one `{tenant}`, and no other `{…}`");
            }
            [before, _] => match &tenants {
                // With a tenant in the host name, any owner of a domain would be a tenant.
                _ if before.splitn(4, '/').count() < 4 => {
                    check.fault(&at, "must have the `{tenant}` in the path of the URL");
                }
                None => check.fault(&at_tenants, "is missing; it must be a list of tenant ids, or `any`"),
                Some(tenants) => spellings.push(Spelling::new(text, tenants)),
            },
            _ if text.is_empty() => {}
            _ => spellings.push(Spelling::Exact(text.clone())),
        }
    }
    if tenants.is_some() && !templated {
        check.fault(&at_tenants, "needs a `{tenant}` in `issuer`");
    }
    IssuerId::new(spellings)
}

fn issuer(
    check: &mut Check<'_>,
    at: &KeyPath,
    file: &IssuerFile,
    issuer_id: IssuerId,
    limits: &Limits,
) -> Option<IssuerConfig> {
    check.name(&at.key("name"), &file.name);
    for (index, name) in file.formerly.iter().enumerate() {
        let at = at.key("formerly").index(index);
        check.name(&at, name);
        if *name == file.name || file.formerly[..index].contains(name) {
            check.fault(&at, "is the name of this issuer, or a former name of it, already");
        }
    }
    if file.formerly.len() > MAX_FORMER_NAMES {
        let most = format!("must have at most {MAX_FORMER_NAMES} names: each makes a decision look up more");
        check.fault(&at.key("formerly"), most);
    }
    let audiences = match &file.audiences {
        AudiencesFile::Keyword(keyword) => {
            if keyword != "any" {
                check.fault(&at.key("audiences"), "must be a list of audiences, or `any`");
            }
            Audiences::Any
        }
        AudiencesFile::OneOf(list) => {
            let cure = "for any audience write `audiences: any`, without brackets";
            Audiences::OneOf(texts(check, &at.key("audiences"), list, cure))
        }
    };
    let algorithms = algorithms(check, &at.key("algorithms"), file);
    let exact = issuer_id.exact().next();
    let (keys, loaded) = key_source(check, &at.key("keys"), &file.keys, exact, &algorithms, limits.jwks_bytes);
    let introspection = file.introspection.as_ref().map(|file| introspection(check, &at.key("introspection"), file));
    let status_list = file.status_list.as_ref();
    let status_list =
        status_list.map(|file| status_list::read(check, &at.key("status_list"), file, &issuer_id, limits));
    let (status_list, status_lists) = status_list.unzip();
    let logout = file.backchannel_logout.clone().unwrap_or_default();
    let logout_audiences = logout.audiences.map(|list| {
        let at = at.key("backchannel_logout").key("audiences");
        Audiences::OneOf(texts(check, &at, &list, "name the client ids"))
    });
    let token_types = token_types(check, &at.key("token_types"), &file.token_types);
    if !file.accept.contains(&Accepted::Access) {
        check.fault(
            &at.key("accept"),
            "must contain `access`: most tokens have no mark of their kind, and count as access tokens",
        );
    }
    let leeway = *file.leeway;
    let trusted = TrustedIssuer {
        leeway,
        expiry_leeway: leeway,
        lead: Lead::by(|| Steady::now().uptime()),
        seen: Seen::default(),
        max_lifetime: *file.max_lifetime,
        claim_names: ClaimNames {
            user_id: claim_paths(check, &at.key("claims").key("user_id"), &file.claims.user_id),
            email: claim_paths(check, &at.key("claims").key("email"), &file.claims.email),
            session_id: claim_paths(check, &at.key("claims").key("session_id"), &file.claims.session_id),
            client_id: claim_paths(check, &at.key("claims").key("client_id"), &file.claims.client_id),
            audience: claim_paths(check, &at.key("claims").key("audience"), &file.claims.audience),
        },
        name: IssuerName::parse(&file.name)?,
        formerly: file.formerly.iter().filter_map(|name| IssuerName::parse(name)).collect(),
        token_types: token_types?,
        accepts_id_tokens: file.accept.contains(&Accepted::Id),
        issuer: issuer_id,
        needs_user: file.subject == Subject::Required,
        logout: LogoutPolicy {
            audiences: logout_audiences.unwrap_or_else(|| audiences.clone()),
            always_user: logout.scope == LogoutScope::User,
        },
        proof: match file.proof {
            ProofFile::Verify => ProofUse::Verify,
            ProofFile::Required => ProofUse::Required,
            ProofFile::Ignore => ProofUse::Ignore,
        },
        dpop: dpop(&file.dpop),
        audiences,
        algorithms,
        revocable_by_email: false,
        revocable_by_text: false,
        status_list,
        keys: loaded,
    };
    let publisher = file.publish_status_list.as_ref().and_then(|file| {
        status_list::publisher(check, &at.key("publish_status_list"), file, trusted.names().cloned().collect())
    });
    Some(IssuerConfig { trusted, keys, introspection, status_lists, publisher: publisher.map(Arc::new) })
}

fn dpop(file: &DpopFile) -> DpopPolicy {
    DpopPolicy {
        // Every proof is remembered for twice as long.
        window: *file.window,
        nonce: file.nonce,
        replay: match file.replay {
            ReplayFile::Local => ReplayPolicy::Local,
            ReplayFile::Shared => ReplayPolicy::Shared { or_local: file.on_store_down == OnStoreDown::Local },
        },
    }
}

fn texts(check: &mut Check<'_>, at: &KeyPath, list: &[String], cure: &str) -> Vec<String> {
    check.list(at, list, "");
    for (index, text) in list.iter().enumerate() {
        check.no_wildcard(&at.index(index), text, cure);
        check.text(&at.index(index), text);
    }
    list.to_vec()
}

fn algorithms(check: &mut Check<'_>, at: &KeyPath, file: &IssuerFile) -> Vec<Algorithm> {
    let secret = file.keys.secret_file.is_some();
    let Some(names) = &file.algorithms else {
        return if secret { vec![Algorithm::HS256] } else { ASYMMETRIC.to_vec() };
    };
    check.list(at, names, "; leave it out for the default");
    let mut found = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let at = at.index(index);
        match algorithm_named(name) {
            None => {
                let known: Vec<_> = ASYMMETRIC.iter().map(|algorithm| algorithm_name(*algorithm)).collect();
                check.fault(
                    &at,
                    format!("must be one of {} (with `keys.secret_file`: HS256, HS384, HS512)", known.join(", ")),
                );
            }
            Some(algorithm) if ASYMMETRIC.contains(&algorithm) == secret => {
                let right = if secret {
                    "one of HS256, HS384, HS512, as the key is a shared secret"
                } else {
                    "an asymmetric one: HS* needs `keys.secret_file`"
                };
                check.fault(&at, format!("must be {right}"));
            }
            Some(algorithm) if !found.contains(&algorithm) => found.push(algorithm),
            Some(_) => {}
        }
    }
    found
}

fn token_types(check: &mut Check<'_>, at: &KeyPath, names: &[String]) -> Option<TokenTypes> {
    check.list(at, names, "; leave it out for the default");
    for (index, name) in names.iter().enumerate() {
        check.no_wildcard(&at.index(index), name, "name the types");
        check.text(&at.index(index), name);
        if TokenTypes::new(std::slice::from_ref(name)).is_err() {
            check.fault(
                &at.index(index),
                "must not be allowed: such a token is a message between servers, not an access token",
            );
        }
    }
    TokenTypes::new(names).ok()
}

/// Checks names and pointers (RFC 6901).
fn claim_paths(check: &mut Check<'_>, at: &KeyPath, names: &OneOrMany) -> Vec<ClaimPath> {
    match names {
        OneOrMany::One(name) => vec![claim_path(check, at, name)],
        OneOrMany::Many(names) => {
            check.list(at, names, "; leave it out for the default");
            names.iter().enumerate().map(|(index, name)| claim_path(check, &at.index(index), name)).collect()
        }
    }
}

pub(super) fn claim_path(check: &mut Check<'_>, at: &KeyPath, name: &str) -> ClaimPath {
    let escapes_fit = name.split('~').skip(1).all(|rest| rest.starts_with('0') || rest.starts_with('1'));
    if name.is_empty() || name.starts_with('/') && (name == "/" || !escapes_fit) {
        check.fault(at, "must be the name of a claim, or a JSON pointer such as `/realm_access/roles`");
    }
    ClaimPath::new(name)
}

/// The source of fetched keys, and the keys that need no network.
pub(super) fn key_source(
    check: &mut Check<'_>,
    at: &KeyPath,
    file: &KeysFile,
    issuer: Option<&str>,
    algorithms: &[Algorithm],
    max_bytes: usize,
) -> (KeySource, Option<Jwks>) {
    let written = [
        file.jwks_url.is_some(),
        file.discovery,
        file.jwks_file.is_some(),
        file.jwks.is_some(),
        file.secret_file.is_some(),
    ];
    if written.into_iter().filter(|written| *written).count() != 1 {
        check.fault(at, "must have exactly one of `jwks_url`, `discovery: true`, `jwks_file`, `jwks`, `secret_file`");
    }
    let fetched = |check: &mut Check<'_>, location| {
        if *file.max_stale < *file.refresh {
            check.warn(&at.key("max_stale"), "is shorter than `refresh`: one failed fetch withdraws the keys");
        }
        KeySource::Fetched(KeySettings {
            location,
            algorithms: algorithms.to_vec(),
            refresh_interval: *file.refresh,
            cooldown: *file.cooldown,
            max_stale: *file.max_stale,
            timeout: *file.timeout,
            max_bytes,
            insecure: file.insecure,
            authorities: check.authorities(at, file.ca_file.as_ref()),
        })
    };
    if let Some(url) = &file.jwks_url {
        check.url(&at.key("jwks_url"), url, file.insecure);
        return (fetched(check, Location::Url(url.clone())), None);
    }
    if file.discovery {
        let Some(issuer) = issuer.filter(|issuer| !issuer.is_empty()) else {
            // Without an issuer, that fault suffices.
            if check.is_written(&at.key("discovery")) {
                check.fault(&at.key("discovery"), "needs an `issuer` without `{tenant}`; write `jwks_url` instead");
            }
            return (KeySource::Inline, None);
        };
        if url::Url::parse(issuer).is_err() {
            check.fault(&at.key("discovery"), "needs an `issuer` that is a URL");
        } else if let Some(section) = at.parent() {
            check.url(&section.key("issuer"), issuer, file.insecure);
        }
        return (fetched(check, Location::Discovery(issuer.to_owned())), None);
    }
    if file.ca_file.is_some() {
        check.fault(&at.key("ca_file"), "needs `jwks_url` or `discovery: true`: nothing else is fetched");
    }
    if let Some(name) = &file.jwks_file {
        let at = at.key("jwks_file");
        let (path, bytes) = check.read(&at, name);
        let parsed = bytes.map(|bytes| Jwks::parse(&bytes, algorithms));
        let keys = parsed.and_then(|parsed| usable(check, &at, parsed));
        let settings = KeySettings {
            location: Location::File(path),
            algorithms: algorithms.to_vec(),
            refresh_interval: Duration::from_secs(300), // Beside the watch for changes.
            cooldown: Duration::from_secs(1),
            max_stale: Duration::MAX,
            timeout: Duration::from_secs(5),
            max_bytes,
            insecure: false,
            authorities: None,
        };
        return (KeySource::Fetched(settings), keys);
    }
    if let Some(document) = &file.jwks {
        let keys = usable(check, &at.key("jwks"), Jwks::from_value(document, algorithms));
        return (KeySource::Inline, keys);
    }
    let Some(name) = &file.secret_file else { return (KeySource::Inline, None) };
    let at = at.key("secret_file");
    let (path, secret) = check.secret_file(&at, name);
    if let Some(secret) = &secret {
        // RFC 7518 section 3.2: a key as long as the hash, or the secret can be guessed offline.
        let least = algorithms.iter().map(|algorithm| secret_bytes(*algorithm)).max().unwrap_or(32);
        if secret.len() < least {
            let found = secret.len();
            check.fault(
                &at,
                format!("the secret in {} has {found} bytes; it must have at least {least}", path.display()),
            );
        }
    }
    let keys = secret.map(|secret| Jwks::from_secret(&secret, algorithms));
    (KeySource::Secret(path), keys)
}

const fn secret_bytes(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    }
}

/// A set without a usable key is only a warning: an operator withdraws a leaked key by emptying the
/// file, and a refused reload would keep the key in force.
fn usable(check: &mut Check<'_>, at: &KeyPath, parsed: Result<(Jwks, Vec<LeftOut>), JwksError>) -> Option<Jwks> {
    let (keys, left_out) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            check.fault(at, format!("must be a JSON Web Key Set: {error}{cause}"));
            return None;
        }
    };
    for left_out in left_out {
        check.warn(at, format!("a key is left out: {left_out}"));
    }
    if keys.is_empty() {
        check.warn(at, "no key is usable: every token of this issuer is refused");
    }
    Some(keys)
}

fn introspection(check: &mut Check<'_>, at: &KeyPath, file: &IntrospectionFile) -> Introspection {
    check.url(&at.key("url"), &file.url, file.insecure);
    check.text(&at.key("client_id"), &file.client_id);
    let secret = check.secret(at, "client_secret", file.client_secret.as_ref(), file.client_secret_file.as_ref());
    if file.client_secret.is_none() && file.client_secret_file.is_none() {
        check.fault(&at.key("client_secret_file"), "is missing; it must be the name of the file with the secret");
    }
    Introspection {
        url: file.url.clone(),
        client_id: file.client_id.clone(),
        client_secret: secret.unwrap_or_default(),
        cache: *file.cache,
        timeout: *file.timeout,
        when: file.when,
        insecure: file.insecure,
        authorities: check.authorities(at, file.ca_file.as_ref()),
    }
}
