//! Finds the token of a request, and ensures that there is only one.

use std::borrow::Cow;

use super::denial::Denial;
use super::dpop;
use super::readings::decode_once;
use super::rule::RequestView;
use super::token::{BearerToken, strip_scheme};

/// The places of tokens in requests.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    pub from: Vec<TokenSource>,
    pub max_bytes: usize,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TokenSource {
    /// A header field; with a scheme (RFC 9110 section 11.4) or bare.
    Header {
        name: String,
        scheme: Option<String>,
    },
    Cookie(String),
    /// A cookie that may be cut into `NAME_0`, `NAME_1`, … or `NAME.0`, `NAME.1`, ….
    ChunkedCookie(String),
    Query(String),
    /// The item after this one in `Sec-WebSocket-Protocol`: browsers cannot set other headers of a WebSocket.
    WebSocketProtocol(String),
}

/// The field in which a WebSocket's client offers subprotocols (RFC 6455 section 11.3.4).
pub(super) const WEBSOCKET_PROTOCOL: &str = "sec-websocket-protocol";

/// A token found in a request.
#[derive(Clone, Debug)]
pub struct FoundToken<'a> {
    text: Cow<'a, [u8]>,
    scheme: Scheme,
}

/// The declared use of a request's token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// As a bearer token (RFC 6750).
    Bearer,
    /// With a proof (RFC 9449 section 7.1).
    Dpop,
    /// Not declared.
    Unsaid,
}

impl FoundToken<'_> {
    #[must_use]
    pub fn bearer(&self) -> BearerToken<'_> {
        BearerToken::of_checked(&self.text)
    }

    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }
}

/// The tokens of a request, each once.
#[derive(Debug, Default)]
pub struct Found<'a> {
    /// `None` when all are empty or absent.
    pub first: Option<FoundToken<'a>>,
    pub others: Vec<FoundToken<'a>>,
    /// Why the value at a token's place is not a token.
    pub denial: Option<Denial>,
    /// Whether the tokens are only in cookies, which a browser also sends on requests of other sites.
    pub only_cookies: bool,
}

impl<'a> Found<'a> {
    /// The most different tokens, more than leftovers explain; each may cost a signature check.
    const MAX: usize = 8;

    pub fn tokens(&self) -> impl Iterator<Item = &FoundToken<'a>> {
        self.first.iter().chain(&self.others)
    }

    fn take(&mut self, text: Cow<'a, [u8]>, scheme: Scheme) {
        let token = FoundToken { text, scheme };
        if self.first.is_none() {
            self.first = Some(token);
        } else if self.tokens().all(|known| known.text != token.text) {
            if self.others.len() + 1 < Self::MAX {
                self.others.push(token);
            } else {
                self.refuse(Denial::MultipleTokens);
            }
        }
    }

    /// Reads a value; an emptied one counts as absent.
    fn take_value(&mut self, value: &'a [u8], max_bytes: usize) {
        if is_emptied(value) {
            return;
        }
        match BearerToken::parse(value, max_bytes) {
            Ok(token) => self.take(Cow::Borrowed(token.as_bytes()), Scheme::Unsaid),
            Err(denial) => self.refuse(denial),
        }
    }

    fn refuse(&mut self, denial: Denial) {
        self.denial.get_or_insert(denial);
    }
}

/// The schemes that are accepted if this one is configured, each with the declared use of the token.
fn schemes(configured: &str) -> impl Iterator<Item = (&str, Scheme)> {
    let is_bearer = configured.eq_ignore_ascii_case(BEARER);
    let kind = if is_bearer {
        Scheme::Bearer
    } else if configured.eq_ignore_ascii_case(dpop::SCHEME) {
        Scheme::Dpop
    } else {
        Scheme::Unsaid
    };
    [(configured, kind)].into_iter().chain(is_bearer.then_some((dpop::SCHEME, Scheme::Dpop)))
}

impl TokenSettings {
    /// Every token of a request, those in cookies last. An emptied value counts as absent, because that is how cookies
    /// are removed.
    #[must_use]
    pub fn find<'a>(&self, request: &RequestView<'a>) -> Found<'a> {
        let (mut found, mut cookies) = (Found::default(), Found::default());
        for source in &self.from {
            match source {
                TokenSource::Header { name, scheme: Some(scheme) } => {
                    self.find_credentials(request, name, scheme, &mut found);
                }
                TokenSource::Header { name, scheme: None } => {
                    // Envoy joins repeated fields with commas, which a token does not contain.
                    let fields = request.header(name).flat_map(|field| field.split(|b| *b == b','));
                    let mut fields = fields.map(<[u8]>::trim_ascii).filter(|field| !is_emptied(field));
                    let Some(field) = fields.next() else { continue };
                    found.take_value(field, self.max_bytes);
                    for other in fields {
                        found.refuse(Denial::MultipleTokens); // RFC 9110 section 5.3: not a list field.
                        found.take_value(other, self.max_bytes);
                    }
                }
                TokenSource::Cookie(name) => self.find_cookie(request, name, &mut cookies),
                TokenSource::ChunkedCookie(name) => {
                    self.find_cookie(request, name, &mut cookies);
                    for mark in ["_", "."] {
                        self.find_chunks(request, &format!("{name}{mark}"), &mut cookies);
                    }
                }
                TokenSource::Query(name) => {
                    for value in query_pairs(request).filter_map(|pair| value_of(pair, name, decode_once)) {
                        match value {
                            Ok(value) => found.take_value(value, self.max_bytes),
                            Err(denial) => found.refuse(denial),
                        }
                    }
                }
                TokenSource::WebSocketProtocol(protocol) => {
                    for token in Offer::read(request, protocol).tokens {
                        found.take_value(token, self.max_bytes);
                    }
                }
            }
        }
        found.only_cookies = found.first.is_none() && found.denial.is_none();
        for token in cookies.first.into_iter().chain(cookies.others) {
            found.take(token.text, token.scheme);
        }
        found.denial = found.denial.or(cookies.denial);
        found
    }

    /// The token of a request at the only place where one may stand, if that is a header field with a scheme, sent once.
    /// Its form is not checked: the caller must know it.
    pub(super) fn alone<'a>(&self, request: &RequestView<'a>) -> Option<FoundToken<'a>> {
        let [TokenSource::Header { name, scheme: Some(scheme) }] = &*self.from else { return None };
        let mut fields = request.header(name);
        let (Some(field), None) = (fields.next(), fields.next()) else { return None };
        let (text, scheme) = schemes(scheme).find_map(|(scheme, kind)| Some((strip_scheme(field, scheme)?, kind)))?;
        (text.len() <= self.max_bytes).then_some(FoundToken { text: Cow::Borrowed(text), scheme })
    }

    /// The token after a scheme; where `Bearer` is accepted, `DPoP` is as well.
    fn credentials<'a>(&self, field: &'a [u8], scheme: &str) -> Result<Option<(BearerToken<'a>, Scheme)>, Denial> {
        for (scheme, kind) in schemes(scheme) {
            if let Some(token) = BearerToken::from_credentials(field, scheme, self.max_bytes)? {
                return Ok(Some((token, kind)));
            }
        }
        Ok(None)
    }

    /// Finds the token of an `Authorization` field. More than one field with one token is refused if a token must be
    /// valid; each is found nevertheless, for rules that sign out or in.
    fn find_credentials<'a>(&self, request: &RequestView<'a>, name: &str, scheme: &str, found: &mut Found<'a>) {
        let mut fields = request.header(name);
        let (first, second) = (fields.next(), fields.next());
        if second.is_some() && !request.header(name).all(is_emptied) {
            found.refuse(Denial::MultipleTokens); // RFC 9110 section 5.3: not a list field.
        }
        for field in first.into_iter().chain(second).chain(fields) {
            match self.credentials(field, scheme) {
                Ok(token) => {
                    if let Some((token, kind)) = token {
                        found.take(Cow::Borrowed(token.as_bytes()), kind);
                    }
                }
                Err(denial) => {
                    found.refuse(denial);
                    for (scheme, kind) in schemes(scheme) {
                        for token in BearerToken::all_in(field, scheme, self.max_bytes) {
                            found.take(Cow::Borrowed(token.as_bytes()), kind);
                        }
                    }
                }
            }
        }
    }

    fn find_cookie<'a>(&self, request: &RequestView<'a>, name: &str, found: &mut Found<'a>) {
        for value in cookies(request).filter_map(|pair| value_of(pair, name, <[u8]>::trim_ascii_end)) {
            match value {
                Ok(value) => found.take_value(unquoted(value), self.max_bytes),
                Err(denial) => found.refuse(denial),
            }
        }
    }

    /// Joins chunks, from 0 to the first missing or empty one.
    fn find_chunks<'a>(&self, request: &RequestView<'a>, prefix: &str, found: &mut Found<'a>) {
        let mut whole = Vec::new();
        for number in 0..MAX_CHUNKS {
            let name = format!("{prefix}{number}");
            let mut values = cookies(request).filter_map(|pair| value_of(pair, &name, <[u8]>::trim_ascii_end));
            let chunk = match values.next() {
                None => break,
                Some(Err(denial)) => return found.refuse(denial),
                Some(Ok(chunk)) => unquoted(chunk),
            };
            if values.any(|other| other.map(unquoted) != Ok(chunk)) {
                return found.refuse(Denial::MultipleTokens);
            }
            if is_emptied(chunk) || whole.len() > self.max_bytes {
                break;
            }
            whole.extend_from_slice(chunk);
        }
        if whole.is_empty() {
            return;
        }
        match BearerToken::parse(&whole, self.max_bytes) {
            Ok(token) => found.take(Cow::Owned(token.as_bytes().to_owned()), Scheme::Unsaid),
            Err(denial) => found.refuse(denial),
        }
    }
}

/// The scheme of bearer tokens (RFC 6750 section 2.1).
const BEARER: &str = "Bearer";

/// The most chunks, more than a browser stores for one site, at 4 KiB each.
const MAX_CHUNKS: usize = 50;

fn cookies<'a>(request: &RequestView<'a>) -> impl Iterator<Item = &'a [u8]> {
    request.header("cookie").flat_map(|field| field.split(|b| *b == b';')).map(<[u8]>::trim_ascii)
}

/// Whether a value was emptied: it has only quotes and white space, escaped or not.
pub(super) fn is_emptied(value: &[u8]) -> bool {
    let mut rest = value;
    while let [first, ..] = rest {
        rest = match rest {
            [b'%', b'2', b'0' | b'2' | b'7', after @ ..] => after,
            [_, after @ ..] if matches!(first, b'"' | b'\'') || first.is_ascii_whitespace() => after,
            _ => return false,
        };
    }
    true
}

/// A cookie's value without the quotes that it may have (RFC 6265 section 4.1.1).
fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        plain => plain,
    }
}

/// The pairs of the query, not decoded.
fn query_pairs<'a>(request: &RequestView<'a>) -> impl Iterator<Item = &'a [u8]> {
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    query.split('#').next().unwrap_or_default().split('&').map(str::as_bytes)
}

/// Every spelling of a parameter's name that the query has.
pub(super) fn spellings_in_query<'a>(request: &RequestView<'a>, name: &str) -> Vec<&'a str> {
    let names = query_pairs(request).filter_map(|pair| pair.split(|b| *b == b'=').next());
    let spelled = names.filter(|spelled| decode_once(spelled) == name.as_bytes());
    spelled.filter_map(|spelled| std::str::from_utf8(spelled).ok()).collect()
}

/// The subprotocols that a WebSocket's client offers: each item after the marker is a token, and the others are not.
#[derive(Default)]
pub(super) struct Offer<'a> {
    pub(super) has_word: bool,
    pub(super) tokens: Vec<&'a [u8]>,
    pub(super) rest: Vec<&'a [u8]>,
}

impl<'a> Offer<'a> {
    pub(super) fn read(request: &RequestView<'a>, protocol: &str) -> Self {
        let items = request.header(WEBSOCKET_PROTOCOL).flat_map(|field| field.split(|b| *b == b','));
        let mut items = items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty()).peekable();
        let mut offer = Self::default();
        while let Some(item) = items.next() {
            if item == protocol.as_bytes() {
                offer.has_word = true;
                offer.tokens.extend(items.next_if(|next| *next != protocol.as_bytes()));
            } else {
                offer.rest.push(item);
            }
        }
        offer
    }
}

impl TokenSource {
    /// Whether a cookie of this name is a token or part of one.
    pub(super) fn is_cookie(&self, name: &[u8]) -> bool {
        match self {
            Self::Cookie(ours) => ours.as_bytes() == name,
            Self::ChunkedCookie(ours) => match name.strip_prefix(ours.as_bytes()) {
                Some([]) => true,
                Some([b'_' | b'.', digits @ ..]) => !digits.is_empty() && digits.iter().all(u8::is_ascii_digit),
                _ => false,
            },
            Self::Header { .. } | Self::Query(_) | Self::WebSocketProtocol(_) => false,
        }
    }

    /// Whether this field of a request may have a token; not if it only has credentials of another scheme, such as
    /// those of a client that logs in by `Basic`.
    ///
    /// A field that the proxy did not send may have any value.
    #[must_use]
    pub fn may_stand_in(&self, request: &RequestView<'_>) -> bool {
        let Self::Header { name, scheme: Some(scheme) } = self else { return true };
        let dpop = scheme.eq_ignore_ascii_case(BEARER).then_some(dpop::SCHEME);
        let begins = |text: &[u8], scheme: &str| {
            text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
        };
        let is_ours = |text: &[u8]| begins(text, scheme) || dpop.is_some_and(|dpop| begins(text, dpop));
        let names_ours = |field: &[u8]| field.split(|b| b.is_ascii_whitespace() || *b == b',').any(is_ours);
        let mut fields = request.header(name).peekable();
        fields.peek().is_none() || fields.any(names_ours)
    }
}

impl TokenSettings {
    /// Puts a token into a request, at the first configured place.
    pub fn put(&self, token: &str, fields: &mut Vec<(String, String)>, target: &mut String) {
        match self.from.first() {
            Some(TokenSource::Header { name, scheme: Some(scheme) }) => {
                fields.push((name.clone(), format!("{scheme} {token}")));
            }
            Some(TokenSource::Header { name, scheme: None }) => fields.push((name.clone(), token.to_owned())),
            Some(TokenSource::Cookie(name) | TokenSource::ChunkedCookie(name)) => {
                fields.push(("cookie".to_owned(), format!("{name}={token}")));
            }
            Some(TokenSource::WebSocketProtocol(protocol)) => {
                fields.push((WEBSOCKET_PROTOCOL.to_owned(), format!("{protocol}, {token}")));
            }
            Some(TokenSource::Query(name)) => {
                let and = if target.contains('?') { "&" } else { "?" };
                target.extend([and, name, "=", token]);
            }
            None => {}
        }
    }
}

/// The value of a pair of this name. A pair whose name matches only in a lenient reading is malformed: the upstream
/// may find a different token there.
fn value_of<'a, R: AsRef<[u8]>>(
    pair: &'a [u8],
    name: &str,
    lenient: impl Fn(&'a [u8]) -> R,
) -> Option<Result<&'a [u8], Denial>> {
    let (spelled, value) = pair.split_at(pair.iter().position(|b| *b == b'=')?);
    match spelled {
        exact if exact == name.as_bytes() => Some(Ok(&value[1..])),
        odd if lenient(odd).as_ref() == name.as_bytes() && !is_emptied(&value[1..]) => {
            Some(Err(Denial::MalformedToken))
        }
        _ => None,
    }
}
