//! `GET /jwks.json`: the keys that verify signed identity payloads.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::Http;
use crate::clock;

/// The public keys for `identity.payload.sign` (RFC 7517); none when payloads are not signed.
///
/// A replaced key stays listed while payloads that it signed are valid.
#[utoipa::path(
    get, path = "/jwks.json", tag = "identity",
    responses((status = 200, description = "A JSON Web Key Set.", body = Object, content_type = "application/jwk-set+json"))
)]
pub(super) async fn jwks(State(http): State<Http>) -> impl IntoResponse {
    let keys = http.state.policy().responder.public_keys(clock::now());
    // Short, for a new key to be seen soon; a client that meets an unknown `kid` fetches again
    // anyway.
    let headers = [(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, "public, max-age=60")];
    (headers, keys.to_string())
}
