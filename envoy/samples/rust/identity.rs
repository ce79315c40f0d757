//! Reads Doorward's identity payload, plain or signed, as an axum extractor.
//!
//! Needs axum, base64, jsonwebtoken, reqwest, serde and tokio.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{FromRef, FromRequestParts};
use axum::http::{StatusCode, request::Parts};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;
use tokio::sync::Mutex;

/// The caller's identity from Doorward. A handler with this extractor answers 401 to requests
/// without one.
#[derive(Clone, Debug, Deserialize)]
pub struct Identity {
    pub user_id: String,
    pub email: Option<String>,
    pub token_id: String,
    /// Seconds since the Unix epoch.
    pub expires_at: u64,
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// Made-up key ids must not become a flood of fetches.
const BETWEEN_FETCHES: Duration = Duration::from_secs(1);

/// How payloads are read; in the application's state.
#[derive(Clone)]
pub struct IdentityReader(Option<Arc<Signed>>);

struct Signed {
    jwks: String,
    client: reqwest::Client,
    keys: Mutex<(JwkSet, Option<Instant>)>,
}

impl IdentityReader {
    /// For base64url JSON: only where nobody but Envoy can reach this service.
    pub fn plain() -> Self {
        Self(None)
    }

    /// For payloads signed by Doorward, whose keys are at its `/jwks.json`.
    pub fn signed(jwks: String) -> Self {
        let keys = Mutex::new((JwkSet { keys: Vec::new() }, None));
        Self(Some(Arc::new(Signed { jwks, client: reqwest::Client::new(), keys })))
    }

    /// `None` for a payload that is forged, expired or not what this reader is for.
    pub async fn read(&self, payload: &str) -> Option<Identity> {
        match &self.0 {
            None => serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok(),
            Some(signed) => signed.read(payload).await,
        }
    }
}

impl Signed {
    async fn read(&self, jws: &str) -> Option<Identity> {
        let header = jsonwebtoken::decode_header(jws).ok()?;
        let (algorithm, key) = self.key(&header.kid?).await?;
        // The type keeps access tokens out.
        if header.typ.as_deref() != Some("identity+jwt") {
            return None;
        }
        let mut validation = Validation::new(algorithm); // The key says how it is used, never the payload.
        validation.leeway = 30;
        Some(jsonwebtoken::decode::<Identity>(jws, &key, &validation).ok()?.claims)
    }

    /// The key of this id; an unknown one may be new, so the keys are fetched again.
    async fn key(&self, id: &str) -> Option<(jsonwebtoken::Algorithm, DecodingKey)> {
        let mut known = self.keys.lock().await;
        if known.0.find(id).is_none() && known.1.is_none_or(|fetched| fetched.elapsed() > BETWEEN_FETCHES) {
            known.1 = Some(Instant::now());
            let answer = self.client.get(&self.jwks).timeout(Duration::from_secs(2)).send().await.ok()?;
            known.0 = answer.json().await.ok()?;
        }
        let jwk = known.0.find(id)?;
        let algorithm = jwk.common.key_algorithm?.to_string().parse().ok()?;
        Some((algorithm, DecodingKey::from_jwk(jwk).ok()?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Identity
where
    IdentityReader: FromRef<S>,
{
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, StatusCode> {
        let header = parts.headers.get("x-identity").and_then(|value| value.to_str().ok());
        let reader = IdentityReader::from_ref(state);
        reader.read(header.ok_or(StatusCode::UNAUTHORIZED)?).await.ok_or(StatusCode::UNAUTHORIZED)
    }
}
