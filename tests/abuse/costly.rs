//! Requests and tokens that are as large as they may be and shaped to cost as much as they can.
//!
//! No input may cost much more than in proportion to its bytes: quadratic work would take seconds here.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::doorward::{Doorward, run};
use crate::support::grpc::{Ask, Checks, get};
use crate::support::tokens::Tokens;

/// Generous for a busy machine without optimisation; quadratic work on 60 KB takes longer.
const LONGEST: Duration = Duration::from_millis(1500);

const KEY: &str = "a-key-0123456789abcdef";
const CONFIG: &str = r#"
token: {from: [{header: authorization, scheme: Bearer}, {cookie: session}, {query: access_token}]}
rules:
  - {name: files, match: {path_regex: "/files/([a-z]+/)*x+y?"}, access: public}
  - {name: any, match: {path_regex: "/(.*/)*(.*)\\.(css|js)"}, access: public}
  - {name: host, match: {path_prefix: /app, hosts: ["*.shop.example.com"]}, access: public}
  - {name: partner, match: {path_prefix: /partner}, api_key: required}
"#;

fn tokens_of_every_shape(tokens: &Tokens) -> Vec<(String, Ask)> {
    let text = Tokens::claims("alice").to_string();
    let (start, end) = text.split_at(text.len() - 1);
    let header = json!({"alg": "ES256", "kid": tokens.issuer.key_id()}).to_string();
    let sign = |header: &str, claims: &str| tokens.issuer.sign_raw(header, claims.as_bytes()).unwrap();
    let with = |more: &str| sign(&header, &format!("{start},{more}{end}"));
    let many = |item: &str, room: usize| vec![item; room / (item.len() + 1)].join(",");
    let room = 11_000; // Payloads of 16 KB, in base64url.
    let members: Vec<_> = (0..room / 10).map(|n| format!("\"{n:x}\":{}", n % 10)).collect();
    [
        ("a number with many digits", format!("\"x\":{}", "9".repeat(room))),
        ("a fraction with many digits", format!("\"x\":0.{}1", "0".repeat(room))),
        ("a number that is nearly another", format!("\"x\":9007199254740993.{}1", "0".repeat(room))),
        ("a number with a large exponent", format!("\"x\":{}e-5000", "7".repeat(room))),
        ("exponents", format!("\"x\":[{}]", many("1e999999", room))),
        ("exponents of nothing", format!("\"x\":[{}]", many("0e999999999", room))),
        ("hard fractions", format!("\"x\":[{}]", many("2.2250738585072011e-308", room))),
        ("long hard fractions", format!("\"x\":[{}]", many(&format!("6.{}e-310", "25".repeat(380)), room))),
        ("zeros", format!("\"x\":[{}]", many("0", room))),
        ("members", members.join(",")),
        ("one member, many times", many("\"x\":1", room)),
        ("objects", format!("\"x\":[{}]", many("{\"a\":{}}", room))),
        ("depth", format!("\"x\":{}{}", "[".repeat(room / 2), "]".repeat(room / 2))),
        (
            "depth within bounds, often",
            format!("\"x\":[{}]", many(&format!("{}{}", "[".repeat(30), "]".repeat(30)), room)),
        ),
        ("escapes", format!("\"x\":\"{}\"", "\\u0041".repeat(room / 6))),
        ("backslashes", format!("\"x\":\"{}\"", "\\\\".repeat(room / 2))),
        ("quotes that do not end", format!("\"x\":\"{}", "\\\"".repeat(room / 2))),
        ("audiences", format!("\"aud\":[{}]", many("\"a\"", room))),
        ("scopes", format!("\"scope\":\"{}\"", "a ".repeat(room / 2))),
        ("a scope list", format!("\"scope\":[{}]", many("\"a\"", room))),
        ("a long sid", format!("\"sid2\":\"{}\"", "s".repeat(room))),
    ]
    .into_iter()
    .map(|(what, more)| (format!("token: {what}"), get("/").token(&with(&more))))
    .chain([
        (
            "token: a long kid".to_owned(),
            get("/").token(&sign(&json!({"alg": "ES256", "kid": "k".repeat(room)}).to_string(), &text)),
        ),
        (
            "token: a long typ".to_owned(),
            get("/").token(&sign(&json!({"alg": "ES256", "typ": "T".repeat(room)}).to_string(), &text)),
        ),
        ("token: dots".to_owned(), get("/").token(&".".repeat(16_000))),
        ("token: 50,000 dots".to_owned(), get("/").token(&".".repeat(50_000))),
        ("token: signs behind".to_owned(), get("/").token(&format!("a.b.c{}", "=".repeat(16_000)))),
    ])
    .collect()
}

fn requests_of_every_shape(good: &str) -> Vec<(String, Ask)> {
    let size = 60_000;
    let fill = |item: &str| item.repeat(size / item.len());
    let crowd = (0..990).fold(get("/"), |ask, n| ask.header(&format!("x-{n}"), "v".repeat(500)));
    let alike = (0..990).fold(get("/"), |ask, _| ask.header("Authorization", format!("Bearer {good}")));
    [
        ("fields", crowd),
        ("authorization fields", alike.raw()),
        ("commas", get("/").header("authorization", fill("Bearer,"))),
        ("schemes", get("/").header("authorization", format!("Basic {}", fill(",Bearer x")))),
        ("spaces", get("/").header("authorization", format!("Bearer{}", fill(" ")))),
        ("cookies", get("/").header("cookie", fill("session=x;"))),
        ("odd cookies", get("/").header("cookie", fill("session =;"))),
        ("semicolons", get("/").header("cookie", fill(";"))),
        ("a long name of a cookie", get("/").header("cookie", fill("a"))),
        ("parameters", get(&format!("/?{}", fill("access_token=x&")))),
        ("escaped parameters", get(&format!("/?{}", fill("%61ccess_token=x&")))),
        ("escapes", get(&format!("/?{}", fill("%61")))),
        ("ampersands", get(&format!("/?{}", fill("&")))),
        ("a long path", get(&format!("/{}", fill("a")))),
        ("segments", get(&fill("/a"))),
        ("capitals", get(&fill("/A"))),
        ("capitals and escapes", get(&fill("/A%C3%89"))),
        ("capitals that grow", get(&fill("/%EF%AC%83"))),
        ("slashes", get(&fill("/"))),
        ("dots", get(&fill("/.."))),
        ("a path for the regex", get(&format!("/files{}", fill("/aaaa")))),
        ("a path for the other regex", get(&fill("/a.css/"))),
        ("an odd path as long as is read", get(&"/a;/..%252e/\\A%2f"[..].repeat(128)[..2040])),
        ("layers of escapes", get(&format!("/{}", "%25".repeat(600)))),
        ("dots in the host", get("/app").host(&fill("a."))),
        ("at signs in the host", get("/app").host(&fill("@"))),
        ("colons in the host", get("/app").host(&fill(":1"))),
        ("a deep origin", get("/partner").header("x-api-key", KEY).header("origin", format!("https://{}", fill("a.")))),
        ("a long API key", get("/partner").header("x-api-key", fill("k"))),
        ("a long method", get("/").header("x", "y").rule(&fill("r"))),
        ("dashes in traceparent", get("/").header("traceparent", fill("-"))),
    ]
    .into_iter()
    .map(|(what, ask)| (format!("request: {what}"), ask))
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_costs_more_than_its_bytes() {
    let tokens = Tokens::new();
    let (_, digest, _) = run(&["hash-key"], KEY);
    let digest = digest.trim();
    let keys = format!("api_keys: {{keys: [{{id: shop, {digest}, domains: [\"*.shop.example.com\"]}}]}}\n");
    let doorward = Doorward::start(&tokens.config(&format!("{CONFIG}{keys}"))).await;
    let checks = Checks::connect(&doorward.check).await;
    let good = tokens.of("alice");
    assert!(checks.check(get("/").token(&good)).await.allowed());
    let mut figures = Vec::new();
    for (what, ask) in tokens_of_every_shape(&tokens).into_iter().chain(requests_of_every_shape(&good)) {
        let mut fastest = Duration::MAX;
        for _ in 0..3 {
            let asked = Instant::now();
            let verdict = checks.check(ask.clone()).await;
            fastest = fastest.min(asked.elapsed());
            assert!(!matches!(verdict.reason(), "internal_error" | ""), "{what}: {verdict:?}");
        }
        figures.push((fastest, what));
    }
    figures.sort();
    for (took, what) in figures.iter().rev().take(8) {
        eprintln!("abuse: costly: {took:>8.1?} {what}");
    }
    eprintln!("abuse: costly: {} shapes, median {:.1?}", figures.len(), figures[figures.len() / 2].0);
    let (longest, what) = figures.last().unwrap();
    assert!(*longest < LONGEST, "{what}: {longest:?}");
}
