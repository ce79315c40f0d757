//! Access tokens, which everyone can verify, and refresh tokens, which only we can.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::keys::SigningKeys;
use super::store::Session;
use crate::clock::Timestamp;

/// Short: a token whose end is not reported to Doorward expires within this time.
pub const ACCESS_LIFETIME: Duration = Duration::from_secs(5 * 60);

/// Makes access tokens.
pub struct Minter {
    pub keys: SigningKeys,
    pub issuer: String,
    pub audience: String,
}

impl Minter {
    /// A JWT access token (RFC 9068).
    ///
    /// `issued_at` is when the request came, before the session was read: whatever changed since then
    /// revokes it.
    pub fn access_token(&self, session: &Session, issued_at: Timestamp) -> anyhow::Result<String> {
        let claims = json!({
            "iss": self.issuer,
            "aud": self.audience,
            "sub": session.login,
            "email": session.email,
            "client_id": "page",
            "jti": random::<16>()?,
            "sid": session.sid,
            "iat": issued_at.numeric_date(),
            "auth_time": session.started_at,
            "exp": issued_at.plus(ACCESS_LIFETIME).secs(),
            "permissions": session.permissions.split_whitespace().collect::<Vec<_>>(),
        });
        self.keys.sign("at+jwt", &claims, issued_at)
    }
}

/// `N` random bytes in base64url; 16 of them name things, 32 are a secret.
pub fn random<const N: usize>() -> anyhow::Result<String> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// As a refresh token is stored. It has 256 random bits, so a fast hash without salt is enough.
pub fn sha256_hex(text: &str) -> String {
    use std::fmt::Write;
    digest(&SHA256, text.as_bytes()).as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // Writing to a string does not fail.
        hex
    })
}
