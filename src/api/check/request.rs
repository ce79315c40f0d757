//! A `CheckRequest`, read in place: the few fields that a decision needs, borrowed from the bytes.
//!
//! Decoding all of it takes longer than deciding. Fields that are not needed are skipped like those of a
//! newer Envoy. A repeated message is merged, and the last of a map's equal keys counts, as Protocol Buffers
//! require; the result is that of prost, message for message.

use super::fields::{Fields, Malformed};
use super::mcp;
use crate::authz::mcp::McpMessage;
use crate::authz::rule::{RequestView, Source};

/// The parts of a `CheckRequest`.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct CheckRequest<'a> {
    method: &'a str,
    path: &'a str,
    host: &'a str,
    scheme: &'a str,
    /// `headers`, then `header_map`, which Envoy fills with `encode_raw_headers`: repeated fields stay apart
    /// there, and values are bytes.
    headers: Vec<(&'a str, &'a [u8])>,
    rule: Option<&'a str>,
    /// The downstream address: the client's, if Envoy is configured to trust `x-forwarded-for`.
    source: &'a str,
    /// The certificate of the downstream connection, with `include_peer_certificate`.
    certificate: &'a str,
    /// As Envoy's MCP filter read it; `None`, too, if there is more than one `metadata_context`.
    mcp: Option<McpMessage<'a>>,
}

/// The route's choice of a rule.
const RULE_EXTENSION: &str = "doorward.rule";

/// Why a message cannot be decided.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unusable {
    Malformed,
    /// The message has no HTTP request.
    NoRequest,
    TooManyHeaders,
}

impl Unusable {
    pub(super) const fn detail(self) -> &'static str {
        match self {
            Self::Malformed => "the CheckRequest cannot be read",
            Self::NoRequest => "the CheckRequest has no HTTP request",
            Self::TooManyHeaders => "the request has more header fields than `limits.request_headers`",
        }
    }
}

impl From<Malformed> for Unusable {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl<'a> CheckRequest<'a> {
    /// Reads a message; header fields are counted as they are sent.
    pub(super) fn read(message: &'a [u8], max_headers: usize) -> Result<Self, Unusable> {
        let (read, raw) = (Self::default(), Vec::new());
        let mut reader = Reader { read, raw, fields: 0, max_headers, has_http: false, metadata: 0 };
        let mut message = Fields(message);
        while let Some((number, value)) = message.next()? {
            if number == 1 {
                reader.attributes(value.message()?)?;
            }
        }
        if !reader.has_http {
            return Err(Unusable::NoRequest);
        }
        let mut read = reader.read;
        read.headers.append(&mut reader.raw);
        Ok(read)
    }

    pub(super) fn view(&self) -> RequestView<'_> {
        let Self { method, path: target, host, scheme, ref headers, rule, source, certificate, mcp } = *self;
        RequestView { method, target, host, scheme, headers, rule, source: Source(source.as_bytes()), certificate, mcp }
    }
}

struct Reader<'a> {
    read: CheckRequest<'a>,
    raw: Vec<(&'a str, &'a [u8])>,
    /// Header fields so far, including overwritten ones.
    fields: usize,
    max_headers: usize,
    has_http: bool,
    /// How many times metadata stood in it.
    metadata: usize,
}

/// More fields than most requests have, so that their list seldom grows.
const USUAL_HEADERS: usize = 32;

impl<'a> Reader<'a> {
    /// `envoy.service.auth.v3.AttributeContext`
    fn attributes(&mut self, mut message: Fields<'a>) -> Result<(), Unusable> {
        while let Some((number, value)) = message.next()? {
            match number {
                1 => self.source(value.message()?)?,
                4 => self.request(value.message()?)?,
                10 => {
                    let (name, rule) = entry(value.message()?)?;
                    if name == RULE_EXTENSION {
                        self.read.rule = Some(rule);
                    }
                }
                11 => {
                    self.metadata += 1;
                    self.read.mcp = mcp::message(value).filter(|_| self.metadata == 1);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// `envoy.service.auth.v3.AttributeContext.Peer`, then `Address` and `SocketAddress` of
    /// `envoy.config.core.v3`.
    fn source(&mut self, mut peer: Fields<'a>) -> Result<(), Unusable> {
        while let Some((number, value)) = peer.next()? {
            match number {
                1 => self.address(value.message()?)?,
                5 => self.read.certificate = value.text()?,
                _ => {}
            }
        }
        Ok(())
    }

    fn address(&mut self, mut address: Fields<'a>) -> Result<(), Unusable> {
        while let Some((number, value)) = address.next()? {
            if number == 1 {
                self.socket_address(value.message()?)?;
            }
        }
        Ok(())
    }

    fn socket_address(&mut self, mut message: Fields<'a>) -> Result<(), Unusable> {
        while let Some((number, value)) = message.next()? {
            if number == 2 {
                self.read.source = value.text()?;
            }
        }
        Ok(())
    }

    /// `envoy.service.auth.v3.AttributeContext.Request`
    fn request(&mut self, mut message: Fields<'a>) -> Result<(), Unusable> {
        while let Some((number, value)) = message.next()? {
            if number == 2 {
                self.has_http = true;
                self.http(value.message()?)?;
            }
        }
        Ok(())
    }

    /// `envoy.service.auth.v3.AttributeContext.HttpRequest`
    fn http(&mut self, mut message: Fields<'a>) -> Result<(), Unusable> {
        while let Some((number, value)) = message.next()? {
            match number {
                2 => self.read.method = value.text()?,
                3 => {
                    let (name, value) = entry(value.message()?)?;
                    self.count()?;
                    self.set(name, value.as_bytes());
                }
                4 => self.read.path = value.text()?,
                5 => self.read.host = value.text()?,
                6 => self.read.scheme = value.text()?,
                13 => self.header_map(value.message()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// `envoy.config.core.v3.HeaderMap`
    fn header_map(&mut self, mut message: Fields<'a>) -> Result<(), Unusable> {
        while let Some((number, value)) = message.next()? {
            if number == 1 {
                let header = raw_header(value.message()?)?;
                self.count()?;
                self.raw.push(header);
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), Unusable> {
        self.fields += 1;
        if self.fields > self.max_headers { Err(Unusable::TooManyHeaders) } else { Ok(()) }
    }

    fn set(&mut self, name: &'a str, value: &'a [u8]) {
        let headers = &mut self.read.headers;
        if let Some(known) = headers.iter_mut().find(|(known, _)| *known == name) {
            known.1 = value;
            return;
        }
        if headers.capacity() == 0 {
            headers.reserve(USUAL_HEADERS);
        }
        headers.push((name, value));
    }
}

/// An entry of a `map<string, string>`.
fn entry(mut message: Fields<'_>) -> Result<(&str, &str), Malformed> {
    let (mut key, mut text) = ("", "");
    while let Some((number, value)) = message.next()? {
        match number {
            1 => key = value.text()?,
            2 => text = value.text()?,
            _ => {}
        }
    }
    Ok((key, text))
}

/// `envoy.config.core.v3.HeaderValue`; Envoy fills either of its values.
fn raw_header(mut message: Fields<'_>) -> Result<(&str, &[u8]), Malformed> {
    let (mut key, mut text, mut raw) = ("", "", &[][..]);
    while let Some((number, value)) = message.next()? {
        match number {
            1 => key = value.text()?,
            2 => text = value.text()?,
            3 => raw = value.bytes()?,
            _ => {}
        }
    }
    Ok((key, if raw.is_empty() { text.as_bytes() } else { raw }))
}

#[cfg(test)]
mod tests;
