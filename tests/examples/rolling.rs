//! Doorwards restarted one after another under load, through envoy/edge-fleet.yaml: no request fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::ledger::support::{RedisServer, free_port};
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, TempDir};
use crate::tls::{authority, issue_for};

/// The results of the clients since their start.
#[derive(Default)]
struct Met {
    good: AtomicUsize,
    bad: AtomicUsize,
    wrong: std::sync::Mutex<Vec<String>>,
    over: AtomicBool,
}

/// One client: a valid token is served, a revoked one is refused, without any other answer.
async fn call(url: String, good: String, revoked: String, met: Arc<Met>) {
    let client = reqwest::Client::new();
    while !met.over.load(Ordering::Relaxed) {
        for (token, expected, count) in [(&good, 200, &met.good), (&revoked, 401, &met.bad)] {
            let answer = client.get(&url).bearer_auth(token).timeout(PATIENCE).send().await;
            let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            count.fetch_add(1, Ordering::Relaxed);
            if status != expected {
                let body = match answer {
                    Ok(answer) => answer.text().await.unwrap_or_default(),
                    Err(error) => error.to_string(),
                };
                met.wrong.lock().unwrap().push(format!("{status}, not {expected}: {body}"));
            }
        }
    }
}

/// Both files are those of the example's head, with addresses and folders of this test.
struct Fleet {
    tokens: Tokens,
    redis: RedisServer,
    certificates: TempDir,
    ports: [u16; 2],
}

impl Fleet {
    async fn new() -> Self {
        let (certificates, ca) = (TempDir::new(), authority());
        let write = |name: &str, text: &str| std::fs::write(certificates.path().join(name), text).unwrap();
        write("ca.crt", &ca.pem());
        let (certificate, key) = issue_for(&ca, "doorward.internal");
        write("tls.crt", &certificate);
        write("tls.key", &key);
        let ports = [free_port(), free_port()];
        Self { tokens: Tokens::new(), redis: RedisServer::start(&[]).await, certificates, ports }
    }

    fn config(&self, port: u16, drain_delay: &str) -> String {
        let dir = self.certificates.path().display();
        let tls = format!("{{cert_file: {dir}/tls.crt, key_file: {dir}/tls.key, client_ca_file: {dir}/ca.crt}}");
        self.tokens.config(&format!(
            "listen: {{check: \"127.0.0.1:{port}\", http: \"127.0.0.1:0\", tls: {tls}}}
limits: {{drain_delay: {drain_delay}}}
revocation: {{store: redis, redis: {{url: \"{}\"}}}}
rules: [{{name: logout, match: {{path: /logout}}, access: sign_out, sign_out: {{then: respond}}}}]\n",
            self.redis.url()
        ))
    }

    fn envoy(&self, upstream: &Upstream) -> String {
        let text = envoy::text("envoy/edge-fleet.yaml", "127.0.0.1:9191", upstream.address);
        let mut text = text.replace("/etc/envoy/tls", self.certificates.path().to_str().unwrap());
        for (name, port) in [("10.0.0.11", self.ports[0]), ("10.0.0.12", self.ports[1])] {
            let from = format!("address: {name}\n                      port_value: 9191");
            assert!(text.contains(&from), "{name}");
            text = text.replace(&from, &format!("address: 127.0.0.1\n                      port_value: {port}"));
        }
        text
    }
}

/// How many Doorwards Envoy would ask now.
async fn healthy(envoy: &Envoy) -> usize {
    let clusters: Value = serde_json::from_str(&envoy.ask_admin("/clusters?format=json").await).unwrap();
    let clusters = clusters["cluster_statuses"].as_array().unwrap().clone();
    let doorward = clusters.into_iter().find(|cluster| cluster["name"] == "doorward").unwrap();
    let is_healthy = |host: &&Value| {
        let health = &host["health_status"];
        health["failed_active_health_check"].is_null() && health["failed_outlier_check"].is_null()
    };
    doorward["host_statuses"].as_array().unwrap().iter().filter(is_healthy).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_is_not_noticed() {
    let Some(binary) = envoy::binary() else { return };
    let (fleet, upstream) = (Fleet::new().await, Upstream::start().await);
    let mut doorwards = Vec::new();
    for port in fleet.ports {
        doorwards.push(Doorward::launch(&fleet.config(port, "3s")).await);
    }
    let envoy = Envoy::start_text(&binary, &fleet.envoy(&upstream)).await;
    eventually("both are asked", || async { healthy(&envoy).await == 2 }).await;
    let (alice, bob) = (fleet.tokens.of("alice"), fleet.tokens.of("bob"));
    let sign_out = reqwest::Client::new().get(envoy.url("/logout")).bearer_auth(&bob);
    assert_eq!(sign_out.send().await.unwrap().status(), 204);

    let met = Arc::new(Met::default());
    let refused = || async {
        let client = reqwest::Client::new();
        let answers = [client.get(envoy.url("/")).bearer_auth(&bob), client.get(envoy.url("/")).bearer_auth(&bob)];
        for answer in answers {
            if answer.send().await.unwrap().status() != 401 {
                return false;
            }
        }
        true
    };
    eventually("both refuse what was signed out", refused).await;
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(call(envoy.url("/"), alice.clone(), bob.clone(), met.clone()));
    }
    for at in [0, 1, 0] {
        let done = met.good.load(Ordering::Relaxed);
        assert_eq!(doorwards[at].stop().await, Some(0), "drained");
        eventually("the other one is asked", || async { met.good.load(Ordering::Relaxed) > done + 20 }).await;
        doorwards[at] = Doorward::launch(&fleet.config(fleet.ports[at], "3s")).await;
        eventually("the next version is asked", || async { healthy(&envoy).await == 2 }).await;
        let done = met.good.load(Ordering::Relaxed);
        eventually("both are asked", || async { met.good.load(Ordering::Relaxed) > done + 20 }).await;
    }
    met.over.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let wrong = met.wrong.lock().unwrap();
    println!(
        "{} good tokens, {} revoked ones, three restarts",
        met.good.load(Ordering::Relaxed),
        met.bad.load(Ordering::Relaxed)
    );
    assert!(
        wrong.is_empty(),
        "{} of {}: {:#?}",
        wrong.len(),
        met.good.load(Ordering::Relaxed),
        &wrong[..wrong.len().min(5)]
    );
}
