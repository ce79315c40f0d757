//! The origin of the page that sent a browser's request, and whether it is permitted (the Fetch standard's CORS
//! protocol).

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, Uri, header};

use super::Http;
use super::problem::{Error, Problem};

/// The origin of a request.
pub(super) enum Site {
    /// No `Origin` header; browsers send one.
    Unnamed,
    /// The site of this listener itself.
    Own,
    /// A configured origin, as the browser wrote it.
    Listed(HeaderValue),
}

impl Site {
    /// Refuses pages of other sites: a form there would send the user's cookies along, and sign the user out
    /// unintentionally.
    pub(super) fn of(http: &Http, uri: &Uri, headers: &HeaderMap) -> Result<Self, Problem> {
        let mut fields = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = fields.next() else { return Ok(Self::Unnamed) };
        let text = origin.to_str().ok().filter(|_| fields.next().is_none()).unwrap_or_default();
        if http.origins.iter().any(|listed| listed == text) {
            return Ok(Self::Listed(origin.clone()));
        }
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = uri.authority().map(axum::http::uri::Authority::as_str).or(host);
        let asked = text.split_once("://").map(|(_, host)| host).filter(|asked| !asked.is_empty());
        if asked.is_some() && asked == host {
            return Ok(Self::Own);
        }
        Err(Problem::new(Error::ForeignOrigin, "add the site to listen.cors_origins in the configuration"))
    }

    /// Whether the browser sent an allowed origin: then cookies are accepted.
    pub(super) const fn is_proven(&self) -> bool {
        !matches!(self, Self::Unnamed)
    }

    /// Lets the page read the answer.
    pub(super) fn admit(self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Self::Listed(origin) = self {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            // The token may be in a cookie; the origin is exact, so no other site gains access.
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        response
    }
}
