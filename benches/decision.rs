//! What one decision costs: by the number of rules and of API keys, beyond verifying the token.
//!
//!     cargo bench --bench decision
#![expect(clippy::expect_used, clippy::print_stdout, reason = "it prints figures, and stops where it cannot make them")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward::authz::answer::Answer;
use doorward::authz::api_key::{ApiKey, ApiKeys, digest_of};
use doorward::authz::authorizer::{Authorizer, Outcome, View};
use doorward::authz::revocation::RevocationIndex;
use doorward::authz::rule::{Access, ApiKeyUse, Match, PathMatch, RequestView, Rule};
use doorward::authz::rules::Rules;
use doorward::authz::token::{BearerToken, Expiry, UnverifiedToken};
use doorward::config::Config;
use doorward::dev::{AUDIENCE, DevIssuer, ISSUER};
use regex::Regex;
use serde_json::json;

fn main() {
    let dev = DevIssuer::generate().expect("a key");
    let now = doorward::clock::now();
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "email": "alice@example.com", "jti": "1", "sid": "2",
        "iat": now.as_secs() - 60, "exp": now.as_secs() + 600,
    });
    let token = dev.mint(&claims).expect("a token");
    let header = format!("Bearer {token}");
    let yaml = format!(
        "revocation: {{store: embedded}}\nissuers: [{{name: dev, issuer: \"{ISSUER}\", audiences: [{AUDIENCE}], keys: {{jwks: {}}}}}]\n",
        dev.jwks()
    );
    let config = Config::parse(&yaml, "bench", Path::new(""), std::iter::empty()).expect("a configuration").config;
    let plain = config.authorizer();
    let index = RevocationIndex::new();
    let view = View { index: &index, age: Some(Duration::ZERO), answer: None, testimony: None };

    let issuer = plain.issuer(ISSUER).expect("the issuer");
    let verification = median(|| {
        let bearer = BearerToken::parse(token.as_bytes(), 16_384).expect("a token");
        let parsed = UnverifiedToken::parse(bearer).expect("a token");
        black_box(issuer.verify(parsed, now, Expiry::Refused).expect("a good token"));
    });
    println!("verification          {:>9} (ES256, parsing included)", micros(verification));

    let key = "key-5000".to_owned();
    let headers: [(&str, &[u8]); 2] = [("authorization", header.as_bytes()), ("x-api-key", key.as_bytes())];
    let decide = |authorizer: &Authorizer, target: &str, open: bool| {
        let request = request(target, &headers);
        let decision = authorizer.authorize(&request, view, now);
        assert!(matches!(decision.outcome, Outcome::Allowed(_)), "{target}");
        assert_eq!(decision.rule.access == Access::Public, open, "{target}");
        median(|| drop(black_box(authorizer.authorize(black_box(&request), view, now))))
    };

    println!("\nrules                  protected   without a token (public)   the rule alone");
    for count in [1, 100, 1_000] {
        let authorizer = Authorizer { rules: Arc::new(Rules::new(rules(count))), ..plain.clone() };
        let default = Rule::default();
        let protected = decide(&authorizer, &target(count), false);
        let public = decide(&authorizer, "/public/page", true);
        let target = target(count);
        let request = request(&target, &headers);
        let alone = median(|| drop(black_box(authorizer.rules.select(black_box(&request), &default))));
        println!("{count:>5}                {:>11} {:>19} {:>22}", micros(protected), micros(public), micros(alone));
    }
    let thousand = Authorizer { rules: Arc::new(Rules::new(rules(1_000))), ..plain.clone() };
    println!("\nwith 1,000 rules, the rule alone");
    let patterns: Vec<_> = (0..1_000)
        .map(|at| {
            rule(
                at,
                Access::Protected,
                PathMatch::Regex(Regex::new(&format!("^(?:/.*/item-{at})$")).expect("a pattern")),
            )
        })
        .collect();
    let patterns = Authorizer { rules: Arc::new(Rules::new(patterns)), ..plain.clone() };
    for (what, authorizer, target) in [
        ("none matches", &thousand, "/orders/17".to_owned()),
        ("capitals and a trailing slash", &thousand, "/Api/Tenant-999/Orders/".to_owned()),
        ("an odd path, few readings", &thousand, "/api/tenant-999/x/%2e%2e/orders".to_owned()),
        ("an odd path, 2 KB, most readings", &thousand, format!("/api{}", "/a;b\\c%253f%00/..".repeat(113))),
        ("all rules are patterns without a beginning", &patterns, "/orders/17".to_owned()),
    ] {
        let request = request(&target, &headers);
        let default = Rule::default();
        let alone = median(|| drop(black_box(authorizer.rules.select(black_box(&request), &default))));
        println!("{what:<45} {:>9}", micros(alone));
    }

    println!("\nAPI keys               protected");
    for count in [1, 100, 10_000] {
        let keys = (0..count).map(|at| api_key(if count < 10_000 { at + 5_000 } else { at })).collect();
        let api_keys = ApiKeys::new("x-api-key".to_owned(), "x-client-platform".to_owned(), ApiKeyUse::Required, keys);
        let authorizer = Authorizer { api_keys: Arc::new(api_keys), ..plain.clone() };
        println!("{count:>6}               {:>11}", micros(decide(&authorizer, "/orders/17", false)));
    }

    println!("\nthe answer, beside the decision");
    let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/testdata");
    let signed = |key: &str| format!("{{header: x-identity, sign: {{key_file: {key}}}}}");
    for (what, payload) in [
        ("headers only", "null".to_owned()),
        ("plain payload", "{header: x-identity}".to_owned()),
        ("signed, Ed25519", signed("sign-ed25519.pem")),
        ("signed, ES256", signed("sign-p256.pem")),
        ("signed, RS256 (2048 bits)", signed("sign-rsa2048.pem")),
    ] {
        let yaml = format!("{yaml}identity: {{payload: {payload}}}\n");
        let parsed = Config::parse(&yaml, "bench", Path::new(testdata), std::iter::empty()).expect("a configuration");
        let responder = parsed.config.responder();
        let request = request("/orders/17", &headers);
        let decision = plain.authorize(&request, view, now);
        assert!(matches!(responder.answer(&decision, &request), Answer::Forward(_)));
        println!("{what:<45} {:>9}", micros(median(|| drop(black_box(responder.answer(&decision, &request))))));
    }
}

/// Half exact paths and prefixes, half patterns; the last is for [`target`], and a public one stands first.
fn rules(count: usize) -> Vec<Rule> {
    let public = rule(count, Access::Public, PathMatch::Prefix("/public".to_owned()));
    let path = |at: usize| match at % 4 {
        0 => PathMatch::Exact(format!("/api/tenant-{at}/orders")),
        1 => PathMatch::Prefix(format!("/api/tenant-{at}")),
        _ => PathMatch::Regex(Regex::new(&format!("^(?:/api/tenant-{at}/[a-z]+)$")).expect("a pattern")),
    };
    let rules = (1..count.max(2)).map(|at| rule(at, Access::Protected, path(at)));
    [public].into_iter().chain(rules).collect()
}

fn target(count: usize) -> String {
    format!("/api/tenant-{}/orders", count.max(2) - 1)
}

fn request<'a>(target: &'a str, headers: &'a [(&'a str, &'a [u8])]) -> RequestView<'a> {
    RequestView { method: "GET", target, host: "shop.example.com", headers, rule: None, source: None }
}

fn rule(number: usize, access: Access, path: PathMatch) -> Rule {
    let matches = Some(Match { path, hosts: Vec::new(), methods: vec!["GET".to_owned()] });
    Rule { name: format!("rule-{number}").into(), matches, access, ..Rule::default() }
}

fn api_key(number: usize) -> ApiKey {
    ApiKey {
        id: format!("client-{number}").into(),
        digest: digest_of(format!("key-{number}").as_bytes()),
        platforms: Vec::new(),
        domains: Vec::new(),
        expires_at: None,
    }
}

/// The median time of one call, over batches long enough for the clock.
fn median(mut call: impl FnMut()) -> Duration {
    let began = Instant::now();
    let mut batch = 0_u32;
    while began.elapsed() < Duration::from_millis(20) {
        call();
        batch += 1;
    }
    let batch = (batch / 20).max(1);
    let mut times: Vec<_> = (0..101)
        .map(|_| {
            let began = Instant::now();
            (0..batch).for_each(|_| call());
            began.elapsed() / batch
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

fn micros(time: Duration) -> String {
    format!("{:.2} µs", time.as_secs_f64() * 1e6)
}
