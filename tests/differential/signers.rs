//! Keys of every algorithm, and their signatures.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use serde_json::{Value, json};

use crate::corpus::forge::{Key, base64url, mac, pem, with};

/// A key under its `kid`, for one algorithm.
pub struct Signer {
    pub kid: &'static str,
    pub algorithm: &'static str,
    key: Pair,
}

enum Pair {
    Rsa(Arc<RsaKeyPair>),
    Other(Key),
}

/// One signer of every algorithm; the RSA keys are the same, under one `kid` for each algorithm.
pub fn all() -> Vec<Signer> {
    let rsa = Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
    let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"].map(|name| (name, Pair::Rsa(rsa.clone())));
    let others = [("ES256", Key::ec()), ("ES384", Key::ec384()), ("EdDSA", Key::ed())];
    let secret: Vec<u8> = (0..64).collect();
    let shared = ["HS256", "HS384", "HS512"].map(|name| (name, Key::Secret(secret.clone())));
    let others = others.into_iter().chain(shared).map(|(name, key)| (name, Pair::Other(key)));
    rsa.into_iter().chain(others).map(|(algorithm, key)| Signer { kid: algorithm, algorithm, key }).collect()
}

impl Signer {
    pub fn is_symmetric(&self) -> bool {
        matches!(self.key, Pair::Other(Key::Secret(_)))
    }

    /// Signs with the algorithm, if the key supports it, else with the key's own.
    pub fn sign(&self, algorithm: &str, input: &[u8]) -> Vec<u8> {
        let encoding: &'static dyn RsaEncoding = match algorithm {
            "RS384" => &RSA_PKCS1_SHA384,
            "RS512" => &RSA_PKCS1_SHA512,
            "PS256" => &RSA_PSS_SHA256,
            "PS384" => &RSA_PSS_SHA384,
            "PS512" => &RSA_PSS_SHA512,
            _ => &RSA_PKCS1_SHA256,
        };
        match &self.key {
            Pair::Other(key) => key.sign(algorithm, input),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &SystemRandom::new(), input, &mut signature).unwrap();
                signature
            }
        }
    }

    /// An HMAC with the public parts of the key.
    pub fn confused(&self, input: &[u8], choice: usize) -> Vec<u8> {
        let jwk = self.jwk();
        let public = match (&self.key, choice % 3) {
            (Pair::Rsa(pair), 0) => pem("RSA PUBLIC KEY", pair.public_key().as_ref()).into_bytes(),
            (Pair::Rsa(pair), 1) => pair.public_key().as_ref().to_vec(),
            (Pair::Other(key @ (Key::Ec(_) | Key::Ed(_))), 0) => pem("PUBLIC KEY", &key.spki()).into_bytes(),
            (Pair::Other(key @ (Key::Ec(_) | Key::Ed(_))), 1) => key.spki(),
            _ => jwk.to_string().into_bytes(),
        };
        mac("HS256", &public, input)
    }

    /// The published form; for a shared secret, the form of the verifiers' configuration.
    pub fn jwk(&self) -> Value {
        let named = json!({"kid": self.kid, "alg": self.algorithm, "use": "sig"});
        match &self.key {
            Pair::Rsa(pair) => {
                // RSAPublicKey of 2048 bits in DER: a header of 9 bytes, the modulus, 5 bytes of exponent.
                let der = pair.public_key().as_ref();
                let (modulus, exponent) = (&der[9..265], &der[267..]);
                with(json!({"kty": "RSA", "n": base64url(modulus), "e": base64url(exponent)}), &named)
            }
            // Two names of one algorithm (RFC 9864): a key that names neither is for both.
            Pair::Other(key @ Key::Ed(_)) => key.jwk(with(named, &json!({"alg": null}))),
            Pair::Other(key) => key.jwk(named),
        }
    }
}

#[test]
fn rsa_keys_are_published_as_they_are() {
    let signers = all();
    let rsa = |name: &str| signers.iter().find(|signer| signer.algorithm == name).unwrap();
    let jwk = rsa("PS512").jwk();
    let bytes = |name: &str| crate::corpus::forge::from_base64url(jwk[name].as_str().unwrap());
    let public = signature::RsaPublicKeyComponents { n: bytes("n"), e: bytes("e") };
    assert!(
        public.verify(&signature::RSA_PSS_2048_8192_SHA512, b"input", &rsa("PS512").sign("PS512", b"input")).is_ok()
    );
}
