//! Where a request's token stands, and that there is one.

use super::denial::Denial;
use super::readings::decode_once;
use super::rule::RequestView;
use super::token::BearerToken;

/// Where tokens stand in requests.
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
    Query(String),
}

impl TokenSettings {
    /// The one token of the request; the same token in two places is one, two tokens are refused.
    pub fn find<'a>(&self, request: &RequestView<'a>) -> Result<Option<BearerToken<'a>>, Denial> {
        let mut found: Option<BearerToken<'a>> = None;
        let mut take = |token: BearerToken<'a>| match found.replace(token) {
            Some(other) if other != token => Err(Denial::MultipleTokens),
            _ => Ok(()),
        };
        for source in &self.from {
            match source {
                TokenSource::Header { name, scheme } => {
                    let mut fields = request.header(name);
                    let Some(field) = fields.next() else { continue };
                    if fields.next().is_some() {
                        return Err(Denial::MultipleTokens); // RFC 9110 section 5.3: not a list field.
                    }
                    let token = match scheme {
                        Some(scheme) => BearerToken::from_credentials(field, scheme, self.max_bytes)?,
                        None => Some(BearerToken::parse(field, self.max_bytes)?),
                    };
                    token.map_or(Ok(()), &mut take)?;
                }
                TokenSource::Cookie(name) => {
                    let pairs = request.header("cookie").flat_map(|field| field.split(|b| *b == b';'));
                    for value in pairs.filter_map(|pair| value_of(pair.trim_ascii(), name, <[u8]>::trim_ascii_end)) {
                        take(BearerToken::parse(value?, self.max_bytes)?)?;
                    }
                }
                TokenSource::Query(name) => {
                    let query = request.target.split_once('?').map_or("", |(_, query)| query);
                    let query = query.split('#').next().unwrap_or_default();
                    for value in query.split('&').filter_map(|pair| value_of(pair.as_bytes(), name, decode_once)) {
                        take(BearerToken::parse(value?, self.max_bytes)?)?;
                    }
                }
            }
        }
        Ok(found)
    }
}

impl TokenSource {
    /// Whether a token may stand in this field of a request; not if all that it says are credentials of
    /// another scheme, such as those of a client that logs in by `Basic`.
    ///
    /// A field that the proxy did not tell of may hold anything.
    #[must_use]
    pub fn may_stand_in(&self, request: &RequestView<'_>) -> bool {
        let Self::Header { name, scheme: Some(scheme) } = self else { return true };
        let is_ours =
            |word: &[u8]| word.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()));
        let names_ours = |field: &[u8]| field.split(|b| b.is_ascii_whitespace() || *b == b',').any(is_ours);
        let mut fields = request.header(name).peekable();
        fields.peek().is_none() || fields.any(names_ours)
    }
}

impl TokenSettings {
    /// Puts a token into a request, where one is looked for first.
    pub fn put(&self, token: &str, fields: &mut Vec<(String, String)>, target: &mut String) {
        match self.from.first() {
            Some(TokenSource::Header { name, scheme: Some(scheme) }) => {
                fields.push((name.clone(), format!("{scheme} {token}")));
            }
            Some(TokenSource::Header { name, scheme: None }) => fields.push((name.clone(), token.to_owned())),
            Some(TokenSource::Cookie(name)) => fields.push(("cookie".to_owned(), format!("{name}={token}"))),
            Some(TokenSource::Query(name)) => {
                let and = if target.contains('?') { "&" } else { "?" };
                target.extend([and, name, "=", token]);
            }
            None => {}
        }
    }
}

/// The value of a pair of this name. One whose name is so only when it is read leniently is malformed: the
/// upstream may well find a token there, and another one than ours.
fn value_of<'a, R: AsRef<[u8]>>(
    pair: &'a [u8],
    name: &str,
    lenient: impl Fn(&'a [u8]) -> R,
) -> Option<Result<&'a [u8], Denial>> {
    let (spelled, value) = pair.split_at(pair.iter().position(|b| *b == b'=')?);
    match spelled {
        exact if exact == name.as_bytes() => Some(Ok(&value[1..])),
        odd if lenient(odd).as_ref() == name.as_bytes() => Some(Err(Denial::MalformedToken)),
        _ => None,
    }
}
