//! Every reason for which a request is refused, over real gRPC.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use serde_json::{Value, json};

use crate::support::doorward::Doorward;
use crate::support::grpc::{Ask, Checks, Verdict, ask, get, verdict};
use crate::support::tokens::{Tokens, now};

const RULES: &str = r"
token: {from: [{header: authorization, scheme: Bearer}, {header: x-token}, {cookie: token}, {query: access_token}]}
rules:
  - {name: public, match: {path_prefix: /public}, access: public}
  - {name: optional, match: {path_prefix: /optional}, access: optional}
  - {name: refresh, match: {path: /auth/refresh, methods: [POST]}, access: refresh}
  - {name: logout, match: {path: /auth/logout, methods: [POST]}, access: sign_out, sign_out: {scope: token, then: forward}}
  - {name: logout-session, match: {path: /auth/logout-session, methods: [POST]}, access: sign_out, sign_out: {scope: session, then: respond}}
  - {name: logout-user, match: {path: /auth/logout-user, methods: [POST]}, access: sign_out, sign_out: {scope: user, then: respond}}
  - name: admin
    match: {path_prefix: /admin}
    require: {scopes: [admin], claims: {role: [owner, admin]}}
  - name: recent
    match: {path_prefix: /recent}
    require: {max_age: 15m, acr: [mfa]}
  - name: partner
    match: {path_prefix: /partner}
    api_key: required
  - {name: shadow, match: {path_prefix: /shadow}, enforce: false}
  - {name: trial, match: {path_prefix: /trial}, require: {scopes: [admin]}, api_key: required, enforce: false}
  - {name: by-route, require: {scopes: [route]}}
api_keys:
  keys:
    - {id: web-shop, sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b, platforms: [web], domains: [shop.example.com], expires: 2099-01-01T00:00:00Z}
    - {id: old, sha256: 0c4c11b4e0f9e3fd4a9a1d5ee4f5e1b6bd57b7ff9bd27bbd0c4b2e3a4f0c0e55, expires: 2020-01-01T00:00:00Z}
";

struct Fixture {
    tokens: Tokens,
    doorward: Doorward,
    checks: Checks,
}

impl Fixture {
    async fn start() -> Self {
        let tokens = Tokens::new();
        // The digests of "secret" and of "old-secret".
        let digest = |key: &str| {
            let (code, out, _) = crate::support::doorward::run(&["hash-key"], &format!("{key}-0123456789abcdef"));
            assert_eq!(code, 0);
            out.trim().trim_start_matches("sha256: ").to_owned()
        };
        let rules = RULES
            .replace("2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b", &digest("secret"))
            .replace("0c4c11b4e0f9e3fd4a9a1d5ee4f5e1b6bd57b7ff9bd27bbd0c4b2e3a4f0c0e55", &digest("old"));
        let doorward = Doorward::start(&tokens.config(&rules)).await;
        let checks = Checks::connect(&doorward.check).await;
        Self { tokens, doorward, checks }
    }

    async fn check(&self, ask: Ask) -> Verdict {
        self.checks.check(ask).await
    }

    #[track_caller]
    fn refused(verdict: &Verdict, status: u16, reason: &str) {
        assert_eq!((verdict.status, verdict.reason()), (status, reason), "{verdict:?}");
        let body: Value = serde_json::from_str(&verdict.body).unwrap();
        assert_eq!(body["reason"], reason);
        assert!(body["error"].is_string() && body["message"].is_string(), "{body}");
        assert_eq!(verdict.headers["content-type"], "application/json");
        assert_eq!(verdict.headers["cache-control"], "no-store");
        assert_eq!(verdict.headers.contains_key("www-authenticate"), status == 401 || reason == "insufficient_scope");
        assert_eq!(verdict.headers.contains_key("retry-after"), status == 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_is_reached_with_its_status() {
    let fixture = Fixture::start().await;
    let tokens = &fixture.tokens;
    let good = tokens.of("alice");
    let other = tokens.of("bob");
    let foreign_key = Tokens::new().of("alice");
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forged = format!("{signed}.{}", other.rsplit_once('.').unwrap().1);
    let header = |alg: &str, typ: &str| json!({"alg": alg, "typ": typ, "kid": tokens.issuer.key_id()}).to_string();
    let payload = Tokens::claims("alice").to_string();
    let typed = |typ: &str| tokens.issuer.sign_raw(&header("ES256", typ), payload.as_bytes()).unwrap();
    let secret = "secret-0123456789abcdef";
    let partner = || get("/partner").token(&good);

    let cases: Vec<(Ask, u16, &str)> = vec![
        (get("/"), 401, "missing_token"),
        (get("/").header("authorization", "Basic YTpi"), 401, "missing_token"),
        (get("/").token(&good).header("x-token", &other), 400, "multiple_tokens"),
        (get("/").header("authorization", format!("Bearer {good},Bearer {other}")), 400, "multiple_tokens"),
        (
            get("/")
                .header("authorization", format!("Bearer {good}"))
                .header("authorization", format!("Bearer {other}"))
                .raw(),
            400,
            "multiple_tokens",
        ),
        (get("/").token("abc"), 401, "malformed_token"),
        (get("/").token(&"a.".repeat(50)), 401, "malformed_token"),
        (get("/").token(&format!("{good}=")), 401, "malformed_token"),
        (get("/").token(&"x".repeat(20_000)), 401, "malformed_token"),
        (get("/").header("authorization", b"Bearer \xff\xfe").raw(), 401, "malformed_token"),
        (get("/").token(&tokens.with(json!({"iss": "https://evil.example"}))), 401, "unknown_issuer"),
        (get("/").token(&foreign_key), 401, "unknown_key"),
        (
            get("/").token(&tokens.issuer.sign_raw(&header("none", "JWT"), payload.as_bytes()).unwrap()),
            401,
            "algorithm_not_allowed",
        ),
        (
            get("/").token(&tokens.issuer.sign_raw(&header("HS256", "JWT"), payload.as_bytes()).unwrap()),
            401,
            "algorithm_not_allowed",
        ),
        (
            get("/").token(&tokens.issuer.sign_raw(&header("RS256", "JWT"), payload.as_bytes()).unwrap()),
            401,
            "algorithm_not_allowed",
        ),
        (get("/").token(&forged), 401, "bad_signature"),
        (get("/").token(&tokens.with(json!({"exp": null}))), 401, "missing_claim"),
        (get("/").token(&tokens.with(json!({"sub": null}))), 401, "missing_claim"),
        (get("/").token(&tokens.with(json!({"iss": null}))), 401, "missing_claim"),
        (get("/").token(&tokens.with(json!({"aud": null}))), 401, "missing_claim"),
        (get("/").token(&tokens.with(json!({"sub": "a\r\nb"}))), 401, "invalid_claim"),
        (get("/").token(&tokens.with(json!({"sub": ""}))), 401, "invalid_claim"),
        (get("/").token(&tokens.with(json!({"nbf": "0"}))), 401, "invalid_claim"),
        (get("/").token(&tokens.with(json!({"exp": "99999999999"}))), 401, "invalid_claim"),
        (get("/").token(&tokens.with(json!({"jti": 7}))), 401, "invalid_claim"),
        (get("/").token(&tokens.with(json!({"exp": now() - 40}))), 401, "expired"),
        (get("/").token(&tokens.with(json!({"nbf": now() + 100}))), 401, "not_yet_valid"),
        (get("/").token(&tokens.with(json!({"iat": now() + 100}))), 401, "not_yet_valid"),
        (get("/").token(&tokens.with(json!({"exp": now() + 100_000}))), 401, "lifetime_too_long"),
        (get("/").token(&tokens.with(json!({"iat": now() - 90_000}))), 401, "lifetime_too_long"),
        (get("/").token(&tokens.with(json!({"aud": "other"}))), 401, "wrong_audience"),
        (get("/").token(&tokens.with(json!({"aud": []}))), 401, "missing_claim"),
        (get("/").token(&typed("logout+jwt")), 401, "wrong_type"),
        (get("/").token(&typed("application/secevent+jwt")), 401, "wrong_type"),
        (get("/admin").token(&good), 403, "insufficient_scope"),
        (get("/admin").token(&tokens.with(json!({"scope": "admin", "role": "guest"}))), 403, "claim_mismatch"),
        (get("/recent").token(&good), 401, "insufficient_authentication"),
        (
            get("/recent").token(&tokens.with(json!({"auth_time": now() - 2000, "acr": "mfa"}))),
            401,
            "insufficient_authentication",
        ),
        (
            get("/recent").token(&tokens.with(json!({"auth_time": now() + 3600, "acr": "mfa"}))),
            401,
            "insufficient_authentication",
        ),
        (get("/").token(&good).rule("by-route"), 403, "insufficient_scope"),
        (get("/").token(&good).rule("no-such-rule"), 400, "bad_request"),
        (get("/").token(&tokens.with(json!({"cnf": {"kid": "k"}}))), 401, "proof_invalid"),
        (get("/").token(&tokens.with(json!({"cnf": {"jkt": "A".repeat(43)}}))), 401, "proof_missing"),
        (partner(), 401, "api_key_missing"),
        (partner().header("x-api-key", "wrong"), 401, "api_key_unknown"),
        (partner().header("x-api-key", "old-0123456789abcdef"), 401, "api_key_expired"),
        (partner().header("x-api-key", secret), 403, "api_key_platform"),
        (
            partner()
                .header("x-api-key", secret)
                .header("x-client-platform", "web")
                .header("origin", "https://evil.example"),
            403,
            "api_key_domain",
        ),
    ];
    let mut reached = BTreeSet::new();
    for (ask, status, reason) in cases {
        Fixture::refused(&fixture.check(ask).await, status, reason);
        reached.insert(reason);
    }

    // An answer without a request is one, too.
    for message in [CheckRequest::default(), CheckRequest { attributes: Some(AttributeContext::default()) }] {
        Fixture::refused(&verdict(fixture.checks.send(message).await.unwrap()), 400, "bad_request");
    }

    // Signed out by the user.
    assert!(fixture.check(ask("POST", "/auth/logout").token(&good)).await.allowed());
    Fixture::refused(&fixture.check(get("/").token(&good)).await, 401, "signed_out");
    reached.insert("signed_out");
    assert_eq!(fixture.doorward.metric("doorward_revoked_presented_total{kind=\"token\"}").await, Some(1.0));

    // Denials that need a store or a provider have their own tests.
    let elsewhere = [
        "keys_unavailable",
        "revocations_stale",
        "store_unavailable",
        "revoked",
        "suspended",
        "not_registered",
        "introspection_unavailable",
        "token_inactive",
        "clock_skew",
        "overloaded",
    ];
    let all: BTreeSet<_> = doorward::authz::denial::Denial::ALL.iter().map(|denial| denial.label()).collect();
    let unreached: Vec<_> =
        all.iter().filter(|reason| !reached.contains(*reason) && !elsewhere.contains(reason)).collect();
    assert_eq!(unreached, [&"internal_error"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn valid_tokens_are_allowed() {
    let fixture = Fixture::start().await;
    let tokens = &fixture.tokens;
    let good = tokens.of("alice");
    let secret = "secret-0123456789abcdef";
    let no_type = tokens
        .issuer
        .sign_raw(&json!({"alg": "ES256"}).to_string(), Tokens::claims("alice").to_string().as_bytes())
        .unwrap();
    let own_key = json!({"alg": "ES256", "kid": tokens.issuer.key_id(), "jwk": {"kty": "oct", "k": "AAAA"}, "jku": "https://evil.example", "x5u": "x"});
    let own_key = tokens.issuer.sign_raw(&own_key.to_string(), Tokens::claims("alice").to_string().as_bytes()).unwrap();
    let cases: Vec<(&str, Ask)> = vec![
        ("a good token", get("/").token(&good)),
        ("raw headers", get("/").token(&good).raw()),
        ("any case of the scheme", get("/").header("authorization", format!("bearer  {good}"))),
        ("another header", get("/").header("x-token", &good)),
        ("a cookie", get("/").header("cookie", format!("a=1; token={good}"))),
        ("the query", get(&format!("/?access_token={good}"))),
        ("the same token twice is one", get("/").token(&good).header("x-token", &good)),
        ("no type, no key id", get("/").token(&no_type)),
        ("a token's own keys are ignored", get("/").token(&own_key)),
        ("an audience among others", get("/").token(&tokens.with(json!({"aud": ["x", "demo"]})))),
        ("no iat, no jti", get("/").token(&tokens.with(json!({"iat": null, "jti": null})))),
        ("expired within the leeway", get("/").token(&tokens.with(json!({"exp": now() - 2})))),
        (
            "fractions",
            get("/").token(&tokens.with(json!({"iat": 1.5 + f64::from(u32::try_from(now() - 60).unwrap())}))),
        ),
        ("public without a token", get("/public/x")),
        ("public with a bad token", get("/public/x").token("abc")),
        ("optional without a token", get("/optional")),
        ("refresh without a token", ask("POST", "/auth/refresh")),
        (
            "refresh with an expired token",
            ask("POST", "/auth/refresh").token(&tokens.with(json!({"exp": now() - 600}))),
        ),
        ("a shadow rule", get("/shadow")),
        ("admin", get("/admin").token(&tokens.with(json!({"scope": "a admin b", "role": ["x", "owner"]})))),
        ("signed in lately", get("/recent").token(&tokens.with(json!({"auth_time": now() - 100, "acr": "mfa"})))),
        (
            "a client",
            get("/partner")
                .token(&good)
                .header("x-api-key", secret)
                .header("x-client-platform", "web")
                .header("origin", "https://shop.example.com"),
        ),
        ("a route's rule", get("/any").token(&tokens.with(json!({"scope": "route"}))).rule("by-route")),
    ];
    for (what, ask) in cases {
        let verdict = fixture.check(ask).await;
        assert!(verdict.allowed(), "{what}: {verdict:?}");
    }
    for (what, ask, reason) in [
        ("optional with a bad token", get("/optional").token("abc"), "malformed_token"),
        ("refresh with a forged token", ask("POST", "/auth/refresh").token(&Tokens::new().of("alice")), "unknown_key"),
        ("refresh by another method", get("/auth/refresh").token(&tokens.with(json!({"exp": now() - 600}))), "expired"),
        ("sign-out with a forged token", ask("POST", "/auth/logout").token(&Tokens::new().of("alice")), "unknown_key"),
        ("a loosening rule by another spelling", get("/public/..%2fadmin"), "missing_token"),
        ("a loosening rule named by the route", get("/x/%2e%2e/public").rule("public"), "missing_token"),
    ] {
        let verdict = fixture.check(ask).await;
        assert_eq!(verdict.reason(), reason, "{what}");
    }
    assert_eq!(
        fixture.doorward.metric("doorward_shadow_refusals_total{reason=\"missing_token\",rule=\"shadow\"}").await,
        Some(1.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_has_a_scope() {
    let fixture = Fixture::start().await;
    let tokens = &fixture.tokens;
    let [first, second, other_session] =
        [json!({}), json!({}), json!({"sid": "other"})].map(|changes| tokens.with(changes));
    let bob = tokens.of("bob");
    let reason = async |token: &str| fixture.check(get("/").token(token)).await.reason().to_owned();

    assert_eq!(fixture.check(ask("POST", "/auth/logout").token(&first)).await.status, 200);
    assert_eq!((reason(&first).await.as_str(), reason(&second).await.as_str()), ("signed_out", "ok"));

    let verdict = fixture.check(ask("POST", "/auth/logout-session").token(&second)).await;
    assert_eq!(verdict.status, 204, "then: respond");
    assert_eq!((reason(&second).await.as_str(), reason(&other_session).await.as_str()), ("signed_out", "ok"));

    assert_eq!(fixture.check(ask("POST", "/auth/logout-user").token(&other_session)).await.status, 204);
    assert_eq!((reason(&other_session).await.as_str(), reason(&bob).await.as_str()), ("signed_out", "ok"));

    // A token of a later second is not of the sessions that were signed out.
    let later = tokens.with(json!({"iat": now() + 5, "sid": "new"}));
    assert_eq!(reason(&later).await, "ok");
    // Again, with revoked tokens: still a success. With an expired one as well.
    assert_eq!(fixture.check(ask("POST", "/auth/logout").token(&first)).await.status, 200);
    let expired = tokens.with(json!({"exp": now() - 600, "iat": now() - 1200}));
    assert_eq!(fixture.check(ask("POST", "/auth/logout").token(&expired)).await.status, 200);
    // A refresh may be requested with a revoked token.
    assert_eq!(fixture.check(ask("POST", "/auth/refresh").token(&first)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_names_no_session_is_signed_out_itself() {
    let fixture = Fixture::start().await;
    let [token, other] = [(); 2].map(|()| fixture.tokens.with(json!({"sid": null})));
    assert_eq!(fixture.check(ask("POST", "/auth/logout-session").token(&token)).await.status, 204);
    let verdicts = [fixture.check(get("/").token(&token)).await, fixture.check(get("/").token(&other)).await];
    assert_eq!(verdicts.each_ref().map(Verdict::reason), ["signed_out", "ok"]);
}

/// The rule's refusal is on trial, not the identity of the user.
#[tokio::test(flavor = "multi_thread")]
async fn on_trial_a_good_token_names_its_user_and_no_other_does() {
    let fixture = Fixture::start().await;
    let (good, signed_out) = (fixture.tokens.of("alice"), fixture.tokens.of("bob"));
    assert!(fixture.check(ask("POST", "/auth/logout").token(&signed_out)).await.allowed());
    let secret = "secret-0123456789abcdef";
    for (ask, reason, user) in [
        (get("/trial").token(&good), "api_key_missing", Some("alice")),
        (get("/trial").token(&good).header("x-api-key", secret), "api_key_platform", Some("alice")),
        (get("/trial").token(&signed_out), "api_key_missing", None),
        (get("/trial").token("abc"), "api_key_missing", None),
        (get("/trial"), "api_key_missing", None),
        (get("/shadow").token(&good), "ok", Some("alice")),
        (get("/shadow").token(&signed_out), "signed_out", None),
        (get("/shadow").token(&Tokens::new().of("alice")), "unknown_key", None),
    ] {
        let verdict = fixture.check(ask).await;
        assert!(verdict.allowed(), "{verdict:?}");
        let named = verdict.headers.get("x-user-id").map(String::as_str);
        assert_eq!((verdict.reason(), named), (reason, user), "{verdict:?}");
        assert_eq!(verdict.removed.contains(&"x-user-id".to_owned()), user.is_none());
    }
    let client = get("/trial").token(&good).header("x-api-key", secret).header("x-client-platform", "web");
    let verdict = fixture.check(client.header("origin", "https://shop.example.com")).await;
    assert_eq!((verdict.reason(), &*verdict.headers["x-user-id"]), ("insufficient_scope", "alice"));
    assert_eq!(verdict.metadata["api_client"], "web-shop");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_sign_themselves_out_over_http() {
    let fixture = Fixture::start().await;
    let tokens = &fixture.tokens;
    let (first, second) = (tokens.of("alice"), tokens.of("alice"));
    let reason = async |token: &str| fixture.check(get("/").token(token)).await.reason().to_owned();

    assert_eq!(fixture.doorward.post("/logout", "abc").await.0, 401);
    assert_eq!(fixture.doorward.post("/logout", &first).await.0, 204);
    assert_eq!((reason(&first).await.as_str(), reason(&second).await.as_str()), ("signed_out", "ok"));
    assert_eq!(fixture.doorward.post("/logout", &first).await.0, 204, "again");
    for misspelled in ["All=true", "ALL=true", "all=1", "al=true", "all=true&everywhere=true", "scope=user"] {
        let (status, body) = fixture.doorward.post(&format!("/logout?{misspelled}"), &first).await;
        assert_eq!(status, 400, "{misspelled}: {body}");
        assert!(body.contains("urn:doorward:problem:invalid-parameter"), "{misspelled}: {body}");
    }
    assert_eq!(fixture.doorward.post("/logout?all=true", &first).await.0, 204, "with a dead token");
    assert_eq!(reason(&second).await, "ok", "which ends no more");
    assert_eq!(fixture.doorward.post("/logout?all=true", &tokens.of("alice")).await.0, 204);
    assert_eq!(reason(&second).await, "signed_out");
    assert_eq!(fixture.doorward.get("/logout").await.0, 405);
}

/// A place in which readers disagree about the token is refused.
#[tokio::test(flavor = "multi_thread")]
async fn cookies_and_queries_are_read_in_one_way() {
    let fixture = Fixture::start().await;
    let (good, other) = (fixture.tokens.of("alice"), fixture.tokens.of("bob"));
    let cookie = |field: String| get("/").header("cookie", field);
    let escaped = good.replacen('.', "%2E", 1);
    for (what, ask) in [
        ("a cookie", cookie(format!("token={good}"))),
        ("the same cookie twice", cookie(format!("token={good}; token={good}"))),
        ("among others", cookie(format!("a=b;token={good};tokens=x; Token=y; xtoken=z"))),
        ("fields that stand apart", cookie("a=b".to_owned()).header("cookie", format!("token={good}")).raw()),
        ("a cookie without a value", cookie(format!("token; token={good}"))),
        ("the query", get(&format!("/?a=b&access_token={good}&c"))),
        ("twice in the query", get(&format!("/?access_token={good}&access_token={good}"))),
        (
            "names that are others",
            get(&format!("/?Access_Token=x&access_token[]=y&access_token={good}&access%5ftokens=z")),
        ),
        ("an escape in another value", get(&format!("/?x=%61ccess_token=y&access_token={good}"))),
    ] {
        let verdict = fixture.check(ask).await;
        assert!(verdict.allowed(), "{what}: {verdict:?}");
        assert_eq!(verdict.headers["x-user-id"], "alice", "{what}");
    }
    for (what, ask, status, reason) in [
        ("two cookies", cookie(format!("token={good}; token={other}")), 400, "multiple_tokens"),
        (
            "two fields",
            cookie(format!("token={good}")).header("cookie", format!("token={other}")).raw(),
            400,
            "multiple_tokens",
        ),
        ("two in the query", get(&format!("/?access_token={good}&access_token={other}")), 400, "multiple_tokens"),
        (
            "a cookie and the query",
            get(&format!("/?access_token={good}")).header("cookie", format!("token={other}")),
            400,
            "multiple_tokens",
        ),
        ("an empty cookie", cookie("token=".to_owned()), 401, "missing_token"),
        ("an empty cookie beside one", cookie(format!("token={good}; token=")), 200, "ok"),
        ("quotes", cookie(format!("token=\"{good}\"")), 200, "ok"),
        ("a space after the name", cookie(format!("token ={good}")), 401, "malformed_token"),
        ("a tab after the name", cookie(format!("token={good}; token\t={other}")), 401, "malformed_token"),
        ("a space after the sign", cookie(format!("token= {good}")), 401, "malformed_token"),
        ("an escape in a cookie", cookie(format!("token={escaped}")), 401, "malformed_token"),
        ("a comma", cookie(format!("token={good},token={other}")), 401, "malformed_token"),
        ("an escape in the query", get(&format!("/?access_token={escaped}")), 401, "malformed_token"),
        ("an escape in the name", get(&format!("/?access%5Ftoken={good}")), 401, "malformed_token"),
        (
            "an escape in the name of a second",
            get(&format!("/?access_token={good}&%61ccess_token={other}")),
            401,
            "malformed_token",
        ),
        ("an empty one in the query", get("/?access_token="), 401, "missing_token"),
        ("a scheme in the query", get(&format!("/?access_token=Bearer%20{good}")), 401, "malformed_token"),
        ("another separator", get(&format!("/?access_token={good};access_token={other}")), 401, "malformed_token"),
        ("the name alone", get("/?access_token"), 401, "missing_token"),
        ("a name in another case", get(&format!("/?ACCESS_TOKEN={good}")), 401, "missing_token"),
    ] {
        let verdict = fixture.check(ask).await;
        assert_eq!((verdict.status, verdict.reason()), (status, reason), "{what}: {verdict:?}");
    }
}
