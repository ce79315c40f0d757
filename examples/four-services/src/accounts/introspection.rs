//! `POST /oauth2/introspect` (RFC 7662): whether an access token is active, by its signature and the database.
//!
//! The alternative to events: introspection at every request. Doorward does so with `issuers[].introspection:
//! {when: always}`; docs/knowing.md has its cost beside that of the other ways.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Json;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Accounts;
use super::error::Error;
use crate::clock;

/// The one client that may ask.
pub struct Client {
    /// The `Authorization` that it sends.
    expected: String,
}

impl Client {
    /// `file` holds the secret.
    pub fn read(id: &str, file: &Path) -> anyhow::Result<Self> {
        let secret = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let secret = secret.trim_end();
        // Both are form-encoded before they are joined (RFC 6749 section 2.3.1); these bytes stay as they are.
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        ensure!(plain(id) && plain(secret), "the id and the secret of a client are letters, digits and `-_.`");
        ensure!(secret.len() >= 32, "{} must hold at least 32 characters", file.display());
        Ok(Self { expected: format!("Basic {}", STANDARD.encode(format!("{id}:{secret}"))) })
    }

    fn sent(&self, headers: &HeaderMap) -> bool {
        let sent = headers.get(AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
        verify_slices_are_equal(sent, self.expected.as_bytes()).is_ok()
    }
}

#[derive(Deserialize)]
pub struct Question {
    token: String,
}

/// The claims of an active token, with the current permissions; for any other token only that it is not
/// active.
pub async fn introspect(
    State(accounts): State<Arc<Accounts>>,
    headers: HeaderMap,
    question: Result<Form<Question>, FormRejection>,
) -> Result<Json<Value>, Error> {
    if !accounts.introspection.as_ref().is_some_and(|client| client.sent(&headers)) {
        return Err(Error::UnknownClient);
    }
    let Form(Question { token }) = question.map_err(|_| Error::Invalid("a form with `token` is needed"))?;
    Ok(Json(said_of(&accounts, &token).await?.unwrap_or_else(|| json!({"active": false}))))
}

async fn said_of(accounts: &Accounts, token: &str) -> Result<Option<Value>, Error> {
    let now = clock::now();
    let Some(mut claims) = verified(accounts, token)? else { return Ok(None) };
    let sid = claims["sid"].as_str().unwrap_or_default();
    let Some(session) = accounts.store.session(sid, now).await? else { return Ok(None) };
    claims["permissions"] = session.permissions.split_whitespace().collect();
    claims["active"] = json!(true);
    claims["token_type"] = json!("Bearer");
    Ok(Some(claims))
}

/// The claims of an access token of ours that has not expired.
fn verified(accounts: &Accounts, token: &str) -> anyhow::Result<Option<Value>> {
    let minter = &accounts.minter;
    let Ok(header) = jsonwebtoken::decode_header(token) else { return Ok(None) };
    if header.typ.as_deref() != Some("at+jwt") {
        return Ok(None); // A security event has the same keys.
    }
    let Some(key) = minter.keys.public(header.kid.as_deref().unwrap_or_default(), clock::now())? else {
        return Ok(None);
    };
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_issuer(&[&minter.issuer]);
    validation.set_audience(&[&minter.audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.leeway = 0;
    let key = DecodingKey::from_jwk(&serde_json::from_value(key)?)?;
    Ok(jsonwebtoken::decode(token, &key, &validation).ok().map(|token| token.claims))
}
