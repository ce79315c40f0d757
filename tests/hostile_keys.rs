//! Key providers that fail in every way, and tokens that try to name their own provider.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};

use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::hostile::{Behaviour, HostileServer, answer};
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::Tokens;

const SECOND: &str = "https://second.test";

/// The first issuer's keys come from `first`, the second's from `second`.
fn config(first: &str, second: &str, more: &str) -> String {
    let entry = |name: &str, issuer: &str, url: &str| {
        format!("  - {{name: {name}, issuer: \"{issuer}\", audiences: [demo], keys: {{jwks_url: \"{url}\"{more}}}}}\n")
    };
    let issuers = entry("dev", doorward::dev::ISSUER, first) + &entry("second", SECOND, second);
    format!("revocation: {{store: embedded}}\nissuers:\n{issuers}")
}

/// The memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// All forms of an answer that is not a key set, by name.
fn failures(good: &str, elsewhere: &HostileServer) -> Vec<(String, Behaviour)> {
    let redirect = |status: u16, to: &str| answer(status, &[("location", to)], "");
    let many: Vec<_> =
        (0..101).map(|n| json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": n.to_string()})).collect();
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let mut truncated = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", good.len()).into_bytes();
    truncated.extend_from_slice(&good.as_bytes()[..good.len() / 2]);
    let mut rows: Vec<(String, Behaviour)> = [204, 206, 304, 400, 401, 403, 404, 418, 429, 500, 502, 503, 504]
        .into_iter()
        .map(|status| (format!("status {status}"), answer(status, &[], good)))
        .collect();
    let named: Vec<(&str, Behaviour)> = vec![
        ("an empty body", answer(200, &[], "")),
        ("an empty object", answer(200, &[], "{}")),
        ("an empty set", answer(200, &[], r#"{"keys":[]}"#)),
        ("keys that are none", answer(200, &[], r#"{"keys":[{},null,1]}"#)),
        ("keys that are no list", answer(200, &[], r#"{"keys":{"kty":"EC"}}"#)),
        ("a key without a set", answer(200, &[], good.trim_start_matches("{\"keys\":[").trim_end_matches("]}"))),
        ("null", answer(200, &[], "null")),
        ("garbage", answer(200, &[], (0..4096).map(|n| u8::try_from(n * 7 % 256).unwrap()).collect::<Vec<_>>())),
        ("HTML", answer(200, &[("content-type", "text/html")], "<!doctype html><title>Sign in</title>")),
        ("a signed set", answer(200, &[("content-type", "application/jwk-set+jwt")], "eyJhbGciOiJub25lIn0.e30.")),
        ("a set and more", answer(200, &[], format!("{good}{good}"))),
        ("invalid UTF-8", answer(200, &[], [good.as_bytes(), b"\xff"].concat())),
        ("101 keys", answer(200, &[], json!({ "keys": many }).to_string())),
        ("deep JSON", answer(200, &[], "[".repeat(200_000))),
        ("10 MB", answer(200, &[], format!("{{\"x\":\"{}\",{}", "a".repeat(10 << 20), &good[1..]))),
        ("10 MB of white space", answer(200, &[], " ".repeat(10 << 20))),
        (
            "a length that overflows",
            Behaviour::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n{}".to_vec()),
        ),
        (
            "a huge length and silence",
            Behaviour::Drip(
                [b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n".as_slice(), &[b' '; 200]].concat(),
            ),
        ),
        ("truncated", Behaviour::Bytes(truncated)),
        ("endless", Behaviour::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b' '; 65_536])),
        ("endless chunks", Behaviour::Endless(chunked, b"4\r\n    \r\n".repeat(1000))),
        (
            "endless headers",
            Behaviour::Endless(b"HTTP/1.1 200 OK\r\n".to_vec(), b"x-h: aaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(1000)),
        ),
        ("endless informational answers", Behaviour::Endless(vec![], b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000))),
        ("compressed", answer(200, &[("content-encoding", "gzip")], b"\x1f\x8b\x08\0\0\0\0\0\0\x03bomb")),
        ("no HTTP", Behaviour::Bytes(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec())),
        ("TLS", Behaviour::Bytes(vec![0x15, 3, 1, 0, 2, 2, 0x28])),
        ("slow", Behaviour::Drip(good.as_bytes().to_vec())),
        ("silence", Behaviour::Silence),
        ("a closed connection", Behaviour::Close),
        ("a redirect to itself", redirect(302, "/jwks")),
        ("a redirect to itself, in full", redirect(307, &elsewhere.url())),
        ("a redirect without a place", answer(302, &[], good)),
        ("a redirect to nonsense", redirect(302, "http://[::1")),
        ("a redirect to plain http", redirect(301, "http://192.0.2.1/jwks")),
        ("a redirect to a name over http", redirect(301, "http://provider.invalid/jwks")),
        ("a redirect to a link-local address", redirect(302, "http://169.254.169.254/latest/meta-data")),
        ("a redirect to a file", redirect(302, "file:///etc/passwd")),
        ("a redirect to data", redirect(302, "data:application/json,%7B%22keys%22%3A%5B%5D%7D")),
        ("a redirect to a name that looks like loopback", redirect(302, "http://127.0.0.1.evil.invalid/jwks")),
        ("a redirect to a user called localhost", redirect(302, "http://localhost@192.0.2.1/jwks")),
    ];
    rows.extend(named.into_iter().map(|(what, behaviour)| (what.to_owned(), behaviour)));
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_provider_costs_its_issuer_nothing_and_others_less() {
    let (tokens, others) = (Tokens::new(), Tokens::new());
    let good = tokens.issuer.jwks().to_string();
    let provider = HostileServer::start(answer(200, &[], &good)).await;
    let elsewhere = HostileServer::start(answer(302, &[("location", "/jwks")], "")).await;
    let other = JwksServer::start(others.issuer.jwks()).await;
    let doorward =
        Doorward::start(&config(&provider.url(), &other.url(), ", refresh: 1s, cooldown: 1s, timeout: 500ms")).await;
    let checks = Checks::connect(&doorward.check).await;
    let token = tokens.with(json!({"exp": crate::support::tokens::now() + 3600}));
    let second = others.with(json!({"iss": SECOND, "exp": crate::support::tokens::now() + 3600}));
    let strange = Tokens::new().of("mallory");
    assert!(checks.check(get("/").token(&token)).await.allowed());
    assert!(!provider.last_head().to_ascii_lowercase().contains("accept-encoding"), "{}", provider.last_head());
    let memory = resident(doorward.process.0.id());
    let failures = failures(&good, &elsewhere);
    let count = failures.len();
    for (what, behaviour) in failures {
        provider.behave(behaviour);
        let before = provider.requests();
        // A made-up key id triggers a fetch at once; the token is refused nevertheless, within the caller's patience.
        let asked = Instant::now();
        let verdict = checks.check(get("/").token(&strange)).await;
        assert_eq!(verdict.reason(), "keys_unavailable", "{what}");
        // Generous: the bound is one second, on a machine with nothing else to do.
        assert!(asked.elapsed() < Duration::from_secs(10), "{what}: {:?}", asked.elapsed());
        eventually("the provider was asked", || async {
            let _ = checks.check(get("/").token(&strange)).await;
            provider.requests() > before
        })
        .await;
        assert!(checks.check(get("/").token(&token)).await.allowed(), "{what}: known keys are kept");
        assert!(checks.check(get("/").token(&second)).await.allowed(), "{what}: other issuers are not affected");
    }
    assert_eq!(doorward.get("/readyz").await.0, 200);
    let grown = resident(doorward.process.0.id()).saturating_sub(memory);
    assert!(grown < 64 << 10, "memory grew by {grown} KiB");
    // A redirect within loopback is followed; the keys of a recovered provider are loaded.
    let next = Tokens::new();
    elsewhere.behave(answer(200, &[], next.issuer.jwks().to_string()));
    provider.behave(answer(307, &[("location", &elsewhere.url())], ""));
    eventually("the new key is known", || async { checks.check(get("/").token(&next.of("alice"))).await.allowed() })
        .await;
    assert_eq!(checks.check(get("/").token(&token)).await.reason(), "unknown_key", "the old one has left the set");
    eprintln!("hostile providers: {count} kinds of failure, memory grew by {grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_whose_provider_never_worked_is_alone_with_that() {
    let (tokens, others) = (Tokens::new(), Tokens::new());
    let other = JwksServer::start(others.issuer.jwks()).await;
    for behaviour in [
        Behaviour::Silence,
        Behaviour::Close,
        answer(200, &[], r#"{"keys":[]}"#),
        answer(302, &[("location", "/jwks")], ""),
        answer(200, &[], json!({"keys": [{"kty": "oct", "k": "AAAA", "kid": tokens.issuer.key_id()}]}).to_string()),
    ] {
        let provider = HostileServer::start(behaviour.clone()).await;
        let doorward = Doorward::start(&config(&provider.url(), &other.url(), ", timeout: 500ms")).await;
        let checks = Checks::connect(&doorward.check).await;
        let verdict = checks.check(get("/").token(&tokens.of("alice"))).await;
        assert_eq!((verdict.status, verdict.reason()), (503, "keys_unavailable"), "{behaviour:?}");
        assert_eq!(verdict.headers["retry-after"], "1");
        assert!(checks.check(get("/").token(&others.with(json!({"iss": SECOND})))).await.allowed(), "{behaviour:?}");
        // Keys of one issuer do not verify tokens of the other.
        for token in [others.of("alice"), tokens.with(json!({"iss": SECOND}))] {
            let verdict = checks.check(get("/").token(&token)).await;
            assert!(["keys_unavailable", "unknown_key"].contains(&verdict.reason()), "{verdict:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_made_up_key_ids_cost_one_fetch_per_cooldown_and_delay_no_request() {
    let (tokens, stranger) = (Tokens::new(), Tokens::new());
    let server = JwksServer::start(tokens.issuer.jwks()).await;
    let doorward = Doorward::start(&config(&server.url(), &server.url(), ", cooldown: 2s")).await;
    let checks = Checks::connect(&doorward.check).await;
    let before = server.fetches();
    let started = Instant::now();
    let payload = Tokens::claims("mallory").to_string();
    let flood = stream::iter(0..10_000).for_each_concurrent(64, |n| {
        let header = json!({"alg": "ES256", "kid": format!("made-up-{n}")}).to_string();
        let token = stranger.issuer.sign_raw(&header, payload.as_bytes()).unwrap();
        let checks = &checks;
        async move { assert_eq!(checks.check(get("/").token(&token)).await.reason(), "unknown_key") }
    });
    let beside = async {
        let good = Checks::connect(&doorward.check).await;
        let token = tokens.of("alice");
        let mut slowest = Duration::ZERO;
        while slowest < Duration::from_secs(60) {
            let asked = Instant::now();
            assert!(good.check(get("/").token(&token)).await.allowed());
            slowest = slowest.max(asked.elapsed());
            // Generous: the machine is busy with the flood itself.
            assert!(slowest < Duration::from_secs(10), "a good client waited {slowest:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = flood => {}
        () = beside => unreachable!("it goes on until the flood has ended"),
    }
    let (took, fetches) = (started.elapsed(), server.fetches() - before);
    let most = usize::try_from(took.as_secs() / 2).unwrap() + 1;
    assert!(fetches <= most, "{fetches} fetches in {took:?}, {most} at most");
    eprintln!("10,000 made-up key ids: {fetches} fetches in {took:?}");
}

/// No claim or header of a token makes Doorward open a connection.
#[tokio::test(flavor = "multi_thread")]
async fn no_token_makes_an_outbound_call() {
    let tokens = Tokens::new();
    let server = JwksServer::start(tokens.issuer.jwks()).await;
    let doorward = Doorward::start(&config(&server.url(), &server.url(), ", cooldown: 1s")).await;
    let checks = Checks::connect(&doorward.check).await;
    let trap = HostileServer::start(answer(200, &[], tokens.issuer.jwks().to_string())).await;
    let (url, host) = (trap.url(), trap.address.to_string());
    let headers = [
        json!({"jku": url}),
        json!({"x5u": url}),
        json!({"jku": url, "kid": "unknown"}),
        json!({"x5u": url, "kid": url}),
        json!({"kid": url}),
        json!({"kid": format!("//{host}/jwks")}),
        json!({"jwk": {"kty": "EC", "x5u": url, "jku": url}}),
        json!({"x5c": [url], "x5t": url}),
        json!({"typ": "JWT", "jwks_uri": url, "url": url, "iss": url}),
        json!({"crit": ["jku"], "jku": url}),
        json!({"alg": "HS256", "jku": url}),
        json!({"alg": "none", "jku": url}),
        json!({"alg": "dir", "enc": "A128GCM", "jku": url}),
    ];
    let claims = [
        json!({}),
        json!({"iss": url}),
        json!({"iss": format!("http://{host}")}),
        json!({"iss": format!("http://{host}/.well-known/openid-configuration")}),
        json!({"iss": format!("https://{host}")}),
        json!({"jwks_uri": url, "jku": url, "sub_jwk": {"x5u": url}}),
        json!({"_claim_sources": {"a": {"endpoint": url}}, "_claim_names": {"role": "a"}}),
        json!({"aud": ["demo", url], "azp": url, "sid": url, "jti": url}),
    ];
    let mut asked = 0;
    for header in &headers {
        for changes in &claims {
            let mut right = json!({"alg": "ES256", "kid": tokens.issuer.key_id()});
            for (name, value) in header.as_object().unwrap() {
                right[name] = value.clone();
            }
            let mut payload = Tokens::claims("alice");
            for (name, value) in changes.as_object().unwrap() {
                payload[name] = value.clone();
            }
            for signer in [&tokens, &Tokens::new()] {
                let token = signer.issuer.sign_raw(&right.to_string(), payload.to_string().as_bytes()).unwrap();
                for path in ["/", "/auth/refresh", url.as_str()] {
                    let ask =
                        get(path).host(&host).token(&token).header("x-forwarded-host", &host).header("referer", &url);
                    let _ = checks.check(ask).await;
                    asked += 1;
                }
                let _ = doorward.post("/logout", &token).await;
            }
        }
    }
    // As many fetches more as cooldowns passed, to the configured place only.
    let strange: Value = json!({"alg": "ES256", "kid": "once-more", "jku": url});
    let token = tokens.issuer.sign_raw(&strange.to_string(), Tokens::claims("a").to_string().as_bytes()).unwrap();
    let before = server.fetches();
    eventually("the configured provider is asked again", || async {
        let _ = checks.check(get("/").token(&token)).await;
        server.fetches() > before
    })
    .await;
    assert_eq!(trap.connections(), 0, "somebody connected:\n{}", trap.last_head());
    eprintln!("outbound calls: {asked} tokens that name a server of their own, 0 connections");
}
