//! The story of Accounts: each event reaches Doorward by its own way, and a refresh token is worth something
//! exactly once. The same on SQLite and on PostgreSQL.

use doorward::authz::claims::Timestamp;
use serde_json::{Value, json};

use super::shop::{Shop, Tokens, claims, part, tokens};
use super::support::Postgres;
use crate::api::{OPERATOR, send};
use crate::support::TempDir;
use crate::support::tokens::now;

const ALICE: (&str, &str) = ("alice", "wonderland");

#[tokio::test(flavor = "multi_thread")]
async fn on_sqlite() {
    let dir = TempDir::new();
    let file = dir.path().join("accounts.db");
    let Some(shop) = Shop::open(&format!("sqlite:{}", file.display()), &[]).await else { return };
    let secrets = tell(&shop).await;
    // The database, its journal and the log contain no token and no password.
    let mut kept = std::fs::read(&file).unwrap();
    for journal in ["accounts.db-wal", "accounts.db-journal"] {
        kept.extend(std::fs::read(dir.path().join(journal)).unwrap_or_default());
    }
    nothing_leaks(&shop, &secrets, &String::from_utf8_lossy(&kept));
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql() {
    let Some(postgres) = Postgres::start().await else { return };
    let Some(shop) = Shop::open(&postgres.url, &[]).await else { return };
    let secrets = tell(&shop).await;
    let kept = ["users", "families", "refresh_tokens"].map(|table| postgres.sql(&format!("SELECT * FROM {table}")));
    nothing_leaks(&shop, &secrets, &kept.concat());
}

/// Every event and every fate of a refresh token; returns the secrets that must not appear anywhere.
async fn tell(shop: &Shop) -> Vec<String> {
    what_the_tokens_say(shop).await;
    sign_out(shop).await;
    sign_out_everywhere(shop).await;
    permissions(shop).await;
    let reused = reuse(shop).await;
    two_at_once(shop).await;
    what_is_wrong(shop).await;
    old_password_at_the_same_time(shop).await;
    let last = password(shop).await;
    let secrets = [reused, last].into_iter().flat_map(|tokens| [tokens.access, tokens.refresh]);
    secrets.chain(["wonderland", "looking-glass", "builder", OPERATOR].map(str::to_owned)).collect()
}

#[track_caller]
fn nothing_leaks(shop: &Shop, secrets: &[String], kept: &str) {
    assert!(kept.contains("alice@example.com") && kept.contains("$argon2id$"), "the database was read");
    let log = shop.accounts.log.lock().unwrap().join("\n");
    assert!(log.contains("used twice"), "the log was read: {log}");
    for secret in secrets {
        assert!(!kept.contains(secret), "in the database: {secret}");
        assert!(!log.contains(secret), "in the log: {secret}");
    }
}

async fn what_the_tokens_say(shop: &Shop) {
    let alice = shop.login(ALICE.0, ALICE.1).await;
    let (header, claims) = (part(&alice.access, 0), claims(&alice));
    assert_eq!((&header["alg"], &header["typ"]), (&json!("ES256"), &json!("at+jwt")));
    for (name, value) in [
        ("iss", json!("https://accounts.example")),
        ("aud", json!("shop")),
        ("sub", json!("alice")),
        ("email", json!("alice@example.com")),
        ("permissions", json!(["admin", "orders:read", "orders:write"])),
    ] {
        assert_eq!(claims[name], value, "{claims}");
    }
    let issued_at = Timestamp::from_numeric_date(&claims["iat"]).unwrap();
    assert_eq!(claims["exp"], json!(issued_at.as_secs() + 300), "{claims}");
    assert!((now() - claims["auth_time"].as_i64().unwrap()).abs() < 60, "{claims}");

    let reply = shop.call(&alice.access).await;
    let seen = &reply.body;
    assert_eq!((&seen["user"], &seen["email"]), (&json!("alice"), &json!("alice@example.com")), "{seen}");
    assert_eq!((&seen["method"], &seen["path"]), (&json!("GET"), &json!("/a/orders")));
    assert_eq!((&seen["identity"]["session_id"], &seen["identity"]["token_id"]), (&claims["sid"], &claims["jti"]));

    let next = shop.refresh(&alice).await;
    let (old, new) = (claims, super::shop::claims(&next));
    for same in ["sub", "sid", "auth_time"] {
        assert_eq!(old[same], new[same], "{same}");
    }
    assert_ne!(old["jti"], new["jti"]);
    shop.works("the one before is not ended by a refresh", &alice).await;
    shop.works("the new one", &next).await;

    let jwks = send(reqwest::Client::new().get(shop.accounts.url("/.well-known/jwks.json"))).await;
    let keys = jwks.body["keys"].as_array().unwrap();
    assert!(keys.len() >= 2 && keys.iter().all(|key| key.get("d").is_none()), "{keys:?}");
    assert!(keys.iter().any(|key| key["kid"] == header["kid"]), "{keys:?}");
}

/// The rule `access: sign_out`: Doorward revokes before Accounts receives the request.
async fn sign_out(shop: &Shop) {
    let (mine, other) = (shop.login(ALICE.0, ALICE.1).await, shop.login(ALICE.0, ALICE.1).await);
    let mine = shop.refresh(&mine).await;
    shop.ends("sign-out", &mine, "signed_out", "/auth/logout", &mine, json!({})).await;
    shop.cannot_refresh("after the sign-out", &mine).await;
    shop.works("another session", &other).await;
    shop.refresh(&other).await;
    assert_eq!(shop.post("/auth/logout", Some(&mine.access), json!({})).await.status, 204, "again");
}

/// `POST /v1/revocations`, kind user.
async fn sign_out_everywhere(shop: &Shop) {
    let (one, two) = (shop.login(ALICE.0, ALICE.1).await, shop.login(ALICE.0, ALICE.1).await);
    let bob = shop.login("bob", "builder").await;
    shop.ends("sign-out everywhere", &two, "revoked", "/auth/logout-everywhere", &one, json!({})).await;
    shop.is_refused("whoever asked", &one, "revoked").await;
    for tokens in [&one, &two] {
        shop.cannot_refresh("after the sign-out everywhere", tokens).await;
    }
    shop.works("another user", &bob).await;
    // In the same second, most often: `iat` has milliseconds.
    shop.works("signed in again", &shop.login(ALICE.0, ALICE.1).await).await;
}

/// A security event; the client refreshes and gets the new permissions.
async fn permissions(shop: &Shop) {
    let (alice, bob) = (shop.login(ALICE.0, ALICE.1).await, shop.login("bob", "builder").await);
    let change = |list: Value| json!({"login": "bob", "permissions": list});
    let path = "/auth/permissions";
    let reply = shop.post(path, Some(&bob.access), change(json!(["admin"]))).await;
    assert_eq!((reply.status, reply.body["error"].as_str()), (403, Some("insufficient_scope")), "{reply:?}");

    let wanted = json!(["orders:read", "orders:write"]);
    shop.ends("permissions changed", &bob, "revoked", path, &alice, change(wanted.clone())).await;
    let bob = shop.refresh(&bob).await;
    shop.works("refreshed", &bob).await;
    assert_eq!(claims(&bob)["permissions"], wanted);
    shop.works("whoever changed them", &alice).await;

    let reply = shop.post(path, Some(&alice.access), json!({"login": "carol", "permissions": []})).await;
    assert_eq!((reply.status, reply.body["error"].as_str()), (404, Some("unknown_login")), "{reply:?}");
    for wrong in [json!(["two words"]), json!([""]), json!(vec!["a"; 33]), json!(["x".repeat(65)])] {
        let reply = shop.post(path, Some(&alice.access), change(wrong)).await;
        assert_eq!((reply.status, reply.body["error"].as_str()), (400, Some("invalid_request")), "{reply:?}");
    }
}

/// A reused refresh token ends its family and the family's access tokens, at any position of the chain.
async fn reuse(shop: &Shop) -> Tokens {
    let other = shop.login(ALICE.0, ALICE.1).await;
    let stolen = shop.login(ALICE.0, ALICE.1).await;
    let second = shop.refresh(&stolen).await;
    let last = shop.refresh(&second).await;
    shop.works("before the thief comes", &last).await;
    shop.cannot_refresh("the thief", &stolen).await;
    shop.is_refused("the access token of the session", &last, "revoked").await;
    shop.cannot_refresh("the owner", &last).await;
    shop.works("another session of the same user", &other).await;
    last
}

/// The same refresh token twice at once: one succeeds, and the other ends the family.
async fn two_at_once(shop: &Shop) {
    for round in 0..10 {
        let session = shop.login(ALICE.0, ALICE.1).await;
        let requests = if round % 2 == 0 { 2 } else { 8 };
        let replies = futures_util::future::join_all((0..requests).map(|_| shop.try_refresh(&session))).await;
        let winners: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert_eq!(winners.len(), 1, "round {round}: {replies:?}");
        let winner = tokens(winners[0]);
        let refused =
            replies.iter().filter(|reply| (reply.status, &reply.body["error"]) == (400, &json!("invalid_grant")));
        assert_eq!(refused.count(), requests - 1, "round {round}: {replies:?}");
        shop.is_refused("the winner's access token", &winner, "revoked").await;
        shop.cannot_refresh("the winner", &winner).await;
    }
}

async fn what_is_wrong(shop: &Shop) {
    let (wrong, unknown) = (shop.try_login("alice", "Wonderland").await, shop.try_login("mallory", "wonderland").await);
    assert_eq!((wrong.status, wrong.body["error"].as_str()), (401, Some("invalid_grant")), "{wrong:?}");
    assert_eq!((unknown.status, &unknown.body), (wrong.status, &wrong.body), "an unknown login is answered the same");

    let client = reqwest::Client::new();
    let url = shop.gateway.url("/auth/refresh");
    for (what, status, request) in [
        ("no JSON", 400, client.post(&url).header("content-type", "application/json").body("{")),
        ("no type", 415, client.post(&url).body("{}")),
        ("no token", 422, client.post(&url).json(&json!({}))),
        ("too long", 413, client.post(&url).json(&json!({"refresh_token": "x".repeat(20_000)}))),
    ] {
        let reply = send(request).await;
        assert_eq!(
            (reply.status, reply.body["error"].as_str()),
            (status, Some("invalid_request")),
            "{what}: {reply:?}"
        );
    }
    let reply = send(client.post(&url).json(&json!({"refresh_token": "never heard of"}))).await;
    assert_eq!((reply.status, reply.body["error"].as_str()), (400, Some("invalid_grant")));
    assert_eq!(shop.post("/auth/logout-everywhere", None, json!({})).await.body["reason"], "missing_token");
    let direct = send(client.post(shop.accounts.url("/auth/logout-everywhere"))).await;
    assert_eq!((direct.status, direct.body["error"].as_str()), (401, Some("invalid_token")), "{direct:?}");
}

/// Logins with the old password while it is changed: their tokens are revoked when the change is answered.
async fn old_password_at_the_same_time(shop: &Shop) {
    let bob = shop.login("bob", "builder").await;
    let logins = futures_util::future::join_all((0..6).map(|_| shop.try_login("bob", "builder")));
    let change = shop.post("/auth/password", Some(&bob.access), json!({"old": "builder", "new": "locksmith"}));
    let (logins, change) = futures_util::future::join(logins, change).await;
    assert_eq!(change.status, 204, "{change:?}");
    let (in_time, late): (Vec<_>, Vec<_>) = logins.iter().partition(|reply| reply.status == 200);
    eprintln!("{} logins came before the change, {} after", in_time.len(), late.len());
    assert!(late.iter().all(|reply| reply.status == 401), "{late:?}");
    for session in in_time.into_iter().map(tokens).chain([bob]) {
        shop.is_refused_soon("opened with the old password", &session, "revoked").await;
        shop.cannot_refresh("opened with the old password", &session).await;
    }
}

/// Redis: key and log entry in one transaction. Ends the story: alice has another password afterwards.
async fn password(shop: &Shop) -> Tokens {
    let (one, two) = (shop.login(ALICE.0, ALICE.1).await, shop.login(ALICE.0, ALICE.1).await);
    let change = |old: &str, new: &str| json!({"old": old, "new": new});
    let path = "/auth/password";
    for (status, body) in [(403, change("guess", "looking-glass")), (400, change("wonderland", "short"))] {
        assert_eq!(shop.post(path, Some(&one.access), body).await.status, status);
    }
    shop.works("after wrong attempts", &two).await;
    let body = change("wonderland", "looking-glass");
    shop.ends("password changed", &two, "revoked", path, &one, body).await;
    for tokens in [&one, &two] {
        shop.cannot_refresh("after the password change", tokens).await;
    }
    assert_eq!(shop.try_login("alice", "wonderland").await.status, 401);
    let alice = shop.login("alice", "looking-glass").await;
    shop.works("with the new password", &alice).await;

    // As docs/signing-out.md describes it: the key, its value, and that it goes when the last token has gone.
    let key = "doorward:{r}:main:user:alice";
    assert!(shop.redis.cli(&["GET", key]).ends_with(" revoked"));
    let ttl: i64 = shop.redis.cli(&["TTL", key]).parse().unwrap();
    assert!((86_000..=86_430).contains(&ttl), "{ttl}");
    alice
}
