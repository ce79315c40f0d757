//! Keys of every kind, good and bad, and their signatures; invalid keys and signatures are made on purpose.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::nat::{Nat, inverse_small};

pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn from_base64url(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// `None` unless the text is canonical.
pub fn decoded(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// A key that signs any input.
pub enum Key {
    Ec(EcdsaKeyPair),
    Ec384(EcdsaKeyPair),
    Ec521(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(Box<Rsa>),
    Secret(Vec<u8>),
}

/// An RSA key in numbers, of any size and exponent.
pub struct Rsa {
    pub n: Nat,
    pub e: Nat,
    p: Nat,
    q: Nat,
    d_mod_p: Nat,
    d_mod_q: Nat,
    q_inverse: Nat,
}

impl Rsa {
    /// A modulus of exactly `bits` bits and a prime exponent.
    pub fn generate(bits: usize, e: u64) -> Self {
        loop {
            let (p, q) = (Nat::prime(bits.div_ceil(2), e), Nat::prime(bits / 2, e));
            if p.mul(&q).bits() == bits && p != q {
                return Self::from_primes(p, q, e);
            }
        }
    }

    pub fn from_primes(p: Nat, q: Nat, e: u64) -> Self {
        let one = Nat::small(1);
        // d = (1 + times (p-1)) / e with the times that makes it a whole number.
        let inverse_of_e = |prime: &Nat| {
            let order = prime.sub(&one);
            if e == 1 {
                return one.clone();
            }
            let times = e - inverse_small(order.div_small(e).1, e);
            let (private, rest) = order.mul(&Nat::small(times)).add(&one).div_small(e);
            assert_eq!(rest, 0);
            private
        };
        let (d_mod_p, d_mod_q) = (inverse_of_e(&p), inverse_of_e(&q));
        let q_inverse = q.pow_mod(&p.sub(&Nat::small(2)), &p); // Fermat.
        Self { n: p.mul(&q), e: Nat::small(e), p, q, d_mod_p, d_mod_q, q_inverse }
    }

    /// From the private members of a JWK.
    pub fn from_jwk(jwk: &Value) -> Self {
        let number = |name: &str| Nat::from_be(&from_base64url(jwk[name].as_str().unwrap()));
        let e = u64::from_str_radix(&hex(&number("e").to_be(0)), 16).unwrap();
        Self::from_primes(number("p"), number("q"), e)
    }

    pub fn size(&self) -> usize {
        self.n.bits().div_ceil(8)
    }

    /// The private operation on any number below the modulus.
    pub fn raw(&self, message: &Nat) -> Nat {
        let (first, second) = (message.pow_mod(&self.d_mod_p, &self.p), message.pow_mod(&self.d_mod_q, &self.q));
        let difference = first.add(&self.p).sub(&second.rem(&self.p)).rem(&self.p);
        self.q_inverse.mul(&difference).rem(&self.p).mul(&self.q).add(&second)
    }

    pub fn public(&self, signature: &[u8]) -> Vec<u8> {
        Nat::from_be(signature).pow_mod(&self.e, &self.n).to_be(self.size())
    }

    /// Signs an encoded message as it is.
    pub fn sign_encoded(&self, encoded: &[u8]) -> Vec<u8> {
        self.raw(&Nat::from_be(encoded)).to_be(self.size())
    }

    pub fn pkcs1(&self, hash: &'static digest::Algorithm, input: &[u8]) -> Vec<u8> {
        let info = [digest_info(hash), digest::digest(hash, input).as_ref()].concat();
        let padding = vec![0xff; self.size() - info.len() - 3];
        self.sign_encoded(&[&[0, 1], padding.as_slice(), &[0], &info].concat())
    }

    /// RFC 8017 section 9.1 with a salt of any length; the modulus has whole bytes.
    pub fn pss(
        &self,
        hash: &'static digest::Algorithm,
        mask: &'static digest::Algorithm,
        salt: &[u8],
        input: &[u8],
    ) -> Vec<u8> {
        let message = digest::digest(hash, input);
        let inner = digest::digest(hash, &[&[0; 8], message.as_ref(), salt].concat());
        let size = self.size() - inner.as_ref().len() - 1;
        let block = [vec![0; size - salt.len() - 1], vec![1], salt.to_vec()].concat();
        let mut encoded = xor(&block, &mgf1(mask, inner.as_ref(), size));
        encoded[0] &= 0x7f;
        self.sign_encoded(&[encoded.as_slice(), inner.as_ref(), &[0xbc]].concat())
    }

    pub fn jwk(&self, members: Value) -> Value {
        with(json!({"kty": "RSA", "n": base64url(self.n.to_be(0)), "e": base64url(self.e.to_be(0))}), &members)
    }
}

pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

pub fn xor(left: &[u8], right: &[u8]) -> Vec<u8> {
    left.iter().zip(right).map(|(left, right)| left ^ right).collect()
}

/// The mask generation function of RFC 8017 appendix B.2.1.
pub fn mgf1(hash: &'static digest::Algorithm, seed: &[u8], len: usize) -> Vec<u8> {
    let block = |count: u32| digest::digest(hash, &[seed, &count.to_be_bytes()].concat()).as_ref().to_vec();
    (0..).flat_map(block).take(len).collect()
}

/// The DER in front of a digest (RFC 8017 section 9.2).
fn digest_info(hash: &digest::Algorithm) -> &'static [u8] {
    match hash.output_len() {
        20 => &[0x30, 0x21, 0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0, 4, 20],
        48 => &[0x30, 0x41, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2, 5, 0, 4, 48],
        64 => &[0x30, 0x51, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3, 5, 0, 4, 64],
        _ => &[0x30, 0x31, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 32],
    }
}

/// The hash of a JOSE algorithm.
pub fn hash_of(algorithm: &str) -> &'static digest::Algorithm {
    match &algorithm[algorithm.len() - 3..] {
        "384" => &digest::SHA384,
        "512" => &digest::SHA512,
        _ => &digest::SHA256,
    }
}

impl Key {
    pub fn ec() -> Self {
        Self::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn ec521() -> Self {
        Self::Ec521(EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap())
    }

    pub fn ec384() -> Self {
        Self::Ec384(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
    }

    pub fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    pub fn rsa() -> Self {
        Self::Rsa(Box::new(Rsa::generate(2048, 65537)))
    }

    /// From a JWK with its private members, as Wycheproof ships them.
    pub fn from_jwk(jwk: &Value) -> Self {
        let bytes = |name: &str| from_base64url(jwk[name].as_str().unwrap());
        match jwk["kty"].as_str().unwrap() {
            "RSA" => Self::Rsa(Box::new(Rsa::from_jwk(jwk))),
            "oct" => Self::Secret(bytes("k")),
            "EC" => {
                let point = [vec![4], bytes("x"), bytes("y")].concat();
                let signing = &ECDSA_P256_SHA256_FIXED_SIGNING;
                Self::Ec(EcdsaKeyPair::from_private_key_and_public_key(signing, &bytes("d"), &point).unwrap())
            }
            other => panic!("no signer for {other}"),
        }
    }

    /// Signs with the algorithm, if the key supports it, else with the key's own.
    pub fn sign(&self, algorithm: &str, input: &[u8]) -> Vec<u8> {
        match self {
            Self::Ec(pair) | Self::Ec384(pair) | Self::Ec521(pair) => {
                pair.sign(&SystemRandom::new(), input).unwrap().as_ref().to_vec()
            }
            Self::Ed(pair) => pair.sign(input).as_ref().to_vec(),
            Self::Rsa(rsa) if algorithm.starts_with("PS") => {
                let hash = hash_of(algorithm);
                rsa.pss(hash, hash, &vec![7; hash.output_len()], input)
            }
            Self::Rsa(rsa) => rsa.pkcs1(hash_of(algorithm), input),
            Self::Secret(secret) => mac(algorithm, secret, input),
        }
    }

    /// A compact JWS of any text and bytes.
    pub fn token(&self, algorithm: &str, header: &str, payload: &[u8]) -> String {
        let input = format!("{}.{}", base64url(header), base64url(payload));
        let signature = self.sign(algorithm, input.as_bytes());
        format!("{input}.{}", base64url(signature))
    }

    /// The public key as a JWK, with some members changed; `null` takes one out.
    pub fn jwk(&self, members: Value) -> Value {
        let key = match self {
            Self::Ec(pair) => point("P-256", pair.public_key().as_ref()),
            Self::Ec384(pair) => point("P-384", pair.public_key().as_ref()),
            Self::Ec521(pair) => point("P-521", pair.public_key().as_ref()),
            Self::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key())}),
            Self::Rsa(rsa) => return rsa.jwk(members),
            Self::Secret(secret) => json!({"kty": "oct", "k": base64url(secret)}),
        };
        with(key, &members)
    }

    /// The public key as SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> Vec<u8> {
        let (algorithm, key): (&[u8], Vec<u8>) = match self {
            Self::Ec(pair) => (
                &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
                pair.public_key().as_ref().to_vec(),
            ),
            Self::Ed(pair) => (&[6, 3, 0x2b, 0x65, 0x70], pair.public_key().as_ref().to_vec()),
            Self::Rsa(rsa) => (&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0], rsa.pkcs1_public()),
            _ => panic!("no public key in DER"),
        };
        let bits = [vec![0], key].concat();
        der(0x30, &[der(0x30, algorithm), der(3, &bits)].concat())
    }
}

impl Rsa {
    /// RSAPublicKey in DER (RFC 8017 appendix A.1.1).
    pub fn pkcs1_public(&self) -> Vec<u8> {
        let integer = |number: &Nat| der(2, &number.to_be(number.bits() / 8 + 1));
        der(0x30, &[integer(&self.n), integer(&self.e)].concat())
    }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    #[expect(clippy::cast_possible_truncation, reason = "the bytes of a length under 64 KiB")]
    let head = match len {
        0..128 => vec![tag, len as u8],
        128..256 => vec![tag, 0x81, len as u8],
        _ => vec![tag, 0x82, (len >> 8) as u8, len as u8],
    };
    [head, content.to_vec()].concat()
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub fn mac(algorithm: &str, secret: &[u8], input: &[u8]) -> Vec<u8> {
    let algorithm = match &algorithm[algorithm.len() - 3..] {
        "384" => hmac::HMAC_SHA384,
        "512" => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    hmac::sign(&hmac::Key::new(algorithm, secret), input).as_ref().to_vec()
}

fn point(curve: &str, point: &[u8]) -> Value {
    let (x, y) = point[1..].split_at(point.len() / 2);
    json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
}

/// An object with some members changed; `null` takes one out.
pub fn with(mut object: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            object.as_object_mut().unwrap().remove(name);
        } else {
            object[name] = value.clone();
        }
    }
    object
}

#[test]
fn tokens_made_here_are_accepted_by_libraries() {
    let input = b"input";
    let key = Key::rsa();
    let Key::Rsa(rsa) = &key else { unreachable!() };
    for (algorithm, parameters) in [
        ("RS256", &signature::RSA_PKCS1_2048_8192_SHA256),
        ("RS512", &signature::RSA_PKCS1_2048_8192_SHA512),
        ("PS256", &signature::RSA_PSS_2048_8192_SHA256),
        ("PS384", &signature::RSA_PSS_2048_8192_SHA384),
    ] {
        let public = signature::UnparsedPublicKey::new(parameters, rsa.pkcs1_public());
        assert!(public.verify(input, &key.sign(algorithm, input)).is_ok(), "{algorithm}");
    }
}
