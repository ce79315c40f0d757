//! The development issuer: its key, and tokens minted with it.
//!
//! The key is created at the first use and kept in a folder; no key is built in, so no other
//! Doorward accepts the development tokens.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::authz::signing::SigningKey;

/// The default issuer of `dev-token`.
pub const ISSUER: &str = "https://dev.doorward.test";
/// The default audience of `dev-token`.
pub const AUDIENCE: &str = "demo";

const KEY_FILE: &str = "dev.key.pem";
const JWKS_FILE: &str = "dev.jwks.json";

/// An ES256 key pair that signs development tokens.
pub struct DevIssuer {
    key: SigningKey,
    jwks: Value,
}

#[derive(Debug, thiserror::Error)]
pub enum DevError {
    #[error("{action} {path}")]
    File { action: &'static str, path: String, source: io::Error },
    #[error("read {0}: not an EC P-256 private key in PEM (PKCS #8)")]
    Key(String),
    #[error("make a key")]
    Make,
    #[error("sign a token")]
    Sign,
}

impl DevIssuer {
    /// A new key that is not stored.
    pub fn generate() -> Result<Self, DevError> {
        Self::from_pem(&new_pem()?).ok_or(DevError::Make)
    }

    /// The key in `dir`, created there if it is missing (`dev.key.pem`, mode 0600), and its public
    /// half beside it (`dev.jwks.json`).
    pub fn open(dir: &Path) -> Result<Self, DevError> {
        let (key_file, jwks_file) = (dir.join(KEY_FILE), dir.join(JWKS_FILE));
        let file = |action, path: &Path| {
            let path = path.display().to_string();
            move |source| DevError::File { action, path, source }
        };
        fs::create_dir_all(dir).map_err(file("make folder", dir))?;
        if !key_file.exists() {
            let pem = new_pem()?;
            let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key_file);
            opened.and_then(|mut f| f.write_all(pem.as_bytes())).map_err(file("write", &key_file))?;
        }
        let pem = fs::read_to_string(&key_file).map_err(file("read", &key_file))?;
        let issuer = Self::from_pem(&pem).ok_or_else(|| DevError::Key(key_file.display().to_string()))?;
        let jwks = format!("{:#}\n", issuer.jwks);
        if fs::read_to_string(&jwks_file).ok().as_deref() != Some(jwks.as_str()) {
            fs::write(&jwks_file, jwks).map_err(file("write", &jwks_file))?;
        }
        Ok(issuer)
    }

    fn from_pem(pem: &str) -> Option<Self> {
        let key = SigningKey::from_pem(pem).ok()?;
        let jwks = json!({"keys": [key.public()]});
        Some(Self { key, jwks })
    }

    /// The public half as a JSON Web Key Set.
    #[must_use]
    pub fn jwks(&self) -> &Value {
        &self.jwks
    }

    #[must_use]
    pub fn key_id(&self) -> &str {
        self.key.key_id()
    }

    /// Signs claims as an access token (`typ: at+jwt`, RFC 9068).
    pub fn mint(&self, claims: &Value) -> Result<String, DevError> {
        let claims = claims.as_object().ok_or(DevError::Sign)?;
        self.key.sign("at+jwt", claims).ok_or(DevError::Sign)
    }

    /// Signs any header and payload unchanged: for tests of other tokens than access tokens.
    pub fn sign_raw(&self, header: &str, payload: &[u8]) -> Result<String, DevError> {
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.key.signature(&input).ok_or(DevError::Sign)?;
        Ok(format!("{input}.{signature}"))
    }
}

/// A new EC P-256 key in PEM (PKCS #8).
fn new_pem() -> Result<String, DevError> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| DevError::Make)?;
    let text = STANDARD.encode(pair.to_pkcs8v1().map_err(|_| DevError::Make)?.as_ref());
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem += "-----END PRIVATE KEY-----\n";
    Ok(pem)
}
