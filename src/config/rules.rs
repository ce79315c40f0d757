//! Rules: the policies of requests.

use std::collections::{BTreeMap, HashSet};

use regex::RegexBuilder;
use serde_json::Value;

use super::check::Check;
use super::fault::KeyPath;
use super::file::{
    AccessFile, ApiKeyUseFile, AudiencesFile, BadToken, ConfigFile, MatchFile, McpMatchFile, OnStaleFile, OneOrMany,
    RequireFile, RuleFile, SignOutScope, StreamsFile, ThenFile,
};
use super::issuers::claim_path;
use super::patterns::{self, Foreign};
use super::{reach, templates};
use crate::authz::claims::IssuerName;
use crate::authz::mcp::{CALL, McpMatch, NamePattern};
use crate::authz::path::is_normal;
use crate::authz::revocation::Kind;
use crate::authz::rule::{
    Access, ApiKeyUse, DEFAULT_RULE, HostPattern, Match, OnStale, PathMatch, Requirements, Rule, SignOut, Streams, Then,
};
use crate::authz::token::Audiences;

pub(super) fn rules(check: &mut Check<'_>, file: &ConfigFile) -> Vec<Rule> {
    let at = KeyPath::root().key("rules");
    let mut names = HashSet::new();
    let mut rules = Vec::new();
    for (index, rule_file) in file.rules.iter().enumerate() {
        let at = at.index(index);
        check.name(&at.key("name"), &rule_file.name);
        if rule_file.name == DEFAULT_RULE {
            check.fault(&at.key("name"), "is reserved for requests without a rule; choose another");
        } else if !rule_file.name.is_empty() && !names.insert(&rule_file.name) {
            check.fault(&at.key("name"), "another rule has this name");
        }
        rules.push(rule(check, &at, rule_file, file));
    }
    if !check.is_blamed(&at) {
        reach::check(check, &at, &rules);
    }
    rules
}

fn rule(check: &mut Check<'_>, at: &KeyPath, file: &RuleFile, whole: &ConfigFile) -> Rule {
    let access = match file.access {
        AccessFile::Public => Access::Public,
        AccessFile::Optional => Access::Optional,
        AccessFile::Protected => Access::Protected,
        AccessFile::Refresh => Access::Refresh,
        AccessFile::SignOut => Access::SignOut(sign_out(file)),
    };
    if file.sign_out.is_some() && file.access != AccessFile::SignOut {
        check.fault(&at.key("sign_out"), "only a rule with `access: sign_out` signs out");
    }
    if file.bad_token.is_some() && access != Access::Optional {
        check.fault(&at.key("bad_token"), "only a rule with `access: optional` has it");
    }
    if file.require.is_some() && file.access == AccessFile::Public {
        check.fault(&at.key("require"), "is never checked on a rule with `access: public`; use `protected`");
    }
    let checks_revocation = matches!(file.access, AccessFile::Protected | AccessFile::Optional);
    for (key, written) in [("on_stale", file.on_stale.is_some()), ("max_staleness", file.max_staleness.is_some())] {
        if written && !checks_revocation {
            check.warn(&at.key(key), "has no effect: this rule does not check revocations");
        }
    }
    let usage = file.api_key.unwrap_or(whole.api_keys.default);
    if usage == ApiKeyUseFile::Required && whole.api_keys.keys.is_empty() {
        let at = if file.api_key.is_some() { at.key("api_key") } else { at.clone() };
        check.warn(&at, "every request is refused: an API key is required and `api_keys.keys` is empty");
    }
    Rule {
        name: file.name.as_str().into(),
        matches: file.matches.as_ref().map(|file| matches(check, &at.key("match"), file)),
        access,
        ignores_bad_token: file.bad_token == Some(BadToken::Anonymous),
        require: file.require.as_ref().map(|file| require(check, &at.key("require"), file, whole)).unwrap_or_default(),
        needs_proof: true,
        api_key: file.api_key.map(api_key_use),
        on_stale: file.on_stale.map(on_stale),
        max_staleness: file.max_staleness.map(|span| *span),
        streams: match file.streams {
            StreamsFile::End => Streams::End,
            StreamsFile::Keep => Streams::Keep,
        },
        enforce: file.enforce,
    }
}

fn sign_out(file: &RuleFile) -> SignOut {
    let file = file.sign_out.clone().unwrap_or_default();
    SignOut {
        scope: match file.scope {
            SignOutScope::Token => Kind::Token,
            SignOutScope::Session => Kind::Session,
            SignOutScope::User => Kind::User,
        },
        then: match file.then {
            ThenFile::Forward => Then::Forward,
            ThenFile::Respond => Then::Respond,
        },
    }
}

pub(super) const fn api_key_use(file: ApiKeyUseFile) -> ApiKeyUse {
    match file {
        ApiKeyUseFile::Required => ApiKeyUse::Required,
        ApiKeyUseFile::Optional => ApiKeyUse::Optional,
        ApiKeyUseFile::Ignored => ApiKeyUse::Ignored,
    }
}

pub(super) const fn on_stale(file: OnStaleFile) -> OnStale {
    match file {
        OnStaleFile::Deny => OnStale::Deny,
        OnStaleFile::Allow => OnStale::Allow,
        OnStaleFile::Lookup => OnStale::Lookup,
    }
}

fn matches(check: &mut Check<'_>, at: &KeyPath, file: &MatchFile) -> Match {
    let nothing = file.path.is_none()
        && file.path_prefix.is_none()
        && file.path_regex.is_none()
        && file.hosts.is_none()
        && file.methods.is_none()
        && file.mcp.is_none();
    if nothing {
        check.fault(at, "is empty; write `path_prefix: /` for every request, or leave `match` out");
    }
    Match {
        path: path_match(check, at, file),
        hosts: hosts(check, &at.key("hosts"), file.hosts.as_deref()),
        methods: methods(check, &at.key("methods"), file.methods.as_deref()),
        mcp: file.mcp.as_ref().map(|file| mcp(check, &at.key("mcp"), file)),
    }
}

fn mcp(check: &mut Check<'_>, at: &KeyPath, file: &McpMatchFile) -> McpMatch {
    if file.methods.is_none() && file.tools.is_none() {
        check.fault(at, "is empty; write `methods: [\"*\"]` for every message, or leave `mcp` out");
    }
    let tools = names(check, &at.key("tools"), file.tools.as_deref(), "tool");
    let methods = names(check, &at.key("methods"), file.methods.as_deref(), "method");
    if file.tools.is_some() && file.methods.as_ref().is_some_and(|methods| *methods != [CALL]) {
        check.fault(&at.key("tools"), "only `tools/call` names a tool: write `methods: [tools/call]`, and the other methods in a rule of their own");
    }
    McpMatch { methods, tools }
}

fn names(check: &mut Check<'_>, at: &KeyPath, names: Option<&[String]>, what: &str) -> Vec<NamePattern> {
    /// Each costs a search in the name.
    const MOST_STARS: usize = 8;
    let Some(names) = names else { return Vec::new() };
    check.list(at, names, &format!("; leave it out for any {what}"));
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            check.fault(
                &at.index(index),
                format!("must be the name of a {what}, in which `*` stands for any characters"),
            );
        } else if name.matches('*').count() > MOST_STARS {
            check.fault(&at.index(index), format!("must have at most {MOST_STARS} `*`"));
        }
    }
    names.iter().map(|name| NamePattern::new(name)).collect()
}

fn path_match(check: &mut Check<'_>, at: &KeyPath, file: &MatchFile) -> PathMatch {
    match (&file.path, &file.path_prefix, &file.path_regex) {
        (None, None, None) => PathMatch::Any,
        (Some(path), None, None) => {
            literal_path(check, &at.key("path"), path, false);
            PathMatch::Exact(path.clone())
        }
        (None, Some(prefix), None) => {
            literal_path(check, &at.key("path_prefix"), prefix, true);
            match prefix.strip_suffix('/').unwrap_or(prefix) {
                "" => PathMatch::Any,
                prefix => PathMatch::Prefix(prefix.to_owned()),
            }
        }
        (None, None, Some(pattern)) => path_regex(check, &at.key("path_regex"), pattern),
        _ => {
            check.fault(at, "must have at most one of `path`, `path_prefix`, `path_regex`");
            PathMatch::Any
        }
    }
}

fn literal_path(check: &mut Check<'_>, at: &KeyPath, path: &str, is_prefix: bool) {
    if let Some((special, written)) = templates::cure(path, is_prefix) {
        check.fault(at, format!("is compared literally, `{special}` included; write {written}"));
    } else if path.contains(['?', '#']) {
        check.fault(at, "must be a path without query and fragment: only the path is compared");
    } else if !path.starts_with('/') {
        check.fault(at, "must be a path that begins with `/`");
    } else if !is_normal(path) {
        check.fault(
            at,
            "must be in normal form: no `//`, `/./`, `/../`, `\\`, `;`, no byte beyond ASCII and no needless escape",
        );
    }
}

/// The largest compiled pattern, in bytes.
const MAX_REGEX: usize = 1 << 20;

fn path_regex(check: &mut Check<'_>, at: &KeyPath, pattern: &str) -> PathMatch {
    let build = |pattern: &str| RegexBuilder::new(pattern).size_limit(MAX_REGEX).build();
    // Compiled without anchors first: `a)|(b` would break out of them.
    match build(pattern).and_then(|_| build(&format!("^(?:{pattern})$"))) {
        Ok(_) if pattern.is_empty() => check.fault(at, "must not be empty"),
        Ok(regex) => match (patterns::foreign(pattern), patterns::never_matches(pattern)) {
            (Some(Foreign::Slashes), _) => {
                check.fault(at, "`/*` repeats the slash; write `/.*` for any text after it");
            }
            (Some(Foreign::Placeholder(special)), _) => {
                check.fault(at, format!("`{special}` matches nothing but itself; write `[^/]+` for one segment"));
            }
            (_, Some(cause)) => check.fault(at, cause),
            (foreign, None) => {
                if let Some(Foreign::Letters(class)) = foreign {
                    check.warn(at, format!("`{class}` matches one of its characters; write `[^/]+` for one segment"));
                }
                return PathMatch::Regex(regex);
            }
        },
        Err(error) => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            check.fault(at, format!("must be a regular expression: {reason}"));
        }
    }
    PathMatch::Exact(String::new()) // Matches no path: other rules may reach its requests.
}

fn hosts(check: &mut Check<'_>, at: &KeyPath, hosts: Option<&[String]>) -> Vec<HostPattern> {
    let Some(hosts) = hosts else { return Vec::new() };
    check.list(at, hosts, "; leave it out for any host");
    let mut found = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        found.extend(host_pattern(check, &at.index(index), host));
    }
    found
}

pub(super) fn host_pattern(check: &mut Check<'_>, at: &KeyPath, host: &str) -> Option<HostPattern> {
    let found = if host.is_ascii() {
        HostPattern::parse(host)
    } else {
        // In the form that browsers send (RFC 5890).
        let (subdomains, name) = host.strip_prefix("*.").map_or(("", host), |name| ("*.", name));
        let name = url::Host::parse(name).ok();
        name.and_then(|name| HostPattern::parse(&format!("{subdomains}{name}")))
    };
    if found.is_none() {
        check.fault(
            at,
            "must be a host name without scheme, port and path, such as `shop.example.com` or `*.example.com`",
        );
    }
    found
}

fn methods(check: &mut Check<'_>, at: &KeyPath, methods: Option<&[String]>) -> Vec<String> {
    let Some(methods) = methods else { return Vec::new() };
    check.list(at, methods, "; leave it out for any method");
    for (index, method) in methods.iter().enumerate() {
        let fits = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        if !fits {
            check.fault(&at.index(index), "must be an HTTP method in capitals, such as `GET`");
        } else if matches!(method.as_str(), "ALL" | "ANY") {
            check.fault(
                &at.index(index),
                "is not an HTTP method, so no request has it; leave `methods` out for any method",
            );
        }
    }
    methods.to_vec()
}

fn require(check: &mut Check<'_>, at: &KeyPath, file: &RequireFile, whole: &ConfigFile) -> Requirements {
    let scopes = file.scopes.clone().unwrap_or_default();
    if file.scopes.is_some() {
        check.list(&at.key("scopes"), &scopes, "; leave it out to require none");
    }
    self::scopes(check, &at.key("scopes"), &scopes);
    let issuers = issuers(check, &at.key("issuers"), file.issuers.as_deref(), whole);
    Requirements {
        scopes,
        claims: claims(check, &at.key("claims"), file.claims.as_ref()),
        issuers,
        audience: file.audience.as_ref().map(|names| audience(check, &at.key("audience"), names, whole)),
        actors: actors(check, &at.key("actors"), file),
        delegated: file.delegated,
        max_age: file.max_age.map(|span| *span),
        acr: match &file.acr {
            None => Vec::new(),
            Some(OneOrMany::One(value)) => {
                check.text(&at.key("acr"), value);
                vec![value.clone()]
            }
            Some(OneOrMany::Many(values)) => {
                check.list(&at.key("acr"), values, "; leave it out for any");
                for (index, value) in values.iter().enumerate() {
                    check.text(&at.key("acr").index(index), value);
                }
                values.clone()
            }
        },
    }
}

/// Faults for texts without the characters of `scope`, and of the challenge that names it (RFC 6749 section 3.3).
pub(super) fn scopes(check: &mut Check<'_>, at: &KeyPath, scopes: &[String]) {
    for (index, scope) in scopes.iter().enumerate() {
        let fits = !scope.is_empty() && scope.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e));
        if !fits {
            check.fault(&at.index(index), "must be one scope, without spaces and quotes");
        }
    }
}

fn audience(check: &mut Check<'_>, at: &KeyPath, names: &[String], whole: &ConfigFile) -> Audiences {
    check.list(at, names, "; leave it out for any that the issuer's `audiences` accept");
    let accepts = |file: &AudiencesFile, name: &String| match file {
        AudiencesFile::Keyword(_) => true,
        AudiencesFile::OneOf(audiences) => audiences.contains(name),
    };
    let issuers = KeyPath::root().key("issuers");
    for (index, name) in names.iter().enumerate() {
        if !check.is_blamed(&issuers) && !whole.issuers.iter().any(|issuer| accepts(&issuer.audiences, name)) {
            check.fault(
                &at.index(index),
                "must be one of the `audiences` of an issuer: no token with another is accepted",
            );
        }
    }
    Audiences::OneOf(names.to_vec())
}

fn actors(check: &mut Check<'_>, at: &KeyPath, file: &RequireFile) -> Vec<String> {
    let Some(actors) = &file.actors else { return Vec::new() };
    check.list(at, actors, "; leave it out for any");
    for (index, actor) in actors.iter().enumerate() {
        if actor.is_empty() {
            check.fault(&at.index(index), "must not be empty");
        }
    }
    if file.delegated == Some(false) {
        check.fault(at, "cannot be met: `delegated: false` refuses every token with an actor");
    }
    actors.clone()
}

fn claims(
    check: &mut Check<'_>,
    at: &KeyPath,
    claims: Option<&BTreeMap<String, Value>>,
) -> BTreeMap<String, Vec<Value>> {
    let Some(claims) = claims else { return BTreeMap::new() };
    if claims.is_empty() {
        check.fault(at, "must not be empty; leave it out to require none");
    }
    let mut found = BTreeMap::new();
    for (name, value) in claims {
        let at = at.key(name);
        claim_path(check, &at, name);
        let values = match value {
            Value::Array(values) => values.clone(),
            value => vec![value.clone()],
        };
        if values.is_empty() || values.iter().any(|value| value.is_null() || value.is_object() || value.is_array()) {
            check.fault(&at, "must be a text, a number, `true` or `false`, or a list of these");
        }
        found.insert(name.clone(), values);
    }
    found
}

fn issuers(check: &mut Check<'_>, at: &KeyPath, names: Option<&[String]>, whole: &ConfigFile) -> Vec<IssuerName> {
    let Some(names) = names else { return Vec::new() };
    check.list(at, names, "; leave it out for any issuer");
    for (index, name) in names.iter().enumerate() {
        known_issuer(check, &at.index(index), name, whole);
    }
    names.iter().filter_map(|name| IssuerName::parse(name)).collect()
}

/// A fault unless an issuer has this name.
pub(super) fn known_issuer(check: &mut Check<'_>, at: &KeyPath, name: &str, whole: &ConfigFile) {
    if check.is_blamed(&KeyPath::root().key("issuers")) {
        return;
    }
    let known: Vec<_> = whole.issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    if !known.contains(&name) {
        check.fault(at, format!("must be the name of an issuer; there are {}", known.join(", ")));
    }
}
