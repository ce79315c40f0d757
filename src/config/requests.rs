//! The places of tokens in requests, and the identity that is sent upstream.

use std::collections::HashMap;
use std::sync::Arc;

use super::check::{Check, header_fault};
use super::fault::KeyPath;
use super::file::{ConfigFile, IdentityFile, PayloadFile, ProfileFile, TokenFile, TokenFromFile};
use super::issuers::claim_path;
use super::schema::either;
use crate::authz::answer::{IdentityField, PayloadProfile};
use crate::authz::signing::PayloadSigner;
use crate::authz::token_source::{TokenSettings, TokenSource};

/// The places of tokens, and whether the upstream sees them.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    pub settings: TokenSettings,
    pub forward: bool,
}

/// The caller's identity as it is sent to the upstream.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Lower-case header names, which differ also after folding `_` and `.` to `-`, as some upstreams do.
    pub headers: Vec<(String, IdentityField)>,
    pub payload: Option<Payload>,
}

/// The identity as one document in one header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payload {
    /// In lower case.
    pub header: String,
    pub signer: Option<Arc<PayloadSigner>>,
    pub profile: PayloadProfile,
}

pub(super) fn token(check: &mut Check<'_>, file: &TokenFile) -> TokenConfig {
    let at = KeyPath::root().key("token").key("from");
    check.list(&at, &file.from, ": without a place no token is found");
    let mut from: Vec<TokenSource> = Vec::new();
    for (index, file) in file.from.iter().enumerate() {
        let at = at.index(index);
        let Some(source) = token_source(check, &at, file) else { continue };
        if from.contains(&source) {
            check.fault(&at, "is written twice");
        }
        from.push(source);
    }
    TokenConfig { settings: TokenSettings { from, max_bytes: file.max_bytes }, forward: file.forward }
}

fn token_source(check: &mut Check<'_>, at: &KeyPath, file: &TokenFromFile) -> Option<TokenSource> {
    let is_token = |text: &str| http::Method::from_bytes(text.as_bytes()).is_ok(); // RFC 9110 section 5.6.2.
    if file.scheme.is_some() && file.header.is_none() {
        check.fault(&at.key("scheme"), "only a `header` has a scheme");
    }
    if file.chunks.is_some() && file.cookie.is_none() {
        check.fault(&at.key("chunks"), "only a `cookie` has chunks");
    }
    match (&file.header, &file.cookie, &file.query, &file.websocket_protocol) {
        (Some(header), None, None, None) => {
            let name = check.header(&at.key("header"), header);
            if name == "cookie" {
                check.fault(&at.key("header"), "must be written as `cookie: NAME`");
            }
            let default = (name == "authorization").then(|| "Bearer".to_owned());
            let scheme = file.scheme.clone().or(default);
            if scheme.as_deref().is_some_and(|scheme| !is_token(scheme)) {
                check.fault(&at.key("scheme"), "must be a scheme such as `Bearer`");
            }
            Some(TokenSource::Header { name, scheme })
        }
        (None, Some(cookie), None, None) => {
            if !is_token(cookie) {
                check.fault(&at.key("cookie"), "must be the name of a cookie (RFC 6265)");
            }
            let chunked = file.chunks == Some(true);
            let source = if chunked { TokenSource::ChunkedCookie } else { TokenSource::Cookie };
            Some(source(cookie.clone()))
        }
        (None, None, Some(query), None) => {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
            if query.is_empty() || !query.bytes().all(plain) {
                check.fault(&at.key("query"), "must be the name of a query parameter, of letters, digits and `-._~`");
            }
            Some(TokenSource::Query(query.clone()))
        }
        (None, None, None, Some(protocol)) => {
            if !is_token(protocol) {
                check.fault(&at.key("websocket_protocol"), "must be the name of a subprotocol such as `bearer`");
            }
            Some(TokenSource::WebSocketProtocol(protocol.clone()))
        }
        _ => {
            check.fault(at, "must have exactly one of `header`, `cookie`, `query`, `websocket_protocol`");
            None
        }
    }
}

pub(super) fn identity(check: &mut Check<'_>, file: &IdentityFile) -> Identity {
    let at = KeyPath::root().key("identity");
    let mut headers = Vec::new();
    for (name, field) in &file.headers {
        let at = at.key("headers").key(name);
        if let Some(message) = identity_header_fault(name) {
            check.key_fault(&at, message);
        }
        let name = name.to_ascii_lowercase();
        headers.extend(identity_field(check, &at, field).map(|field| (name, field)));
    }
    let payload = file.payload.as_ref().map(|file| payload(check, &at.key("payload"), file));
    Identity { headers, payload }
}

fn identity_field(check: &mut Check<'_>, at: &KeyPath, text: &str) -> Option<IdentityField> {
    if let Some(path) = text.strip_prefix("claim:") {
        return Some(IdentityField::Claim(claim_path(check, at, path)));
    }
    if let Some(encoded) = text.strip_prefix("base64:") {
        return match identity_field(check, at, encoded)? {
            IdentityField::ApiClient | IdentityField::Base64(_) => {
                check.fault(at, "must be `base64:` and one field, such as `base64:claim:/name`");
                None
            }
            field => Some(IdentityField::Base64(Box::new(field))),
        };
    }
    let found = IdentityField::named(text);
    if found.is_none() {
        let mut known: Vec<_> = IdentityField::names().map(|name| format!("`{name}`")).collect();
        known.push("a claim such as `claim:/realm_access/roles`".to_owned());
        check.fault(at, format!("must be {}", either(&known)));
    }
    found
}

/// The most dashes: each has three spellings, `-`, `_` and `.`, and all look-alikes are removed.
const MAX_DASHES: usize = 5;

/// Why this cannot be an identity header.
fn identity_header_fault(name: &str) -> Option<String> {
    if let Some(message) = header_fault(name) {
        return Some(message.to_owned());
    }
    let name = name.to_ascii_lowercase();
    let message = if name.contains(['_', '.']) {
        "must be written with `-`: servers fold `_` and `.` onto it, or drop such headers".to_owned()
    } else if name.matches('-').count() > MAX_DASHES {
        format!("must have at most {MAX_DASHES} dashes: each triples the look-alikes to be removed")
    } else if name.starts_with("x-envoy-") || RESERVED.contains(&name.as_str()) {
        "must be another header: this one has a different meaning for servers".to_owned()
    } else {
        return None;
    };
    Some(message)
}

/// Headers that control the request, or that belong to others.
const RESERVED: [&str; 24] = [
    "accept",
    "authorization",
    "content-encoding",
    "content-type",
    "cookie",
    "dpop",
    "dpop-nonce",
    "expect",
    "forwarded",
    "origin",
    "range",
    "referer",
    "set-cookie",
    "traceparent",
    "tracestate",
    "via",
    "x-doorward-stale",
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-method",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-request-id",
];

fn payload(check: &mut Check<'_>, at: &KeyPath, file: &PayloadFile) -> Payload {
    if let Some(message) = identity_header_fault(&file.header) {
        check.fault(&at.key("header"), message);
    }
    let header = file.header.to_ascii_lowercase();
    let signer = file.sign.as_ref().and_then(|file| {
        let at = at.key("sign");
        let ttl = *file.ttl;
        let read = |pem: &str| PayloadSigner::from_pem(pem, ttl).map(Arc::new);
        check.signing_key(&at.key("key_file"), &file.key_file, read)
    });
    let is_transaction = file.profile == ProfileFile::TxnToken;
    if is_transaction && file.sign.is_none() {
        check.fault(&at.key("profile"), "needs `sign`: a transaction token is signed");
    }
    if is_transaction != file.audience.is_some() {
        check.fault(
            &at.key("audience"),
            "must be the name of the trust domain with `profile: txn-token`, and is left out otherwise",
        );
    }
    if let Some(audience) = &file.audience {
        check.text(&at.key("audience"), audience);
    }
    let profile = match &file.audience {
        Some(audience) if is_transaction => PayloadProfile::Transaction { audience: audience.clone() },
        _ => PayloadProfile::Identity,
    };
    Payload { header, signer, profile }
}

/// Every header has one meaning: Doorward must not set a header that it reads.
pub(super) fn header_uses(check: &mut Check<'_>, file: &ConfigFile) {
    let root = KeyPath::root();
    let token = root.key("token").key("from");
    let sources = file.token.from.iter().enumerate();
    let read = sources.filter_map(|(index, from)| Some((token.index(index).key("header"), from.header.as_ref()?)));
    let keys = root.key("api_keys");
    let mut uses: Vec<_> = read.collect();
    uses.push((keys.key("header"), &file.api_keys.header));
    uses.push((keys.key("platform_header"), &file.api_keys.platform_header));
    let headers = root.key("identity").key("headers");
    uses.extend(file.identity.headers.keys().map(|name| (headers.key(name), name)));
    if let Some(payload) = &file.identity.payload {
        uses.push((root.key("identity").key("payload").key("header"), &payload.header));
    }
    let mut taken: HashMap<String, KeyPath> = HashMap::new();
    for (at, name) in uses {
        let folded = name.to_ascii_lowercase().replace(['_', '.'], "-");
        match taken.get(&folded) {
            // Two schemes in one header, such as Bearer and DPoP.
            Some(other) if token.contains(other) && token.contains(&at) => {}
            Some(other) => check.key_fault(&at, format!("must be another header than `{other}`")),
            None => {
                taken.insert(folded, at);
            }
        }
    }
}
