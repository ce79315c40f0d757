//! A token that was stolen and revoked has no power over its user's other sessions.

use serde_json::json;

use crate::api::{admin_keys, reason, revoke};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::{Tokens, now};

const ROUTES: &str = "rules:\n\
  - {name: out, match: {path: /out}, access: sign_out, sign_out: {scope: user, then: respond}}\n\
  - {name: end, match: {path: /end}, access: sign_out, sign_out: {scope: session, then: respond}}\n";

fn config(tokens: &Tokens, redis: &RedisServer) -> String {
    tokens.config(&format!(
        "revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{ROUTES}{}",
        redis.url(),
        admin_keys()
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_signs_out_nothing_else() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let doorward = Doorward::start(&config(&tokens, &redis)).await;
    let checks = Checks::connect(&doorward.check).await;
    let (stolen, other) = (tokens.of("alice"), tokens.of("alice"));
    assert_eq!(revoke(&doorward, &json!({"kind": "token", "token": stolen})).await.status, 201);
    for _ in 0..2 {
        assert_eq!(doorward.post("/logout?all=true", &stolen).await.0, 204, "it is signed out, as it was");
        for path in ["/out", "/end"] {
            assert_eq!(checks.check(get(path).token(&stolen)).await.status, 204, "{path}");
        }
    }
    assert_eq!(reason(&checks, &stolen).await, "revoked");
    assert_eq!(reason(&checks, &other).await, "ok");
    for kind in ["user:alice", "session:session-of-alice"] {
        assert_eq!(redis.cli(&["EXISTS", &format!("doorward:{{r}}:dev:{kind}")]), "0", "{kind}");
    }
    // Beside it, a live one acts for its holder.
    let [live, same] = [tokens.of("carol"), tokens.of("carol")];
    let both = get("/out").token(&stolen).header("authorization", format!("Bearer {live}"));
    assert_eq!(checks.check(both).await.status, 204);
    assert_eq!(reason(&checks, &same).await, "signed_out");
    assert_eq!(reason(&checks, &other).await, "ok");

    // After a user was signed out everywhere, a token of before does not do it again.
    assert_eq!(doorward.post("/logout?all=true", &other).await.0, 204);
    let at = || redis.cli(&["GET", "doorward:{r}:dev:user:alice"]);
    let signed_out = at();
    let fresh = || tokens.with(json!({"sub": "alice", "iat": now(), "exp": now() + 600}));
    eventually("she signs in again", async || reason(&checks, &fresh()).await == "ok").await;
    let again = fresh();
    for token in [&other, &stolen] {
        assert_eq!(doorward.post("/logout?all=true", token).await.0, 204);
        assert_eq!(checks.check(get("/out").token(token)).await.status, 204);
    }
    assert_eq!(at(), signed_out);
    assert_eq!(reason(&checks, &again).await, "ok");
}

/// A sign-out that the store refused is not answered as done, although this process applies it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_everywhere_that_was_not_stored_can_be_repeated() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let doorward = Doorward::start(&config(&tokens, &redis)).await;
    let alice = tokens.of("alice");
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    for _ in 0..3 {
        assert_eq!(doorward.post("/logout?all=true", &alice).await.0, 503);
    }
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually("it is stored", async || doorward.post("/logout?all=true", &alice).await.0 == 204).await;
    assert_eq!(redis.cli(&["EXISTS", "doorward:{r}:dev:user:alice"]), "1");
}
