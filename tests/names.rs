//! An issuer that gets another name, another `iss` or other claims: revoked tokens stay revoked.

mod copies;
mod issuers;
mod lost;
mod unready;

use serde_json::json;

use crate::api::{OPERATOR, admin_keys, reason, revoke};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::tokens::{Tokens, now};

const REFUSED: &str = "doorward_config_reloads_total{result=\"refused\"}";
const IN_FORCE: &str = "doorward_config_reloads_total{result=\"ok\"}";

pub fn replace(doorward: &Doorward, text: &str) {
    let next = doorward.dir.path().join("next.yaml");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, doorward.dir.path().join("doorward.yaml")).unwrap();
}

/// Reloads, and waits for the outcome while revoked tokens are presented.
async fn reloads(doorward: &Doorward, text: &str, counter: &str, dead: &[String]) {
    let checks = Checks::connect(&doorward.check).await;
    let before = doorward.metric(counter).await.unwrap_or_default();
    replace(doorward, text);
    eventually(counter, || async {
        for token in dead {
            assert_eq!(reason(&checks, token).await, "revoked");
        }
        doorward.metric(counter).await.unwrap_or_default() > before
    })
    .await;
    for token in dead {
        assert_eq!(reason(&checks, token).await, "revoked", "after the reload");
    }
}

/// A token of every kind of target, each revoked by its kind.
async fn revoked(tokens: &Tokens, doorward: &Doorward, issuer: &str) -> Vec<String> {
    revoked_of(tokens, doorward, issuer, doorward::dev::ISSUER).await
}

/// The same of tokens of an `iss`.
async fn revoked_of(tokens: &Tokens, doorward: &Doorward, issuer: &str, iss: &str) -> Vec<String> {
    let mut dead = Vec::new();
    for (kind, claim) in [("token", "jti"), ("session", "sid"), ("user", "sub"), ("client", "azp")] {
        let id = format!("{kind}-of-{issuer}");
        dead.push(tokens.with(json!({"iss": iss, claim: id, "email": "same@example.com"})));
        let mut body = json!({"kind": kind, "issuer": issuer, "id": id});
        if kind == "token" {
            body["expires_at"] = json!(now() + 900);
        }
        assert_eq!(revoke(doorward, &body).await.status, 201);
    }
    dead
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_would_lose_revocations_is_refused() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let text = std::fs::read_to_string(doorward.dir.path().join("doorward.yaml")).unwrap();
    let (before, issuer) = (tokens.of("carol"), doorward::dev::ISSUER);
    let mapped = |claims: &str| text.replace("name: dev,", &format!("name: dev, claims: {claims},"));
    // There are no revocations yet, so none is lost.
    reloads(&doorward, &mapped("{user_id: email}"), IN_FORCE, &[]).await;
    reloads(&doorward, &text, IN_FORCE, &[]).await;
    let dead = revoked(&tokens, &doorward, "dev").await;
    for (next, key, cure) in [
        (mapped("{user_id: email}"), "issuers[0].claims.user_id", "`sub`"),
        (mapped("{user_id: [email, sub]}"), "issuers[0].claims.user_id", "`sub`"),
        (mapped("{session_id: email}"), "issuers[0].claims.session_id", "`sid`"),
        (mapped("{client_id: email}"), "issuers[0].claims.client_id", "`azp`, `client_id`"),
        (text.replace("name: dev,", "name: shop,"), "issuers[0].name", "formerly: [dev]"),
        (text.replace(&format!("issuer: \"{issuer}\""), "issuer: \"https://other.test\""), "issuers[0].issuer", issuer),
        (
            text.replace("name: dev,", "name: shop, formerly: [dev], claims: {user_id: email},"),
            "issuers[0].claims.user_id",
            "`sub`",
        ),
    ] {
        assert_ne!(next, text);
        doorward.log.lock().unwrap().clear();
        reloads(&doorward, &next, REFUSED, &dead).await;
        for text in [key, cure, "accept_loss"] {
            doorward.logs(text).await;
        }
    }
    // Spellings come and go one at a time.
    let spelled = |iss: &str| text.replace(&format!("issuer: \"{issuer}\""), &format!("issuer: {iss}"));
    reloads(&doorward, &spelled(&format!("[\"{issuer}\", \"https://other.test\"]")), IN_FORCE, &dead).await;
    let tenants = format!("[\"{issuer}\", \"https://other.test/{{tenant}}\"], tenants: [t]");
    reloads(&doorward, &spelled(&tenants), REFUSED, &dead).await;
    doorward.logs("with it").await;
    reloads(&doorward, &text, IN_FORCE, &dead).await;
    // Claims that name the same tokens first, and further claims, lose no revocations.
    let more = mapped("{user_id: [sub, email]}");
    reloads(&doorward, &more, IN_FORCE, &dead).await;
    // An issuer may go; the meaning of its name is remembered when it comes back.
    let other = text.replace("name: dev,", "name: other,").replace(issuer, "https://another.test");
    reloads(&doorward, &other, IN_FORCE, &[]).await;
    reloads(&doorward, &more.replace("name: dev,", "name: shop,"), REFUSED, &[]).await;
    reloads(&doorward, &more, IN_FORCE, &[]).await;
    reloads(&doorward, &more, IN_FORCE, &dead).await;
    // The loss is meant.
    let meant = mapped("{user_id: email}").replace("store: embedded", "store: embedded, accept_loss: true");
    reloads(&doorward, &meant, IN_FORCE, &[]).await;
    let checks = Checks::connect(&doorward.check).await;
    assert_eq!(reason(&checks, &dead[2]).await, "ok");
    assert_eq!(reason(&checks, &before).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn former_names_carry_revocations_on_in_either_direction_and_reading() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let old =
        tokens.config(&format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys()));
    let new = old.replace("name: dev,", "name: shop, formerly: [dev],");
    let lookup = new.replace("{store: redis,", "{store: redis, read: lookup,");
    let older = Doorward::start(&old).await;
    let mut dead = revoked(&tokens, &older, "dev").await;
    // One instance with a reload, and two that start.
    let reloaded = Doorward::start(&old).await;
    let text = std::fs::read_to_string(reloaded.dir.path().join("doorward.yaml")).unwrap();
    reloads(&reloaded, &text.replace("name: dev,", "name: shop, formerly: [dev],"), IN_FORCE, &dead).await;
    let (started, asking) = (Doorward::start(&new).await, Doorward::start(&lookup).await);
    // A rolling update: the revocations of either instance apply at the other.
    dead.extend(revoked(&tokens, &started, "shop").await);
    for doorward in [&older, &reloaded, &started, &asking] {
        let checks = Checks::connect(&doorward.check).await;
        for token in &dead {
            eventually("it is refused", || async { reason(&checks, token).await == "revoked" }).await;
        }
        assert_eq!(reason(&checks, &tokens.of("carol")).await, "ok");
    }
    // Its former name must stay, though this process never had it.
    let text = std::fs::read_to_string(started.dir.path().join("doorward.yaml")).unwrap();
    reloads(&started, &text.replace("formerly: [dev],", ""), REFUSED, &dead).await;
    started.logs("formerly: [dev]").await;
    let everything = revoke(&started, &json!({"kind": "issuer", "issuer": "shop"})).await;
    assert_eq!(everything.status, 201);
    let checks = Checks::connect(&older.check).await;
    let carol = tokens.of("carol");
    eventually("all of it is refused", || async { reason(&checks, &carol).await == "revoked" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_registered_under_a_former_name_is_accepted() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let (token, expires) = (tokens.with(json!({"jti": "j-1"})), (now() + 900).to_string());
    let entry = ["issuer", "dev", "kind", "registration", "id", "j-1", "at", "*", "expires", &expires];
    redis.cli(&[&["XADD", "doorward:{r}:log", "*"], &entry[..], &["origin", "registered"]].concat());
    redis.cli(&["SET", "doorward:{r}:dev:registration:j-1", "* registered", "EXAT", &expires]);
    for read in ["replica", "lookup"] {
        let config = tokens.config(&format!(
            "revocation: {{store: redis, list: allow, read: {read}, redis: {{url: \"{}\"}}}}\n",
            redis.url()
        ));
        let doorward = Doorward::start(&config.replace("name: dev,", "name: shop, formerly: [dev],")).await;
        let checks = Checks::connect(&doorward.check).await;
        assert_eq!(reason(&checks, &token).await, "ok", "{read}");
        assert_eq!(reason(&checks, &tokens.of("alice")).await, "not_registered", "{read}");
    }
}

/// Not ready for a reason, and without decisions.
async fn is_held(doorward: &Doorward, key: &str, token: &str) {
    eventually("the reason is given", || async { doorward.get("/readyz").await.1.contains(key) }).await;
    assert_eq!(doorward.get("/readyz").await.0, 503);
    let checks = Checks::connect(&doorward.check).await;
    let reason = reason(&checks, token).await;
    assert!(["revocations_stale", "store_unavailable"].contains(&&*reason), "{reason}");
    doorward.logs("accept_loss").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_means_something_else_by_a_name_does_not_become_ready() {
    for read in ["replica", "lookup"] {
        let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
        let config = tokens.config(&format!(
            "revocation: {{store: redis, read: {read}, redis: {{url: \"{}\"}}}}\n{}",
            redis.url(),
            admin_keys()
        ));
        let issuer = format!("issuer: \"{}\"", doorward::dev::ISSUER);
        let first = Doorward::start(&config).await;
        let alice = tokens.of("alice");
        // Two deployments that share a prefix and a name, before anything is revoked.
        let foreign = config.replace(&issuer, "issuer: \"https://other.test\"");
        let second = Doorward::launch(&foreign).await;
        eventually("it says why", || async { second.get("/readyz").await.1.contains("issuers[0].issuer") }).await;
        drop(second);
        let dead = revoked(&tokens, &first, "dev").await;
        let claims = config.replace("name: dev,", "name: dev, claims: {user_id: email},");
        is_held(&Doorward::launch(&claims).await, "issuers[0].claims.user_id", &alice).await;
        let renamed = config.replace("name: dev,", "name: shop,");
        is_held(&Doorward::launch(&renamed).await, "formerly: [dev]", &alice).await;
        let meant = claims.replace("{store: redis,", "{store: redis, accept_loss: true,");
        let meant = Doorward::start(&meant).await;
        assert_eq!(reason(&Checks::connect(&meant.check).await, &dead[2]).await, "ok", "the loss is meant");
        // The running instance continues.
        let checks = Checks::connect(&first.check).await;
        assert_eq!(reason(&checks, &alice).await, "ok");
        assert_eq!(reason(&checks, &dead[2]).await, "revoked");
        assert_eq!(first.get("/readyz").await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_keeps_the_meaning_of_names_over_a_restart() {
    let tokens = Tokens::new();
    let config = tokens.config(&format!(
        "revocation: {{store: embedded, embedded: {{path: DIR/revocations.redb}}}}\n{}",
        admin_keys()
    ));
    let renamed = config.replace("name: dev,", "name: shop,");
    let carried = config.replace("name: dev,", "name: shop, formerly: [dev],");
    let mut doorward = Doorward::start(&config).await;
    let (dead, alice) = (revoked(&tokens, &doorward, "dev").await, tokens.of("alice"));
    for (next, held) in [(&renamed, true), (&carried, false), (&config, false)] {
        assert_eq!(doorward.stop().await, Some(0));
        let dir = std::mem::replace(&mut doorward.dir, crate::support::TempDir::new());
        doorward = Doorward::launch_in(dir, next).await;
        if held {
            is_held(&doorward, "formerly: [dev]", &alice).await;
            continue;
        }
        doorward.ready().await;
        let checks = Checks::connect(&doorward.check).await;
        for token in &dead {
            assert_eq!(reason(&checks, token).await, "revoked");
        }
        assert_eq!(reason(&checks, &alice).await, "ok");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_instance_reports_another_deployment_with_its_name_and_continues() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config =
        tokens.config(&format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys()));
    let first = Doorward::start(&config).await;
    let text = std::fs::read_to_string(first.dir.path().join("doorward.yaml")).unwrap();
    let (dead, alice) = (revoked(&tokens, &first, "dev").await, tokens.of("alice"));
    let warnings = async || {
        let (status, body) = first.get("/readyz").await;
        assert_eq!(status, 200);
        serde_json::from_str::<serde_json::Value>(&body).unwrap()["warnings"].clone()
    };
    assert_eq!(warnings().await, json!(null));
    let issuer = format!("issuer: \"{}\"", doorward::dev::ISSUER);
    let foreign =
        config.replace(&issuer, "issuer: \"https://other.test\"").replace("{store:", "{accept_loss: true, store:");
    let second = Doorward::start(&foreign).await;
    let noted = || redis.cli(&["ZRANGE", "doorward:{r}:issuers", "0", "-1"]);
    eventually("it is noted", || async { noted().contains("other.test") }).await;
    // A reload looks at once.
    for round in 0..2 {
        reloads(&first, &text, IN_FORCE, &dead).await;
        eventually("it is shown", || async { warnings().await.to_string().contains("issuers[0].issuer") }).await;
        assert!(noted().contains(doorward::dev::ISSUER), "both are noted, round {round}");
    }
    let said =
        |line: &String| ["`dev`", "https://other.test", doorward::dev::ISSUER].iter().all(|text| line.contains(text));
    eventually("it is said", || async { first.log.lock().unwrap().iter().any(said) }).await;
    assert_eq!(first.log.lock().unwrap().iter().filter(|line| said(line)).count(), 1, "once");
    let operator = reqwest::Client::new().get(format!("http://{}/v1/instances", first.http)).bearer_auth(OPERATOR);
    let instances: serde_json::Value = operator.send().await.unwrap().json().await.unwrap();
    assert_eq!(instances["instances"][0]["state"], "names_differ");
    let checks = Checks::connect(&first.check).await;
    assert_eq!(reason(&checks, &alice).await, "ok");
    // The other deployment is gone.
    drop(second);
    let theirs = noted().lines().find(|note| note.contains("other.test")).unwrap().to_owned();
    assert_eq!(redis.cli(&["ZADD", "doorward:{r}:issuers", "0", &theirs]), "0");
    reloads(&first, &text, IN_FORCE, &dead).await;
    eventually("it is over", || async { warnings().await == json!(null) }).await;
}

/// By a clock that is ahead, live revocations have expired: no reload may lose them.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_while_the_clock_is_ahead_is_refused_all_the_same() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    for store in [format!("redis, redis: {{url: \"{}\"}}", redis.url()), "embedded".to_owned()] {
        let config = tokens.config(&format!("revocation: {{store: {store}}}\n{}", admin_keys()));
        let config = config.replace("audiences:", "max_lifetime: 15m, audiences:");
        let (doorward, clock) = Doorward::start_with_clock(&config).await;
        let dead = revoked(&tokens, &doorward, "dev").await;
        let text = std::fs::read_to_string(doorward.dir.path().join("doorward.yaml")).unwrap();
        clock.step("+1h");
        let before = doorward.metric(REFUSED).await.unwrap_or_default();
        replace(&doorward, &text.replace("name: dev,", "name: shop,"));
        eventually("the reload is over", || async {
            assert!(doorward.metric(IN_FORCE).await.unwrap_or_default() < 1.0, "{store}: it would lose them");
            doorward.metric(REFUSED).await.unwrap_or_default() > before
        })
        .await;
        doorward.logs("formerly: [dev]").await;
        clock.step("+0");
        let checks = Checks::connect(&doorward.check).await;
        for token in &dead {
            assert_eq!(reason(&checks, token).await, "revoked", "{store}");
        }
    }
}

/// Signals may name a user by an address, which another claim has.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_would_lose_users_named_by_address_is_refused() {
    let (tokens, transmitter) = (Tokens::new(), Tokens::new());
    let signals = crate::event_sources::signals::section(&transmitter, ", subjects: [email]");
    let doorward = Doorward::start(&tokens.config(&signals)).await;
    let text = std::fs::read_to_string(doorward.dir.path().join("doorward.yaml")).unwrap();
    let dead = vec![tokens.of("alice")];
    let subject = json!({"subject": {"format": "email", "email": "alice@example.com"}});
    let uri = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
    let claims = crate::event_sources::signals::claims(uri, subject, &json!({}));
    let set = crate::event_sources::sign(&transmitter, Some("secevent+jwt"), &claims);
    let sent = reqwest::Client::new().post(format!("http://{}/signals/events", doorward.http));
    let sent = sent.header("content-type", "application/secevent+jwt").body(set).send().await.unwrap();
    assert_eq!(sent.status(), 202);
    let checks = Checks::connect(&doorward.check).await;
    assert_eq!(reason(&checks, &dead[0]).await, "revoked");
    for next in [
        text.replace("name: dev,", "name: dev, claims: {email: mail},"),
        text.replace("subjects: [email]", "subjects: [iss_sub]"),
        text.split("signals:").next().unwrap().to_owned(),
    ] {
        assert_ne!(next, text);
        doorward.log.lock().unwrap().clear();
        reloads(&doorward, &next, REFUSED, &dead).await;
        doorward.logs("issuers[0].claims.email").await;
    }
    reloads(&doorward, &text.replace("name: dev,", "name: dev, claims: {email: [email, mail]},"), IN_FORCE, &dead)
        .await;
}
