//! No leaks: no token, key, secret or password appears in a log, a metric or an answer; log lines are JSON
//! objects for every request; and no client-chosen value creates a series.

mod event_sources;

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use doorward::api::{Query, decide};
use doorward::authz::answer::Responder;
use doorward::authz::api_key::digest_of;
use doorward::authz::authorizer::Decision;
use doorward::authz::rule::RequestView;
use doorward::config::Config;
use doorward::engine::assemble;
use doorward::metrics::Reading;
use serde_json::{Value, json};

use crate::ledger::support::RedisServer;
use crate::proofs::client::{Client as ProofClient, hash};
use crate::support::doorward::{Doorward, run, run_with};
use crate::support::grpc::{Ask, Checks, ask, get};
use crate::support::jwks_server::JwksServer;
use crate::support::tokens::{Tokens, now};
use crate::support::{TempDir, eventually};

/// The marker in every secret here; followed by the kind of the secret.
const MARK: &str = "canary";

/// A text in all the ways in which it might be written down.
fn spellings(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let hex = hex(bytes);
    let list = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    let mut all = vec![secret.to_owned(), hex.clone(), hex.to_uppercase(), list, secret.to_uppercase()];
    // Within other text, base64 of it begins at one of three places of a group.
    for skip in 0..3 {
        let padded = [&[b'x'; 3][..skip], bytes].concat();
        let text = STANDARD_NO_PAD.encode(&padded);
        // Characters that also hold bits of the neighbours are left out.
        let inner = &text[if skip == 0 { 0 } else { 4 }..text.len() - 2];
        all.push(inner.to_owned());
    }
    all
}

#[track_caller]
fn holds_none(what: &str, text: &str, secrets: &[&str]) {
    for secret in secrets {
        for spelling in spellings(secret) {
            if let Some(at) = text.find(&spelling) {
                let from = text[..at].rfind('\n').map_or(0, |at| at + 1);
                let line: String = text[from..].lines().next().unwrap_or_default().chars().take(600).collect();
                panic!("{what} holds {secret}: {line}");
            }
        }
    }
}

/// Every line is one JSON object without a control character.
#[track_caller]
fn lines_are_objects(lines: &[String]) {
    for line in lines {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert!(value.is_object(), "{line}");
        assert!(line.bytes().all(|byte| byte >= 0x20 && byte != 0x7f), "{line:?}");
    }
}

fn sha256(key: &str) -> String {
    hex(&digest_of(key.as_bytes()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

const PASSWORD: &str = "canary-redis-password";
const API_KEY: &str = "canary-api-key-0123456789";
const ADMIN_KEY: &str = "canary-admin-key-0123456789";
const CLIENT_SECRET: &str = "canary-client-secret-0123456789";
const SHARED_SECRET: &str = "canary-shared-secret-0123456789-0123456789-0123456789-0123456789";
const PUSH_TOKEN: &str = "canary-push-token-0123456789";
const ALARM_TOKEN: &str = "canary-alarm-token-0123456789";
/// The texts that no log, metric or answer may contain.
const SECRETS: [&str; 7] = [PASSWORD, API_KEY, ADMIN_KEY, CLIENT_SECRET, SHARED_SECRET, PUSH_TOKEN, ALARM_TOKEN];

fn config(tokens: &Tokens, redis: &str, jwks: &str) -> String {
    format!(
        r#"
telemetry: {{log: {{level: trace, decisions: all}}, replay_alarm: {{url: "http://127.0.0.1:9/canary-hook", token: {ALARM_TOKEN}}}}}
issuers:
  - {{name: dev, issuer: "{issuer}", audiences: [demo], keys: {{jwks: {keys}}}}}
  - {{name: remote, issuer: "https://remote.test", audiences: any, keys: {{jwks_url: "{jwks}", refresh: 1s, cooldown: 1s}}}}
  - {{name: shared, issuer: "https://shared.test", audiences: any, keys: {{secret_file: secret}}, introspection: {{url: "http://127.0.0.1:9/introspect", client_id: doorward, client_secret_file: client-secret}}}}
token: {{from: [{{header: authorization, scheme: Bearer}}, {{header: x-token}}, {{cookie: session}}, {{query: access_token}}]}}
rules:
  - {{name: logout, match: {{path: /logout, methods: [POST]}}, access: sign_out, sign_out: {{scope: token, then: forward}}}}
  - {{name: partner, match: {{path_prefix: /partner}}, api_key: required}}
api_keys: {{keys: [{{id: shop, sha256: {api_key}}}]}}
admin: {{keys: [{{name: operator, sha256: {admin_key}, may: [revoke, read]}}]}}
revocation: {{store: redis, redis: {{url: "{redis}"}}}}
{signals}"#,
        issuer = doorward::dev::ISSUER,
        keys = tokens.issuer.jwks(),
        signals = event_sources::config(tokens),
        api_key = sha256(API_KEY),
        admin_key = sha256(ADMIN_KEY),
    )
}

fn folder() -> TempDir {
    let dir = TempDir::new();
    std::fs::write(dir.path().join("secret"), SHARED_SECRET).unwrap();
    std::fs::write(dir.path().join("client-secret"), CLIENT_SECRET).unwrap();
    dir
}

/// Claims that bear the mark, each at its own place.
fn marked() -> Value {
    let mut claims = json!({"iss": doorward::dev::ISSUER, "aud": "demo", "iat": now() - 60, "exp": now() + 600});
    for name in ["sub", "email", "jti", "sid", "azp", "scope", "acr", "nonce", "custom"] {
        claims[name] = json!(format!("{MARK}-claim-{name}"));
    }
    claims
}

/// Requests that carry secrets wherever a request can.
fn requests(tokens: &Tokens) -> Vec<(String, Ask)> {
    let sign = |header: Value, claims: &Value| {
        tokens.issuer.sign_raw(&header.to_string(), claims.to_string().as_bytes()).unwrap()
    };
    let right = json!({"alg": "ES256", "kid": tokens.issuer.key_id()});
    let good = sign(right.clone(), &marked());
    let changed = |name: &str, value: Value| {
        let mut claims = marked();
        claims[name] = value;
        sign(right.clone(), &claims)
    };
    let odd_header = |name: &str, value: Value| {
        let mut header = right.clone();
        header[name] = value;
        sign(header, &marked())
    };
    let stranger = Tokens::new()
        .issuer
        .sign_raw(r#"{"alg":"ES256","kid":"canary-kid"}"#, marked().to_string().as_bytes())
        .unwrap();
    let mut rows: Vec<(String, Ask)> = [
        ("good", good.clone()),
        ("expired", changed("exp", json!(now() - 900))),
        ("another issuer's", changed("iss", json!("https://canary-issuer.test"))),
        ("of a kid to fetch", changed("iss", json!("https://remote.test"))),
        ("for another audience", changed("aud", json!("canary-audience"))),
        ("of a wrong type", changed("sub", json!({"canary-claim": 1}))),
        ("with a line break", changed("sub", json!("canary\r\n{\"level\":\"ERROR\"}\u{1b}[31m"))),
        ("of a stranger", stranger),
        ("with an unknown kid", odd_header("kid", json!("canary-kid\r\n\u{1b}[2J"))),
        ("with another alg", odd_header("alg", json!("canary-alg"))),
        ("with another typ", odd_header("typ", json!("canary-typ"))),
        ("with crit", odd_header("crit", json!(["canary-crit"]))),
        ("malformed", format!("{good}=canary")),
        (
            "no JSON",
            format!("{}.{}.AA", URL_SAFE_NO_PAD.encode("canary-header"), URL_SAFE_NO_PAD.encode("canary-claims")),
        ),
        ("cut off", good[..good.len() - 3].to_owned()),
    ]
    .into_iter()
    .flat_map(|(what, token)| {
        let query = format!("/x?a=1&access_token={token}&b=canary-query");
        [
            (format!("a {what} token"), get("/x").token(&token)),
            (format!("a {what} token, raw"), get("/x").token(&token).raw()),
            (format!("a {what} token in the query"), get(&query)),
            (
                format!("a {what} token in a cookie"),
                get("/x").header("cookie", format!("session={token}; other=canary-cookie")),
            ),
            (format!("a {what} token at the logout"), ask("POST", "/logout").token(&token)),
        ]
    })
    .collect();
    let client = ProofClient::new();
    let mut claims = marked();
    claims["cnf"] = json!({"jkt": client.thumbprint()});
    let token = sign(right, &claims);
    let bound = || get("/canary-path/x").host("canary-host").header("authorization", format!("DPoP {token}"));
    let proved = |method: &str, uri: &str| {
        let claims = json!({"htm": method, "htu": uri, "ath": hash(&token), "jti": "canary-jti"});
        bound().header("dpop", client.proof_with(&json!({}), &claims))
    };
    let odd = "canary\r\nlevel: x\u{1b}[31m\"}{\u{202e}";
    rows.extend(
        [
            ("two tokens", get("/x").token(&good).header("x-token", "canary-token")),
            ("another scheme", get("/x").header("authorization", "Basic Y2FuYXJ5LWJhc2ljOmNhbmFyeQ")),
            ("an API key", get("/partner").token(&good).header("x-api-key", API_KEY)),
            ("a wrong API key", get("/partner").token(&good).header("x-api-key", "canary-wrong-api-key")),
            (
                "odd everything",
                ask(odd, &format!("/{odd}"))
                    .host(odd)
                    .header("x-request-id", odd)
                    .header("traceparent", odd)
                    .header("user-agent", odd)
                    .header(odd, odd),
            ),
            ("an odd rule", get("/x").rule(odd)),
            ("a path", get("/canary-path/x")),
            ("a proof", proved("GET", "http://canary-host/canary-path/x")),
            ("a proof of another method", proved("CANARY-canary", "http://canary-host/canary-path/x")),
            ("a proof of another path", proved("GET", "http://canary-host/canary-other")),
            ("a proof of no URI", proved("GET", "canary-uri")),
            ("a broken proof", bound().header("dpop", "canary-proof")),
        ]
        .map(|(what, ask)| (what.to_owned(), ask)),
    );
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_logged_at_any_level() {
    let tokens = Tokens::new();
    let mut redis = RedisServer::start(&["--requirepass", PASSWORD]).await;
    let provider = JwksServer::start(tokens.issuer.jwks()).await;
    let url = format!("redis://default:{PASSWORD}@127.0.0.1:{}/0", redis.port);
    let doorward = Doorward::launch_in(folder(), &config(&tokens, &url, &provider.url())).await;
    doorward.ready().await;
    let checks = Checks::connect(&doorward.check).await;
    let rows = requests(&tokens);
    let count = rows.len();
    for (what, ask) in rows {
        let verdict = checks.check(ask).await;
        if verdict.allowed() {
            continue; // The identity in it is for the upstream.
        }
        holds_none(&what, &format!("{:?} {}", verdict.headers, verdict.body), &[MARK]);
    }
    // The HTTP API, over both versions of HTTP.
    let claims = tokens.issuer.mint(&marked()).unwrap();
    let base = format!("http://{}", doorward.http);
    for client in [reqwest::Client::new(), reqwest::Client::builder().http2_prior_knowledge().build().unwrap()] {
        let odd = "/canary-path%0d%0a";
        for (method, path, key) in [
            ("POST", "/logout", claims.as_str()),
            ("POST", "/logout", "canary-token"),
            ("GET", "/canary-path", "canary-token"),
            ("GET", odd, ADMIN_KEY),
            ("GET", "/v1/revocations", ADMIN_KEY),
            ("GET", "/v1/revocations?cursor=canary-cursor", ADMIN_KEY),
            ("GET", "/v1/instances", ADMIN_KEY),
            ("POST", "/v1/revocations", "canary-wrong-admin-key"),
            ("POST", "/v1/revocations", ADMIN_KEY),
            ("DELETE", "/v1/revocations", ADMIN_KEY),
        ] {
            let request = client.request(method.parse().unwrap(), format!("{base}{path}")).bearer_auth(key);
            let body = json!({"kind": "canary-kind", "issuer": "dev", "token": claims, "reason": "x"}).to_string();
            let response = request.header("content-type", "application/json").body(body).send().await.unwrap();
            let headers = format!("{:?}", response.headers());
            let text = headers + &response.text().await.unwrap();
            holds_none(
                &format!("{method} {path}"),
                &text,
                &[&SECRETS[..], &["canary-token", "canary-wrong-admin-key", claims.rsplit_once('.').unwrap().1]]
                    .concat(),
            );
        }
    }
    let signature = |token: &str| token.rsplit_once('.').map(|(_, signature)| signature.to_owned());
    for (path, media_type, body, credential) in event_sources::requests(&tokens) {
        let request = reqwest::Client::new().post(format!("{base}{path}")).bearer_auth(&credential);
        let response = request.header("content-type", media_type).body(body.clone()).send().await.unwrap();
        let headers = format!("{:?}", response.headers());
        let text = headers + &response.text().await.unwrap();
        // The introspection response about a valid token is for authorized callers.
        let told = path == "/oauth2/introspect" && text.contains("\"active\":true");
        let marks: &[&str] = if told { &SECRETS } else { &[MARK] };
        holds_none(path, &text, marks);
        assert!(signature(&body).is_none_or(|signature| signature.len() < 10 || !text.contains(&signature)), "{path}");
    }
    // Failures are logged as well: of the store, and of a key provider.
    provider.answer(500, "canary-answer-of-a-provider");
    redis.kill();
    let _ = doorward.post("/logout", &claims).await;
    eventually("the outage is logged", || async {
        doorward.logged("not refreshed") && doorward.get("/metrics").await.1.contains("doorward_store_up 0")
    })
    .await;
    redis.run().await;
    eventually("redis is back", || async { doorward.get("/metrics").await.1.contains("doorward_store_up 1") }).await;
    let (_, metrics) = doorward.get("/metrics").await;
    holds_none("/metrics", &metrics, &[MARK]);
    let lines = doorward.log.lock().unwrap().clone();
    lines_are_objects(&lines);
    let signature = claims.rsplit_once('.').unwrap().1;
    // A refusal names the issuer, audience, key or algorithm: names that are neither secret nor personal.
    let mut text = lines.join("\n");
    for name in ["canary-issuer", "canary-audience", "canary-kid", "canary-alg", "canary-typ", "canary-crit"] {
        text = text.replace(name, "");
    }
    holds_none("the log", &text, &[MARK, "eyJhbGciOi", signature]);
    eprintln!("leaks: {count} requests with canaries, {} lines of log at level trace, none found", lines.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_not_shown() {
    let tokens = Tokens::new();
    let redis = RedisServer::start(&["--requirepass", "another"]).await;
    let closed = RedisServer::stopped(&[]).port;
    for address in
        [format!("127.0.0.1:{}", redis.port), format!("127.0.0.1:{closed}"), "canary-host.invalid:6379".to_owned()]
    {
        let url = format!("redis://canary-user:{PASSWORD}@{address}/0");
        let doorward = Doorward::launch_in(folder(), &config(&tokens, &url, "http://127.0.0.1:9/jwks")).await;
        let checks = Checks::connect(&doorward.check).await;
        eventually("it says that it is not ready", || async { doorward.logged("not ready") }).await;
        let verdict = checks.check(get("/").token(&tokens.of("alice"))).await;
        assert_eq!(verdict.status, 503, "{verdict:?}");
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await; // Long enough for a few attempts.
        let (_, ready) = doorward.get("/readyz").await;
        let lines = doorward.log.lock().unwrap().clone();
        lines_are_objects(&lines);
        for (what, text) in [
            ("the log", lines.join("\n")),
            ("/readyz", ready),
            ("/metrics", doorward.get("/metrics").await.1),
            ("the answer", verdict.body),
        ] {
            holds_none(what, &text, &[PASSWORD]);
        }
    }
}

#[test]
fn commands_show_no_secret() {
    let tokens = Tokens::new();
    let dir = folder();
    let file = dir.path().join("doorward.yaml");
    let path = file.to_str().unwrap();
    let right = config(&tokens, &format!("redis://default:{PASSWORD}@127.0.0.1:1/0"), "http://127.0.0.1:9/jwks");
    std::fs::write(&file, &right).unwrap();
    let claims = tokens.issuer.mint(&marked()).unwrap();
    let signature = claims.rsplit_once('.').unwrap().1;
    for args in [
        &["validate", "--config", path][..],
        &["explain", "--config", path, "--path", "/partner", "--header", "x-api-key: canary-api-key-0123456789", "-"],
        &["explain", "--json", "--config", path, "--header", "cookie: a=canary-cookie", "-"],
    ] {
        let (code, out, err) = run(args, &claims);
        assert_eq!(code, 0, "{args:?}: {err}");
        holds_none(&format!("{args:?}"), &(out + &err), &[&SECRETS[..], &[signature, "canary-cookie"]].concat());
    }
    // Faults show the wrong value, unless it is a secret; also at a wrong place.
    for (what, from, to) in [
        ("a scheme", "redis://default", "rediz://default"),
        ("no scheme", "redis://default:", "default:"),
        ("a space in it", "@127.0.0.1:1/0", "@127.0.0.1 :1/0"),
        ("a port", "@127.0.0.1:1/0", "@127.0.0.1:99999/0"),
        ("no host", "@127.0.0.1:1/0", "@/0"),
        ("an unknown key beside it", "redis: {url", "redis: {uri: x, url"),
        ("a list", "url: \"redis", "url: [\"redis"),
        (
            "a key for its digest",
            "may: [revoke, read]",
            "may: [revoke, read]}, {name: b, sha256: canary-admin-key-0123456789, may: [read]",
        ),
        ("an API key for its digest", "{id: shop,", "{id: b, sha256: canary-api-key-0123456789}, {id: shop,"),
        ("a key of another name", "{id: shop,", "{id: b, key: canary-api-key-0123456789}, {id: shop,"),
        (
            "a secret for its file",
            "client_secret_file: client-secret",
            "client_secret: [canary-client-secret-0123456789]",
        ),
        (
            "two secrets",
            "client_secret_file: client-secret",
            "client_secret_file: client-secret, client_secret: canary-client-secret-0123456789",
        ),
        ("a password that is a list", "redis: {url", "redis: {password: [canary-redis-password], url"),
        ("a password that is a map", "redis: {url", "redis: {password: {a: canary-redis-password}, url"),
        ("broken YAML", "revocation: {store: redis", "revocation: {{store: redis"),
    ] {
        assert!(right.contains(from), "{what}");
        let text = right.replace(from, to).replace("/0\"}}", if what == "a list" { "/0\"]}}" } else { "/0\"}}" });
        std::fs::write(&file, text).unwrap();
        for command in ["validate", "serve"] {
            let (code, out, err) = run(&[command, "--config", path], "");
            assert_eq!(code, 2, "{what}: {out}{err}");
            holds_none(&format!("{command}: {what}"), &(out + &err), &SECRETS);
        }
    }
    std::fs::write(&file, &right).unwrap();
    for (name, value) in [
        ("DOORWARD__REVOCATION__REDIS__URL", "rediz://u:canary-redis-password@h/0"),
        ("DOORWARD__REVOCATION__REDIS__URL", "canary-redis-password"),
        ("DOORWARD__REVOCATION__REDIS__PASSWORD", "[canary-redis-password"),
        ("DOORWARD__REVOCATION__REDIS__PASWORD", "canary-redis-password"),
    ] {
        let (_, out, err) = run_with(&[(name, value)], &["validate", "--config", path], "");
        holds_none(&format!("{name}={value}"), &(out + &err), &[PASSWORD]);
    }
}

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

#[test]
fn a_leak_would_be_found_in_any_spelling() {
    let secret = "canary-token-0123456789";
    for skip in 0..3 {
        let text = URL_SAFE_NO_PAD.encode(format!("{}{secret}&more", &"abc"[..skip]));
        assert!(spellings(secret).iter().any(|spelling| text.contains(spelling)), "{text}");
    }
    for text in [
        secret.to_owned(),
        format!("{secret:?}"),
        format!("{:?}", secret.as_bytes()),
        format!("{:?}", secret.to_uppercase()),
    ] {
        assert!(spellings(secret).iter().any(|spelling| text.contains(spelling)), "{text}");
    }
}
