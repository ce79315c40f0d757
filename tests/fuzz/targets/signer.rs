//! An issuer with a constant key, so that a seed with a valid token stays valid.

use std::sync::LazyLock;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward::authz::claims::Timestamp;
use serde_json::{Value, json};

pub const ISSUER: &str = "https://issuer.test";
pub const AUDIENCE: &str = "demo";

/// When the targets that are given a time are asked: 2026-01-01.
pub const NOW: Timestamp = Timestamp::from_secs(1_767_225_600);

static KEY: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes are a seed"));

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The public half; of the kid `ed`.
pub fn jwks() -> Value {
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": base64url(KEY.public_key())}]})
}

/// A compact JWS over any header and payload.
pub fn sign(header: &[u8], payload: &[u8]) -> String {
    let input = format!("{}.{}", base64url(header), base64url(payload));
    let signature = base64url(KEY.sign(input.as_bytes()));
    format!("{input}.{signature}")
}

/// A header and a payload with a line feed between them, and the JWS over them.
pub fn sign_parts(data: &[u8]) -> (&[u8], &[u8], String) {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (header, payload) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    (header, payload, sign(header, payload))
}

pub const HEADER: &str = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"ed"}"#;

/// All signed tokens, beside those that a target signs itself: no input can contain another valid one.
///
/// Tokens of users `alice` and `bob`, from 2025 to 2100.
pub static SIGNED: LazyLock<[String; 2]> = LazyLock::new(|| {
    ["alice", "bob"].map(|user| {
        let claims = format!(
            r#"{{"iss":"{ISSUER}","aud":"{AUDIENCE}","sub":"{user}","email":"{user}@example.com","jti":"jti-of-{user}","sid":"s","iat":1750000000,"exp":4102444800}}"#
        );
        sign(HEADER.as_bytes(), claims.as_bytes())
    })
});
