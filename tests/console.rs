//! The operator's console, and the part of the HTTP API that was made for it.

mod api;
mod page;

use serde_json::{Value, json};

use crate::api::{OPERATOR, admin_keys, post};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::tokens::Tokens;

/// Several instances on one store, the first with a console on a separate address.
struct Fleet {
    tokens: Tokens,
    _redis: RedisServer,
    instances: Vec<Doorward>,
}

impl Fleet {
    async fn start(size: usize) -> Self {
        let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
        let config = tokens.config(&format!(
            "revocation: {{store: redis, max_staleness: 3s, redis: {{url: \"{}\"}}}}\nlimits: {{http_timeout: 30s}}\nconsole: {{enabled: true}}\n\
             rules:\n  - {{name: admin, match: {{path_prefix: /admin}}, require: {{scopes: [admin]}}}}\n{}",
            redis.url(),
            admin_keys()
        ));
        let admin = "listen: {check: \"127.0.0.1:0\", http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\"}\n";
        let mut instances = vec![Doorward::start(&format!("{admin}{config}")).await];
        for _ in 1..size {
            instances.push(Doorward::start(&config).await);
        }
        let fleet = Self { tokens, _redis: redis, instances };
        // A new store may have lost leases: it confirms no receipt for the length of a lease.
        let first = json!({"kind": "user", "id": "nobody"});
        let path = format!("http://{}/v1/revocations?wait=all&timeout=25s", fleet.admin());
        let asked = reqwest::Client::new().post(path).bearer_auth(OPERATOR).json(&first).send().await;
        assert_eq!(asked.unwrap().status(), 201);
        fleet
    }

    /// Where the console is.
    fn admin(&self) -> std::net::SocketAddr {
        self.instances[0].admin.unwrap()
    }
}

/// A request as a proxy asks about it: its status, and why it was refused.
async fn decide(doorward: &Doorward, path: &str, token: Option<&str>) -> (u16, String) {
    let request = reqwest::Client::new().get(format!("http://{}/auth{path}", doorward.http));
    let request = request.header("x-request-id", "5b1f0c9e-1");
    let response = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth).send().await.unwrap();
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap_or_default();
    (status, body["reason"].as_str().unwrap_or("ok").to_owned())
}

/// Revokes many users, some at a time.
async fn revoke_users(address: std::net::SocketAddr, count: usize) {
    let client = reqwest::Client::new();
    let (client, next) = (&client, &std::sync::atomic::AtomicUsize::new(0));
    let worker = || async {
        loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if number >= count {
                return;
            }
            let body = json!({"kind": "user", "id": format!("user-{number:05}"), "reason": "a test of many"});
            let request = client.post(format!("http://{address}/v1/revocations")).bearer_auth(OPERATOR).json(&body);
            assert_eq!(request.send().await.unwrap().status(), 201);
        }
    };
    futures_util::future::join_all((0..32).map(|_| worker())).await;
}

/// The body of the first event of this name.
async fn event(response: &mut reqwest::Response, name: &str) -> Value {
    let mut text = String::new();
    let start = format!("event: {name}\ndata: ");
    loop {
        if let Some(data) = text.split("\n\n").find_map(|event| event.strip_prefix(&*start))
            && text.ends_with("\n\n")
        {
            return serde_json::from_str(data).unwrap();
        }
        let chunk = tokio::time::timeout(crate::support::PATIENCE, response.chunk()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("no event {name}: {text}")).unwrap();
        text.push_str(std::str::from_utf8(&chunk.unwrap_or_else(|| panic!("it ended: {text}"))).unwrap());
    }
}

async fn watch(address: std::net::SocketAddr, key: &str) -> reqwest::Response {
    reqwest::Client::new().get(format!("http://{address}/v1/events")).bearer_auth(key).send().await.unwrap()
}

async fn revoke(doorward: &Doorward, body: &Value) {
    assert_eq!(post(doorward, "/v1/revocations", body).await.status, 201);
}
