//! The protected resource, described for clients that must find out where to get a token (RFC 9728).

use serde_json::{Map, Value};

use super::path;
use super::request_uri::ProxyTrust;
use super::rule::RequestView;

/// Where the metadata stands (RFC 9728 section 3); the path of the resource follows.
pub const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// The longest URL that a challenge names, in bytes: a longer one would not fit into many clients' headers.
const MAX_URL: usize = 2048;

/// The metadata of the protected resource.
#[derive(Clone, Debug)]
pub struct ProtectedResource {
    identifier: ResourceIdentifier,
    proxy: ProxyTrust,
    /// All members but `resource`.
    members: Map<String, Value>,
}

/// The URL by which clients identify the resource.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ResourceIdentifier {
    /// Each path is a separate resource, at the host of the request. An answer to a client about itself affects no
    /// other client, but a client that chooses the `Host` of another's request chooses where that client asks.
    Request,
    /// Always this one, whatever the request.
    Fixed {
        /// As it is configured, without query and fragment.
        url: String,
        /// Scheme, host and port of it.
        origin: String,
        /// Its path; empty for `/`.
        path: String,
    },
}

impl ResourceIdentifier {
    /// The identifier with this URL, which has a scheme and a host and neither query nor fragment.
    #[must_use]
    pub fn fixed(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_plain = path.is_empty() || path::is_normal(path);
        let path = if path == "/" { "" } else { path }.to_owned();
        let plain = is_plain && !authority.is_empty() && is_quotable(url);
        plain.then(|| Self::Fixed { url: url.to_owned(), origin: format!("{scheme}://{authority}"), path })
    }
}

/// Whether a URL can stand within the quotes of a challenge.
fn is_quotable(url: &str) -> bool {
    let fits = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'<' | b'>');
    url.len() <= MAX_URL && url.bytes().all(fits)
}

impl ProtectedResource {
    #[must_use]
    pub const fn new(identifier: ResourceIdentifier, proxy: ProxyTrust, members: Map<String, Value>) -> Self {
        Self { identifier, proxy, members }
    }

    /// The URL of the metadata of a request's resource, for `resource_metadata` of a challenge (RFC 9728 section 5.1);
    /// `None` if the request's host or path must not be repeated in a URL.
    #[must_use]
    pub fn metadata_url(&self, request: &RequestView<'_>) -> Option<String> {
        let url = match &self.identifier {
            ResourceIdentifier::Fixed { origin, path, .. } => format!("{origin}{WELL_KNOWN}{path}"),
            ResourceIdentifier::Request => {
                let (origin, path) = (self.proxy.origin(request).ok()?, self.proxy.path(request).ok()?);
                if !path::is_normal(&path) {
                    return None;
                }
                format!("{origin}{WELL_KNOWN}{}", if path == "/" { "" } else { &path })
            }
        };
        is_quotable(&url).then_some(url)
    }

    /// The metadata at [`WELL_KNOWN`] followed by `path`, for `request`; `None` if there is no such resource, or if
    /// the request does not identify one.
    #[must_use]
    pub fn metadata(&self, path: &str, request: &RequestView<'_>) -> Option<Value> {
        let resource = match &self.identifier {
            ResourceIdentifier::Fixed { url, path: own, .. } => (path == own).then(|| url.clone())?,
            ResourceIdentifier::Request => {
                let origin = self.proxy.origin(request).ok()?;
                let is_plain = path.is_empty() || path.len() > 1 && path::is_normal(path);
                Some(format!("{origin}{path}")).filter(|url| is_plain && is_quotable(url))?
            }
        };
        let mut members = self.members.clone();
        members.insert("resource".to_owned(), resource.into());
        Some(Value::Object(members))
    }

    /// Whether the metadata is the same for every request.
    #[must_use]
    pub const fn is_fixed(&self) -> bool {
        matches!(self.identifier, ResourceIdentifier::Fixed { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(host: &'a str, target: &'a str) -> RequestView<'a> {
        RequestView { method: "GET", scheme: "https", host, target, ..RequestView::NOTHING }
    }

    #[test]
    fn a_fixed_resource_is_the_same_whatever_the_request_says() {
        for (url, metadata, path) in [
            ("https://api.test", "https://api.test/.well-known/oauth-protected-resource", ""),
            ("https://api.test/", "https://api.test/.well-known/oauth-protected-resource", ""),
            ("https://api.test:8443/mcp", "https://api.test:8443/.well-known/oauth-protected-resource/mcp", "/mcp"),
        ] {
            let identifier = ResourceIdentifier::fixed(url).unwrap();
            let resource = ProtectedResource::new(identifier, ProxyTrust::default(), Map::new());
            for foreign in [request("evil.test", "/mcp"), request("\"", "/\\"), RequestView::NOTHING] {
                assert_eq!(resource.metadata_url(&foreign).as_deref(), Some(metadata), "{url}");
                assert_eq!(resource.metadata(path, &foreign).unwrap()["resource"], url);
                assert_eq!(resource.metadata("/other", &foreign), None);
            }
        }
        for bad in ["api.test", "https://", "https:///x", "https://a/\"", "https://a/x//y", "https://a/../b"] {
            assert_eq!(ResourceIdentifier::fixed(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_resource_by_request_repeats_only_what_can_be_quoted() {
        let resource = ProtectedResource::new(ResourceIdentifier::Request, ProxyTrust::default(), Map::new());
        for (host, target, metadata) in [
            ("Api.test:443", "/mcp?x=1", Some("https://api.test/.well-known/oauth-protected-resource/mcp")),
            ("api.test:8443", "/", Some("https://api.test:8443/.well-known/oauth-protected-resource")),
            ("a.test\", error=\"x", "/mcp", None),
            ("user@a.test", "/mcp", None),
            ("", "/mcp", None),
            ("a.test", "/mcp\"x", None),
            ("a.test", "/mcp;x", None),
            ("a.test", "/a//b", None),
        ] {
            assert_eq!(resource.metadata_url(&request(host, target)).as_deref(), metadata, "{host} {target}");
        }
        assert_eq!(resource.metadata_url(&request("a.test", &format!("/{}", "x".repeat(3000)))), None);
        let metadata = |path| resource.metadata(path, &request("API.test", "/ignored"));
        assert_eq!(metadata("").unwrap()["resource"], "https://api.test");
        assert_eq!(metadata("/mcp").unwrap()["resource"], "https://api.test/mcp");
        for path in ["/", "/a\"b", "/a/../b", "//a"] {
            assert_eq!(metadata(path), None, "{path}");
        }
    }
}
