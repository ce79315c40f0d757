//! A client with its own key, which makes valid and invalid proofs.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::grpc::{Ask, ask};
use crate::support::tokens::now;

/// The URI of the checks over gRPC.
pub const URI: &str = "http://shop.example.com/orders";

pub struct Client {
    key: EcdsaKeyPair,
    pub jwk: Value,
}

impl Client {
    pub fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = key.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        Self { jwk: json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}), key }
    }

    /// RFC 7638.
    pub fn thumbprint(&self) -> String {
        let (x, y) = (self.jwk["x"].as_str().unwrap(), self.jwk["y"].as_str().unwrap());
        hash(&format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#))
    }

    /// A good proof.
    pub fn proof(&self, token: &str, method: &str, uri: &str) -> String {
        self.proof_with(&json!({}), &json!({"htm": method, "htu": uri, "ath": hash(token)}))
    }

    /// A valid proof with some members replaced, or removed by null; `htm`, `htu` and `ath` must be given.
    pub fn proof_with(&self, header: &Value, claims: &Value) -> String {
        let right_header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk});
        let jti = format!("{:032x}", rand::random::<u128>());
        let right_claims = json!({"jti": jti, "iat": now()});
        let parts = [(right_header, header), (right_claims, claims)].map(|(mut right, changes)| {
            for (name, value) in changes.as_object().unwrap() {
                match value {
                    Value::Null => drop(right.as_object_mut().unwrap().remove(name)),
                    value => right[name] = value.clone(),
                }
            }
            URL_SAFE_NO_PAD.encode(right.to_string())
        });
        let input = parts.join(".");
        let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// `GET /orders` with this token and a good proof.
    pub fn get(&self, token: &str) -> Ask {
        self.ask("GET", "/orders", token)
    }

    /// A request with this token and a good proof.
    pub fn ask(&self, method: &str, path: &str, token: &str) -> Ask {
        let proof = self.proof(token, method, &format!("http://shop.example.com{path}"));
        ask(method, path).header("authorization", format!("DPoP {token}")).header("dpop", proof)
    }
}

/// SHA-256 in base64url.
pub fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes()))
}
