//! A key set as a provider may send it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward::authz::jwks::{ASYMMETRIC, Algorithm, Jwks, algorithm_name, is_hmac};
use serde_json::Value;

/// The document; of its first byte, whether all algorithms are allowed or one.
pub fn run(data: &[u8]) {
    let Some((first, document)) = data.split_first() else { return };
    let one = [ASYMMETRIC[usize::from(*first) % ASYMMETRIC.len()]];
    let algorithms: &[Algorithm] = if first.is_ascii_punctuation() { &ASYMMETRIC } else { &one };
    let Ok((jwks, unfit)) = Jwks::parse(document, algorithms) else { return };
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    let document: Value = serde_json::from_slice(document).expect("it was read");
    let members = document["keys"].as_array().expect("it was read");
    assert!(members.len() <= Jwks::MAX_KEYS && jwks.len() + unfit.len() <= members.len(), "each key counts once");

    let ids: Vec<_> = members.iter().map(kid).collect();
    for id in ids.iter().map(Option::as_deref).chain([None, Some("")]) {
        for algorithm in ASYMMETRIC.into_iter().chain([Algorithm::HS256, Algorithm::HS384, Algorithm::HS512]) {
            let Ok(keys) = jwks.candidates(id, algorithm) else { continue };
            assert!(!keys.is_empty() && keys.len() <= Jwks::MAX_TRIES);
            assert!(!is_hmac(algorithm) && algorithms.contains(&algorithm), "{algorithm:?} is not allowed");
            let of_name = keys.iter().filter(|key| id.is_some() && key.id() == id).count();
            assert!(of_name <= 1, "a kid and an algorithm name one key");
            for key in keys {
                assert_eq!(key.algorithm(), algorithm);
                assert!(id.is_none() || key.id().is_none() || key.id() == id);
                let said = members.iter().filter(|member| kid(member).as_deref() == key.id());
                assert!(said.into_iter().any(|member| may_be(member, algorithm)), "{algorithm:?} {:?}", key.id());
                assert!(made_up().all(|signature| !key.verifies("e30.e30", &signature)), "nobody signed it");
            }
        }
    }
}

/// A whole number counts as its text; an empty text is absent.
fn kid(member: &Value) -> Option<String> {
    match &member["kid"] {
        Value::String(id) => Some(id.clone()).filter(|id| !id.is_empty()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// Whether a published key may be used so, by the numbers it consists of.
fn may_be(jwk: &Value, algorithm: Algorithm) -> bool {
    let bytes = |name: &str| {
        let text: String = jwk[name].as_str().unwrap_or_default().split_ascii_whitespace().collect();
        let text = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
        URL_SAFE_NO_PAD.decode(text).unwrap_or_default()
    };
    let bits = |name: &str| {
        let bytes = bytes(name);
        let significant: Vec<_> = bytes.iter().skip_while(|byte| **byte == 0).collect();
        significant.first().map_or(0, |first| significant.len() * 8 - first.leading_zeros() as usize)
    };
    let fits = match (jwk["kty"].as_str(), jwk["crv"].as_str()) {
        (Some("RSA"), _) => {
            let name = algorithm_name(algorithm);
            (2048..=8192).contains(&bits("n")) && bits("e") >= 2 && (name.starts_with("RS") || name.starts_with("PS"))
        }
        (Some("EC"), Some("P-256")) => algorithm == Algorithm::ES256 && bytes("x").len() == 32,
        (Some("EC"), Some("P-384")) => algorithm == Algorithm::ES384 && bytes("x").len() == 48,
        (Some("EC"), Some("P-521")) => algorithm == Algorithm::ES512 && bytes("x").len() == 66,
        (Some("OKP"), Some("Ed25519")) => algorithm == Algorithm::EdDSA && bytes("x").len() == 32,
        _ => false,
    };
    let said = match jwk["alg"].as_str() {
        Some("") => true,
        Some("Ed25519") => algorithm == Algorithm::EdDSA,
        Some(name) => name == algorithm_name(algorithm),
        None => jwk["alg"].is_null(),
    };
    let public = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"]
        .iter()
        .all(|name| *name == "k" || jwk[*name].is_null() || jwk[*name] == "");
    let usage = jwk["use"].is_null() || jwk["use"] == "" || jwk["use"] == "sig" || jwk["use"] == "jwt-svid";
    fits && said && public && usage
}

/// Signatures that take no key to make: empty, nothing, one, and Ed25519's of a key of small order.
fn made_up() -> impl Iterator<Item = Vec<u8>> {
    let last = |size: usize| (0..size).map(|at| u8::from(at + 1 == size)).collect::<Vec<_>>();
    let zeros = [0, 64, 96, 256, 512].map(|size| vec![0; size]);
    let ones = [64, 96, 256].map(last);
    let mut identity = vec![0; 64];
    identity[0] = 1;
    zeros.into_iter().chain(ones).chain([identity])
}
