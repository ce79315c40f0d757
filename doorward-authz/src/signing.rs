//! Signs as compact JWS (RFC 7515): identity payloads, so that services can distinguish Doorward's
//! statements from others on their network, and development tokens.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};

use super::claims::Timestamp;

/// The `typ` of a signed payload (RFC 8725 section 3.11): no verifier confuses it with an access token.
pub const PAYLOAD_TYPE: &str = "identity+jwt";

/// The least modulus of an RSA key, in bytes (RFC 7518 section 3.3).
const RSA_2048: usize = 256;

/// A private key and its only algorithm.
pub struct SigningKey {
    key: EncodingKey,
    algorithm: Algorithm,
    /// The RFC 7638 thumbprint of the public half.
    key_id: String,
    /// The public half as a JSON Web Key (RFC 7517).
    public: Value,
}

/// The file has no supported private key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnusableKey;

impl SigningKey {
    /// Reads a PEM file with a private key in PKCS #8: EC P-256, Ed25519, or RSA from 2048 bits.
    pub fn from_pem(pem: &str) -> Result<Self, UnusableKey> {
        if !pem.contains("-----BEGIN PRIVATE KEY-----") {
            return Err(UnusableKey); // Older and encrypted forms of private keys.
        }
        let pem = pem.as_bytes();
        let read = [
            (Algorithm::ES256, EncodingKey::from_ec_pem(pem)),
            (Algorithm::EdDSA, EncodingKey::from_ed_pem(pem)),
            (Algorithm::RS256, EncodingKey::from_rsa_pem(pem)),
        ];
        let read = read.into_iter().filter_map(|(algorithm, key)| Some((algorithm, key.ok()?)));
        let mut fit = read.filter_map(|(algorithm, key)| Self::new(algorithm, key));
        fit.next().ok_or(UnusableKey)
    }

    fn new(algorithm: Algorithm, key: EncodingKey) -> Option<Self> {
        let mut public = Jwk::from_encoding_key(&key, algorithm).ok()?;
        if let AlgorithmParameters::RSA(rsa) = &public.algorithm
            && URL_SAFE_NO_PAD.decode(&rsa.n).ok()?.len() < RSA_2048
        {
            return None;
        }
        let key_id = public.thumbprint(ThumbprintHash::SHA256).ok()?;
        public.common.key_id = Some(key_id.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let public = serde_json::to_value(public).ok()?;
        Some(Self { key, algorithm, key_id, public })
    }

    /// The key's `kid`: the RFC 7638 thumbprint of its public half.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The public half as a JSON Web Key.
    #[must_use]
    pub const fn public(&self) -> &Value {
        &self.public
    }

    /// Signs claims as a token of this `typ`.
    #[must_use]
    pub fn sign(&self, token_type: &str, claims: &Map<String, Value>) -> Option<String> {
        let header =
            Header { typ: Some(token_type.to_owned()), kid: Some(self.key_id.clone()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).ok()
    }

    /// The signature of a signing input (RFC 7515 section 5.1), encoded.
    #[must_use]
    pub fn signature(&self, signing_input: &str) -> Option<String> {
        jsonwebtoken::crypto::sign(signing_input.as_bytes(), &self.key, self.algorithm).ok()
    }
}

/// The key that signs identity payloads, and the lifetime of its signatures.
pub struct PayloadSigner {
    key: SigningKey,
    ttl: Duration,
}

impl PayloadSigner {
    /// Reads a PEM file like [`SigningKey::from_pem`].
    pub fn from_pem(pem: &str, ttl: Duration) -> Result<Self, UnusableKey> {
        Ok(Self { key: SigningKey::from_pem(pem)?, ttl })
    }

    /// Signs an identity as a token of this `typ`. The result is valid for the configured time, and no longer than its
    /// token.
    #[must_use]
    pub fn sign(
        &self,
        token_type: &str,
        mut identity: Map<String, Value>,
        now: Timestamp,
        token_expires: Timestamp,
    ) -> Option<String> {
        identity.insert("iat".to_owned(), json!(now.as_secs()));
        identity.insert("exp".to_owned(), json!(now.plus(self.ttl).min(token_expires).as_secs()));
        self.key.sign(token_type, &identity)
    }

    /// The public half as a JSON Web Key.
    #[must_use]
    pub const fn public(&self) -> &Value {
        self.key.public()
    }

    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }
}

/// Compares key and lifetime, independent of the file's format.
impl PartialEq for PayloadSigner {
    fn eq(&self, other: &Self) -> bool {
        self.public() == other.public() && self.ttl == other.ttl
    }
}

impl Eq for PayloadSigner {}

/// Without the private key.
impl fmt::Debug for PayloadSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadSigner").field("public", self.public()).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};

    const ES256: &str = include_str!("../../src/config/testdata/sign-p256.pem");
    const EDDSA: &str = include_str!("../../src/config/testdata/sign-ed25519.pem");
    const RS256: &str = include_str!("../../src/config/testdata/sign-rsa2048.pem");
    const P384: &str = include_str!("../../src/config/testdata/sign-p384.pem");
    const RSA1024: &str = include_str!("../../src/config/testdata/sign-rsa1024.pem");

    fn identity() -> Map<String, Value> {
        json!({"user_id": "alice", "scopes": ["a"]}).as_object().unwrap().clone()
    }

    #[test]
    fn a_payload_is_signed_with_the_algorithm_of_its_key_and_verifies_by_the_public_half() {
        for (pem, algorithm) in [(ES256, "ES256"), (EDDSA, "EdDSA"), (RS256, "RS256")] {
            let signer = PayloadSigner::from_pem(pem, Duration::from_secs(60)).unwrap();
            let jws = signer
                .sign(PAYLOAD_TYPE, identity(), Timestamp::from_secs(1_000), Timestamp::from_secs(2_000))
                .unwrap();
            let header = jsonwebtoken::decode_header(&jws).unwrap();
            assert_eq!(serde_json::to_value(header.alg).unwrap(), algorithm);
            assert_eq!(header.typ.as_deref(), Some(PAYLOAD_TYPE));
            let public: Jwk = serde_json::from_value(signer.public().clone()).unwrap();
            assert_eq!(header.kid, public.common.key_id);
            assert!(signer.public().get("d").is_none() && !format!("{signer:?}").contains("\"d\""));
            let mut validation = Validation::new(header.alg);
            (validation.validate_exp, validation.required_spec_claims) =
                (false, ["iat".to_owned(), "exp".to_owned()].into());
            let key = DecodingKey::from_jwk(&public).unwrap();
            let claims = jsonwebtoken::decode::<Value>(&jws, &key, &validation).unwrap().claims;
            assert_eq!(claims, json!({"user_id": "alice", "scopes": ["a"], "iat": 1_000, "exp": 1_060}));
        }
    }

    #[test]
    fn a_payload_does_not_outlive_its_token() {
        let signer = PayloadSigner::from_pem(ES256, Duration::from_secs(60)).unwrap();
        let jws = signer
            .sign(PAYLOAD_TYPE, identity(), Timestamp::from_secs(1_000), Timestamp::from_millis(1_010_999))
            .unwrap();
        let payload = URL_SAFE_NO_PAD.decode(jws.split('.').nth(1).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap()["exp"], 1_010);
    }

    #[test]
    fn unusable_keys_are_refused() {
        let encrypted = ES256.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let sec1 = ES256.replace("PRIVATE KEY", "EC PRIVATE KEY");
        let cut = ES256.replace("-----END", "");
        for pem in
            [P384, RSA1024, &encrypted, &sec1, &cut, "", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----"]
        {
            assert_eq!(PayloadSigner::from_pem(pem, Duration::from_secs(60)).unwrap_err(), UnusableKey, "{pem}");
        }
    }
}
