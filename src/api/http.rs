//! The HTTP listener: probes, metrics, and what users and services may ask.

mod forward_auth;
mod logout;
mod probes;
mod registrations;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode};
use axum::routing::{any, get, post};

use crate::authz::answer::Respond;
use crate::state::State;
pub use probes::Readiness;

/// What the handlers share.
#[derive(Clone)]
pub struct Http {
    pub state: Arc<State>,
    pub readiness: Arc<Readiness>,
}

/// All routes of `listen.http`; bodies are limited to `max_body_bytes`.
pub fn router(http: Http, max_body_bytes: usize) -> Router {
    Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
        .route("/logout", post(logout::logout))
        .route("/v1/registrations", post(registrations::create))
        .route(forward_auth::PREFIX, any(forward_auth::forward_auth))
        .route("/auth/", any(forward_auth::forward_auth))
        .route("/auth/{*path}", any(forward_auth::forward_auth))
        .layer(axum::extract::DefaultBodyLimit::max(max_body_bytes))
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
