//! Valid tokens with some mutations, which follow from a seed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::signers::Signer;
use super::{AUDIENCE, ISSUER, SECRET_ISSUER};
use crate::corpus::forge::base64url;

/// A token and how it came about.
pub struct Made {
    pub seed: u64,
    pub token: Vec<u8>,
    /// Without a mutation.
    pub untouched: bool,
    pub parts: String,
}

/// JSON members as they are written.
type Members = Vec<(String, String)>;

struct Maker<'a> {
    rng: StdRng,
    now: i64,
    signer: &'a Signer,
    header: Members,
    claims: Members,
    steps: Vec<String>,
}

const HEADER_VALUES: &[(&str, &[&str])] = &[
    ("alg", &["\"none\"", "\"\"", "null", "7", "\"RS256\"", "\"rs256\"", "\"ES256\"", "\"ES256K\"", "\"Ed25519\""]),
    ("alg", &["\"HS256\"", "\"HS512\"", "\"PS256\"", "\"EdDSA\"", "[\"ES256\"]", "\"ES256 \"", "\"RS1\"", "\"ES384\""]),
    (
        "kid",
        &["\"RS256\"", "\"PS384\"", "\"ES256\"", "\"EdDSA\"", "\"HS256\"", "\"\"", "null", "7", "\"../../dev/null\""],
    ),
    (
        "typ",
        &["\"at+jwt\"", "\"AT+JWT\"", "\"jwt\"", "\"application/at+jwt\"", "\"application/JWT\"", "\"application/\""],
    ),
    ("typ", &["\"logout+jwt\"", "\"secevent+jwt\"", "\"dpop+jwt\"", "\"\"", "null", "7", "[\"JWT\"]", "\"JOSE\""]),
    ("cty", &["\"JWT\"", "\"jwt\"", "\"application/jwt\"", "\"json\"", "null", "7"]),
    ("crit", &["[]", "[\"exp\"]", "[\"b64\"]", "[\"alg\"]", "null", "\"exp\"", "[\"http://example.com/x\"]", "[1]"]),
    ("b64", &["false", "true", "null", "\"false\"", "0"]),
    ("zip", &["\"DEF\"", "null", "\"\""]),
    ("enc", &["\"A128GCM\"", "null"]),
    ("jku", &["\"https://attacker.test/jwks\"", "7", "null"]),
    ("x5u", &["\"https://attacker.test/cert\"", "[]"]),
    ("x5c", &["[\"MIIB\"]", "\"MIIB\"", "[]"]),
    ("x5t", &["\"abc\"", "7"]),
    ("jwk", &["{\"kty\":\"oct\",\"k\":\"AAAA\"}", "{}", "null", "\"x\""]),
    ("nonce", &["\"x\"", "{\"a\":[1,2]}"]),
    ("iss", &["\"https://issuer.test\"", "7"]),
];

/// The values that any claim may get.
const ODD: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "1.5",
    "1e3",
    "1e400",
    "-0",
    "1E+2",
    "\"\"",
    "\" \"",
    "\"x\"",
    "\"alice \"",
    "[]",
    "{}",
    "[null]",
    "[\"x\"]",
    "[[\"demo\"]]",
    "{\"a\":{\"b\":[]}}",
    "\"a\\u0000b\"",
    "\"\\r\\nx-admin: 1\"",
    "\"\u{e9}\"",
    "\"\\u202ealice\"",
    "\"\\ud800\"",
    "\"\\ud83d\\ude00\"",
    "\"\u{1f600}\"",
    "123456789012345678901234567890",
    "9007199254740993",
    "NaN",
    "Infinity",
    "-Infinity",
    "01",
    "+1",
    ".5",
    "1.",
    "'x'",
    "undefined",
    "\"\t\"",
    "",
];

/// Seconds from now, each at least 300 from any limit: the leeway is 600, the longest lifetime a day.
const OFFSETS: &[i64] = &[
    -4_000_000_000,
    -10_000_000,
    -100_000,
    -88_000,
    -80_000,
    -7200,
    -1200,
    -300,
    0,
    300,
    1200,
    7200,
    80_000,
    88_000,
    100_000,
    10_000_000,
    4_000_000_000,
    300_000_000_000,
];

const TIMES: [&str; 3] = ["exp", "nbf", "iat"];
const NAMES: &[&str] =
    &["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "sid", "azp", "client_id", "email", "scope", "x", "__proto__"];

/// The token of a seed.
pub fn token(seed: u64, signers: &[Signer], now: i64) -> Made {
    let mut rng = StdRng::seed_from_u64(seed);
    let signer = signers.choose(&mut rng).unwrap();
    let issuer = if signer.is_symmetric() { SECRET_ISSUER } else { ISSUER };
    let text = |value: &str| format!("\"{value}\"");
    let header = [("alg", text(signer.algorithm)), ("typ", text("JWT")), ("kid", text(signer.kid))];
    let claims = [
        ("iss", text(issuer)),
        ("aud", text(AUDIENCE)),
        ("sub", text("alice")),
        ("email", text("alice@example.com")),
        ("jti", text(&format!("{seed:016x}"))),
        ("sid", text("session-1")),
        ("azp", text("client-1")),
        ("iat", (now - 60).to_string()),
        ("exp", (now + 3600).to_string()),
    ];
    let named = |(name, value): (&str, String)| (name.to_owned(), value);
    let (header, claims) = (header.map(named).to_vec(), claims.map(named).to_vec());
    Maker { rng, now, signer, header, claims, steps: Vec::new() }.make(seed, signers)
}

impl Maker<'_> {
    fn make(mut self, seed: u64, signers: &[Signer]) -> Made {
        let steps = *[0, 1, 1, 1, 1, 1, 1, 2, 2, 3].choose(&mut self.rng).unwrap();
        let stages: Vec<u32> = (0..steps).map(|_| self.rng.random_range(0..100)).collect();
        let count = |range: std::ops::Range<u32>| stages.iter().filter(|stage| range.contains(stage)).count();

        for _ in 0..count(0..18) {
            self.change_header();
        }
        for _ in 0..count(18..48) {
            self.change_claim();
        }
        let (mut header, mut payload) = (written(&self.header).into_bytes(), written(&self.claims).into_bytes());
        for _ in 0..count(48..60) {
            let of_header = self.rng.random_bool(0.4);
            self.change_json(if of_header { &mut header } else { &mut payload });
        }
        let (mut first, mut second) = (base64url(&header), base64url(&payload));
        for _ in 0..count(60..70) {
            let of_header = self.rng.random_bool(0.5);
            self.change_encoding(if of_header { &mut first } else { &mut second });
        }
        let input = format!("{first}.{second}");
        let named =
            self.header.iter().find(|(name, _)| name == "alg").map(|(_, value)| value.trim_matches('"').to_owned());
        let named = named.unwrap_or_default();
        // Half of the tokens with another algorithm are signed by it, as far as the key permits.
        let algorithm = if self.rng.random_bool(0.5) { named.as_str() } else { self.signer.algorithm };
        let algorithm = if algorithm.len() < 3 { self.signer.algorithm } else { algorithm };
        let mut signature = self.signer.sign(algorithm, input.as_bytes());
        for _ in 0..count(70..82) {
            self.change_signature(&mut signature, input.as_bytes(), signers);
        }
        let mut third = base64url(&signature);
        for _ in 0..count(82..88) {
            self.change_encoding(&mut third);
        }
        let mut token = format!("{input}.{third}").into_bytes();
        for _ in 0..count(88..100) {
            self.change_text(&mut token);
        }
        let parts = format!(
            "steps: {:?}\nheader: {}\npayload: {}",
            self.steps,
            String::from_utf8_lossy(&header),
            String::from_utf8_lossy(&payload)
        );
        Made { seed, token, untouched: self.steps.is_empty(), parts }
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        of.choose(&mut self.rng).unwrap()
    }

    fn step(&mut self, what: impl Into<String>) {
        self.steps.push(what.into());
    }

    fn change_header(&mut self) {
        let (name, values) = self.pick(HEADER_VALUES);
        let value = *self.pick(values);
        match self.rng.random_range(0..10) {
            0..=1 => {
                self.header.retain(|(member, _)| member != name);
                self.step(format!("header without {name}"));
            }
            2 => {
                self.header.push(((*name).to_owned(), value.to_owned()));
                self.step(format!("header says {name} again: {value}"));
            }
            _ => {
                set(&mut self.header, name, value);
                self.step(format!("header says {name}: {value}"));
            }
        }
    }

    fn change_claim(&mut self) {
        let name = *self.pick(NAMES);
        let value = match self.rng.random_range(0..10) {
            0..=4 if TIMES.contains(&name) => {
                let at = self.now + self.pick(OFFSETS);
                match self.rng.random_range(0..8) {
                    0 => format!("{at}.5"),
                    1 => format!("{at}e0"),
                    2 => format!("\"{at}\""),
                    3 => format!("[{at}]"),
                    _ => at.to_string(),
                }
            }
            0..=4 if name == "aud" => (*self.pick(&[
                "[\"demo\"]",
                "[\"x\",\"demo\"]",
                "[\"demo\",1]",
                "[null,\"demo\"]",
                "\"DEMO\"",
                "\"demo \"",
                "[\"x\"]",
                "{\"demo\":1}",
            ]))
            .to_owned(),
            0..=4 if name == "iss" => (*self.pick(&[
                "\"https://issuer.test\"",
                "\"https://secret.test\"",
                "\"https://issuer.test/\"",
                "\"HTTPS://issuer.test\"",
                "[\"https://issuer.test\"]",
                "\"https:\\/\\/issuer.test\"",
            ]))
            .to_owned(),
            5 => {
                self.claims.retain(|(member, _)| member != name);
                return self.step(format!("claims without {name}"));
            }
            6 => {
                let length = *self.pick(&[100, 128, 129, 512, 4096, 4097, 13_000]);
                format!("\"{}\"", "a".repeat(length))
            }
            7 => {
                let value = (*self.pick(ODD)).to_owned();
                self.claims.push((name.to_owned(), value.clone()));
                return self.step(format!("claims say {name} again: {value}"));
            }
            _ => (*self.pick(ODD)).to_owned(),
        };
        set(&mut self.claims, name, &value);
        self.step(format!("claims say {name}: {value:.80}"));
    }

    /// The text of a JSON object, invalid or in another spelling.
    fn change_json(&mut self, json: &mut Vec<u8>) {
        let text = String::from_utf8_lossy(json).into_owned();
        let inner = text.trim_start_matches('{').trim_end_matches('}').to_owned();
        let depth = *self.pick(&[5, 28, 31, 32, 40, 200]);
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let brackets = "[".repeat(40);
        let choices: Vec<(&str, Vec<u8>)> = vec![
            ("spaces around", format!(" \t\r\n{{ {inner} }}\n ").into()),
            ("a BOM", format!("\u{feff}{text}").into()),
            ("UTF-16", text.encode_utf16().flat_map(u16::to_le_bytes).collect()),
            ("a NUL behind", format!("{text}\0").into()),
            ("text behind", format!("{text}x").into()),
            ("another object behind", format!("{text}{text}").into()),
            ("a comma behind", format!("{{{inner},}}").into()),
            ("a comment", format!("{{/* */{inner}}}").into()),
            ("no end", format!("{{{inner}").into()),
            ("in a list", format!("[{text}]").into()),
            ("a string", format!("{text:?}").into()),
            ("null", b"null".to_vec()),
            ("nothing", Vec::new()),
            ("an empty object", b"{}".to_vec()),
            ("deep", format!("{{{inner},\"deep\":{nested}}}").into()),
            ("brackets in a string", format!("{{{inner},\"text\":\"{brackets}\"}}").into()),
            ("escaped names", text.replace("\"iss\"", "\"\\u0069ss\"").replace("\"alg\"", "\"\\u0061lg\"").into()),
            ("an escaped name twice", format!("{{{inner},\"\\u0073ub\":\"bob\",\"\\u0061lg\":\"none\"}}").into()),
            ("a name in capitals", format!("{{{inner},\"Sub\":\"bob\",\"ALG\":\"none\"}}").into()),
            ("an empty name", format!("{{{inner},\"\":1}}").into()),
            ("bytes that are no text", [b"{\"x\":\"\xff\xfe\",", inner.as_bytes(), b"}"].concat()),
            ("a surrogate in UTF-8", [b"{\"x\":\"\xed\xa0\x80\",", inner.as_bytes(), b"}"].concat()),
            ("overlong UTF-8", [b"{\"x\":\"\xc0\xaf\",", inner.as_bytes(), b"}"].concat()),
            ("a raw line feed in text", [b"{\"x\":\"\n\",", inner.as_bytes(), b"}"].concat()),
        ];
        let (what, changed) = choices[self.rng.random_range(0..choices.len())].clone();
        *json = changed;
        self.step(format!("JSON: {what}"));
    }

    /// Other text for the same bytes, or nearly.
    fn change_encoding(&mut self, segment: &mut String) {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let at = self.rng.random_range(0..=segment.len());
        let choice = self.rng.random_range(0..9);
        match choice {
            0 => segment.push_str(&"=".repeat((4 - segment.len() % 4) % 4)),
            1 => segment.push('='),
            2 => *segment = segment.replace('-', "+").replace('_', "/"),
            3 => segment.insert(at, ' '),
            4 => segment.insert(at, '\n'),
            // The last character holds bits that no byte takes.
            5 => {
                if let Some(last) = segment.pop() {
                    let value = ALPHABET.iter().position(|byte| char::from(*byte) == last).unwrap_or(0);
                    segment.push(char::from(ALPHABET[value ^ 1]));
                }
            }
            6 => segment.insert(at, '.'),
            7 => segment.insert(at, '%'),
            _ => segment.push('A'),
        }
        self.step(format!("encoding {choice} at {at}"));
    }

    fn change_signature(&mut self, signature: &mut Vec<u8>, input: &[u8], signers: &[Signer]) {
        let half = signature.len() / 2;
        let choice = self.rng.random_range(0..16);
        match choice {
            0 => signature.clear(),
            1 => signature.truncate(half),
            2 => signature.push(0),
            3 => signature.insert(0, 0),
            4 => signature.fill(0),
            5 => signature.fill(0xff),
            6 => signature[..half].fill(0),
            7 => signature[half..].fill(0),
            8 => signature.rotate_left(half),
            9 => {
                let at = self.rng.random_range(0..signature.len().max(1));
                if let Some(byte) = signature.get_mut(at) {
                    *byte ^= 1 << (at % 8);
                }
            }
            10 => *signature = self.signer.sign(self.signer.algorithm, &[input, b"x"].concat()),
            11 => *signature = self.signer.sign("PS384", input),
            12 => *signature = self.signer.sign("RS512", input),
            13 => {
                let choice = self.rng.random_range(0..3);
                *signature = self.signer.confused(input, choice);
            }
            14 => {
                let other = self.pick(signers);
                *signature = other.sign(other.algorithm, input);
            }
            // The other ECDSA signature for the same input: s becomes n - s. It must verify.
            _ if self.signer.algorithm == "ES256" => *signature = variant(signature),
            _ => signature.reverse(),
        }
        self.step(format!("signature {choice}"));
    }

    /// Bytes of the whole token.
    fn change_text(&mut self, token: &mut Vec<u8>) {
        if token.is_empty() {
            return; // There is nothing left to change.
        }
        let at = self.rng.random_range(0..token.len());
        let choice = self.rng.random_range(0..12);
        match choice {
            0..=2 => token[at] ^= 1 << self.rng.random_range(0..7),
            3 => drop(token.remove(at)),
            4 => token.insert(at, self.rng.random()),
            5 => token.truncate(at),
            6 => token.swap(at, 0),
            7 => token[at] = if token[at].is_ascii_lowercase() { token[at] - 32 } else { token[at] | 0x20 },
            8 => token.extend_from_slice(b".AAAA"),
            9 => {
                let half = token[at..].to_vec();
                token.extend(half);
            }
            10 => token.retain(|byte| *byte != b'.'),
            _ => {
                let dot = token.iter().position(|byte| *byte == b'.').unwrap_or(0);
                token.drain(..=dot);
            }
        }
        self.step(format!("text {choice} at {at}"));
    }
}

fn set(members: &mut Members, name: &str, value: &str) {
    match members.iter_mut().find(|(member, _)| member == name) {
        Some(member) => value.clone_into(&mut member.1),
        None => members.push((name.to_owned(), value.to_owned())),
    }
}

fn written(members: &Members) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// `(r, n - s)` of an ES256 signature `(r, s)`.
fn variant(signature: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let Some((r, s)) = signature.split_at_checked(32).filter(|(_, s)| s.len() == 32) else { return signature.to_vec() };
    let mut variant = r.to_vec();
    let mut borrow = 0_i16;
    let mut digits: Vec<u8> = Vec::new();
    for (order, digit) in ORDER.iter().zip(s).rev() {
        let difference = i16::from(*order) - i16::from(*digit) - borrow;
        borrow = i16::from(difference < 0);
        digits.push(u8::try_from(difference + 256 * borrow).unwrap());
    }
    variant.extend(digits.iter().rev());
    variant
}
