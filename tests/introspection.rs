//! Tokens that their issuer is asked about (RFC 7662).

mod provider;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::api::{admin_keys, revoke};
use crate::support::PATIENCE;
use crate::support::authorization_server::{AuthorizationServer, CLIENT_SECRET};
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, Verdict, ask, get};
use crate::support::tokens::{Tokens, now};

const RULES: &str = r"
rules:
  - {name: public, match: {path: /public}, access: public}
  - {name: scoped, match: {path: /scoped}, require: {scopes: [write]}}
  - {name: admin, match: {path: /admin}, require: {scopes: [admin]}}
  - {name: refresh, match: {path: /refresh}, access: refresh}
  - {name: logout, match: {path: /logout}, access: sign_out, sign_out: {scope: token, then: respond}}
  - {name: logout-session, match: {path: /logout-session}, access: sign_out, sign_out: {scope: session, then: respond}}
";

struct Fixture {
    tokens: Tokens,
    server: AuthorizationServer,
    doorward: Doorward,
    checks: Checks,
}

impl Fixture {
    /// `settings` of the introspection, beginning with a comma.
    async fn start(settings: &str) -> Self {
        let (tokens, server) = (Tokens::new(), AuthorizationServer::start().await);
        let config = with_introspection(&tokens.config(RULES), &server.settings(settings));
        let doorward = Doorward::start(&config).await;
        let checks = Checks::connect(&doorward.check).await;
        Self { tokens, server, doorward, checks }
    }

    async fn check(&self, token: &str) -> Verdict {
        self.checks.check(get("/").token(token)).await
    }

    async fn reason(&self, token: &str) -> String {
        self.check(token).await.reason().to_owned()
    }

    async fn counted(&self, result: &str) -> f64 {
        let series = format!("doorward_introspections_total{{issuer=\"dev\",result=\"{result}\"}}");
        self.doorward.metric(&series).await.unwrap_or(0.0)
    }
}

fn with_introspection(config: &str, settings: &str) -> String {
    config.replace("keys: {jwks", &format!("{settings}, keys: {{jwks"))
}

fn changed(changes: &Value) -> Value {
    let mut response = AuthorizationServer::active("alice");
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            response.as_object_mut().unwrap().remove(name);
        } else {
            response[name] = value.clone();
        }
    }
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_token_is_decided_by_its_issuer() {
    let fixture = Fixture::start("").await;
    let server = &fixture.server;
    server.says("opaque-1", &AuthorizationServer::active("alice"));
    let verdict = fixture.check("opaque-1").await;
    assert_eq!((verdict.headers["x-user-id"].as_str(), verdict.reason()), ("alice", "ok"), "{verdict:?}");
    assert_eq!(verdict.headers["x-user-email"], "alice@example.com");
    for (name, value) in [("issuer", "dev"), ("client_id", "shop-web"), ("session_id", "session-of-alice")] {
        assert_eq!(verdict.metadata[name], value);
    }
    assert!(fixture.checks.check(get("/scoped").token("opaque-1")).await.allowed());
    assert_eq!(fixture.checks.check(get("/admin").token("opaque-1")).await.reason(), "insufficient_scope");
    assert_eq!(server.questions(), ["opaque-1"], "asked once, then remembered");

    for _ in 0..3 {
        let refused = fixture.check("unknown").await;
        assert_eq!((refused.status, refused.reason()), (401, "token_inactive"));
        assert!(refused.headers["www-authenticate"].contains("error=\"invalid_token\""));
    }
    assert_eq!(server.questions_about("unknown"), 1);

    // A JWT is verified here, whatever its faults; a public route does not ask the issuer.
    let good = fixture.tokens.of("bob");
    let (signed, _) = good.rsplit_once('.').unwrap();
    let (header, _) = signed.split_once('.').unwrap();
    assert_eq!(fixture.reason(&good).await, "ok");
    for (broken, reason) in [
        (format!("{signed}.AAAA"), "bad_signature"),
        (format!("{header}.e30"), "malformed_token"),
        (format!("{good}.x.y"), "malformed_token"),
        (format!("{header}=.e30.AA"), "malformed_token"),
    ] {
        server.says(&broken, &AuthorizationServer::active("mallory"));
        assert_eq!(fixture.reason(&broken).await, reason);
    }
    assert!(fixture.checks.check(get("/public").token("opaque-2")).await.allowed());
    assert_eq!(server.questions(), ["opaque-1", "unknown"]);
    assert_eq!((fixture.counted("active").await, fixture.counted("inactive").await), (1.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_responses_get_the_checks_of_a_token() {
    let fixture = Fixture::start("").await;
    let cases = [
        (json!({}), "ok"),
        (json!({"iss": null, "iat": null, "jti": null, "sid": null}), "ok"),
        (json!({"aud": ["x", "demo"]}), "ok"),
        (json!({"iss": "https://evil.example"}), "unknown_issuer"),
        (json!({"iss": 7}), "invalid_claim"),
        (json!({"aud": "other"}), "wrong_audience"),
        (json!({"aud": null}), "missing_claim"),
        (json!({"aud": 7}), "invalid_claim"),
        (json!({"exp": null}), "missing_claim"),
        (json!({"exp": "9999999999"}), "invalid_claim"),
        (json!({"exp": now() - 40}), "expired"),
        (json!({"exp": now() + 100_000}), "lifetime_too_long"),
        (json!({"iat": "1"}), "invalid_claim"),
        (json!({"iat": now() + 100}), "not_yet_valid"),
        (json!({"nbf": now() + 100}), "not_yet_valid"),
        (json!({"sub": null}), "missing_claim"),
        (json!({"sub": ""}), "invalid_claim"),
        (json!({"sub": "a\r\nb"}), "invalid_claim"),
        (json!({"sub": ["alice"]}), "invalid_claim"),
        (json!({"sid": {"a": 1}}), "invalid_claim"),
        (json!({"jti": 7}), "invalid_claim"),
        (json!({"token_use": "refresh_token"}), "wrong_type"),
        (json!({"typ": "Refresh"}), "wrong_type"),
        (json!({"token_type": "id_token"}), "wrong_type"),
        (json!({"active": "true"}), "introspection_unavailable"),
        (json!({"active": null}), "introspection_unavailable"),
        (json!({"active": false}), "token_inactive"),
    ];
    for (number, (changes, reason)) in cases.iter().enumerate() {
        let token = format!("opaque-{number}");
        fixture.server.says(&token, &changed(changes));
        assert_eq!(fixture.reason(&token).await, *reason, "{changes}");
    }
    for (number, text) in ["", "[]", "{\"active\": false, \"active\": true}", &"[".repeat(100_000)].iter().enumerate() {
        let token = format!("text-{number}");
        fixture.server.says_text(&token, text);
        let refused = fixture.check(&token).await;
        assert_eq!((refused.status, refused.reason()), (503, "introspection_unavailable"));
        let working = format!("working-{number}"); // Keeps the breaker closed.
        fixture.server.says(&working, &AuthorizationServer::active("alice"));
        assert_eq!(fixture.reason(&working).await, "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_with_one_token_ask_once() {
    let fixture = Fixture::start(", cache: 0s").await;
    fixture.server.says("opaque", &AuthorizationServer::active("alice"));
    fixture.server.takes(Duration::from_millis(500));
    for verdict in join_all((0..100).map(|_| fixture.check("opaque"))).await {
        assert!(verdict.allowed(), "{verdict:?}");
    }
    assert_eq!(fixture.server.questions().len(), 1);
    assert!(fixture.check("opaque").await.allowed());
    assert_eq!(fixture.server.questions().len(), 2, "cache: 0s remembers nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_ends_with_its_time_with_the_token_and_with_a_revocation() {
    let fixture = Fixture::start(", cache: 1s").await;
    let server = &fixture.server;
    // Its time.
    server.says("opaque", &AuthorizationServer::active("alice"));
    assert_eq!(fixture.reason("opaque").await, "ok");
    server.says("opaque", &json!({"active": false}));
    let changed_at = Instant::now();
    eventually("the issuer's new word counts", || async { fixture.reason("opaque").await == "token_inactive" }).await;
    assert!(changed_at.elapsed() < PATIENCE, "{:?}", changed_at.elapsed());

    // A revocation, while the answer is remembered: of the token, its session, its user.
    let fixture = Fixture::start(", cache: 1h").await;
    let server = &fixture.server;
    for (token, user) in [("one", "bob"), ("two", "bob"), ("three", "carol"), ("four", "carol")] {
        server.says(token, &AuthorizationServer::active(user));
        assert_eq!(fixture.reason(token).await, "ok");
    }
    assert_eq!(fixture.checks.check(ask("POST", "/logout").token("one")).await.status, 204);
    assert_eq!((fixture.reason("one").await.as_str(), fixture.reason("two").await.as_str()), ("signed_out", "ok"));
    assert_eq!(fixture.checks.check(ask("POST", "/logout-session").token("two")).await.status, 204);
    assert_eq!(fixture.reason("two").await, "signed_out");
    assert_eq!(fixture.doorward.post("/logout?all=true", "three").await.0, 204);
    assert_eq!(fixture.reason("four").await, "signed_out");
    assert_eq!(server.questions().len(), 4);
    // Without a jti it is named by its digest; and the sign-out of an inactive token succeeds.
    server.says("unnamed", &changed(&json!({"jti": null, "sub": "dave", "sid": null})));
    assert_eq!(fixture.reason("unnamed").await, "ok");
    assert_eq!(fixture.checks.check(ask("POST", "/logout").token("unnamed")).await.status, 204);
    assert_eq!(fixture.reason("unnamed").await, "signed_out");
    assert_eq!(fixture.checks.check(ask("POST", "/logout").token("never-was")).await.status, 204);
    let refreshed = fixture.checks.check(get("/refresh").token("never-was")).await;
    assert!(refreshed.allowed() && !refreshed.headers.contains_key("x-user-id"), "{refreshed:?}");

    // The token's end; the leeway is a question more.
    server.says("brief", &changed(&json!({"exp": now() + 2})));
    assert_eq!(fixture.reason("brief").await, "ok");
    server.says("brief", &json!({"active": false}));
    eventually("expired", || async { fixture.reason("brief").await == "token_inactive" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_does_not_answer_refuses_its_tokens_at_once_and_only_those() {
    // A second is enough for an answer on a busy machine; the slow server takes a minute.
    let fixture = Fixture::start(", timeout: 1s, cache: 1h").await;
    let server = &fixture.server;
    server.says("known", &AuthorizationServer::active("alice"));
    eventually("known", || async { fixture.reason("known").await == "ok" }).await;
    server.takes(Duration::from_secs(60));
    for number in 0..5 {
        let refused = fixture.check(&format!("slow-{number}")).await;
        assert_eq!((refused.status, refused.reason()), (503, "introspection_unavailable"));
        assert_eq!(refused.headers["retry-after"], "1");
    }
    let asked = server.questions().len();
    let started = Instant::now();
    for number in 0..20 {
        assert_eq!(fixture.reason(&format!("more-{number}")).await, "introspection_unavailable");
    }
    assert!(server.questions().len() <= asked + 2, "a probe at most now and then: {:?}", server.questions());
    println!("20 refused in {:?} while it is not asked", started.elapsed());
    assert!(fixture.counted("suspended").await >= 18.0);
    assert_eq!(fixture.reason("known").await, "ok", "what it said is remembered");
    assert_eq!(fixture.reason(&fixture.tokens.of("bob")).await, "ok", "a JWT needs nobody");
    fixture.doorward.logs("introspection fails").await;

    server.takes(Duration::ZERO);
    server.says("new", &AuthorizationServer::active("carol"));
    eventually("it works again", || async { fixture.reason("new").await == "ok" }).await;
    fixture.doorward.logs("introspection works again").await;

    for status in [401, 500, 302] {
        server.fails(status);
        let refused = fixture.check(&format!("status-{status}")).await;
        assert_eq!((refused.status, refused.reason()), (503, "introspection_unavailable"), "{status}");
    }
    server.fails(200);
    let other = AuthorizationServer::start().await;
    server.redirects(&format!("http://{}/introspect", other.address));
    assert_eq!(fixture.reason("redirected").await, "introspection_unavailable");
    assert_eq!(other.questions(), Vec::<String>::new(), "token and credentials go nowhere else");
    for secret in [CLIENT_SECRET, "known", "redirected"] {
        let said = fixture.doorward.log.lock().unwrap().iter().any(|line| line.contains(&format!("{secret}\"")));
        assert!(!said, "{secret} is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn always_asks_about_verified_tokens_as_well() {
    let fixture = Fixture::start(", when: always, cache: 1h").await;
    let server = &fixture.server;
    let mint = |changes: Value| fixture.tokens.with(changes);
    let (active, inactive) = (mint(json!({})), mint(json!({})));
    server.says(&active, &json!({"active": true}));
    assert_eq!(fixture.reason(&active).await, "ok");
    assert_eq!(fixture.reason(&active).await, "ok");
    assert_eq!(server.questions_about(&active), 1);
    assert_eq!(fixture.reason(&inactive).await, "token_inactive");
    // A token that is refused anyway is not introspected, and neither are sign-outs and refreshes.
    let forged = Tokens::new().of("alice");
    server.says(&forged, &json!({"active": true}));
    assert_eq!(fixture.reason(&forged).await, "unknown_key");
    assert_eq!(fixture.reason("opaque").await, "malformed_token");
    let leaving = mint(json!({}));
    assert_eq!(fixture.checks.check(ask("POST", "/logout").token(&leaving)).await.status, 204);
    assert_eq!(fixture.reason(&leaving).await, "signed_out");
    assert!(fixture.checks.check(get("/refresh").token(&inactive)).await.allowed());
    assert_eq!(server.questions().len(), 2);

    for (word, reason) in [
        (json!({"sub": "alice", "iss": doorward::dev::ISSUER, "exp": now() + 60, "aud": "demo"}), "ok"),
        (json!({"sub": "bob"}), "invalid_claim"),
        (json!({"jti": "another"}), "invalid_claim"),
        (json!({"iss": "https://evil.example"}), "unknown_issuer"),
        (json!({"aud": "other"}), "wrong_audience"),
        (json!({"exp": now() - 60}), "expired"),
        (json!({"exp": "soon"}), "invalid_claim"),
        (json!({"nbf": now() + 100}), "not_yet_valid"),
    ] {
        let token = mint(json!({}));
        let mut response = word.clone();
        response["active"] = json!(true);
        server.says(&token, &response);
        assert_eq!(fixture.reason(&token).await, reason, "{word}");
    }

    // A session that only the issuer's response names.
    let (one, two) = (mint(json!({"sid": null})), mint(json!({"sid": "named"})));
    for token in [&one, &two] {
        server.says(token, &json!({"active": true, "sid": "named"}));
        assert_eq!(fixture.reason(token).await, "ok");
    }
    assert_eq!(fixture.checks.check(ask("POST", "/logout-session").token(&two)).await.status, 204);
    assert_eq!(fixture.reason(&one).await, "signed_out");

    server.fails(500);
    assert_eq!(fixture.reason(&mint(json!({}))).await, "introspection_unavailable");
    assert_eq!(fixture.reason(&active).await, "ok", "remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_the_responses_of_unchanged_issuers() {
    let fixture = Fixture::start(", cache: 1h").await;
    fixture.server.says("opaque", &AuthorizationServer::active("alice"));
    assert_eq!(fixture.reason("opaque").await, "ok");
    let file = fixture.doorward.dir.path().join("doorward.yaml");
    let original = std::fs::read_to_string(&file).unwrap();
    let reload = async |text: &str| {
        let reloads = async || fixture.doorward.metric("doorward_config_reloads_total{result=\"ok\"}").await;
        let before = reloads().await;
        std::fs::write(&file, text).unwrap();
        fixture.doorward.process.signal("HUP");
        eventually("reloaded", || async { reloads().await > before }).await;
    };
    reload(&original.replace("scopes: [admin]", "scopes: [other]")).await;
    assert_eq!(fixture.reason("opaque").await, "ok");
    assert_eq!(fixture.server.questions().len(), 1);
    reload(&original.replace(", cache: 1h", ", cache: 30m")).await;
    assert_eq!(fixture.reason("opaque").await, "ok");
    assert_eq!(fixture.server.questions().len(), 2, "other settings, other answers");
    reload(&original.replace(&format!("{}, ", fixture.server.settings(", cache: 1h")), "")).await;
    assert_eq!(fixture.reason("opaque").await, "malformed_token", "nobody is asked any more");
}

/// The lead of opaque tokens is one of their issuer, as for JWTs.
#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_token_dated_ahead_does_not_outlive_its_user_s_revocation() {
    let (tokens, server) = (Tokens::new(), AuthorizationServer::start().await);
    let config = with_introspection(&tokens.config(&admin_keys()), &server.settings(""));
    let doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    let issued_at = now() + 20;
    let of =
        |user: &str| changed(&json!({"sub": user, "sid": null, "jti": null, "iat": issued_at, "exp": now() + 600}));
    server.says("opaque-1", &of("somebody"));
    server.says("opaque-2", &of("alice"));
    let reason = async |token| checks.check(get("/").token(token)).await.reason().to_owned();
    assert_eq!(reason("opaque-1").await, "ok");
    let lead = doorward.metric("doorward_clock_skew_seconds{of=\"dev\"}").await.unwrap();
    assert!((15.0..=20.0).contains(&lead), "{lead}");
    assert_eq!(revoke(&doorward, &json!({"kind": "user", "id": "alice"})).await.status, 201);
    assert_eq!(reason("opaque-2").await, "revoked");
}
