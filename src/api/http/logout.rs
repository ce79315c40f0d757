//! `POST /logout`: users sign themselves out with the token they hold.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, header};

use super::extract::Parameters;
use super::problem::ProblemDetails;
use super::{Http, respond};
use crate::api::{Caller, decide};
use crate::authz::answer::{Answer, Respond, Responder};
use crate::authz::authorizer::Decision;
use crate::authz::revocation::Kind;
use crate::authz::rule::{Access, ApiKeyUse, RequestView, Rule, SignOut, Then};

#[derive(serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct LogoutQuery {
    /// Signs the user out everywhere, not just this token.
    #[serde(default)]
    all: bool,
}

/// Signs out the holder of an access token.
///
/// 204, also when the token has expired or is revoked already; a token that does not verify is refused. A token
/// in a cookie is none: other sites could have it sent.
#[utoipa::path(
    post, path = "/logout", tag = "sign-out", params(LogoutQuery), security(("access_token" = [])),
    responses(
        (status = 204, description = "Signed out."),
        (status = 400, description = "More than one token, or a request that cannot be understood.", content((Object = "application/json"), (ProblemDetails = "application/problem+json"))),
        (status = 401, description = "No token, or one that does not verify.", body = Object),
        (status = 503, description = "The store did not take it; try again after `Retry-After`.", body = Object),
    )
)]
pub(super) async fn logout(
    State(http): State<Http>,
    Parameters(query): Parameters<LogoutQuery>,
    headers: HeaderMap,
) -> Response<Body> {
    let scope = if query.all { Kind::User } else { Kind::Token };
    let rule = Rule {
        name: "logout".into(),
        access: Access::SignOut(SignOut { scope, then: Then::Respond }),
        api_key: Some(ApiKeyUse::Ignored),
        ..Rule::default()
    };
    // A browser sends cookies with another site's form as well, and that must sign nobody out.
    let sent = headers.iter().filter(|(name, _)| **name != header::COOKIE);
    let fields: Vec<_> = sent.map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = RequestView { method: "POST", target: "/logout", host: "", headers: &fields, rule: None };
    let put = |responder: &Responder, decision: &Decision<'_>, request: &RequestView<'_>| match responder
        .answer(decision, request)
    {
        Answer::Respond(answer) => respond(answer),
        Answer::Forward(_) => respond(Respond { status: 204, headers: Vec::new(), body: String::new() }),
    };
    decide(&http.state, &request, Some(&rule), Caller::default(), put).await
}
