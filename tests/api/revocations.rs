//! `/v1/revocations` and `/v1/explain`.

use serde_json::{Value, json};

use super::{OPERATOR, READER, admin_keys, post, read, reason, revoke};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::tokens::{Tokens, now};

fn with_redis(tokens: &Tokens, redis: &RedisServer) -> String {
    let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url());
    tokens.config(&format!("{store}{}", admin_keys()))
}

fn millis(rfc3339: &Value) -> i64 {
    doorward::clock::parse_rfc3339(rfc3339.as_str().unwrap()).unwrap().as_millis()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_six_kinds_by_id_are_stored_and_refused() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let doorward = Doorward::start(&with_redis(&tokens, &redis)).await;
    let checks = Checks::connect(&doorward.check).await;
    let kid = tokens.issuer.jwks()["keys"][0]["kid"].as_str().unwrap().to_owned();
    let bystander = || tokens.with(json!({"sub": "bob", "sid": "bobs", "azp": "other"}));
    for (kind, id, default_at_is_always) in [
        ("token", "jti-1", true),
        ("session", "session-1", true),
        ("user", "alice", false),
        ("client", "shop-web", false),
        ("issuer", "dev", false),
        ("key", kid.as_str(), true),
    ] {
        let token = tokens.with(json!({"jti": "jti-1", "sid": "session-1", "azp": "shop-web"}));
        if kind == "token" {
            assert_eq!(reason(&checks, &token).await, "ok");
        }
        let mut body = json!({"kind": kind, "issuer": "dev", "id": id, "reason": "a test"});
        let exp = now() + 600;
        if kind == "token" {
            body["expires_at"] = json!(exp);
        }
        let before = doorward::clock::now().as_millis();
        let reply = revoke(&doorward, &body).await;
        assert_eq!(reply.status, 201, "{kind}: {reply:?}");
        assert_eq!(reply.header("cache-control"), "no-store");
        let answer = &reply.body;
        assert_eq!((&answer["issuer"], &answer["kind"], &answer["id"]), (&json!("dev"), &json!(kind), &json!(id)));
        assert_eq!(answer["at"] == "*", default_at_is_always, "{answer}");
        if !default_at_is_always {
            assert!((before..before + 50_000).contains(&millis(&answer["at"])));
        }
        let position = answer["position"].as_str().unwrap();
        let kept_for = millis(&answer["expires_at"]) - before;
        if kind == "token" {
            assert_eq!(millis(&answer["expires_at"]), (exp + 30) * 1000, "exp and the leeway");
        } else {
            assert!(
                (0..50_000).contains(&(kept_for - 86_430_000)),
                "max_lifetime and leeway, from the instant: {kept_for}"
            );
        }
        let value = redis.cli(&["GET", &format!("doorward:{{r}}:dev:{kind}:{id}")]);
        assert!(value.ends_with(" revoked"), "{value}");
        let entry = redis.cli(&["XRANGE", "doorward:{r}:log", position, position]);
        assert!(entry.contains("a test") && entry.contains(kind), "{entry}");
        assert_eq!(reason(&checks, &token).await, "revoked", "{kind}: at once");
        let others = if matches!(kind, "key" | "issuer") { "revoked" } else { "ok" };
        assert_eq!(reason(&checks, &bystander()).await, others, "{kind}");
    }
    // The users of the issuer sign in again; an attacker with a stolen key chooses the dates of tokens.
    let later = tokens.with(json!({"sub": "bob", "sid": "bobs", "azp": "other", "iat": now() + 20}));
    assert_eq!(reason(&checks, &later).await, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_names_its_target() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let checks = Checks::connect(&doorward.check).await;
    for (kind, claim) in [("token", "jti"), ("session", "sid"), ("user", "sub"), ("client", "azp")] {
        let claims = json!({"jti": format!("j-{kind}"), "sid": format!("s-{kind}"), "sub": format!("u-{kind}"), "azp": format!("c-{kind}")});
        let token = tokens.with(claims.clone());
        let reply = revoke(&doorward, &json!({"kind": kind, "token": token})).await;
        assert_eq!((reply.status, &reply.body["id"]), (201, &claims[claim]), "{reply:?}");
        assert_eq!(reason(&checks, &token).await, "revoked");
    }
    let expired = tokens.with(json!({"iat": now() - 7200, "exp": now() - 3600, "sub": "late"}));
    let reply = revoke(&doorward, &json!({"kind": "token", "token": expired})).await;
    assert!(reply.status == 201 && reply.body["position"].is_string(), "by other clocks it is alive: {reply:?}");
    let reply = revoke(&doorward, &json!({"kind": "user", "token": expired})).await;
    assert_eq!((reply.status, &reply.body["id"]), (201, &json!("late")), "an expired token still names its user");
    let unnamed = tokens.with(json!({"jti": null}));
    let reply = revoke(&doorward, &json!({"kind": "token", "token": unnamed})).await;
    assert!(reply.body["id"].as_str().unwrap().starts_with("sha256:"));
    let again = json!({"kind": "token", "id": reply.body["id"], "expires_at": now() + 600});
    assert_eq!(revoke(&doorward, &again).await.body["id"], reply.body["id"], "the digest is taken as it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_are_named_and_nothing_is_applied() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let good = tokens.of("alice");
    let end = if good.ends_with("AA") { "BA" } else { "AA" };
    let forged = format!("{}{end}", &good[..good.len() - 2]);
    let foreign = Tokens::new().of("alice");
    for (body, status, error, pointer) in [
        (json!({"id": "x"}), 422, "invalid-field", Some("")),
        (json!({"kind": "device", "id": "x"}), 422, "invalid-field", Some("/kind")),
        (json!({"kind": 7, "id": "x"}), 422, "invalid-field", Some("/kind")),
        (json!({"kind": "user", "id": "x", "isuer": "dev"}), 422, "invalid-field", Some("/isuer")),
        (json!({"kind": "user", "id": "x", "issuer": "main"}), 422, "invalid-field", Some("/issuer")),
        (json!({"kind": "user", "id": "x", "issuer": "Main!"}), 422, "invalid-field", Some("/issuer")),
        (json!({"kind": "user"}), 422, "invalid-field", Some("/id")),
        (json!({"kind": "user", "id": ""}), 422, "invalid-field", Some("/id")),
        (json!({"kind": "issuer", "id": "other"}), 422, "invalid-field", Some("/id")),
        (json!({"kind": "user", "id": "x", "token": good}), 422, "invalid-field", Some("/token")),
        (json!({"kind": "client", "token": good}), 422, "invalid-field", Some("/token")),
        (json!({"kind": "token", "id": "x"}), 422, "invalid-field", Some("/expires_at")),
        (json!({"kind": "token", "id": "x", "expires_at": "soon"}), 422, "invalid-field", Some("/expires_at")),
        (json!({"kind": "token", "id": "x", "expires_at": -1}), 422, "invalid-field", Some("/expires_at")),
        (json!({"kind": "token", "id": "x", "expires_at": now() * 1000}), 422, "invalid-field", Some("/expires_at")),
        (json!({"kind": "token", "id": "x", "expires_at": 1.5}), 422, "invalid-field", Some("/expires_at")),
        (json!({"kind": "user", "id": "x", "at": "*!"}), 422, "invalid-field", Some("/at")),
        (json!({"kind": "user", "id": "x", "at": now() + 3600}), 422, "invalid-field", Some("/at")),
        (json!({"kind": "user", "id": "x", "reason": "r".repeat(257)}), 422, "invalid-field", Some("/reason")),
        (json!({"kind": "user", "token": "no-token"}), 400, "invalid-token", Some("/token")),
        (json!({"kind": "user", "token": forged}), 400, "invalid-token", Some("/token")),
        (json!({"kind": "user", "token": foreign}), 400, "invalid-token", Some("/token")),
        (json!(["kind"]), 422, "invalid-field", Some("")),
        (json!(["user", "dev", "x", null, null, null, null]), 422, "invalid-field", Some("")),
    ] {
        let reply = revoke(&doorward, &body).await;
        let pointer = pointer.filter(|pointer| !pointer.is_empty());
        let detail = reply.is_problem(status, error, pointer.or(reply.body["pointer"].as_str()));
        assert!(!detail.is_empty() && !reply.body.to_string().contains(&good), "{body}: {reply:?}");
        if let Some(pointer) = pointer {
            assert_eq!(reply.body["pointer"], pointer, "{body}");
        }
    }
    assert_eq!(revoke(&doorward, &json!({"kind": "user", "token": forged})).await.body["reason"], "bad_signature");
    let listed = read(&doorward, "/v1/revocations", READER).await;
    assert_eq!(listed.body, json!({"revocations": [], "next_cursor": null}), "nothing was applied");
    assert!(!doorward.logged(&good));
}

#[tokio::test(flavor = "multi_thread")]
async fn instants_are_taken_and_kept_long_enough() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let checks = Checks::connect(&doorward.check).await;
    let (old, new) = (tokens.of("alice"), tokens.with(json!({"iat": now() - 5})));
    let at = now() - 30;
    let fractional = tokens.with(json!({"iat": format!("{at}.75").parse::<f64>().unwrap()}));
    // A short end is accepted for a token only: for other kinds it would accept live tokens again.
    let body = json!({"kind": "user", "id": "alice", "at": at, "expires_at": now() + 1});
    let reply = revoke(&doorward, &body).await;
    assert_eq!(millis(&reply.body["at"]), at * 1000 + 999, "all of that second");
    assert_eq!(reason(&checks, &fractional).await, "revoked");
    assert!(millis(&reply.body["expires_at"]) >= (now() + 86_400) * 1000, "{reply:?}");
    assert_eq!((reason(&checks, &old).await, reason(&checks, &new).await), ("revoked".into(), "ok".into()));
    // A long expiry has no effect either: the log drops the entry when no present token can be live.
    let text = "9999-12-31T23:59:59Z";
    let body = json!({"kind": "user", "id": "alice", "at": "*", "expires_at": text});
    let reply = revoke(&doorward, &body).await;
    assert_eq!(reply.body["at"], "*");
    let about = |instant: &Value, seconds: i64| (millis(instant) - seconds * 1000).abs() < 20_000;
    assert!(about(&reply.body["expires_at"], now() + 86_430), "{reply:?}");
    assert_eq!(reason(&checks, &new).await, "revoked");
    // A token is accepted for `max_lifetime` plus the leeway, and no longer.
    let token = |after: i64| json!({"kind": "token", "id": "j-long", "expires_at": now() + after});
    let reply = revoke(&doorward, &token(86_429)).await;
    assert!(reply.status == 201 && about(&reply.body["expires_at"], now() + 86_459), "{reply:?}");
    let reply = revoke(&doorward, &token(86_460)).await;
    let detail = reply.is_problem(422, "invalid-field", Some("/expires_at"));
    let latest = detail.strip_suffix(" at most").and_then(|detail| detail.rsplit(' ').next()).unwrap();
    assert!(about(&json!(latest), now() + 86_430), "{detail}");
    let gone = json!({"kind": "token", "id": "j", "expires_at": now() - 31});
    let reply = revoke(&doorward, &gone).await;
    assert!(reply.status == 201 && reply.body["position"].is_string(), "it may be alive elsewhere: {reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn repeating_changes_nothing() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let doorward = Doorward::start(&with_redis(&tokens, &redis)).await;
    let body = json!({"kind": "token", "id": "j", "expires_at": now() + 80_000});
    let first = revoke(&doorward, &body).await;
    for _ in 0..5 {
        let again = revoke(&doorward, &body).await;
        assert_eq!((again.status, &again.body["expires_at"]), (201, &first.body["expires_at"]));
    }
    // A write whose answer is late, on a busy machine, is repeated.
    let length = redis.cli(&["XLEN", "doorward:{r}:log"]);
    assert!(["1", "2"].contains(&&*length), "{length}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_write_is_no_success_and_holds_here() {
    let (tokens, mut redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let doorward = Doorward::start(&with_redis(&tokens, &redis)).await;
    let checks = Checks::connect(&doorward.check).await;
    let alice = tokens.of("alice");
    redis.kill();
    let reply = revoke(&doorward, &json!({"kind": "user", "id": "alice"})).await;
    reply.is_problem(503, "store-unavailable", None);
    assert_eq!(reply.header("retry-after"), "1");
    assert!(["unavailable", "timeout"].contains(&reply.body["reason"].as_str().unwrap()), "{reply:?}");
    assert_eq!(reason(&checks, &alice).await, "revoked");
    redis.run().await;
    let reply = loop {
        let reply = revoke(&doorward, &json!({"kind": "user", "id": "alice"})).await;
        if reply.status != 503 {
            break reply;
        }
    };
    assert_eq!(reply.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged() {
    let tokens = Tokens::new();
    let config = tokens.config(&format!("limits: {{list_page: 4}}\n{}", admin_keys()));
    let doorward = Doorward::start(&config).await;
    assert_eq!(doorward.post("/logout?all=true", &tokens.of("user-3")).await.0, 204);
    for number in 0..7 {
        revoke(&doorward, &json!({"kind": "user", "id": format!("user-{number}")})).await;
    }
    revoke(&doorward, &json!({"kind": "session", "id": "s:1"})).await;

    let list = async |query: &str| read(&doorward, &format!("/v1/revocations{query}"), READER).await;
    let mut seen: Vec<Value> = Vec::new();
    let mut query = String::new();
    for page in 0.. {
        let reply = list(&query).await;
        let items = reply.body["revocations"].as_array().unwrap();
        assert!(items.len() <= 4 && (page < 3 || items.is_empty()), "{reply:?}");
        seen.extend(items.iter().cloned());
        let Some(next) = reply.body["next_cursor"].as_str() else { break };
        query = format!("?cursor={next}");
    }
    assert_eq!(seen.len(), 9);
    let of_user_3: Vec<_> = seen.iter().filter(|item| item["id"] == "user-3").map(|item| &item["origin"]).collect();
    assert_eq!(of_user_3, ["signed_out", "revoked"]);
    let ids = async |query: &str| {
        let reply = list(query).await;
        let items = reply.body["revocations"].as_array().unwrap_or_else(|| panic!("{reply:?}")).clone();
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids("?origin=signed_out").await, ["user-3"]);
    assert_eq!(ids("?kind=user&id=user-5&issuer=dev").await, ["user-5"]);
    assert!(ids("?id=s%3A1").await[0].starts_with("sha256:"), "an odd id is found by what it was");
    assert_eq!(ids("?limit=2&kind=user").await, ["user-0", "user-1"]);
    assert!(ids("?issuer=unheard-of").await.is_empty());
    revoke(&doorward, &json!({"kind": "user", "id": "user-9", "at": "2020-01-01T00:00:00Z"})).await;
    let newest = list("?order=newest&limit=1&kind=user&origin=revoked").await;
    let next = newest.body["next_cursor"].as_str().unwrap();
    let mut dated = newest.body["revocations"].as_array().unwrap().clone();
    let mut cursor = next.to_owned();
    loop {
        let page = list(&format!("?order=newest&limit=3&kind=user&origin=revoked&cursor={cursor}")).await;
        dated.extend(page.body["revocations"].as_array().unwrap().iter().cloned());
        let Some(following) = page.body["next_cursor"].as_str() else { break };
        following.clone_into(&mut cursor);
    }
    let seconds = "2026-11-30T12:00:00".len(); // The order knows no smaller unit.
    let since: Vec<_> = dated.iter().map(|item| item["since"].as_str().unwrap().split_at(seconds).0).collect();
    assert!(since.len() == 8 && since.is_sorted_by(|one, next| one >= next), "{since:?}");
    for (query, pointer) in [
        ("?kind=device", Some("kind")),
        ("?issuer=A", Some("issuer")),
        ("?origin=me", Some("origin")),
        ("?cursor=x", Some("cursor")),
        ("?order=oldest", Some("order")),
        (&format!("?cursor={next}"), Some("cursor")),
        ("?limit=0", Some("limit")),
        ("?limit=5", Some("limit")),
        ("?limit=x", None),
        ("?limitt=1", None),
    ] {
        list(query).await.is_problem(400, "invalid-parameter", pointer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explanations_know_what_is_revoked_and_change_nothing() {
    let tokens = Tokens::new();
    let rules = "rules:\n  - {name: out, match: {path: /out}, access: sign_out}\n  - {name: admin, match: {path_prefix: /admin}, require: {scopes: [admin]}}\n";
    let doorward = Doorward::start(&tokens.config(&format!("{rules}{}", admin_keys()))).await;
    let alice = tokens.of("alice");
    let explain = async |body: Value| post(&doorward, "/v1/explain", &body).await.body;
    let explained = explain(json!({"token": alice})).await;
    assert_eq!((&explained["decision"], &explained["reason"]), (&json!("allowed"), &json!("ok")));
    assert_eq!(explained["revocation"]["result"], "clear");
    assert_eq!(explained["keys"]["dev"]["usable"], 1);
    assert_eq!(explained["answer"]["set"]["x-user-id"], "alice");
    let explained = explain(json!({"token": alice, "path": "/admin/x"})).await;
    assert_eq!((&explained["rule"], &explained["reason"]), (&json!("admin"), &json!("insufficient_scope")));
    assert_eq!(explained["requirements"]["scopes"], json!(["admin"]));
    explain(json!({"token": alice, "method": "POST", "path": "/out"})).await;
    let explained = explain(json!({"headers": {"Authorization": format!("Bearer {alice}")}})).await;
    assert_eq!(explained["decision"], "allowed", "explaining a sign-out signs nobody out: {explained}");
    revoke(&doorward, &json!({"kind": "user", "id": "alice"})).await;
    let explained = explain(json!({"token": alice})).await;
    assert_eq!((&explained["decision"], &explained["reason"]), (&json!("denied"), &json!("revoked")));
    assert_eq!(explained["revocation"]["hit"]["kind"], "user");
    assert_eq!(explained["revocation"]["hit"]["origin"], "revoked");
    let signature = alice.rsplit_once('.').unwrap().1;
    assert!(!explained.to_string().contains(signature), "{explained}");
    assert!(!explained.to_string().contains(OPERATOR));
    assert_eq!(explain(json!({})).await["reason"], "missing_token");
    post(&doorward, "/v1/explain", &json!({"tokn": ""})).await.is_problem(422, "invalid-field", Some("/tokn"));
}

/// An id that looks like the digest of another: a caller may mean the text or the id with that digest.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_looks_like_a_digest_is_revoked_in_both_readings() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let replica = Doorward::start(&with_redis(&tokens, &redis)).await;
    let lookup =
        Doorward::start(&with_redis(&tokens, &redis).replace("{store: redis,", "{store: redis, read: lookup,")).await;
    let edges = [Checks::connect(&replica.check).await, Checks::connect(&lookup.check).await];
    let refused = async |token: &str| {
        for checks in &edges {
            eventually("it is refused", || async { reason(checks, token).await == "revoked" }).await;
        }
    };
    let odd = |seed: char| format!("sha256:{}", seed.to_string().repeat(64));
    for (kind, claim, seed) in
        [("token", "jti", 'a'), ("session", "sid", 'B'), ("user", "sub", 'c'), ("client", "azp", 'd')]
    {
        let token = tokens.with(json!({"sub": "carol", claim: odd(seed)}));
        assert_eq!(reason(&edges[0], &token).await, "ok");
        let mut body = json!({"kind": kind, "issuer": "dev", "id": odd(seed)});
        if kind == "token" {
            body["expires_at"] = json!(now() + 900);
        }
        assert_eq!(revoke(&replica, &body).await.status, 201);
        refused(&token).await;
    }
    // By another writer: an entry of the log, with its key.
    let (id, expires) = (odd('e'), (now() + 900).to_string());
    let token = tokens.with(json!({"jti": id}));
    let entry = ["issuer", "dev", "kind", "token", "id", &id, "at", "*", "expires", &expires, "origin", "revoked"];
    redis.cli(&[&["XADD", "doorward:{r}:log", "*"], &entry[..]].concat());
    redis.cli(&["SET", &format!("doorward:{{r}}:dev:token:{id}"), "* revoked", "EXAT", &expires]);
    refused(&token).await;
    // A token without a `jti` by its digest, and a token whose own `jti` is such a text.
    let unnamed = tokens.with(json!({"jti": null}));
    let digest = digest_named(unnamed.rsplit_once('.').unwrap().0);
    let body = json!({"kind": "token", "issuer": "dev", "id": digest, "expires_at": now() + 900});
    assert_eq!(revoke(&replica, &body).await.status, 201);
    refused(&unnamed).await;
    let itself = tokens.with(json!({"jti": odd('f')}));
    let answer = revoke(&replica, &json!({"kind": "token", "token": itself})).await;
    assert_eq!(answer.status, 201);
    refused(&itself).await;
    // The named id finds both.
    for id in [odd('f'), answer.body["id"].as_str().unwrap().to_owned(), odd('a'), odd('B')] {
        let found = read(&replica, &format!("/v1/revocations?id={id}"), READER).await;
        assert_eq!(found.body["revocations"].as_array().map(Vec::len), Some(1), "{id}: {found:?}");
    }
}

/// In the store's form for a token without an id.
fn digest_named(signing_input: &str) -> String {
    let digest = doorward::authz::api_key::digest_of(signing_input.as_bytes());
    format!("sha256:{}", super::hex(digest))
}
