//! Empty, expired and chunked tokens: leftovers that a browser sends after an earlier sign-in.

use serde_json::{Value, json};

use crate::support::doorward::Doorward;
use crate::support::grpc::{Ask, Checks, ask, get};
use crate::support::tokens::{Tokens, now};

const RULES: &str = r"
token: {from: [{header: authorization, scheme: Bearer}, {header: x-token}, {cookie: session, chunks: true}, {query: access_token}, {websocket_protocol: bearer}]}
rules:
  - {name: optional, match: {path_prefix: /optional}, access: optional}
  - {name: lenient, match: {path_prefix: /lenient}, access: optional, bad_token: anonymous}
  - {name: refresh, match: {path: /refresh}, access: refresh}
  - {name: logout, match: {path: /logout}, access: sign_out, sign_out: {scope: token, then: respond}}
";

struct Fixture {
    tokens: Tokens,
    _doorward: Doorward,
    checks: Checks,
}

impl Fixture {
    async fn start(more: &str) -> Self {
        let tokens = Tokens::new();
        let rules = RULES.replace("token: {", &format!("token: {{{more}"));
        let doorward = Doorward::start(&tokens.config(&rules)).await;
        let checks = Checks::connect(&doorward.check).await;
        Self { tokens, _doorward: doorward, checks }
    }

    async fn reason(&self, ask: Ask) -> String {
        self.checks.check(ask).await.reason().to_owned()
    }

    /// A new token of alice, which expired an hour ago.
    fn expired(&self) -> String {
        self.tokens
            .with(json!({"iat": now() - 7200, "exp": now() - 3600, "jti": format!("{:x}", rand::random::<u128>())}))
    }
}

fn cookie(value: &str) -> (&'static str, String) {
    ("cookie", format!("a=1; session={value}; b=2"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_token_is_a_missing_one_everywhere() {
    let fixture = Fixture::start("").await;
    let good = fixture.tokens.of("alice");
    let empties: Vec<(String, Option<(&str, String)>)> = vec![
        (String::new(), Some(cookie(""))),
        (String::new(), Some(cookie("\"\""))),
        (String::new(), Some(cookie("\""))),
        (String::new(), Some(cookie("\" \""))),
        (String::new(), Some(cookie("%22%22"))),
        (String::new(), Some(cookie("%20"))),
        (String::new(), Some(("cookie", "session =".to_owned()))),
        (String::new(), Some(("cookie", "session_0=\"; session_1=%22%22".to_owned()))),
        (String::new(), Some(("cookie", "session_0=; session.0=".to_owned()))),
        (String::new(), Some(("authorization", "Bearer".to_owned()))),
        (String::new(), Some(("authorization", "Bearer  ".to_owned()))),
        (String::new(), Some(("authorization", "Bearer \"\"".to_owned()))),
        (String::new(), Some(("x-token", String::new()))),
        (String::new(), Some(("x-token", ",".to_owned()))),
        (String::new(), Some(("x-token", " , \"\"".to_owned()))),
        (String::new(), Some(("sec-websocket-protocol", "bearer".to_owned()))),
        (String::new(), Some(("sec-websocket-protocol", "bearer, bearer".to_owned()))),
        ("?access_token=".to_owned(), None),
        ("?a=1&access_token=&b=2".to_owned(), None),
        ("?%61ccess_token=".to_owned(), None),
        ("?access_token=%22%22&%61ccess_token=%20".to_owned(), None),
    ];
    for (query, header) in empties {
        let at = |path: &str| {
            let ask = get(&format!("{path}{query}"));
            header.iter().fold(ask, |ask, (name, value)| ask.header(name, value))
        };
        let what = format!("{query} {header:?}");
        assert_eq!(fixture.reason(at("/")).await, "missing_token", "{what}");
        for path in ["/optional", "/lenient", "/refresh"] {
            assert_eq!(fixture.reason(at(path)).await, "ok", "{what} {path}");
        }
        assert_eq!(fixture.reason(at("/logout")).await, "missing_token", "{what}");
        if header.as_ref().is_none_or(|(name, _)| *name != "authorization") {
            for path in ["/", "/optional", "/refresh"] {
                assert_eq!(fixture.reason(at(path).token(&good)).await, "ok", "{what} beside a good one, {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_ones_among_several_tokens_count_as_absent() {
    let fixture = Fixture::start("").await;
    let (good, other) = (fixture.tokens.of("alice"), fixture.tokens.of("bob"));
    let (one, two) = (fixture.expired(), fixture.expired());
    let with = |path: &str, bearer: &str, cookies: &[&str]| {
        let cookies: Vec<_> = cookies.iter().map(|value| format!("session={value}")).collect();
        get(path).token(bearer).header("cookie", cookies.join("; "))
    };
    for (bearer, cookies, reason) in [
        (&good, vec![one.as_str()], "ok"),
        (&one, vec![good.as_str()], "ok"),
        (&one, vec![two.as_str(), good.as_str()], "ok"),
        (&one, vec![two.as_str()], "expired"),
        (&good, vec![other.as_str()], "multiple_tokens"),
        (&good, vec![one.as_str(), other.as_str()], "multiple_tokens"),
        (&good, vec![good.as_str()], "ok"),
        // Only with a valid signature a token counts as expired.
        (&good, vec![&one[..one.len() - 4]], "multiple_tokens"),
    ] {
        let verdict = fixture.checks.check(with("/", bearer, &cookies)).await;
        assert_eq!(verdict.reason(), reason, "{bearer} {cookies:?}");
        if reason == "ok" {
            assert_eq!(verdict.headers["x-user-id"], "alice");
        }
    }
    // Other properties of an expired token do not matter: another use, another audience, a lifetime beyond the limit.
    for changes in [
        json!({"token_use": "refresh"}),
        json!({"aud": "other"}),
        json!({"iat": now() - 9_000_000}),
        json!({"sub": null, "jti": null}),
    ] {
        let mut claims = json!({"iat": now() - 7200, "exp": now() - 3600});
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let dead = fixture.tokens.with(claims);
        assert_eq!(fixture.reason(with("/", &good, &[&dead])).await, "ok", "{changes}");
    }
    // Two empty fields count as absent; any other two fields are refused.
    for raw in [false, true] {
        let twice = |first: &str, second: &str| {
            let ask = get("/optional").header("x-token", first).header("x-token", second);
            if raw { ask.raw() } else { ask }
        };
        assert_eq!(fixture.reason(twice("", "")).await, "ok", "{raw}");
        assert_eq!(fixture.reason(twice("", "\"\"").token(&good)).await, "ok", "{raw}");
        assert_eq!(fixture.reason(twice(&good, "")).await, "ok", "{raw}");
        assert_eq!(fixture.reason(twice(&good, &other)).await, "multiple_tokens", "{raw}");
    }
    // A flood of them is refused before their signatures are checked.
    let many: Vec<_> = (0..9).map(|_| fixture.expired()).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(fixture.reason(with("/", &good, &many)).await, "multiple_tokens");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_leftover_prevents_a_sign_out_or_a_sign_in() {
    let fixture = Fixture::start("").await;
    let garbage = "not-a-token";
    let stranger = Tokens::new().of("alice");
    for leftovers in [
        vec![fixture.expired()],
        vec![fixture.expired(), fixture.expired()],
        vec![garbage.to_owned()],
        vec![stranger.clone()],
        vec![String::new(), garbage.to_owned(), fixture.expired()],
        vec![fixture.tokens.of("alice")],
    ] {
        let cookies: Vec<_> = leftovers.iter().map(|value| format!("session={value}")).collect();
        let token = fixture.tokens.of("alice");
        let at = |path: &str| ask("POST", path).token(&token).header("cookie", cookies.join("; "));
        let refreshed = fixture.checks.check(at("/refresh")).await;
        assert_eq!((refreshed.reason(), refreshed.headers["x-user-id"].as_str()), ("ok", "alice"), "{leftovers:?}");
        assert_eq!(fixture.checks.check(at("/logout")).await.status, 204, "{leftovers:?}");
        assert_eq!(fixture.reason(get("/").token(&token)).await, "signed_out");
        assert_eq!(fixture.checks.check(at("/logout")).await.status, 204, "again: {leftovers:?}");
    }
    // Every token that verifies is signed out.
    let (one, two) = (fixture.tokens.of("alice"), fixture.tokens.of("bob"));
    let both = ask("POST", "/logout").token(&one).header("cookie", format!("session={two}"));
    assert_eq!(fixture.checks.check(both).await.status, 204);
    for token in [&one, &two] {
        assert_eq!(fixture.reason(get("/").token(token)).await, "signed_out");
    }
    // A second `Authorization` of any content is refused elsewhere.
    for raw in [false, true] {
        for second in [String::new(), "same".to_owned(), "Basic YTpi".to_owned(), format!("Bearer {stranger}")] {
            for swapped in [false, true] {
                let token = fixture.tokens.of("alice");
                let own = format!("Bearer {token}");
                let second = if second == "same" { own.clone() } else { second.clone() };
                let (first, second) = if swapped { (second, own) } else { (own, second) };
                let at = |path: &str| {
                    let ask = ask("POST", path).header("authorization", &first).header("authorization", &second);
                    if raw { ask.raw() } else { ask }
                };
                let what = format!("{first:.20} {second:.20} {raw}");
                assert_ne!(fixture.reason(at("/")).await, "ok", "{what}");
                let refreshed = fixture.checks.check(at("/refresh")).await;
                assert_eq!((refreshed.reason(), refreshed.headers["x-user-id"].as_str()), ("ok", "alice"), "{what}");
                assert_eq!(fixture.checks.check(at("/logout")).await.status, 204, "{what}");
                assert_eq!(fixture.reason(get("/").token(&token)).await, "signed_out", "{what}");
            }
        }
    }
    // Unverifiable cookies count as absent for a refresh: no user is named, and the cookie is removed.
    for dead in [stranger.clone(), garbage.to_owned(), fixture.tokens.with(json!({"aud": "other"})), "\"x".to_owned()] {
        let asked = get("/refresh").header("cookie", format!("session={dead}")).header("x-user-id", "root");
        let verdict = fixture.checks.check(asked).await;
        assert_eq!((verdict.reason(), verdict.status), ("ok", 200), "{dead}");
        assert!(verdict.removed.iter().any(|name| name == "x-user-id"), "{verdict:?}");
        assert!(verdict.removed.iter().any(|name| name == "cookie"), "no service reads it by itself: {verdict:?}");
        assert_ne!(fixture.reason(get("/logout").header("cookie", format!("session={dead}"))).await, "ok", "{dead}");
        let beside = get("/refresh").header("cookie", format!("session={dead}")).token(garbage);
        assert_eq!(fixture.reason(beside).await, "malformed_token");
    }
    // A token that does not verify is not enough.
    assert_eq!(fixture.reason(get("/refresh").token(&stranger)).await, "unknown_key");
    assert_eq!(fixture.reason(get("/logout").token(garbage)).await, "malformed_token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_may_count_as_none() {
    let fixture = Fixture::start("").await;
    let revoked = fixture.tokens.of("carol");
    assert_eq!(fixture.checks.check(ask("POST", "/logout").token(&revoked)).await.status, 204);
    let (good, other) = (fixture.tokens.of("alice"), fixture.tokens.of("bob"));
    for (what, bad) in [
        ("expired", fixture.expired()),
        ("revoked", revoked),
        ("of another key", Tokens::new().of("alice")),
        ("for another audience", fixture.tokens.with(json!({"aud": "other"}))),
        ("malformed", "x.y".to_owned()),
        ("two", format!("{good},Bearer {other}")),
    ] {
        assert_ne!(fixture.reason(get("/optional").token(&bad)).await, "ok", "{what}");
        let verdict = fixture.checks.check(get("/lenient").token(&bad).header("x-user-id", "root")).await;
        assert_eq!(verdict.reason(), "ok", "{what}");
        assert!(verdict.removed.iter().any(|name| name == "x-user-id"), "{what}: anonymous");
        assert!(verdict.removed.iter().any(|name| name == "authorization"), "{what}: no service reads it by itself");
        assert!(!verdict.metadata.contains_key("user_id"), "{what}: {verdict:?}");
    }
    let verdict = fixture.checks.check(get("/lenient").token(&good)).await;
    assert_eq!((verdict.reason(), verdict.headers["x-user-id"].as_str()), ("ok", "alice"));
    assert!(!verdict.removed.iter().any(|name| name == "authorization"), "{verdict:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_are_read_quoted_and_in_chunks() {
    let fixture = Fixture::start("forward: false, ").await;
    let token = fixture.tokens.of("alice");
    let (head, tail) = token.split_at(100);
    let (middle, end) = tail.split_at(50);
    for cookie in [
        format!("session=\"{token}\""),
        format!("session_0={head}; session_1={middle}; session_2={end}"),
        format!("session_2={end}; a=1; session_0={head}; session_1={middle}"),
        format!("session.0={head}; session.1={tail}"),
        format!("session.0=\"{head}\"; session.1=\"{tail}\""),
        format!("session=; session_0={head}; session_1={tail}; session_2="),
        format!("session={token}; session_0={head}; session_1={tail}"),
    ] {
        let verdict = fixture.checks.check(get("/").header("cookie", format!("keep=1; {cookie}; sessions=2"))).await;
        assert_eq!(verdict.reason(), "ok", "{cookie}");
        assert!(!verdict.headers["cookie"].contains(end), "{cookie}: {:?}", verdict.headers["cookie"]);
        assert!(verdict.headers["cookie"].contains("keep=1") && verdict.headers["cookie"].contains("sessions=2"));
    }
    for (cookie, reason) in [
        (format!("session_1={tail}"), "missing_token"),
        (format!("session_0={head}"), "malformed_token"),
        (format!("session_0={head}; session_2={tail}"), "malformed_token"),
        (format!("session_0={head}; session_0=x; session_1={tail}"), "multiple_tokens"),
        (format!("session-0={head}; session-1={tail}"), "missing_token"),
        (format!("session=\"{token}"), "malformed_token"),
    ] {
        assert_eq!(fixture.reason(get("/").header("cookie", &cookie)).await, reason, "{cookie}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_parameter_that_is_there_is_removed() {
    let fixture = Fixture::start("forward: false, ").await;
    let good = fixture.tokens.of("alice");
    for (query, removed) in [
        ("", vec![]),
        ("?a=1&b=%20x", vec![]),
        ("?my_access_token=1", vec![]),
        ("?a=1&access_token=", vec!["access_token"]),
        ("?access_token", vec!["access_token"]),
        ("?a=1&%61ccess_token=", vec!["access_token", "%61ccess_token"]),
    ] {
        let verdict = fixture.checks.check(get(&format!("/lenient{query}")).token(&good)).await;
        assert_eq!(
            (verdict.status, verdict.removed_query),
            (200, removed.into_iter().map(str::to_owned).collect()),
            "{query}"
        );
    }
    let verdict = fixture.checks.check(get(&format!("/?access_token={good}"))).await;
    assert_eq!((verdict.reason(), &verdict.removed_query), ("ok", &vec!["access_token".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_brings_its_token_as_a_subprotocol() {
    use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
    for (more, forwards) in [("", true), ("forward: false, ", false)] {
        let fixture = Fixture::start(more).await;
        let good = fixture.tokens.of("alice");
        for (offer, rest, selected) in [
            (format!("bearer, {good}"), None, true),
            (format!("bearer,{good}, chat"), Some("chat"), false),
            (format!("chat, bearer, {good}"), Some("chat"), false),
        ] {
            let asked = get("/").header("sec-websocket-protocol", &offer);
            let verdict = fixture.checks.check(asked.clone()).await;
            assert_eq!(verdict.reason(), "ok", "{offer}");
            let answer = fixture.checks.send(asked.message()).await.unwrap().http_response;
            let Some(HttpResponse::OkResponse(ok)) = answer else { panic!("{answer:?}") };
            let told = ok.response_headers_to_add.iter().map(|option| {
                let header = option.header.as_ref().unwrap();
                (header.key.as_str(), header.value.as_str(), option.append_action)
            });
            let expected = (forwards || selected).then_some(("sec-websocket-protocol", "bearer", 1));
            assert_eq!(told.collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>(), "{offer}");
            if !forwards {
                let sent = verdict.headers.get("sec-websocket-protocol").map(String::as_str);
                assert_eq!(sent, rest, "the upstream does not see the token");
                assert_eq!(verdict.removed.iter().any(|name| name == "sec-websocket-protocol"), rest.is_none());
            }
        }
        let (other, dead) = (fixture.tokens.of("bob"), fixture.expired());
        for (lines, reason, rest) in [
            (vec![format!("bearer, {dead}, bearer, {good}")], "ok", None),
            (vec![format!("bearer, {dead}"), format!("chat, bearer, {good}, v2")], "ok", Some("chat, v2")),
            (vec![format!("bearer, bearer, {good}")], "ok", None),
            (vec![format!("bearer, {good}, bearer, {good}, bearer")], "ok", None),
            (vec![format!("bearer, {good}, bearer, {other}")], "multiple_tokens", None),
            (vec![format!("bearer, {good}"), format!("bearer, {other}")], "multiple_tokens", None),
            (vec![format!("bearer, {dead}, bearer, {}", fixture.expired())], "expired", None),
        ] {
            for raw in [false, true] {
                let asked = lines.iter().fold(get("/"), |ask, line| ask.header("sec-websocket-protocol", line));
                let verdict = fixture.checks.check(if raw { asked.raw() } else { asked }).await;
                assert_eq!(verdict.reason(), reason, "{lines:?}");
                if reason == "ok" && !forwards {
                    assert_eq!(verdict.headers.get("sec-websocket-protocol").map(String::as_str), rest, "{lines:?}");
                }
            }
        }
        // A sign-out revokes every token of the offer.
        let (one, two) = (fixture.tokens.of("carol"), fixture.tokens.of("dave"));
        let offer = format!("bearer, {one}, bearer, {two}");
        let verdict = fixture.checks.check(ask("POST", "/logout").header("sec-websocket-protocol", &offer)).await;
        assert_eq!(verdict.status, 204);
        for token in [&one, &two] {
            assert_eq!(fixture.reason(get("/").token(token)).await, "signed_out");
        }
        assert_eq!(fixture.reason(get("/").header("sec-websocket-protocol", "chat")).await, "missing_token");
        assert_eq!(fixture.reason(get("/").header("sec-websocket-protocol", "bearer, x")).await, "malformed_token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_mean_nothing_else_are_read_by_default() {
    let fixture = Fixture::start("").await;
    for (claim, field) in
        [("session_id", "session_id"), ("origin_jti", "session_id"), ("cid", "client_id"), ("appid", "client_id")]
    {
        let mut changes = json!({"sid": null, "azp": null});
        changes[claim] = Value::from("named");
        let verdict = fixture.checks.check(get("/").token(&fixture.tokens.with(changes))).await;
        assert_eq!(verdict.metadata.get(field).map(String::as_str), Some("named"), "{claim}");
    }
}
