//! `GET /jwks.json`: the keys that verify signed identity payloads.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::Http;
use crate::clock;

/// The public keys for `identity.payload.sign` (RFC 7517); none when payloads are not signed.
///
/// A key that was replaced stays listed while anything it signed holds.
#[utoipa::path(
    get, path = "/jwks.json", tag = "identity",
    responses((status = 200, description = "A JSON Web Key Set.", body = Object, content_type = "application/jwk-set+json"))
)]
pub(super) async fn jwks(State(http): State<Http>) -> impl IntoResponse {
    let keys = http.state.policy().responder.public_keys(clock::now());
    // Shorter than anyone would wait for a new key; who meets an unknown `kid` asks again anyway.
    let headers = [(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, "public, max-age=60")];
    (headers, keys.to_string())
}
