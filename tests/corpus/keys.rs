//! Published keys that must not verify anything, each with a token that it would verify.

use serde_json::{Value, json};

use super::forge::{Key, Rsa, base64url, from_base64url, unhex, with};
use super::nat::Nat;
use super::signatures::SMALL_ORDER;
use super::{Corpus, KEYS, right_claims};

const UNKNOWN: &[&str] = &["unknown_key"];

/// A modulus by the flawed generator of CVE-2017-15361 (ROCA): its primes are powers of 65537 modulo
/// many small primes.
fn roca() -> Key {
    let smalls = (3..168_u64).filter(|n| (2..*n).all(|divisor| n % divisor != 0));
    let product = smalls.fold(Nat::small(1), |product, prime| product.mul(&Nat::small(prime)));
    let prime = || loop {
        let power = Nat::small(65537).pow_mod(&Nat::small(rand::random()), &product);
        let mut factor: Vec<u8> = (0..(1024 - product.bits()).div_ceil(8)).map(|_| rand::random()).collect();
        factor[0] |= 0xc0;
        let candidate = Nat::from_be(&factor).mul(&product).add(&power);
        let even = candidate.is_odd().then(|| candidate.sub(&Nat::small(1)));
        if even.is_some_and(|even| Nat::small(2).pow_mod(&even, &candidate) == Nat::small(1)) {
            return candidate;
        }
    };
    loop {
        let (p, q) = (prime(), prime());
        let usable = [&p, &q].iter().all(|prime| prime.div_small(65537).1 != 1);
        if usable && p != q && p.mul(&q).bits() >= 2048 {
            return Key::Rsa(Box::new(Rsa::from_primes(p, q, 65537)));
        }
    }
}

/// A description, the key, its signer and the algorithm.
type Row<'a> = (&'a str, Value, Option<(&'a Key, &'a str)>);

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_not_fit_verify_nothing() {
    // Each row publishes a key, and names the signer: `None` where signing is impossible.
    let mut keys: Vec<Row<'_>> = Vec::new();
    let ec = |members: Value| with(KEYS.ec.jwk(json!({"alg": "ES256", "use": "sig"})), &members);
    let rsa = |members: Value| with(KEYS.rsa.jwk(json!({"alg": "RS256", "use": "sig"})), &members);
    let (by_ec, by_rsa, by_ed) = (Some((&KEYS.ec, "ES256")), Some((&KEYS.rsa, "RS256")), Some((&KEYS.ed, "EdDSA")));

    let sizes: Vec<(String, Key)> = [512, 1024, 1536, 2040, 2047]
        .into_iter()
        .map(|bits| (format!("RSA of {bits} bits"), Key::Rsa(Box::new(Rsa::generate(bits, 65537)))))
        .collect();
    for (what, key) in &sizes {
        keys.push((what, key.jwk(json!({"alg": "RS256", "use": "sig"})), Some((key, "RS256"))));
    }
    let Key::Rsa(small) = &sizes[1].1 else { unreachable!() };
    let padded = base64url(small.n.to_be(256));
    keys.push((
        "RSA of 1024 bits, zeros before",
        sizes[1].1.jwk(json!({"alg": "RS256", "n": padded})),
        Some((&sizes[1].1, "RS256")),
    ));
    let one = Key::Rsa(Box::new(Rsa::generate(2048, 1)));
    keys.push(("exponent 1", one.jwk(json!({"alg": "RS256"})), Some((&one, "RS256"))));
    let roca = roca();
    keys.push(("a ROCA modulus", roca.jwk(json!({"alg": "RS256"})), Some((&roca, "RS256"))));
    for (what, e) in [
        ("exponent 0", vec![0]),
        ("an even exponent", vec![4]),
        ("no exponent", vec![]),
        ("a huge exponent", vec![0xff; 32]),
    ] {
        keys.push((what, rsa(json!({"e": base64url(e)})), by_rsa));
    }
    let Key::Rsa(good) = &KEYS.rsa else { unreachable!() };
    keys.push(("an even modulus", rsa(json!({"n": base64url(good.n.add(&Nat::small(1)).to_be(256))})), by_rsa));
    keys.push(("a modulus of 16 kbit", rsa(json!({"n": base64url([0xff; 2048])})), None));
    keys.push((
        "a padded modulus",
        rsa(json!({"n": format!("{}=", good.jwk(json!({}))["n"].as_str().unwrap())})),
        by_rsa,
    ));
    for members in [
        json!({"use": "enc"}),
        json!({"use": " "}),
        json!({"use": "SIG"}),
        json!({"use": "Sig"}),
        json!({"use": "verify"}),
        json!({"use": ["sig"]}),
        json!({"use": 1}),
        json!({"key_ops": []}),
        json!({"key_ops": ["sign"]}),
        json!({"key_ops": ["encrypt"]}),
        json!({"key_ops": ["wrapKey", "deriveKey"]}),
        json!({"key_ops": "verify"}),
        json!({"key_ops": {"verify": true}}),
        json!({"key_ops": ["VERIFY"]}),
        json!({"use": null, "key_ops": ["encrypt"]}),
        json!({"use": "enc", "key_ops": ["verify"]}),
        // RFC 7517 section 4.3: no repeated operation; a value that is not a list of names counts as absent.
        json!({"key_ops": ["verify", "verify"]}),
        json!({"key_ops": ["verify", 7]}),
    ] {
        let what: &'static str = format!("EC with {members}").leak();
        keys.push((what, ec(members.clone()), by_ec));
        keys.push((format!("RSA with {members}").leak(), rsa(members), by_rsa));
    }
    for algorithm in ["none", "HS256", "RS256", "ES384", "ES256K", "ES521", "EdDSA", "ECDH-ES", "es256", " ", "ES256 "]
    {
        keys.push((format!("EC for {algorithm:?}").leak(), ec(json!({"alg": algorithm})), by_ec));
    }
    for algorithm in ["none", "HS256", "ES256", "RSA-OAEP", "RSA1_5", "rs256", "RS1", " ", "PS256"] {
        let reasons =
            if algorithm == "PS256" { "RSA for PS256, used as RS256" } else { format!("RSA for {algorithm:?}").leak() };
        keys.push((reasons, rsa(json!({"alg": algorithm})), by_rsa));
    }
    for value in [json!(7), json!(["ES256"]), json!({})] {
        keys.push((format!("alg {value}").leak(), ec(json!({ "alg": value })), by_ec));
    }
    let public = KEYS.ec.jwk(json!({}));
    let coordinate = |name: &str| from_base64url(public[name].as_str().unwrap());
    let (x, y) = (coordinate("x"), coordinate("y"));
    let mut off = y.clone();
    off[31] ^= 1;
    for (what, members) in [
        ("off the curve", json!({"y": base64url(&off)})),
        ("the origin", json!({"x": base64url([0; 32]), "y": base64url([0; 32])})),
        ("y missing", json!({"y": null})),
        ("x missing", json!({"x": null})),
        ("x and y swapped", json!({"x": base64url(&y), "y": base64url(&x)})),
        ("a zero before x", json!({"x": base64url([vec![0], x.clone()].concat())})),
        ("x without a byte", json!({"x": base64url(&x[..31])})),
        ("x with too much padding", json!({"x": format!("{}==", base64url(&x))})),
        ("x a number", json!({"x": 7})),
        ("x empty", json!({"x": ""})),
        ("curve P-384", json!({"crv": "P-384"})),
        ("curve P-521", json!({"crv": "P-521", "alg": "ES512"})),
        ("curve secp256k1", json!({"crv": "secp256k1"})),
        ("curve p-256", json!({"crv": "p-256"})),
        ("no curve", json!({"crv": null})),
        ("curve a list", json!({"crv": ["P-256"]})),
        ("type ec", json!({"kty": "ec"})),
        ("type RSA", json!({"kty": "RSA"})),
        ("type OKP", json!({"kty": "OKP"})),
        ("type oct", json!({"kty": "oct", "k": base64url([7; 32])})),
        ("no type", json!({"kty": null})),
        ("type a number", json!({"kty": 7})),
        // A published private key is everybody's: the strict reading of "keys that are not fit".
        ("a private part", json!({"d": base64url([7; 32])})),
    ] {
        keys.push((what, ec(members), by_ec));
    }
    keys.push(("a private part, RSA", rsa(json!({"d": base64url([7; 256])})), by_rsa));
    keys.push(("a private prime", rsa(json!({"p": base64url([7; 128])})), by_rsa));
    let ed = |members: Value| with(KEYS.ed.jwk(json!({"alg": "EdDSA"})), &members);
    let ed_x = from_base64url(KEYS.ed.jwk(json!({}))["x"].as_str().unwrap());
    for (what, members) in [
        ("X25519", json!({"crv": "X25519"})),
        ("Ed448", json!({"crv": "Ed448"})),
        ("Ed25519 of 31 bytes", json!({"x": base64url(&ed_x[..31])})),
        ("Ed25519 of 33 bytes", json!({"x": base64url([ed_x.clone(), vec![0]].concat())})),
        ("Ed25519 as EC", json!({"kty": "EC"})),
        ("Ed25519 for ES256", json!({"alg": "ES256"})),
        ("Ed25519 with a private part", json!({"d": base64url([7; 32])})),
    ] {
        keys.push((what, ed(members), by_ed));
    }
    // A key of small order verifies signatures without a signer: R = A, s = 0 fits one message in eight or more.
    for point in SMALL_ORDER {
        keys.push((
            format!("Ed25519 of small order {point}").leak(),
            json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(unhex(point))}),
            None,
        ));
    }
    keys.push((
        "a shared secret",
        json!({"kty": "oct", "k": base64url((0..64).collect::<Vec<u8>>()), "alg": "HS256"}),
        Some((&KEYS.secret, "HS256")),
    ));
    keys.push(("AKP", json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": base64url([7; 1312])}), None));

    let mut jwks: Vec<Value> =
        keys.iter().enumerate().map(|(at, (_, key, _))| with(key.clone(), &json!({"kid": format!("k{at}")}))).collect();
    let duplicate = |key: &Key, algorithm: &str| key.jwk(json!({"kid": "twice", "alg": algorithm}));
    jwks.extend([duplicate(&KEYS.stranger, "ES256"), duplicate(&KEYS.ec, "ES256")]);
    jwks.extend([json!(null), json!("key"), json!([]), json!({}), json!(7)]);
    let fit = KEYS.ec.jwk(json!({"kid": "fit", "alg": "ES256", "use": "sig", "key_ops": ["verify"], "x5c": ["MIIB"], "unknown": {"a": 1}}));
    let cube = KEYS.cube.jwk(json!({"kid": "cube"}));
    // Sets are bounded, so the rows come in several.
    for (at, chunk) in jwks.chunks(90).enumerate() {
        let set: Vec<_> = chunk.iter().cloned().chain([fit.clone(), cube.clone()]).collect();
        let mut corpus = Corpus::of(json!({ "keys": set })).await;
        let token = |kid: &str, algorithm: &str, key: &Key| {
            key.token(algorithm, &json!({"alg": algorithm, "kid": kid}).to_string(), &right_claims())
        };
        corpus.allowed("a fit key beside them", &token("fit", "ES256", &KEYS.ec));
        corpus.allowed("exponent 3", &token("cube", "RS256", &KEYS.cube));
        for key in chunk {
            let Some(kid) = key.get("kid").and_then(Value::as_str) else { continue };
            if kid == "twice" {
                corpus.refused("two keys under one id, the first", &token(kid, "ES256", &KEYS.stranger), UNKNOWN);
                corpus.refused("two keys under one id, the second", &token(kid, "ES256", &KEYS.ec), UNKNOWN);
                continue;
            }
            let (what, key, signer) = &keys[kid[1..].parse::<usize>().unwrap()];
            if let Some((signer, algorithm)) = signer {
                // An RSA key for another of its algorithms is fit for that one only.
                let reasons = if *what == "RSA for PS256, used as RS256" || *algorithm == "HS256" {
                    &["algorithm_not_allowed"]
                } else {
                    UNKNOWN
                };
                corpus.refused(*what, &token(kid, algorithm, signer), reasons);
            } else {
                let algorithm = match key["kty"].as_str().unwrap() {
                    "OKP" => "EdDSA",
                    "RSA" => "RS256",
                    _ => "ES256",
                };
                let point = key["x"].as_str().map(from_base64url).unwrap_or_default();
                let forged = super::resigned(&token(kid, algorithm, &KEYS.ed), [point, vec![0; 32]].concat());
                corpus.refused(*what, &forged, UNKNOWN);
            }
        }
        corpus.run(&format!("unfit keys, set {at}")).await;
    }
}

/// A token without a key's name is tried with few keys, and only those of its algorithm.
#[tokio::test(flavor = "multi_thread")]
async fn unnamed_keys_are_tried_within_bounds() {
    let keys: Vec<Key> = (0..6).map(|_| Key::ec()).collect();
    let unnamed: Vec<Value> = keys.iter().map(|key| key.jwk(json!({"alg": "ES256"}))).collect();
    let others: Vec<Value> = (0..20).map(|_| Key::ed().jwk(json!({}))).collect();
    let mut corpus = Corpus::of(json!({"keys": others.into_iter().chain(unnamed).collect::<Vec<_>>()})).await;
    for (at, key) in keys.iter().enumerate() {
        let token = key.token("ES256", r#"{"alg":"ES256"}"#, &right_claims());
        if at < 4 {
            corpus.allowed(format!("key {at}"), &token);
        } else {
            corpus.refused(format!("key {at}"), &token, &["bad_signature"]);
        }
        let named = key.token("ES256", r#"{"alg":"ES256","kid":"x"}"#, &right_claims());
        // RFC 7517 section 4.5 leaves `kid` to the publisher; a name that is not in the set may also be a new key's.
        if at < 4 {
            corpus.allowed(format!("key {at} by a name it has not"), &named);
        } else {
            corpus.refused(format!("key {at} by a name it has not"), &named, UNKNOWN);
        }
    }
    corpus.run("unnamed keys").await;
}
