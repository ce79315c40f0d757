//! The development issuer: its key, and tokens minted with it.
//!
//! The key is made on first use and kept in a folder; none is built in, so a development token means
//! nothing to any other Doorward.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// The issuer that `dev-token` mints for unless told otherwise.
pub const ISSUER: &str = "https://dev.doorward.test";
/// The audience that `dev-token` mints for unless told otherwise.
pub const AUDIENCE: &str = "demo";

const KEY_FILE: &str = "dev.key.pem";
const JWKS_FILE: &str = "dev.jwks.json";

/// An ES256 key pair that signs development tokens.
pub struct DevIssuer {
    key_id: String,
    signing: EcdsaKeyPair,
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
    /// A new key that is kept nowhere.
    pub fn generate() -> Result<Self, DevError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| DevError::Make)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| DevError::Make)?;
        Self::from_pkcs8(pkcs8.as_ref()).ok_or(DevError::Make)
    }

    /// The key in `dir`, made there if there is none (`dev.key.pem`, mode 0600), and its public half
    /// beside it (`dev.jwks.json`).
    pub fn open(dir: &Path) -> Result<Self, DevError> {
        let (key_file, jwks_file) = (dir.join(KEY_FILE), dir.join(JWKS_FILE));
        let file = |action, path: &Path| {
            let path = path.display().to_string();
            move |source| DevError::File { action, path, source }
        };
        fs::create_dir_all(dir).map_err(file("make folder", dir))?;
        if !key_file.exists() {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| DevError::Make)?;
            let pkcs8 = pair.to_pkcs8v1().map_err(|_| DevError::Make)?;
            let text = STANDARD.encode(pkcs8.as_ref());
            let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
            for line in text.as_bytes().chunks(64) {
                pem.extend(line.iter().copied().map(char::from));
                pem.push('\n');
            }
            pem += "-----END PRIVATE KEY-----\n";
            let opened = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key_file);
            opened.and_then(|mut f| f.write_all(pem.as_bytes())).map_err(file("write", &key_file))?;
        }
        let pem = fs::read_to_string(&key_file).map_err(file("read", &key_file))?;
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let pkcs8 = STANDARD.decode(body).map_err(|_| DevError::Key(key_file.display().to_string()))?;
        let issuer = Self::from_pkcs8(&pkcs8).ok_or_else(|| DevError::Key(key_file.display().to_string()))?;
        let jwks = format!("{:#}\n", issuer.jwks);
        if fs::read_to_string(&jwks_file).ok().as_deref() != Some(jwks.as_str()) {
            fs::write(&jwks_file, jwks).map_err(file("write", &jwks_file))?;
        }
        Ok(issuer)
    }

    fn from_pkcs8(pkcs8: &[u8]) -> Option<Self> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).ok()?;
        let point = pair.public_key().as_ref();
        let (x, y) = point.strip_prefix(&[0x04])?.split_at_checked(32)?;
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // RFC 7638: the thumbprint names the key by its content.
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let key_id = URL_SAFE_NO_PAD.encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, members.as_bytes()));
        let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": key_id, "alg": "ES256", "use": "sig"}]});
        Some(Self { key_id, signing: pair, jwks })
    }

    /// The public half as a JSON Web Key Set.
    #[must_use]
    pub fn jwks(&self) -> &Value {
        &self.jwks
    }

    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Signs claims as an access token (`typ: at+jwt`, RFC 9068).
    pub fn mint(&self, claims: &Value) -> Result<String, DevError> {
        let header = json!({"typ": "at+jwt", "alg": "ES256", "kid": self.key_id});
        self.sign_raw(&header.to_string(), claims.to_string().as_bytes())
    }

    /// Signs any header and payload as they are: for tests of what is not an access token.
    pub fn sign_raw(&self, header: &str, payload: &[u8]) -> Result<String, DevError> {
        let input = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = self.signing.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| DevError::Sign)?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
