//! Tokens that were verified before: only the signature check may be saved, and only while the keys and the policy are
//! in force.

use std::path::Path;
use std::time::Duration;

use doorward::authz::authorizer::{Authorizer, Outcome, View};
use doorward::authz::claims::{IssuerName, Timestamp};
use doorward::authz::denial::Denial;
use doorward::authz::jwks::{ASYMMETRIC, Jwks};
use doorward::authz::revocation::{Kind, Origin, Revocation, RevocationIndex, Target, TargetId, Watermark};
use doorward::authz::rule::RequestView;
use doorward::config::Config;
use doorward::dev::DevIssuer;
use serde_json::{Value, json};

use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;

fn authorizer(config: &str) -> Authorizer {
    Config::parse(config, "test", Path::new(""), std::iter::empty()).unwrap().config.authorizer()
}

/// The result for a token, and whether it was cached.
fn decide(
    authorizer: &Authorizer,
    index: &RevocationIndex,
    path: &str,
    token: &str,
    now: Timestamp,
) -> (Result<String, Denial>, Option<bool>) {
    let credentials = format!("Bearer {token}");
    let headers: [(&str, &[u8]); 1] = [("authorization", credentials.as_bytes())];
    let request = RequestView { method: "GET", target: path, host: "a", headers: &headers, ..RequestView::NOTHING };
    let view = View::of(index);
    let decision = authorizer.authorize(&request, view, now);
    let outcome = match &decision.outcome {
        Outcome::Allowed(grant) => {
            let principal = grant.principal.as_ref().unwrap();
            Ok(principal.token().user_id().unwrap().to_owned())
        }
        refused => Err(refused.denial().unwrap()),
    };
    (outcome, decision.evidence.remembered)
}

fn at(authorizer: &Authorizer, token: &str, now: Timestamp) -> (Result<String, Denial>, Option<bool>) {
    decide(authorizer, &RevocationIndex::new(), "/", token, now)
}

fn now() -> Timestamp {
    doorward::clock::now()
}

fn keys(issuers: &[&DevIssuer]) -> Jwks {
    let keys: Vec<Value> =
        issuers.iter().flat_map(|issuer| issuer.jwks()["keys"].as_array().unwrap().clone()).collect();
    Jwks::from_value(&json!({ "keys": keys }), &ASYMMETRIC).unwrap().0
}

#[expect(clippy::unnecessary_wraps, reason = "as a decision says it")]
fn alice() -> Result<String, Denial> {
    Ok("alice".to_owned())
}

#[test]
fn a_withdrawn_key_takes_its_tokens_with_it() {
    let (tokens, other) = (Tokens::new(), DevIssuer::generate().unwrap());
    let (token, name) = (tokens.of("alice"), IssuerName::parse("dev").unwrap());
    let first = authorizer(&tokens.config(""));
    assert_eq!(at(&first, &token, now()), (alice(), Some(false)));
    assert_eq!(at(&first, &token, now()), (alice(), Some(true)));

    let same = first.with_keys(&name, Some(&keys(&[&tokens.issuer])));
    assert_eq!(at(&same, &token, now()), (alice(), Some(true)), "the same keys, fetched again");
    let more = same.with_keys(&name, Some(&keys(&[&tokens.issuer, &other])));
    assert_eq!(at(&more, &token, now()), (alice(), Some(false)), "verified by the new set");
    assert_eq!(at(&more, &token, now()), (alice(), Some(true)));
    let rotated = more.with_keys(&name, Some(&keys(&[&other])));
    assert_eq!(at(&rotated, &token, now()), (Err(Denial::UnknownKey), Some(false)));
    let withdrawn = more.with_keys(&name, None);
    assert_eq!(at(&withdrawn, &token, now()), (Err(Denial::KeysUnavailable), Some(false)));
    // A decision that began before the change ends after it, and puts its token into the same cache.
    assert_eq!(at(&more, &token, now()), (alice(), Some(true)));
    assert_eq!(at(&rotated, &token, now()), (Err(Denial::UnknownKey), Some(false)));
    let back = rotated.with_keys(&name, Some(&keys(&[&tokens.issuer])));
    assert_eq!(at(&back, &token, now()), (alice(), Some(false)));
}

#[test]
fn another_issuer_s_rotation_costs_nothing() {
    let (ours, theirs, new) = (Tokens::new(), DevIssuer::generate().unwrap(), DevIssuer::generate().unwrap());
    let config = ours.config(&format!(
        "  - {{name: other, issuer: \"https://other.test\", audiences: any, keys: {{jwks: {}}}}}\n",
        theirs.jwks()
    ));
    let first = authorizer(&config);
    let token = ours.of("alice");
    assert_eq!(at(&first, &token, now()).1, Some(false));
    let rotated = first.with_keys(&IssuerName::parse("other").unwrap(), Some(&keys(&[&new])));
    assert_eq!(at(&rotated, &token, now()), (alice(), Some(true)));
}

#[test]
fn times_are_looked_at_every_time() {
    let tokens = Tokens::new();
    let start = now();
    let (exp, nbf) = (start.as_secs() + 600, start.as_secs() - 10);
    let token = tokens.with(json!({"exp": exp, "nbf": nbf}));
    let leeway = Duration::from_secs(30);
    let warm = authorizer(&tokens.config("rules: [{name: refresh, match: {path: /refresh}, access: refresh}]\n"));
    assert_eq!(at(&warm, &token, start), (alice(), Some(false)));
    let end = Timestamp::from_secs(exp).plus(leeway);
    let millisecond = Duration::from_millis(1);
    for (now, expected) in [
        (end.minus(millisecond), alice()),
        (end, Err(Denial::Expired)),
        (end.plus(Duration::from_secs(3600)), Err(Denial::Expired)),
        (Timestamp::from_secs(nbf).minus(leeway), alice()),
        (Timestamp::from_secs(nbf).minus(leeway).minus(millisecond), Err(Denial::NotYetValid)),
        (start.minus(Duration::from_secs(48 * 3600)), Err(Denial::NotYetValid)),
        (start, alice()),
    ] {
        assert_eq!(at(&warm, &token, now), (expected, Some(true)), "{now:?}");
    }
    // An expired token may ask for a new one, and passes nowhere else for having done so.
    let expired = tokens.with(json!({"iat": start.as_secs() - 600, "exp": start.as_secs() - 60}));
    let refresh = |path| decide(&warm, &RevocationIndex::new(), path, &expired, start);
    assert_eq!(refresh("/refresh"), (alice(), Some(false)));
    assert_eq!(refresh("/refresh"), (alice(), Some(true)));
    assert_eq!(refresh("/"), (Err(Denial::Expired), Some(true)));
}

#[test]
fn every_kind_of_revocation_refuses_a_remembered_token() {
    let tokens = Tokens::new();
    let issuer = IssuerName::parse("dev").unwrap();
    let token = tokens.with(json!({"jti": "1", "sid": "s", "azp": "shop", "act": {"sub": "agent"}}));
    let ids = ["1", "s", "alice", "shop", tokens.issuer.key_id(), "dev", "agent"];
    assert_eq!(ids.len(), Kind::ALL.len());
    for (kind, id) in Kind::ALL.into_iter().zip(ids) {
        let (warm, index, now) = (authorizer(&tokens.config("")), RevocationIndex::new(), now());
        assert_eq!(decide(&warm, &index, "/", &token, now), (alice(), Some(false)));
        let revocation = Revocation {
            target: Target::new(issuer.clone(), kind, TargetId::new(id)),
            watermark: Watermark::at(now),
            expires_at: now.plus(Duration::from_secs(3600)),
            origin: Origin::Revoked,
            note: None,
        };
        assert!(index.apply(&revocation, Duration::ZERO));
        assert_eq!(decide(&warm, &index, "/", &token, now), (Err(Denial::Revoked), Some(true)), "{kind}");
    }
}

#[test]
fn only_the_very_same_text_is_remembered() {
    let tokens = Tokens::new();
    let warm = authorizer(&tokens.config(""));
    let (good, other) = (tokens.of("alice"), tokens.of("bob"));
    assert_eq!(at(&warm, &good, now()), (alice(), Some(false)));
    assert_eq!(at(&warm, &other, now()), (Ok("bob".to_owned()), Some(false)));
    let part = |token: &str, at: usize| token.split('.').nth(at).unwrap().to_owned();
    let (header, payload, signature) = (part(&good, 0), part(&good, 1), part(&good, 2));
    for (what, forged) in [
        ("another payload, the same signature", format!("{header}.{}.{signature}", part(&other, 1))),
        ("the same payload, another signature", format!("{header}.{payload}.{}", part(&other, 2))),
        ("no signature", format!("{header}.{payload}.")),
        ("a byte less", good[..good.len() - 1].to_owned()),
        ("a part more", format!("{good}.{signature}")),
        ("padding", format!("{good}=")),
    ] {
        for again in [false, true] {
            let (outcome, remembered) = at(&warm, &forged, now());
            assert!(outcome.is_err() && remembered == Some(false), "{what}, again: {again}");
        }
    }
    assert_eq!(warm.verified.len(), 2, "what failed is not kept");
    assert_eq!(at(&warm, &good, now()), (alice(), Some(true)));
}

#[test]
fn a_policy_starts_with_nothing() {
    let tokens = Tokens::new();
    let token = tokens.with(json!({"uid": "u-1"}));
    let config = tokens.config("");
    assert_eq!(at(&authorizer(&config), &token, now()), (alice(), Some(false)));
    for (what, from, to, expected) in [
        ("audiences", "[demo]", "[other]", Err(Denial::WrongAudience)),
        ("claims", "audiences:", "claims: {user_id: uid}, audiences:", Ok("u-1".to_owned())),
        ("types", "audiences:", "token_types: [jwt], audiences:", Err(Denial::WrongType)),
        ("lifetime", "audiences:", "max_lifetime: 1m, audiences:", Err(Denial::LifetimeTooLong)),
    ] {
        assert_eq!(at(&authorizer(&config.replace(from, to)), &token, now()), (expected, Some(false)), "{what}");
    }
}

/// A known token is found by its text before its form is checked.
#[test]
fn a_known_token_decides_the_requests_that_an_unknown_one_does() {
    let tokens = Tokens::new();
    let (known, other) = (tokens.of("alice"), tokens.of("bob"));
    let bearer = |rest: &str| format!("Bearer {rest}");
    let requests: Vec<Vec<(&str, String)>> = vec![
        vec![("authorization", bearer(&known))],
        vec![("Authorization", format!("bEARER   {known}"))],
        vec![("authorization", format!("DPoP {known}"))],
        vec![("authorization", format!(" Bearer {known}"))],
        vec![("authorization", format!("Bearer\t{known}"))],
        vec![("authorization", bearer(&format!("{known} ")))],
        vec![("authorization", bearer(&format!("{known}=")))],
        vec![("authorization", bearer(&format!("{known}, Bearer {other}")))],
        vec![("authorization", format!("Basic eDp5, Bearer {known}"))],
        vec![("authorization", known.clone())],
        vec![("authorization", bearer(&known)), ("authorization", bearer(&known))],
        vec![("authorization", bearer(&known)), ("authorization", String::new())],
        vec![("authorization", bearer(&known)), ("cookie", format!("session={other}"))],
        vec![("authorization", bearer(&known)), ("cookie", format!("session={known}"))],
        vec![("authorization", bearer(&known)), ("cookie", "session=a b".to_owned())],
    ];
    for more in ["", "token: {from: [{header: authorization, scheme: Bearer}, {cookie: session}]}\n"] {
        let warm = authorizer(&tokens.config(more));
        let cold = authorizer(&tokens.config(&format!("{more}limits: {{token_cache: 0}}\n")));
        assert_eq!(at(&warm, &known, now()), (alice(), Some(false)));
        for fields in &requests {
            let headers: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            let request = RequestView { method: "GET", target: "/", headers: &headers, ..RequestView::NOTHING };
            let outcome = |authorizer: &Authorizer| {
                let index = RevocationIndex::new();
                let decision = authorizer.authorize(&request, View::of(&index), now());
                let token = decision.evidence.token.as_ref().map(|token| token.token_id().to_owned());
                (decision.outcome.denial(), token, decision.evidence.is_dpop, decision.evidence.issuer)
            };
            let places = fields.iter().map(|(name, value)| (name, value.len())).collect::<Vec<_>>();
            assert_eq!(outcome(&warm), outcome(&cold), "{places:?} {more}");
        }
    }
}

#[test]
fn nothing_is_remembered_without_room() {
    let tokens = Tokens::new();
    for limits in ["token_cache: 0", "token_cache_bytes: 0"] {
        let cold = authorizer(&tokens.config(&format!("limits: {{{limits}}}\n")));
        let token = tokens.of("alice");
        for _ in 0..2 {
            assert_eq!(at(&cold, &token, now()), (alice(), Some(false)));
        }
    }
}

#[test]
fn memory_is_bounded_however_many_tokens_there_are() {
    const MANY: usize = 200_000;
    const BOUND: usize = 16 << 20;
    let secret = std::env::temp_dir().join(format!("doorward-secret-{:016x}", rand::random::<u64>()));
    std::fs::write(&secret, "a secret of thirty-two bytes or more").unwrap();
    let config = |limits: &str| {
        authorizer(&format!(
            "revocation: {{store: embedded}}\nissuers: [{{name: dev, issuer: a, audiences: any, algorithms: [HS256], keys: {{secret_file: {}}}}}]\n\
             limits: {{{limits}}}\n",
            secret.display()
        ))
    };
    let (by_bytes, by_count) = (config(&format!("token_cache_bytes: {BOUND}")), config("token_cache: 1000"));
    std::fs::remove_file(&secret).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"a secret of thirty-two bytes or more");
    let now = now();
    let mint = |number: usize| {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let claims = format!(
            "{{\"iss\":\"a\",\"sub\":\"user-{number}\",\"jti\":\"token-{number}\",\"exp\":{},\"note\":\"{}\"}}",
            now.as_secs() + 600,
            "x".repeat(300)
        );
        let input = format!("{}.{}", base64.encode("{\"alg\":\"HS256\"}"), base64.encode(claims));
        let signature = base64.encode(aws_lc_rs::hmac::sign(&key, input.as_bytes()));
        format!("{input}.{signature}")
    };
    let before = resident();
    for number in 0..MANY {
        let token = mint(number);
        assert!(at(&by_bytes, &token, now).0.is_ok());
        if number < 5_000 {
            assert!(at(&by_count, &token, now).0.is_ok());
        }
    }
    let grown = resident().saturating_sub(before);
    let (kept, counted) = (by_bytes.verified.len(), by_count.verified.len());
    eprintln!("{MANY} tokens: {kept} kept in {BOUND} bytes, {counted} of at most 1000; {grown} bytes more");
    assert!((1_000..20_000).contains(&kept), "{kept}");
    assert!((100..=1_000).contains(&counted), "{counted}");
    // Other tests run in the same process; unbounded, this one would take some thirty times the bound.
    assert!(grown < 16 * BOUND, "{grown}");
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_and_misses_are_counted() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("")).await;
    let checks = Checks::connect(&doorward.check).await;
    let token = tokens.of("alice");
    for _ in 0..3 {
        assert!(checks.check(get("/").token(&token)).await.allowed());
    }
    assert_eq!(checks.check(get("/").token(&format!("{token}A"))).await.reason(), "bad_signature");
    assert_eq!(checks.check(get("/")).await.reason(), "missing_token");
    assert_eq!(doorward.metric("doorward_token_cache_total{result=\"hit\"}").await, Some(2.0));
    assert_eq!(doorward.metric("doorward_token_cache_total{result=\"miss\"}").await, Some(2.0));
}
