//! The HTTP listeners: probes, metrics, and the API for users, services and operators.

mod about;
mod console;
mod events;
mod explain;
mod extract;
mod form;
mod forward_auth;
mod global_revocation;
mod instances;
mod jwks;
mod logout;
mod oauth2;
mod oidc;
mod openapi;
mod origin;
mod page;
mod probes;
mod problem;
mod refusals;
mod registrations;
mod resource;
mod revocations;
mod signals;
mod status_lists;
mod transmitters;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use axum::routing::{any, get, options};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::authz::answer::Respond;
use crate::authz::resource::WELL_KNOWN;
use crate::config::Limits;
use crate::state::State;
pub use events::OpenEnded;
pub use openapi::document;
pub use probes::{Missing, Readiness};
use problem::{Error, Problem};

/// The state that handlers share.
#[derive(Clone)]
pub struct Http {
    pub state: Arc<State>,
    pub readiness: Arc<Readiness>,
    limits: Limits,
    /// The permits for listing all revocations.
    listing: Arc<Semaphore>,
    /// The permits of the event streams, and the data that they share.
    watching: Arc<events::Watching>,
    /// The permits for messages of other servers.
    messages: Arc<Semaphore>,
    /// Other sites whose pages may sign out.
    origins: Arc<[String]>,
    /// The time of the last exposition: repeated scrapes must not delay decisions.
    scraped: Arc<Mutex<Instant>>,
    /// The status lists that are published.
    published: Arc<status_lists::Published>,
}

impl Http {
    /// Concurrent lists; each goes through all revocations.
    const LISTS: usize = 2;

    #[must_use]
    pub fn new(state: Arc<State>, readiness: Arc<Readiness>, limits: Limits, origins: &[String]) -> Self {
        let listing = Arc::new(Semaphore::new(Self::LISTS));
        let messages = Arc::new(Semaphore::new(limits.inlet_requests));
        let scraped = Arc::new(Mutex::new(Instant::now()));
        let watching = Arc::default();
        let published = Arc::default();
        Self { state, readiness, limits, listing, watching, messages, origins: origins.into(), scraped, published }
    }
}

/// The routes of a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// Routes without an admin key.
    Public,
    /// Routes that require an admin key.
    Admin,
    All,
}

/// The routes of a listener; `console`: with the operator's console, where an admin key is of use.
pub fn router(http: Http, part: Part, console: bool) -> Router {
    let Limits { http_body_bytes, http_timeout, .. } = http.limits;
    let (public, _) = public().split_for_parts();
    let (event_sources, _) = event_sources().split_for_parts();
    let public = public.merge(event_sources.layer(axum::middleware::map_response(uncached)));
    let (admin, _) = admin().split_for_parts();
    let admin = admin.layer(axum::middleware::map_response(uncached));
    let routes = match part {
        Part::Public => public,
        Part::Admin => admin,
        Part::All => public.merge(admin),
    };
    let routes = if console && part != Part::Public { routes.merge(console::router(part)) } else { routes };
    routes
        .route("/openapi.json", get(openapi::openapi))
        .fallback(problem::not_found)
        .method_not_allowed_fallback(problem::method_not_allowed)
        .layer(axum::extract::DefaultBodyLimit::max(http_body_bytes))
        .layer(axum::middleware::from_fn(move |request, next: Next| async move {
            let answer = tokio::time::timeout(*http_timeout, next.run(request)).await;
            answer.unwrap_or_else(|_| {
                Problem::new(Error::TimedOut, "limits.http_timeout in the configuration is the bound").into_response()
            })
        }))
        .with_state(http)
}

fn public() -> OpenApiRouter<Http> {
    OpenApiRouter::new()
        .routes(routes!(page::page))
        .routes(routes!(probes::livez))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::metrics))
        .routes(routes!(jwks::jwks))
        .routes(routes!(status_lists::list))
        .routes(routes!(status_lists::index))
        .routes(routes!(status_lists::keys))
        .routes(routes!(logout::logout, logout::preflight))
        .routes(routes!(resource::metadata))
        .route(WELL_KNOWN, options(resource::preflight))
        .route(&format!("{WELL_KNOWN}/{{*path}}"), get(resource::metadata).options(resource::preflight))
        .route(forward_auth::PREFIX, any(forward_auth::forward_auth))
        .route("/auth/", any(forward_auth::forward_auth))
        .route("/auth/{*path}", any(forward_auth::forward_auth))
}

/// The endpoints for other servers; each authenticates its caller itself.
fn event_sources() -> OpenApiRouter<Http> {
    OpenApiRouter::new()
        .routes(routes!(oauth2::revocation))
        .routes(routes!(oidc::backchannel_logout))
        .routes(routes!(signals::events))
        .routes(routes!(global_revocation::global_token_revocation))
}

/// The endpoints that need an admin key: every handler here takes `MayRead`, `MayRevoke`,
/// `MayRegister` or `AnyKey`.
fn admin() -> OpenApiRouter<Http> {
    OpenApiRouter::new()
        .routes(routes!(revocations::create, revocations::list))
        .routes(routes!(registrations::create))
        .routes(routes!(instances::instances))
        .routes(routes!(transmitters::list))
        .routes(routes!(transmitters::delete))
        .routes(routes!(about::about))
        .routes(routes!(events::events))
        .routes(routes!(refusals::list))
        .routes(routes!(refusals::one))
        .routes(routes!(explain::explain))
        .routes(routes!(oauth2::introspection))
}

/// Responses about tokens are not cached.
async fn uncached(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
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
