//! The cost of one decision: with a cached token and with a new one, from a message to its answer, and by the
//! number of revocations, issuers, rules and API keys.
//!
//!     cargo bench --bench decision
#![expect(clippy::expect_used, clippy::print_stdout, reason = "it prints figures, and stops where it cannot make them")]

mod support;

use std::convert::Infallible;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward::api::{Caller, check};
use doorward::authz::answer::{Answer, Fact, facts_of_token};
use doorward::authz::api_key::{ApiKey, ApiKeys, digest_of};
use doorward::authz::authorizer::{Authorizer, Outcome, View};
use doorward::authz::claims::IssuerName;
use doorward::authz::revocation::{Kind, Origin, Revocation, RevocationIndex, Target, TargetId, Watermark};
use doorward::authz::rule::{Access, ApiKeyUse, Match, PathMatch, RequestView, Rule};
use doorward::authz::rules::Rules;
use doorward::authz::signing::PayloadSigner;
use doorward::authz::stream_proof::Proofs;
use doorward::config::Config;
use doorward::dev::{AUDIENCE, DevIssuer, ISSUER};
use doorward::engine::assemble;
use futures_util::{FutureExt, StreamExt};
use http_body_util::BodyExt;
use jsonwebtoken::Algorithm;
use regex::Regex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc; // As Doorward has.

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
    let view = View::of(&index);

    rs256();
    actors(&dev, &yaml, &claims);
    growth(&dev, &header);
    live_tokens(&dev, &plain);
    whole(&yaml, &header);
    streams(&yaml, &header);

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
    let responder = config.responder().proving(Proofs::new(&[[7; 32]], []));
    let request = request("/orders/17", &headers);
    let decision = plain.authorize(&request, view, now);
    let token = decision.evidence.token.as_ref().expect("a token");
    let Answer::Forward(forward) = responder.answer(&decision, &request) else { return };
    let encoding = median(|| {
        let mut bytes = Vec::new();
        black_box(forward.identity());
        check::write_struct(&mut bytes, facts_of_token(token));
        check::write_struct(&mut bytes, forward.subject().iter().map(|(name, subject)| (*name, Fact::text(subject))));
        black_box(bytes);
    });
    println!("{:<45} {:>9}", "a token's part, which is encoded once", micros(encoding));
}

/// A new token, compared with one verification alone with a parsed key.
fn rs256() {
    let pem = include_bytes!("../src/config/testdata/sign-rsa2048.pem");
    let signer = PayloadSigner::from_pem(&String::from_utf8_lossy(pem), Duration::from_secs(60)).expect("a key");
    let jwks = json!({"keys": [signer.public()]});
    let yaml = format!(
        "revocation: {{store: embedded}}\nlimits: {{token_cache: 0}}\n\
         issuers: [{{name: dev, issuer: \"{ISSUER}\", audiences: [{AUDIENCE}], keys: {{jwks: {jwks}}}}}]\n"
    );
    let config = Config::parse(&yaml, "bench", Path::new(""), std::iter::empty()).expect("a configuration").config;
    let (authorizer, now) = (config.authorizer(), doorward::clock::now());
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "3f2b8c1e-7a0d-4f6e-9b1c-5d2e8f4a6b7c", "email": "alice@example.com",
        "jti": "9e107d9d-372b-4826-a1d8-3542a419d6d2", "sid": "b6d81b36-0a4f-4a7e-8a56-8b8a3c1d2e3f",
        "azp": "shop-web", "scope": "openid profile email orders:read", "auth_time": now.as_secs() - 120,
        "iat": now.as_secs() - 60, "exp": now.as_secs() + 600, "roles": ["customer", "reviewer"],
    });
    let header = jsonwebtoken::Header {
        kid: signer.public()["kid"].as_str().map(str::to_owned),
        ..jsonwebtoken::Header::new(Algorithm::RS256)
    };
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(pem).expect("a key");
    let token = jsonwebtoken::encode(&header, &claims, &key).expect("a token");
    let issuer = authorizer.issuer(ISSUER).expect("the issuer");
    let (input, signature) = token.rsplit_once('.').expect("a token");
    let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let keys =
        issuer.keys.as_ref().expect("keys").candidates(None, doorward::authz::jwks::Algorithm::RS256).expect("a key");
    let index = RevocationIndex::new();
    let view = View::of(&index);
    let field = format!("Bearer {token}");
    let headers: [(&str, &[u8]); 1] = [("authorization", field.as_bytes())];
    let request = request("/orders/17", &headers);
    // In turns, so that both meet the same machine.
    let (mut alone, mut unseen): (Vec<_>, Vec<_>) = (0..9)
        .map(|_| {
            let alone = median(|| assert!(black_box(keys[0].verifies(black_box(input), &signature))));
            (alone, median(|| drop(black_box(authorizer.authorize(black_box(&request), view, now)))))
        })
        .unzip();
    alone.sort();
    unseen.sort();
    let (alone, unseen) = (alone[4], unseen[4]);
    println!(
        "never seen   {:>9} RS256, {} bytes, whole decision; one verification {} ({:.2} ×)",
        micros(unseen),
        token.len(),
        micros(alone),
        unseen.as_secs_f64() / alone.as_secs_f64()
    );
}

/// Tokens that act for others: what an actor costs, and that a token without any costs what one with another claim of that
/// size does.
fn actors(dev: &DevIssuer, yaml: &str, claims: &serde_json::Value) {
    let parse = |text: &str| Config::parse(text, "bench", Path::new(""), std::iter::empty()).expect("a configuration");
    let remembering = parse(yaml).config.authorizer();
    let forgetful = parse(&format!("{yaml}limits: {{token_cache: 0}}\n")).config.authorizer();
    let (index, now) = (RevocationIndex::new(), doorward::clock::now());
    let chain =
        |depth: usize| (0..depth).fold(json!(null), |act, at| json!({"sub": format!("agent-{at}"), "act": act}));
    println!("\nactors                      verified before    never seen");
    for (what, name, value) in [
        ("none", "act", json!(null)),
        ("none, and another claim", "ext", chain(1)),
        ("one", "act", chain(1)),
        ("eight", "act", chain(8)),
    ] {
        let mut claims = claims.clone();
        if !value.is_null() {
            claims[name] = value;
        }
        let header = format!("Bearer {}", dev.mint(&claims).expect("a token"));
        let headers: [(&str, &[u8]); 1] = [("authorization", header.as_bytes())];
        let request = request("/orders/17", &headers);
        let cost = |authorizer: &Authorizer| {
            let decide = || authorizer.authorize(black_box(&request), View::of(&index), now);
            assert!(matches!(decide().outcome, Outcome::Allowed(_)), "{what}");
            median(|| drop(black_box(decide())))
        };
        println!("{what:<26} {:>16} {:>13}", micros(cost(&remembering)), micros(cost(&forgetful)));
    }
}

/// A token verified before: with many revocations, many issuers.
fn growth(dev: &DevIssuer, header: &str) {
    let now = doorward::clock::now();
    let one = |more: &str| {
        let yaml = format!(
            "revocation: {{store: embedded}}\nissuers:\n{more}  - {{name: dev, issuer: \"{ISSUER}\", audiences: [{AUDIENCE}], keys: {{jwks: {}}}}}\n",
            dev.jwks()
        );
        Config::parse(&yaml, "bench", Path::new(""), std::iter::empty()).expect("a configuration").config.authorizer()
    };
    let other = |at: usize| {
        let jwks = DevIssuer::generate().expect("a key").jwks().to_string();
        format!("  - {{name: other-{at}, issuer: \"https://{at}.test\", audiences: any, keys: {{jwks: {jwks}}}}}\n")
    };
    let others = (0..19).map(other).collect::<Vec<_>>().concat();
    let few = RevocationIndex::new();
    let many = RevocationIndex::new();
    for number in 0..1_000_000_u64 {
        let id = format!("{:016x}{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15), number);
        let revocation = Revocation {
            target: Target::new(IssuerName::parse("dev").expect("a name"), Kind::Token, TargetId::new(&id)),
            watermark: Watermark::FOREVER,
            expires_at: now.plus(Duration::from_secs(3600)),
            origin: Origin::SignedOut,
            note: None,
        };
        many.apply(&revocation, Duration::ZERO);
        if number < 10 {
            few.apply(&revocation, Duration::ZERO);
        }
    }
    let headers: [(&str, &[u8]); 1] = [("authorization", header.as_bytes())];
    let request = request("/orders/17", &headers);
    for (what, authorizer, index) in [
        ("seen before", one(""), &few),
        ("with 1,000,000 revocations", one(""), &many),
        ("with 20 issuers", one(&others), &few),
    ] {
        let view = View::of(index);
        let decision = median(|| drop(black_box(authorizer.authorize(black_box(&request), view, now))));
        println!("{what:<30} {:>9}, the pure decision", micros(decision));
    }
}

/// More tokens in use than the cache has room for: the cost of each when all come in turn, and their memory.
fn live_tokens(dev: &DevIssuer, authorizer: &Authorizer) {
    let now = doorward::clock::now();
    let index = RevocationIndex::new();
    let view = View::of(&index);
    println!("\nlive tokens     first seen   again   cached    memory");
    for count in [10_000, 200_000] {
        let tokens = (0..count).map(|at| {
            let claims = json!({
                "iss": ISSUER, "aud": AUDIENCE, "sub": format!("user-{at}"), "email": format!("user-{at}@example.com"),
                "jti": format!("{count}-{at}"), "sid": at.to_string(), "iat": now.as_secs() - 60, "exp": now.as_secs() + 600,
            });
            format!("Bearer {}", dev.mint(&claims).expect("a token"))
        });
        let tokens: Vec<_> = tokens.collect();
        let all = || {
            let began = Instant::now();
            for token in &tokens {
                let headers: [(&str, &[u8]); 1] = [("authorization", token.as_bytes())];
                let request = request("/orders/17", &headers);
                let decision = authorizer.authorize(&request, view, now);
                assert!(matches!(decision.outcome, Outcome::Allowed(_)));
            }
            began.elapsed() / count
        };
        let before = resident();
        let (first, again) = (all(), all());
        let cached = authorizer.verified.len();
        println!(
            "{count:>11} {:>14} {:>9} {cached:>7} {:>6} MB, {} bytes each",
            micros(first),
            micros(again),
            resident().saturating_sub(before) >> 20,
            tokens[0].len() - "Bearer ".len()
        );
    }
}

/// Bytes of resident memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

/// From the bytes of a CheckRequest to those of its answer, on one thread.
fn whole(yaml: &str, header: &str) {
    let config = Config::parse(yaml, "bench", Path::new(""), std::iter::empty()).expect("a configuration").config;
    let (state, _) = assemble::state(&config).expect("what it asks for");
    let replica = state.replica.clone();
    let service = check::service(state, 1 << 20, 1_000);
    let message = support::message("/orders/17", Some(header.to_owned()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        #[expect(clippy::disallowed_methods, reason = "ended with the benchmark")]
        let run = tokio::spawn(replica.run(CancellationToken::new()));
        tokio::task::yield_now().await;
        let mut answers = 0;
        let whole = median(|| {
            let answer = service.decide(Ok(message.clone()), Caller::default()).now_or_never().expect("no waiting");
            answers = answer.len();
            black_box(answer);
        });
        println!("message to answer              {:>9}, {} bytes to {answers}", micros(whole), message.len());
        run.abort();
    });
}

struct Boundless;

impl doorward::api::streams::Room for Boundless {
    fn take(&self, _: usize) -> bool {
        true
    }
}

/// The cost of a stream beside its check: its opening and its end, from message to answer, without HTTP/2; and
/// the end of all streams of an issuer.
fn streams(yaml: &str, header: &str) {
    let config = Config::parse(yaml, "bench", Path::new(""), std::iter::empty()).expect("a configuration").config;
    let (state, _) = assemble::state(&config).expect("what it asks for");
    let check = check::service(state.clone(), 1 << 20, 1_000);
    let service = doorward::api::streams::service(state.clone(), 1 << 20, Duration::from_secs(5));
    let message = support::message("/orders/17", Some(header.to_owned()));
    let answer = check.decide(Ok(message), Caller::default()).now_or_never().expect("no waiting");
    let opening = support::opening(&answer[5..]);
    let open = || {
        let body = http_body_util::StreamBody::new(
            futures_util::stream::iter([Ok::<_, Infallible>(http_body::Frame::data(opening.clone()))])
                .chain(futures_util::stream::pending()),
        );
        service.answer(http::Request::new(body), Arc::new(Boundless)).into_body()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let took = median(|| {
            let mut call = open();
            let reply = call.frame().now_or_never().expect("no waiting").expect("an answer").expect("no error");
            assert_eq!(reply.into_data().expect("a message").len(), 7, "it goes on");
        });
        println!("a stream's opening and end     {:>9}, {} bytes", micros(took), opening.len());
        let streams = state.streams();
        let mut calls: Vec<_> = (0..10_000).map(|_| open()).collect();
        for call in &mut calls {
            black_box(call.frame().now_or_never());
        }
        let issuer = Target::issuer(IssuerName::parse("dev").expect("a name"));
        let revocation = Revocation {
            target: issuer,
            watermark: Watermark::FOREVER,
            expires_at: doorward::authz::claims::Timestamp::MAX,
            origin: Origin::Revoked,
            note: None,
        };
        let began = Instant::now();
        assert_eq!(streams.revoke(&revocation), 10_000);
        println!("10,000 streams told to end     {:>9}", micros(began.elapsed()));
    });
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
    RequestView { method: "GET", target, host: "shop.example.com", headers, ..RequestView::NOTHING }
}

fn rule(number: usize, access: Access, path: PathMatch) -> Rule {
    let matches = Some(Match { path, hosts: Vec::new(), methods: vec!["GET".to_owned()], mcp: None });
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
