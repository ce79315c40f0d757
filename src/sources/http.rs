//! All outgoing HTTP: for keys, introspection, signals and alarms.
//!
//! A [`Client`] honours the proxies of the environment, trusts the system's certificates or a `ca_file`, and sends
//! requests only over https or to this host itself. [`send`] bounds the time and the size of a response.

mod proxy;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, ClientBuilder, Method, RequestBuilder, StatusCode};

use crate::authz::labels;

/// The longest wait for a connection: also for servers that may hold a request open for long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most redirects that are followed, where redirects are allowed.
const MAX_REDIRECTS: usize = 3;

labels! {
    /// The result of a request to an issuer or a transmitter.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum FetchResult {
        /// The answer is used.
        Ok = "ok",
        Failed = "failed",
    }
}

/// The certificates of a `ca_file`, which are trusted instead of those of the system.
#[derive(Clone, Eq, PartialEq)]
pub struct Authorities {
    pem: Arc<[u8]>,
}

impl Authorities {
    /// Fails if there is no certificate, or one that cannot be used as a root.
    pub fn parse(pem: Vec<u8>) -> Result<Self, reqwest::Error> {
        let authorities = Self { pem: pem.into() };
        authorities.trusted_by(proxy::client())?.build()?;
        Ok(authorities)
    }

    fn trusted_by(&self, client: ClientBuilder) -> Result<ClientBuilder, reqwest::Error> {
        Ok(client.tls_certs_only(Certificate::from_pem_bundle(&self.pem)?))
    }
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities").finish_non_exhaustive()
    }
}

/// The redirects that a client follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Redirects {
    /// No redirect is followed: it would send a token or Doorward's credentials to another server.
    Refused,
    /// At most three redirects: never from https to plain http, and to plain http only on this host.
    Secure,
}

/// An HTTP client for other servers.
#[derive(Clone, Debug)]
pub struct Client(reqwest::Client);

impl Client {
    /// Fails only if the system's certificates or its TLS cannot be used.
    pub fn new(authorities: Option<&Authorities>, redirects: Redirects) -> Result<Self, reqwest::Error> {
        let policy = match redirects {
            Redirects::Refused => Policy::none(),
            Redirects::Secure => Policy::custom(follow),
        };
        let client = proxy::client().redirect(policy).connect_timeout(CONNECT_TIMEOUT);
        match authorities {
            Some(authorities) => authorities.trusted_by(client)?,
            None => client,
        }
        .build()
        .map(Self)
    }

    /// A request that is not sent yet. Fails unless its URL is https or on this host, or `insecure` allows any.
    pub fn request(&self, method: Method, url: &str, insecure: bool) -> Result<RequestBuilder, HttpError> {
        if !insecure && !is_secure(url) {
            return Err(HttpError::Insecure);
        }
        Ok(self.0.request(method, url))
    }
}

fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let from_https = attempt.previous().iter().any(|url| url.scheme() == "https");
    if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else if (from_https && attempt.url().scheme() != "https") || !is_secure(attempt.url().as_str()) {
        attempt.error("redirect to plain http")
    } else {
        attempt.follow()
    }
}

/// https, or plain http to this host.
#[must_use]
pub fn is_secure(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    url.scheme() == "https" || (url.scheme() == "http" && loopback)
}

/// Checks a URL that a document names, such as an endpoint of metadata: what was read by https leads to https alone, not
/// even to plain http on this host, where the document's author could reach what only this host can. `insecure` allows
/// any.
pub fn check_named(document: &str, url: &str, insecure: bool) -> Result<(), HttpError> {
    let is_https = |url: &str| reqwest::Url::parse(url).is_ok_and(|url| url.scheme() == "https");
    if !insecure && is_https(document) && !is_https(url) { Err(HttpError::Downgrade) } else { Ok(()) }
}

/// A successful response, read whole.
#[derive(Debug)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Response {
    /// The response if it is a document: with 200, and not a part of one (206) or an acknowledgement.
    pub fn document(self) -> Result<Self, HttpError> {
        if self.status == StatusCode::OK { Ok(self) } else { Err(HttpError::Status(self.status.as_u16())) }
    }
}

/// Why there is no response. The error's text has no URL, which may contain a secret.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error("https is required (or `insecure: true`)")]
    Insecure,
    #[error("a document that was read by https names a URL of plain http (or set `insecure: true`)")]
    Downgrade,
    #[error("request failed")]
    Request(#[source] reqwest::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("answered {0}")]
    Status(u16),
    #[error("sent more than {0} bytes")]
    TooLarge(usize),
}

impl HttpError {
    fn of(error: reqwest::Error, timeout: Duration) -> Self {
        if error.is_timeout() && !error.is_connect() {
            Self::Timeout(timeout)
        } else {
            Self::Request(error.without_url())
        }
    }
}

/// Sends a request and reads its response within `timeout`, of at most `max_body` bytes. Any status but 2xx is an
/// error.
pub async fn send(request: RequestBuilder, timeout: Duration, max_body: usize) -> Result<Response, HttpError> {
    let failed = |error| HttpError::of(error, timeout);
    let mut response = request.timeout(timeout).send().await.map_err(failed)?;
    if !response.status().is_success() {
        return Err(HttpError::Status(response.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > max_body {
            return Err(HttpError::TooLarge(max_body));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Response { status: response.status(), headers: std::mem::take(response.headers_mut()), body })
}

/// An error with its causes on one line.
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_read_by_https_does_not_lead_to_plain_http() {
        let [https, http] = ["https://idp.test/x", "http://127.0.0.1:9901/quitquitquit"];
        for (document, url, insecure, is_right) in [
            (https, https, false, true),
            (https, http, false, false),
            ("HTTPS://idp.test", "HTTP://localhost/", false, false),
            (https, "relative", false, false),
            (https, http, true, true),
            (http, http, false, true),
            (http, https, false, true),
        ] {
            assert_eq!(check_named(document, url, insecure).is_ok(), is_right, "{document} {url}");
        }
    }
}
