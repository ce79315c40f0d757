//! The files of the page, built in.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::routing::get;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

const FILES: [(&str, &str, &str); 13] = [
    ("/", HTML, include_str!("../../page/index.html")),
    ("/page/page.css", CSS, include_str!("../../page/page.css")),
    ("/page/icon.svg", IMAGE, include_str!("../../page/icon.svg")),
    ("/page/page.js", SCRIPT, include_str!("../../page/page.js")),
    ("/page/accounts.js", SCRIPT, include_str!("../../page/accounts.js")),
    ("/page/levers.js", SCRIPT, include_str!("../../page/levers.js")),
    ("/page/session.js", SCRIPT, include_str!("../../page/session.js")),
    ("/page/live.js", SCRIPT, include_str!("../../page/live.js")),
    ("/page/stage.js", SCRIPT, include_str!("../../page/stage.js")),
    ("/page/story.js", SCRIPT, include_str!("../../page/story.js")),
    ("/page/tiles.js", SCRIPT, include_str!("../../page/tiles.js")),
    ("/page/docs.md", TEXT, include_str!("../../../../docs/README.md")),
    ("/page/timeline.js", SCRIPT, include_str!("../../page/timeline.js")),
];

/// No content of another origin, no inline code, no framing.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

pub fn routes() -> Router {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        let headers = [(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache"), (CONTENT_SECURITY_POLICY, POLICY)];
        router.route(path, get(move || async move { (headers, text) }))
    })
}
