//! `POST /logout`: users sign themselves out with their token.

use axum::body::Body;
use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header};
use axum::response::IntoResponse;

use super::extract::Parameters;
use super::forward_auth::scheme;
use super::origin::Site;
use super::problem::{Problem, ProblemDetails};
use super::{Http, respond};
use crate::api::{Query, decide};
use crate::authz::answer::{Answer, Respond, Responder};
use crate::authz::authorizer::Decision;
use crate::authz::dpop;
use crate::authz::revocation::Kind;
use crate::authz::rule::{Access, ApiKeyUse, RequestView, Rule, SignOut, Then};
use crate::authz::token_source::TokenSource;

#[derive(serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct LogoutQuery {
    /// Signs the user out everywhere, not just this token.
    #[serde(default)]
    all: bool,
}

/// Signs out the holder of an access token.
///
/// Answers 204, also when the token has expired or is revoked already; with a revoked token only the token itself is
/// signed out, whatever `all` is. A token that does not verify is refused. A token in a cookie does not count, because
/// other sites could make the browser send it.
#[utoipa::path(
    post, path = "/logout", tag = "sign-out", params(LogoutQuery), security(("access_token" = [])),
    responses(
        (status = 204, description = "The sign-out is stored."),
        (status = 400, description = "The request has more than one token, or is malformed.", content((Object = "application/json"), (ProblemDetails = "application/problem+json"))),
        (status = 403, description = "The origin of the page is not in `listen.cors_origins`.", body = ProblemDetails, content_type = "application/problem+json"),
        (status = 401, description = "The token is missing or not valid.", body = Object),
        (status = 503, description = "The sign-out is not stored; try again after `Retry-After`.", body = Object),
    )
)]
pub(super) async fn logout(
    State(http): State<Http>,
    Parameters(query): Parameters<LogoutQuery>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let site = Site::of(&http, &uri, &headers)?;
    let scope = if query.all { Kind::User } else { Kind::Token };
    let rule = Rule {
        name: "logout".into(),
        access: Access::SignOut(SignOut { scope, then: Then::Respond }),
        api_key: Some(ApiKeyUse::Ignored),
        ..Rule::default()
    };
    // A browser sends cookies with another site's form as well, which must not sign the user out.
    let sent = headers.iter().filter(|(name, _)| **name != header::COOKIE || site.is_proven());
    let fields: Vec<_> = sent.map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let named = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let request = RequestView {
        method: "POST",
        target: "/logout",
        host: uri.authority().map(Authority::as_str).or(named).unwrap_or_default(),
        scheme: scheme(&headers).unwrap_or("http"),
        headers: &fields,
        ..RequestView::NOTHING
    };
    let put = |responder: &Responder, decision: &Decision<'_>, request: &RequestView<'_>| match responder
        .answer(decision, request)
    {
        Answer::Respond(answer) => respond(answer),
        Answer::Forward(_) => respond(Respond { status: 204, headers: Vec::new(), body: String::new() }),
    };
    let answer = decide(Query::new(&http.state, &request).by_rule(&rule), put).await;
    Ok(site.admit(answer))
}

/// Answers a browser's preflight: pages of a configured site may sign out.
#[utoipa::path(
    options, path = "/logout", tag = "sign-out",
    responses(
        (status = 204, description = "The page may call `/logout`."),
        (status = 403, description = "The origin of the page is not in `listen.cors_origins`.", body = ProblemDetails, content_type = "application/problem+json"),
    )
)]
pub(super) async fn preflight(
    State(http): State<Http>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let site = Site::of(&http, &uri, &headers)?;
    let mut response = site.admit(StatusCode::NO_CONTENT.into_response());
    let policy = http.state.policy();
    let named = policy.authorizer.tokens.from.iter().filter_map(|source| match source {
        TokenSource::Header { name, .. } => Some(name.as_str()),
        TokenSource::Cookie(_)
        | TokenSource::ChunkedCookie(_)
        | TokenSource::Query(_)
        | TokenSource::WebSocketProtocol(_) => None,
    });
    let allowed = named.chain([dpop::FIELD]).collect::<Vec<_>>().join(", ");
    let headers = response.headers_mut();
    headers.insert(header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    Ok(response)
}
