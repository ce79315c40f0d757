//! `GET /`: a page with the version, the readiness and links.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Http, Missing};
use crate::authz::api_key::digest_of;

/// Embedded in the page, which loads nothing else.
const STYLE: &str = "
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 40rem; margin: 4rem auto; padding: 0 1.5rem; }
h1 { margin: 0; font-size: 1.75rem; }
h1 small { font-size: 1rem; font-weight: normal; opacity: 0.65; }
.state { margin: 1.5rem 0; padding: 0.75rem 1rem; border-radius: 0.5rem; border-left: 0.4rem solid; }
.state strong { display: block; }
.ready { border-color: #1a7f37; background: #1a7f3722; }
.missing { border-color: #bc4c00; background: #bc4c0022; }
ul { padding-left: 1.25rem; }
code { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
";

/// The page may not load, run, frame or send anything; its style is named by its digest (CSP Level 3 section 2.3.1).
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let style = STANDARD.encode(digest_of(STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// Links, relative to this page.
const LINKS: [(&str, &str); 4] = [
    ("readyz", "whether this process is ready, and what is missing"),
    ("readyz?fresh", "the same, and whether its view of the revocations is fresh"),
    ("metrics", "the metrics, for Prometheus"),
    ("openapi.json", "the HTTP API"),
];

/// The version and the readiness, as a page for people.
#[utoipa::path(
    get, path = "/", tag = "probes",
    responses((status = 200, description = "An HTML page with the state of the process.", body = String, content_type = "text/html"))
)]
pub(super) async fn page(State(http): State<Http>) -> Response<Body> {
    let missing = http.readiness.missing(&http.state, false);
    let mut response = Response::new(Body::from(text(&missing, http.state.streams().open_count())));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn text(missing: &[Missing], streams: usize) -> String {
    let mut state = String::new();
    if missing.is_empty() {
        state.push_str("<div class=\"state ready\"><strong>✓ Ready</strong>Requests are decided");
        if streams > 0 {
            let _ = write!(state, "; {streams} streams are open"); // A String takes everything.
        }
        state.push_str(".</div>");
    } else {
        state.push_str("<div class=\"state missing\"><strong>✕ Not ready</strong><ul>");
        for Missing { part, reason } in missing {
            let _ = write!(state, "<li>{part}: <code>{}</code></li>", escaped(reason));
        }
        state.push_str("</ul></div>");
    }
    let links: Vec<_> =
        LINKS.iter().map(|(path, what)| format!("<li><a href=\"{path}\">/{path}</a>: {what}</li>")).collect();
    let links = links.concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Doorward</title><style>{STYLE}</style></head><body>\
         <h1>Doorward <small>{version}</small></h1>\
         <p>Verifies JWTs for Envoy and refuses them the moment they are revoked. Envoy sends its checks over gRPC; \
         this is the listener for probes, metrics and the HTTP API.</p>{state}<ul>{links}</ul></body></html>\n",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// Text, escaped for HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_escaped_on_the_page() {
        let reason = "refused by the store: <script src=//x>&'\"".to_owned();
        let page = text(&[Missing { part: "revocations", reason }], 0);
        assert!(
            page.contains("revocations: <code>refused by the store: &lt;script src=//x&gt;&amp;&#39;&quot;</code>")
        );
        assert!(page.contains("Not ready") && !page.contains("<script"), "{page}");
        let ready = text(&[], 3);
        assert!(ready.contains("✓ Ready") && ready.contains("3 streams are open"), "{ready}");
        assert!(!ready.contains("http"), "no address of another host");
    }

    #[test]
    fn the_policy_names_the_style_that_the_page_has() {
        let page = text(&[], 0);
        let style = page.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).unwrap();
        let digest = STANDARD.encode(digest_of(style.as_bytes()));
        assert!(POLICY.to_str().unwrap().contains(&format!("style-src 'sha256-{digest}'")));
    }
}
