//! Sign-outs at an instance that cannot read how far other instances saw tokens dated ahead.

use serde_json::json;

use super::leads::dated;
use super::undated;
use crate::api::{admin_keys, reason, revoke};
use crate::event_sources::{sign, signals};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, ask};
use crate::support::proxy::Proxy;
use crate::support::tokens::{Tokens, now};

const LEADS: &str = "doorward:{r}:leads";
const DATED: &str = "doorward:{r}:dated";
const UNREAD: &str = "that other instances noted cannot be read";

fn config(tokens: &Tokens, url: &str) -> String {
    let rules = "rules: [{name: bye, match: {path: /bye}, access: sign_out, sign_out: {scope: user}}]\n";
    tokens.config(&format!(
        "revocation: {{store: redis, redis: {{url: \"{url}\"}}}}\n{rules}{}{}",
        admin_keys(),
        signals::section(tokens, "")
    ))
}

/// A security event of another sender than the issuer about a user.
pub(super) async fn send_event(tokens: &Tokens, doorward: &Doorward, user: &str) {
    let subject = json!({"subject": {"format": "iss_sub", "iss": doorward::dev::ISSUER, "sub": user}});
    let uri = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
    let event = sign(tokens, Some("secevent+jwt"), &signals::claims(uri, subject, &json!({"iat": now()})));
    let sent = reqwest::Client::new().post(format!("http://{}/signals/events", doorward.http));
    let sent = sent.header("content-type", "application/secevent+jwt").body(event).send().await.unwrap();
    assert_eq!(sent.status(), 202);
}

/// One instance verifies tokens that are dated ahead while the other cannot learn it; both are as usual before.
async fn covered(fault: impl Fn(&RedisServer), mended: impl Fn(&RedisServer)) {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    redis.cli(&["ACL", "SETUSER", "dw", "on", ">pw", "+@all", "~*", "allchannels"]);
    let one = Doorward::start(&config(&tokens, &redis.url())).await;
    let two = Doorward::start(&config(&tokens, &format!("redis://dw:pw@127.0.0.1:{}", redis.port))).await;
    let (checks, others) = (Checks::connect(&one.check).await, Checks::connect(&two.check).await);
    for checks in [&checks, &others] {
        assert_eq!(reason(checks, &tokens.of("somebody")).await, "ok");
    }
    fault(&redis);
    two.logs(UNREAD).await;
    assert!(two.get("/readyz").await.1.contains("\"leads\""));
    let ahead = ["alice", "bob", "carol", "dave", "erin"].map(|user| dated(&tokens, user, 27));
    for token in &ahead {
        assert_eq!(reason(&checks, token).await, "ok");
    }
    assert_eq!(two.post("/logout?all=true", &tokens.of("alice")).await.0, 204);
    assert_eq!(others.check(ask("POST", "/bye").token(&tokens.of("bob"))).await.status, 200);
    send_event(&tokens, &two, "carol").await;
    assert_eq!(revoke(&two, &json!({"kind": "user", "id": "dave"})).await.status, 201);
    undated::add(&redis, "user", "erin"); // By another service.
    for token in &ahead {
        for checks in [&checks, &others] {
            eventually("it is refused", || async { reason(checks, token).await != "ok" }).await;
        }
    }
    mended(&redis);
    two.logs("are read again").await;
    assert!(!two.get("/readyz").await.1.contains("\"leads\""));
    assert_eq!(two.log.lock().unwrap().iter().filter(|line| line.contains(UNREAD)).count(), 1, "once");
}

/// The user may still write to the key.
fn no_right(redis: &RedisServer, key: &str, others: &[&str]) {
    let mut command = vec!["ACL", "SETUSER", "dw", "resetkeys"];
    let write = format!("%W~{key}");
    command.push(&write);
    command.extend(others);
    redis.cli(&command);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_outs_cover_the_leeway_while_leads_cannot_be_read() {
    let all = |redis: &RedisServer| drop(redis.cli(&["ACL", "SETUSER", "dw", "resetkeys", "~*"]));
    let leads = ["~doorward:{r}:[^l]*", "~doorward:{r}:l[^e]*", "~doorward:{r}:leases"];
    tokio::join!(
        covered(move |redis| no_right(redis, LEADS, &leads), all),
        covered(|redis| no_right(redis, DATED, &["~doorward:{r}:[^d]*", "~doorward:{r}:dev:*"]), all),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_outs_cover_the_leeway_while_leads_have_another_type() {
    let wrong = |key: &'static str| move |redis: &RedisServer| drop(redis.cli(&["SET", key, "x"]));
    let gone = |key: &'static str| move |redis: &RedisServer| drop(redis.cli(&["DEL", key]));
    tokio::join!(covered(wrong(LEADS), gone(LEADS)), covered(wrong(DATED), gone(DATED)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_without_an_instant_covers_the_leeway_at_an_instance_that_starts_before_it_can_read_leads() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    redis.cli(&["ACL", "SETUSER", "dw", "on", ">pw", "+@all", "allchannels"]);
    no_right(&redis, LEADS, &["~doorward:{r}:[^l]*", "~doorward:{r}:l[^e]*", "~doorward:{r}:leases"]);
    let one = Doorward::start(&config(&tokens, &redis.url())).await;
    let (checks, ahead) = (Checks::connect(&one.check).await, dated(&tokens, "erin", 27));
    assert_eq!(reason(&checks, &ahead).await, "ok");
    undated::add(&redis, "user", "erin");
    let two = Doorward::launch(&config(&tokens, &format!("redis://dw:pw@127.0.0.1:{}", redis.port))).await;
    eventually("it has read it", || async {
        two.metric("doorward_store_entries_total").await.unwrap_or_default() > 0.0
    })
    .await;
    redis.cli(&["ACL", "SETUSER", "dw", "~*"]);
    two.ready().await;
    assert_eq!(reason(&Checks::connect(&two.check).await, &ahead).await, "revoked");
}

/// Such sign-outs may be answered 503; they are stored later.
#[tokio::test(flavor = "multi_thread")]
async fn sign_outs_cover_the_leeway_while_the_store_answers_slowly() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    let one = Doorward::start(&config(&tokens, &redis.url())).await;
    let two = Doorward::start(&config(&tokens, &format!("redis://127.0.0.1:{}", proxy.port))).await;
    let (checks, others) = (Checks::connect(&one.check).await, Checks::connect(&two.check).await);
    let users = ["alice", "bob"].map(|user| tokens.of(user));
    for token in &users {
        assert_eq!(reason(&others, token).await, "ok");
    }
    proxy.delay(std::time::Duration::from_millis(1200)); // In each direction.
    eventually("it warns", || async { two.get("/readyz").await.1.contains("\"leads\"") }).await;
    let ahead = ["alice", "bob"].map(|user| dated(&tokens, user, 27));
    for token in &ahead {
        assert_eq!(reason(&checks, token).await, "ok");
    }
    two.post("/logout?all=true", &users[0]).await;
    others.check(ask("POST", "/bye").token(&users[1])).await;
    proxy.heal();
    for token in &ahead {
        eventually("it is refused", || async { reason(&checks, token).await != "ok" }).await;
    }
    two.logs("are read again").await;
}
