//! Spoofed identities: identity headers of clients, their look-alikes, and ways around both.

use super::{Corpus, Expected, KEYS, good, right_claims};
use crate::support::grpc::{Ask, Verdict, ask, get};

/// Everything that the fixture's configuration owns.
const OWNED: [&str; 8] = [
    "x-user-id",
    "x-user-email",
    "x-session-id",
    "x-client-id",
    "x-token-id",
    "x-scopes",
    "x-role",
    "x-doorward-stale",
];

/// Spellings of a name that a back end may fold onto it, one change of `-` at a time and all at once.
fn look_alikes(name: &str) -> Vec<String> {
    let dashes: Vec<_> = name.match_indices('-').map(|(at, _)| at).collect();
    let mut all = vec![name.to_owned(), name.replace('-', "_"), name.replace('-', ".")];
    for at in dashes {
        for other in ["_", "."] {
            let mut spelled = name.to_owned();
            spelled.replace_range(at..=at, other);
            all.push(spelled);
        }
    }
    all
}

fn spoofed(ask: Ask) -> Ask {
    let names = OWNED.iter().flat_map(|name| look_alikes(name));
    names.fold(ask, |ask, name| ask.header(&name, "root").header(&name.to_uppercase(), "root"))
}

/// The spoofed headers that would arrive upstream.
fn arriving(verdict: &Verdict) -> Vec<String> {
    let gone = |name: &String| verdict.headers.contains_key(name) || verdict.removed.contains(name);
    OWNED.iter().flat_map(|name| look_alikes(name)).filter(|name| !gone(name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_identity_is_spoofed_on_any_route() {
    let corpus = Corpus::start().await;
    let good = good();
    let stranger = KEYS.stranger.token("ES256", super::EC_HEADER, &right_claims());
    let mut asked = 0;
    for (what, request) in [
        ("a good token", get("/").token(&good)),
        ("public", get("/public/x")),
        ("public with a good token", get("/public/x").token(&good)),
        ("public with a stranger's token", get("/public/x").token(&stranger)),
        ("public with two tokens", get("/public/x").token(&good).token(&stranger)),
        ("optional", get("/optional")),
        ("optional with a good token", get("/optional").token(&good)),
        ("a shadow rule", get("/shadow")),
        ("a shadow rule with a stranger's token", get("/shadow").token(&stranger)),
        ("refresh without a token", ask("POST", "/refresh")),
        ("refresh", ask("POST", "/refresh").token(&good)),
        (
            "preflight",
            ask("OPTIONS", "/public/x")
                .header("origin", "https://shop.example.com")
                .header("access-control-request-method", "GET"),
        ),
        ("websocket", get("/public/ws").header("upgrade", "websocket").header("connection", "upgrade")),
        ("sign-out", ask("POST", "/logout").token(&good)),
    ] {
        for request in [spoofed(request.clone()), spoofed(request).raw()] {
            let verdict = corpus.checks.check(request).await;
            assert!(verdict.allowed(), "{what}: {verdict:?}");
            assert_eq!(arriving(&verdict), Vec::<String>::new(), "{what}");
            assert!(verdict.headers.values().all(|value| value != "root"), "{what}: {verdict:?}");
            let known = ["a good token", "optional with a good token", "refresh", "sign-out"].contains(&what);
            assert_eq!(verdict.headers.contains_key("x-user-id"), known, "{what}");
            asked += 1;
        }
    }
    eprintln!("corpus spoofed identities: {asked} requests of {} spoofed headers", OWNED.len() * 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_header_changes_the_decision() {
    let mut corpus = Corpus::start().await;
    for (name, value) in [
        ("x-user-id", "root"),
        ("x-doorward-rule", "public"),
        ("doorward.rule", "public"),
        ("x-envoy-original-path", "/public/x"),
        ("x-original-url", "/public/x"),
        ("x-rewrite-url", "/public/x"),
        ("x-forwarded-uri", "/public/x"),
        ("x-forwarded-prefix", "/public"),
        ("x-forwarded-host", "public"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-client-cert", "By=x;Hash=y"),
        ("x-envoy-internal", "true"),
        ("x-http-method-override", "OPTIONS"),
        ("x-method-override", "POST"),
        (":path", "/public/x"),
        (":method", "POST"),
        (":authority", "public"),
        ("host", "public"),
        ("x-ext-authz-check-result", "allowed"),
        ("x-jwt-payload", "eyJzdWIiOiJyb290In0"),
        ("traceparent", "00-zz-zz-01"),
        ("x-request-id", "a\r\nb"),
    ] {
        for raw in [false, true] {
            let ask =
                |path: &str| if raw { get(path).header(name, value).raw() } else { get(path).header(name, value) };
            corpus.ask(format!("{name}: {value}"), ask("/private"), Expected::Refused(&["missing_token"]));
            corpus.ask(format!("{name}: {value}, with a token"), ask("/private").token(&good()), Expected::Allowed);
        }
    }
    let many = |count: usize| (0..count).fold(get("/").token(&good()), |ask, n| ask.header(&format!("x-h{n}"), "v"));
    corpus.ask("900 headers", many(900), Expected::Allowed);
    corpus.ask("1,100 headers", many(1100), Expected::Refused(&["bad_request"]));
    for (what, request) in [
        ("no path", get("")),
        ("a star", ask("OPTIONS", "*")),
        ("an authority", ask("CONNECT", "evil.example:443")),
        ("an absolute form", get("http://shop.example.com/public/x")),
        ("no method", ask("", "/private")),
        ("an odd method", ask("GET /public HTTP/1.1\r\n", "/private")),
        ("a lower-case method", ask("post", "/refresh")),
        ("a path with a line end", get("/public\r\n/../private")),
        ("a path with NUL", get("/public/\0")),
        ("a path of 100 KB", get(&format!("/{}", "a".repeat(100_000)))),
        ("a path of 10,000 slashes", get(&"/".repeat(10_000))),
        ("a path of 10,000 dots", get(&"/..".repeat(10_000))),
        ("escapes without end", get(&format!("/public/%{}2e", "25".repeat(1000)))),
        ("another case", get("/PUBLIC/x")),
        ("a look-alike", get("/publiс/x")),
        ("a prefix of a segment", get("/publicity")),
    ] {
        corpus.ask(what, request, Expected::Refused(&["missing_token", "bad_request"]));
    }
    corpus.run("requests").await;
}
