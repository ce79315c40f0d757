//! Tricks in the JOSE header.

use serde_json::json;

use super::forge::base64url;
use super::{Corpus, EC_HEADER, Expected, KEYS, good, headed, right_claims, signed};
use crate::support::grpc::get;

const MALFORMED: &[&str] = &["malformed_token"];

#[tokio::test(flavor = "multi_thread")]
async fn extensions_are_refused_and_keys_of_tokens_ignored() {
    let mut corpus = Corpus::start().await;
    let more = |members: &str| headed(&EC_HEADER.replace('}', &format!(",{members}}}")));
    for members in [
        r#""crit":[]"#,
        r#""crit":["exp"],"exp":1"#,
        r#""crit":["b64"],"b64":true"#,
        r#""crit":["b64"],"b64":false"#,
        r#""crit":["x"],"x":1"#,
        r#""crit":["alg"]"#,
        r#""crit":["kid"]"#,
        r#""crit":null"#,
        r#""crit":"exp""#,
        r#""crit":{}"#,
        r#""crit":false"#,
        r#""crit":0"#,
        r#""crit":[""]"#,
        r#""crit":["http://openid.net/specs/x"]"#,
        r#""crit":["crit"]"#,
        r#""\u0063rit":["x"]"#,
        r#""b64":false"#,
        r#""b64":true"#,
        r#""b64":null"#,
        r#""b64":"true""#,
        r#""b64":0"#,
        r#""b64":[]"#,
        r#""zip":"DEF""#,
        r#""zip":"GZIP""#,
        r#""zip":"""#,
        r#""zip":null"#,
        r#""enc":"A128GCM""#,
        r#""enc":"none""#,
        r#""enc":null"#,
        r#""cty":"JWT""#,
        r#""cty":"jwt""#,
        r#""cty":"application/jwt""#,
        r#""cty":7"#,
        r#""cty":null"#,
    ] {
        corpus.refused(format!("header with {members}"), &more(members), MALFORMED);
    }
    // Keys in a token have no effect: valid tokens stay valid, and those of an untrusted key stay
    // refused.
    let own = KEYS.stranger.jwk(json!({"kid": "ec", "alg": "ES256", "use": "sig"}));
    let oct = json!({"kty": "oct", "k": base64url("secret")});
    for members in [
        format!(r#""jwk":{own}"#),
        format!(r#""jwk":{oct}"#),
        r#""jwk":{}"#.to_owned(),
        r#""jwk":null"#.to_owned(),
        r#""jwk":"x""#.to_owned(),
        r#""jku":"https://evil.example/jwks""#.to_owned(),
        r#""jku":"http://127.0.0.1:1/jwks""#.to_owned(),
        r#""jku":"file:///etc/passwd""#.to_owned(),
        r#""jku":7"#.to_owned(),
        r#""x5u":"https://evil.example/cert""#.to_owned(),
        r#""x5c":["MIIB"]"#.to_owned(),
        r#""x5c":[]"#.to_owned(),
        r#""x5t":"AAAA","x5t#S256":"AAAA""#.to_owned(),
        r#""unknown":{"a":[1,null,"x"]}"#.to_owned(),
        r#""__proto__":{"alg":"none"}"#.to_owned(),
        r#""cty":"json""#.to_owned(),
        format!(r#""jwk":{own},"jku":"https://evil.example","x5u":"https://evil.example","x5c":["MIIB"]"#),
    ] {
        corpus.allowed(format!("a good token with {members}"), &more(&members));
        for kid in ["", r#","kid":"ec""#] {
            let header = format!(r#"{{"alg":"ES256"{kid},{members}}}"#);
            corpus.refused(
                format!("a stranger's token with {header}"),
                &KEYS.stranger.token("ES256", &header, &right_claims()),
                &["bad_signature"],
            );
        }
        let header = format!(r#"{{"alg":"HS256","kid":"ec",{members}}}"#);
        let token = super::forge::Key::Secret(b"secret".to_vec()).token("HS256", &header, &right_claims());
        corpus.refused(format!("HS256 with {members}"), &token, &["algorithm_not_allowed"]);
    }
    corpus.run("header extensions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn key_ids_are_names_and_nothing_else() {
    let mut corpus = Corpus::start().await;
    let long = "k".repeat(10_000);
    for kid in [
        "",
        " ",
        "ec ",
        " ec",
        "EC",
        "Ec",
        "ec\\u0000",
        "\\u0000",
        "ec\\n",
        "ec\\r\\nx: y",
        "\\u001b[31m",
        "e\\u0301c",
        "ｅc",
        "ec,rsa",
        "*",
        "%",
        "ec%00",
        "%65%63",
        "../ec",
        "./ec",
        "../../../../../../dev/null",
        "/dev/null",
        "/proc/self/environ",
        "..\\\\..\\\\ec",
        "file:///dev/null",
        "jwks.json",
        "' OR '1'='1",
        "x' UNION SELECT 'AAAA' --",
        "ec'; DROP TABLE keys; --",
        "${jndi:ldap://127.0.0.1/x}",
        "{{7*7}}",
        "$(id)",
        "`id`",
        "| id",
        "ec\\\" or \\\"",
        "<script>",
        "__proto__",
        "constructor",
        "toString",
        "0",
        "null",
        "undefined",
        "none",
        "http://127.0.0.1/key",
        "\\u202ece",
        "key:main:ec",
        "doorward:{r}:main:key:ec",
        "a:b:c",
        "sha256:00",
        "😀",
        long.as_str(),
    ] {
        let shown: String = kid.chars().take(40).collect();
        corpus.refused(
            format!("kid {shown:?}"),
            &headed(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#)),
            &["unknown_key"],
        );
    }
    for kid in ["null", "0", "1", "1.5", "true", "false", "[]", r#"["ec"]"#, "{}", r#"{"kid":"ec"}"#, "-0", "1e3"] {
        corpus.refused(format!("kid {kid}"), &headed(&format!(r#"{{"alg":"ES256","kid":{kid}}}"#)), MALFORMED);
    }
    corpus.allowed("kid in escapes", &headed(r#"{"alg":"ES256","kid":"\u0065c"}"#));
    corpus.allowed("no kid", &headed(r#"{"alg":"ES256"}"#));
    corpus.run("key ids").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_kinds_of_tokens_are_not_access_tokens() {
    let mut corpus = Corpus::start().await;
    for typ in [
        "JWT",
        "jwt",
        "Jwt",
        "at+jwt",
        "AT+JWT",
        "application/at+jwt",
        "application/jwt",
        "Application/JWT",
        "APPLICATION/AT+JWT",
    ] {
        corpus.allowed(format!("typ {typ}"), &headed(&format!(r#"{{"alg":"ES256","kid":"ec","typ":"{typ}"}}"#)));
    }
    for typ in [
        "logout+jwt",
        "LOGOUT+JWT",
        "application/logout+jwt",
        "secevent+jwt",
        "application/secevent+jwt",
        "dpop+jwt",
        "id+jwt",
        "id_token+jwt",
        "refresh+jwt",
        "rt+jwt",
        "JWS",
        "JOSE",
        "JOSE+JSON",
        "JWE",
        "oauth-authz-req+jwt",
        "token-introspection+jwt",
        "client-authentication+jwt",
        "entity-statement+jwt",
        "kb+jwt",
        "dc+sd-jwt",
        "vc+jwt",
        "passport",
        "webpush",
        "",
        " ",
        "JWT ",
        " JWT",
        "at+jwt;v=1",
        "at+jwt, JWT",
        "application/",
        "application/application/jwt",
        "text/jwt",
        "at-jwt",
        "at+jwt\\u0000",
        "at%2Bjwt",
        "x/at+jwt",
        "none",
    ] {
        corpus.refused(
            format!("typ {typ:?}"),
            &headed(&format!(r#"{{"alg":"ES256","kid":"ec","typ":"{typ}"}}"#)),
            &["wrong_type"],
        );
    }
    for typ in ["null", "1", "true", "[]", r#"["at+jwt"]"#, "{}"] {
        corpus.refused(
            format!("typ {typ}"),
            &headed(&format!(r#"{{"alg":"ES256","kid":"ec","typ":{typ}}}"#)),
            &["malformed_token", "wrong_type"],
        );
    }
    corpus.run("types").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_serialization_is_read() {
    let mut corpus = Corpus::start().await;
    let [header, payload, signature] = super::segments(&good());
    let flattened = json!({"payload": payload, "protected": header, "signature": signature}).to_string();
    let general =
        json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]}).to_string();
    for (what, text) in [("flattened", &flattened), ("general", &general)] {
        corpus.refused(format!("JSON serialization, {what}"), text, MALFORMED);
        corpus.refused(format!("JSON serialization, {what}, in base64url"), &base64url(text), MALFORMED);
        corpus.refused(format!("JSON serialization, {what}, as the payload"), &signed(text), &["missing_claim"]);
    }
    let inner = good();
    corpus.refused("a token as the payload", &signed(&inner), MALFORMED);
    corpus.refused("a token as a JSON string", &signed(format!("\"{inner}\"")), MALFORMED);
    let nested = KEYS.ec.token("ES256", r#"{"alg":"ES256","kid":"ec","cty":"JWT"}"#, inner.as_bytes());
    corpus.refused("a nested token", &nested, MALFORMED);
    let jwe = base64url(r#"{"alg":"dir","enc":"A128GCM","kid":"ec"}"#);
    corpus.refused("a JWE", &format!("{jwe}..AAAA.AAAA.AAAA"), MALFORMED);
    corpus.refused("a JWE with an encrypted key", &format!("{jwe}.AAAA.AAAA.AAAA.AAAA"), MALFORMED);
    corpus.refused("a JWE's header on a JWS", &format!("{jwe}.{payload}.{signature}"), MALFORMED);
    corpus.refused(
        "a JWE of a token's parts",
        &format!("{header}.{payload}.{signature}.{payload}.{signature}"),
        MALFORMED,
    );
    corpus.refused("detached content", &format!("{header}..{signature}"), MALFORMED);
    corpus.refused("a disclosure (SD-JWT)", &format!("{}~", good()), MALFORMED);
    corpus.refused("a disclosure more (SD-JWT)", &format!("{}~{payload}~", good()), MALFORMED);
    for text in [
        "[]",
        "\"x\"",
        "7",
        "null",
        "true",
        "",
        "{",
        "{}}",
        "{\"alg\":\"ES256\",}",
        "{'alg':'ES256'}",
        "{alg:\"ES256\"}",
        "\u{feff}{\"alg\":\"ES256\"}",
        "{\"alg\":\"ES256\"}x",
        "{\"alg\":\"ES256\"}{}",
        "{\"alg\":\"ES256\"}\0",
        "/**/{\"alg\":\"ES256\"}",
        "alg=ES256",
        "{\"alg\":\"ES256\",\"x\":01}",
        "{\"alg\":\"ES256\",\"x\":NaN}",
        "{\"alg\":\"ES256\",\"x\":1e400}",
        "{\"alg\":\"ES256\",\"x\":\"\\ud800\"}",
        "{\"alg\":\"ES256\",\"x\":\"\n\"}",
    ] {
        corpus.refused(format!("header {text:?}"), &headed(text), MALFORMED);
    }
    for text in [
        r#"{"alg":"ES256","alg":"ES256","kid":"ec"}"#,
        r#"{"alg":"none","alg":"ES256","kid":"ec"}"#,
        r#"{"alg":"ES256","\u0061lg":"none","kid":"ec"}"#,
        r#"{"alg":"ES256","kid":"ec","kid":"ec"}"#,
        r#"{"alg":"ES256","kid":"x","kid":"ec"}"#,
        r#"{"alg":"ES256","kid":"ec","typ":"JWT","typ":"logout+jwt"}"#,
        r#"{"alg":"ES256","kid":"ec","x":1,"x":1}"#,
        r#"{"alg":"ES256","kid":"ec","":1,"":2}"#,
    ] {
        corpus.refused(format!("duplicates in {text}"), &headed(text), MALFORMED);
    }
    corpus.ask(
        "white space in the header's JSON",
        get("/").token(&headed(" {\n\t\"alg\" : \"ES256\" , \"kid\" : \"ec\" }\r\n")),
        Expected::Allowed,
    );
    corpus.run("serializations").await;
}
