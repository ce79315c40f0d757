//! Rules: the policy of a request. The first match wins; a request without a match is protected.

use core::net::{IpAddr, SocketAddr};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::claims::{ClaimPath, IssuerName, Timestamp, scopes};
use super::denial::Denial;
use super::mcp::{Fit, McpMatch, McpMessage, Unread, check_body};
use super::readings::loosest;
use super::refusal::Refusal;
use super::revocation::Kind;
use super::token::{Audiences, TrustedIssuer, VerifiedToken};

/// The parts of a request that the decision reads, borrowed from its bytes.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    pub method: &'a str,
    /// The request target with its query, as the client wrote it.
    pub target: &'a str,
    /// `:authority` or `Host`, with its port.
    pub host: &'a str,
    /// `http` or `https`, from the proxy; empty if it does not send one.
    pub scheme: &'a str,
    /// Names in any case; repeated fields are separate.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The rule that Envoy's route names (`context_extensions: {doorward.rule: NAME}`).
    pub rule: Option<&'a str>,
    /// The client, as the proxy names it; not used for decisions.
    pub source: Source<'a>,
    /// The certificate of the proxy's client in PEM, percent-encoded (`source.certificate` of Check); empty without
    /// one.
    pub certificate: &'a str,
    /// The one MCP message of the request, as the proxy read it; `None` if it read none, or more than one. Decisions go
    /// by [`Self::message`].
    pub mcp: Option<McpMessage<'a>>,
}

impl<'a> RequestView<'a> {
    /// The view of a request that could not be read.
    pub const NOTHING: Self = Self {
        method: "",
        target: "",
        host: "",
        scheme: "",
        headers: &[],
        rule: None,
        source: Source(b""),
        certificate: "",
        mcp: None,
    };

    /// The one MCP message of the request, if servers read its body as the proxy did.
    pub fn message(&self) -> Result<McpMessage<'a>, Unread> {
        let message = self.mcp.ok_or(Unread::Message)?;
        check_body(self.header("content-type"), self.header("content-encoding")).map(|()| message)
    }

    pub fn header(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

/// A client's address in the proxy's words, read when it is needed: few decisions do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source<'a>(pub &'a [u8]);

impl Source<'_> {
    /// With a port or without; `None` for other text.
    #[must_use]
    pub fn address(self) -> Option<IpAddr> {
        let text = std::str::from_utf8(self.0).ok()?;
        text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| text.parse()).ok()
    }
}

/// A policy, and the requests to which it applies.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Appears in metrics, logs and metadata.
    pub name: Arc<str>,
    /// `None`: it applies only if a route names it.
    pub matches: Option<Match>,
    pub access: Access,
    /// With `access: optional`: a refused token counts as absent.
    pub ignores_bad_token: bool,
    pub require: Requirements,
    /// Whether the sender of a bound token must prove its possession; false for a rule by which a token is inspected
    /// and not used.
    pub needs_proof: bool,
    pub api_key: Option<ApiKeyUse>,
    pub on_stale: Option<OnStale>,
    pub max_staleness: Option<Duration>,
    pub streams: Streams,
    /// False: a shadow rule; always allowed, its refusals are only counted and logged.
    pub enforce: bool,
}

/// The rule for requests that no other rule matches.
pub const DEFAULT_RULE: &str = "default";

impl Default for Rule {
    fn default() -> Self {
        Self {
            name: DEFAULT_RULE.into(),
            matches: None,
            access: Access::Protected,
            ignores_bad_token: false,
            require: Requirements::default(),
            needs_proof: true,
            api_key: None,
            on_stale: None,
            max_staleness: None,
            streams: Streams::End,
            enforce: true,
        }
    }
}

impl Rule {
    /// Whether it allows requests that the default would refuse: such a rule matches only normal paths.
    #[must_use]
    pub fn loosens(&self) -> bool {
        self.access != Access::Protected || !self.enforce
    }

    /// Whether it ends a stream when a request with the same token would be refused.
    #[must_use]
    pub fn ends_streams(&self) -> bool {
        let looks_at_revocations = matches!(self.access, Access::Optional | Access::Protected);
        self.streams == Streams::End && self.enforce && looks_at_revocations
    }

    /// This rule without requirements beyond a valid token, and without requiring one.
    pub(super) fn without_conditions(&self) -> Self {
        let access = match self.access {
            Access::Public => Access::Public,
            Access::Optional | Access::Protected => Access::Optional,
            Access::Refresh | Access::SignOut(_) => Access::Refresh,
        };
        let (require, api_key) = (Requirements::default(), Some(ApiKeyUse::Ignored));
        Self { name: self.name.clone(), matches: None, access, require, api_key, ..*self }
    }
}

/// The access that the rule grants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Every request; the token is not checked.
    Public,
    /// Every request; a token, if present, must be valid.
    Optional,
    /// Only a valid token that is not revoked.
    Protected,
    /// As protected, but an expired or revoked token is accepted: its holder is about to get a new one.
    Refresh,
    /// The token is revoked; the request also succeeds with an expired or revoked token.
    SignOut(SignOut),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SignOut {
    /// `Token`, `Session` or `User`.
    pub scope: Kind,
    pub then: Then,
}

/// The response after the sign-out is recorded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    /// The request is forwarded to the auth service.
    Forward,
    /// Doorward answers 204.
    Respond,
}

/// The decision while the view of the revocations is older than `max_staleness`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnStale {
    Deny,
    Allow,
    Lookup,
}

/// The end of open streams whose token is no longer accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Streams {
    End,
    Keep,
}

/// The treatment of API keys by a rule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ApiKeyUse {
    Required,
    /// A key, if present, must be valid.
    Optional,
    Ignored,
}

/// The requests of a rule; empty lists match all.
#[derive(Clone, Debug)]
pub struct Match {
    pub path: PathMatch,
    pub hosts: Vec<HostPattern>,
    pub methods: Vec<String>,
    /// `None`: any message, or none.
    pub mcp: Option<McpMatch>,
}

impl Match {
    /// Whether all conditions except the path match the request exactly. A condition on an unknown message counts as
    /// met: [`Self::lacks_message`] refuses the request.
    pub(super) fn beside_path(&self, request: &RequestView<'_>) -> bool {
        let host = || host_of(request.host);
        self.method(request.method) && (self.hosts.is_empty() || self.host(&host())) && self.message(request)
    }

    /// Whether it is undecided that the rule applies to this request, because the request's MCP message is unknown.
    pub(super) fn lacks_message(&self, request: &RequestView<'_>) -> bool {
        self.mcp.as_ref().is_some_and(|mcp| mcp.fit(request.message().ok()) == Fit::Unknown)
    }

    fn message(&self, request: &RequestView<'_>) -> bool {
        self.mcp.as_ref().is_none_or(|mcp| mcp.fit(request.message().ok()) != Fit::No)
    }

    /// [`Self::beside_path`] in the reading of the loosest server: methods in any case, the host behind userinfo and
    /// before any number of dots.
    pub(super) fn beside_path_loosely(&self, request: &RequestView<'_>) -> bool {
        let host = || {
            let host = request.host.rsplit('@').next().unwrap_or_default();
            host_of(host).trim_end_matches('.').to_owned()
        };
        let same = |allowed: &String| {
            let method = request.method;
            allowed.eq_ignore_ascii_case(method) || (allowed == "GET" && method.eq_ignore_ascii_case("HEAD"))
        };
        (self.methods.is_empty() || self.methods.iter().any(same))
            && (self.hosts.is_empty() || self.host(&host()))
            && self.message(request)
    }

    fn host(&self, host: &str) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
    }

    /// `GET` includes `HEAD`: servers answer it from the same resource (RFC 9110 section 9.3.2).
    fn method(&self, method: &str) -> bool {
        let same = |allowed: &String| allowed == method || (method == "HEAD" && allowed == "GET");
        self.methods.is_empty() || self.methods.iter().any(same)
    }
}

#[derive(Clone, Debug)]
pub enum PathMatch {
    Any,
    Exact(String),
    /// Whole segments: `/a` matches `/a` and `/a/b`, not `/ab`. Stored without a trailing slash.
    Prefix(String),
    /// Anchored at both ends.
    Regex(Regex),
}

impl PathMatch {
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// The same for the readings of a path, which are case-folded, without escapes and trailing slashes.
    #[must_use]
    pub fn folded(&self) -> Self {
        match self {
            Self::Any => Self::Any,
            Self::Exact(path) => Self::Exact(loosest(path)),
            Self::Prefix(prefix) => match loosest(prefix).as_str() {
                "/" => Self::Any,
                prefix => Self::Prefix(prefix.to_owned()),
            },
            Self::Regex(regex) => {
                // The pattern compiled already; its case-insensitive form may need more memory than the bound on
                // configured patterns allows.
                let folded = RegexBuilder::new(regex.as_str()).case_insensitive(true).size_limit(usize::MAX).build();
                Self::Regex(folded.unwrap_or_else(|_| regex.clone()))
            }
        }
    }
}

/// A host name, or `*.` and a name for its subdomains. Lower case, no port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostPattern {
    Exact(String),
    Subdomains(String),
}

/// The configured text.
impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Subdomains(name) => write!(f, "*.{name}"),
        }
    }
}

impl HostPattern {
    /// Reads `shop.example.com` or `*.example.com`; `None` for anything else.
    #[must_use]
    pub fn parse(pattern: &str) -> Option<Self> {
        let (name, subdomains) = pattern.strip_prefix("*.").map_or((pattern, false), |name| (name, true));
        let bracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let plausible = match bracketed {
            Some(address) => {
                !subdomains
                    && address.contains(':')
                    && address.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
            }
            None => {
                !name.is_empty()
                    && name.bytes().all(is_host)
                    && !name.starts_with('.')
                    && !name.ends_with('.')
                    && !name.contains("..")
            }
        };
        let name = name.to_ascii_lowercase();
        plausible.then_some(if subdomains { Self::Subdomains(name) } else { Self::Exact(name) })
    }

    /// `host` is in the form of [`host_of`].
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => host == name,
            // At least one whole label more, so `notexample.com` is not a subdomain of `example.com`.
            Self::Subdomains(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }
}

/// The host of an authority (RFC 3986 section 3.2) in lower case, without port and trailing dot.
#[must_use]
pub fn host_of(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Further requirements that a verified token must meet.
#[derive(Clone, Debug, Default)]
pub struct Requirements {
    /// All of them.
    pub scopes: Vec<String>,
    /// By claim, one of the values; any item of a list may match.
    pub claims: BTreeMap<String, Vec<Value>>,
    /// Any of these; empty accepts all.
    pub issuers: Vec<IssuerName>,
    /// The token names one of these (RFC 8707); `None` accepts the issuer's own audiences.
    pub audience: Option<Audiences>,
    /// The current actor is one of these (RFC 8693 section 4.1: those before it do not count), and is not named by
    /// another issuer than the token's; empty accepts all.
    pub actors: Vec<String>,
    /// Whether an actor is required, or not allowed.
    pub delegated: Option<bool>,
    /// The longest time since the user actively signed in (`auth_time`).
    pub max_age: Option<Duration>,
    /// Any of these; empty accepts all.
    pub acr: Vec<String>,
}

impl Requirements {
    /// `issuer`: that of the token.
    pub fn check(&self, token: &VerifiedToken, issuer: &TrustedIssuer, now: Timestamp) -> Result<(), Refusal> {
        if let Some(audience) = &self.audience {
            issuer.check_audience_of(audience, token.claims())?;
        }
        Ok(self.check_claims(token, issuer.leeway, now)?)
    }

    fn check_claims(&self, token: &VerifiedToken, leeway: Duration, now: Timestamp) -> Result<(), Denial> {
        if !self.issuers.is_empty() && !self.issuers.contains(token.issuer()) {
            return Err(Denial::ClaimMismatch);
        }
        let acts = |actor| self.actors.iter().any(|allowed| allowed == actor);
        if self.delegated.is_some_and(|delegated| delegated != token.actor().is_some())
            || !self.actors.is_empty() && !token.own_actor().is_some_and(acts)
        {
            return Err(Denial::ClaimMismatch);
        }
        if !self.scopes.is_empty() {
            let granted = scopes(token.claims());
            if !self.scopes.iter().all(|scope| granted.contains(scope)) {
                return Err(Denial::InsufficientScope);
            }
        }
        if !self
            .claims
            .iter()
            .all(|(name, allowed)| has_one_of(ClaimPath::new(name.as_str()).find(token.claims()).as_ref(), allowed))
        {
            return Err(Denial::ClaimMismatch);
        }
        // RFC 9470: both are about how the user signed in, which a fresh `iat` does not show.
        let recent = |max_age: Duration| {
            let signed_in = token.claims().get("auth_time").as_ref().and_then(Timestamp::from_numeric_date);
            // A sign-in that is dated in the future would stay recent for any time.
            signed_in.is_some_and(|at| at <= now.plus(leeway) && now <= at.plus(max_age).plus(leeway))
        };
        let strong = |acr: &Value| self.acr.iter().any(|allowed| acr == allowed.as_str());
        if self.max_age.is_some_and(|max_age| !recent(max_age))
            || (!self.acr.is_empty() && !token.claims().get("acr").as_ref().is_some_and(strong))
        {
            return Err(Denial::InsufficientAuthentication);
        }
        Ok(())
    }
}

fn has_one_of(claim: Option<&Value>, allowed: &[Value]) -> bool {
    match claim {
        Some(Value::Array(items)) => items.iter().any(|item| allowed.contains(item)),
        Some(value) => allowed.contains(value),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_whole_names() {
        for (pattern, host, expected) in [
            ("shop.example.com", "shop.example.com", true),
            ("shop.example.com", "SHOP.example.com.:8443", true),
            ("shop.example.com", "evil-shop.example.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "notexample.com", false),
            ("*.example.com", "a.example.com.attacker.test", false),
            ("[::1]", "[::1]:80", true),
        ] {
            assert_eq!(HostPattern::parse(pattern).unwrap().matches(&host_of(host)), expected, "{pattern} {host}");
        }
        for bad in ["", "*", "*.", "a..b", ".a", "a/b", "*.*.a", "a:80", "[x]"] {
            assert_eq!(HostPattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_address_may_have_its_port() {
        for (text, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("/run/client.sock", None),
            ("", None),
        ] {
            assert_eq!(Source(text.as_bytes()).address(), expected.map(|text| text.parse().unwrap()), "{text}");
        }
    }
}
