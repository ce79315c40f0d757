//! One key of a set, parsed as strictly as its signatures are checked.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::soundness::{check_rsa, is_sound_ed25519};
use super::{ASYMMETRIC, Algorithm, RejectedKey, algorithm_name};

/// A public key (or shared secret), bound to exactly one algorithm.
///
/// If the token could choose, a public key would serve as an HMAC secret (RFC 8725 section 3.1).
#[derive(Clone)]
pub struct Key {
    pub(super) id: Option<Arc<str>>,
    algorithm: Algorithm,
    material: Material,
    digest: KeyDigest,
}

/// Distinguishes keys with the same `kid`: the beginning of a SHA-256 of the algorithm and the public key, or of an
/// HMAC made with a secret. The same in every process.
pub type KeyDigest = [u8; 16];

/// Parsed once, with the key set: parsing a key costs a third of a verification.
#[derive(Clone)]
pub(super) enum Material {
    /// Includes the algorithm, and so the accepted sizes and encodings of a signature.
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

/// Public keys are equal when they verify the same. A secret is never equal, not even to itself: that only costs
/// another verification, and secrets are not compared byte by byte.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.material, &other.material) {
            (Material::Public(ours), Material::Public(theirs)) => ours.as_ref() == theirs.as_ref(),
            _ => false,
        };
        same && self.id == other.id && self.algorithm == other.algorithm
    }
}

impl Key {
    /// Reads one public key, for this algorithm, as strictly as those of an issuer.
    pub fn from_jwk(jwk: &Value, algorithm: Algorithm) -> Result<Self, RejectedKey> {
        read_key(jwk, &[algorithm])
    }

    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The same, for tokens that keep it.
    pub(crate) fn shared_id(&self) -> Option<Arc<str>> {
        self.id.clone()
    }

    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    #[must_use]
    pub const fn digest(&self) -> KeyDigest {
        self.digest
    }

    pub(super) fn new(id: Option<String>, algorithm: Algorithm, material: Material) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(algorithm_name(algorithm).as_bytes());
        match &material {
            Material::Public(key) => context.update(key.as_ref()),
            Material::Secret(key) => context.update(hmac::sign(key, b"doorward").as_ref()),
        }
        let mut digest = KeyDigest::default();
        digest.copy_from_slice(&context.finish().as_ref()[..size_of::<KeyDigest>()]);
        Self { id: id.map(Into::into), algorithm, material, digest }
    }

    /// Whether `signature` is this key's over `signing_input`: of ECDSA the two numbers at full length (RFC
    /// 7518 section 3.4), of RSA as long as the modulus.
    #[must_use]
    pub fn verifies(&self, signing_input: &str, signature: &[u8]) -> bool {
        match &self.material {
            Material::Public(key) => key.verify_sig(signing_input.as_bytes(), signature).is_ok(),
            Material::Secret(key) => hmac::verify(key, signing_input.as_bytes(), signature).is_ok(),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

/// A `kid`; null and empty text count as absent, and a whole number, which some providers write, counts as its text.
pub(super) fn key_id(id: &Value) -> Result<Option<String>, RejectedKey> {
    match id {
        Value::Null => Ok(None),
        Value::String(id) => Ok(Some(id.clone()).filter(|id| !id.is_empty())),
        Value::Number(id) if id.is_i64() || id.is_u64() => Ok(Some(id.to_string())),
        _ => Err(RejectedKey::Malformed),
    }
}

pub(super) fn read_key(jwk: &Value, algorithms: &[Algorithm]) -> Result<Key, RejectedKey> {
    let jwk = jwk.as_object().ok_or(RejectedKey::Malformed)?;
    // Null and empty text count as absent.
    let text = |name: &str| match jwk.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(RejectedKey::Malformed),
    };
    let bytes = |name: &str| {
        let text = text(name)?.ok_or(RejectedKey::Malformed)?;
        decode(text).ok_or(RejectedKey::Malformed)
    };
    // RFC 7517 sections 4.2 and 4.3: a key published for another use must not verify tokens. SPIFFE has its own value
    // for keys of tokens (JWT-SVID section 4.2).
    if text("use")?.is_some_and(|usage| !["sig", "jwt-svid"].contains(&usage)) {
        return Err(RejectedKey::NotForSignatures);
    }
    if let Some(operations) = jwk.get("key_ops").filter(|operations| !operations.is_null()) {
        let operations = operations.as_array().ok_or(RejectedKey::Malformed)?;
        let repeated = (1..operations.len()).any(|at| operations[..at].contains(&operations[at]));
        if repeated || !operations.iter().all(Value::is_string) {
            return Err(RejectedKey::Malformed);
        }
        if !operations.iter().any(|operation| operation == "verify") {
            return Err(RejectedKey::NotForSignatures);
        }
    }
    // RFC 7518 sections 6.2.2 and 6.3.2: a key with these members can sign, and every reader of the set has it.
    if ["d", "p", "q", "dp", "dq", "qi", "oth"].iter().any(|name| jwk.get(*name).is_some_and(|value| !value.is_null()))
    {
        return Err(RejectedKey::Secret);
    }
    let (fitting, public): (&[Algorithm], _) = match text("kty")?.ok_or(RejectedKey::Malformed)? {
        "RSA" => {
            // A sign octet in front changes no number (RFC 7518 section 6.3.1.1 asks to leave it out).
            let number = |name| bytes(name).map(|octets| octets.into_iter().skip_while(|octet| *octet == 0).collect());
            let (modulus, exponent): (Vec<u8>, Vec<u8>) = (number("n")?, number("e")?);
            check_rsa(&modulus, &exponent)?;
            (&ASYMMETRIC[..6], Public::Rsa(RsaPublicKeyComponents { n: modulus, e: exponent }))
        }
        "EC" => {
            let (fitting, verification, size): (&[_], _, _) = match text("crv")? {
                Some("P-256") => (&[Algorithm::ES256], &signature::ECDSA_P256_SHA256_FIXED, 32),
                Some("P-384") => (&[Algorithm::ES384], &signature::ECDSA_P384_SHA384_FIXED, 48),
                Some("P-521") => (&[Algorithm::ES512], &signature::ECDSA_P521_SHA512_FIXED, 66),
                _ => return Err(RejectedKey::UnknownType),
            };
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != size || y.len() != size {
                return Err(RejectedKey::CoordinateLength);
            }
            (fitting, Public::Ec(verification, [&[0x04], x.as_slice(), y.as_slice()].concat()))
        }
        "OKP" if text("crv")? == Some("Ed25519") => {
            let point = bytes("x")?;
            if point.len() != 32 {
                return Err(RejectedKey::CoordinateLength);
            }
            if !is_sound_ed25519(&point) {
                return Err(RejectedKey::NotOnCurve);
            }
            (&[Algorithm::EdDSA], Public::Ed25519(point))
        }
        "oct" => return Err(RejectedKey::Secret),
        _ => return Err(RejectedKey::UnknownType),
    };
    let algorithm = match text("alg")? {
        Some("Ed25519") => Some(Algorithm::EdDSA).filter(|a| fitting.contains(a)), // RFC 9864's name for it.
        Some(name) => fitting.iter().copied().find(|algorithm| algorithm_name(*algorithm) == name),
        None => algorithms.iter().copied().find(|algorithm| fitting.contains(algorithm)),
    };
    let algorithm =
        algorithm.filter(|algorithm| algorithms.contains(algorithm)).ok_or(RejectedKey::AlgorithmNotAllowed)?;
    let id = jwk.get("kid").map_or(Ok(None), key_id)?;
    Ok(Key::new(id, algorithm, Material::Public(public.parse(algorithm)?)))
}

/// Reads base64url, or base64 as some providers write it: padded or not, in lines or not, the bytes are the same.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text: Cow<'_, str> = if text.contains(|c: char| c.is_ascii_whitespace()) {
        text.split_ascii_whitespace().collect::<String>().into()
    } else {
        text.into()
    };
    let engines = [URL_SAFE_NO_PAD, URL_SAFE, STANDARD_NO_PAD, STANDARD];
    engines.iter().find_map(|engine| engine.decode(text.as_bytes()).ok())
}

/// A public key as it is written.
enum Public {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    /// An uncompressed point (SEC 1 section 2.3.3).
    Ec(&'static EcdsaVerificationAlgorithm, Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Public {
    /// For one of the algorithms that fit it, and no other.
    fn parse(&self, algorithm: Algorithm) -> Result<ParsedPublicKey, RejectedKey> {
        match self {
            Self::Rsa(components) => components.to_parsed_public_key(rsa(algorithm)?).map_err(|_| RejectedKey::WeakRsa),
            Self::Ec(verification, point) => {
                ParsedPublicKey::new(*verification, point).map_err(|_| RejectedKey::NotOnCurve)
            }
            Self::Ed25519(point) => {
                ParsedPublicKey::new(&signature::ED25519, point).map_err(|_| RejectedKey::NotOnCurve)
            }
        }
    }
}

/// 2048 to 8192 bits; of PSS, the salt is as long as the hash (RFC 7518 section 3.5).
const fn rsa(algorithm: Algorithm) -> Result<&'static RsaParameters, RejectedKey> {
    Ok(match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return Err(RejectedKey::AlgorithmNotAllowed),
    })
}
