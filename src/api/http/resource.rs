//! `GET /.well-known/oauth-protected-resource`: where clients of the protected resource get their tokens.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;

use super::Http;
use super::forward_auth::scheme;
use super::problem;
use crate::authz::resource::WELL_KNOWN;
use crate::authz::rule::RequestView;

/// The metadata of the protected resource (RFC 9728), from the section `resource`.
///
/// The path of the resource follows the path of this one, as in `/.well-known/oauth-protected-resource/mcp`. No
/// credentials are needed, and pages of any site may read it. Scheme and host are the client's, by the settings of
/// `proxy`.
#[utoipa::path(
    get, path = "/.well-known/oauth-protected-resource", tag = "identity",
    responses(
        (status = 200, description = "`resource`, and those of `authorization_servers`, `scopes_supported`, `bearer_methods_supported`, `dpop_signing_alg_values_supported` and `resource_documentation` that apply.", body = Object),
        (status = 404, description = "The resource does not exist, or `resource` is not configured.", body = super::problem::ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn metadata(State(http): State<Http>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let fields: Vec<_> = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let own_host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = parts.uri.authority().map(axum::http::uri::Authority::as_str).or(own_host).unwrap_or_default();
    let path = parts.uri.path();
    let view = RequestView {
        method: "GET",
        target: path,
        host,
        scheme: scheme(&parts.headers).unwrap_or("http"),
        headers: &fields,
        ..RequestView::NOTHING
    };
    let policy = http.state.policy();
    let described = policy.responder.resource().zip(path.strip_prefix(WELL_KNOWN));
    let found = described.and_then(|(resource, path)| Some((resource.metadata(path, &view)?, resource.is_fixed())));
    let Some((metadata, is_fixed)) = found else { return problem::not_found().await.into_response() };
    let mut response = metadata.to_string().into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // A shared cache must not return one host's answer for another host.
    let kept = if is_fixed { "public, max-age=60" } else { "no-store" };
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// Lets the pages of any site read it with the header that MCP clients send.
pub(super) async fn preflight() -> impl IntoResponse {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "mcp-protocol-version"),
    ];
    (StatusCode::NO_CONTENT, headers)
}
