//! Tokens that act for others, and the switch that stops an agent.

use serde_json::{Value, json};

use crate::api::{OPERATOR, admin_keys, post};
use crate::ledger::support::RedisServer;
use crate::streams::support::{Clients, Upstream};
use crate::support::doorward::{Doorward, run_with};
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;

/// A token of alice with these actors, the current one first.
fn acting(tokens: &Tokens, actors: &[&str]) -> String {
    let act = actors.iter().rev().fold(Value::Null, |act, actor| json!({"sub": actor, "act": act}));
    tokens.with(json!({"act": act}))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_is_stopped_wherever_it_stands_in_the_chain() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = tokens.config(&format!("revocation: {{redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys()));
    let (here, there) = (Doorward::start(&config).await, Doorward::start(&config).await);
    let (at_here, at_there) = (Checks::connect(&here.check).await, Checks::connect(&there.check).await);
    let current = acting(&tokens, &["agent-7", "planner"]);
    let before = acting(&tokens, &["planner", "agent-7"]);
    let by_client = tokens.with(json!({"act": {"client_id": "agent-7"}}));
    let others = [
        tokens.of("alice"),
        acting(&tokens, &["planner"]),
        tokens.with(json!({"may_act": {"sub": "agent-7"}})),
        tokens.with(json!({"azp": "agent-7", "act": {"sub": "planner"}})),
    ];
    let reason = async |checks: &Checks, token: &str| checks.check(get("/").token(token)).await.reason().to_owned();
    for token in [&current, &before, &by_client].into_iter().chain(&others) {
        assert_eq!(reason(&at_there, token).await, "ok");
    }
    // The user and the client of that name are not the actor.
    for kind in ["user", "client"] {
        let body = json!({"kind": kind, "id": "agent-7"});
        assert_eq!(post(&here, "/v1/revocations", &body).await.status, 201);
    }
    assert_eq!(reason(&at_here, &current).await, "ok");
    assert_eq!(reason(&at_here, &others[3]).await, "revoked", "that is its client");

    let server = format!("http://{}", here.http);
    let env = [("DOORWARD_ADMIN_KEY", OPERATOR), ("DOORWARD_SERVER", server.as_str())];
    let (code, out, err) = run_with(&env, &["revoke", "--actor", "agent-7"], "");
    assert_eq!(code, 0, "{out}{err}");
    eventually("the other instance knows", || async { reason(&at_there, &current).await == "revoked" }).await;
    for checks in [&at_here, &at_there] {
        for token in [&current, &before, &by_client] {
            assert_eq!(reason(checks, token).await, "revoked");
        }
        for other in &others[..3] {
            assert_eq!(reason(checks, other).await, "ok");
        }
    }
    let (_, listed, _) = run_with(&env, &["list", "--kind", "actor"], "");
    assert!(listed.contains("actor") && listed.contains("agent-7"), "{listed}");
    assert_eq!(here.metric("doorward_revocations{kind=\"actor\"}").await, Some(1.0));

    // By the log alone, as a service in any language writes it.
    let fields = "issuer dev kind actor id planner expires 1 origin revoked";
    let add: Vec<_> = ["XADD", "doorward:{r}:log", "*"].into_iter().chain(fields.split(' ')).collect();
    redis.cli(&add);
    eventually("the other actor is stopped, too", || async { reason(&at_there, &others[1]).await == "revoked" }).await;
    assert_eq!(reason(&at_there, &others[0]).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn services_and_rules_see_the_actor() {
    let tokens = Tokens::new();
    let config = tokens.config(
        "identity: {headers: {x-user-id: user_id, x-actor: actor, x-actors: actors}, payload: {header: x-identity}}\n\
         rules:\n\
         \x20 - {name: own, match: {path: /own}, require: {delegated: false}}\n\
         \x20 - {name: any, match: {path: /any}, require: {delegated: true}}\n\
         \x20 - {name: agents, match: {path: /agents}, require: {actors: [agent-7, agent-8]}}\n",
    );
    let doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    let (plain, acting) = (tokens.of("alice"), acting(&tokens, &["agent-7", "planner"]));
    let seen = checks.check(get("/").token(&acting)).await;
    assert_eq!((seen.headers["x-user-id"].as_str(), seen.headers["x-actor"].as_str()), ("alice", "agent-7"));
    assert_eq!(seen.headers["x-actors"], "agent-7,planner");
    assert_eq!((seen.metadata["actor"].as_str(), seen.metadata["actors"].as_str()), ("agent-7", "agent-7 planner"));
    let payload =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &seen.headers["x-identity"]);
    let payload: Value = serde_json::from_slice(&payload.unwrap()).unwrap();
    assert_eq!((&payload["actor"], &payload["actors"]), (&json!("agent-7"), &json!(["agent-7", "planner"])));
    let alone = checks.check(get("/").token(&plain)).await;
    for name in ["x-actor", "x-actors", "x_actor"] {
        assert!(alone.removed.contains(&name.to_owned()), "{name} of the client must not pass: {alone:?}");
    }
    assert!(!alone.metadata.contains_key("actor") && !alone.metadata.contains_key("actors"));

    // What no header can hold stands in the metadata all the same: limits and logs go by it.
    let odd = checks.check(get("/").token(&self::acting(&tokens, &["agent-é", "z "]))).await;
    assert_eq!((odd.metadata["actor"].as_str(), odd.metadata["actors"].as_str()), ("agent-é", "agent-é z "));
    assert!(odd.removed.contains(&"x-actor".to_owned()) && odd.removed.contains(&"x-actors".to_owned()), "{odd:?}");
    let lines = checks.check(get("/").token(&tokens.with(json!({"sid": "a\nb", "scope": "é"})))).await;
    assert_eq!((lines.metadata["session_id"].as_str(), lines.metadata["scopes"].as_str()), ("a\\u{a}b", "é"));

    let behind = self::acting(&tokens, &["planner", "agent-7"]);
    let named_by = |iss: &str| tokens.with(json!({"act": {"sub": "agent-7", "iss": iss}}));
    let (own, foreign) = (named_by(doorward::dev::ISSUER), named_by("https://other.example"));
    for (path, token, reason) in [
        ("/own", &plain, "ok"),
        ("/own", &acting, "claim_mismatch"),
        ("/any", &plain, "claim_mismatch"),
        ("/any", &acting, "ok"),
        ("/agents", &acting, "ok"),
        ("/agents", &plain, "claim_mismatch"),
        ("/agents", &behind, "claim_mismatch"), // Only the current actor counts.
        ("/agents", &own, "ok"),
        ("/agents", &foreign, "claim_mismatch"), // Another party of that name.
        ("/any", &foreign, "ok"),
    ] {
        assert_eq!(checks.check(get(path).token(token)).await.reason(), reason, "{path}");
    }
    // An actor that cannot be read could not be revoked.
    let deep = self::acting(&tokens, &["a"; 9]);
    for act in [json!("agent-7"), json!({}), json!({"sub": ["agent-7"]})] {
        let token = tokens.with(json!({"act": act}));
        assert_eq!(checks.check(get("/").token(&token)).await.reason(), "invalid_claim");
    }
    assert_eq!(checks.check(get("/").token(&deep)).await.reason(), "invalid_claim");
    assert_eq!(checks.check(get("/").token(&self::acting(&tokens, &["a"; 8]))).await.reason(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_an_actor_is_confirmed_when_every_instance_refuses_it() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = tokens.config(&format!(
        "revocation: {{max_staleness: 5s, redis: {{url: \"{}\"}}}}\nlimits: {{http_timeout: 30s}}\n{}",
        redis.url(),
        admin_keys()
    ));
    let instances = [Doorward::start(&config).await, Doorward::start(&config).await];
    let mut checks = Vec::new();
    for instance in &instances {
        checks.push(Checks::connect(&instance.check).await);
    }
    // A new store may have lost leases: it confirms no receipt for the length of a lease.
    let path = "/v1/revocations?wait=all&timeout=28s";
    let first = post(&instances[0], path, &json!({"kind": "user", "id": "nobody"})).await;
    assert_eq!(first.status, 201, "{}", first.body);
    for round in 0..10 {
        let agent = format!("agent-{round}");
        let (hit, other) = (acting(&tokens, &["planner", &agent]), acting(&tokens, &["planner"]));
        for checks in &checks {
            assert_eq!(checks.check(get("/").token(&hit)).await.reason(), "ok");
        }
        let reply = post(&instances[round % 2], path, &json!({"kind": "actor", "id": agent})).await;
        for checks in &checks {
            assert_eq!(checks.check(get("/").token(&hit)).await.reason(), "revoked", "{}", reply.body);
            assert_eq!(checks.check(get("/").token(&other)).await.reason(), "ok");
        }
        assert_eq!((reply.status, &reply.body["confirmed"]), (201, &json!(true)), "{}", reply.body);
        assert_eq!(reply.body["instances"], 2, "{}", reply.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_an_actor_ends_the_streams_that_it_is_in_and_no_others() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let mut clients = Clients::new(&envoy).await;
    for (who, token) in [
        ("current", acting(&tokens, &["agent-7", "planner"])),
        ("before", acting(&tokens, &["planner", "agent-7"])),
        ("by client", tokens.with(json!({"act": {"sub": "x", "client_id": "agent-7"}}))),
        ("other agent", acting(&tokens, &["agent-8"])),
        ("user", tokens.of("agent-7")),
        ("client", tokens.with(json!({"azp": "agent-7"}))),
    ] {
        clients.open_all(who, &token).await.unwrap();
    }
    let body = json!({"kind": "actor", "id": "agent-7"});
    let reply = post(&doorward, "/v1/revocations?wait=all", &body).await;
    assert_eq!((reply.status, &reply.body["streams"]), (201, &json!(9)), "{}", reply.body);
    for who in ["current", "before", "by client"] {
        eventually(who, || async { clients.ends.of(who).is_some() }).await;
    }
    assert_eq!(clients.ends.all().len(), 9, "the others live: {:?}", clients.ends.all());
    assert_eq!(doorward.metric("doorward_streams{state=\"open\"}").await, Some(9.0));
    assert_eq!(doorward.metric("doorward_streams_ended_total{cause=\"revoked\"}").await, Some(9.0));
}
