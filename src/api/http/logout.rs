//! `POST /logout`: users sign themselves out with the token they hold.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Response};

use super::{Http, respond};
use crate::api::decide;
use crate::authz::answer::{Answer, Respond};
use crate::authz::revocation::Kind;
use crate::authz::rule::{Access, ApiKeyUse, RequestView, Rule, SignOut, Then};

#[derive(serde::Deserialize)]
pub(super) struct Parameters {
    /// Signs the user out everywhere, not just this token.
    #[serde(default)]
    all: bool,
}

/// 204, also when the token has expired or is revoked already; a token that does not verify is refused.
pub(super) async fn logout(
    State(http): State<Http>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response<Body> {
    let scope = if parameters.all { Kind::User } else { Kind::Token };
    let rule = Rule {
        name: "logout".into(),
        access: Access::SignOut(SignOut { scope, then: Then::Respond }),
        api_key: Some(ApiKeyUse::Ignored),
        ..Rule::default()
    };
    let fields: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = RequestView { method: "POST", target: "/logout", host: "", headers: &fields, rule: None };
    match decide(&http.state, &request, Some(&rule), None).await.answer {
        Answer::Respond(answer) => respond(answer),
        Answer::Forward(_) => respond(Respond { status: 204, headers: Vec::new(), body: String::new() }),
    }
}
