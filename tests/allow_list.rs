//! `revocation.list: allow`: only registered tokens pass.

use serde_json::{Value, json};

use crate::ledger::support::RedisServer;
use crate::support::doorward::{Doorward, run};
use crate::support::eventually;
use crate::support::grpc::{Checks, ask, get};
use crate::support::tokens::{Tokens, now};

const KEY: &str = "the-auth-service-s-own-key";

struct Fixture {
    tokens: Tokens,
    config: String,
    redis: RedisServer,
}

impl Fixture {
    async fn start(read: &str) -> Self {
        let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
        let (_, digest, _) = run(&["hash-key"], KEY);
        let digest = digest.trim().trim_start_matches("sha256: ");
        let (_, other, _) = run(&["hash-key"], "a-key-that-may-only-revoke");
        let other = other.trim().trim_start_matches("sha256: ");
        let config = tokens.config(&format!(
            "revocation: {{store: redis, list: allow, read: {read}, max_staleness: 20s, redis: {{url: \"{}\"}}}}
admin: {{keys: [{{name: auth, sha256: {digest}, may: [register]}}, {{name: ops, sha256: {other}, may: [revoke]}}]}}
rules:
  - {{name: public, match: {{path: /public}}, access: public}}
  - {{name: refresh, match: {{path: /refresh}}, access: refresh}}
  - {{name: logout, match: {{path: /logout}}, access: sign_out}}\n",
            redis.url()
        ));
        Self { tokens, config, redis }
    }
}

async fn register(doorward: &Doorward, key: &str, body: &Value) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("http://{}/v1/registrations", doorward.http)).bearer_auth(key);
    let response = request.json(body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn reason(checks: &Checks, token: &str) -> String {
    checks.check(get("/").token(token)).await.reason().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_registered_tokens_pass_in_either_way_of_reading() {
    for read in ["replica", "lookup"] {
        let fixture = Fixture::start(read).await;
        let (here, there) = (Doorward::start(&fixture.config).await, Doorward::start(&fixture.config).await);
        let (checks, checks_there) = (Checks::connect(&here.check).await, Checks::connect(&there.check).await);
        let (alice, bob) = (fixture.tokens.of("alice"), fixture.tokens.with(json!({"jti": "bob-s"})));
        let carol = fixture.tokens.with(json!({"jti": null, "sub": "carol"}));

        let refused = checks.check(get("/").token(&alice)).await;
        assert_eq!((refused.status, refused.reason()), (401, "not_registered"));
        assert!(refused.headers["www-authenticate"].contains("error=\"invalid_token\""));
        assert!(checks.check(get("/public")).await.allowed());
        assert!(checks.check(get("/refresh").token(&alice)).await.allowed(), "it is about to get a registered one");

        // At once at every instance: an entry that has not been followed yet is looked up.
        assert_eq!(register(&here, KEY, &json!({"token": alice})).await.0, 201);
        assert_eq!(reason(&checks_there, &alice).await, "ok");
        assert_eq!(reason(&checks, &alice).await, "ok");
        let (status, receipt) = register(&here, KEY, &json!({"id": "bob-s", "expires_at": now() + 600})).await;
        assert_eq!((status, &receipt["id"], &receipt["issuer"]), (201, &json!("bob-s"), &json!("dev")));
        assert!(receipt["position"].is_string());
        assert_eq!(reason(&checks_there, &bob).await, "ok");
        assert_eq!(register(&here, KEY, &json!({"token": carol})).await.0, 201, "one without jti");
        assert_eq!(reason(&checks_there, &carol).await, "ok");
        let (key, log) = ("doorward:{r}:dev:registration:bob-s", "doorward:{r}:log");
        assert_eq!(fixture.redis.cli(&["GET", key]), "* registered");
        let left: i64 = fixture.redis.cli(&["TTL", key]).parse().unwrap();
        assert!((601..=631).contains(&left), "exp and the leeway: {left}");
        assert_eq!(fixture.redis.cli(&["XLEN", log]), "3");
        eventually("it is counted", || async { there.metric("doorward_registrations").await == Some(3.0) }).await;
        assert_eq!(there.metric("doorward_revocations{kind=\"token\"}").await, Some(0.0));

        // A revoked token is refused as revoked, registered or not.
        assert!(checks.check(ask("POST", "/logout").token(&alice)).await.allowed());
        assert_eq!(reason(&checks, &alice).await, "signed_out");
        eventually("everywhere", || async { reason(&checks_there, &alice).await == "signed_out" }).await;
        assert_eq!(register(&here, KEY, &json!({"token": alice})).await.0, 201);
        assert_eq!(reason(&checks, &alice).await, "signed_out", "registering again brings nothing back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_registers_with_plain_redis_commands() {
    let fixture = Fixture::start("replica").await;
    let doorward = Doorward::start(&fixture.config).await;
    let checks = Checks::connect(&doorward.check).await;
    let expires = now() + 630;
    let token = fixture.tokens.with(json!({"jti": "known"}));
    fixture.redis.script(&format!(
        "MULTI\nSET doorward:{{r}}:dev:registration:known \"* registered\" EXAT {expires}\n\
         XADD doorward:{{r}}:log * issuer dev kind registration id known at * expires {expires}000 origin registered reason \"\"\nEXEC\n"
    ));
    assert_eq!(reason(&checks, &token).await, "ok");
    // A key without an entry is found, too: every time by asking.
    let only_key = fixture.tokens.with(json!({"jti": "only-key"}));
    fixture.redis.cli(&["SET", "doorward:{r}:dev:registration:only-key", "*"]);
    assert_eq!(reason(&checks, &only_key).await, "ok");
    fixture.redis.cli(&["SET", "doorward:{r}:dev:registration:only-key", "yes"]);
    assert_eq!(reason(&checks, &only_key).await, "not_registered", "what accepts is not guessed");
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_the_store_loses_no_registration_and_accepts_no_other_token() {
    let fixture = Fixture::start("replica").await;
    let doorward = Doorward::start(&fixture.config).await;
    let checks = Checks::connect(&doorward.check).await;
    let (alice, bob) = (fixture.tokens.of("alice"), fixture.tokens.of("bob"));
    assert_eq!(register(&doorward, KEY, &json!({"token": alice})).await.0, 201);
    fixture.redis.cli(&["FLUSHALL"]);
    eventually("what was lost is put back", || async {
        fixture.redis.cli(&["--scan", "--pattern", "*:registration:*"]).contains("registration")
    })
    .await;
    eventually("accepted", || async { reason(&checks, &alice).await == "ok" }).await;
    let second = Doorward::start(&fixture.config).await;
    assert_eq!(reason(&Checks::connect(&second.check).await, &alice).await, "ok");

    fixture.redis.signal("-STOP");
    let verdict = checks.check(get("/").token(&bob)).await;
    assert_eq!((verdict.status, verdict.reason()), (503, "store_unavailable"), "it cannot be told");
    assert_eq!(register(&doorward, KEY, &json!({"token": bob})).await.0, 503);
    fixture.redis.signal("-CONT");
    assert_eq!(register(&doorward, KEY, &json!({"token": bob})).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn registering_needs_a_key_and_a_token_of_ours() {
    let fixture = Fixture::start("replica").await;
    let doorward = Doorward::start(&fixture.config).await;
    let good = json!({"id": "x", "expires_at": now() + 60});
    for (key, status) in [("wrong", 401), ("a-key-that-may-only-revoke", 403), (KEY, 201)] {
        assert_eq!(register(&doorward, key, &good).await.0, status, "{key}");
    }
    for (body, status) in [
        (json!({"id": "x"}), 422),
        (json!({"id": "x", "expires_at": "soon"}), 422),
        (json!({"id": "x", "expires_at": now() + 90_000}), 422),
        (json!({"id": "", "expires_at": now() + 60}), 422),
        (json!({"expires_at": now() + 60}), 422),
        (json!({"id": "x", "issuer": "other", "expires_at": now() + 60}), 422),
        (json!({"id": "x", "expire_at": now() + 60}), 422),
        (json!({"token": "abc"}), 400),
        (json!({"token": Tokens::new().of("mallory")}), 400),
        (json!({"token": fixture.tokens.with(json!({"exp": now() - 600, "iat": now() - 1200}))}), 201),
        (json!({"id": "x", "issuer": "dev", "expires_at": "2020-01-01T00:00:00Z"}), 201),
    ] {
        let (answered, problem) = register(&doorward, KEY, &body).await;
        assert_eq!(answered, status, "{body}: {problem}");
        assert_eq!(problem["position"], Value::Null, "{body}: nothing is written");
    }
    assert_eq!(fixture.redis.cli(&["XLEN", "doorward:{r}:log"]), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_looks_like_a_digest_is_registered_in_both_readings() {
    for read in ["replica", "lookup"] {
        let fixture = Fixture::start(read).await;
        let doorward = Doorward::start(&fixture.config).await;
        let checks = Checks::connect(&doorward.check).await;
        let id = format!("sha256:{}", "ab".repeat(32));
        let token = fixture.tokens.with(json!({"jti": id}));
        assert_eq!(reason(&checks, &token).await, "not_registered");
        let body = json!({"id": id, "expires_at": now() + 600});
        assert_eq!(register(&doorward, KEY, &body).await.0, 201);
        eventually("it is accepted", || async { reason(&checks, &token).await == "ok" }).await;
    }
}
