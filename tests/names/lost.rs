//! Notes about issuers' names that the store has lost.

use serde_json::json;

use super::issuers::{IN_A_FILE, X, Y, all_are_refused, changes, config, in_redis, next, restarted};
use super::{is_held, revoked_of};
use crate::api::{post, reason, revoke};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::tokens::{Tokens, now};

pub(super) const NOTES: &str = "doorward:{r}:issuers";

pub(super) fn named(name: &str, more: &str) -> String {
    format!("name: {name}, issuer: \"{X}\"{more}")
}

pub(super) fn noted(redis: &RedisServer) -> String {
    redis.cli(&["ZRANGE", NOTES, "0", "-1"])
}

/// The instance with the old name has ended, or is stopped, when the store loses what it noted.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_outlives_the_store_and_the_instance_that_noted_the_name() {
    for (fate, loss) in
        [("KILL", "flush"), ("KILL", "notes"), ("STOP", "flush"), ("STOP", "notes"), ("KILL", "restart")]
    {
        let (tokens, mut redis) = (Tokens::new(), RedisServer::start(&[]).await);
        let first = Doorward::start(&config(&tokens, &in_redis(&redis), &[&named("main", "")])).await;
        let dead = revoked_of(&tokens, &first, "main", X).await;
        let new = config(&tokens, &in_redis(&redis), &[&named("new", "")]);
        let second = Doorward::launch(&new).await;
        is_held(&second, "formerly: [main]", &dead[0]).await;
        first.process.signal(fate);
        match loss {
            "flush" => drop(redis.cli(&["FLUSHALL"])),
            "notes" => drop(redis.cli(&["DEL", NOTES])),
            _ => {
                redis.kill();
                redis.run().await;
            }
        }
        eventually("the notes are put back", async || noted(&redis).contains("\"main\"")).await;
        if loss != "notes" {
            second.logs("revocation store is complete again").await;
        }
        is_held(&second, "formerly: [main]", &dead[0]).await;
        // An instance that starts now learns it from the second.
        let third = Doorward::launch(&new).await;
        is_held(&third, "formerly: [main]", &dead[0]).await;
        let text = next(&second, &tokens, &in_redis(&redis), &[&named("new", ", formerly: [main]")]);
        if fate == "KILL" {
            changes(&second, &text, &[], &[]).await;
            all_are_refused(&second, &dead).await;
        }
    }
}

/// What another deployment or an earlier one noted is put back as well: an instance puts back all that it has read.
#[tokio::test(flavor = "multi_thread")]
async fn the_notes_of_instances_that_ended_are_put_back() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let both = format!("name: main, issuer: [\"{X}\", \"{Y}\"]");
    let mut first = Doorward::start(&config(&tokens, &in_redis(&redis), &[&both])).await;
    let dead = revoked_of(&tokens, &first, "main", Y).await;
    let narrowed = config(&tokens, &in_redis(&redis), &[&named("main", "")]);
    let other = Doorward::start(&narrowed).await;
    assert_eq!(first.stop().await, Some(0));
    redis.cli(&["FLUSHALL"]);
    other.logs("revocation store is complete again").await;
    assert!(noted(&redis).contains(Y), "{}", noted(&redis));
    // The `iss` that no instance accepts now comes back under another name.
    let again = config(&tokens, &in_redis(&redis), &[&named("main", ""), &format!("name: other, issuer: \"{Y}\"")]);
    is_held(&Doorward::launch(&again).await, "formerly: [main]", &dead[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_outlives_the_file() {
    let tokens = Tokens::new();
    let mut doorward = Doorward::start(&config(&tokens, IN_A_FILE, &[&named("main", "")])).await;
    let dead = revoked_of(&tokens, &doorward, "main", X).await;
    restarted(&mut doorward, &config(&tokens, IN_A_FILE, &[&named("new", "")])).await;
    is_held(&doorward, "formerly: [main]", &dead[0]).await;
    let file = doorward.dir.path().join("revocations.redb");
    std::fs::remove_file(&file).unwrap();
    eventually("it is written again", async || file.exists()).await;
    is_held(&doorward, "formerly: [main]", &dead[0]).await;
    restarted(&mut doorward, &config(&tokens, IN_A_FILE, &[&named("new", "")])).await;
    is_held(&doorward, "formerly: [main]", &dead[0]).await;
    restarted(&mut doorward, &config(&tokens, IN_A_FILE, &[&named("new", ", formerly: [main]")])).await;
    all_are_refused(&doorward, &dead).await;
}

/// A new instance finds no notes, and a lease of an instance that decides and cannot note its names again.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_instance_waits_for_the_names_of_an_instance_that_decides() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let first = Doorward::start(&config(&tokens, &in_redis(&redis), &[&named("main", "")])).await;
    let dead = revoked_of(&tokens, &first, "main", X).await;
    let name = redis.cli(&["KEYS", "doorward:{r}:instance:*"]);
    let report = async || redis.cli(&["GET", &name]).split(' ').nth(2).is_some_and(|age| age != "-");
    eventually("it reports that it has a view", report).await;
    first.process.signal("STOP");
    redis.cli(&["DEL", NOTES]);
    let new = Doorward::launch(&config(&tokens, &in_redis(&redis), &[&named("new", "")])).await;
    eventually("it has read the log", async || new.metric("doorward_revocations{kind=\"user\"}").await > Some(0.0))
        .await;
    let checks = Checks::connect(&new.check).await;
    for _ in 0..40 {
        assert_eq!(reason(&checks, &dead[0]).await, "revocations_stale");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    first.process.signal("CONT");
    is_held(&new, "formerly: [main]", &dead[0]).await;
}

/// A sign-out that the store refused stays in the process that has not known yet that its names conflict.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_sign_out_under_a_foreign_name_is_not_put_back() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let first = Doorward::start(&config(&tokens, &in_redis(&redis), &[&named("main", "")])).await;
    assert_eq!(revoke(&first, &json!({"kind": "user", "issuer": "main", "id": "bob"})).await.status, 201);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let second =
        Doorward::launch(&config(&tokens, &in_redis(&redis), &[&format!("name: main, issuer: \"{Y}\"")])).await;
    let body = json!({"kind": "session", "issuer": "main", "id": "session-of-alice"});
    let reply = post(&second, "/v1/revocations", &body).await;
    assert_eq!((reply.status, &reply.body["reason"]), (503, &json!("unavailable")), "{reply:?}");
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    is_held(&second, "issuers[0].issuer", &tokens.with(json!({"iss": Y, "sid": "another"}))).await;
    redis.cli(&["FLUSHALL"]);
    for doorward in [&first, &second] {
        doorward.logs("revocation store is complete again").await;
    }
    let log = redis.cli(&["XRANGE", "doorward:{r}:log", "-", "+"]);
    assert!(log.contains("bob") && !log.contains("session-of-alice"), "{log}");
    assert_eq!(reason(&Checks::connect(&first.check).await, &tokens.of("alice")).await, "ok");
}

/// It accepts no token, so none of its tokens can be dated ahead of a revocation.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_never_decided_notes_no_leads() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let first = Doorward::start(&config(&tokens, &in_redis(&redis), &[&named("main", "")])).await;
    let theirs = format!("name: main, issuer: \"{Y}\"");
    let second = Doorward::launch(&config(&tokens, &in_redis(&redis), &[&theirs])).await;
    let ahead = tokens.with(json!({"iss": Y, "iat": now() + 28, "exp": now() + 600}));
    is_held(&second, "issuers[0].issuer", &ahead).await;
    let seen = async || second.metric("doorward_clock_skew_seconds{of=\"main\"}").await.unwrap_or_default();
    eventually("it has seen the lead", async || {
        let checks = Checks::connect(&second.check).await;
        reason(&checks, &ahead).await != "ok" && seen().await > 15.0
    })
    .await;
    // With the next lease, at the latest.
    let lease = || redis.cli(&["ZRANGE", "doorward:{r}:instances", "0", "-1", "WITHSCORES"]);
    let before = lease();
    eventually("its lease is renewed", async || lease() != before).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    for notes in ["doorward:{r}:leads", "doorward:{r}:dated"] {
        assert_eq!(redis.cli(&["ZRANGE", notes, "0", "-1"]), "", "{notes}");
    }
    let reply = revoke(&first, &json!({"kind": "user", "issuer": "main", "id": "carol"})).await;
    let at = doorward::clock::parse_rfc3339(reply.body["at"].as_str().unwrap()).unwrap().as_secs();
    assert!(at - now() <= 3, "{reply:?}");
}

/// Nothing is known under the name, so it needs no `formerly`; the tokens that were accepted under it are the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_outlives_a_name() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    for store in [&*in_redis(&redis), IN_A_FILE] {
        let mut doorward = Doorward::start(&config(&tokens, store, &[&named("main", "")])).await;
        let ahead = |user: &str| tokens.with(json!({"sub": user, "iat": now() + 28, "exp": now() + 600}));
        let dated: Vec<_> = ["alice", "bob"].into_iter().map(ahead).collect();
        let checks = Checks::connect(&doorward.check).await;
        for token in &dated {
            assert_eq!(reason(&checks, token).await, "ok");
        }
        // The second change loses what was revoked under the first name, but not how far tokens are dated ahead.
        for (name, user, token, loss) in
            [("new", "alice", &dated[0], ""), ("newer", "bob", &dated[1], "accept_loss: true, ")]
        {
            let renamed = config(&tokens, store, &[&named(name, "")]);
            restarted(&mut doorward, &renamed.replace("{store:", &format!("{{{loss}store:"))).await;
            doorward.ready().await;
            let reply = revoke(&doorward, &json!({"kind": "user", "issuer": name, "id": user})).await;
            assert_eq!(reply.status, 201, "{reply:?}");
            assert_eq!(reason(&Checks::connect(&doorward.check).await, token).await, "revoked", "{store} {name}");
        }
    }
}

/// As over a restart; or the issuer is taken out by one reload and added by the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_outlives_a_name_over_reloads() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let base = format!("name: base, issuer: \"{Y}\"");
    for store in [&*in_redis(&redis), IN_A_FILE] {
        let both = config(&tokens, store, &[&base, &named("main", "")]);
        let doorward = Doorward::start(&both).await;
        let ahead = tokens.with(json!({"sub": "alice", "iat": now() + 28, "exp": now() + 600}));
        assert_eq!(reason(&Checks::connect(&doorward.check).await, &ahead).await, "ok");
        for issuers in [&[&*base][..], &[&*base, &*named("new", "")]] {
            changes(&doorward, &next(&doorward, &tokens, store, issuers), &[], &[]).await;
        }
        assert_eq!(revoke(&doorward, &json!({"kind": "user", "issuer": "new", "id": "alice"})).await.status, 201);
        assert_eq!(reason(&Checks::connect(&doorward.check).await, &ahead).await, "revoked", "{store}");
    }
}

/// The name is given to another `iss` meanwhile, so that nothing tells what it stood for. The `iss` may come back as one
/// of a template, or the reverse.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_outlives_a_name_that_is_given_away() {
    const EXACT: &str = "issuer: \"https://login.test/acme/v2\"";
    const TEMPLATE: &str = "issuer: \"https://login.test/{tenant}/v2\", tenants: any";
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let (base, given) = (format!("name: base, issuer: \"{Y}\""), "name: main, issuer: \"https://z.test\"");
    for store in [&*in_redis(&redis), IN_A_FILE] {
        for (first, back, tenant) in [(EXACT, EXACT, ""), (TEMPLATE, EXACT, ""), (EXACT, TEMPLATE, "acme|")] {
            redis.cli(&["FLUSHALL"]);
            let main = format!("name: main, {first}");
            let mut doorward = Doorward::start(&config(&tokens, store, &[&base, &main])).await;
            let ahead = |user: &str| {
                let iss = "https://login.test/acme/v2";
                tokens.with(json!({"iss": iss, "tid": "acme", "sub": user, "iat": now() + 28, "exp": now() + 600}))
            };
            let (of_alice, of_bob) = (ahead("alice"), ahead("bob"));
            for token in [&of_alice, &of_bob] {
                assert_eq!(reason(&Checks::connect(&doorward.check).await, token).await, "ok");
            }
            let new = format!("name: new, {back}");
            for issuers in [&[&*base, given][..], &[&*base, given, &*new]] {
                changes(&doorward, &next(&doorward, &tokens, store, issuers), &[], &[]).await;
            }
            for (user, token) in [("alice", &of_alice), ("bob", &of_bob)] {
                let body = json!({"kind": "user", "issuer": "new", "id": format!("{tenant}{user}")});
                assert_eq!(revoke(&doorward, &body).await.status, 201);
                let checks = Checks::connect(&doorward.check).await;
                assert_eq!(reason(&checks, token).await, "revoked", "{store}: {first} and {back}");
                if user == "alice" {
                    restarted(&mut doorward, &config(&tokens, store, &[&base, given, &new])).await;
                    doorward.ready().await;
                }
            }
            assert_eq!(doorward.stop().await, Some(0));
        }
    }
}

/// A server that is restarted with an older copy, or a replica that lags, has the epoch that it had, and fewer notes.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_outlives_an_older_copy_of_the_store() {
    for with_entries in [true, false] {
        let (tokens, mut redis) = (Tokens::new(), RedisServer::start(&[]).await);
        let base =
            Doorward::start(&config(&tokens, &in_redis(&redis), &[&format!("name: base, issuer: \"{Y}\"")])).await;
        drop(base);
        redis.cli(&["SAVE"]);
        let first = Doorward::start(&config(&tokens, &in_redis(&redis), &[&named("main", "")])).await;
        let alice = tokens.of("alice");
        if with_entries {
            revoked_of(&tokens, &first, "main", X).await;
        }
        let new = config(&tokens, &in_redis(&redis), &[&named("new", "")]);
        let second = Doorward::launch(&new).await;
        is_held(&second, "formerly: [main]", &alice).await;
        first.process.signal("KILL");
        redis.kill();
        redis.run().await;
        eventually("the notes are put back", async || noted(&redis).contains("\"main\"")).await;
        if with_entries {
            second.logs("revocation store is complete again").await;
            is_held(&second, "formerly: [main]", &alice).await;
            is_held(&Doorward::launch(&new).await, "formerly: [main]", &alice).await;
        }
    }
}

/// The process that put the notes of names back has decided nothing, and reads the leads under the name of before.
#[tokio::test(flavor = "multi_thread")]
async fn leads_of_an_instance_that_ended_outlive_the_store() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let patient = |name: &str, more: &str| named(name, &format!("{more}, leeway: 10m"));
    let first = Doorward::start(&config(&tokens, &in_redis(&redis), &[&patient("main", "")])).await;
    let ahead = tokens.with(json!({"sub": "alice", "iat": now() + 300, "exp": now() + 900}));
    assert_eq!(reason(&Checks::connect(&first.check).await, &ahead).await, "ok");
    assert_eq!(revoke(&first, &json!({"kind": "user", "issuer": "main", "id": "bob"})).await.status, 201);
    let second = Doorward::launch(&config(&tokens, &in_redis(&redis), &[&patient("new", "")])).await;
    is_held(&second, "formerly: [main]", &ahead).await;
    let leads = || {
        redis.cli(&["ZRANGE", "doorward:{r}:leads", "0", "-1"])
            + &redis.cli(&["ZRANGE", "doorward:{r}:dated", "0", "-1"])
    };
    eventually("it is noted", async || leads().contains("main")).await;
    let seen = async || second.metric("doorward_clock_skew_seconds{of=\"new\"}").await.unwrap_or_default();
    eventually("it is read", async || seen().await > 200.0).await;
    first.process.signal("KILL");
    redis.cli(&["FLUSHALL"]);
    second.logs("revocation store is complete again").await;
    assert!(leads().contains("main"), "{}", leads());
    let text = next(&second, &tokens, &in_redis(&redis), &[&patient("new", ", formerly: [main]")]);
    changes(&second, &text, &[], &[]).await;
    second.ready().await;
    assert_eq!(revoke(&second, &json!({"kind": "user", "issuer": "new", "id": "alice"})).await.status, 201);
    assert_eq!(reason(&Checks::connect(&second.check).await, &ahead).await, "revoked");
}

/// A process that runs writes its notes into a new file as soon as it writes the revocations.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_outlives_the_file() {
    let tokens = Tokens::new();
    let mut doorward = Doorward::start(&config(&tokens, IN_A_FILE, &[&named("main", "")])).await;
    let dead = revoked_of(&tokens, &doorward, "main", X).await;
    let file = doorward.dir.path().join("revocations.redb");
    std::fs::remove_file(&file).unwrap();
    let has = |text: &[u8]| std::fs::read(&file).is_ok_and(|file| file.windows(text.len()).any(|part| part == text));
    eventually("its note is written again", async || has(b"\"name\":\"main\"")).await;
    restarted(&mut doorward, &config(&tokens, IN_A_FILE, &[&named("new", "")])).await;
    is_held(&doorward, "formerly: [main]", &dead[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lead_outlives_the_file() {
    let tokens = Tokens::new();
    let text = config(&tokens, IN_A_FILE, &[&named("main", "")]);
    let mut doorward = Doorward::start(&text).await;
    let ahead = tokens.with(json!({"sub": "alice", "iat": now() + 28, "exp": now() + 600}));
    assert_eq!(reason(&Checks::connect(&doorward.check).await, &ahead).await, "ok");
    let file = doorward.dir.path().join("revocations.redb");
    std::fs::remove_file(&file).unwrap();
    let has = |text: &[u8]| std::fs::read(&file).is_ok_and(|file| file.windows(text.len()).any(|part| part == text));
    // The name of a lead that is noted by its `iss`.
    eventually("its lead is written again", async || has(b"iss-")).await;
    restarted(&mut doorward, &text).await;
    doorward.ready().await;
    assert_eq!(revoke(&doorward, &json!({"kind": "user", "issuer": "main", "id": "alice"})).await.status, 201);
    assert_eq!(reason(&Checks::connect(&doorward.check).await, &ahead).await, "revoked");
}

/// Other instances could not see them.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_cannot_be_noted_are_not_used() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = in_redis(&redis);
    let running = Doorward::start(&config(&tokens, &store, &[&named("main", "")])).await;
    let rules = ["resetkeys", "%R~doorward:{r}:issuers", "~doorward:{r}:[^i]*", "~doorward:{r}:in*", "~doorward:[^{]*"];
    assert_eq!(redis.cli(&[&["ACL", "SETUSER", "default"][..], &rules].concat()), "OK");
    let more = next(&running, &tokens, &store, &[&named("main", ""), &format!("name: other, issuer: \"{Y}\"")]);
    changes(&running, &more, &["cannot be noted", "NOPERM"], &[]).await;
    redis.cli(&["DEL", NOTES]);
    let starting = Doorward::launch(&config(&tokens, &store, &[&named("main", "")])).await;
    eventually("it is named", async || starting.get("/readyz").await.1.contains("NOPERM")).await;
    let checks = Checks::connect(&starting.check).await;
    assert_eq!(reason(&checks, &tokens.of("alice")).await, "revocations_stale");
    assert_eq!(revoke(&starting, &json!({"kind": "user", "issuer": "main", "id": "bob"})).await.status, 503);
    redis.cli(&["ACL", "SETUSER", "default", "allkeys"]);
    starting.ready().await;
}

/// The leases are gone with the notes: that no other instance is listed says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_right_after_a_flush_is_refused_all_the_same() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = in_redis(&redis);
    let _main = Doorward::start(&config(&tokens, &store, &[&named("main", "")])).await;
    let base = format!("name: base, issuer: \"{Y}\"");
    let other = Doorward::start(&config(&tokens, &store, &[&base])).await;
    let text = next(&other, &tokens, &store, &[&base, &named("new", "")]);
    for _ in 0..3 {
        redis.cli(&["FLUSHALL"]);
        changes(&other, &text, &["formerly: [main]"], &[]).await;
    }
}

/// A sign-out at an instance whose names are not compared yet would sign out the namesakes of another deployment.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_has_not_compared_its_names_acknowledges_nothing() {
    let (tokens, mut redis) = (Tokens::new(), RedisServer::start(&["--appendonly", "yes"]).await);
    let store = in_redis(&redis);
    let first = Doorward::start(&config(&tokens, &store, &[&named("main", "")])).await;
    redis.kill();
    redis.run().await;
    let second = Doorward::launch(&config(&tokens, &store, &[&format!("name: main, issuer: \"{Y}\"")])).await;
    let body = json!({"kind": "user", "issuer": "main", "id": "alice"});
    for _ in 0..20 {
        let reply = revoke(&second, &body).await;
        assert_eq!(reply.status, 503, "{reply:?}");
    }
    is_held(&second, "issuers[0].issuer", &tokens.with(json!({"iss": Y, "sub": "carol"}))).await;
    let checks = Checks::connect(&first.check).await;
    eventually("it decides", async || reason(&checks, &tokens.of("alice")).await == "ok").await;
}

/// A store that takes no writes takes no note of a use either: that a note is old says nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes"]
async fn a_name_that_a_full_store_did_not_note_is_in_use() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = in_redis(&redis);
    let _main = Doorward::start(&config(&tokens, &store, &[&named("main", "")])).await;
    let base = format!("name: base, issuer: \"{Y}\"");
    let other = Doorward::start(&config(&tokens, &store, &[&base])).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    tokio::time::sleep(std::time::Duration::from_secs(100)).await;
    let text = next(&other, &tokens, &store, &[&base, &named("new", "")]);
    changes(&other, &text, &["formerly: [main]"], &[]).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    changes(&other, &text, &["formerly: [main]"], &[]).await;
}
