//! The request for the decision: borrowed from Envoy, or owned if it outlives its hook.

use doorward::authz::rule::{RequestView, Source};

use crate::abi::{Unreadable, text};

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
    source: Source<'a>,
}

impl<'a> Request<'a> {
    pub fn read(
        headers: &'a [(&'a str, &'a [u8])],
        rule: Option<&'a str>,
        source: Option<&'a [u8]>,
    ) -> Result<Self, &'static str> {
        let [mut method, mut target, mut host, mut scheme] = [&b""[..]; 4];
        for (name, value) in headers.iter().filter(|(name, _)| name.as_bytes().first() == Some(&b':')) {
            match *name {
                ":method" => method = value,
                ":path" => target = value,
                ":authority" => host = value,
                ":scheme" => scheme = value,
                _ => {}
            }
        }
        let text = |bytes| text(bytes).ok_or("the request line is not UTF-8");
        let [method, target, host, scheme] = [text(method)?, text(target)?, text(host)?, text(scheme)?];
        let source = Source(source.unwrap_or_default());
        Ok(Self { method, target, host, scheme, headers, rule, source })
    }

    pub fn view(&self) -> RequestView<'a> {
        let Self { method, target, host, scheme, headers, rule, source } = *self;
        RequestView { method, target, host, scheme, headers, rule, source, ..RequestView::NOTHING }
    }
}

/// A request that outlives its hook.
pub struct OwnedRequest {
    method: String,
    target: String,
    host: String,
    scheme: String,
    headers: Vec<(String, Vec<u8>)>,
    rule: Option<String>,
    source: Vec<u8>,
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
            source: request.source.0.to_vec(),
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
            source: Source(&self.source),
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
}
