//! The keys of an issuer: a JSON Web Key Set (RFC 7517) reduced to what may verify a token.

mod soundness;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::denial::Denial;
use super::refusal::Shown;
use soundness::{check_rsa, is_sound_ed25519};

/// How a signature is checked (RFC 7518 section 3.1, RFC 8037 section 3.1); there is no `none`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
}

/// The asymmetric algorithms: what an issuer may use unless its configuration says otherwise.
///
/// A key that names no `alg` verifies the first of the issuer's algorithms that fits it.
pub const ASYMMETRIC: [Algorithm; 10] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::ES512,
    Algorithm::EdDSA,
];

/// The usable keys of one issuer.
#[derive(Clone, Default, PartialEq)]
pub struct Jwks {
    keys: Vec<Key>,
}

/// A public key (or shared secret), bound to exactly one algorithm.
///
/// If the token could choose, a public key would serve as an HMAC secret (RFC 8725 section 3.1).
#[derive(Clone)]
pub struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    material: Material,
    digest: KeyDigest,
}

/// Tells a key from another of the same `kid`: the beginning of a SHA-256 of its algorithm and the public key, of a
/// secret that of an HMAC made with it. The same in every process.
pub type KeyDigest = [u8; 16];

/// Read once, when the key set is: reading a key costs a third of what verifying with it does.
#[derive(Clone)]
enum Material {
    /// Knows its algorithm, and which sizes and encodings of a signature that allows.
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

/// Public keys are equal when they verify the same. A secret is equal to none, not even itself: that only
/// costs another verification, and nobody compares secrets byte by byte.
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

    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    #[must_use]
    pub const fn digest(&self) -> KeyDigest {
        self.digest
    }

    fn new(id: Option<String>, algorithm: Algorithm, material: Material) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(algorithm_name(algorithm).as_bytes());
        match &material {
            Material::Public(key) => context.update(key.as_ref()),
            Material::Secret(key) => context.update(hmac::sign(key, b"doorward").as_ref()),
        }
        let mut digest = KeyDigest::default();
        digest.copy_from_slice(&context.finish().as_ref()[..size_of::<KeyDigest>()]);
        Self { id, algorithm, material, digest }
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

/// Why a key of a set is left out.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RejectedKey {
    Malformed,
    UnknownType,
    /// A shared secret, or a private key, in a set that others can read.
    Secret,
    NotForSignatures,
    WeakRsa,
    /// A coordinate or a point that has not the octets of its curve, leading zeros included (RFC 7518 section 6.2.1.2,
    /// RFC 8037 section 2). Go, PyJWT and the Web Cryptography API refuse such a key, too.
    CoordinateLength,
    /// Not a point of the curve, or one of so small an order that anyone can sign for it.
    NotOnCurve,
    AlgorithmNotAllowed,
    DuplicateId,
}

impl RejectedKey {
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::UnknownType,
        Self::Secret,
        Self::NotForSignatures,
        Self::WeakRsa,
        Self::CoordinateLength,
        Self::NotOnCurve,
        Self::AlgorithmNotAllowed,
        Self::DuplicateId,
    ];

    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownType => "unknown_type",
            Self::Secret => "secret",
            Self::NotForSignatures => "not_for_signatures",
            Self::WeakRsa => "weak_rsa",
            Self::CoordinateLength => "coordinate_length",
            Self::NotOnCurve => "not_on_curve",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::DuplicateId => "duplicate_id",
        }
    }
}

/// A key of a set that is left out: why, and which it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeftOut {
    pub cause: RejectedKey,
    /// Its place in `keys`, from 0.
    pub place: usize,
    id: Option<String>,
}

/// `malformed (kid `k`)`, or by its place where it has no `kid`.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{} (kid {})", self.cause.label(), Shown(id)),
            None => write!(f, "{} (keys[{}])", self.cause.label(), self.place),
        }
    }
}

/// A document that is no key set at all.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("parse as JSON")]
    Json(#[source] serde_json::Error),
    #[error("no array `keys` at the top level (RFC 7517 section 5)")]
    NoKeys,
    #[error("{0} keys, at most {max} are read", max = Jwks::MAX_KEYS)]
    TooMany(usize),
}

impl Jwks {
    /// More keys than any provider publishes; each may cost a signature check.
    pub const MAX_KEYS: usize = 100;
    /// How many keys are tried for a token that names none.
    pub const MAX_TRIES: usize = 4;

    /// Reads a key set; keys that are not fit are left out and reported, the others work.
    pub fn parse(document: &[u8], algorithms: &[Algorithm]) -> Result<(Self, Vec<LeftOut>), JwksError> {
        let document: Value = serde_json::from_slice(without_mark(document)).map_err(JwksError::Json)?;
        Self::from_value(&document, algorithms)
    }

    /// As [`Jwks::parse`], for a document already read as JSON.
    pub fn from_value(document: &Value, algorithms: &[Algorithm]) -> Result<(Self, Vec<LeftOut>), JwksError> {
        let members = document.get("keys").and_then(Value::as_array).ok_or(JwksError::NoKeys)?;
        if members.len() > Self::MAX_KEYS {
            return Err(JwksError::TooMany(members.len()));
        }
        let mut unfit = Vec::new();
        let mut found: Vec<(Key, usize)> = Vec::new();
        for (place, member) in members.iter().enumerate() {
            match read_key(member, algorithms) {
                // The same key twice is one key, however it is written.
                Ok(key) if found.iter().any(|(seen, _)| *seen == key) => {}
                Ok(key) => found.push((key, place)),
                Err(cause) => {
                    let id = member.get("kid").and_then(|id| key_id(id).ok().flatten());
                    unfit.push(LeftOut { cause, place, id });
                }
            }
        }
        // A `kid` may name one key per algorithm, as a token names both; two keys for one algorithm are ambiguous.
        let mut holders: HashMap<(String, &str), usize> = HashMap::new();
        let named = |key: &Key| key.id.clone().map(|id| (id, algorithm_name(key.algorithm)));
        for id in found.iter().filter_map(|(key, _)| named(key)) {
            *holders.entry(id).or_default() += 1;
        }
        let (keys, duplicates): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(key, _)| named(key).is_none_or(|id| holders[&id] == 1));
        let duplicates = duplicates.into_iter();
        unfit.extend(duplicates.map(|(key, place)| LeftOut { cause: RejectedKey::DuplicateId, place, id: key.id }));
        Ok((Self { keys: keys.into_iter().map(|(key, _)| key).collect() }, unfit))
    }

    /// A shared secret for HS256, HS384 or HS512; it has no id and serves whatever `kid` a token names.
    #[must_use]
    pub fn from_secret(secret: &[u8], algorithms: &[Algorithm]) -> Self {
        let key = |algorithm: &Algorithm| {
            let hash = match algorithm {
                Algorithm::HS256 => hmac::HMAC_SHA256,
                Algorithm::HS384 => hmac::HMAC_SHA384,
                Algorithm::HS512 => hmac::HMAC_SHA512,
                _ => return None, // A secret verifies nothing else.
            };
            Some(Key::new(None, *algorithm, Material::Secret(Box::new(hmac::Key::new(hash, secret)))))
        };
        Self { keys: algorithms.iter().filter_map(key).collect() }
    }

    /// Whether the key is one of these, under whatever `kid`.
    #[must_use]
    pub fn has(&self, digest: KeyDigest) -> bool {
        self.keys.iter().any(|key| key.digest == digest)
    }

    /// What tells its keys apart, at most [`Jwks::MAX_KEYS`].
    pub fn digests(&self) -> impl Iterator<Item = KeyDigest> {
        self.keys.iter().map(Key::digest)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The keys that may have signed a token with this `kid` and algorithm, at most [`Jwks::MAX_TRIES`]: those
    /// of that name, then those without one.
    pub fn candidates(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<Vec<&Key>, Denial> {
        let kid = kid.filter(|_| !is_hmac(algorithm));
        let fits = |key: &&Key| key.algorithm == algorithm;
        let named = self.keys.iter().filter(|key| kid.is_none() || key.id() == kid);
        let unnamed = self.keys.iter().filter(|key| kid.is_some() && key.id().is_none());
        let fitting: Vec<_> = named.chain(unnamed).filter(fits).take(Self::MAX_TRIES).collect();
        if !fitting.is_empty() {
            Ok(fitting)
        } else if self.names(kid) && !self.keys.is_empty() {
            Err(Denial::AlgorithmNotAllowed)
        } else {
            Err(Denial::UnknownKey)
        }
    }

    /// Whether a token that names this `kid`, or none, can be expected to be signed by a key of this set.
    #[must_use]
    pub fn names(&self, kid: Option<&str>) -> bool {
        kid.is_none() || self.keys.iter().any(|key| key.id() == kid)
    }
}

#[must_use]
pub const fn is_hmac(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// A `kid`; one that is null or empty is absent, and a whole number, which some providers write, counts as its text.
fn key_id(id: &Value) -> Result<Option<String>, RejectedKey> {
    match id {
        Value::Null => Ok(None),
        Value::String(id) => Ok(Some(id.clone()).filter(|id| !id.is_empty())),
        Value::Number(id) if id.is_i64() || id.is_u64() => Ok(Some(id.to_string())),
        _ => Err(RejectedKey::Malformed),
    }
}

fn read_key(jwk: &Value, algorithms: &[Algorithm]) -> Result<Key, RejectedKey> {
    let jwk = jwk.as_object().ok_or(RejectedKey::Malformed)?;
    // What is null or empty is absent.
    let text = |name: &str| match jwk.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(RejectedKey::Malformed),
    };
    let bytes = |name: &str| {
        let text = text(name)?.ok_or(RejectedKey::Malformed)?;
        decode(text).ok_or(RejectedKey::Malformed)
    };
    // RFC 7517 sections 4.2 and 4.3: a key published for something else must not verify tokens.
    // SPIFFE writes its own word for those of tokens (JWT-SVID section 4.2).
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
    // RFC 7518 sections 6.2.2 and 6.3.2: with these members it signs, and whoever reads the set has them.
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

/// A document without the byte order mark that some servers write before it, and which is not of it (RFC 8259
/// section 8.1).
#[must_use]
pub fn without_mark(document: &[u8]) -> &[u8] {
    document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document)
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

/// The name in the JOSE registry (RFC 7518 section 3.1).
#[must_use]
pub const fn algorithm_name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::HS384 => "HS384",
        Algorithm::HS512 => "HS512",
        Algorithm::ES256 => "ES256",
        Algorithm::ES384 => "ES384",
        Algorithm::ES512 => "ES512",
        Algorithm::RS256 => "RS256",
        Algorithm::RS384 => "RS384",
        Algorithm::RS512 => "RS512",
        Algorithm::PS256 => "PS256",
        Algorithm::PS384 => "PS384",
        Algorithm::PS512 => "PS512",
        Algorithm::EdDSA => "EdDSA",
    }
}

/// The algorithm a token or configuration names, spelled exactly; `none` is not one.
#[must_use]
pub fn algorithm_named(name: &str) -> Option<Algorithm> {
    let symmetric = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
    ASYMMETRIC.into_iter().chain(symmetric).find(|algorithm| algorithm_name(*algorithm) == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    // RFC 7517 appendix A.1 and RFC 8037 appendix A.2.
    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "kid": "1"})
    }
    fn rsa() -> Value {
        json!({"kty": "RSA", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"})
    }
    fn ed() -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    }

    fn with(mut key: Value, name: &str, value: Value) -> Value {
        key[name] = value;
        key
    }

    #[track_caller]
    fn check(keys: Vec<Value>, expected: Result<&[(Option<&str>, Algorithm)], RejectedKey>) {
        let (jwks, unfit) = Jwks::from_value(&json!({ "keys": keys }), &ASYMMETRIC).unwrap();
        match expected {
            Ok(expected) => {
                let found: Vec<_> = jwks.keys.iter().map(|key| (key.id(), key.algorithm())).collect();
                assert!(found == expected && unfit.is_empty(), "{found:?} {unfit:?}");
            }
            Err(reason) => assert!(jwks.is_empty() && unfit.iter().any(|left| left.cause == reason), "{unfit:?}"),
        }
    }

    #[test]
    fn fit_keys_are_bound_to_one_algorithm() {
        check(vec![ec()], Ok(&[(Some("1"), Algorithm::ES256)]));
        check(vec![rsa()], Ok(&[(Some("2011-04-29"), Algorithm::RS256)]));
        check(vec![with(rsa(), "alg", json!("PS512"))], Ok(&[(Some("2011-04-29"), Algorithm::PS512)]));
        check(vec![ed()], Ok(&[(None, Algorithm::EdDSA)]));
        check(vec![with(ed(), "alg", json!("Ed25519"))], Ok(&[(None, Algorithm::EdDSA)]));
        check(vec![ec(), ec()], Ok(&[(Some("1"), Algorithm::ES256)]));
        // In another writing, as providers that join several sources publish it.
        let padded = |name: &str| json!(format!("{}=", ec()[name].as_str().unwrap()));
        let lines = |name: &str| {
            json!(format!("{}\r\n {}\n", &ec()[name].as_str().unwrap()[..20], &ec()[name].as_str().unwrap()[20..]))
        };
        for (name, value) in [
            ("use", json!("sig")),
            ("use", json!("")),
            ("alg", json!("ES256")),
            ("alg", json!("")),
            ("x5t", json!("abc")),
            ("key_ops", json!(["verify"])),
            ("kid", json!(1)),
            ("x", padded("x")),
            ("y", lines("y")),
        ] {
            check(vec![ec(), with(ec(), name, value.clone())], Ok(&[(Some("1"), Algorithm::ES256)]));
            check(vec![with(ec(), name, value)], Ok(&[(Some("1"), Algorithm::ES256)]));
        }
        check(vec![with(ec(), "kid", json!(""))], Ok(&[(None, Algorithm::ES256)]));
        check(vec![with(ec(), "kid", json!(u64::MAX))], Ok(&[(Some("18446744073709551615"), Algorithm::ES256)]));
        check(vec![with(ec(), "use", json!("jwt-svid"))], Ok(&[(Some("1"), Algorithm::ES256)]));
    }

    #[test]
    fn sets_that_rfc_7517_allows_are_read() {
        // A `kid` for several algorithms, as ForgeRock publishes it.
        let of = |algorithm: &str| with(with(rsa(), "alg", json!(algorithm)), "kid", json!("k"));
        let (k, es) = (Some("k"), with(ec(), "kid", json!("k")));
        let several = [(k, Algorithm::RS256), (k, Algorithm::PS256), (k, Algorithm::ES256)];
        check(vec![of("RS256"), of("PS256"), es], Ok(&several));
        // Members that are null are absent.
        let mut nulls = ec();
        for name in ["use", "key_ops", "alg", "d", "p", "x5c"] {
            nulls[name] = Value::Null;
        }
        check(vec![nulls], Ok(&[(Some("1"), Algorithm::ES256)]));
        check(vec![with(ec(), "kid", Value::Null)], Ok(&[(None, Algorithm::ES256)]));
        // A sign octet, padding and the other alphabet.
        let written = rsa()["n"].as_str().unwrap().to_owned();
        let modulus = URL_SAFE_NO_PAD.decode(&written).unwrap();
        let plain = Jwks::from_value(&json!({"keys": [rsa()]}), &ASYMMETRIC).unwrap().0;
        for n in [
            URL_SAFE_NO_PAD.encode([&[0], modulus.as_slice()].concat()),
            STANDARD.encode(&modulus),
            STANDARD_NO_PAD.encode(&modulus),
            URL_SAFE.encode(&modulus),
        ] {
            let read = Jwks::from_value(&json!({"keys": [with(rsa(), "n", json!(n))]}), &ASYMMETRIC).unwrap().0;
            assert!(read == plain, "{n}");
        }
        let document = json!({"keys": [ec()]}).to_string();
        assert_eq!(Jwks::parse(format!("\u{feff}{document}").as_bytes(), &ASYMMETRIC).unwrap().0.len(), 1);
    }

    #[test]
    fn a_key_without_a_name_may_serve_a_token_with_one() {
        let unnamed = with(ec(), "kid", Value::Null);
        let (jwks, _) = Jwks::from_value(&json!({ "keys": [unnamed, rsa()] }), &ASYMMETRIC).unwrap();
        let tried = |kid, algorithm| jwks.candidates(kid, algorithm).map(|keys| keys.len());
        assert_eq!(tried(Some("any"), Algorithm::ES256), Ok(1));
        assert_eq!(tried(None, Algorithm::ES256), Ok(1));
        assert_eq!(tried(Some("any"), Algorithm::RS256), Err(Denial::UnknownKey));
        assert_eq!(tried(Some("2011-04-29"), Algorithm::RS256), Ok(1));
        assert!(!jwks.names(Some("any")));
    }

    #[test]
    fn unfit_keys_are_left_out() {
        let other = json!({"kty": "EC", "crv": "P-256", "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU", "kid": "1"});
        for (keys, reason) in [
            (vec![with(ec(), "use", json!("enc"))], RejectedKey::NotForSignatures),
            (vec![with(ec(), "key_ops", json!(["sign"]))], RejectedKey::NotForSignatures),
            (vec![with(ec(), "key_ops", json!("verify"))], RejectedKey::Malformed),
            (vec![with(ec(), "key_ops", json!(["verify", "verify"]))], RejectedKey::Malformed),
            (vec![with(ec(), "d", json!("AAAA"))], RejectedKey::Secret),
            (vec![with(ed(), "x", json!("AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))], RejectedKey::NotOnCurve),
            (vec![with(ed(), "x", json!("7P_______________________________________38"))], RejectedKey::NotOnCurve),
            (vec![with(ec(), "y", json!("AEtl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"))], RejectedKey::NotOnCurve),
            (vec![with(ec(), "x", json!("MKBC"))], RejectedKey::CoordinateLength),
            (vec![with(ec(), "x", json!("oEJM0hwpRIOKLXXJKzfnbqINnwCJOjtO7oo8Cq_sPg"))], RejectedKey::CoordinateLength),
            (
                vec![with(ec(), "x", json!("ADCgQkzSHClEg4otdckrN-duog2fAIk6O07uijwKr-w-"))],
                RejectedKey::CoordinateLength,
            ),
            (vec![with(ed(), "x", json!("AAAA"))], RejectedKey::CoordinateLength),
            (vec![with(ec(), "crv", json!("secp256k1"))], RejectedKey::UnknownType),
            (vec![with(ec(), "alg", json!("RS256"))], RejectedKey::AlgorithmNotAllowed),
            (vec![with(ec(), "kid", json!(1.5))], RejectedKey::Malformed),
            (vec![with(ec(), "kid", json!(["1"]))], RejectedKey::Malformed),
            (vec![with(rsa(), "alg", json!("HS256"))], RejectedKey::AlgorithmNotAllowed),
            (vec![with(rsa(), "alg", json!("RSA-OAEP"))], RejectedKey::AlgorithmNotAllowed),
            (
                vec![with(
                    rsa(),
                    "n",
                    json!(
                        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W"
                    ),
                )],
                RejectedKey::WeakRsa,
            ),
            (vec![with(rsa(), "e", json!("AQ"))], RejectedKey::WeakRsa),
            (vec![with(rsa(), "n", json!("AQAB="))], RejectedKey::Malformed),
            (vec![json!({"kty": "oct", "k": "AAAA"})], RejectedKey::Secret),
            (vec![json!({"kty": "OKP", "crv": "X25519", "x": "AAAA"})], RejectedKey::UnknownType),
            (vec![json!("key")], RejectedKey::Malformed),
            (vec![json!({})], RejectedKey::Malformed),
            (vec![ec(), other], RejectedKey::DuplicateId),
        ] {
            check(keys, Err(reason));
        }
    }

    #[test]
    fn a_key_that_is_left_out_is_named() {
        let strange = with(with(ec(), "use", json!("enc")), "kid", json!("a`\n"));
        let other = json!({"kty": "EC", "crv": "P-256", "x": "axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY", "y": "T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU", "kid": 1});
        let keys = json!({"keys": [rsa(), strange, {"kty": "oct"}, ec(), other, {"kty": "EC", "kid": 7}]});
        let (_, unfit) = Jwks::from_value(&keys, &ASYMMETRIC).unwrap();
        let named: Vec<_> = unfit.iter().map(ToString::to_string).collect();
        assert_eq!(
            named,
            [
                "not_for_signatures (kid `a\\u{60}\\u{a}`)",
                "secret (keys[2])",
                "unknown_type (kid `7`)",
                "duplicate_id (kid `1`)",
                "duplicate_id (kid `1`)"
            ]
        );
    }

    #[test]
    fn a_document_that_is_no_set_is_an_error() {
        for document in ["", "<html>", "[]", "{}", r#"{"keys": {}}"#] {
            assert!(Jwks::parse(document.as_bytes(), &ASYMMETRIC).is_err(), "{document}");
        }
        let many = json!({ "keys": vec![ec(); Jwks::MAX_KEYS + 1] });
        assert!(matches!(Jwks::from_value(&many, &ASYMMETRIC), Err(JwksError::TooMany(101))));
    }

    #[test]
    fn candidates_fit_the_name_and_the_algorithm() {
        let (jwks, _) = Jwks::from_value(&json!({ "keys": [ec(), rsa(), ed()] }), &ASYMMETRIC).unwrap();
        let ids = |kid, algorithm| jwks.candidates(kid, algorithm).map(|keys| keys.len());
        assert_eq!(ids(Some("1"), Algorithm::ES256), Ok(1));
        assert_eq!(ids(Some("1"), Algorithm::RS256), Err(Denial::AlgorithmNotAllowed));
        assert_eq!(ids(Some("2"), Algorithm::RS256), Err(Denial::UnknownKey));
        assert_eq!(ids(None, Algorithm::EdDSA), Ok(1));
        assert_eq!(ids(None, Algorithm::PS256), Err(Denial::AlgorithmNotAllowed));
        assert_eq!(
            Jwks::from_secret(&[7; 32], &[Algorithm::HS256]).candidates(Some("x"), Algorithm::HS256).map(|k| k.len()),
            Ok(1)
        );
    }
}
