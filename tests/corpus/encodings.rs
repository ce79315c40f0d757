//! Encodings that two readers would read differently.

use serde_json::{Value, json};

use super::forge::base64url;
use super::{Corpus, EC_HEADER, Expected, KEYS, claims_with, good, segments, signed};
use crate::support::grpc::get;

const MALFORMED: &[&str] = &["malformed_token"];

/// A token with segments as they are, rightly signed over that text.
fn signed_text(header: &str, payload: &str) -> String {
    let input = format!("{header}.{payload}");
    let signature = KEYS.ec.sign("ES256", input.as_bytes());
    format!("{input}.{}", base64url(signature))
}

/// The next character with the same leading bits: another spelling of the same bytes.
fn variant(text: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = ALPHABET.find(text.chars().last().unwrap()).unwrap();
    let variant = ALPHABET.as_bytes()[last | 1];
    format!("{}{}", &text[..text.len() - 1], char::from(variant))
}

#[tokio::test(flavor = "multi_thread")]
async fn base64url_has_one_spelling() {
    let mut corpus = Corpus::start().await;
    let header = base64url(EC_HEADER);
    // Payloads of every length modulo 3, so that padding and spare bits occur.
    let padded = |pad: usize| base64url(claims_with(json!({"pad": "x".repeat(pad)})).to_string());
    let payloads: Vec<_> = (0..3).map(padded).collect();
    for payload in &payloads {
        corpus.allowed(format!("a payload of {} characters", payload.len()), &signed_text(&header, payload));
        for (what, changed) in [
            ("a padding character", format!("{payload}=")),
            ("two padding characters", format!("{payload}==")),
            ("a character more", format!("{payload}A")),
            ("a character less", payload[..payload.len() - 1].to_owned()),
            ("a line end", format!("{payload}\n")),
            ("CRLF within", format!("{}\r\n{}", &payload[..8], &payload[8..])),
            ("a space within", format!("{} {}", &payload[..8], &payload[8..])),
            ("a space before", format!(" {payload}")),
            ("a tab within", format!("{}\t{}", &payload[..8], &payload[8..])),
            ("NUL within", format!("{}\0{}", &payload[..8], &payload[8..])),
            ("a percent escape", format!("{}%41{}", &payload[..8], &payload[8..])),
            ("a question mark", format!("{}?{}", &payload[..8], &payload[8..])),
            ("a plus", format!("{}+{}", &payload[..8], &payload[9..])),
            ("a slash", format!("{}/{}", &payload[..8], &payload[9..])),
            ("a tilde", format!("{}~{}", &payload[..8], &payload[9..])),
            ("a comma", format!("{},{}", &payload[..8], &payload[9..])),
            ("a letter of another script", format!("{}а{}", &payload[..8], &payload[9..])),
        ] {
            // A comma is where Envoy joins two fields: it reads as two tokens before it reads as a bad one.
            let reasons = if what == "a comma" { &["malformed_token", "multiple_tokens"] } else { MALFORMED };
            corpus.refused(format!("{what} in the payload, signed"), &signed_text(&header, &changed), reasons);
        }
        if payload.len() % 4 != 0 {
            corpus.refused("spare bits in the payload, signed", &signed_text(&header, &variant(payload)), MALFORMED);
        }
    }
    assert!(
        payloads.iter().any(|payload| payload.len() % 4 == 2) && payloads.iter().any(|payload| payload.len() % 4 == 3)
    );
    for extra in ["", "x", "xx"] {
        let header = base64url(json!({"alg": "ES256", "kid": "ec", "x": extra}).to_string());
        for changed in [format!("{header}="), format!("{header}=="), format!("{header}A"), format!("{header}\n")] {
            corpus.refused("a header that is not canonical, signed", &signed_text(&changed, &payloads[0]), MALFORMED);
        }
        // The scheme may be followed by more than one space, which are not of the token then.
        corpus.refused(
            "a space before the header, signed",
            &signed_text(&format!(" {header}"), &payloads[0]),
            &["bad_signature"],
        );
        if !header.len().is_multiple_of(4) {
            corpus.refused(
                "spare bits in the header, signed",
                &signed_text(&variant(&header), &payloads[0]),
                MALFORMED,
            );
        }
    }
    // The other alphabet, where it makes a difference.
    let token = loop {
        let token = signed(claims_with(json!({"pad": "???>>>~~~"})).to_string());
        if segments(&token).iter().skip(1).all(|part| part.contains('-') || part.contains('_')) {
            break token;
        }
    };
    let [header, payload, signature] = segments(&token);
    let other = |text: &str| text.replace('-', "+").replace('_', "/");
    corpus.allowed("both special characters", &token);
    corpus.refused(
        "the other alphabet in the payload",
        &format!("{header}.{}.{signature}", other(&payload)),
        MALFORMED,
    );
    corpus.refused("the other alphabet in the payload, signed", &signed_text(&header, &other(&payload)), MALFORMED);
    corpus.refused(
        "the other alphabet in the signature",
        &format!("{header}.{payload}.{}", other(&signature)),
        MALFORMED,
    );
    for changed in [
        format!("{signature}="),
        format!("{signature}=="),
        format!("{signature}\n"),
        format!(" {signature}"),
        format!("{signature}%3D"),
        variant(&signature),
        signature[..85].to_owned(),
    ] {
        corpus.refused(format!("signature {changed:?}"), &format!("{header}.{payload}.{changed}"), MALFORMED);
    }
    // 86 characters and this one are the canonical form of 65 bytes.
    corpus.refused(
        "a character more in the signature",
        &format!("{header}.{payload}.{signature}A"),
        &["bad_signature"],
    );
    corpus.run("base64url").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_has_three_parts() {
    let mut corpus = Corpus::start().await;
    let [header, payload, signature] = segments(&good());
    let dots = ".".repeat(50_000);
    for (what, token) in [
        ("one dot", ".".to_owned()),
        ("two dots", "..".to_owned()),
        ("50,000 dots", dots.clone()),
        ("50,000 dots and a token", format!("{dots}{header}.{payload}.{signature}")),
        ("10,000 dots", ".".repeat(10_000)),
        ("a thousand parts", "AA.".repeat(1000)),
        ("a dot before", format!(".{header}.{payload}.{signature}")),
        ("a dot after", format!("{header}.{payload}.{signature}.")),
        ("a dot twice", format!("{header}..{payload}.{signature}")),
        ("four parts", format!("{header}.{payload}.{signature}.{signature}")),
        ("two parts", format!("{header}.{payload}")),
        ("no header", format!(".{payload}.{signature}")),
        ("no payload", format!("{header}..{signature}")),
        ("a percent-escaped dot", format!("{header}%2E{payload}.{signature}")),
        ("a dot of another script", format!("{header}。{payload}.{signature}")),
        ("quotes", format!("\"{header}.{payload}.{signature}\"")),
        ("angle brackets", format!("<{header}.{payload}.{signature}>")),
        ("a scheme once more", format!("Bearer {header}.{payload}.{signature}")),
        ("a space after", format!("{header}.{payload}.{signature} ")),
        ("a parameter", format!("{header}.{payload}.{signature};v=1")),
        ("over the limit", format!("{header}.{}.{signature}", "A".repeat(16_384))),
        ("far over the limit", "A".repeat(200_000)),
        ("no base64 at all", "opaque-token".to_owned()),
    ] {
        corpus.refused(what, &token, MALFORMED);
    }
    corpus.refused("no signature", &format!("{header}.{payload}."), &["bad_signature", "malformed_token"]);
    corpus.refused(
        "the claims of another",
        &format!("{header}.{}.{signature}", segments(&good())[1]),
        &["bad_signature"],
    );
    corpus.refused(
        "the signature of another",
        &format!("{header}.{payload}.{}", segments(&good())[2]),
        &["bad_signature"],
    );
    corpus.run("parts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_has_one_reading() {
    let mut corpus = Corpus::start().await;
    let claims = claims_with(json!({})).to_string();
    let inside = claims.trim_end_matches('}');
    let with = |members: &str| format!("{inside},{members}}}").into_bytes();
    let wrap = |before: &[u8], after: &[u8]| [before, claims.as_bytes(), after].concat();
    // Nesting is counted from the outermost object; the strict reading of "deeper than 32".
    let nested = |depth: usize| with(&format!("\"x\":{}{}", "[".repeat(depth - 1), "]".repeat(depth - 1)));
    let objects = |depth: usize| with(&format!("\"x\":{}1{}", "{\"a\":".repeat(depth - 1), "}".repeat(depth - 1)));
    let utf16: Vec<u8> = claims.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (what, payload) in [
        ("BOM", wrap(b"\xef\xbb\xbf", b"")),
        ("UTF-16", utf16.clone()),
        ("UTF-16 with BOM", [b"\xff\xfe".as_slice(), &utf16].concat()),
        ("NUL after", wrap(b"", b"\0")),
        ("NUL before", wrap(b"\0", b"")),
        ("garbage after", wrap(b"", b"x")),
        ("another object after", wrap(b"", b"{}")),
        ("the object twice", wrap(claims.as_bytes(), b"")),
        ("a comment", wrap(b"/* */", b"")),
        ("an anti-hijacking prefix", wrap(b")]}',\n", b"")),
        ("a form feed", wrap(b"\x0c", b"")),
        ("a no-break space", wrap("\u{a0}".as_bytes(), b"")),
        ("a trailing comma", format!("{inside},}}").into_bytes()),
        ("an unquoted name", with("x:1")),
        ("single quotes", with("'x':1")),
        ("a number with a leading zero", with("\"x\":01")),
        ("a number with a plus", with("\"x\":+1")),
        ("a hexadecimal number", with("\"x\":0x10")),
        ("a number that ends in a point", with("\"x\":1.")),
        ("a number that begins with a point", with("\"x\":.5")),
        ("NaN", with("\"x\":NaN")),
        ("Infinity", with("\"x\":-Infinity")),
        ("a number beyond all", with("\"x\":1e400")),
        ("a raw line end in a string", with("\"x\":\"a\nb\"")),
        ("a raw NUL in a string", with("\"x\":\"a\0b\"")),
        ("a raw control character in a name", with("\"x\u{1}\":1")),
        ("an unknown escape", with("\"x\":\"\\x41\"")),
        ("a lone high surrogate", with("\"x\":\"\\ud800\"")),
        ("a lone low surrogate", with("\"x\":\"\\udc00\"")),
        ("surrogates in the wrong order", with("\"x\":\"\\udc00\\ud800\"")),
        ("half a surrogate pair in a name", with("\"\\ud83d\":1")),
        ("True", with("\"x\":True")),
        ("two actors in one", with(r#""act":{"sub":"agent-7","sub":"x"}"#)),
        ("two actors before the actor", with(r#""act":{"sub":"x","act":{"sub":"agent-7"},"act":{"sub":"y"}}"#)),
        ("an actor that null replaces", with(r#""act":{"sub":"x","act":{"sub":"agent-7"},"\u0061ct":null}"#)),
        ("two keys in cnf", with(r#""cnf":{"jkt":"a","jkt":"b"}"#)),
        ("a member twice in a list", with(r#""authorization_details":[{"type":"pay","type":"look"}]"#)),
        ("33 arrays deep", nested(33)),
        ("33 objects deep", objects(33)),
        ("200 deep", nested(200)),
        ("5,000 arrays deep", nested(5000)),
        ("2,000 objects deep", objects(2000)),
        ("never closed", with(&format!("\"x\":{}", "[".repeat(5000)))),
        ("an empty text", Vec::new()),
        ("an array", format!("[{claims}]").into_bytes()),
        ("null", b"null".to_vec()),
        ("a string", b"\"x\"".to_vec()),
        ("a number", b"7".to_vec()),
        ("half an object", claims.as_bytes()[..claims.len() / 2].to_vec()),
        ("a form", b"sub=alice&exp=99999999999".to_vec()),
        ("XML", b"<claims/>".to_vec()),
    ] {
        corpus.refused(what, &signed(payload), MALFORMED);
    }
    for bytes in [
        &b"\xff"[..],
        b"\xfe",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\x80",
        b"\xe2\x82",
        b"\xed\xa0\x80",
        b"\xed\xb0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xc3(",
    ] {
        let text = [inside.as_bytes(), b",\"ignored\":\"", bytes, b"\"}"].concat();
        corpus.refused(format!("{bytes:x?} in an ignored string"), &signed(text), MALFORMED);
        let name = [inside.as_bytes(), b",\"", bytes, b"\":1}"].concat();
        corpus.refused(format!("{bytes:x?} in a name"), &signed(name), MALFORMED);
        let header = [&b"{\"alg\":\"ES256\",\"kid\":\"ec\",\"x\":\""[..], bytes, b"\"}"].concat();
        corpus.refused(
            format!("{bytes:x?} in the header"),
            &signed_text(&base64url(header), &base64url(&claims)),
            MALFORMED,
        );
    }
    for name in ["exp", "iat", "iss", "aud", "sub", "jti", "sid", "email", "azp"] {
        let value = serde_json::from_str::<Value>(&claims).unwrap()[name].clone();
        corpus.refused(format!("{name} twice, alike"), &signed(with(&format!("\"{name}\":{value}"))), MALFORMED);
        corpus.refused(format!("{name} twice"), &signed(with(&format!("\"{name}\":\"root\""))), MALFORMED);
        let escaped = format!("\\u{:04x}{}", u32::from(name.as_bytes()[0]), &name[1..]);
        corpus.refused(
            format!("{name} twice, once in escapes"),
            &signed(with(&format!("\"{escaped}\":{value}"))),
            MALFORMED,
        );
    }
    corpus.refused("an ignored member twice", &signed(with("\"x\":1,\"x\":1")), MALFORMED);
    corpus.refused("an empty object", &signed("{}"), &["missing_claim"]);
    for (what, payload) in [
        ("white space around", wrap(b" \n\t\r", b" \n")),
        ("32 arrays deep", nested(32)),
        ("32 objects deep", objects(32)),
        ("brackets in a string", with(&format!("\"x\":\"{}\"", "[{".repeat(200)))),
        ("quotes and backslashes in a string", with("\"x\":\"\\\\\\\"[[[[\\\\\"")),
        ("a thousand members", with(&(0..800).map(|n| format!("\"m{n}\":{n}")).collect::<Vec<_>>().join(","))),
        ("names that differ by case", with("\"Exp\":0,\"EXP\":\"x\",\"Sub\":\"root\"")),
        ("an empty name", with("\"\":1")),
        ("a surrogate pair", with("\"x\":\"\\ud83d\\ude00\"")),
        ("NUL in escapes, ignored", with("\"x\":\"\\u0000\"")),
        ("other scripts", with("\"имя\":\"значение\"")),
        (
            "escapes in names and values",
            claims.replace("\"sub\":\"alice\"", "\"s\\u0075b\":\"al\\u0069ce\"").into_bytes(),
        ),
        ("a slash in escapes", claims.replace("https://", "https:\\/\\/").into_bytes()),
    ] {
        corpus.ask(what, get("/").token(&signed(payload)), Expected::Allowed);
    }
    corpus.run("JSON").await;
}
