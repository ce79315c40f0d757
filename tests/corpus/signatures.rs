//! Signatures that are nearly right.

use aws_lc_rs::digest;
use serde_json::json;

use super::forge::{Key, Rsa, base64url, unhex};
use super::nat::Nat;
use super::{
    Corpus, Expected, KEYS, claims_with, good, headed, resigned, right_claims, segments, signature_of, signed,
};
use crate::support::grpc::{ask, get};

const BAD: &[&str] = &["bad_signature"];
/// An empty signature may also be called malformed.
const BAD_OR_MALFORMED: &[&str] = &["bad_signature", "malformed_token"];

const P256_ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
const P256_PRIME: &str = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
/// Little-endian, as Ed25519 writes it.
const ED25519_ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

/// The encodings of the points of small order on edwards25519, canonical and not.
pub const SMALL_ORDER: [&str; 14] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

fn order() -> Nat {
    Nat::from_be(&unhex(P256_ORDER))
}

/// The other signature of the same message by the same key: s becomes n - s.
fn variant(signature: &[u8]) -> Vec<u8> {
    let (r, s) = signature.split_at(32);
    [r.to_vec(), order().sub(&Nat::from_be(s)).to_be(32)].concat()
}

fn der_signature(signature: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let bytes = Nat::from_be(bytes).to_be(1);
        let bytes = if bytes[0] >= 0x80 { [vec![0], bytes].concat() } else { bytes };
        [vec![2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let body = [integer(r), integer(s)].concat();
    [vec![0x30, u8::try_from(body.len()).unwrap()], body].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn ecdsa_signatures_have_one_form() {
    let mut corpus = Corpus::start().await;
    let token = good();
    let signature = signature_of(&token);
    let (r, s) = signature.split_at(32);
    corpus.allowed("as it is", &token);
    let number = |text: &str, plus: u64| Nat::from_be(&unhex(text)).add(&Nat::small(plus)).to_be(32);
    let special = [
        ("0", vec![0; 32]),
        ("1", Nat::small(1).to_be(32)),
        ("2", Nat::small(2).to_be(32)),
        ("n-1", order().sub(&Nat::small(1)).to_be(32)),
        ("n", number(P256_ORDER, 0)),
        ("n+1", number(P256_ORDER, 1)),
        ("p", number(P256_PRIME, 0)),
        ("p+1", number(P256_PRIME, 1)),
        ("2^256-1", vec![0xff; 32]),
        ("r", r.to_vec()),
        ("s", s.to_vec()),
        ("n-r", order().sub(&Nat::from_be(r)).to_be(32)),
    ];
    for (left, first) in &special {
        for (right, second) in &special {
            if (*left, *right) != ("r", "s") {
                corpus.refused(
                    format!("r is {left}, s is {right}"),
                    &resigned(&token, [first.as_slice(), second].concat()),
                    BAD,
                );
            }
        }
    }
    for bit in (0..512).step_by(7) {
        let mut flipped = signature.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        corpus.refused(format!("bit {bit} flipped"), &resigned(&token, flipped), BAD);
    }
    let zero = vec![0];
    for (what, other) in [
        ("nothing", vec![]),
        ("one byte", vec![0]),
        ("r alone", r.to_vec()),
        ("63 bytes", signature[..63].to_vec()),
        ("62 bytes", signature[..62].to_vec()),
        ("63 bytes, the first gone", signature[1..].to_vec()),
        ("65 bytes, a zero after", [signature.as_slice(), &zero].concat()),
        ("65 bytes, a zero before", [zero.as_slice(), &signature].concat()),
        ("66 bytes, zeros before both", [zero.as_slice(), r, &zero, s].concat()),
        ("96 bytes", [&[0; 16], r, &[0; 16], s].concat()),
        ("twice", [signature.as_slice(), &signature].concat()),
        ("DER", der_signature(&signature)),
        ("DER and a byte", [der_signature(&signature), vec![0]].concat()),
        ("DER of zeros", der_signature(&[0; 64])),
        ("hex", super::forge::hex(&signature).into_bytes()),
        ("its base64url", base64url(&signature).into_bytes()),
        ("little-endian", [r.iter().rev().copied().collect::<Vec<_>>(), s.iter().rev().copied().collect()].concat()),
        ("16 KB", vec![0x42; 8000]),
    ] {
        corpus.refused(what, &resigned(&token, other), BAD_OR_MALFORMED);
    }
    // Components that begin with a zero, and have lost it.
    for at in [0, 32] {
        let (token, signature) = std::iter::repeat_with(good)
            .map(|token| (signature_of(&token), token))
            .find(|(signature, _)| signature[at] == 0)
            .map(|(signature, token)| (token, signature))
            .unwrap();
        corpus.allowed(format!("a zero at {at}"), &token);
        let short = [&signature[..at], &signature[at + 1..]].concat();
        corpus.refused(format!("the zero at {at} left out"), &resigned(&token, short), BAD);
    }
    // Overflowing components, as in CVE-2022-21449's neighbourhood.
    let plus_order = Nat::from_be(r).add(&order()).to_be(33);
    let wide = [plus_order, vec![0], s.to_vec()].concat();
    corpus.refused("r + n in 33 bytes each", &resigned(&token, wide), BAD);
    let [header, payload, _] = segments(&token);
    for (what, input) in [
        ("the payload alone", payload.clone()),
        ("the header alone", header.clone()),
        (
            "the decoded text",
            format!("{}.{}", super::EC_HEADER, String::from_utf8(super::forge::from_base64url(&payload)).unwrap()),
        ),
        ("a trailing dot", format!("{header}.{payload}.")),
        ("nothing", String::new()),
        ("in the other order", format!("{payload}.{header}")),
        ("without the dot", format!("{header}{payload}")),
    ] {
        let other = KEYS.ec.sign("ES256", input.as_bytes());
        corpus.refused(format!("a signature over {what}"), &format!("{header}.{payload}.{}", base64url(other)), BAD);
    }
    let hashed = digest::digest(&digest::SHA256, format!("{header}.{payload}").as_bytes());
    corpus.refused("a signature over the digest", &resigned(&token, KEYS.ec.sign("ES256", hashed.as_ref())), BAD);
    let signature = KEYS.ec384.sign("ES384", format!("{header}.{payload}").as_bytes());
    corpus.refused("a signature of another curve", &resigned(&token, signature), BAD);
    corpus.run("ECDSA").await;
}

/// An ECDSA signature has a second valid form; a revocation by digest uses the signing input, so
/// it refuses both.
#[tokio::test(flavor = "multi_thread")]
async fn the_high_s_form_does_not_escape_a_revocation() {
    let corpus = Corpus::start().await;
    for changes in [json!({"jti": null}), json!({})] {
        let token = signed(claims_with(changes).to_string());
        let variant = resigned(&token, variant(&signature_of(&token)));
        assert_ne!(token, variant);
        assert!(corpus.checks.check(get("/").token(&token)).await.allowed());
        // The sign-out with one of the two revokes both.
        assert!(corpus.checks.check(ask("POST", "/logout").token(&variant)).await.allowed());
        for token in [&token, &variant] {
            let verdict = corpus.checks.check(get("/").token(token)).await;
            assert!(["signed_out", "bad_signature"].contains(&verdict.reason()), "{verdict:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ed25519_signatures_are_canonical() {
    let mut corpus = Corpus::start().await;
    let token = KEYS.ed.token("EdDSA", r#"{"alg":"EdDSA","kid":"ed"}"#, &right_claims());
    let signature = signature_of(&token);
    let (r, s) = signature.split_at(32);
    corpus.allowed("as it is", &token);
    let little = |bytes: &[u8]| bytes.iter().rev().copied().collect::<Vec<u8>>();
    let order = Nat::from_be(&little(&unhex(ED25519_ORDER)));
    let mut sum = Nat::from_be(&little(s));
    for times in 1..15 {
        sum = sum.add(&order);
        if sum.bits() <= 256 {
            corpus.refused(
                format!("s + {times} L"),
                &resigned(&token, [r.to_vec(), little(&sum.to_be(32))].concat()),
                BAD,
            );
        }
    }
    let specials = SMALL_ORDER.iter().map(|point| unhex(point));
    let scalars = [vec![0; 32], unhex(ED25519_ORDER), s.to_vec(), [vec![1], vec![0; 31]].concat(), vec![0xff; 32]];
    for point in specials {
        for scalar in &scalars {
            let what = format!("R of small order {}, s {}", super::forge::hex(&point), super::forge::hex(scalar));
            corpus.refused(what, &resigned(&token, [point.clone(), scalar.clone()].concat()), BAD);
        }
    }
    for bit in (0..512).step_by(11).chain([253, 254, 255, 509, 510, 511]) {
        let mut flipped = signature.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        corpus.refused(format!("bit {bit} flipped"), &resigned(&token, flipped), BAD);
    }
    let public = super::forge::from_base64url(KEYS.ed.jwk(json!({}))["x"].as_str().unwrap());
    for (what, other) in [
        ("nothing", vec![]),
        ("R alone", r.to_vec()),
        ("63 bytes", signature[..63].to_vec()),
        ("65 bytes, a zero after", [signature.as_slice(), &[0]].concat()),
        ("65 bytes, a zero before", [&[0], signature.as_slice()].concat()),
        ("with the public key", [signature.as_slice(), &public].concat()),
        ("the public key as R", [public.as_slice(), s].concat()),
        ("s before R", [s, r].concat()),
        ("zeros", vec![0; 64]),
    ] {
        corpus.refused(what, &resigned(&token, other), BAD_OR_MALFORMED);
    }
    corpus.run("Ed25519").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_paddings_are_exact() {
    let mut corpus = Corpus::start().await;
    let (Key::Rsa(rsa), Key::Rsa(pss), Key::Rsa(cube)) = (&KEYS.rsa, &KEYS.pss, &KEYS.cube) else { unreachable!() };
    for (kid, rsa) in [("rsa", rsa), ("cube", cube)] {
        pkcs1(&mut corpus, kid, rsa);
    }
    let header = r#"{"alg":"PS256","kid":"pss"}"#;
    let token = KEYS.pss.token("PS256", header, &right_claims());
    let input = token.rsplit_once('.').unwrap().0.as_bytes();
    let (sha256, sha1, sha512) = (&digest::SHA256, &digest::SHA1_FOR_LEGACY_USE_ONLY, &digest::SHA512);
    corpus.allowed("PSS", &token);
    for (what, signature) in [
        // RFC 7518 section 3.5: the salt is as long as the hash.
        ("no salt", pss.pss(sha256, sha256, &[], input)),
        ("20 bytes of salt", pss.pss(sha256, sha256, &[7; 20], input)),
        ("31 bytes of salt", pss.pss(sha256, sha256, &[7; 31], input)),
        ("33 bytes of salt", pss.pss(sha256, sha256, &[7; 33], input)),
        ("all the salt there is room for", pss.pss(sha256, sha256, &[7; 222], input)),
        ("a mask of SHA-1", pss.pss(sha256, sha1, &[7; 32], input)),
        ("a mask of SHA-512", pss.pss(sha256, sha512, &[7; 32], input)),
        ("SHA-512", pss.pss(sha512, sha512, &[7; 64], input)),
        ("SHA-1", pss.pss(sha1, sha1, &[7; 20], input)),
        ("PKCS #1 v1.5", pss.pkcs1(sha256, input)),
        ("a zero before", [vec![0], pss.pss(sha256, sha256, &[7; 32], input)].concat()),
        ("a zero after", [pss.pss(sha256, sha256, &[7; 32], input), vec![0]].concat()),
        ("the last byte gone", pss.pss(sha256, sha256, &[7; 32], input)[..255].to_vec()),
        ("zeros", vec![0; 256]),
    ] {
        corpus.refused(format!("PSS, {what}"), &resigned(&token, signature), BAD);
    }
    let encoded = pss.public(&signature_of(&token));
    for (at, flip) in [(255, 0xbc ^ 0xcc), (255, 1), (0, 0x80), (0, 1), (100, 1), (223, 1), (254, 0x80)] {
        let mut changed = encoded.clone();
        changed[at] ^= flip;
        if Nat::from_be(&changed) < pss.n {
            corpus.refused(format!("PSS, byte {at} xor {flip:x}"), &resigned(&token, pss.sign_encoded(&changed)), BAD);
        }
    }
    corpus.run("RSA paddings").await;
}

fn pkcs1(corpus: &mut Corpus, kid: &str, rsa: &Rsa) {
    let header = format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#);
    let unsigned = format!("{}.{}", base64url(header), base64url(right_claims()));
    let hash = digest::digest(&digest::SHA256, unsigned.as_bytes()).as_ref().to_vec();
    let sha1 = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, unsigned.as_bytes()).as_ref().to_vec();
    let info = [unhex("3031300d060960864801650304020105000420"), hash.clone()].concat();
    let no_null = [unhex("302f300b0609608648016503040201 0420".replace(' ', "").as_str()), hash.clone()].concat();
    let long_length = [unhex("308131300d060960864801650304020105000420"), hash.clone()].concat();
    let sha1_info = [unhex("3021300906052b0e03021a05000414"), sha1].concat();
    let trailing_inside = [unhex("3033300d060960864801650304020105000420"), hash.clone(), vec![5, 0]].concat();
    let sha512_name = [unhex("3031300d060960864801650304020305000420"), hash.clone()].concat();
    let size = rsa.size();
    let padded = |head: [u8; 2], byte: u8, count: usize, end: u8, info: &[u8]| {
        let block = [&head[..], &vec![byte; count], &[end], info].concat();
        [block.clone(), vec![0x77; size.saturating_sub(block.len())]].concat()
    };
    let full = |info: &[u8]| padded([0, 1], 0xff, size - 3 - info.len(), 0, info);
    let right = full(&info);
    corpus.allowed(format!("{kid}: PKCS #1"), &format!("{unsigned}.{}", base64url(rsa.sign_encoded(&right))));
    let broken_padding = {
        let mut block = right.clone();
        block[20] = 0xfe;
        block
    };
    for (what, encoded) in [
        ("8 bytes of padding and garbage behind", padded([0, 1], 0xff, 8, 0, &info)),
        ("1 byte of padding and garbage behind", padded([0, 1], 0xff, 1, 0, &info)),
        ("no padding and garbage behind", padded([0, 1], 0xff, 0, 0, &info)),
        ("one byte of garbage behind", padded([0, 1], 0xff, size - 4 - info.len(), 0, &info)),
        ("block type 2", padded([0, 2], 0xff, size - 3 - info.len(), 0, &info)),
        ("block type 0", padded([0, 0], 0, size - 3 - info.len(), 0, &info)),
        ("padding of zeros", padded([0, 1], 0, size - 3 - info.len(), 0, &info)),
        ("padding of ones", padded([0, 1], 1, size - 3 - info.len(), 0, &info)),
        ("padding with a flaw", broken_padding),
        ("another separator", padded([0, 1], 0xff, size - 3 - info.len(), 1, &info)),
        ("parameters without NULL", full(&no_null)),
        ("a long-form length", full(&long_length)),
        ("a field behind the digest", full(&trailing_inside)),
        ("SHA-1", full(&sha1_info)),
        ("SHA-512 by name, SHA-256 by value", full(&sha512_name)),
        ("the digest alone", full(&hash)),
        ("the message", full(unsigned.as_bytes().get(..100).unwrap())),
    ] {
        corpus.refused(format!("{kid}: {what}"), &format!("{unsigned}.{}", base64url(rsa.sign_encoded(&encoded))), BAD);
    }
    let signature = rsa.sign_encoded(&right);
    let plus_modulus = Nat::from_be(&signature).add(&rsa.n).to_be(size);
    let minus = rsa.n.sub(&Nat::from_be(&signature)).to_be(size);
    for (what, signature) in [
        ("s + n", plus_modulus),
        ("n - s", minus),
        ("0", vec![0; size]),
        ("1", Nat::small(1).to_be(size)),
        ("n - 1", rsa.n.sub(&Nat::small(1)).to_be(size)),
        ("n", rsa.n.to_be(size)),
        ("the encoded message itself", right.clone()),
        ("a zero before", [vec![0], signature.clone()].concat()),
        ("a zero after", [signature.clone(), vec![0]].concat()),
        ("the last byte gone", signature[..size - 1].to_vec()),
        ("nothing", vec![]),
        ("PSS", rsa.pss(&digest::SHA256, &digest::SHA256, &[7; 32], unsigned.as_bytes())),
    ] {
        corpus.refused(format!("{kid}: {what}"), &format!("{unsigned}.{}", base64url(signature)), BAD_OR_MALFORMED);
    }
    if kid == "cube" {
        // Bleichenbacher's forgery of 2006: a cube root whose cube begins as a signature would.
        let target = Nat::from_be(&padded([0, 1], 0xff, 8, 0, &info));
        let root = cube_root(&target);
        corpus.refused("cube: forged by a cube root", &format!("{unsigned}.{}", base64url(root.to_be(size))), BAD);
    }
}

fn cube_root(target: &Nat) -> Nat {
    (0..target.bits().div_ceil(3)).rev().fold(Nat::small(0), |root, at| {
        let mut power = vec![0_u8; at / 8 + 1];
        power[0] = 1 << (at % 8);
        let candidate = root.add(&Nat::from_be(&power));
        if candidate.mul(&candidate).mul(&candidate) <= *target { candidate } else { root }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_covers_all_of_its_token() {
    let mut corpus = Corpus::start().await;
    let token = good();
    let [header, payload, signature] = segments(&token);
    let root = base64url(claims_with(json!({"sub": "root"})).to_string());
    corpus.refused("other claims", &format!("{header}.{root}.{signature}"), BAD);
    let other = base64url(r#"{"alg":"ES256","typ":"at+jwt","kid":"ec"}"#);
    corpus.refused("another header", &format!("{other}.{payload}.{signature}"), BAD);
    let same = base64url(r#"{"alg":"ES256", "typ":"JWT","kid":"ec"}"#);
    corpus.refused("the same header, spelled otherwise", &format!("{same}.{payload}.{signature}"), BAD);
    let no_kid = headed(r#"{"alg":"ES256"}"#);
    corpus.ask("by the only key of the algorithm", get("/").token(&no_kid), Expected::Allowed);
    corpus.run("coverage").await;
}
