//! Ends of streams without revocations: time, a view that is too old, a reload, the end of a process.

use std::time::{Duration, Instant};

use serde_json::json;

use super::support::{Clients, Upstream};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::tokens::{Tokens, now};

async fn ended(doorward: &Doorward, cause: &str) -> f64 {
    doorward.metric(&format!("doorward_streams_ended_total{{cause=\"{cause}\"}}")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_token_has_expired_with_the_leeway() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let doorward = Doorward::start(&tokens.config("").replace("audiences:", "leeway: 1s, audiences:")).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let mut clients = Clients::new(&envoy).await;
    clients.open_all("bob", &tokens.of("bob")).await.unwrap();
    let exp = now() + 4;
    clients.open_all("alice", &tokens.with(json!({"exp": exp}))).await.unwrap();
    eventually("the streams end", || async { clients.ends.of("alice").is_some() }).await;
    let at = doorward::clock::now().as_millis() - (exp + 1) * 1000;
    println!("ended {at} ms after exp and the leeway");
    assert!((0..3_000).contains(&at), "{at}");
    assert_eq!(ended(&doorward, "expired").await, 3.0);
    assert_eq!(clients.ends.all().len(), 3, "bob's live");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_the_view_is_too_old_unless_their_rule_allows_it() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, redis, upstream) = (Tokens::new(), RedisServer::start(&[]).await, Upstream::start().await);
    let config = tokens.config(&format!(
        "revocation: {{store: redis, max_staleness: 2s, redis: {{url: \"{}\"}}}}\n\
         rules: [{{name: lenient, match: {{path: /events}}, on_stale: allow}}]\n",
        redis.url()
    ));
    let doorward = Doorward::start(&config).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let mut clients = Clients::new(&envoy).await;
    clients.open_all("alice", &tokens.of("alice")).await.unwrap();
    redis.signal("-STOP");
    let began = Instant::now();
    eventually("the strict ones end", || async { clients.ends.all().len() == 2 }).await;
    println!("ended {:?} after the store froze", began.elapsed());
    assert!(began.elapsed() > Duration::from_secs(1), "not before the view is too old");
    redis.signal("-CONT");
    assert_eq!(ended(&doorward, "stale").await, 2.0);
    assert!(!clients.ends.all().contains_key(&("alice".to_owned(), "events")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_doorward_ends_its_streams_within_max_staleness() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let doorward = Doorward::start(&tokens.config("")).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let mut clients = Clients::new(&envoy).await;
    clients.open_all("alice", &tokens.of("alice")).await.unwrap();
    doorward.process.signal("STOP");
    let began = Instant::now();
    eventually("the streams end", || async { clients.ends.of("alice").is_some() }).await;
    println!("ended {:?} after Doorward froze", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(30), "the default of max_staleness");
    doorward.process.signal("CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_the_streams_of_a_withdrawn_key_and_of_a_removed_issuer() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, others, upstream) = (Tokens::new(), Tokens::new(), Upstream::start().await);
    let (one, two) = (tokens.issuer.jwks()["keys"][0].clone(), others.issuer.jwks()["keys"][0].clone());
    let both = json!({"keys": [one, two]}).to_string();
    let config = tokens.config("").replace(&tokens.issuer.jwks().to_string(), &both);
    let doorward = Doorward::start(&config).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let mut clients = Clients::new(&envoy).await;
    clients.open_all("alice", &tokens.of("alice")).await.unwrap();
    clients.open_all("bob", &others.of("bob")).await.unwrap();
    let file = doorward.dir.path().join("doorward.yaml");
    let written = std::fs::read_to_string(&file).unwrap();

    std::fs::write(&file, written.replace(&both, &json!({"keys": [one]}).to_string())).unwrap();
    eventually("the streams of the withdrawn key end", || async { clients.ends.of("bob").is_some() }).await;
    assert_eq!(ended(&doorward, "key_withdrawn").await, 3.0);
    assert_eq!(clients.ends.all().len(), 3, "those of the other key live");

    std::fs::write(&file, written.replace("name: dev", "name: another").replace("dev.doorward.test", "else.test"))
        .unwrap();
    eventually("the streams of the removed issuer end", || async { clients.ends.of("alice").is_some() }).await;
    assert_eq!(ended(&doorward, "issuer_removed").await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_keeping_rule_and_without_a_user_continue() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let rules = "rules:\n  - {name: kept, match: {path: /ws}, streams: keep}\n  - {name: open, match: {path: /events}, access: optional}\n";
    let doorward = Doorward::start(&tokens.config(rules)).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let mut clients = Clients::new(&envoy).await;
    let alice = tokens.of("alice");
    clients.open_all("alice", &alice).await.unwrap();
    let anonymous = reqwest::get(envoy.url("/events")).await.unwrap();
    assert_eq!(anonymous.status(), 200);
    assert_eq!(doorward.metric("doorward_streams{state=\"open\"}").await, Some(4.0), "what nothing ends counts, too");
    assert_eq!(doorward.post("/logout", &alice).await.0, 204);
    eventually("the other two end", || async { clients.ends.all().len() == 2 }).await;
    let ends = clients.ends.all();
    assert!(!ends.contains_key(&("alice".to_owned(), "websocket")), "{ends:?}");
    drop(anonymous);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_process_ends_its_streams_in_order() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let mut doorward = Doorward::start(&tokens.config("limits: {drain: 4s}\n")).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let mut clients = Clients::new(&envoy).await;
    for at in 0..20 {
        clients.open_all(&format!("user-{at}"), &tokens.of(&format!("user-{at}"))).await.unwrap();
    }
    let began = Instant::now();
    assert_eq!(doorward.stop().await, Some(0));
    println!("the process ended after {:?}", began.elapsed());
    assert!(!doorward.logged("requests still in flight are aborted"), "streams are not waited for");
    eventually("all streams end", || async { clients.ends.all().len() == 60 }).await;
    let ends: Vec<_> = clients.ends.all().into_values().map(|(at, _)| at).collect();
    let spread = ends.iter().max().unwrap().saturating_duration_since(*ends.iter().min().unwrap());
    println!("the ends were spread over {spread:?}");
    assert!(spread > Duration::from_millis(500), "not all clients come back at once: {spread:?}");
}

/// Envoy drains: its listeners accept no more connections, open streams continue until Envoy exits, and still end by
/// a sign-out. Then Envoy exits, as on SIGTERM: every stream ends, and Doorward frees all of them.
#[tokio::test(flavor = "multi_thread")]
async fn streams_outlive_the_drain_of_envoy_and_end_with_its_exit() {
    for binary in envoy::binaries() {
        let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
        let doorward = Doorward::start(&tokens.config("")).await;
        let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
        let mut clients = Clients::new(&envoy).await;
        for user in ["alice", "bob", "carol"] {
            clients.open_all(user, &tokens.of(user)).await.unwrap();
        }
        let open = async || doorward.metric("doorward_streams{state=\"open\"}").await;
        assert_eq!(open().await, Some(9.0));

        let drained = reqwest::Client::new().post(format!("http://{}/drain_listeners?graceful", envoy.admin));
        assert_eq!(drained.send().await.unwrap().status(), 200);
        assert_eq!(doorward.post("/logout?all=true", &tokens.of("bob")).await.0, 204);
        eventually("a sign-out ends streams of a draining Envoy", || async { clients.ends.of("bob").is_some() }).await;
        let ends = clients.ends.all();
        assert!(ends.keys().all(|(user, _)| user == "bob"), "a drain ends nothing that is open: {ends:?}");
        assert_eq!(open().await, Some(6.0));

        envoy.signal("TERM");
        eventually("all streams end with Envoy", || async { clients.ends.all().len() == 9 }).await;
        eventually("Doorward keeps none", || async { open().await == Some(0.0) }).await;
        assert_eq!(doorward.metric("doorward_streams{state=\"ending\"}").await, Some(0.0));
        assert_eq!(ended(&doorward, "signed_out").await, 3.0, "those of the exit were not Doorward's to end");
    }
}
