//! The request for the decision: borrowed from Envoy, or owned if it outlives its hook.

use std::net::{IpAddr, SocketAddr};

use doorward::authz::rule::RequestView;

use crate::abi::Unreadable;

/// Like Envoy (`Grpc::Common::hasGrpcContentType`).
pub fn is_grpc(content_type: &[u8]) -> bool {
    content_type.strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
}

pub const fn detail(unreadable: Unreadable) -> &'static str {
    match unreadable {
        Unreadable::TooMany => "the request has more header fields than `limits.request_headers`",
        Unreadable::Missing => "the request has no header fields",
        Unreadable::Name => "the name of a header field is not UTF-8",
    }
}

/// The request, borrowed from Envoy.
pub struct Request<'a> {
    method: &'a str,
    target: &'a str,
    host: &'a str,
    scheme: &'a str,
    headers: &'a [(&'a str, &'a [u8])],
    rule: Option<&'a str>,
    source: Option<IpAddr>,
}

impl<'a> Request<'a> {
    pub fn read(
        headers: &'a [(&'a str, &'a [u8])],
        rule: Option<&'a str>,
        source: Option<&[u8]>,
    ) -> Result<Self, &'static str> {
        let [mut method, mut target, mut host, mut scheme] = [&b""[..]; 4];
        for (name, value) in headers.iter().filter(|(name, _)| name.starts_with(':')) {
            match *name {
                ":method" => method = value,
                ":path" => target = value,
                ":authority" => host = value,
                ":scheme" => scheme = value,
                _ => {}
            }
        }
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "the request line is not UTF-8");
        let source = source.and_then(|source| std::str::from_utf8(source).ok()).and_then(address);
        let [method, target, host, scheme] = [text(method)?, text(target)?, text(host)?, text(scheme)?];
        Ok(Self { method, target, host, scheme, headers, rule, source })
    }

    pub fn view(&self) -> RequestView<'a> {
        let Self { method, target, host, scheme, headers, rule, source } = *self;
        RequestView { method, target, host, scheme, headers, rule, source, ..RequestView::NOTHING }
    }
}

/// An address with its port (since Envoy 1.40) or without.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| text.parse()).ok()
}

/// A request that outlives its hook.
pub struct OwnedRequest {
    method: String,
    target: String,
    host: String,
    scheme: String,
    headers: Vec<(String, Vec<u8>)>,
    rule: Option<String>,
    source: Option<IpAddr>,
}

impl OwnedRequest {
    pub fn of(request: &Request<'_>) -> Self {
        Self {
            method: request.method.to_owned(),
            target: request.target.to_owned(),
            host: request.host.to_owned(),
            scheme: request.scheme.to_owned(),
            headers: request.headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
            rule: request.rule.map(str::to_owned),
            source: request.source,
        }
    }

    pub fn headers(&self) -> Vec<(&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()
    }

    pub fn view<'a>(&'a self, headers: &'a [(&'a str, &'a [u8])]) -> RequestView<'a> {
        RequestView {
            method: &self.method,
            target: &self.target,
            host: &self.host,
            scheme: &self.scheme,
            headers,
            rule: self.rule.as_deref(),
            source: self.source,
            ..RequestView::NOTHING
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_answers_are_those_of_envoy() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("", false),
        ] {
            assert_eq!(is_grpc(content_type.as_bytes()), expected, "{content_type}");
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
            assert_eq!(address(text), expected.map(|text| text.parse().unwrap()), "{text}");
        }
    }
}
