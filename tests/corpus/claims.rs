//! Claims of every wrong type, range and content.

use serde_json::{Value, json};

use super::{AUDIENCE, Corpus, Expected, ISSUER, claims_with, claims_written, signed};
use crate::support::grpc::{Ask, ask, get};
use crate::support::tokens::now;

const INVALID: &[&str] = &["invalid_claim"];
/// JSON with a number beyond every reader's range may be refused as a whole.
const INVALID_OR_MALFORMED: &[&str] = &["invalid_claim", "malformed_token"];

/// JSON values that are neither a number nor text.
const NEITHER: [&str; 7] = ["null", "true", "false", "[]", "{}", "[1700000000]", r#"{"value":1}"#];

/// Text that must not reach a header or a log as it is.
const UNFIT: [&str; 22] = [
    r"a\r\nx-user-id: root",
    r"a\nb",
    r"a\rb",
    r"a\u0000b",
    r"\u0000",
    r"a\tb",
    r"a\u007fb",
    r"a\u0001b",
    r"a\u001b[31mb",
    r"a\u0085b",
    r"é",
    r"\u00e9",
    r"\u202eecila",
    r"a\u200bb",
    r"a\u2028b",
    r"\ufeffa",
    r"а",
    "😀",
    r" a",
    r"a ",
    r" ",
    r"\u00a0a",
];

fn token(name: &str, text: &str) -> Ask {
    get("/").token(&signed(claims_written(name, text)))
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_numbers_within_reason() {
    let mut corpus = Corpus::start().await;
    let (at, millis) = (now(), now() * 1000);
    for name in ["exp", "iat", "nbf"] {
        for text in NEITHER {
            corpus.ask(format!("{name} is {text}"), token(name, text), Expected::Refused(INVALID));
        }
        for text in [
            String::new(),
            format!("{at}"),
            "0".to_owned(),
            "never".to_owned(),
            "2099-01-01T00:00:00Z".to_owned(),
            "1e99".to_owned(),
            "NaN".to_owned(),
        ] {
            corpus.ask(
                format!("{name} is the text {text:?}"),
                token(name, &format!("\"{text}\"")),
                Expected::Refused(INVALID),
            );
        }
        for text in ["-1", "-0.5", "-1e3", "-1700000000", "-9223372036854775808", "-1e300"] {
            corpus.ask(format!("{name} is {text}"), token(name, text), Expected::Refused(INVALID));
        }
        for text in ["1e400", "-1e400", "1e999999999"] {
            corpus.ask(format!("{name} is {text}"), token(name, text), Expected::Refused(INVALID_OR_MALFORMED));
        }
        // Out of range, or so far in the future that the token's lifetime is too long or it is not valid yet.
        let far: &[&str] = match name {
            "exp" => &["invalid_claim", "lifetime_too_long"],
            _ => &["invalid_claim", "not_yet_valid"],
        };
        for text in [
            "253402300800".to_owned(),
            "253402300799".to_owned(),
            "9007199254740993".to_owned(),
            "9223372036854775807".to_owned(),
            "9223372036854775808".to_owned(),
            "18446744073709551615".to_owned(),
            "18446744073709551616".to_owned(),
            "99999999999999999999999999".to_owned(),
            "1e12".to_owned(),
            "1e18".to_owned(),
            "1e100".to_owned(),
            "1e308".to_owned(),
            "1.7976931348623157e308".to_owned(),
            millis.to_string(),
            format!("{millis}000"),
        ] {
            corpus.ask(format!("{name} is {text}"), token(name, &text), Expected::Refused(far));
        }
    }
    let float = |secs: i64| format!("{secs}.25");
    let exponent = |secs: i64| format!("{}.{:09}e9", secs / 1_000_000_000, secs % 1_000_000_000);
    for (name, secs) in [("exp", at + 300), ("iat", at - 30), ("nbf", at - 30)] {
        for text in [
            secs.to_string(),
            float(secs),
            exponent(secs),
            exponent(secs).replace('e', "E+"),
            format!("{secs}e0"),
            format!("{secs}.0"),
        ] {
            corpus.ask(format!("{name} is {text}"), token(name, &text), Expected::Allowed);
        }
    }
    for text in ["0", "-0", "0.0", "-0.0", "0e5", "1", "1e-5", "1e-400", "1.5e9"] {
        // The strict reading of -0: an unusual number may be refused.
        corpus.ask(
            format!("exp is {text}"),
            token("exp", text),
            Expected::Refused(&["expired", "invalid_claim", "lifetime_too_long"]),
        );
        corpus.ask(
            format!("iat is {text}"),
            token("iat", text),
            Expected::Refused(&["lifetime_too_long", "invalid_claim"]),
        );
    }
    corpus.ask("nbf is 0", token("nbf", "0"), Expected::Allowed);
    for (changes, reasons) in [
        (json!({"exp": null}), &["missing_claim"][..]),
        (json!({"exp": at}), &["ok", "expired"]),
        (json!({"exp": at - 35}), &["expired"]),
        (json!({"exp": at - 3600, "iat": at - 7200}), &["expired"]),
        (json!({"exp": at + 86_400 + 120}), &["lifetime_too_long"]),
        (json!({"exp": at + 86_400 + 120, "iat": null}), &["lifetime_too_long"]),
        (json!({"exp": at + 10, "iat": at - 86_400 - 120}), &["lifetime_too_long"]),
        (json!({"iat": at + 60}), &["not_yet_valid"]),
        (json!({"iat": at + 100_000}), &["not_yet_valid"]),
        (json!({"nbf": at + 60}), &["not_yet_valid"]),
        (json!({"nbf": at + 60, "iat": null}), &["not_yet_valid"]),
    ] {
        let ask = get("/").token(&signed(claims_with(changes.clone()).to_string()));
        if reasons[0] == "ok" {
            corpus.ask(format!("within the leeway: {changes}"), ask, Expected::Allowed);
        } else {
            corpus.ask(changes.to_string(), ask, Expected::Refused(reasons));
        }
    }
    for changes in [
        json!({"iat": null}),
        json!({"iat": at + 20}),
        json!({"nbf": at + 20}),
        json!({"exp": at - 20}),
        json!({"exp": at + 86_300, "iat": at}),
    ] {
        corpus.ask(changes.to_string(), get("/").token(&signed(claims_with(changes).to_string())), Expected::Allowed);
    }
    // A claim that may be in the past must still be well-formed.
    for text in ["null", "\"0\"", "[]", "-1"] {
        for path in ["/refresh", "/logout"] {
            let request = ask("POST", path).token(&signed(claims_written("exp", text)));
            corpus.ask(format!("{path}: exp is {text}"), request, Expected::Refused(INVALID));
        }
    }
    for path in ["/refresh", "/logout"] {
        let without = signed(claims_with(json!({"exp": null})).to_string());
        corpus.ask(format!("{path}: no exp"), ask("POST", path).token(&without), Expected::Refused(&["missing_claim"]));
        let future = signed(claims_with(json!({"iat": at + 100})).to_string());
        corpus.ask(
            format!("{path}: iat to come"),
            ask("POST", path).token(&future),
            Expected::Refused(&["not_yet_valid"]),
        );
    }
    corpus.run("times").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn issuer_and_audience_are_compared_byte_by_byte() {
    let mut corpus = Corpus::start().await;
    for text in NEITHER.iter().chain(&[
        "7",
        "1.5",
        r#"["https://issuer.test"]"#,
        r#"[["https://issuer.test"]]"#,
        r#"{"https://issuer.test":1}"#,
    ]) {
        corpus.ask(format!("iss is {text}"), token("iss", text), Expected::Refused(INVALID));
    }
    corpus.refused("no iss", &signed(claims_with(json!({"iss": null})).to_string()), &["missing_claim"]);
    for text in [
        "",
        " ",
        "https://issuer.test/",
        "https://issuer.test ",
        " https://issuer.test",
        "HTTPS://issuer.test",
        "https://ISSUER.test",
        "http://issuer.test",
        "https://issuer.tes",
        "https://issuer.test.evil.example",
        "https://evil.example/https://issuer.test",
        "https://issuer.test@evil.example",
        "https://issuer.test:443",
        "https://issuer.test#",
        "https://issuer.test?",
        "https://issuer.test/../",
        "https://issuer.test\\u0000",
        "https://issuer.test\\n",
        "https:\\\\issuer.test",
        "https://issuer%2Etest",
        "main",
        "*",
        "issuer.test",
        "//issuer.test",
        "https://іssuer.test",
        "https://issuer.test\\u200b",
        "{tenant}",
        "https://{tenant}.test",
        ".*",
        "null",
        "http://169.254.169.254/",
    ] {
        corpus.ask(
            format!("iss is {text:?}"),
            token("iss", &format!("\"{text}\"")),
            Expected::Refused(&["unknown_issuer"]),
        );
    }
    corpus.refused(
        "another issuer's name on our key",
        &signed(claims_with(json!({"iss": super::SECRET_ISSUER})).to_string()),
        &["algorithm_not_allowed"],
    );
    corpus.ask("iss in escapes", token("iss", "\"https:\\/\\/issuer\\u002etest\""), Expected::Allowed);

    for text in [
        "null",
        "true",
        "7",
        "1.5",
        "{}",
        r#"{"demo":1}"#,
        r#"["demo",7]"#,
        r#"[7,"demo"]"#,
        r#"["demo",null]"#,
        r#"["demo",["x"]]"#,
        r#"[["demo"]]"#,
        r#"[{"a":"demo"}]"#,
        "[null]",
        "[true]",
    ] {
        corpus.ask(format!("aud is {text}"), token("aud", text), Expected::Refused(INVALID));
    }
    for text in [
        r#""""#,
        r#"[""]"#,
        r#""DEMO""#,
        r#""Demo""#,
        r#""demo ""#,
        r#"" demo""#,
        r#""dem""#,
        r#""demos""#,
        r#""demo,other""#,
        r#""demo other""#,
        r#""demo\u0000""#,
        r#""*""#,
        r#""any""#,
        r#"["other"]"#,
        r#"["DEMO","demo "]"#,
        r#""dеmo""#,
        r#""https://demo""#,
        r#"".*""#,
        r#""null""#,
        r#""demo/""#,
    ] {
        corpus.ask(format!("aud is {text}"), token("aud", text), Expected::Refused(&["wrong_audience"]));
    }
    corpus.ask("aud is []", token("aud", "[]"), Expected::Refused(&["missing_claim"]));
    corpus.refused("no aud", &signed(claims_with(json!({"aud": null})).to_string()), &["missing_claim"]);
    for text in [
        format!("\"{AUDIENCE}\""),
        format!("[\"{AUDIENCE}\"]"),
        format!("[\"x\",\"{AUDIENCE}\",\"\"]"),
        "\"d\\u0065mo\"".to_owned(),
        format!("[\"{AUDIENCE}\",\"{AUDIENCE}\"]"),
    ] {
        corpus.ask(format!("aud is {text}"), token("aud", &text), Expected::Allowed);
    }
    assert!(claims_with(json!({}))["iss"] == ISSUER);
    corpus.run("issuer and audience").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_stand_in_headers() {
    let mut corpus = Corpus::start().await;
    for text in NEITHER.iter().chain(&["1.5", "1e3", r#"["alice"]"#, r#"{"sub":"alice"}"#]) {
        corpus.ask(format!("sub is {text}"), token("sub", text), Expected::Refused(INVALID));
    }
    corpus.ask("sub is empty", token("sub", r#""""#), Expected::Refused(INVALID));
    for text in UNFIT {
        let ask = token("sub", &format!("\"{text}\"")).header("x-user-id", "root");
        let readable = ["é", r"\u00e9", "а", "😀"].contains(&text);
        let expected = if readable { Expected::Without(&["x-user-id"]) } else { Expected::Refused(INVALID) };
        corpus.ask(format!("sub is {text:?}"), ask, expected);
    }
    for number in ["7", "0", "-1", "18446744073709551615"] {
        corpus.ask(format!("sub is {number}"), token("sub", number), Expected::Allowed);
    }
    corpus.ask("sub of 4097 bytes", token("sub", &format!("\"{}\"", "s".repeat(4097))), Expected::Refused(INVALID));
    corpus.ask("sub of 10 KB", token("sub", &format!("\"{}\"", "s".repeat(10_000))), Expected::Refused(INVALID));
    corpus.ask(
        "sub of 20 KB",
        token("sub", &format!("\"{}\"", "s".repeat(20_000))),
        Expected::Refused(&["malformed_token"]),
    );
    corpus.refused("no sub", &signed(claims_with(json!({"sub": null})).to_string()), &["missing_claim"]);
    for text in [
        "a",
        "Ann Lee",
        "auth0|123",
        "a@b",
        "0",
        "-",
        "a,b",
        "a;b",
        "\\u0061",
        "<script>",
        "%0d%0a",
        "\\\\r\\\\n",
        "root",
        "null",
        "true",
        "../../etc",
        "' OR 1=1",
    ] {
        corpus.ask(format!("sub is {text:?}"), token("sub", &format!("\"{text}\"")), Expected::Allowed);
    }
    corpus.run("subjects").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_identities_are_left_out_or_refused() {
    let mut corpus = Corpus::start().await;
    let spoofed = |ask: Ask, header: &str| ask.header(header, "root");
    // A claim that names a target must be readable, or its token could not be revoked by it: every
    // wrong type is refused, though the contract allows the claim to be absent.
    for (name, header) in [("jti", "x-token-id"), ("sid", "x-session-id"), ("azp", "x-client-id")] {
        for text in NEITHER.iter().chain(&["1.5", "-0.5", "1e3", r#"["a"]"#, r#"{"a":"b"}"#]) {
            corpus.ask(format!("{name} is {text}"), spoofed(token(name, text), header), Expected::Refused(INVALID));
        }
    }
    corpus.ask("jti is empty", token("jti", r#""""#), Expected::Refused(INVALID));
    corpus.ask("jti is a number", token("jti", "7"), Expected::Refused(INVALID));
    for (name, header) in [
        ("jti", &["x-token-id"]),
        ("sid", &["x-session-id"]),
        ("azp", &["x-client-id"]),
        ("email", &["x-user-email"]),
        ("scope", &["x-scopes"]),
        ("role", &["x-role"]),
    ] {
        for text in UNFIT {
            // Spaces part scopes, so those around them are not of any.
            if name == "scope" && text.trim().bytes().all(|byte| (0x21..=0x7e).contains(&byte)) && !text.contains('\\')
            {
                continue;
            }
            let ask = spoofed(token(name, &format!("\"{text}\"")), header[0]);
            corpus.ask(format!("{name} is {text:?}"), ask, Expected::Without(header));
        }
        let long = format!("\"{}\"", "v".repeat(5000));
        corpus.ask(format!("{name} of 5,000 bytes"), spoofed(token(name, &long), header[0]), Expected::Without(header));
    }
    for text in
        NEITHER.iter().chain(&["7", "1.5", "-1", r#""""#, r#"["a@b"]"#, r#"["a@b","c@d"]"#, r#"{"address":"a@b"}"#])
    {
        corpus.ask(
            format!("email is {text}"),
            spoofed(token("email", text), "x-user-email"),
            Expected::Without(&["x-user-email"]),
        );
    }
    for text in ["null", "true", "7", "{}", "[]", "[7]", r#""""#, r#""  ""#, r#"[["admin"]]"#] {
        corpus.ask(
            format!("scope is {text}"),
            spoofed(token("scope", text), "x-scopes"),
            Expected::Without(&["x-scopes"]),
        );
    }
    for text in ["null", "{}", r#"{"a":1}"#, "[]", r#"[["a"]]"#, r#"["a,b"]"#, r#"["a\nb"]"#, "[null]", r#""""#] {
        corpus.ask(format!("role is {text}"), spoofed(token("role", text), "x-role"), Expected::Without(&["x-role"]));
    }
    for (name, header) in
        [("sid", &["x-session-id"]), ("azp", &["x-client-id"]), ("email", &["x-user-email"]), ("jti", &["x-token-id"])]
    {
        if name != "jti" {
            let without = signed(claims_with(json!({name: Value::Null})).to_string());
            corpus.ask(format!("no {name}"), spoofed(get("/").token(&without), header[0]), Expected::Without(header));
        }
        if name != "jti" {
            corpus.ask(format!("{name} is empty"), spoofed(token(name, r#""""#), header[0]), Expected::Without(header));
        }
        let large = format!("\"{}\"", "v".repeat(20_000));
        corpus.ask(format!("{name} of 20 KB"), token(name, &large), Expected::Refused(&["malformed_token"]));
    }
    corpus.ask("no jti", get("/").token(&signed(claims_with(json!({"jti": null})).to_string())), Expected::Allowed);
    corpus.run("other identities").await;
}
