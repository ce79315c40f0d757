use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;

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
fn what_rfc_7517_allows_is_read() {
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
        (vec![with(ec(), "x", json!("ADCgQkzSHClEg4otdckrN-duog2fAIk6O07uijwKr-w-"))], RejectedKey::CoordinateLength),
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
