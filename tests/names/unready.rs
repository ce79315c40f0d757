//! Instances that were never ready: their configuration has not been compared with the notes yet.

use std::time::{Duration, Instant};

use serde_json::json;

use super::issuers::{IN_A_FILE, X, Y, all_are_refused, changes, config, in_redis, next, restarted};
use super::{is_held, revoked_of};
use crate::api::{post, reason, revoke};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::proxy::Proxy;
use crate::support::tokens::Tokens;

fn named(name: &str, more: &str) -> String {
    format!("name: {name}, issuer: \"{X}\"{more}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_not_ready_takes_the_next_configuration_as_at_a_start() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    for store in [&*in_redis(&redis), IN_A_FILE] {
        let mut doorward = Doorward::start(&config(&tokens, store, &[&named("main", "")])).await;
        let dead = revoked_of(&tokens, &doorward, "main", X).await;
        let text = |doorward: &Doorward, issuer: &str| next(doorward, &tokens, store, &[issuer]);
        let alice = tokens.of("alice");
        let others = tokens.with(json!({"iss": Y}));
        for (wrong, theirs) in [(named("nwe", ""), &alice), (format!("name: main, issuer: \"{Y}\""), &others)] {
            restarted(&mut doorward, &config(&tokens, store, &[&wrong])).await;
            is_held(&doorward, "accept_loss", theirs).await;
            // The typo is mended, and the former name is lacking still.
            changes(&doorward, &text(&doorward, &named("new", "")), &[], &[]).await;
            is_held(&doorward, "under `new`", &alice).await;
            changes(&doorward, &text(&doorward, &named("main", ", claims: {user_id: email}")), &[], &[]).await;
            is_held(&doorward, "issuers[0].claims.user_id", &alice).await;
            restarted(&mut doorward, &config(&tokens, store, &[&named("new", "")])).await;
            is_held(&doorward, "formerly: [main]", &alice).await;
        }
        changes(&doorward, &text(&doorward, &named("new", ", formerly: [main]")), &[], &[]).await;
        all_are_refused(&doorward, &dead).await;
        let checks = Checks::connect(&doorward.check).await;
        assert_eq!(reason(&checks, &alice).await, "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_has_not_reached_the_store_takes_the_next_configuration_as_at_a_start() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let first = Doorward::start(&config(&tokens, &in_redis(&redis), &[&named("main", "")])).await;
    let mut dead = revoked_of(&tokens, &first, "main", X).await;
    let proxy = Proxy::start(redis.port);
    proxy.refuse();
    let store = format!("redis, redis: {{url: \"redis://127.0.0.1:{}\"}}", proxy.port);
    let second = Doorward::launch(&config(&tokens, &store, &[&named("main", "")])).await;
    let text = |issuer: &str| next(&second, &tokens, &store, &[issuer]);
    changes(&second, &text(&named("new", "")), &[], &[]).await;
    proxy.heal();
    is_held(&second, "formerly: [main]", &tokens.of("alice")).await;
    changes(&second, &text(&named("new", ", formerly: [main]")), &[], &[]).await;
    dead.push(tokens.with(json!({"sub": "carol"})));
    assert_eq!(revoke(&first, &json!({"kind": "user", "issuer": "main", "id": "carol"})).await.status, 201);
    all_are_refused(&second, &dead).await;
    // The first configuration of this instance was never in force.
    assert_eq!(first.get("/readyz").await.0, 200);
    assert!(!first.logged("issuers' names"));
}

/// A sign-out that the store does not have yet stands under the name by which it was asked.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_never_ready_takes_no_refusal_back() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    proxy.refuse();
    let store = format!("redis, redis: {{url: \"redis://127.0.0.1:{}\"}}", proxy.port);
    let doorward = Doorward::launch(&config(&tokens, &store, &[&named("main", "")])).await;
    let (checks, dead) = (Checks::connect(&doorward.check).await, [tokens.of("alice")]);
    let session = json!({"kind": "session", "issuer": "main", "id": "session-of-alice"});
    assert_eq!(revoke(&doorward, &session).await.status, 503);
    assert_eq!(reason(&checks, &dead[0]).await, "revoked");
    let text = |issuer: &str| next(&doorward, &tokens, &store, &[issuer]);
    // In two steps as in one.
    for issuer in [format!("name: base, issuer: \"{Y}\""), named("new", "")] {
        changes(&doorward, &text(&issuer), &[], &[]).await;
    }
    proxy.heal();
    is_held(&doorward, "formerly: [main]", &dead[0]).await;
    changes(&doorward, &text(&named("new", ", formerly: [main]")), &[], &[]).await;
    all_are_refused(&doorward, &dead).await;
    assert_eq!(reason(&checks, &tokens.of("bob")).await, "ok");
    eventually("it is written", async || redis.cli(&["XRANGE", "doorward:{r}:log", "-", "+"]).contains("main")).await;
}

/// Other instances do not refuse what it revokes, and none does when its name is put right.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_not_ready_for_its_names_acknowledges_nothing() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let first = Doorward::start(&config(&tokens, &in_redis(&redis), &[&named("main", "")])).await;
    assert_eq!(revoke(&first, &json!({"kind": "user", "issuer": "main", "id": "bob"})).await.status, 201);
    let second = Doorward::launch(&config(&tokens, &in_redis(&redis), &[&named("nwe", "")])).await;
    let alice = tokens.of("alice");
    is_held(&second, "under `nwe`", &alice).await;
    // A repetition is not acknowledged either.
    for _ in 0..2 {
        let body = json!({"kind": "user", "issuer": "nwe", "id": "alice"});
        let reply = post(&second, "/v1/revocations?wait=all&timeout=1s", &body).await;
        assert_eq!((reply.status, &reply.body["reason"]), (503, &json!("names_differ")), "{reply:?}");
        let (status, body) = second.post("/logout", &alice).await;
        assert_eq!(status, 503, "{body}");
    }
    assert_eq!(reason(&Checks::connect(&first.check).await, &alice).await, "ok", "it was not promised");
    let text = next(&second, &tokens, &in_redis(&redis), &[&named("main", "")]);
    changes(&second, &text, &[], &[]).await;
    second.ready().await;
    assert_eq!(second.post("/logout", &alice).await.0, 204);
}

/// The namesakes of the deployment that runs stay signed in, however often the other one is asked.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_whose_names_conflict_writes_nothing() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = in_redis(&redis);
    let first = Doorward::start(&config(&tokens, &store, &[&named("main", "")])).await;
    assert_eq!(revoke(&first, &json!({"kind": "user", "issuer": "main", "id": "bob"})).await.status, 201);
    let second = Doorward::launch(&config(&tokens, &store, &[&format!("name: main, issuer: \"{Y}\"")])).await;
    is_held(&second, "issuers[0].issuer", &tokens.with(json!({"iss": Y}))).await;
    let entries = || redis.cli(&["XLEN", "doorward:{r}:log"]);
    let before = entries();
    for body in [
        json!({"kind": "user", "issuer": "main", "id": "alice"}),
        json!({"kind": "session", "issuer": "main", "id": "session-of-alice"}),
        json!({"kind": "issuer", "issuer": "main"}),
    ] {
        let reply = revoke(&second, &body).await;
        assert_eq!((reply.status, &reply.body["reason"]), (503, &json!("names_differ")), "{reply:?}");
    }
    assert_eq!(entries(), before, "nothing was written");
    assert_eq!(second.metric("doorward_store_unsaved").await.unwrap_or_default().to_string(), "0", "and nothing waits");
    assert_eq!(reason(&Checks::connect(&first.check).await, &tokens.of("alice")).await, "ok");
}

/// The notes with which its names conflict are gone for a moment, and the others note them again.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_its_notes_makes_no_conflicting_instance_ready() {
    let (tokens, mut redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let first = Doorward::start(&config(&tokens, &in_redis(&redis), &[&named("main", "")])).await;
    let dead = revoked_of(&tokens, &first, "main", X).await;
    let second = Doorward::launch(&config(&tokens, &in_redis(&redis), &[&named("new", "")])).await;
    let alice = tokens.of("alice");
    is_held(&second, "formerly: [main]", &alice).await;
    for (round, how) in ["flushed", "restarted"].into_iter().enumerate() {
        if how == "flushed" {
            redis.cli(&["FLUSHALL"]);
        } else {
            redis.kill();
            redis.run().await;
        }
        for doorward in [&first, &second] {
            let is_said = |line: &&String| line.contains("revocation store is complete again");
            let said = || doorward.log.lock().unwrap().iter().filter(is_said).count();
            eventually("it is complete again", async || said() > round).await;
        }
        assert!(redis.cli(&["ZRANGE", "doorward:{r}:issuers", "0", "-1"]).contains("main"), "{how}");
        is_held(&second, "formerly: [main]", &alice).await;
        // An instance that starts now sees them as well.
        let third = Doorward::launch(&config(&tokens, &in_redis(&redis), &[&named("new", "")])).await;
        is_held(&third, "formerly: [main]", &alice).await;
        all_are_refused(&first, &dead).await;
    }
}

/// As the other notes, with the next renewal of the lease; a running instance notes the last use of its names much more
/// seldom.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_were_removed_from_the_notes_are_noted_again_at_once() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let doorward = Doorward::start(&config(&tokens, &in_redis(&redis), &[&named("main", "")])).await;
    revoked_of(&tokens, &doorward, "main", X).await;
    let noted = || redis.cli(&["ZRANGE", "doorward:{r}:issuers", "0", "-1"]);
    for _ in 0..2 {
        let reports = async || doorward.get("/readyz").await.0 == 200 && noted().contains("main");
        eventually("it is noted", reports).await;
        tokio::time::sleep(Duration::from_secs(4)).await; // A renewal has seen it.
        redis.cli(&["DEL", "doorward:{r}:issuers"]);
        let removed = Instant::now();
        eventually("it is noted again", async || noted().contains("main")).await;
        assert!(removed.elapsed() < Duration::from_secs(15), "{:?}", removed.elapsed());
    }
}

/// Under the names of before, revocations of either part would apply no longer to the tokens of the other.
#[tokio::test(flavor = "multi_thread")]
async fn issuers_that_were_merged_are_parted_with_both_names() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = in_redis(&redis);
    let part = |name: &str, iss: &str, more: &str| format!("name: {name}, issuer: \"{iss}\"{more}");
    let before = [part("a", X, ""), part("b", Y, "")];
    let before = config(&tokens, &store, &[&before[0], &before[1]]);
    let (merging, mut older) = (Doorward::start(&before).await, Doorward::start(&before).await);
    let mut dead = revoked_of(&tokens, &merging, "a", X).await;
    dead.extend(revoked_of(&tokens, &merging, "b", Y).await);
    let merged = format!("name: b, issuer: [\"{X}\", \"{Y}\"], formerly: [a]");
    changes(&merging, &next(&merging, &tokens, &store, &[&merged]), &[], &dead).await;
    dead.push(tokens.with(json!({"iss": X, "sub": "carol"})));
    assert_eq!(revoke(&merging, &json!({"kind": "user", "issuer": "b", "id": "carol"})).await.status, 201);
    all_are_refused(&older, &dead).await;
    restarted(&mut older, &before).await;
    is_held(&older, "former name `a`", &tokens.of("alice")).await;
    let parted = [part("a", X, ", formerly: [b]"), part("b", Y, ", formerly: [a]")];
    changes(&older, &next(&older, &tokens, &store, &[&parted[0], &parted[1]]), &[], &[]).await;
    all_are_refused(&older, &dead).await;
    changes(&merging, &next(&merging, &tokens, &store, &[&parted[0], &parted[1]]), &[], &dead).await;
}

/// A revocation may name its target by the appended claim, which the configuration of before does not read.
#[tokio::test(flavor = "multi_thread")]
async fn an_appended_claim_stays_on_the_way_back() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = in_redis(&redis);
    let [before, appended] =
        ["[sid]", "[sid, sess]"].map(|claims| named("main", &format!(", claims: {{session_id: {claims}}}")));
    let older = config(&tokens, &store, &[&before]);
    let (newer, mut restarts) = (Doorward::start(&older).await, Doorward::start(&older).await);
    changes(&newer, &next(&newer, &tokens, &store, &[&appended]), &[], &[]).await;
    let dead = vec![tokens.with(json!({"sid": null, "sess": "s-1"})), tokens.with(json!({"sid": "s-2"}))];
    for id in ["s-1", "s-2"] {
        assert_eq!(revoke(&newer, &json!({"kind": "session", "issuer": "main", "id": id})).await.status, 201);
    }
    all_are_refused(&newer, &dead).await;
    changes(
        &newer,
        &next(&newer, &tokens, &store, &[&before]),
        &["issuers[0].claims.session_id", "accept_loss"],
        &dead,
    )
    .await;
    restarted(&mut restarts, &older).await;
    is_held(&restarts, "issuers[0].claims.session_id", &tokens.of("alice")).await;
    changes(&restarts, &next(&restarts, &tokens, &store, &[&appended]), &[], &[]).await;
    all_are_refused(&restarts, &dead).await;
}
