//! Algorithm and key confusion: who chooses how a signature is checked.

use serde_json::{Value, json};

use super::forge::{Key, base64url, from_base64url, hex, mac, pem};
use super::{Corpus, KEYS, SECRET_ISSUER, claims_with, right_claims};

const NOT_ALLOWED: &[&str] = &["algorithm_not_allowed"];

fn header(algorithm: &str, kid: Option<&str>) -> String {
    super::forge::with(json!({"alg": algorithm, "typ": "JWT"}), &json!({ "kid": kid })).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_decides_how_it_is_used() {
    let mut corpus = Corpus::start().await;
    let payload = right_claims();
    for (kid, algorithm, key) in KEYS.published() {
        corpus.allowed(format!("{algorithm} by {kid}"), &key.token(algorithm, &header(algorithm, Some(kid)), &payload));
        corpus.allowed(
            format!("{algorithm} by {kid}, unnamed"),
            &key.token(algorithm, &header(algorithm, None), &payload),
        );
    }
    corpus.allowed(
        "Ed25519, its newer name (RFC 9864)",
        &KEYS.ed.token("EdDSA", &header("Ed25519", Some("ed")), &payload),
    );
    let secret = claims_with(json!({"iss": SECRET_ISSUER})).to_string();
    for kid in [None, Some("anything")] {
        corpus.allowed("HS256 with a secret", &KEYS.secret.token("HS256", &header("HS256", kid), secret.as_bytes()));
    }

    // A key's other algorithms, signed rightly.
    let others = [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "ES256K", "EdDSA", "Ed25519",
        "Ed448",
    ];
    for (kid, own, key) in KEYS.published() {
        for other in others {
            let same = other == own || (own, other) == ("EdDSA", "Ed25519");
            if !same {
                corpus.refused(
                    format!("{other} by {kid}"),
                    &key.token(other, &header(other, Some(kid)), &payload),
                    NOT_ALLOWED,
                );
            }
        }
    }
    // The algorithm of one key, the id of another, signed by either.
    for (named, _, _) in KEYS.published() {
        for (signer, algorithm, key) in KEYS.published() {
            if named != signer {
                let token = key.token(algorithm, &header(algorithm, Some(named)), &payload);
                corpus.refused(
                    format!("{algorithm} of {signer} named {named}"),
                    &token,
                    &["algorithm_not_allowed", "bad_signature"],
                );
            }
        }
    }
    for (_, algorithm, key) in KEYS.published() {
        corpus.refused(
            format!("{algorithm} claimed as ES256 by ec"),
            &key.token(algorithm, &header("ES256", Some("ec384")), &payload),
            NOT_ALLOWED,
        );
        let token = key.token(algorithm, &header(algorithm, None), secret.as_bytes());
        corpus.refused(format!("{algorithm} for the issuer with a secret"), &token, NOT_ALLOWED);
    }
    for algorithm in ["HS384", "HS512"] {
        let token = KEYS.secret.token(algorithm, &header(algorithm, None), secret.as_bytes());
        corpus.refused(format!("{algorithm} where HS256 is allowed"), &token, NOT_ALLOWED);
    }
    for algorithm in ["HS256", "HS384", "HS512"] {
        let token = KEYS.secret.token(algorithm, &header(algorithm, None), &payload);
        corpus.refused(format!("{algorithm} with another issuer's secret"), &token, NOT_ALLOWED);
    }
    corpus.refused(
        "a stranger's key",
        &KEYS.stranger.token("ES256", &header("ES256", None), &payload),
        &["bad_signature"],
    );
    corpus.refused(
        "a stranger's key under a known id",
        &KEYS.stranger.token("ES256", &header("ES256", Some("ec")), &payload),
        &["bad_signature"],
    );
    corpus.refused(
        "a stranger's key under its own id",
        &KEYS.stranger.token("ES256", &header("ES256", Some("x")), &payload),
        &["unknown_key"],
    );
    corpus.run("algorithms of keys").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_algorithm_is_none() {
    let mut corpus = Corpus::start().await;
    let payload = right_claims();
    let spellings = [
        "none",
        "None",
        "NONE",
        "nOnE",
        "NoNe",
        "nONE",
        "",
        " ",
        " none",
        "none ",
        "none\\u0000",
        "n\\u006fne",
        "\\u006eone",
        "none\\n",
        "n\\u00f6ne",
        "ｎｏｎｅ",
        "null",
        "undefined",
        "no",
        "plain",
        "unsecured",
        "0",
        "false",
        "*",
        "any",
    ];
    for spelling in spellings {
        for kid in ["", r#","kid":"ec""#, r#","kid":"none""#] {
            let header = format!(r#"{{"alg":"{spelling}","typ":"JWT"{kid}}}"#);
            let input = format!("{}.{}", base64url(&header), base64url(&payload));
            for (what, token) in [
                ("no signature", format!("{input}.")),
                ("a good signature", KEYS.ec.token("ES256", &header, &payload)),
                ("a byte of signature", format!("{input}.AA")),
            ] {
                corpus.refused(format!("alg {spelling:?}{kid}, {what}"), &token, NOT_ALLOWED);
            }
            corpus.refused(format!("alg {spelling:?}{kid}, no third part"), &input, &["malformed_token"]);
        }
    }
    let names = [
        "es256",
        "Es256",
        "ES256 ",
        " ES256",
        "ES256\\u0000",
        "ES-256",
        "ECDSA",
        "RS1",
        "HS1",
        "RS256 ",
        "rs256",
        "RSA1_5",
        "RSA-OAEP",
        "dir",
        "A128KW",
        "A256GCM",
        "ECDH-ES",
        "PBES2-HS256+A128KW",
        "ML-DSA-44",
        "ESP256",
        "ES256,none",
        "HS2-256",
        "BLAKE2B",
    ];
    for name in names {
        let token = KEYS.ec.token("ES256", &format!(r#"{{"alg":"{name}","kid":"ec"}}"#), &payload);
        corpus.refused(format!("alg {name:?}"), &token, NOT_ALLOWED);
    }
    for value in ["null", "true", "0", "256", "[]", r#"["ES256"]"#, r#"{"name":"ES256"}"#, "1e3"] {
        let token = KEYS.ec.token("ES256", &format!(r#"{{"alg":{value},"kid":"ec"}}"#), &payload);
        corpus.refused(format!("alg {value}"), &token, &["malformed_token", "algorithm_not_allowed"]);
    }
    for header in [r#"{"kid":"ec"}"#, r#"{"ALG":"ES256","kid":"ec"}"#, r#"{"algorithm":"ES256","kid":"ec"}"#, "{}"] {
        corpus.refused(
            format!("no alg: {header}"),
            &KEYS.ec.token("ES256", header, &payload),
            &["malformed_token", "algorithm_not_allowed"],
        );
    }
    corpus.run("none").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_is_no_secret() {
    let mut corpus = Corpus::start().await;
    let payload = right_claims();
    for (kid, algorithm, key) in KEYS.published() {
        if ["ec384", "ec521"].contains(&kid) {
            continue;
        }
        for (encoding, secret) in encodings(kid, algorithm, key) {
            for hmac in ["HS256", "HS384", "HS512"] {
                for kid in [Some(kid), None] {
                    let input = format!("{}.{}", base64url(header(hmac, kid)), base64url(&payload));
                    let token = format!("{input}.{}", base64url(mac(hmac, &secret, input.as_bytes())));
                    corpus.refused(format!("{hmac} with {encoding} of {algorithm}, kid {kid:?}"), &token, NOT_ALLOWED);
                }
                let lied = format!("{}.{}", base64url(header(algorithm, Some(kid))), base64url(&payload));
                let token = format!("{lied}.{}", base64url(mac(hmac, &secret, lied.as_bytes())));
                corpus.refused(format!("{hmac} with {encoding} called {algorithm}"), &token, &["bad_signature"]);
            }
        }
    }
    // The issuer with a secret as its key: no guessable secret verifies.
    let claims = claims_with(json!({"iss": SECRET_ISSUER})).to_string();
    for guess in ["", "secret", "HS256", SECRET_ISSUER, "demo", "null", "\0", "0"] {
        let token = Key::Secret(guess.into()).token("HS256", &header("HS256", None), claims.as_bytes());
        corpus.refused(format!("the secret {guess:?}"), &token, &["bad_signature"]);
    }
    let Key::Secret(secret) = &KEYS.secret else { unreachable!() };
    let wrong = [
        ("its base64", base64url(secret).into_bytes()),
        ("its hex", hex(secret).into_bytes()),
        ("without its last byte", secret[..63].to_vec()),
        ("a byte more", [secret.as_slice(), &[1]].concat()),
        ("a line end more", [secret.as_slice(), b"\n"].concat()),
    ];
    for (what, guess) in wrong {
        let token = Key::Secret(guess).token("HS256", &header("HS256", None), claims.as_bytes());
        corpus.refused(format!("the secret, {what}"), &token, &["bad_signature"]);
    }
    corpus.run("public keys as secrets").await;
}

/// All that a careless verifier could take for an HMAC key of a published key.
fn encodings(kid: &str, algorithm: &str, key: &Key) -> Vec<(&'static str, Vec<u8>)> {
    let jwk = key.jwk(json!({}));
    let published = key.jwk(json!({"kid": kid, "alg": algorithm, "use": "sig"}));
    let spki = key.spki();
    let text = pem("PUBLIC KEY", &spki);
    let mut all = vec![
        ("PEM", text.clone().into_bytes()),
        ("PEM without its line end", text.trim_end().into()),
        ("PEM with CRLF", text.replace('\n', "\r\n").into_bytes()),
        ("PEM's inner text", text.lines().filter(|line| !line.starts_with('-')).collect::<String>().into_bytes()),
        ("DER", spki.clone()),
        ("base64 of DER", base64url(&spki).into_bytes()),
        ("the JWK", jwk.to_string().into_bytes()),
        ("the published JWK", published.to_string().into_bytes()),
        ("the JWKS", json!({ "keys": [published] }).to_string().into_bytes()),
        ("the key id", kid.into()),
        ("nothing", Vec::new()),
        ("zeros", vec![0; 32]),
    ];
    let member =
        |name: &str| jwk.get(name).and_then(Value::as_str).map(|text| (text.as_bytes().to_vec(), from_base64url(text)));
    if let Some((text, bytes)) = member("n") {
        let Key::Rsa(rsa) = key else { unreachable!() };
        let pkcs1 = rsa.pkcs1_public();
        all.extend([
            ("PKCS #1 PEM", pem("RSA PUBLIC KEY", &pkcs1).into_bytes()),
            ("PKCS #1 DER", pkcs1),
            ("the modulus in hex", hex(&bytes).into_bytes()),
            ("the modulus with a zero", [&[0], bytes.as_slice()].concat()),
            ("the modulus", bytes),
            ("the modulus in base64url", text),
        ]);
    }
    if let Some((text, x)) = member("x") {
        let y = member("y").map(|(_, y)| y).unwrap_or_default();
        all.extend([
            ("x in base64url", text),
            ("the point", [&[4], x.as_slice(), &y].concat()),
            ("x and y", [x.as_slice(), &y].concat()),
            ("x", x),
        ]);
    }
    all
}
