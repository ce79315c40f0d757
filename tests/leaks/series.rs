//! Lines of the log are objects, and no value of a client makes a series.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward::api::{Query, decide};
use doorward::authz::answer::Responder;
use doorward::authz::authorizer::Decision;
use doorward::authz::rule::RequestView;
use doorward::config::Config;
use doorward::engine::assemble;
use doorward::metrics::Reading;
use serde_json::{Value, json};

use super::lines_are_objects;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, ask, get};
use crate::support::tokens::{Tokens, now};

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_are_objects_and_no_client_makes_a_series() {
    let tokens = Tokens::new();
    let more = "telemetry: {log: {level: debug, decisions: all}}\nrules:\n  - {name: public, match: {path_prefix: /public}, access: public}\n  - {name: shadow, match: {path_prefix: /shadow}, enforce: false}\n";
    let doorward = Doorward::start(&tokens.config(more)).await;
    let checks = Checks::connect(&doorward.check).await;
    let series = async || {
        let (_, text) = doorward.get("/metrics").await;
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let stranger = Tokens::new();
    let asks = |n: usize| {
        let odd = format!("x{n}\r\n{{\"level\":\"ERROR\",\"message\":\"forged {n}\"}}\u{1b}[31m");
        let kid = json!({"alg": "ES256", "kid": format!("kid-{n}{odd}")}).to_string();
        let payload = Tokens::claims(&format!("user-{n}")).to_string();
        [
            get("/").token(&stranger.issuer.sign_raw(&kid, payload.as_bytes()).unwrap()),
            get("/").token(&tokens.of(&format!("user-{n}"))),
            get("/").token(&tokens.with(json!({"iss": format!("https://issuer-{n}.test{odd}")}))),
            get(&format!("/public/{n}")),
            get(&format!("/shadow/{n}/{odd}")),
            ask(&format!("METHOD-{n}{odd}"), "/").host(&format!("host-{n}.test{odd}")),
            get("/").rule(&format!("rule-{n}{odd}")),
            get("/")
                .header(&format!("x-header-{n}"), &odd)
                .header("x-request-id", &odd)
                .header("traceparent", format!("00-{odd}-01")),
        ]
    };
    for ask in asks(0) {
        checks.check(ask).await;
    }
    let before = series().await;
    for n in 1..=700 {
        for ask in asks(n) {
            checks.check(ask).await;
        }
    }
    assert_eq!(series().await, before, "5,600 distinct requests made no new series");
    let decided = || doorward.log.lock().unwrap().iter().filter(|line| line.contains("\"decided\"")).count();
    eventually("each decision is logged", || async { decided() >= 701 * 8 }).await;
    let lines = doorward.log.lock().unwrap().clone();
    lines_are_objects(&lines);
    let (mut rest, mut details) = (Vec::new(), Vec::new());
    for line in &lines {
        let mut line: Value = serde_json::from_str(line).unwrap();
        details.extend(line.as_object_mut().unwrap().remove("detail"));
        rest.push(line.to_string());
    }
    for text in ["forged", "METHOD-", "host-", "issuer-", "kid-", "user-", "rule-", "x-header"] {
        assert!(!rest.iter().any(|line| line.contains(text)), "{text} in the log");
    }
    // Only there claims of a token appear, to explain its refusal: cut, and without control characters.
    assert!(details.len() >= 701 * 2, "a stranger's key and an unknown issuer are told: {}", details.len());
    for detail in details.iter().map(|detail| detail.as_str().unwrap()) {
        assert!(detail.len() < 600 && !detail.contains(char::is_control), "{detail:?}");
        for text in ["METHOD-", "host-", "user-", "x-header"] {
            assert!(!detail.contains(text), "{text} in {detail:?}");
        }
    }
    assert_eq!(decided(), 701 * 8, "one line for each decision");
}

/// 50,000 values of everything that a client can choose, for the decision that all front ends share.
#[tokio::test]
async fn fifty_thousand_of_anything_make_no_series() {
    const MANY: usize = 50_000;
    let tokens = Tokens::new();
    let rules = "rules:\n  - {name: public, match: {path_prefix: /public}, access: public}\n  - {name: shadow, match: {path_prefix: /shadow}, enforce: false}\n";
    let parsed = Config::parse(&tokens.config(rules), "test", Path::new(""), std::iter::empty()).unwrap();
    let (state, _) = assemble::state(&parsed.config).unwrap();
    let series = || {
        let reading = Reading {
            clock_skew: Vec::new(),
            streams: (0, 0),
            index: state.replica.index(),
            view_age: None,
            inbound_lag: None,
            jwks_age: Vec::new(),
        };
        let text = String::from_utf8(state.metrics.render(&reading).unwrap()).unwrap();
        assert!(!text.contains("canary"), "{text}");
        text.lines().filter(|line| !line.starts_with('#')).count()
    };
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let unsigned = |header: Value, claims: Value| format!("{}.{}.{}", part(&header), part(&claims), "A".repeat(86));
    let decide_on = async |n: usize, what: usize| {
        let name = format!("canary-{n}");
        let mut claims = json!({"iss": doorward::dev::ISSUER, "aud": "demo", "exp": now() + 600, "sub": name});
        let mut header = json!({"alg": "ES256", "kid": tokens.issuer.key_id()});
        let (mut method, mut path, mut host) = ("GET".to_owned(), "/".to_owned(), "shop.test".to_owned());
        let token = match what {
            0 => {
                header["kid"] = json!(name);
                unsigned(header, claims)
            }
            1 => {
                claims["iss"] = json!(format!("https://{name}.test"));
                unsigned(header, claims)
            }
            _ => {
                path = format!("{}/{name}", ["", "/public", "/shadow"][n % 3]);
                (method, host) = (name.to_uppercase(), format!("{name}.test"));
                tokens.issuer.sign_raw(&header.to_string(), claims.to_string().as_bytes()).unwrap()
            }
        };
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_bytes())];
        let view =
            RequestView { method: &method, target: &path, host: &host, headers: &headers, ..RequestView::NOTHING };
        let put = |responder: &Responder, decision: &Decision<'_>, request: &RequestView<'_>| {
            drop(responder.answer(decision, request));
        };
        decide(Query::new(&state, &view), put).await;
    };
    for n in 0..3 {
        for what in 0..3 {
            decide_on(n, what).await;
        }
    }
    let before = series();
    for n in 3..MANY + 3 {
        for what in 0..3 {
            decide_on(n, what).await;
        }
    }
    assert_eq!(series(), before);
    let count = |decision: &str, reason: &str, rule: &str| {
        usize::try_from(state.metrics.checks.with_label_values(&[decision, reason, rule]).get()).unwrap()
    };
    assert_eq!(count("denied", "unknown_key", "default"), MANY + 3, "each was refused for what it was");
    assert_eq!(count("denied", "unknown_issuer", "default"), MANY + 3);
    let allowed: usize = ["default", "public", "shadow"].map(|rule| count("allowed", "ok", rule)).iter().sum();
    assert_eq!(allowed, MANY + 3);
}
