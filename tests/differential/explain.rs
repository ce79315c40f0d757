//! Intended differences of Doorward: closed tables. A difference without a row is a fault.

use base64::Engine;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::{LEEWAY, LIFETIME, MAX_BYTES};

/// A rule of the README or of `authz::token`, and the reason of its refusals.
pub struct Row {
    pub rule: &'static str,
    reasons: &'static [&'static str],
    /// Whether the rule concerns the token, determined without Doorward.
    concerns: fn(&Seen) -> bool,
}

/// In the order in which a token is read; the first row that fits explains.
pub const TABLE: [Row; 14] = [
    Row {
        rule: "a token is at most `token.max_bytes` long",
        reasons: &["malformed_token"],
        concerns: |seen| seen.length > MAX_BYTES,
    },
    Row {
        rule: "base64url in its one form: no padding, white space, other alphabet, bits that trail",
        reasons: &["malformed_token", "multiple_tokens"],
        concerns: |seen| !seen.canonical,
    },
    Row {
        rule: "JSON is UTF-8 without a byte order mark",
        reasons: &["malformed_token"],
        concerns: |seen| {
            // A zero is of another encoding: JSON writes the character as an escape.
            let other = |json: &[u8]| json.contains(&0) || json.starts_with(b"\xef\xbb\xbf");
            seen.objects().any(|json| std::str::from_utf8(json).is_err() || other(json))
        },
    },
    Row {
        rule: "JSON nests at most 32 deep",
        reasons: &["malformed_token"],
        concerns: |seen| seen.objects().any(|json| json.windows(32).any(|part| part.iter().all(|byte| *byte == b'['))),
    },
    Row {
        rule: "JSON by RFC 8259: numbers that are finite, text that is Unicode",
        reasons: &["malformed_token"],
        concerns: |seen| {
            let marks = ["NaN", "Infinity", "1e400", "\\ud800"];
            let marked = |json: &[u8]| marks.iter().any(|mark| String::from_utf8_lossy(json).contains(mark));
            seen.objects().any(|json| serde_json::from_slice::<Value>(json).is_err() && marked(json))
        },
    },
    Row {
        rule: "no member twice at the top level",
        reasons: &["malformed_token"],
        concerns: |seen| seen.objects().any(repeats),
    },
    Row {
        rule: "no `crit`, `enc`, `zip`, `b64`, no nested token (`cty: JWT`)",
        reasons: &["malformed_token"],
        concerns: |seen| {
            let nested = |cty: &Value| cty.as_str().is_some_and(|cty| cty.to_ascii_lowercase().ends_with("jwt"));
            ["crit", "enc", "zip", "b64"].iter().any(|name| seen.header.contains_key(*name))
                || seen.header.get("cty").is_some_and(nested)
        },
    },
    Row {
        rule: "`alg`, `kid`, `typ` and `cty` are text",
        reasons: &["malformed_token"],
        concerns: |seen| {
            ["alg", "kid", "typ", "cty"].iter().any(|name| seen.header.get(*name).is_some_and(|v| !v.is_string()))
        },
    },
    Row {
        rule: "times are numbers from 1970 to 9999",
        reasons: &["invalid_claim"],
        concerns: |seen| {
            let date = |value: &Value| value.as_f64().is_some_and(|at| (0.0..=253_402_300_799.0).contains(&at));
            ["exp", "nbf", "iat"].iter().any(|name| seen.claims.get(*name).is_some_and(|value| !date(value)))
        },
    },
    Row {
        rule: "no `iat` later than now: it would outlive a sign-out",
        reasons: &["not_yet_valid"],
        concerns: |seen| seen.time("iat").is_some_and(|at| at > seen.now + LEEWAY),
    },
    Row {
        rule: "no token lives longer than `max_lifetime`: a revocation is not kept longer",
        reasons: &["lifetime_too_long", "expired"],
        concerns: |seen| {
            let Some(exp) = seen.time("exp") else { return false };
            let longest = LIFETIME + LEEWAY;
            exp > seen.now + longest
                || seen.time("iat").is_some_and(|iat| exp > iat + longest || seen.now >= iat + longest)
        },
    },
    Row {
        rule: "`aud` is text or a list of texts",
        reasons: &["invalid_claim"],
        concerns: |seen| match seen.claims.get("aud") {
            Some(Value::Array(items)) => !items.iter().all(Value::is_string),
            other => other.is_some_and(|aud| !aud.is_string()),
        },
    },
    Row {
        rule: "`sub` can stand in a header: visible ASCII, at most 4096 bytes",
        reasons: &["invalid_claim"],
        concerns: |seen| {
            let fits = |sub: &str| {
                (1..=4096).contains(&sub.len()) && sub.trim() == sub && sub.bytes().all(|b| (0x20..0x7f).contains(&b))
            };
            seen.claims.get("sub").is_some_and(|sub| !sub.as_str().is_some_and(fits))
        },
    },
    Row {
        rule: "what names a token, a session or a client for its revocation can be read",
        reasons: &["invalid_claim"],
        concerns: |seen| {
            let id = |value: &Value| value.as_str().is_some_and(|id| !id.is_empty());
            let named = |value: &Value| value.is_string() || value.is_i64() || value.is_u64();
            seen.claims.get("jti").is_some_and(|jti| !id(jti))
                || ["sid", "azp", "client_id"].iter().any(|name| seen.claims.get(*name).is_some_and(|v| !named(v)))
        },
    },
];

/// Tokens that Doorward accepts and one of the others does not: closed as well.
pub const IGNORED: [Row; 1] = [Row {
    rule: "`jwk`, `jku`, `x5u`, `x5c` and `x5t` are ignored, whatever they hold: a token brings no key",
    reasons: &["ok"],
    concerns: |seen| ["jwk", "jku", "x5u", "x5c", "x5t"].iter().any(|name| seen.header.contains_key(*name)),
}];

/// The row of a table that explains the answer which Doorward gave.
pub fn explain(table: &'static [Row], token: &[u8], reason: &str, now: i64) -> Option<&'static Row> {
    let seen = Seen::of(token, now);
    table.iter().find(|row| row.reasons.contains(&reason) && (row.concerns)(&seen))
}

/// A token as the most lenient reader would see it.
struct Seen {
    length: usize,
    canonical: bool,
    json: Vec<Vec<u8>>,
    header: Map<String, Value>,
    claims: Map<String, Value>,
    now: f64,
}

impl Seen {
    fn of(token: &[u8], now: i64) -> Self {
        let segments: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
        let json: Vec<_> = segments.iter().take(2).map(|segment| lenient(segment)).collect();
        let object = |at: usize| json.get(at).and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
        let now = now as f64;
        Self {
            length: token.len(),
            canonical: segments.iter().all(|segment| URL_SAFE_NO_PAD.decode(segment).is_ok()),
            header: object(0),
            claims: object(1),
            json,
            now,
        }
    }

    /// The header and the claims as text.
    fn objects(&self) -> impl Iterator<Item = &[u8]> {
        self.json.iter().map(Vec::as_slice)
    }

    fn time(&self, name: &str) -> Option<f64> {
        self.claims.get(name)?.as_f64()
    }
}

/// The bytes that a lenient decoder reads as base64, in either alphabet.
fn lenient(segment: &[u8]) -> Vec<u8> {
    let url = |byte: &u8| match byte {
        b'+' => b'-',
        b'/' => b'_',
        byte => *byte,
    };
    let kept: Vec<u8> =
        segment.iter().map(url).filter(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')).collect();
    let config = GeneralPurposeConfig::new().with_encode_padding(false).with_decode_allow_trailing_bits(true);
    let engine = GeneralPurpose::new(
        &base64::alphabet::URL_SAFE,
        config.with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    engine.decode(kept).unwrap_or_default()
}

/// Whether a JSON object has a member twice.
fn repeats(json: &[u8]) -> bool {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = bool;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
            let mut names: Vec<String> = Vec::new();
            while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
                names.push(name);
            }
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            Ok(names.len() < count)
        }
    }
    serde_json::Deserializer::from_slice(json).deserialize_map(Names).unwrap_or(false)
}
