//! The description of the protected resource.

use serde_json::{Map, Value, json};

use super::check::Check;
use super::fault::KeyPath;
use super::file::ResourceFile;
use super::issuers::IssuerConfig;
use super::requests::TokenConfig;
use super::rules;
use crate::authz::dpop::{self, ProofUse};
use crate::authz::request_uri::ProxyTrust;
use crate::authz::resource::{ProtectedResource, ResourceIdentifier};
use crate::authz::token_source::TokenSource;

pub(super) fn resource(
    check: &mut Check<'_>,
    file: Option<&ResourceFile>,
    issuers: &[IssuerConfig],
    token: &TokenConfig,
    proxy: &ProxyTrust,
) -> Option<ProtectedResource> {
    let file = file?;
    let at = KeyPath::root().key("resource");
    let identifier = match file.identifier.as_str() {
        "request" => ResourceIdentifier::Request,
        url => {
            check.url(&at.key("identifier"), url, false);
            let fixed = ResourceIdentifier::fixed(url).filter(|_| !url.contains('?'));
            if fixed.is_none() {
                check.fault(
                    &at.key("identifier"),
                    "must be `request`, or a URL of scheme, host and a path in normal form, without query",
                );
            }
            fixed.unwrap_or(ResourceIdentifier::Request)
        }
    };
    let scopes = file.scopes.clone().unwrap_or_default();
    if file.scopes.is_some() {
        check.list(&at.key("scopes"), &scopes, "; leave it out to name none");
    }
    rules::scopes(check, &at.key("scopes"), &scopes);
    if let Some(url) = &file.documentation {
        check.url(&at.key("documentation"), url, true);
    }
    let members = members(file, scopes, issuers, token);
    Some(ProtectedResource::new(identifier, proxy.clone(), members))
}

/// RFC 9728 section 2; empty members are left out (section 3.2).
fn members(
    file: &ResourceFile,
    scopes: Vec<String>,
    issuers: &[IssuerConfig],
    token: &TokenConfig,
) -> Map<String, Value> {
    // An issuer identifier is a URL (RFC 8414 section 2); a name of another form leads nowhere.
    let servers = issuers.iter().flat_map(|issuer| issuer.trusted.issuer.names());
    let servers: Vec<_> = servers.filter(|iss| iss.starts_with("https://") || iss.starts_with("http://")).collect();
    let methods: Vec<_> = [("header", "authorization"), ("query", "access_token")]
        .into_iter()
        .filter(|(_, name)| token.settings.from.iter().any(|source| is_standard(source, name)))
        .map(|(method, _)| method.to_owned())
        .collect();
    let takes_dpop = issuers.iter().any(|issuer| issuer.trusted.proof != ProofUse::Ignore);
    let algorithms: Vec<_> = dpop::algorithms().split(' ').filter(|_| takes_dpop).map(str::to_owned).collect();
    let lists = [
        ("authorization_servers", servers),
        ("scopes_supported", scopes),
        ("bearer_methods_supported", methods),
        ("dpop_signing_alg_values_supported", algorithms),
    ];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| (name, json!(list)));
    let documentation = file.documentation.iter().map(|url| ("resource_documentation", json!(url)));
    lists.chain(documentation).map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Whether tokens stand in the place that RFC 6750 section 2 defines; `name` is that of the header or of the
/// parameter.
fn is_standard(source: &TokenSource, name: &str) -> bool {
    match source {
        TokenSource::Header { name: header, .. } => header == name,
        TokenSource::Query(query) => query == name,
        TokenSource::Cookie(_) | TokenSource::ChunkedCookie(_) | TokenSource::WebSocketProtocol(_) => false,
    }
}
