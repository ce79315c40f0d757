//! Every kind of revocation ends the streams that it hits, at once, and no other.

use std::time::{Duration, Instant};

use doorward::dev::{AUDIENCE, DevIssuer};
use serde_json::{Value, json};

use super::support::{Clients, DELAYED_CLOSE, Upstream};
use crate::api::{admin_keys, post};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::tokens::Tokens;

/// From the sign-out's answer to the end of the last stream, beside the time that Envoy waits before it closes.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A second and a third issuer: revoking all of one, or its key, must leave the others alone.
struct Issuers {
    main: Tokens,
    others: [DevIssuer; 2],
}

impl Issuers {
    fn new() -> Self {
        Self { main: Tokens::new(), others: [(); 2].map(|()| DevIssuer::generate().unwrap()) }
    }

    fn config(&self, more: &str) -> String {
        let other = |(at, issuer): (usize, &DevIssuer)| {
            let jwks = issuer.jwks();
            format!(
                "  - {{name: other-{at}, issuer: \"https://other-{at}.test\", audiences: [{AUDIENCE}], keys: {{jwks: {jwks}}}}}\n"
            )
        };
        let others: String = self.others.iter().enumerate().map(other).collect();
        self.main.config(&format!("{others}{more}"))
    }

    fn token(&self, user: &str, client: &str, issuer: Option<usize>) -> (String, Value) {
        let mut claims = Tokens::claims(user);
        claims["azp"] = json!(client);
        if user == "by-actor" {
            claims["act"] = json!({"sub": "helper", "act": {"sub": "agent-7"}});
        }
        let Some(at) = issuer else { return (self.main.issuer.mint(&claims).unwrap(), claims) };
        claims["iss"] = json!(format!("https://other-{at}.test"));
        (self.others[at].mint(&claims).unwrap(), claims)
    }
}

/// Opens three streams for each of `users`, revokes some of them by each kind in turn, and looks who is left.
async fn each_kind_ends_its_own(envoy: &Envoy, doorward: &Doorward, issuers: &Issuers, users: usize) {
    let mut clients = Clients::new(envoy).await;
    let special = ["by-token", "by-session", "by-user", "by-client", "by-key", "by-issuer", "by-actor"];
    let mut revocations = Vec::new();
    for user in special {
        let issuer = match user {
            "by-key" => Some(0),
            "by-issuer" => Some(1),
            _ => None,
        };
        let (token, claims) = issuers.token(user, &format!("client-of-{user}"), issuer);
        clients.open_all(user, &token).await.unwrap();
        let (kind, id) = match user {
            "by-token" => ("token", claims["jti"].clone()),
            "by-session" => ("session", claims["sid"].clone()),
            "by-user" => ("user", claims["sub"].clone()),
            "by-client" => ("client", claims["azp"].clone()),
            "by-actor" => ("actor", json!("agent-7")),
            "by-key" => ("key", json!(issuers.others[0].key_id())),
            _ => ("issuer", Value::Null),
        };
        let issuer = issuer.map_or("dev".to_owned(), |at| format!("other-{at}"));
        let mut body = json!({"kind": kind, "issuer": issuer, "id": id});
        match kind {
            "token" => body["expires_at"] = claims["exp"].clone(),
            "issuer" => drop(body.as_object_mut().unwrap().remove("id")),
            _ => {}
        }
        revocations.push((user, token, body));
    }
    for at in special.len()..users {
        let user = format!("user-{at}");
        clients.open_all(&user, &issuers.token(&user, "others", None).0).await.unwrap();
    }
    let open = u32::try_from(users * 3).unwrap();
    assert_eq!(doorward.metric("doorward_streams{state=\"open\"}").await, Some(f64::from(open)));

    for (done, (user, token, body)) in revocations.iter().enumerate() {
        let began = Instant::now();
        assert_eq!(post(doorward, "/v1/revocations", body).await.status, 201, "{body}");
        eventually(user, || async { clients.ends.of(user).is_some() }).await;
        let took = clients.ends.of(user).unwrap().saturating_duration_since(began);
        println!("{user}: its three streams ended {took:?} after the request");
        assert!(took < AT_ONCE + DELAYED_CLOSE, "{user}: {took:?}");
        let ends = clients.ends.all();
        assert_eq!(ends.len(), (done + 1) * 3, "{user}: the others live: {ends:?}");
        for protocol in super::support::PROTOCOLS {
            let refused = clients.open(protocol, "again", token).await.unwrap_err();
            let said = if protocol == "grpc" { "Unauthenticated" } else { "401" };
            assert!(refused.contains(said), "{user}: whoever comes back is refused: {protocol} {refused}");
        }
        clients.ends.forget("again").await;
    }
    let left = f64::from(open) - 21.0;
    assert_eq!(doorward.metric("doorward_streams{state=\"open\"}").await, Some(left));
    assert_eq!(doorward.metric("doorward_streams_ended_total{cause=\"revoked\"}").await, Some(21.0));
    assert_eq!(doorward.metric("doorward_stream_end_seconds_count").await, Some(21.0));
    for ((user, protocol), (_, seen)) in clients.ends.all() {
        println!("{user} {protocol}: {seen}");
    }
    drop(clients);
    eventually("closed streams leave the index", || async {
        doorward.metric("doorward_streams{state=\"open\"}").await == Some(0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_revocation_ends_its_streams_and_no_others() {
    for binary in envoy::binaries() {
        let (issuers, upstream) = (Issuers::new(), Upstream::start().await);
        let doorward = Doorward::start(&issuers.config(&admin_keys())).await;
        let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
        each_kind_ends_its_own(&envoy, &doorward, &issuers, 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_at_one_instance_ends_streams_at_the_other() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, redis, upstream) = (Tokens::new(), RedisServer::start(&[]).await, Upstream::start().await);
    let config =
        tokens.config(&format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys()));
    let (here, there) = (Doorward::start(&config).await, Doorward::start(&config).await);
    // One Envoy that sends checks and streams to either instance: they must accept each other's seals.
    let port = |doorward: &Doorward| doorward.check.rsplit_once(':').unwrap().1.to_owned();
    let endpoint = |port: String| {
        format!(
            "              - endpoint:\n                  address:\n                    socket_address:\n                      address: 127.0.0.1\n                      port_value: {port}\n"
        )
    };
    let (one, text) = (endpoint(port(&here)), upstream.config(&here.check));
    assert_eq!(text.matches(&one).count(), 2, "a cluster for checks, and one for streams");
    let text = text.replace(&one, &format!("{one}{}", endpoint(port(&there))));
    let envoy = Envoy::start_text(&binary, &text).await;
    let mut clients = Clients::new(&envoy).await;
    let alice = tokens.of("alice");
    for at in 0..20 {
        clients.open_all(&format!("bystander-{at}"), &tokens.of(&format!("bystander-{at}"))).await.unwrap();
    }
    clients.open_all("alice", &alice).await.unwrap();
    // Envoy asks them in turn: mostly one decides, and the other keeps the stream.
    let open = async |doorward: &Doorward| doorward.metric("doorward_streams{state=\"open\"}").await.unwrap();
    assert_eq!(open(&here).await + open(&there).await, 63.0);
    assert_eq!(here.post("/logout", &alice).await.0, 204);
    let began = Instant::now();
    eventually("alice's streams end", || async { clients.ends.of("alice").is_some() }).await;
    let took = clients.ends.of("alice").unwrap().saturating_duration_since(began);
    println!("ended {took:?} after the answer");
    assert!(took < AT_ONCE + DELAYED_CLOSE, "{took:?}");
    assert_eq!(clients.ends.all().len(), 3, "the others live");

    // Another service revokes with plain Redis commands.
    let expires = crate::support::tokens::now() + 86_400;
    redis.script(&format!(
        "XADD doorward:{{r}}:log * issuer dev kind user id bystander-7 at * expires {expires}000 origin revoked reason \"\"\n"
    ));
    eventually("the streams of a user revoked in Redis end", || async { clients.ends.of("bystander-7").is_some() })
        .await;
    assert_eq!(clients.ends.all().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_under_a_former_name_of_the_issuer_ends_streams() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, redis, upstream) = (Tokens::new(), RedisServer::start(&[]).await, Upstream::start().await);
    let config = tokens.config(&format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url()));
    let doorward = Doorward::start(&config.replace("name: dev,", "name: dev, formerly: [before],")).await;
    let envoy = Envoy::start_text(&binary, &upstream.config(&doorward.check)).await;
    let mut clients = Clients::new(&envoy).await;
    clients.open_all("alice", &tokens.of("alice")).await.unwrap();
    clients.open_all("bob", &tokens.of("bob")).await.unwrap();
    let expires = crate::support::tokens::now() + 86_400;
    redis.script(&format!(
        "XADD doorward:{{r}}:log * issuer before kind user id alice at * expires {expires}000 origin revoked reason \"\"\n"
    ));
    eventually("alice's streams end", || async { clients.ends.of("alice").is_some() }).await;
    assert_eq!(clients.ends.all().len(), 3, "bob's live");
}
