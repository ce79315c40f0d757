//! The HTTP listener: probes, metrics, and what users and services may ask.

mod logout;
mod probes;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::middleware::Next;
use axum::response::IntoResponse;
use axum::routing::{get, post};

use crate::authz::answer::Respond;
use crate::state::State;
pub use probes::Readiness;

/// What the handlers share.
#[derive(Clone)]
pub struct Http {
    pub state: Arc<State>,
    pub readiness: Arc<Readiness>,
}

/// All routes of `listen.http`; bodies are limited to `max_body_bytes`, and each request to `timeout`.
pub fn router(http: Http, max_body_bytes: usize, timeout: Duration) -> Router {
    Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
        .route("/logout", post(logout::logout))
        .layer(axum::extract::DefaultBodyLimit::max(max_body_bytes))
        .layer(axum::middleware::from_fn(move |request, next: Next| async move {
            let answer = tokio::time::timeout(timeout, next.run(request)).await;
            answer.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
        }))
        .with_state(http)
}

/// A refusal as an HTTP response.
fn respond(respond: Respond) -> Response<Body> {
    let mut response = Response::new(Body::from(respond.body));
    *response.status_mut() = StatusCode::from_u16(respond.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    for (name, value) in respond.headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}
