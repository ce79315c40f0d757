//! The machines, their processes, and a client in front of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::network::{Machine, Settled, Switch};
use crate::four_services::support::Program;
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::envoy::Envoy;
use crate::support::{PATIENCE, TempDir, eventually};

/// Small, since the test waits for it; large enough that a busy machine stays below it.
pub(super) const MAX_STALENESS: Duration = Duration::from_secs(3);

/// A machine with Envoy and Doorward, and a pod that only it reaches, with the service.
pub(super) struct Host {
    pub(super) name: &'static str,
    pub(super) machine: Machine,
    pub(super) pod: Machine,
    /// Where clients find its Envoy.
    pub(super) front: SocketAddr,
    pub(super) service: SocketAddr,
    /// The request of a client.
    path: &'static str,
    /// The running processes.
    running: Option<(Program, Doorward, Envoy, Settled)>,
}

impl Host {
    fn new(name: &'static str, number: u8, front: &Switch, store: &Switch) -> Result<Self, String> {
        let (machine, pod) = (Machine::new()?, Machine::new()?);
        front.plug(name, &machine, "front", &format!("10.90.0.{number}/24"))?;
        store.plug(name, &machine, "store", &format!("10.91.0.{number}/24"))?;
        machine.cable("pod", &pod, "host")?;
        machine.address("pod", &format!("10.92.{number}.1/30"));
        pod.address("host", &format!("10.92.{number}.2/30"));
        Ok(Self {
            name,
            machine,
            pod,
            front: SocketAddr::from(([10, 90, 0, number], 10000)),
            service: SocketAddr::from(([10, 92, number, 2], 8080)),
            path: match name {
                "a" => "/a/orders",
                "b" => "/b/orders",
                _ => "/c/orders",
            },
            running: None,
        })
    }

    /// Runs the service, then Doorward, then Envoy.
    fn start(&mut self, service: &[&str], doorward: &str, binary: &str, envoy: &str) {
        let listen = self.service.to_string();
        let service = self.pod.run(async || Program::start(&[service, &["--listen", &listen]].concat()).await);
        // The address in Envoy's file.
        let doorward = format!("listen: {{check: \"127.0.0.1:9191\", http: \"127.0.0.1:9192\"}}\n{doorward}");
        let (binary, envoy) = (binary.to_owned(), envoy.to_owned());
        let beside = async move || (Doorward::start(&doorward).await, Envoy::start_text(&binary, &envoy).await);
        let ((doorward, envoy), settled) = self.machine.settle(beside);
        self.running = Some((service, doorward, envoy, settled));
    }
}

pub(super) struct Desk {
    pub(super) client: Machine,
    pub(super) store: Switch,
    /// The gateway, then A, B and C.
    pub(super) hosts: [Host; 4],
    pub(super) redis: SocketAddr,
    redis_machine: Machine,
    redis_server: Option<RedisServer>,
    _front: Switch,
    files: TempDir,
}

impl Desk {
    /// All machines connected, without processes; the error is the reason if that is not permitted.
    pub(super) fn new() -> Result<Self, String> {
        let (front, store) = (Switch::new()?, Switch::new()?);
        let (client, redis_machine) = (Machine::new()?, Machine::new()?);
        front.plug("client", &client, "front", "10.90.0.1/24")?;
        store.plug("redis", &redis_machine, "store", "10.91.0.1/24")?;
        let host = |name, number| Host::new(name, number, &front, &store);
        let hosts = [host("gateway", 10)?, host("a", 11)?, host("b", 12)?, host("c", 13)?];
        let redis = SocketAddr::from(([10, 91, 0, 1], 0));
        Ok(Self {
            client,
            store,
            hosts,
            redis,
            redis_machine,
            redis_server: None,
            _front: front,
            files: TempDir::new(),
        })
    }

    pub(super) fn start(mut self, binary: &str) -> Self {
        let open = ["--bind", "0.0.0.0", "--protected-mode", "no"];
        let redis = self.redis_machine.run(async || RedisServer::start(&open).await);
        self.redis.set_port(redis.port);
        self.redis_server = Some(redis);
        let store =
            format!("revocation: {{store: redis, max_staleness: 3s, redis: {{url: \"redis://{}\"}}}}\n", self.redis);
        let issuer = |jwks: String| {
            format!(
                "issuers: [{{name: main, issuer: https://accounts.example, audiences: [shop], keys: {{jwks_url: {jwks}, insecure: true}}}}]\n"
            )
        };
        let [gateway, sidecars @ ..] = &mut self.hosts;
        let from_accounts = issuer(format!("http://{}/.well-known/jwks.json", gateway.service));
        let to: Vec<_> = sidecars.iter().map(|host| (host.name, host.front)).collect();
        let edge = edge(gateway.service, &to);
        let database = format!("sqlite:{}/accounts.db", self.files.path().display());
        gateway.start(&["accounts", "--database", &database], &format!("{store}{from_accounts}{RULES}"), binary, &edge);
        let config = format!("{store}{}", issuer(format!("http://{}/.well-known/jwks.json", gateway.front)));
        std::thread::scope(|scope| {
            for host in sidecars {
                let envoy = replaced(&file("sidecar-tcp.yaml"), SERVICE, &socket_address(host.service));
                let (config, name) = (&config, host.name.to_uppercase());
                scope.spawn(move || host.start(&["service", "--name", &name], config, binary, &envoy));
            }
        });
        self
    }
}

const RULES: &str = "
identity: {payload: {header: x-identity}}
rules:
  - {name: keys, match: {path: /.well-known/jwks.json, methods: [GET]}, access: public}
  - {name: login, match: {path: /auth/login, methods: [POST]}, access: public}
  - {name: logout, match: {path: /auth/logout, methods: [POST]}, access: sign_out, sign_out: {scope: session, then: forward}}
";

/// Where the files in `envoy/` find the service.
const SERVICE: &str = "127.0.0.1\n                      port_value: 8080";

fn socket_address(address: SocketAddr) -> String {
    format!("{}\n                      port_value: {}", address.ip(), address.port())
}

fn file(name: &str) -> String {
    std::fs::read_to_string(format!("{}/envoy/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[track_caller]
fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "no {old} in the file");
    text.replace(old, new)
}

/// The file for the edge, open to other machines, with a route for each sidecar.
fn edge(accounts: SocketAddr, sidecars: &[(&str, SocketAddr)]) -> String {
    let text = replaced(&file("edge-tcp.yaml"), SERVICE, &socket_address(accounts));
    let text = replaced(&text, "127.0.0.1\n          port_value: 10000", "0.0.0.0\n          port_value: 10000");
    let route = |(name, _): &(&str, SocketAddr)| {
        format!("- {{match: {{path_separated_prefix: /{name}}}, route: {{cluster: {name}}}}}\n                        ")
    };
    let cluster = |(name, address): &(&str, SocketAddr)| {
        let (ip, port) = (address.ip(), address.port());
        format!(
            "    - {{name: {name}, type: STATIC, connect_timeout: 1s, load_assignment: {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {ip}, port_value: {port}}}}}}}}}]}}]}}}}\n"
        )
    };
    let routes: String = sidecars.iter().map(route).collect();
    let clusters: String = sidecars.iter().map(cluster).collect();
    let text = replaced(&text, "- match: {prefix: /}\n", &format!("{routes}- match: {{prefix: /}}\n"));
    replaced(&text, "\n  clusters:\n", &format!("\n  clusters:\n{clusters}"))
}

/// The result of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    Served,
    SignedOut,
    /// 503: the host's view is too old.
    Stale,
}

pub(super) struct SignedOut {
    pub(super) token: String,
    /// The time of the client's answer.
    pub(super) at: Instant,
}

/// Must be used on the client's machine.
pub(super) struct Client {
    http: reqwest::Client,
    accounts: SocketAddr,
}

impl Client {
    pub(super) fn new(desk: &Desk) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { http, accounts: desk.hosts[0].front }
    }

    /// The answer, and when it was asked for. A 503 for another reason than an old list is that of a busy
    /// machine: a deadline was missed, and it is asked again.
    async fn send(&self, request: RequestBuilder) -> (Instant, u16, Value) {
        let began = Instant::now();
        loop {
            let sent = Instant::now();
            let response = request.try_clone().unwrap().send().await.unwrap();
            let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
            let body: Value = serde_json::from_str(&text).unwrap_or_default();
            if status != 503 || body["reason"] == "revocations_stale" {
                return (sent, status, body);
            }
            assert!(began.elapsed() < PATIENCE, "answered 503: {text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn logs_in(&self, user: &str) -> String {
        let password = if user == "alice" { "wonderland" } else { "builder" };
        let request = self.http.post(format!("http://{}/auth/login", self.accounts));
        let (_, status, body) = self.send(request.json(&json!({"login": user, "password": password}))).await;
        assert_eq!(status, 200, "login: {body}");
        body["access_token"].as_str().unwrap().to_owned()
    }

    pub(super) async fn logs_out(&self, token: String) -> SignedOut {
        let request = self.http.post(format!("http://{}/auth/logout", self.accounts)).bearer_auth(&token);
        let (_, status, body) = self.send(request).await;
        assert_eq!(status, 204, "logout: {body}");
        SignedOut { token, at: Instant::now() }
    }

    /// The host's answer to a call with this token, and the time of the call.
    pub(super) async fn calls(&self, at: &Host, token: &str) -> (Instant, Answer) {
        let (sent, status, body) =
            self.send(self.http.get(format!("http://{}{}", at.front, at.path)).bearer_auth(token)).await;
        let answer = match (status, body["reason"].as_str()) {
            (200, _) => {
                let service = at.path[1..2].to_uppercase();
                assert_eq!((&body["service"], body["user"].is_string()), (&json!(service), true), "{body}");
                Answer::Served
            }
            (401, Some("signed_out")) => Answer::SignedOut,
            (503, _) => Answer::Stale,
            _ => panic!("{} answered {status}: {body}", at.name),
        };
        (sent, answer)
    }

    /// A live token is served; on a busy machine a host may lag for a moment.
    pub(super) async fn is_served(&self, at: &Host, token: &str) {
        eventually(&format!("a live token is served at {}", at.name), || async {
            let (_, answer) = self.calls(at, token).await;
            assert_ne!(answer, Answer::SignedOut, "{} refused a live token", at.name);
            answer == Answer::Served
        })
        .await;
    }

    /// A revoked token gets refused, and is not accepted later than the bound; returns the time from the
    /// sign-out to the refusal.
    pub(super) async fn is_refused(&self, at: &Host, gone: &SignedOut) -> Duration {
        loop {
            let (sent, answer) = self.calls(at, &gone.token).await;
            let later = sent.saturating_duration_since(gone.at);
            match answer {
                Answer::SignedOut => return gone.at.elapsed(),
                Answer::Served => assert!(later <= MAX_STALENESS, "{} accepted {later:?} after the sign-out", at.name),
                Answer::Stale => assert!(later < PATIENCE, "{} stays behind", at.name),
            }
        }
    }
}
