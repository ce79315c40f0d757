//! The signing keys, and their rotation.
//!
//! ```text
//! next ──────▶ current ──────▶ retired ──────▶ gone
//!   published     signs          published,
//!   not yet used                 until its last token has expired
//! ```
//!
//! A verifier that fetched the set at any time within a key's lifetime can verify every token: a rotation
//! refuses no request. The keys are in memory: a restart creates new ones, and earlier access tokens are
//! refused (`unknown_key`), after which clients refresh. With several instances of Accounts the keys belong
//! in a shared place: a key management service, or a secret that each mounts.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::anyhow;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::{Value, json};

use super::tokens;
use crate::clock::Timestamp;

/// How far clocks may disagree; a retired key is published for that much longer.
const LEEWAY: Duration = Duration::from_secs(60);

pub struct SigningKeys {
    lifetime: Duration,
    keys: Mutex<Keys>,
}

struct Keys {
    next: Key,
    current: Key,
    rotate_at: Timestamp,
    /// Oldest first, each until when it is published.
    retired: VecDeque<(Key, Timestamp)>,
}

struct Key {
    id: String,
    signing: EncodingKey,
    public: Value,
}

impl SigningKeys {
    pub fn generate(lifetime: Duration, now: Timestamp) -> anyhow::Result<Self> {
        let (next, current) = (Key::generate()?, Key::generate()?);
        let keys = Keys { next, current, rotate_at: now.plus(lifetime), retired: VecDeque::new() };
        Ok(Self { lifetime, keys: Mutex::new(keys) })
    }

    /// Signs claims with the current key; `typ` names the kind of token (RFC 8725 section 3.11).
    pub fn sign(&self, typ: &str, claims: &impl Serialize, now: Timestamp) -> anyhow::Result<String> {
        self.at(now, |keys| {
            let header = Header {
                typ: Some(typ.to_owned()),
                kid: Some(keys.current.id.clone()),
                ..Header::new(Algorithm::ES256)
            };
            Ok(jsonwebtoken::encode(&header, claims, &keys.current.signing)?)
        })
    }

    /// The public keys (RFC 7517), and for how long they may be kept: the next key must have been seen before
    /// it is used.
    pub fn jwks(&self, now: Timestamp) -> anyhow::Result<(Value, Duration)> {
        self.at(now, |keys| {
            let retired = keys.retired.iter().map(|(key, _)| &key.public);
            let all: Vec<_> = [&keys.current.public, &keys.next.public].into_iter().chain(retired).collect();
            Ok((json!({"keys": all}), (self.lifetime / 2).min(Duration::from_secs(300))))
        })
    }

    /// The public key of this id, while it is published.
    pub fn public(&self, id: &str, now: Timestamp) -> anyhow::Result<Option<Value>> {
        self.at(now, |keys| {
            let published = [&keys.current, &keys.next].into_iter().chain(keys.retired.iter().map(|(key, _)| key));
            Ok(published.into_iter().find(|key| key.id == id).map(|key| key.public.clone()))
        })
    }

    /// The keys as they stand at `now`. After an idle time it is still the published key that comes next.
    fn at<T>(&self, now: Timestamp, use_them: impl FnOnce(&Keys) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut keys = self.keys.lock().map_err(|_| anyhow!("the lock of the keys is poisoned"))?;
        if now >= keys.rotate_at {
            let made = Key::generate()?;
            let chosen = std::mem::replace(&mut keys.next, made);
            let retired = std::mem::replace(&mut keys.current, chosen);
            keys.retired.push_back((retired, now.plus(tokens::ACCESS_LIFETIME + LEEWAY)));
            keys.rotate_at = now.plus(self.lifetime);
        }
        while keys.retired.front().is_some_and(|(_, until)| now >= *until) {
            keys.retired.pop_front();
        }
        use_them(&keys)
    }
}

impl Key {
    fn generate() -> anyhow::Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        let pkcs8 = pair.to_pkcs8v1()?;
        // An uncompressed point (SEC 1 section 2.3.3): 4, then x and y.
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // RFC 7638: named by its content, so that no two keys ever share a name.
        let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()));
        let public = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": id, "alg": "ES256", "use": "sig"});
        Ok(Self { id, signing: EncodingKey::from_ec_der(pkcs8.as_ref()), public })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(keys: &SigningKeys, at: Timestamp) -> Vec<String> {
        let (jwks, _) = keys.jwks(at).unwrap();
        jwks["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    fn signer(keys: &SigningKeys, at: Timestamp) -> String {
        jsonwebtoken::decode_header(keys.sign("at+jwt", &json!({}), at).unwrap()).unwrap().kid.unwrap()
    }

    #[test]
    fn a_key_is_published_before_it_signs_and_until_its_tokens_have_ended() {
        let at = |secs: i64| Timestamp::from_millis(1_763_800_000_000 + secs * 1000);
        let keys = SigningKeys::generate(Duration::from_secs(100), at(0)).unwrap();
        let first = ids(&keys, at(0));
        assert_eq!((first.len(), signer(&keys, at(99)) == first[0]), (2, true));

        // The published one takes over, and the first stays for the tokens it signed a moment ago.
        assert_eq!(signer(&keys, at(100)), first[1]);
        assert!(ids(&keys, at(100 + 300)).contains(&first[0]));
        assert!(!ids(&keys, at(100 + 360)).contains(&first[0]));

        // After a night without a request it is still a key that everyone has seen.
        let published = ids(&keys, at(500));
        assert!(published.contains(&signer(&keys, at(50_000))));
    }
}
