//! The URI of a request as its client wrote it, and the proxy's trusted statements about it.
//!
//! A DPoP proof names its URI (`htu`). Two spellings of one URI are compared after the syntax-based and scheme-based
//! normalization of RFC 3986 sections 6.2.2 and 6.2.3 (RFC 9449 section 4.3).

use std::net::Ipv6Addr;

use super::certificate::{CertificateSource, FORWARDED};
use super::rule::RequestView;

/// The trusted statements of the proxy in front about requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxyTrust {
    pub scheme: SchemeSource,
    pub host: PartSource,
    pub path: PartSource,
    pub certificate: CertificateSource,
}

impl Default for ProxyTrust {
    fn default() -> Self {
        Self {
            scheme: SchemeSource::Part(PartSource::Request),
            host: PartSource::Request,
            path: PartSource::Request,
            certificate: CertificateSource::Connection,
        }
    }
}

/// The source of the client's scheme.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SchemeSource {
    /// TLS ends before the proxy, and there is no other access.
    Https,
    Part(PartSource),
}

/// The source of a part of the URI.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PartSource {
    /// In the request itself.
    Request,
    /// In this header, which a gateway sets or removes on every request.
    Header(String),
}

impl PartSource {
    /// `None` if the header is missing, repeated or not ASCII.
    fn of<'a>(&self, request: &RequestView<'a>, own: &'a str) -> Option<&'a str> {
        let Self::Header(name) = self else { return Some(own) };
        let mut fields = request.header(name);
        let field = fields.next().filter(|field| field.is_ascii())?;
        // Envoy joins repeated fields with commas.
        let is_one = fields.next().is_none() && !field.contains(&b',');
        std::str::from_utf8(field).ok().filter(|_| is_one)
    }
}

impl ProxyTrust {
    /// The normal form of the request's URI without its query; an error names the setting whose part is missing.
    pub fn uri(&self, request: &RequestView<'_>) -> Result<String, &'static str> {
        Ok(format!("{}{}", self.origin(request)?, self.path(request)?))
    }

    /// Scheme, host and port of it.
    pub fn origin(&self, request: &RequestView<'_>) -> Result<String, &'static str> {
        let scheme = match &self.scheme {
            SchemeSource::Https => Some("https"),
            SchemeSource::Part(part) => part.of(request, request.scheme),
        };
        let scheme = scheme.and_then(normal_scheme).ok_or("proxy.scheme")?;
        let host = self.host.of(request, request.host).ok_or("proxy.host")?;
        let authority = normal_authority(scheme, host).ok_or("proxy.host")?;
        Ok(format!("{scheme}://{authority}"))
    }

    /// The path of it.
    pub fn path(&self, request: &RequestView<'_>) -> Result<String, &'static str> {
        let target = self.path.of(request, request.target).ok_or("proxy.path")?;
        normal_path(without_query(target)).ok_or("proxy.path")
    }
}

impl ProxyTrust {
    /// The trusted headers.
    pub fn headers(&self) -> impl Iterator<Item = &str> {
        let scheme = match &self.scheme {
            SchemeSource::Https => None,
            SchemeSource::Part(part) => Some(part),
        };
        let parts = scheme.into_iter().chain([&self.host, &self.path]).filter_map(|part| match part {
            PartSource::Request => None,
            PartSource::Header(name) => Some(name.as_str()),
        });
        parts.chain((self.certificate == CertificateSource::ForwardedHeader).then_some(FORWARDED))
    }
}

/// The normal form of an absolute URI without its query and fragment; `None` if it is not one of `http` or `https`.
#[must_use]
pub fn normal_uri(uri: &str) -> Option<String> {
    let (scheme, rest) = without_query(uri).split_once("://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = normal_scheme(scheme)?;
    Some(format!("{scheme}://{}{}", normal_authority(scheme, authority)?, normal_path(path)?))
}

fn without_query(uri: &str) -> &str {
    uri.split(['?', '#']).next().unwrap_or_default()
}

fn normal_scheme(scheme: &str) -> Option<&'static str> {
    ["https", "http"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known))
}

/// Host and port: letters in lower case, a port in its shortest form and without the scheme's own (RFC 3986 sections
/// 6.2.2.1 and 6.2.3).
fn normal_authority(scheme: &str, authority: &str) -> Option<String> {
    let (host, port) = if let Some(literal) = authority.strip_prefix('[') {
        let (address, port) = literal.split_once(']')?;
        (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), port)
    } else {
        let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
        // Userinfo and escapes are refused: clients do not write a host with them.
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        let is_host = host.bytes().all(is_name) && host.bytes().any(|b| b.is_ascii_alphanumeric());
        (is_host.then(|| host.to_ascii_lowercase())?, port)
    };
    let port = match (port, port.strip_prefix(':')) {
        ("" | ":", _) => None,
        (_, Some(digits)) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse::<u16>().ok()?),
        _ => return None,
    };
    let own = if scheme == "https" { 443 } else { 80 };
    Some(match port.filter(|port| *port != own) {
        Some(port) => format!("{host}:{port}"),
        None => host,
    })
}

/// A path whose escapes are written in one way and whose segments of dots are resolved (RFC 3986 sections 6.2.2.2 and
/// 6.2.2.3); an empty one is `/`.
fn normal_path(path: &str) -> Option<String> {
    if path.is_empty() {
        return Some("/".to_owned());
    }
    let escaped = normal_escapes(path)?;
    let relative = escaped.strip_prefix('/')?;
    let (mut kept, mut segments) = (Vec::new(), relative.split('/').peekable());
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    Some(format!("/{}", kept.join("/")))
}

/// Escapes of unreserved characters undone, the others in capitals; bytes that must be escaped are.
fn normal_escapes(path: &str) -> Option<String> {
    let mut written = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
                let byte = u8::try_from(value).ok()?;
                if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')) {
                    escape(&mut written, byte);
                    continue;
                }
                byte
            }
            byte if !byte.is_ascii_graphic() => {
                escape(&mut written, byte);
                continue;
            }
            byte => byte,
        };
        written.push(char::from(byte));
    }
    Some(written)
}

fn escape(written: &mut String, byte: u8) {
    const HEX: [u8; 16] = *b"0123456789ABCDEF";
    written.push('%');
    written.extend([byte >> 4, byte & 15].map(|digit| char::from(HEX[usize::from(digit)])));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_uri_are_one() {
        for (spelled, normal) in [
            ("https://shop.test/a", "https://shop.test/a"),
            ("HTTPS://Shop.TEST:443/a?b=c#d", "https://shop.test/a"),
            ("http://shop.test:80", "http://shop.test/"),
            ("http://shop.test:443/", "http://shop.test:443/"),
            ("https://shop.test:/a#b?c", "https://shop.test/a"),
            ("https://[2001:DB8::1]:8443/", "https://[2001:db8::1]:8443/"),
            ("https://[2001:db8:0::1]/", "https://[2001:db8::1]/"),
            ("http://shop.test:080/a", "http://shop.test/a"),
            ("https://shop.test:08443/", "https://shop.test:8443/"),
            ("https://a/%7euser/%2f%e2%82%ac/x", "https://a/~user/%2F%E2%82%AC/x"),
            ("https://a/€", "https://a/%E2%82%AC"),
            ("https://a/b/./c/../d", "https://a/b/d"),
            ("https://a/b/%2e%2E/d", "https://a/d"),
            ("https://a/../../b/..", "https://a/"),
            ("https://a/b//c/", "https://a/b//c/"),
            ("https://a/b/.", "https://a/b/"),
        ] {
            assert_eq!(normal_uri(spelled).as_deref(), Some(normal), "{spelled}");
            assert_eq!(normal_uri(normal).as_deref(), Some(normal), "{normal}");
        }
        for none in [
            "",
            "/a",
            "//a/b",
            "ftp://a/",
            "https:/a",
            "https://",
            "https://:443/",
            "https://u@a/",
            "https://u:p@a/",
            "https://a:b/",
            "https://a:4 43/",
            "https://a\\b/",
            "https://%61/",
            "https://[::1/",
            "https://[::1]x/",
            "https://[x]/",
            "https://[fe80::1%25eth0]/",
            "https://a[b/",
            "https://a]b/",
            "https://-/",
            "https://~/",
            "https://a:99999/",
            "https://a:+80/",
            "https://a/%",
            "https://a/%4",
            "https://a/%zz",
            "https://a b/",
        ] {
            assert_eq!(normal_uri(none), None, "{none}");
        }
    }

    #[test]
    fn a_part_of_the_uri_is_trusted_from_its_configured_source() {
        let headers: &[(&str, &[u8])] = &[
            ("x-forwarded-proto", b"https"),
            ("x-forwarded-host", b"Shop.test"),
            ("x-envoy-original-path", b"/api/a?b"),
        ];
        let request = |headers| RequestView {
            scheme: "http",
            host: "inner:8080",
            target: "/a?b",
            headers,
            ..RequestView::NOTHING
        };
        let header = |name: &str| PartSource::Header(name.to_owned());
        let behind = ProxyTrust {
            scheme: SchemeSource::Part(header("x-forwarded-proto")),
            host: header("x-forwarded-host"),
            path: header("x-envoy-original-path"),
            certificate: CertificateSource::Connection,
        };
        let itself = ProxyTrust::default();
        let tls_in_front = ProxyTrust { scheme: SchemeSource::Https, ..ProxyTrust::default() };
        assert_eq!(itself.uri(&request(headers)).as_deref(), Ok("http://inner:8080/a"));
        assert_eq!(tls_in_front.uri(&request(headers)).as_deref(), Ok("https://inner:8080/a"));
        assert_eq!(behind.uri(&request(headers)).as_deref(), Ok("https://shop.test/api/a"));
        assert_eq!(behind.uri(&request(&headers[1..])), Err("proxy.scheme"));
        assert_eq!(behind.uri(&request(&headers[..1])), Err("proxy.host"));
        assert_eq!(behind.uri(&request(&headers[..2])), Err("proxy.path"));
        let twice: [&[(&str, &[u8])]; 2] = [
            &[("x-forwarded-proto", b"https"), ("X-Forwarded-Proto", b"https")],
            &[("x-forwarded-proto", b"https,http")],
        ];
        for headers in twice {
            assert_eq!(behind.uri(&request(headers)), Err("proxy.scheme"));
        }
        let unknown = RequestView { scheme: "", ..request(headers) };
        assert_eq!(itself.uri(&unknown), Err("proxy.scheme"));
    }
}
