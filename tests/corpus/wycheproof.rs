//! Project Wycheproof's vectors, each flaw transplanted onto a token that is otherwise right.
//!
//! The data is read from where `WYCHEPROOF` points, or from `../shared/vectors/wycheproof`; none of it
//! is kept here. The valid vectors are controls: the token that they become must pass.

use std::fmt::Write;
use std::path::PathBuf;

use aws_lc_rs::digest;
use doorward::authz::jwks::{Jwks, algorithm_named};
use serde_json::{Value, json};

use super::envoy::Provider;
use super::forge::{Key, base64url, from_base64url, unhex, with};
use super::nat::Nat;
use super::signatures::SMALL_ORDER;
use super::transplant::{Vector, transplant};
use super::{ASYMMETRIC, AUDIENCE, Corpus, claims_with, resigned};
use crate::support::TempDir;
use crate::support::doorward::run;

const REFUSED: &[&str] =
    &["bad_signature", "malformed_token", "algorithm_not_allowed", "unknown_key", "missing_token", "missing_claim"];

fn read(file: &str) -> Option<Value> {
    let named = std::env::var_os("WYCHEPROOF").filter(|path| !path.is_empty()).map(PathBuf::from);
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors/wycheproof");
    let folder = named.unwrap_or(beside);
    let Ok(text) = std::fs::read_to_string(folder.join(file)) else {
        eprintln!("SKIPPED: {file} is not in {}; WYCHEPROOF names the folder with the vectors", folder.display());
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// Issuers to be configured, each with its own keys.
struct Issuers {
    dir: TempDir,
    entries: String,
    providers: Vec<Provider>,
}

impl Issuers {
    fn new() -> Self {
        Self { dir: TempDir::new(), entries: String::new(), providers: Vec::new() }
    }

    /// Adds an issuer that publishes these keys; returns its `iss`.
    fn publish(&mut self, keys: &Value) -> String {
        let jwks = json!({ "keys": keys }).to_string();
        self.add("jwks_file", ASYMMETRIC, jwks.as_bytes(), jwks.clone())
    }

    fn share(&mut self, algorithm: &str, secret: &[u8]) -> String {
        let jwks = json!({"keys": [{"kty": "oct", "alg": algorithm, "k": base64url(secret)}]}).to_string();
        self.add("secret_file", &format!("[{algorithm}]"), secret, jwks)
    }

    fn add(&mut self, kind: &str, algorithms: &str, content: &[u8], jwks: String) -> String {
        let count = self.providers.len();
        let (name, issuer) = (format!("i{count}"), format!("https://i{count}.test"));
        std::fs::write(self.dir.path().join(&name), content).unwrap();
        writeln!(
            self.entries,
            "  - {{name: {name}, issuer: \"{issuer}\", audiences: [{AUDIENCE}], keys: {{{kind}: {name}}}, algorithms: {algorithms}}}"
        )
        .unwrap();
        self.providers.push(Provider { issuer: issuer.clone(), jwks });
        issuer
    }

    async fn start(self) -> Corpus {
        Corpus::launch(self.dir, &self.entries, self.providers).await
    }
}

fn payload(issuer: &str) -> String {
    base64url(claims_with(json!({"iss": issuer})).to_string())
}

/// Expects a token to have its vector's result.
fn expect(corpus: &mut Corpus, what: String, valid: bool, token: &str) {
    if valid { corpus.allowed(what, token) } else { corpus.refused(what, token, REFUSED) }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_web_signatures() {
    let mut groups: Vec<Value> = Vec::new();
    for file in ["json_web_signature_test.json", "json_web_crypto_test.json"] {
        let Some(vectors) = read(file) else { return };
        let signatures =
            |group: &&Value| list(group, "tests").iter().all(|test| test["jws"].is_string() || test["jws"].is_object());
        // Sets of keys are in the file of keys.
        groups.extend(
            list(&vectors, "testGroups")
                .iter()
                .filter(signatures)
                .filter(|group| group["private"]["kty"].is_string())
                .cloned(),
        );
    }
    let mut issuers = Issuers::new();
    let mut rows = Vec::new();
    let mut misspelled = 0;
    for (at, group) in groups.iter().enumerate() {
        let private = &group["private"];
        if text(private, "alg") == "ES521" {
            misspelled += list(group, "tests").len(); // P-521 under a name that no algorithm has.
            continue;
        }
        let issuer = if private["kty"] == "oct" {
            issuers.share(text(private, "alg"), &from_base64url(text(private, "k")))
        } else {
            issuers.publish(&json!([group["public"]]))
        };
        let signer = Key::from_jwk(private);
        let base =
            list(group, "tests").iter().find(|test| test["result"] == "valid").map(|test| text(test, "jws").to_owned());
        for test in list(group, "tests") {
            let what = format!("{}/{at} {} {}", text(group, "comment"), test["tcId"], text(test, "comment"));
            // Keys that are for encryption name no algorithm; their tokens do.
            let algorithm = private["alg"].as_str().map_or_else(|| algorithm_of(text(test, "jws")), str::to_owned);
            let token = rebuilt(test, base.as_deref(), &signer, &algorithm, &payload(&issuer));
            // Valid for Wycheproof, refused by our contract: characters outside of the alphabet, and a key
            // that is used for another algorithm than its own.
            let lenient = text(test, "comment").starts_with("InvalidCharacter");
            let other_algorithm =
                text(private, "alg") == "PS256" && token.starts_with(&base64url(r#"{"alg":"PS384""#)[..16]);
            rows.push((what, test["result"] == "valid" && !lenient && !other_algorithm, token));
        }
    }
    let mut corpus = issuers.start().await;
    for (what, valid, token) in rows {
        expect(&mut corpus, what, valid, &token);
    }
    eprintln!("Wycheproof JWS: {misspelled} of `ES521` left out");
    corpus.run("Wycheproof JWS").await;
}

/// The `alg` of a token that has one.
fn algorithm_of(token: &str) -> String {
    let header = super::forge::decoded(token.split('.').next().unwrap_or_default()).unwrap_or_default();
    serde_json::from_slice::<Value>(&header)
        .ok()
        .and_then(|header| Some(header["alg"].as_str()?.to_owned()))
        .unwrap_or_default()
}

/// The vector's token with this test's claims: its valid parts are recomputed, its faults stay.
fn rebuilt(test: &Value, base: Option<&str>, signer: &Key, algorithm: &str, payload: &str) -> String {
    let theirs = test["jws"].as_str().map_or_else(|| test["jws"].to_string(), str::to_owned);
    let base: Vec<&str> = base.unwrap_or_default().split('.').collect();
    if let Ok(json) = serde_json::from_str::<Value>(&theirs) {
        let input = format!("{}.{payload}", base[0]);
        let signature = base64url(signer.sign(algorithm, input.as_bytes()));
        let signatures = with(json["signatures"][0].clone(), &json!({"protected": base[0], "signature": signature}));
        return json!({"payload": payload, "signatures": [signatures]}).to_string();
    }
    let parts: Vec<&str> = theirs.split('.').collect();
    let (Some(header), 3) = (parts.first().filter(|part| !part.is_empty()), parts.len()) else {
        // Parts are missing or too many: the same parts are missing or repeated here.
        let right = format!("{}.{payload}", base[0]);
        let signature = base64url(signer.sign(algorithm, right.as_bytes()));
        let ours = |part: &&str| match base.iter().position(|known| known == part) {
            Some(0) => base[0].to_owned(),
            Some(1) => payload.to_owned(),
            Some(_) => signature.clone(),
            None => (*part).to_owned(),
        };
        return parts.iter().map(ours).collect::<Vec<_>>().join(".");
    };
    let alg = Some(algorithm_of(&theirs)).filter(|name| name.len() > 3).unwrap_or_else(|| algorithm.to_owned());
    let comment = text(test, "comment");
    if comment == "rejectsAttackerProvidedEmbeddedJwk" {
        let attacker = Key::ec();
        let named: Value = serde_json::from_slice(&from_base64url(header)).unwrap();
        let header = with(named.clone(), &json!({"jwk": attacker.jwk(json!({"kid": named["kid"], "alg": "ES256"}))}));
        return attacker.token("ES256", &header.to_string(), &from_base64url(payload));
    }
    if comment.starts_with("invalidBase64Padding") {
        // The published file lacks the padding; with it, each vector has the fault of its name.
        let padded = |text: &str, here: bool| if here { format!("{text}=") } else { text.to_owned() };
        let in_payload = comment.ends_with("InPayload");
        let input = format!("{header}.{}", padded(payload, in_payload));
        return format!("{input}.{}", padded(&base64url(signer.sign(algorithm, input.as_bytes())), !in_payload));
    }
    let same_header = base[0] == *header;
    let our_payload =
        if parts[1].is_empty() && test["result"] != "valid" { String::new() } else { junk_anew(parts[1], payload) };
    let modified =
        same_header && base.len() == 3 && parts[1] != base[1] && parts[2] == base[2] && test["result"] != "valid";
    if modified || comment == "rejectsModifiedHeader" {
        let signature = signer.sign(algorithm, format!("{}.{payload}", base[0]).as_bytes());
        let other = if our_payload == payload && comment != "rejectsModifiedHeader" {
            let json = String::from_utf8(from_base64url(payload)).unwrap();
            base64url(json.replace("\"alice\"", "\"root\""))
        } else {
            our_payload
        };
        return format!("{header}.{other}.{}", base64url(signature));
    }
    let input = format!("{header}.{our_payload}");
    let signature = match super::forge::decoded(parts[2]) {
        _ if test["result"] == "valid" => base64url(signer.sign(&alg, input.as_bytes())),
        Some(signature) => {
            let right = (base.len() == 3 && base[..2] == parts[..2]).then(|| super::forge::decoded(base[2])).flatten();
            let theirs = format!("{header}.{}", parts[1]);
            let own = right.is_some() || signature.is_empty() || matches!(signer, Key::Rsa(_));
            // Without a valid vector beside it, the statement is only that the input is not canonical.
            let vector = Vector { input: theirs.as_bytes(), signature: &signature, right: right.as_deref() };
            let signing = if matches!(signer, Key::Rsa(_)) { algorithm } else { alg.as_str() };
            base64url(if own {
                transplant(&vector, signer, signing, input.as_bytes())
            } else {
                signer.sign(signing, input.as_bytes())
            })
        }
        None => junk_anew(parts[2], &base64url(signer.sign(&alg, input.as_bytes()))),
    };
    format!("{input}.{signature}")
}

/// Puts the characters that are not base64url at the same places of another text.
fn junk_anew(theirs: &str, ours: &str) -> String {
    let alphabet = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let spare_bits = theirs == "AB";
    let mut changed: Vec<char> = ours.chars().collect();
    for (at, junk) in theirs.chars().enumerate().filter(|(_, c)| !alphabet(*c)) {
        changed.insert(at.min(changed.len()), junk);
    }
    let text: String = changed.into_iter().collect();
    // The two characters of one byte with bits to spare: so is a text of one more byte.
    if spare_bits { format!("{}B", &ours[..=ours.len() / 4 * 4]) } else { text }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_web_keys() {
    let Some(vectors) = read("json_web_key_test.json") else { return };
    let right = read("json_web_signature_test.json").unwrap();
    let right_ec =
        list(&right, "testGroups").iter().find(|group| group["comment"] == "es256").unwrap()["private"].clone();
    let mut issuers = Issuers::new();
    let mut rows = Vec::new();
    let (mut refused_files, mut shared_sets) = (0, 0);
    for group in list(&vectors, "testGroups") {
        let keys = list(&group["private"], "keys");
        let test = &group["tests"][0];
        let header = from_base64url(text(test, "jws").split('.').next().unwrap());
        let header_json: Value = serde_json::from_slice(&header).unwrap();
        let alg = text(&header_json, "alg");
        let key = keys.iter().find(|key| key["kid"] == header_json["kid"]).unwrap_or(&keys[0]);
        let what = |test: &Value| format!("{} {} {}", text(group, "comment"), test["tcId"], text(test, "comment"));
        let oct = keys.iter().all(|key| key["kty"] == "oct");
        if oct && keys.len() == 1 && key["alg"] == alg {
            let secret = from_base64url(text(key, "k"));
            let (code, output) = validated(alg, &secret);
            assert_eq!(code == 0, test["result"] == "valid", "{}: {output}", what(test));
            if code != 0 {
                refused_files += 1;
                continue;
            }
            let issuer = issuers.share(alg, &secret);
            let token = Key::Secret(secret).token(
                alg,
                std::str::from_utf8(&header).unwrap(),
                &from_base64url(&payload(&issuer)),
            );
            rows.push((what(test), true, token));
            continue;
        }
        // The public halves are published; shared secrets have none, so a set of them verifies nothing.
        shared_sets += usize::from(oct);
        let published = if group["public"].is_object() { &group["public"]["keys"] } else { &group["private"]["keys"] };
        let issuer = issuers.publish(published);
        let signer = match text(key, "kty") {
            _ if key["n"].is_string() => Key::from_jwk(&with(key.clone(), &json!({"kty": "RSA"}))),
            "oct" => Key::from_jwk(key),
            _ => Key::from_jwk(&right_ec),
        };
        for test in list(group, "tests") {
            let token = signer.token(alg, std::str::from_utf8(&header).unwrap(), &from_base64url(&payload(&issuer)));
            rows.push((what(test), test["result"] == "valid" && !oct, token));
        }
    }
    let mut corpus = issuers.start().await;
    for (what, valid, token) in rows {
        expect(&mut corpus, what, valid, &token);
    }
    eprintln!(
        "Wycheproof JWK: {refused_files} secrets refused by the configuration, {shared_sets} sets of secrets refused as published"
    );
    corpus.run("Wycheproof JWK").await;
}

/// The output of `doorward validate` about a shared secret.
fn validated(algorithm: &str, secret: &[u8]) -> (i32, String) {
    let mut issuers = Issuers::new();
    issuers.share(algorithm, secret);
    let file = issuers.dir.path().join("doorward.yaml");
    std::fs::write(&file, format!("revocation: {{store: embedded}}\nissuers:\n{}", issuers.entries)).unwrap();
    let (code, out, err) = run(&["validate", "--config", file.to_str().unwrap()], "");
    (code, out + &err)
}

/// The vectors themselves, by the very function that verifies tokens, where the message is text.
fn verified_as_they_are(group: &Value, jwk: &Value, algorithm: &str) -> (usize, Vec<String>) {
    let jwk = with(jwk.clone(), &json!({"kid": "k", "alg": algorithm}));
    let wanted = algorithm_named(algorithm).unwrap();
    let (keys, unfit) = Jwks::from_value(&json!({ "keys": [jwk] }), &[wanted]).unwrap();
    let mut wrong: Vec<String> = unfit.iter().map(|cause| format!("the key is left out: {cause}")).collect();
    let mut count = 0;
    for test in list(group, "tests") {
        let Ok(message) = String::from_utf8(unhex(text(test, "msg"))) else { continue };
        let Some(key) = keys.candidates(Some("k"), wanted).ok().and_then(|keys| keys.first().copied()) else {
            continue;
        };
        count += 1;
        if key.verifies(&message, &unhex(text(test, "sig"))) != (test["result"] == "valid") {
            wrong.push(format!("{} {}", test["tcId"], text(test, "comment")));
        }
    }
    (count, wrong)
}

/// A file of signatures: as they are, and their flaws in a token by `signer`.
async fn signatures(file: &str, algorithm: &str, jwk: &str, signer: impl Fn(&Value) -> Key) {
    let Some(mut vectors) = read(file) else { return };
    for group in vectors["testGroups"].as_array_mut().unwrap().iter_mut().filter(|group| group[jwk].is_null()) {
        let coordinate = |name: &str| base64url(Nat::from_be(&unhex(text(&group["publicKey"], name))).to_be(32));
        group[jwk] = json!({"kty": "EC", "crv": "P-256", "x": coordinate("wx"), "y": coordinate("wy")});
    }
    let groups = list(&vectors, "testGroups");
    let mut issuers = Issuers::new();
    let own = signer(&groups[0]);
    let issuer = issuers.publish(&json!([own.jwk(json!({"kid": "own", "alg": algorithm}))]));
    // Every key of the file is fit: a token in its name meets its signature, not its absence.
    let published: Vec<Value> = groups
        .iter()
        .enumerate()
        .map(|(at, group)| with(group[jwk].clone(), &json!({"kid": format!("g{at}"), "alg": algorithm})))
        .collect();
    let others: Vec<String> = published.chunks(90).map(|keys| issuers.publish(&json!(keys))).collect();
    let mut corpus = issuers.start().await;
    let header = json!({"alg": algorithm, "kid": "own"}).to_string();
    let (mut direct, mut wrong) = (0, Vec::new());
    let token = own.token(algorithm, &header, &from_base64url(&payload(&issuer)));
    let input = token.rsplit_once('.').unwrap().0.as_bytes();
    for (at, group) in groups.iter().enumerate() {
        let (count, faults) = verified_as_they_are(group, &group[jwk], algorithm);
        direct += count;
        wrong.extend(faults);
        let header_of_key = json!({"alg": algorithm, "kid": format!("g{at}")}).to_string();
        let stranger = own.token(algorithm, &header_of_key, &from_base64url(&payload(&others[at / 90])));
        let ours = group[jwk]["n"].is_string() && own.jwk(json!({}))["n"] == group[jwk]["n"];
        if ours {
            corpus.allowed("our key under another name", &stranger);
        } else {
            corpus.refused("another key's name", &stranger, &["bad_signature"]);
        }
        for test in list(group, "tests") {
            let what = format!("{} {}", test["tcId"], text(test, "comment"));
            let valid = test["result"] == "valid";
            let right =
                list(group, "tests").iter().find(|other| other["result"] == "valid" && other["msg"] == test["msg"]);
            let right = right.map(|test| unhex(text(test, "sig")));
            let (message, signature) = (unhex(text(test, "msg")), unhex(text(test, "sig")));
            let vector = Vector { input: &message, signature: &signature, right: right.as_deref() };
            // For a valid vector whose private key is unavailable the plain token is used.
            let transplanted = ours || !valid;
            let token = if transplanted {
                resigned(&token, transplant(&vector, &own, algorithm, input))
            } else {
                token.clone()
            };
            expect(&mut corpus, what, valid, &token);
        }
    }
    eprintln!("Wycheproof {algorithm}: {direct} vectors verified as they are, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{file}:\n{}", wrong.join("\n"));
    corpus.run(&format!("Wycheproof {algorithm}")).await;
}

/// The private key that Wycheproof ships with the JWS vectors of the same modulus.
fn private_half(jwk: &Value) -> Key {
    let vectors = read("json_web_signature_test.json").unwrap();
    let groups = list(&vectors, "testGroups");
    Key::from_jwk(&groups.iter().find(|group| group["private"]["n"] == jwk["n"]).unwrap()["private"])
}

#[tokio::test(flavor = "multi_thread")]
async fn ecdsa_p1363() {
    signatures("ecdsa_secp256r1_sha256_p1363_test.json", "ES256", "publicKeyJwk", |_| Key::ec()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_pkcs1() {
    signatures("rsa_signature_2048_sha256_test.json", "RS256", "keyJwk", |group| private_half(&group["keyJwk"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rsa_pss() {
    signatures("rsa_pss_2048_sha256_mgf1_32_test.json", "PS256", "publicKeyJwk", |group| {
        private_half(&group["publicKeyJwk"])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ed25519() {
    signatures("ed25519_test.json", "EdDSA", "publicKeyJwk", |_| Key::ed()).await;
}

/// A signature whose R was changed and whose s was made to fit: it is valid for a verifier that ignores the
/// change.
#[tokio::test(flavor = "multi_thread")]
async fn ed25519_with_another_r() {
    let seed: [u8; 32] = rand::random();
    let key = Key::Ed(aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&seed).unwrap());
    let mut issuers = Issuers::new();
    let issuer = issuers.publish(&json!([key.jwk(json!({"kid": "own", "alg": "EdDSA"}))]));
    let mut corpus = issuers.start().await;
    let token = key.token("EdDSA", r#"{"alg":"EdDSA","kid":"own"}"#, &from_base64url(&payload(&issuer)));
    let (input, signature) = (token.rsplit_once('.').unwrap().0.as_bytes(), super::signature_of(&token));
    let little = |bytes: &[u8]| Nat::from_be(&bytes.iter().rev().copied().collect::<Vec<_>>());
    let order = little(&unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010"));
    let sha512 = |parts: &[&[u8]]| digest::digest(&digest::SHA512, &parts.concat()).as_ref().to_vec();
    // RFC 8032 section 5.1.6, with the R of our choice.
    let expanded = sha512(&[&seed]);
    let mut scalar = expanded[..32].to_vec();
    scalar[0] &= 0xf8;
    scalar[31] = scalar[31] & 0x7f | 0x40;
    let nonce = little(&sha512(&[&expanded[32..], input]));
    let public = from_base64url(key.jwk(json!({}))["x"].as_str().unwrap());
    let signed_with = |r: &[u8]| {
        let challenge = little(&sha512(&[r, &public, input]));
        let s = nonce.add(&challenge.rem(&order).mul(&little(&scalar))).rem(&order);
        [r.to_vec(), s.to_be(32).into_iter().rev().collect()].concat()
    };
    assert_eq!(signed_with(&signature[..32]), signature, "with the R of the signature it is that signature");
    corpus.allowed("as it is", &token);
    for bit in 0..256 {
        let mut r = signature[..32].to_vec();
        r[bit / 8] ^= 1 << (bit % 8);
        corpus.refused(format!("bit {bit} of R"), &resigned(&token, signed_with(&r)), &["bad_signature"]);
    }
    for point in SMALL_ORDER {
        corpus.refused(format!("R is {point}"), &resigned(&token, signed_with(&unhex(point))), &["bad_signature"]);
    }
    corpus.run("Ed25519 with another R").await;
}
