//! `/openapi.json`: generated from the handlers, so that it cannot say anything else than they do.

use axum::http::header;
use axum::response::IntoResponse;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi};

/// The OpenAPI document of both listeners.
#[must_use]
pub fn document() -> OpenApi {
    let mut document = super::public().merge(super::inlets()).merge(super::admin()).into_openapi();
    let info = InfoBuilder::new().title("Doorward").version(env!("CARGO_PKG_VERSION"));
    document.info = info.description(Some("Instant sign-out for JWTs.")).build();
    let scheme = |description: &str| {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        SecurityScheme::Http(scheme)
    };
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("admin_key", scheme("A key of `admin.keys`."));
    let basic =
        HttpBuilder::new().scheme(HttpAuthScheme::Basic).description(Some("`NAME:KEY` of `admin.keys`.")).build();
    components.add_security_scheme("client", SecurityScheme::Http(basic));
    components.add_security_scheme("push_token", scheme("The transmitter's `push.token`."));
    components.add_security_scheme("assertion", scheme("A JWT that a configured transmitter signed."));
    components.add_security_scheme("access_token", scheme("The caller's own access token."));
    document
}

pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document().to_json().unwrap_or_default())
}
