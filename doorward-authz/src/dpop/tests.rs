use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::*;

static NOTHING: LazyLock<Forgotten> = LazyLock::new(Forgotten::default);

const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.AAAA";
const URI: &str = "https://shop.test/a";
const NOW: i64 = 1_700_000_000;

const POLICY: DpopPolicy =
    DpopPolicy { window: Duration::from_secs(60), nonce: false, replay: ReplayPolicy::Shared { or_local: false } };

/// A client with its own key.
struct Client {
    key: EcdsaKeyPair,
    jwk: Value,
}

impl Client {
    fn new() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = key.public_key().as_ref();
        let [x, y] = [&point[1..33], &point[33..]].map(|half| URL_SAFE_NO_PAD.encode(half));
        Self { jwk: json!({"kty": "EC", "crv": "P-256", "x": x, "y": y}), key }
    }

    /// A proof that is right but for some members, which null takes out.
    fn proof(&self, header: Value, claims: Value) -> String {
        let ath = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, TOKEN.as_bytes()));
        let right_header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk});
        let right_claims = json!({"jti": "j", "htm": "GET", "htu": URI, "iat": NOW, "ath": ath});
        let parts = [(right_header, header), (right_claims, claims)].map(|(mut right, changes)| {
            for (name, value) in changes.as_object().unwrap() {
                match value {
                    Value::Null => drop(right.as_object_mut().unwrap().remove(name)),
                    value => right[name] = value.clone(),
                }
            }
            URL_SAFE_NO_PAD.encode(right.to_string())
        });
        self.sign(&parts.join("."))
    }

    fn sign(&self, input: &str) -> String {
        let signature = self.key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn expected(&self) -> Expected<'static> {
        Expected {
            token: BearerToken::parse(TOKEN.as_bytes(), 1000).unwrap(),
            key: thumbprint(&self.jwk).unwrap(),
            method: "GET",
            uri: URI,
            leeway: Duration::from_secs(30),
            policy: POLICY,
            nonces: None,
            forgotten: &NOTHING,
        }
    }

    fn verify(&self, proof: &str) -> Result<VerifiedProof, String> {
        let verified = VerifiedProof::verify(proof.as_bytes(), &self.expected(), Timestamp::from_secs(NOW));
        verified.map_err(|bad| match bad {
            BadProof::Invalid(detail) => detail.into(),
            BadProof::Nonce => "nonce".to_owned(),
        })
    }

    #[track_caller]
    fn accepts(&self, header: Value, claims: Value) {
        let case = format!("{header} {claims}");
        assert_eq!(self.verify(&self.proof(header, claims)).err(), None, "{case}");
    }

    #[track_caller]
    fn refuses(&self, header: Value, claims: Value, detail: &str) {
        let case = format!("{header} {claims}");
        let refused = self.verify(&self.proof(header, claims)).unwrap_err();
        assert!(refused.contains(detail), "{case}: {refused}");
    }
}

/// RFC 9449 sections 6.1 and 7.1.
#[test]
fn the_proof_of_the_standard_is_accepted() {
    let proof = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpD\
        a0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In1\
        9.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZ\
        XNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRq\
        zhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
    let expected = Expected {
        token: BearerToken::parse(b"Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU", 1000).unwrap(),
        key: Thumbprint::parse("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I").unwrap(),
        uri: "https://resource.example.org/protectedresource",
        ..Client::new().expected()
    };
    let verified = VerifiedProof::verify(proof.as_bytes(), &expected, Timestamp::from_secs(1_562_262_620)).unwrap();
    assert_eq!(verified.keep, Duration::from_secs(150));
    assert!(verified.is_of(proof.as_bytes(), &expected));
    assert!(!verified.is_of(proof.as_bytes(), &Expected { method: "POST", ..expected }));
    assert!(!verified.is_of(proof.as_bytes(), &Expected { uri: URI, ..expected }));
    assert!(!verified.is_of(&proof.as_bytes()[1..], &expected));
}

#[test]
fn a_proof_is_of_its_token_and_its_request() {
    let client = Client::new();
    client.accepts(json!({}), json!({}));
    client.accepts(json!({"kid": "k", "x5u": "u"}), json!({"nonce": "n", "aud": "a", "exp": 1}));
    client.accepts(json!({}), json!({"htu": "HTTPS://Shop.TEST:443/b/../%61?c=d#e"}));
    client.accepts(json!({}), json!({"iat": NOW - 60}));
    client.accepts(json!({}), json!({"iat": NOW + 60}));
    client.accepts(json!({}), json!({"iat": f64::from(i32::try_from(NOW).unwrap()) + 0.5}));
    for (claims, detail) in [
        (json!({"jti": null}), "`jti` of the proof is missing"),
        (json!({"jti": ""}), "`jti` of the proof is empty text"),
        (json!({"jti": 7}), "`jti` of the proof is a number"),
        (json!({"htm": null}), "`htm` of the proof is missing"),
        (json!({"htm": "POST"}), "`htm` of the proof differs"),
        (json!({"htm": "get"}), "`htm` of the proof differs"),
        (json!({"htu": null}), "`htu` of the proof is missing"),
        (json!({"htu": "/a"}), "not an absolute"),
        (json!({"htu": "http://shop.test/a"}), "another scheme"),
        (json!({"htu": "https://shop.test:8443/a"}), "another host"),
        (json!({"htu": "https://shop.test/A"}), "another path"),
        (json!({"htu": "https://shop.test/a/"}), "another path"),
        (json!({"htu": "https://shop.test/a%2F"}), "another path"),
        (json!({"htu": "https://shop.test@evil.test/a"}), "not an absolute"),
        (json!({"htu": [URI]}), "`htu` of the proof is a list"),
        (json!({"iat": null}), "`iat` of the proof is missing"),
        (json!({"iat": NOW.to_string()}), "`iat` of the proof is missing, or not a number"),
        (json!({"iat": NOW - 61}), "`iat` of the proof is 61 s behind"),
        (json!({"iat": NOW + 61}), "`iat` of the proof is 61 s ahead"),
        (json!({"ath": null}), "`ath` of the proof is missing"),
        (json!({"ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"}), "`ath` of the proof is not the hash"),
        (json!({"ath": [1]}), "`ath` of the proof is a list"),
    ] {
        client.refuses(json!({}), claims, detail);
    }
    let expected = Expected { method: "POST", ..client.expected() };
    let proof = client.proof(json!({}), json!({}));
    assert!(VerifiedProof::verify(proof.as_bytes(), &expected, Timestamp::from_secs(NOW)).is_err());
}

#[test]
fn a_proof_brings_the_public_key_that_the_token_is_bound_to() {
    let (client, other) = (Client::new(), Client::new());
    let with = |name: &str, value: Value| {
        let mut jwk = client.jwk.clone();
        jwk[name] = value;
        json!({"jwk": jwk})
    };
    client.accepts(with("alg", json!("ES256")), json!({}));
    client.accepts(with("use", json!("sig")), json!({}));
    for (header, detail) in [
        (json!({"typ": null}), "`typ` of the proof"),
        (json!({"typ": "JWT"}), "`typ` of the proof"),
        (json!({"typ": "DPOP+JWT"}), "`typ` of the proof"),
        (json!({"alg": "none"}), "`alg` of the proof is `none`"),
        (json!({"alg": "HS256"}), "`alg` of the proof is `HS256`"),
        (json!({"alg": "ES384"}), "`jwk` of the proof is algorithm_not_allowed"),
        (json!({"alg": "RS256"}), "`jwk` of the proof is algorithm_not_allowed"),
        (json!({"jwk": null}), "`jwk` of the proof is missing"),
        (json!({"jwk": "k"}), "`jwk` of the proof is malformed"),
        (json!({"jwk": {"kty": "oct", "k": "AAAA"}}), "`jwk` of the proof is secret"),
        (with("d", json!("AAAA")), "`jwk` of the proof is secret"),
        (with("use", json!("enc")), "`jwk` of the proof is not_for_signatures"),
        (with("alg", json!("ES384")), "`jwk` of the proof is algorithm_not_allowed"),
        (with("y", json!("AAAA")), "`jwk` of the proof is coordinate_length"),
        (json!({"jwk": other.jwk}), "signature is not valid"),
        (json!({"crit": ["b64"], "b64": false}), "not one well-formed"),
        (json!({"cty": "JWT"}), "not one well-formed"),
    ] {
        client.refuses(header, json!({}), detail);
    }
    let theirs = other.proof(json!({}), json!({}));
    assert!(client.verify(&theirs).unwrap_err().contains("another key"));
    // Base64 that is not base64url makes another thumbprint of the same point.
    let padded = format!("{}=", client.jwk["x"].as_str().unwrap());
    client.refuses(with("x", json!(padded)), json!({}), "another key");
}

#[test]
fn a_proof_is_one_well_formed_message() {
    let client = Client::new();
    let good = client.proof(json!({}), json!({}));
    assert!(client.verify(&good).is_ok());
    let (input, signature) = good.rsplit_once('.').unwrap();
    let twice = URL_SAFE_NO_PAD
        .encode(format!("{{\"jti\":\"a\",\"jti\":\"b\",\"htm\":\"GET\",\"htu\":\"{URI}\",\"iat\":{NOW}}}"));
    for bad in [
        String::new(),
        " ".to_owned(),
        format!(" {good}"),
        format!("{good},{good}"),
        format!("{good}, {good}"),
        format!("{good}="),
        format!("{good}."),
        input.to_owned(),
        format!("{input}."),
        format!("{input}.{}", &signature[1..]),
        format!("{}{good}", "A".repeat(VerifiedProof::MAX_BYTES)),
        client.sign(&format!("{}.{twice}", input.split_once('.').unwrap().0)),
    ] {
        assert!(client.verify(&bad).is_err(), "{bad}");
    }
}

#[test]
fn proofs_differ_by_key_and_id() {
    let (client, other) = (Client::new(), Client::new());
    let id = |client: &Client, claims: Value| client.verify(&client.proof(json!({}), claims)).unwrap().id();
    assert_eq!(id(&client, json!({})), id(&client, json!({"iat": NOW - 1})));
    assert_ne!(id(&client, json!({})), id(&client, json!({"jti": "k"})));
    assert_ne!(id(&client, json!({})), id(&other, json!({})));
    let long = json!({"jti": "\r\n{}:*".repeat(100)});
    let text = id(&client, long).text();
    assert!(text.len() == 43 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')), "{text}");
}

#[test]
fn a_nonce_dates_a_proof() {
    let client = Client::new();
    let (nonces, foreign) = (Nonces::new(&[[7; 32]]), Nonces::new(&[[8; 32]]));
    let check = |claims: Value, later: i64, forgotten: i64| {
        let forgotten = Forgotten::all_up_to(Timestamp::from_secs(forgotten));
        let expected = Expected {
            policy: DpopPolicy { nonce: true, ..POLICY },
            nonces: Some(&nonces),
            forgotten: &forgotten,
            ..client.expected()
        };
        let proof = client.proof(json!({}), claims);
        let verified = VerifiedProof::verify(proof.as_bytes(), &expected, Timestamp::from_secs(NOW + later));
        verified.map(|proof| proof.wants_nonce)
    };
    let issued = nonces.issue(Timestamp::from_secs(NOW)).unwrap();
    let named = || json!({"nonce": issued, "iat": 1});
    assert_eq!(check(named(), 0, 0), Ok(false));
    assert_eq!(check(named(), 30, 0), Ok(false));
    assert_eq!(check(named(), 31, 0), Ok(true), "half of its time is over");
    assert_eq!(check(named(), 60, 0), Ok(true));
    assert_eq!(check(named(), -30, 0), Ok(false), "another instance's clock is ahead");
    for (claims, later, forgotten) in [
        (named(), 61, 0),
        (named(), -31, 0),
        (named(), 0, NOW + 61),
        (json!({}), 0, 0),
        (json!({"nonce": ""}), 0, 0),
        (json!({"nonce": [issued]}), 0, 0),
        (json!({"nonce": foreign.issue(Timestamp::from_secs(NOW))}), 0, 0),
    ] {
        assert_eq!(check(claims, later, forgotten), Err(BadProof::Nonce), "{later} {forgotten}");
    }
}

#[test]
fn a_clock_that_is_set_back_makes_no_proof_usable_again() {
    let client = Client::new();
    let proof = client.proof(json!({}), json!({}));
    let at = |forgotten| {
        let forgotten = Forgotten::all_up_to(Timestamp::from_secs(forgotten));
        let expected = Expected { forgotten: &forgotten, ..client.expected() };
        VerifiedProof::verify(proof.as_bytes(), &expected, Timestamp::from_secs(NOW)).is_ok()
    };
    assert!(at(NOW) && at(NOW + 60) && !at(NOW + 61));
}
