//! Signs identity payloads as compact JWS (RFC 7515), so that services can tell Doorward's word from
//! whatever else is on their network.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::claims::Timestamp;

/// The `typ` of a signed payload (RFC 8725 section 3.11): nothing that checks it takes one for an access
/// token, or the other way round.
pub const PAYLOAD_TYPE: &str = "identity+jwt";

/// A private key, the one algorithm it signs with, and how long its signatures hold.
pub struct PayloadSigner {
    pair: Pair,
    /// The protected header, encoded.
    header: String,
    /// The public half as a JSON Web Key (RFC 7517).
    public: Value,
    ttl: Duration,
}

enum Pair {
    Es256(EcdsaKeyPair),
    Rs256(Box<RsaKeyPair>),
    EdDsa(Ed25519KeyPair),
}

/// The file holds no key that signs here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnfitKey;

impl PayloadSigner {
    /// Reads a PEM file with a private key in PKCS #8: EC P-256, Ed25519, or RSA from 2048 bits.
    pub fn from_pem(pem: &str, ttl: Duration) -> Result<Self, UnfitKey> {
        let pkcs8 = pkcs8_of(pem).ok_or(UnfitKey)?;
        let pair = if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pkcs8) {
            Pair::Es256(pair)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8(&pkcs8) {
            Pair::EdDsa(pair)
        } else {
            let pair = RsaKeyPair::from_pkcs8(&pkcs8).map_err(|_| UnfitKey)?;
            if pair.public_modulus_len() < KeySize::Rsa2048.len() {
                return Err(UnfitKey);
            }
            Pair::Rs256(Box::new(pair))
        };
        let (algorithm, mut public) = public_half(&pair).ok_or(UnfitKey)?;
        let key_id = thumbprint(&public);
        let header = json!({"alg": algorithm, "kid": key_id, "typ": PAYLOAD_TYPE});
        for (name, value) in [("kid", key_id.as_str()), ("alg", algorithm), ("use", "sig")] {
            public[name] = json!(value);
        }
        Ok(Self { pair, header: URL_SAFE_NO_PAD.encode(header.to_string()), public, ttl })
    }

    /// Signs an identity. It holds for the time configured, and no longer than the token it is of.
    #[must_use]
    pub fn sign(&self, mut identity: Map<String, Value>, now: Timestamp, token_expires: Timestamp) -> Option<String> {
        identity.insert("iat".to_owned(), json!(now.as_secs()));
        identity.insert("exp".to_owned(), json!(now.plus(self.ttl).min(token_expires).as_secs()));
        let mut jws = format!("{}.{}", self.header, URL_SAFE_NO_PAD.encode(Value::Object(identity).to_string()));
        let signature = match &self.pair {
            Pair::Es256(pair) => pair.sign(&SystemRandom::new(), jws.as_bytes()).ok()?.as_ref().to_vec(),
            Pair::EdDsa(pair) => pair.sign(jws.as_bytes()).as_ref().to_vec(),
            Pair::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), jws.as_bytes(), &mut signature).ok()?;
                signature
            }
        };
        jws.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut jws);
        Some(jws)
    }

    /// The public half as a JSON Web Key.
    #[must_use]
    pub const fn public(&self) -> &Value {
        &self.public
    }

    #[must_use]
    pub const fn ttl(&self) -> Duration {
        self.ttl
    }
}

/// The same key and time, whatever the file looks like.
impl PartialEq for PayloadSigner {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public && self.ttl == other.ttl
    }
}

impl Eq for PayloadSigner {}

/// Without the private key.
impl fmt::Debug for PayloadSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadSigner").field("public", &self.public).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// The algorithm and what RFC 7518 section 6 and RFC 8037 require of a key.
fn public_half(pair: &Pair) -> Option<(&'static str, Value)> {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    Some(match pair {
        Pair::Es256(pair) => {
            let (x, y) = pair.public_key().as_ref().strip_prefix(&[0x04])?.split_at_checked(32)?;
            ("ES256", json!({"kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y)}))
        }
        Pair::EdDsa(pair) => {
            ("EdDSA", json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())}))
        }
        Pair::Rs256(pair) => {
            let key = pair.public_key();
            let bytes = |number: &[u8]| encode(&number[number.iter().take_while(|byte| **byte == 0).count()..]);
            let (n, e) = (key.modulus(), key.exponent());
            let (n, e) = (bytes(n.big_endian_without_leading_zero()), bytes(e.big_endian_without_leading_zero()));
            ("RS256", json!({"kty": "RSA", "n": n, "e": e}))
        }
    })
}

/// RFC 7638: names a key by its required members, which stand in a map in the order of their names.
fn thumbprint(public: &Value) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, public.to_string().as_bytes()))
}

/// The contents of the first `PRIVATE KEY` block (RFC 7468 section 10).
fn pkcs8_of(pem: &str) -> Option<Vec<u8>> {
    let (_, rest) = pem.split_once("-----BEGIN PRIVATE KEY-----")?;
    let (body, _) = rest.split_once("-----END PRIVATE KEY-----")?;
    STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation, jwk::Jwk};

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
            let jws = signer.sign(identity(), Timestamp::from_secs(1_000), Timestamp::from_secs(2_000)).unwrap();
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
        let jws = signer.sign(identity(), Timestamp::from_secs(1_000), Timestamp::from_millis(1_010_999)).unwrap();
        let payload = URL_SAFE_NO_PAD.decode(jws.split('.').nth(1).unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap()["exp"], 1_010);
    }

    #[test]
    fn unfit_keys_are_refused() {
        let encrypted = ES256.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let sec1 = ES256.replace("PRIVATE KEY", "EC PRIVATE KEY");
        let cut = ES256.replace("-----END", "");
        for pem in
            [P384, RSA1024, &encrypted, &sec1, &cut, "", "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----"]
        {
            assert_eq!(PayloadSigner::from_pem(pem, Duration::from_secs(60)).unwrap_err(), UnfitKey, "{pem}");
        }
    }

    #[test]
    fn the_thumbprint_is_that_of_the_rfc() {
        // RFC 7638 section 3.1.
        let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";
        let public = json!({"kty": "RSA", "n": n, "e": "AQAB"});
        assert_eq!(thumbprint(&public), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
    }
}
