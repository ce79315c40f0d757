//! `GET /v1/about`: this service's configuration, and the permissions of the caller's admin key.

use std::time::Duration;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Http;
use super::extract::AnyKey;
use crate::authz::claims::ClaimPath;
use crate::authz::rule::OnStale;
use crate::state::admin_key::Permission;

/// The service, as far as a client of its API needs its description.
#[derive(Serialize, ToSchema)]
pub(super) struct About {
    version: &'static str,
    /// The name of the caller's admin key.
    key: String,
    /// The key's permissions: `read`, `revoke`, `register`.
    #[schema(value_type = Vec<String>)]
    may: Vec<Permission>,
    issuers: Vec<AboutIssuer>,
    /// The names of the rules, in their order.
    rules: Vec<String>,
    /// `redis` or `embedded`.
    store: &'static str,
    /// The age from which on a view is not relied on, in milliseconds.
    max_staleness_ms: u64,
    /// The effect of a view older than `max_staleness_ms`: `deny`, `allow` or `lookup`.
    on_stale: &'static str,
    /// The most items on one page of a list.
    list_page: usize,
    /// The longest that `wait=all` may wait, in milliseconds.
    receipt_timeout_ms: u64,
}

/// An issuer whose tokens are accepted.
#[derive(Serialize, ToSchema)]
struct AboutIssuer {
    name: String,
    /// The values of `iss`; `{tenant}` in one stands for a tenant's id.
    issuer: Vec<String>,
    /// Added to `exp`, in milliseconds.
    leeway_ms: u64,
    claims: AboutClaims,
}

/// The claims from which an identity is read, the first present one counts; a name with `/` at its start is a JSON
/// pointer.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "as in `issuers[].claims`")]
struct AboutClaims {
    user_id: Vec<String>,
    session_id: Vec<String>,
    client_id: Vec<String>,
}

/// Describes this service and the permissions of the caller's key.
#[utoipa::path(
    get, path = "/v1/about", tag = "operation", security(("admin_key" = [])),
    responses((status = 200, description = "The service, and the name and permissions of the key.", body = About), AnyKey)
)]
pub(super) async fn about(State(http): State<Http>, AnyKey(key): AnyKey) -> axum::Json<About> {
    let policy = http.state.policy();
    let permissions = [Permission::Read, Permission::Revoke, Permission::Register];
    let authorizer = &policy.authorizer;
    let issuers = authorizer.issuers.iter().map(|issuer| AboutIssuer {
        name: issuer.name.to_string(),
        issuer: issuer.issuer.texts().collect(),
        leeway_ms: millis(issuer.leeway),
        claims: AboutClaims {
            user_id: written(&issuer.claim_names.user_id),
            session_id: written(&issuer.claim_names.session_id),
            client_id: written(&issuer.claim_names.client_id),
        },
    });
    axum::Json(About {
        version: env!("CARGO_PKG_VERSION"),
        may: permissions.into_iter().filter(|permission| key.may(*permission)).collect(),
        key: key.name.to_string(),
        issuers: issuers.collect(),
        rules: authorizer.rules.iter().map(|rule| rule.name.to_string()).collect(),
        store: if http.state.replica.is_shared() { "redis" } else { "embedded" },
        max_staleness_ms: millis(authorizer.freshness.max_staleness),
        on_stale: match authorizer.freshness.on_stale {
            OnStale::Deny => "deny",
            OnStale::Allow => "allow",
            OnStale::Lookup => "lookup",
        },
        list_page: http.limits.list_page,
        receipt_timeout_ms: millis(http.limits.receipt_timeout.min(*http.limits.http_timeout)),
    })
}

fn written(paths: &[ClaimPath]) -> Vec<String> {
    paths.iter().map(|path| path.as_str().to_owned()).collect()
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
