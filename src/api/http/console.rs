//! `/console/`: the operator's console, off unless `console.enabled` is set.
//!
//! Static files of this binary. The page uses only the HTTP API, with the admin key that its user enters, and keeps
//! the key in the page's memory alone. These files need no key and contain no data.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Path;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::problem::{Error, Problem};
use super::{Http, Part};

macro_rules! files {
    ($($name:literal: $media_type:literal),+ $(,)?) => {
        [$(($name, $media_type, include_bytes!(concat!("console/", $name)).as_slice())),+]
    };
}

const HTML: &str = "text/html; charset=utf-8";

/// The page, and the files that it loads.
const PAGE: &[u8] = include_bytes!("console/index.html");
const FILES: [(&str, &str, &[u8]); 10] = files! {
    "app.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "fleet.js": "text/javascript; charset=utf-8",
    "list.js": "text/javascript; charset=utf-8",
    "refusals.js": "text/javascript; charset=utf-8",
    "revoke.js": "text/javascript; charset=utf-8",
    "token.js": "text/javascript; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
};

/// Scripts, styles and requests are this origin's; no text becomes markup or code (CSP Level 3, Trusted Types); no other
/// site frames the page or shares its process.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Its routes; a listener for admin keys only redirects there from `/`.
pub(super) fn router(part: Part) -> Router<Http> {
    let to_page = || async { (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "/console/")]) };
    let routes = Router::new()
        .route("/console", get(to_page))
        .route("/console/", get(|| async { answer(HTML, PAGE) }))
        .route("/console/{file}", get(file));
    if part == Part::Admin {
        return routes
            .route("/", get(|| async { (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/console/")]) }));
    }
    routes
}

async fn file(Path(name): Path<String>) -> Response<Body> {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some((_, media_type, bytes)) => answer(media_type, bytes),
        None => Problem::new(Error::NotFound, "the console has no such file").into_response(),
    }
}

fn answer(media_type: &'static str, bytes: &'static [u8]) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from_static(bytes)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
