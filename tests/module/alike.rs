//! Service and module side by side: status, headers, body, the upstream request, and metadata.

use serde_json::{Value, json};

use super::sides::{Row, Sides, bootstrap, command, filter, listener};
use crate::paths;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::raw::Client;
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

/// A configuration that uses everything which shapes an answer.
const RICH: &str = r"
token:
  forward: false
  from:
    - {header: authorization, scheme: Bearer}
    - {cookie: session, chunks: true}
    - {query: access_token}
    - {websocket_protocol: bearer}
identity:
  headers: {x-user-id: user_id, x-user-email: email, x-session-id: session_id, x-client: api_client}
  payload: {header: x-identity}
api_keys:
  header: x-api-key
  keys:
    - {id: web-shop, sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, platforms: [web], domains: [shop.example.com]}
rules:
  - {name: public, match: {path_prefix: /public}, access: public}
  - {name: optional, match: {path_prefix: /optional}, access: optional, bad_token: anonymous}
  - {name: shadow, match: {path_prefix: /shadow}, enforce: false}
  - {name: refresh, match: {path: /refresh, methods: [POST]}, access: refresh}
  - {name: leave, match: {path: /leave, methods: [POST]}, access: sign_out, sign_out: {scope: token, then: respond}}
  - {name: logout, match: {path: /logout, methods: [POST]}, access: sign_out, sign_out: {scope: token, then: forward}}
  - {name: keyed, match: {path_prefix: /keyed}, api_key: required}
  - {name: admin, match: {path_prefix: /admin}, require: {scopes: [admin], max_age: 15m, acr: [mfa]}}
";

const HOST: (&str, &str) = ("host", "shop.example.com");

#[track_caller]
fn assert_alike(apart: &[String]) {
    assert!(apart.is_empty(), "{} answered otherwise:\n{}", apart.len(), apart.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_every_kind_are_answered_alike() {
    let Some(binary) = envoy::binary() else { return };
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(RICH)).await;
    let sides = Sides::start(&binary, &doorward).await;
    let good = tokens.of("alice");
    let bearer = format!("Bearer {good}");
    let authorization = ("authorization", bearer.as_str());
    let row = |what: &str, method: &str, target: &str, headers: &[(&str, &str)]| {
        Row::new(what, method, target, &[&[HOST], headers].concat())
    };
    let mut rows = vec![
        row("no token", "GET", "/", &[]),
        row("a good token", "GET", "/", &[authorization]),
        row("the same token again", "GET", "/a?b=c", &[authorization]),
        row("an unreadable token", "GET", "/", &[("authorization", "Bearer a.b.c")]),
        row("another scheme", "GET", "/", &[("authorization", "Basic YTpi")]),
        row("two tokens", "GET", "/?access_token=x", &[authorization]),
        row("an expired token", "GET", "/", &[])
            .with("authorization", &format!("Bearer {}", tokens.with(json!({"exp": 1})))),
        row("public", "GET", "/public/x", &[]),
        row("optional with a bad token", "GET", "/optional", &[("authorization", "Bearer a.b.c")]),
        row("shadow", "GET", "/shadow", &[]),
        row("refresh without a token", "POST", "/refresh", &[]),
        row("the scope is missing", "GET", "/admin", &[authorization]),
        row("a cookie", "GET", "/", &[("cookie", &format!("a=1; session={good}; b=2"))]),
        row(
            "a cookie in chunks",
            "GET",
            "/",
            &[("cookie", &format!("session_0={}; session_1={}", &good[..40], &good[40..]))],
        ),
        row("a cookie alone", "GET", "/", &[("cookie", &format!("session={good}"))]),
        row("the query", "GET", &format!("/a?z&access_token={good}&b=2&b=1&c=d=e"), &[]),
        row("the query alone", "GET", &format!("/a?access_token={good}"), &[]),
        row("the query by escapes", "GET", &format!("/a?%61ccess_token={good}&access_token={good}&&y"), &[]),
        row("a subprotocol", "GET", "/", &[("sec-websocket-protocol", &format!("bearer, {good}"))]),
        row(
            "a subprotocol among others",
            "GET",
            "/",
            &[("sec-websocket-protocol", &format!("chat, bearer, {good}, mqtt"))],
        ),
        row("no key", "GET", "/keyed", &[authorization]),
        row(
            "a key",
            "GET",
            "/keyed",
            &[
                authorization,
                ("x-api-key", "secret"),
                ("origin", "https://shop.example.com"),
                ("x-client-platform", "web"),
            ],
        ),
        row(
            "a key of elsewhere",
            "GET",
            "/keyed",
            &[authorization, ("x-api-key", "secret"), ("origin", "https://evil.test")],
        ),
        row("HEAD", "HEAD", "/", &[]),
        row("OPTIONS", "OPTIONS", "/", &[("origin", "https://a.test"), ("access-control-request-method", "GET")]),
        row("an unknown method", "BREW", "/", &[authorization]),
        row("the rule of a route", "GET", "/by-route/x", &[]),
        row("the rule of a route, another path", "GET", "/by-route/../admin", &[]),
        row("a trace", "GET", "/", &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]),
        row("a control byte", "GET", "/\u{1}", &[]),
        row("beyond ASCII", "GET", "/é", &[authorization]),
        row("a value beyond ASCII", "GET", "/", &[authorization, ("x-user-email", "é")]),
        row("no host", "GET", "/", &[]),
    ];
    for name in ["x-user-id", "x-user-email", "x-session-id", "x-client", "x-identity", "x-doorward-stale"] {
        for spelled in [
            name.to_owned(),
            name.replace('-', "_"),
            name.replace('-', "."),
            name.to_uppercase(),
            name.replacen('-', "_", 1),
        ] {
            for (target, with_token) in [("/public", false), ("/optional", true), ("/", true), ("/", false)] {
                let mut spoofed = row(
                    &format!("{spelled} of the client at {target}"),
                    "GET",
                    target,
                    &[(&spelled, "admin"), (&spelled, "root")],
                );
                if with_token {
                    spoofed = spoofed.with("authorization", &bearer);
                }
                rows.push(spoofed);
            }
        }
    }
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc-web", "Application/grpc"] {
        for (target, token) in [
            ("/", None),
            ("/", Some("Bearer a.b.c")),
            ("/admin", Some(bearer.as_str())),
            ("/keyed", None),
            ("/by-route/x", None),
        ] {
            let mut grpc = row(
                &format!("{content_type} at {target}"),
                "POST",
                target,
                &[("content-type", content_type), ("te", "trailers")],
            );
            if let Some(token) = token {
                grpc = grpc.with("authorization", token);
            }
            rows.push(grpc);
        }
    }
    let many: Vec<_> = (0..1500).map(|at| format!("x-{at}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "v")).collect();
    rows.push(row("too many headers", "GET", "/public", &many));
    // Requests that change the state come last, on both sides in the same order.
    for _ in 0..2 {
        rows.push(row("sign-out, answered", "POST", "/leave", &[authorization]));
        rows.push(row("after the sign-out", "GET", "/", &[authorization]));
        rows.push(row("sign-out of no token", "POST", "/leave", &[]));
    }
    let other = format!("Bearer {}", tokens.of("bob"));
    rows.push(row("sign-out, forwarded", "POST", "/logout", &[("authorization", &other)]));
    rows.push(row("after it", "GET", "/", &[("authorization", &other)]));
    rows.push(row("after it, refresh", "POST", "/refresh", &[("authorization", &other)]));
    assert_alike(&sides.compare(&rows).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn path_tricks_are_answered_alike() {
    let Some(binary) = envoy::binary() else { return };
    let tokens = Tokens::new();
    // The rules of the other test; the name of the route's rule is this harness's.
    let doorward = Doorward::start(&tokens.config(paths::RULES)).await;
    let sides = Sides::start(&binary, &doorward).await;
    let user = format!("Bearer {}", tokens.of("alice"));
    let mut rows = Vec::new();
    for (_, target) in paths::attacks() {
        rows.push(Row::new(&target, "GET", &target, &[HOST]));
        rows.push(Row::new(format!("{target} of alice"), "GET", &target, &[HOST, ("authorization", &user)]));
    }
    assert_alike(&sides.compare(&rows).await);
}

/// Valid requests with some mutations, by a generator with a seed.
#[tokio::test(flavor = "multi_thread")]
async fn mutated_requests_are_answered_alike() {
    const ROWS: usize = 20_000;
    let Some(binary) = envoy::binary() else { return };
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(RICH)).await;
    let sides = Sides::start(&binary, &doorward).await;
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(21);
    let mut random = Random(seed);
    let good = [tokens.of("alice"), tokens.with(json!({"scope": "admin"})), tokens.with(json!({"exp": 1}))];
    let rows: Vec<_> = (0..ROWS).map(|at| mutated(&mut random, &good, at)).collect();
    let parts: Vec<_> = rows.chunks(ROWS / 8).collect();
    let mut apart = Vec::new();
    for part in parts {
        apart.extend(sides.compare(part).await);
    }
    eprintln!("{ROWS} rows of seed {seed}, {} reached the upstream", sides.upstream.seen());
    assert!(sides.upstream.seen() > ROWS / 20, "a few are good");
    assert_alike(&apart);
}

/// Marsaglia's xorshift64: the same rows for the same seed, on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

fn mutated(random: &mut Random, good: &[String], at: usize) -> Row {
    const METHODS: [&str; 7] = ["GET", "POST", "HEAD", "OPTIONS", "DELETE", "get", "PATCH"];
    const TARGETS: [&str; 16] = [
        "/",
        "/public/x",
        "/optional",
        "/shadow/x",
        "/refresh",
        "/keyed/x",
        "/admin",
        "/by-route/x",
        "/public/../admin",
        "/%70ublic/x",
        "/PUBLIC",
        "/public//x",
        "/public/x;a",
        "/a?b=c&d",
        "/a?access_token=x&b",
        "/public/%2e%2e/admin",
    ];
    const NAMES: [&str; 14] = [
        "x-user-id",
        "x_user_id",
        "x.user.id",
        "X-User-Email",
        "x-identity",
        "x-doorward-stale",
        "x-client",
        "cookie",
        "x-api-key",
        "origin",
        "referer",
        "sec-websocket-protocol",
        "content-type",
        "authorization",
    ];
    const VALUES: [&str; 12] = [
        "admin",
        "",
        "session=x; a=b",
        "bearer, x",
        "application/grpc",
        "application/grpc+json",
        "https://shop.example.com",
        "Bearer ",
        "Bearer a.b.c",
        "bearer x, y",
        "web",
        "\t\u{e9} ,",
    ];
    let mut row = Row::new("", METHODS[random.below(METHODS.len())], TARGETS[random.below(TARGETS.len())], &[HOST]);
    if random.below(4) > 0 {
        let mut token = random.one(good).clone();
        if random.below(3) == 0 {
            let place = random.below(token.len());
            let with = *random.one(b"Aa0-_.=+/ ");
            token.replace_range(place..=place, &char::from(with).to_string());
        }
        match random.below(6) {
            0 => row = row.with("cookie", &format!("a=1; session={token}")),
            1 => {
                let joint = if row.target.contains('?') { '&' } else { '?' };
                row.target = format!("{}{joint}access_token={token}", row.target);
            }
            2 => row = row.with("sec-websocket-protocol", &format!("bearer, {token}")),
            _ => row = row.with("authorization", &format!("Bearer {token}")),
        }
    }
    for _ in 0..random.below(4) {
        let (name, value) = (*random.one(&NAMES), *random.one(&VALUES));
        row = row.with(name, value);
    }
    row.target = row.target.replace(' ', "%20");
    row.what = format!("{at} {} {} {:?}", row.method, row.target, row.headers);
    row
}

/// By default the facts are one value of the filter state, a JSON object.
#[tokio::test(flavor = "multi_thread")]
async fn facts_are_one_value_of_the_filter_state() {
    let Some(binary) = envoy::binary() else { return };
    let tokens = Tokens::new();
    let config: Value = serde_json::from_str(&inline(&tokens)).unwrap();
    let upstream = Upstream::start().await;
    let listeners = [
        listener(
            "default",
            &[filter(&json!({"inline": config}))],
            "FACTS %FILTER_STATE(doorward:PLAIN)% %RESPONSE_CODE_DETAILS%",
        ),
        listener("none", &[filter(&json!({"inline": config, "facts": "none"}))], "NONE %FILTER_STATE(doorward:PLAIN)%"),
    ];
    let envoy = Envoy::start_by(command(&binary), &bootstrap(&listeners, upstream.address, None)).await;
    let authorization = ("authorization".to_owned(), format!("Bearer {}", tokens.of("alice")).into_bytes());
    let host = ("host".to_owned(), b"shop.example.com".to_vec());
    for (name, headers, status) in [
        ("default", vec![host.clone(), authorization.clone()], 200),
        ("default", vec![host.clone()], 401),
        ("none", vec![host.clone(), authorization.clone()], 200),
    ] {
        let mut client = Client::new(super::sides::address(&envoy, name).await);
        assert_eq!(client.send("GET", "/", &headers).await.status, status, "{name}");
    }
    let lines = |mark: &str| -> Vec<String> {
        envoy.log().lines().filter_map(|line| line.strip_prefix(mark)).map(str::to_owned).collect()
    };
    eventually("the access log is written", || async { lines("FACTS ").len() == 2 && lines("NONE ").len() == 1 }).await;
    let facts = |line: &str| -> (Value, String) {
        let (facts, details) = line.rsplit_once(' ').unwrap();
        (serde_json::from_str(facts).unwrap(), details.to_owned())
    };
    let (allowed, details) = facts(&lines("FACTS ")[0]);
    assert_eq!(
        (&allowed["decision"], &allowed["rule"], &allowed["reason"], &allowed["issuer"], &allowed["user_id"]),
        (&json!("allowed"), &json!("default"), &json!("ok"), &json!("dev"), &json!("alice"))
    );
    assert_eq!(details, "via_upstream");
    let (denied, details) = facts(&lines("FACTS ")[1]);
    assert_eq!(denied, json!({"decision": "denied", "rule": "default", "reason": "missing_token"}));
    assert_eq!(details, "doorward_missing_token");
    assert_eq!(lines("NONE "), ["-"]);
}

/// A configuration of Doorward as JSON, for `inline`.
pub fn inline(tokens: &Tokens) -> String {
    json!({
        "listen": {"http": "127.0.0.1:0"},
        "revocation": {"store": "embedded"},
        "issuers": [{
            "name": "dev", "issuer": doorward::dev::ISSUER, "audiences": [doorward::dev::AUDIENCE],
            "keys": {"jwks": tokens.issuer.jwks()},
        }],
        "rules": [{"name": "public", "match": {"path_prefix": "/public"}, "access": "public"}],
    })
    .to_string()
}

/// The example, with its own values for the rest of the configuration.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_signs_out_at_once() {
    let Some(binary) = envoy::binary() else { return };
    for binary in std::iter::once(binary).chain(oldest()) {
        let (tokens, dir, upstream) = (Tokens::new(), crate::support::TempDir::new(), Upstream::start().await);
        let rules = "rules:\n  - {name: health, match: {path: /never}, access: public}\n  \
                     - {name: logout, match: {path: /auth/logout, methods: [POST]}, access: sign_out}\n";
        let file = dir.path().join("doorward.yaml");
        std::fs::write(&file, format!("listen: {{http: \"127.0.0.1:0\"}}\n{}", tokens.config(rules))).unwrap();
        let text = envoy::text("envoy/edge-module.yaml", "127.0.0.1:1", upstream.address);
        let text = text.replace("/etc/doorward/doorward.yaml", &file.display().to_string());
        let envoy = Envoy::start_by(command(&binary), &text).await;
        let client = reqwest::Client::new();
        let get = async |path: &str, token: Option<&str>| {
            let request = client.get(envoy.url(path)).header("x-user-id", "root");
            let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        };
        let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
        assert_eq!(get("/orders", None).await.1["reason"], "missing_token");
        assert_eq!(get("/healthz", None).await.0, 200, "the route names its rule");
        assert_eq!(get("/orders", Some(&alice)).await.1["headers"]["x-user-id"], "alice");
        let logout = client.post(envoy.url("/auth/logout")).bearer_auth(&alice).send().await.unwrap();
        assert_eq!(logout.status(), 200);
        let (status, body) = get("/orders", Some(&alice)).await;
        assert_eq!((status, body["reason"].as_str()), (401, Some("signed_out")), "{binary}");
        assert_eq!(get("/orders", Some(&bob)).await.0, 200);
        eventually("the access log names the reason and the user", || async {
            let log = envoy.log();
            log.lines().any(|line| line.contains("signed_out") && line.contains("alice"))
        })
        .await;
        assert!(!envoy.log().contains(&alice), "no token in the log");
    }
}

/// The oldest Envoy that the module is for, if `ENVOY_MODULE_OLDEST` names its binary.
fn oldest() -> Option<String> {
    std::env::var("ENVOY_MODULE_OLDEST").ok().filter(|path| !path.is_empty())
}
