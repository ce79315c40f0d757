//! API keys: the calling client, its platform and its site.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::{constant_time, digest};

use super::claims::Timestamp;
use super::denial::Denial;
use super::rule::{ApiKeyUse, HostPattern, RequestView, host_of};

/// The SHA-256 of a key's text; the text itself is never kept.
pub type KeyDigest = [u8; 32];

/// A client's key and the places where it may be used.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// The client's name, shown to upstreams and in metadata.
    pub id: Arc<str>,
    pub digest: KeyDigest,
    /// Empty for any.
    pub platforms: Vec<String>,
    /// Empty for any.
    pub domains: Vec<HostPattern>,
    pub expires_at: Option<Timestamp>,
}

/// All API keys, found by digest, so that the cost does not grow with their number.
#[derive(Clone, Debug)]
pub struct ApiKeys {
    /// The header with the key, in lower case.
    pub header: String,
    pub platform_header: String,
    /// The default for rules without a setting of their own.
    pub default: ApiKeyUse,
    keys: HashMap<KeyDigest, ApiKey>,
}

impl ApiKeys {
    #[must_use]
    pub fn new(header: String, platform_header: String, default: ApiKeyUse, keys: Vec<ApiKey>) -> Self {
        let keys = keys.into_iter().map(|key| (key.digest, key)).collect();
        Self { header, platform_header, default, keys }
    }

    /// The keys, unordered.
    pub fn iter(&self) -> impl Iterator<Item = &ApiKey> {
        self.keys.values()
    }

    /// The client whose key the request carries; `None` if the rule does not require one.
    pub fn check(
        &self,
        request: &RequestView<'_>,
        rule: Option<ApiKeyUse>,
        now: Timestamp,
    ) -> Result<Option<&ApiKey>, Denial> {
        let usage = rule.unwrap_or(self.default);
        if usage == ApiKeyUse::Ignored {
            return Ok(None);
        }
        let mut fields = request.header(&self.header);
        let Some(presented) = fields.next() else {
            return if usage == ApiKeyUse::Required { Err(Denial::ApiKeyMissing) } else { Ok(None) };
        };
        if fields.next().is_some() {
            return Err(Denial::ApiKeyUnknown);
        }
        let key = self.find(presented).ok_or(Denial::ApiKeyUnknown)?;
        if key.expires_at.is_some_and(|at| now >= at) {
            return Err(Denial::ApiKeyExpired);
        }
        if !key.platforms.is_empty() {
            let platform = sole(request, &self.platform_header).ok_or(Denial::ApiKeyPlatform)?;
            if !key.platforms.iter().any(|allowed| allowed.as_bytes() == platform) {
                return Err(Denial::ApiKeyPlatform);
            }
        }
        if !key.domains.is_empty() {
            let site = site_of(request).ok_or(Denial::ApiKeyDomain)?;
            if !key.domains.iter().any(|allowed| allowed.matches(&site)) {
                return Err(Denial::ApiKeyDomain);
            }
        }
        Ok(Some(key))
    }

    /// The key that a request carries, whether or not it may be used there: for explanations alone.
    #[must_use]
    pub fn presented(&self, request: &RequestView<'_>) -> Option<&ApiKey> {
        self.find(sole(request, &self.header)?)
    }

    /// By the digest of the presented text: the duration reveals nothing about a key's text.
    fn find(&self, presented: &[u8]) -> Option<&ApiKey> {
        let presented = digest_of(presented);
        let key = self.keys.get(&presented)?;
        constant_time::verify_slices_are_equal(&key.digest, &presented).is_ok().then_some(key)
    }
}

#[must_use]
pub fn digest_of(key: &[u8]) -> KeyDigest {
    let mut bytes = KeyDigest::default();
    bytes.copy_from_slice(digest::digest(&digest::SHA256, key).as_ref());
    bytes
}

/// The value of a field that occurs once.
fn sole<'a>(request: &RequestView<'a>, name: &str) -> Option<&'a [u8]> {
    let mut fields = request.header(name);
    fields.next().filter(|_| fields.next().is_none())
}

/// The host of `Origin` (RFC 6454 section 7), else of `Referer` (RFC 9110 section 10.1.3).
///
/// `null`, userinfo and every value that is not plainly `http(s)://host` have no host: a
/// look-alike such as `https://shop.example.com@attacker.test` must not be read leniently.
fn site_of(request: &RequestView<'_>) -> Option<String> {
    let is_origin = request.header("origin").next().is_some();
    let url = std::str::from_utf8(sole(request, if is_origin { "origin" } else { "referer" })?).ok()?;
    let rest = ["https://", "http://"].iter().find_map(|scheme| {
        let (head, rest) = url.split_at_checked(scheme.len())?;
        head.eq_ignore_ascii_case(scheme).then_some(rest)
    })?;
    let authority = if is_origin { rest } else { rest.split(['/', '?', '#']).next().unwrap_or_default() };
    let (host, port) = match authority.find(']').map(|end| authority.split_at(end + 1)) {
        Some((address, "")) => (address, "0"),
        Some((address, port)) => (address, port.strip_prefix(':')?),
        None => authority.split_once(':').unwrap_or((authority, "0")),
    };
    let port_fits = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    let host = host_of(host);
    // A pattern has the form of a host: a name or a bracketed address.
    (port_fits && matches!(HostPattern::parse(&host), Some(HostPattern::Exact(_)))).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> ApiKeys {
        let key = ApiKey {
            id: "web-shop".into(),
            digest: digest_of(b"secret"),
            platforms: vec!["web".to_owned()],
            domains: ["shop.example.com", "*.shop.example.com", "[::1]", "xn--bcher-kva.example"]
                .iter()
                .filter_map(|d| HostPattern::parse(d))
                .collect(),
            expires_at: Some(Timestamp::from_secs(2_000)),
        };
        ApiKeys::new("x-api-key".to_owned(), "x-client-platform".to_owned(), ApiKeyUse::Required, vec![key])
    }

    #[track_caller]
    fn check(headers: &[(&str, &str)], now: i64, expected: Result<Option<&str>, Denial>) {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let request =
            RequestView { method: "GET", target: "/", host: "api", headers: &headers, ..RequestView::NOTHING };
        let keys = keys();
        let found = keys.check(&request, None, Timestamp::from_secs(now)).map(|key| key.map(|key| key.id.as_ref()));
        assert_eq!(found, expected, "{headers:?}");
    }

    #[test]
    fn a_key_is_checked_with_its_platform_its_site_and_its_expiry() {
        let (key, web) = (("x-api-key", "secret"), ("x-client-platform", "web"));
        let origin = ("origin", "https://shop.example.com");
        check(&[key, web, origin], 1_000, Ok(Some("web-shop")));
        check(&[web, origin], 1_000, Err(Denial::ApiKeyMissing));
        check(&[("x-api-key", "Secret"), web, origin], 1_000, Err(Denial::ApiKeyUnknown));
        check(&[key, key, web, origin], 1_000, Err(Denial::ApiKeyUnknown));
        check(&[key, web, origin], 2_000, Err(Denial::ApiKeyExpired));
        check(&[key, origin], 1_000, Err(Denial::ApiKeyPlatform));
        check(&[key, ("x-client-platform", "ios"), origin], 1_000, Err(Denial::ApiKeyPlatform));
        check(&[key, web], 1_000, Err(Denial::ApiKeyDomain));
        check(&[key, web, ("referer", "https://shop.example.com/cart?x")], 1_000, Ok(Some("web-shop")));
        check(
            &[key, web, ("origin", "null"), ("referer", "https://shop.example.com/")],
            1_000,
            Err(Denial::ApiKeyDomain),
        );
    }

    #[test]
    fn sites_that_only_look_alike_are_refused() {
        let (key, web) = (("x-api-key", "secret"), ("x-client-platform", "web"));
        for good in [
            "https://shop.example.com:8443",
            "HTTPS://Shop.Example.Com.",
            "http://a.b.shop.example.com",
            "http://[::1]:3000",
            "https://xn--bcher-kva.example",
        ] {
            check(&[key, web, ("origin", good)], 1_000, Ok(Some("web-shop")));
        }
        for bad in [
            "https://evil-shop.example.com.attacker.test",
            "https://notshop.example.com",
            "https://evil-shop.example.com",
            "https://shop.example.com@attacker.test",
            "https://shop.example.com:80@attacker.test",
            "https://attacker.test/shop.example.com",
            "https://attacker.test#shop.example.com",
            "https://shop.example.com\\@attacker.test",
            "https://shop.example.com%2eattacker.test",
            "https://sh\u{f6}p.example.com",
            "https://shop.example.com..",
            "https://.shop.example.com",
            "https://*.shop.example.com",
            "https://shop.example.com/",
            "https://shop.example.com:8443:1",
            "https://shop.example.com:999999",
            "https://shop.example.com:+1",
            "https://shop.example.com, https://attacker.test",
            "https://shop.example.com https://attacker.test",
            "https:// shop.example.com",
            "https:///shop.example.com",
            "https:/shop.example.com",
            "https:\\\\shop.example.com",
            "https://shop.example.com\t",
            "https://[shop.example.com]",
            "https://shop.example.com]",
            "https://xn--shop-example.com",
            "https://shop\u{3002}example.com",
            "https://shop.example\u{ff0e}com",
            "javascript:https://shop.example.com",
            "NULL",
            "https://shop.example.com:",
            "ftp://shop.example.com",
            "shop.example.com",
            "https://",
            "",
        ] {
            check(&[key, web, ("origin", bad)], 1_000, Err(Denial::ApiKeyDomain));
        }
    }
}
