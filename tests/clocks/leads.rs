//! Watermarks that no caller names: they cover tokens that an issuer dates ahead, and wrong clocks make none.

use std::time::Duration;

use doorward::authz::claims::Timestamp;
use serde_json::json;

use crate::api::{READER, admin_keys, post, read, reason, revoke};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::proxy::Proxy;
use crate::support::tokens::{Tokens, now};

pub(super) fn redis_config(tokens: &Tokens, redis: &RedisServer) -> String {
    tokens.config(&format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys()))
}

pub(super) fn dated(tokens: &Tokens, user: &str, ahead: i64) -> String {
    tokens.with(json!({"sub": user, "sid": null, "iat": now() + ahead, "exp": now() + 600}))
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_dated_ahead_do_not_outlive_their_user_s_revocation() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = redis_config(&tokens, &redis);
    let (one, two) = (Doorward::start(&config).await, Doorward::start(&config).await);
    let (checks, others) = (Checks::connect(&one.check).await, Checks::connect(&two.check).await);
    // No instance has seen a token of this issuer: a second is covered all the same.
    let unseen = dated(&tokens, "early", 1);
    assert_eq!(revoke(&one, &json!({"kind": "user", "id": "early"})).await.status, 201);
    assert_eq!(reason(&checks, &unseen).await, "revoked");
    // A token that is 26 s ahead reveals the lead of its issuer; the other instance reads it from the store.
    assert_eq!(reason(&checks, &dated(&tokens, "somebody", 26)).await, "ok");
    eventually("the lead is shared", || async {
        two.metric("doorward_clock_skew_seconds{of=\"dev\"}").await.is_some_and(|lead| lead > 15.0)
    })
    .await;
    for (instance, user) in [(&one, "alice"), (&two, "bob")] {
        let unseen = dated(&tokens, user, 18);
        assert_eq!(revoke(instance, &json!({"kind": "user", "id": user})).await.status, 201);
        for checks in [&checks, &others] {
            eventually("it is refused", || async { reason(checks, &unseen).await == "revoked" }).await;
        }
    }
    // A whole client signs nobody in again at once: as far ahead as any token is accepted.
    let ahead = tokens.with(json!({"azp": "shop", "iat": now() + 29, "exp": now() + 600}));
    assert_eq!(revoke(&one, &json!({"kind": "client", "id": "shop"})).await.status, 201);
    assert_eq!(reason(&checks, &ahead).await, "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_time_to_sign_in_again() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let checks = Checks::connect(&doorward.check).await;
    // Again if the machine held the test up until the margin had passed.
    let (user, until, refused) = loop {
        let user = format!("alice-{:x}", rand::random::<u32>());
        let reply = revoke(&doorward, &json!({"kind": "user", "id": user})).await;
        let until = doorward::clock::parse_rfc3339(reply.body["at"].as_str().unwrap()).unwrap();
        let refused = checks.check(get("/").token(&dated(&tokens, &user, 0))).await;
        if refused.headers.contains_key("retry-after") {
            break (user, until, refused);
        }
        assert!(doorward::clock::now() > until, "{refused:?}");
    };
    assert_eq!((refused.status, refused.reason()), (401, "revoked"));
    let wait: u64 = refused.headers["retry-after"].parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait}");
    let body: serde_json::Value = serde_json::from_str(&refused.body).unwrap();
    // Tokens are dated in whole seconds, rounded down.
    assert_eq!(body["until"], Timestamp::from_secs(until.as_secs() + 1).to_rfc3339());
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(reason(&checks, &dated(&tokens, &user, 0)).await, "ok", "a token that is issued then is accepted");
    // A permanent refusal has no `Retry-After`.
    revoke(&doorward, &json!({"kind": "token", "token": dated(&tokens, "bob", 0)})).await;
    let token = dated(&tokens, "carol", 0);
    revoke(&doorward, &json!({"kind": "token", "token": token})).await;
    let refused = checks.check(get("/").token(&token)).await;
    assert!(!refused.headers.contains_key("retry-after"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_disagree_make_no_watermark() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let (doorward, clock) = Doorward::start_with_clock(&redis_config(&tokens, &redis)).await;
    let user = json!({"kind": "user", "id": "alice"});
    // Within the leeway the later clock counts.
    clock.step("-20s");
    let before = now();
    let reply = revoke(&doorward, &user).await;
    let at = doorward::clock::parse_rfc3339(reply.body["at"].as_str().unwrap()).unwrap();
    assert!(at.as_secs() >= before - 1, "not 20 s ago: {reply:?}");
    let skew = || async { doorward.metric("doorward_clock_skew_seconds{of=\"store\"}").await.unwrap_or_default() };
    assert!((-22.0..-18.0).contains(&skew().await));
    for (offset, expected) in [("-1h", -3600.0), ("+1h", 3600.0)] {
        clock.step(offset);
        assert!((skew().await - expected).abs() < 5.0);
        let reply = revoke(&doorward, &user).await;
        assert_eq!((reply.status, &reply.body["reason"]), (503, &json!("clock_skew")), "{reply:?}");
        let status = read(&doorward, "/v1/instances", READER).await.body;
        eventually("the instances show it", || async {
            let status = read(&doorward, "/v1/instances", READER).await.body;
            status["instances"][0]["clock_skew_seconds"].as_f64().is_some_and(|skew| (skew - expected).abs() < 5.0)
        })
        .await;
        assert_eq!(status["complete"], true);
    }
    // By this clock the token has expired; it is still signed out, but not its user.
    let (status, body) = doorward.post("/logout?all=true", &tokens.of("bob")).await;
    assert!(status == 503 && body.contains("clock_skew"), "{status} {body}");
    assert_eq!(doorward.post("/logout", &tokens.of("bob")).await.0, 204);
    // An instant that the caller names needs no clock.
    let named = json!({"kind": "user", "id": "alice", "at": now()});
    assert_eq!(revoke(&doorward, &named).await.status, 201);
    eventually("it is logged", || async { doorward.logged("differs from the store's") }).await;
    clock.step("+0");
    assert_eq!(revoke(&doorward, &user).await.status, 201);
}

/// The transmitter is the issuer, whose clock leads by 20 s: its times do not count as future.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_an_issuer_that_leads_covers_its_tokens() {
    let tokens = Tokens::new();
    let issuer = doorward::dev::ISSUER;
    let signals = crate::event_sources::signals::section(&tokens, "").replace("https://signals.test", issuer);
    let doorward = Doorward::start(&tokens.config(&signals)).await;
    let checks = Checks::connect(&doorward.check).await;
    let alice = dated(&tokens, "alice", 19);
    assert_eq!(reason(&checks, &alice).await, "ok");
    let subject = json!({"subject": {"format": "iss_sub", "iss": issuer, "sub": "alice"}});
    let uri = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
    let claims = crate::event_sources::signals::claims(uri, subject, &json!({"iss": issuer, "iat": now() + 20}));
    let set = crate::event_sources::sign(&tokens, Some("secevent+jwt"), &claims);
    let sent = reqwest::Client::new().post(format!("http://{}/signals/events", doorward.http));
    let sent = sent.header("content-type", "application/secevent+jwt").body(set).send().await.unwrap();
    assert_eq!(sent.status(), 202);
    assert_eq!(reason(&checks, &alice).await, "revoked");
    let fresh = dated(&tokens, "alice", 25);
    assert_eq!(reason(&checks, &fresh).await, "ok", "it was issued after the event");
}

/// Instances whose leases are short: the store is soon known to have kept all of them.
pub(super) fn certain_config(tokens: &Tokens, redis: &RedisServer) -> String {
    let config = redis_config(tokens, redis).replace("store: redis,", "store: redis, max_staleness: 5s,");
    config + "limits: {http_timeout: 60s, receipt_timeout: 50s}\n"
}

/// Confirms, however long the store is not known to list every instance.
pub(super) async fn confirmed(doorward: &Doorward, body: serde_json::Value) {
    let reply = post(doorward, "/v1/revocations?wait=all&timeout=50s", &body).await;
    assert!(reply.status == 201 && reply.body["confirmed"] == true, "{reply:?}");
}

/// A lead that another instance has just seen counts; a receipt waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_that_another_instance_saw_counts_at_once() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis);
    let (one, two) = (Doorward::start(&config).await, Doorward::start(&config).await);
    let (checks, others) = (Checks::connect(&one.check).await, Checks::connect(&two.check).await);
    confirmed(&two, json!({"kind": "session", "id": "first"})).await;
    for (ahead, user) in [(8, "alice"), (14, "bob"), (20, "carol"), (26, "dave")] {
        let issued_at = now() + ahead;
        let of = |user: &str| tokens.with(json!({"sub": user, "sid": null, "iat": issued_at, "exp": now() + 600}));
        assert_eq!(reason(&checks, &of("somebody")).await, "ok");
        confirmed(&two, json!({"kind": "user", "id": user})).await;
        for checks in [&checks, &others] {
            assert_eq!(reason(checks, &of(user)).await, "revoked", "{ahead} s ahead");
        }
    }
}

/// The reader's leeway accepts tokens that the writer would refuse: their lead counts for the fleet.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_with_a_short_leeway_covers_what_others_accept() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis);
    let strict = config.replace("audiences:", "leeway: 1s, audiences:");
    let (writer, reader) = (Doorward::start(&strict).await, Doorward::start(&config).await);
    let checks = Checks::connect(&reader.check).await;
    confirmed(&writer, json!({"kind": "session", "id": "first"})).await;
    let issued_at = now() + 25;
    let of = |user: &str| tokens.with(json!({"sub": user, "azp": "shop", "iat": issued_at, "exp": now() + 600}));
    assert_eq!(reason(&checks, &of("somebody")).await, "ok");
    for (kind, id, user) in [("user", "alice", "alice"), ("client", "shop", "bob")] {
        confirmed(&writer, json!({"kind": kind, "id": id})).await;
        assert_eq!(reason(&checks, &of(user)).await, "revoked", "{kind}");
    }
    // A token that has expired by the writer's leeway is live by the reader's.
    let late = |user: &str| tokens.with(json!({"sub": user, "iat": now() - 600, "exp": now() - 5}));
    let token = late("carol");
    assert_eq!(reason(&checks, &token).await, "ok");
    let reply = post(&writer, "/v1/revocations", &json!({"kind": "token", "token": token})).await;
    assert!(reply.status == 201 && reply.body["position"].is_string(), "{reply:?}");
    eventually("it is refused", async || reason(&checks, &token).await == "revoked").await;
    let token = late("dave");
    assert_eq!(writer.post("/logout", &token).await.0, 204);
    eventually("it is refused", async || reason(&checks, &token).await == "signed_out").await;
}

/// By its own clock, which is ahead as well, an instance would see no lead.
#[tokio::test(flavor = "multi_thread")]
async fn a_lead_is_measured_by_the_earlier_clock() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis);
    let writer = Doorward::start(&config).await;
    let (reader, clock) = Doorward::start_with_clock(&config).await;
    clock.step("+25s");
    let checks = Checks::connect(&reader.check).await;
    confirmed(&writer, json!({"kind": "session", "id": "first"})).await;
    let issued_at = now() + 20;
    let of = |user: &str| tokens.with(json!({"sub": user, "sid": null, "iat": issued_at, "exp": now() + 600}));
    assert_eq!(reason(&checks, &of("somebody")).await, "ok");
    confirmed(&writer, json!({"kind": "user", "id": "alice"})).await;
    assert_eq!(reason(&checks, &of("alice")).await, "revoked");
}

/// An instance that has never reached the store cannot know that its own clock is ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_alone_does_not_make_a_sign_out_expired() {
    let (tokens, mut redis) = (Tokens::new(), RedisServer::stopped(&[]));
    let config = redis_config(&tokens, &redis);
    let clock = crate::support::clock::Clock::at("+1h");
    let ahead = Doorward::launch_by(clock.doorward(), crate::support::TempDir::new(), &config).await;
    let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
    let reply = post(&ahead, "/v1/revocations?wait=all", &json!({"kind": "token", "token": alice})).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert_eq!(ahead.post("/logout", &bob).await.0, 503);
    redis.run().await;
    let steady = Doorward::start(&config).await;
    let checks = Checks::connect(&steady.check).await;
    for token in [&alice, &bob] {
        eventually("it is offered again", async || reason(&checks, token).await != "ok").await;
    }

    let file = format!("revocation: {{store: embedded, embedded: {{path: DIR/revocations.redb}}}}\n{}", admin_keys());
    let (alone, clock) = Doorward::start_with_clock(&tokens.config(&file)).await;
    clock.step("+1h");
    assert_eq!(alone.post("/logout", &tokens.of("carol")).await.0, 204);
    let dave = tokens.of("dave");
    assert_eq!(alone.post("/logout", &dave).await.0, 204);
    clock.step("+0");
    let checks = Checks::connect(&alone.check).await;
    assert_eq!(reason(&checks, &dave).await, "signed_out");
}

/// A store's clock that was not read yet, or is an hour off, is not used to measure leads: a wrong lead would lock
/// users out for as long.
#[tokio::test(flavor = "multi_thread")]
async fn no_lead_is_measured_by_a_clock_that_cannot_be_right() {
    let tokens = Tokens::new();
    let mut unread = RedisServer::stopped(&[]);
    let behind = RedisServer::start_with_clock(&[]).await;
    behind.step_clock("-1h");
    let one = Doorward::launch(&redis_config(&tokens, &unread)).await;
    let two = Doorward::launch(&redis_config(&tokens, &behind)).await;
    for doorward in [&one, &two] {
        let checks = Checks::connect(&doorward.check).await;
        for _ in 0..20 {
            checks.check(get("/").token(&dated(&tokens, "somebody", 0))).await;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await; // The skew is looked at many times a second.
        }
    }
    unread.run().await;
    behind.step_clock("+0");
    for doorward in [&one, &two] {
        doorward.ready().await;
        eventually("an instant is stamped", async || {
            let reply = revoke(doorward, &json!({"kind": "user", "id": "alice"})).await;
            let at = reply.body["at"].as_str().and_then(doorward::clock::parse_rfc3339);
            assert!(at.is_none_or(|at| at.as_secs() < now() + 20), "{reply:?}");
            reply.status == 201
        })
        .await;
    }
}

/// A token that has expired by the writer's clock lives where the clock is an hour behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_over_at_the_writer_is_revoked_where_the_clock_is_behind() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis);
    let writer = Doorward::start(&config).await;
    let (behind, clock) = Doorward::start_with_clock(&config).await;
    clock.step("-1h");
    let checks = Checks::connect(&behind.check).await;
    confirmed(&writer, json!({"kind": "session", "id": "first"})).await;
    let over = |user: &str| tokens.with(json!({"sub": user, "sid": null, "iat": now() - 3_600, "exp": now() - 600}));
    let [alice, bob] = ["alice", "bob"].map(over);
    for token in [&alice, &bob] {
        assert_eq!(reason(&checks, token).await, "ok");
        assert_eq!(reason(&Checks::connect(&writer.check).await, token).await, "expired");
    }
    let reply = post(&writer, "/v1/revocations?wait=all&timeout=50s", &json!({"kind": "token", "token": alice})).await;
    assert!(reply.status == 201 && reply.body["confirmed"] == true, "{reply:?}");
    assert!(reply.body["position"].is_string(), "it is written: {reply:?}");
    assert_eq!(reason(&checks, &alice).await, "revoked");
    assert_eq!(writer.post("/logout", &bob).await.0, 204);
    eventually("it is refused", async || reason(&checks, &bob).await == "signed_out").await;
}

/// By a clock that is ahead by more than the leeway no lead is measured; what was verified is covered all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_verified_is_covered_whatever_a_clock_shows() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = certain_config(&tokens, &redis);
    let writer = Doorward::start(&config).await;
    let (reader, clock) = Doorward::start_with_clock(&config).await;
    let checks = Checks::connect(&reader.check).await;
    confirmed(&writer, json!({"kind": "session", "id": "first"})).await;
    for (user, offset) in [("alice", "+35s"), ("bob", "+1h")] {
        clock.step(offset);
        reader.logs("differs from the store's").await; // From now on no lead is measured.
        // It lives for two hours, so also by this clock.
        let token = tokens.with(json!({"sub": user, "sid": null, "iat": now() + 20, "exp": now() + 7_200}));
        assert_eq!(reason(&checks, &token).await, "ok");
        confirmed(&writer, json!({"kind": "user", "id": user})).await;
        assert_eq!(reason(&checks, &token).await, "revoked", "{offset}");
        // A store that was emptied hears of it again.
        redis.cli(&["DEL", "doorward:{r}:dated"]);
        eventually("it is noted", async || redis.cli(&["EXISTS", "doorward:{r}:dated"]) == "1").await;
    }
}

/// An instance that is cut off goes on verifying for a while; what it has seen it tells nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_covers_what_an_instance_verified_that_was_cut_off() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    let config = certain_config(&tokens, &redis).replace("max_staleness: 5s", "max_staleness: 6s");
    let one = Doorward::start(&config).await;
    let away = Doorward::start(&config.replace(&redis.port.to_string(), &proxy.port.to_string())).await;
    let (checks, others) = (Checks::connect(&away.check).await, Checks::connect(&one.check).await);
    confirmed(&one, json!({"kind": "session", "id": "first"})).await;
    proxy.stall();
    let issued_at = now() + 27;
    let of = |user: &str| tokens.with(json!({"sub": user, "sid": null, "iat": issued_at, "exp": now() + 600}));
    // One revocation waits until the lease has run out, the other finds that it has.
    let (alice, bob) = (of("alice"), of("bob"));
    for token in [&alice, &bob] {
        assert_eq!(reason(&checks, token).await, "ok");
    }
    for user in ["alice", "bob"] {
        confirmed(&one, json!({"kind": "user", "id": user})).await;
    }
    proxy.heal();
    eventually("it has read on", async || reason(&checks, &tokens.of("carol")).await == "ok").await;
    for token in [&alice, &bob] {
        assert_eq!(reason(&checks, token).await, "revoked");
        assert_eq!(reason(&others, token).await, "revoked");
    }
}

/// Receipts do without an instance that ended, and do not take it for one that was cut off.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_ends_has_noted_the_lead_that_it_saw_last() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    for _ in 0..4 {
        let mut doorward = Doorward::start(&redis_config(&tokens, &redis)).await;
        let checks = Checks::connect(&doorward.check).await;
        assert_eq!(reason(&checks, &dated(&tokens, "alice", 25)).await, "ok");
        assert_eq!(doorward.stop().await, Some(0));
        let lead = redis.cli(&["ZSCORE", "doorward:{r}:leads", "dev"]).parse::<u32>();
        assert!(lead.as_ref().is_ok_and(|lead| *lead > 20_000), "{lead:?}");
        redis.cli(&["DEL", "doorward:{r}:leads"]);
    }
}

/// A lead stays for ever, so what the store's clock shows for a moment is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_of_the_store_that_is_wrong_for_a_moment_leaves_no_lead() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start_with_clock(&[]).await);
    let doorward = Doorward::start(&redis_config(&tokens, &redis)).await;
    let checks = Checks::connect(&doorward.check).await;
    let skew = async || doorward.metric("doorward_clock_skew_seconds{of=\"store\"}").await.unwrap_or_default();
    redis.step_clock("-25s");
    eventually("it is noticed", async || skew().await > 20.0).await;
    for _ in 0..20 {
        assert_eq!(reason(&checks, &dated(&tokens, "somebody", 0)).await, "ok");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await; // The skew is looked at many times a second.
    }
    redis.step_clock("+0");
    eventually("it is right", async || skew().await.abs() < 2.0).await;
    let reply = revoke(&doorward, &json!({"kind": "user", "id": "alice"})).await;
    let at = doorward::clock::parse_rfc3339(reply.body["at"].as_str().unwrap()).unwrap();
    assert!(at.as_secs() < now() + 15, "{reply:?}");
}

/// The instance whose clock is behind by more than the leeway would see a lead of an issuer that is right; and for good.
#[tokio::test(flavor = "multi_thread")]
async fn no_lead_is_measured_by_a_clock_that_is_behind_by_more_than_the_leeway() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config = redis_config(&tokens, &redis);
    let writer = Doorward::start(&config).await;
    let (reader, clock) = Doorward::start_with_clock(&config).await;
    clock.step("-40s");
    reader.logs("differs from the store's").await; // It is looked at once a second, and for leads many times.
    let checks = Checks::connect(&reader.check).await;
    assert_eq!(reason(&checks, &dated(&tokens, "somebody", -12)).await, "ok", "28 s ahead by its clock");
    let lead = reader.metric("doorward_clock_skew_seconds{of=\"dev\"}").await.unwrap_or_default();
    assert!(lead < 2.0, "{lead}");
    let reply = revoke(&writer, &json!({"kind": "user", "id": "alice"})).await;
    let at = doorward::clock::parse_rfc3339(reply.body["at"].as_str().unwrap()).unwrap();
    assert!(at.as_secs() < now() + 15, "{reply:?}");
}

/// An instance whose clock is wrong measures no lead; when it reaches the store again, the date lies in the past.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_covers_what_a_wrong_clock_verified_while_it_was_cut_off() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    let config = certain_config(&tokens, &redis).replace("max_staleness: 2s", "max_staleness: 20s");
    let writer = Doorward::start(&config).await;
    let (away, clock) =
        Doorward::start_with_clock(&config.replace(&redis.port.to_string(), &proxy.port.to_string())).await;
    clock.step("+35s");
    away.logs("differs from the store's").await;
    let checks = Checks::connect(&away.check).await;
    confirmed(&writer, json!({"kind": "session", "id": "first"})).await;
    proxy.refuse(); // Nothing is on the way to the store.
    let issued_at = now() + 6;
    let token = tokens.with(json!({"sub": "alice", "sid": null, "iat": issued_at, "exp": now() + 7_200}));
    assert_eq!(reason(&checks, &token).await, "ok");
    let heal = async {
        eventually("the date has passed", async || now() > issued_at + 2).await;
        proxy.heal();
    };
    tokio::join!(confirmed(&writer, json!({"kind": "user", "id": "alice"})), heal);
    assert_eq!(reason(&checks, &token).await, "revoked");
}
