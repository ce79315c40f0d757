//! The Authorization header in every variant.

use super::{Corpus, Expected, good};
use crate::support::grpc::{Ask, get};

const MISSING: &[&str] = &["missing_token"];
const MULTIPLE: &[&str] = &["multiple_tokens"];
/// Not a bearer token: it may be refused as missing or as malformed.
const NONE_OR_BAD: &[&str] = &["missing_token", "malformed_token"];

fn field(value: impl AsRef<[u8]>) -> [(&'static str, Ask); 2] {
    [
        ("joined", get("/").header("authorization", value.as_ref())),
        ("raw", get("/").header("authorization", value.as_ref()).raw()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_field_one_scheme_one_token() {
    let mut corpus = Corpus::start().await;
    let (token, other) = (good(), good());
    let mut refused = |what: String, value: Vec<u8>, reasons| {
        for (form, ask) in field(&value) {
            corpus.ask(format!("{what}, {form}"), ask, Expected::Refused(reasons));
        }
    };
    for scheme in [
        "Basic",
        "Digest",
        "Negotiate",
        "Token",
        "JWT",
        "ApiKey",
        "Bearer2",
        "BearerX",
        "XBearer",
        "Bear",
        "B",
        "Bearer:",
        "Bearer=",
        "\"Bearer\"",
        "Bеarer",
    ] {
        refused(format!("scheme {scheme}"), format!("{scheme} {token}").into_bytes(), MISSING);
    }
    // RFC 9449 section 7.1: a token behind it is bound, or not of this scheme.
    refused("scheme DPoP".to_owned(), format!("DPoP {token}").into_bytes(), &["proof_invalid"]);
    refused("no field value".to_owned(), Vec::new(), MISSING);
    refused("a token without a scheme".to_owned(), token.clone().into_bytes(), MISSING);
    for (what, value) in [
        ("the scheme alone", "Bearer".to_owned()),
        ("the scheme and a space", "Bearer ".to_owned()),
        ("the scheme and spaces", "Bearer     ".to_owned()),
        ("a tab for the space", format!("Bearer\t{token}")),
        ("a tab after the space", format!("Bearer \t{token}")),
        ("a tab after the token", format!("Bearer {token}\t")),
        ("a space after the token", format!("Bearer {token} ")),
        ("a space before the scheme", format!(" Bearer {token}")),
        ("a tab before the scheme", format!("\tBearer {token}")),
        ("a vertical tab for the space", format!("Bearer\u{b}{token}")),
        ("a no-break space", format!("Bearer\u{a0}{token}")),
        ("an em space", format!("Bearer\u{2003}{token}")),
        ("no space", format!("Bearer{token}")),
        ("a colon", format!("Bearer: {token}")),
        ("an equals sign", format!("Bearer={token}")),
        ("a parameter", format!("Bearer token={token}")),
        ("a parameter in quotes", format!("Bearer token=\"{token}\"")),
        ("a parameter behind", format!("Bearer {token}; charset=utf-8")),
        ("quotes", format!("Bearer \"{token}\"")),
        ("the scheme twice", format!("Bearer Bearer {token}")),
        ("the scheme twice, glued", format!("BearerBearer {token}")),
        ("two tokens with a space", format!("Bearer {token} {other}")),
        ("the same token twice with a space", format!("Bearer {token} {token}")),
        ("a line end", format!("Bearer {token}\n")),
        ("a folded line", format!("Bearer\r\n {token}")),
        ("an injected field", format!("Bearer {token}\r\nx-user-id: root")),
        ("NUL", format!("Bearer {token}\0")),
        ("NUL for the space", format!("Bearer\0{token}")),
        ("a percent escape", format!("Bearer%20{token}")),
        ("a word", "Bearer null".to_owned()),
        ("another word", "Bearer undefined".to_owned()),
        ("a template", "Bearer {{token}}".to_owned()),
        ("base64 of it all", super::base64url(format!("Bearer {token}"))),
        ("a token of other scripts", "Bearer токен".to_owned()),
        ("an ellipsis in it", format!("Bearer {token}…")),
    ] {
        refused(what.to_owned(), value.into_bytes(), NONE_OR_BAD);
    }
    for bytes in [&b"\xff"[..], b"\x80", b"\xc0\x80", b"\xe2\x80\x8b", b"\xef\xbb\xbf"] {
        refused(format!("{bytes:x?} after the token"), [b"Bearer ", token.as_bytes(), bytes].concat(), NONE_OR_BAD);
        refused(format!("{bytes:x?} before the token"), [b"Bearer ", bytes, token.as_bytes()].concat(), NONE_OR_BAD);
        refused(format!("{bytes:x?} in the scheme"), [b"Bear", bytes, b"er ", token.as_bytes()].concat(), NONE_OR_BAD);
    }
    for (what, value) in [
        ("two fields, joined", format!("Bearer {token},Bearer {other}")),
        ("two fields, joined with a space", format!("Bearer {token}, Bearer {other}")),
        ("the same field twice", format!("Bearer {token},Bearer {token}")),
        ("three fields", format!("Bearer {token},Bearer {other},Bearer {token}")),
        ("another scheme behind", format!("Bearer {token},Basic YTpi")),
        ("another scheme before", format!("Basic YTpi,Bearer {token}")),
        ("another scheme before, with a space", format!("Basic YTpi, bEaReR {token}")),
        ("another scheme before, with a tab", format!("Basic YTpi,\tBearer {token}")),
        ("a challenge-like scheme before", format!("Digest a=\"b\", c=\"d\", Bearer {token}")),
    ] {
        refused(what.to_owned(), value.into_bytes(), MULTIPLE);
    }
    for (what, value) in [
        ("an empty field before", format!(",Bearer {token}")),
        ("an empty field behind", format!("Bearer {token},")),
        ("a scheme without a token before", format!("Bearer,Bearer {token}")),
        ("a scheme without a token behind", format!("Bearer {token},Bearer")),
        ("a bare token behind", format!("Bearer {token},{other}")),
        ("a bare token before", format!("{token},Bearer {other}")),
        ("a semicolon between", format!("Bearer {token};Bearer {other}")),
        ("a comma between schemes", format!("Bearer, {token}")),
    ] {
        refused(what.to_owned(), value.into_bytes(), &["multiple_tokens", "malformed_token", "missing_token"]);
    }
    for value in [
        format!("Bearer {token}"),
        format!("bearer {token}"),
        format!("BEARER {token}"),
        format!("bEaReR {token}"),
        format!("Bearer  {token}"),
        format!("Bearer       {token}"),
    ] {
        for (form, ask) in field(&value) {
            corpus.ask(format!("{:?}, {form}", &value[..12]), ask, Expected::Allowed);
        }
    }
    corpus.run("authorization").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_fields_are_refused_in_every_form() {
    let mut corpus = Corpus::start().await;
    let (token, other) = (good(), good());
    let bearer = |token: &str| format!("Bearer {token}");
    for (what, first, second) in [
        ("two tokens", bearer(&token), bearer(&other)),
        ("one token twice", bearer(&token), bearer(&token)),
        ("a bad one second", bearer(&token), bearer("x")),
        ("a bad one first", bearer("x"), bearer(&token)),
        ("another scheme second", bearer(&token), "Basic YTpi".to_owned()),
        ("another scheme first", "Basic YTpi".to_owned(), bearer(&token)),
    ] {
        let two = || get("/").header("authorization", &first).header("authorization", &second);
        corpus.ask(format!("{what}, joined"), two(), Expected::Refused(MULTIPLE));
        corpus.ask(format!("{what}, raw"), two().raw(), Expected::Refused(MULTIPLE));
        let cased = || get("/").header("authorization", &first).header("Authorization", &second);
        corpus.ask(format!("{what}, in two cases, joined"), cased(), Expected::Refused(MULTIPLE));
        corpus.ask(format!("{what}, in two cases, raw"), cased().raw(), Expected::Refused(MULTIPLE));
    }
    for (what, first, second) in
        [("an empty one second", bearer(&token), String::new()), ("an empty one first", String::new(), bearer(&token))]
    {
        let two = || get("/").header("authorization", &first).header("authorization", &second);
        corpus.ask(
            format!("{what}, joined"),
            two(),
            Expected::Refused(&["multiple_tokens", "malformed_token", "missing_token"]),
        );
        corpus.ask(format!("{what}, raw"), two().raw(), Expected::Refused(MULTIPLE));
    }
    // Look-alikes of the header do not count as the header; neither do a proxy's additions.
    for name in [
        "authorization_",
        "x-authorization",
        "proxy-authorization",
        "author ization",
        "authorizatiоn",
        "x-forwarded-authorization",
        "cookie",
        "x-access-token",
        "token",
    ] {
        corpus.ask(format!("a token in {name:?}"), get("/").header(name, bearer(&token)), Expected::Refused(MISSING));
    }
    for path in ["/?access_token=", "/?token=", "/?authorization=Bearer%20", "/#access_token="] {
        corpus.ask(format!("a token in {path}"), get(&format!("{path}{token}")), Expected::Refused(MISSING));
    }
    // Where a token is optional, a present token must be valid: no variant counts as absent.
    for (what, value) in [
        ("a bad token", bearer("x")),
        ("a tab for the space", format!("Bearer\t{token}")),
        ("a space before", format!(" Bearer {token}")),
        ("a tab before", format!("\tBearer {token}")),
        ("an empty field before", format!(",Bearer {token}")),
        ("two tokens", format!("{},{}", bearer(&token), bearer(&other))),
        ("hidden behind another scheme", format!("Basic YTpi,Bearer {token}")),
        ("a no-break space", format!("Bearer\u{a0}{token}")),
        ("no-break spaces around", format!("\u{a0}Bearer {token}")),
        ("a colon", format!("Bearer:{token}")),
    ] {
        for form in
            [get("/optional").header("authorization", &value), get("/optional").header("authorization", &value).raw()]
        {
            // None of these variants is silently anonymous, except other schemes by RFC 9110.
            let other_scheme = matches!(what, "a no-break space" | "no-break spaces around" | "a colon");
            let expected = if other_scheme {
                Expected::Allowed
            } else {
                Expected::Refused(&["malformed_token", "multiple_tokens"])
            };
            corpus.ask(format!("optional: {what}"), form, expected);
        }
    }
    corpus.run("authorization fields").await;
}
