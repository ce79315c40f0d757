//! The interfaces for other servers: each ends in the same assertion through a real Envoy: allowed before, refused
//! after, upstream untouched; and no faulty message is applied.

mod alarm;
mod backchannel;
mod conformance;
mod global;
mod keycloak;
mod names;
mod oauth2;
mod origins;
mod provider;
pub mod signals;
mod streams;
mod transmitter;

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::admin_keys;
use crate::support::Process;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

/// Doorward behind a real Envoy, where there is one.
pub struct Edge {
    pub tokens: Tokens,
    pub doorward: Doorward,
    pub checks: Checks,
    upstream: Upstream,
    envoy: Option<Envoy>,
}

impl Edge {
    pub async fn start(more: &str) -> Self {
        let tokens = Tokens::new();
        let config = tokens.config(&format!("{more}{}", admin_keys()));
        Self::of(tokens, &config).await
    }

    pub async fn of(tokens: Tokens, config: &str) -> Self {
        let doorward = Doorward::start(config).await;
        let checks = Checks::connect(&doorward.check).await;
        let upstream = Upstream::start().await;
        let envoy = match envoy::binary() {
            Some(binary) => Some(Envoy::start(&binary, "edge-tcp.yaml", &doorward.check, upstream.address).await),
            None => None,
        };
        Self { tokens, doorward, checks, upstream, envoy }
    }

    pub async fn reason(&self, token: &str) -> String {
        self.checks.check(get("/").token(token)).await.reason().to_owned()
    }

    /// Through Envoy: the status, and whether the upstream saw the request.
    pub async fn ask(&self, token: &str) -> (u16, bool) {
        let Some(envoy) = &self.envoy else {
            let status = self.checks.check(get("/").token(token)).await.status;
            return (status, status == 200);
        };
        let before = self.upstream.seen();
        let response = reqwest::Client::new().get(envoy.url("/orders")).bearer_auth(token).send().await.unwrap();
        (response.status().as_u16(), self.upstream.seen() > before)
    }

    /// Allowed before; `end` ends it and is answered; refused after, with nothing reaching the upstream.
    /// Prints the time from the sending of the message to the first refusal.
    pub async fn ends<T>(&self, what: &str, token: &str, end: impl Future<Output = T>) -> T {
        assert_eq!(self.ask(token).await, (200, true), "{what}: before");
        let began = Instant::now();
        let answer = end.await;
        let answered = began.elapsed();
        assert_eq!(self.ask(token).await, (401, false), "{what}: after");
        eprintln!("{what}: answered after {answered:.1?}, refused after {:.1?}", began.elapsed());
        answer
    }

    /// As [`Self::ends`], for a message that is delivered elsewhere and gets no answer here.
    pub async fn ends_soon<T>(&self, what: &str, token: &str, end: impl Future<Output = T>) -> T {
        assert_eq!(self.ask(token).await, (200, true), "{what}: before");
        let began = Instant::now();
        let answer = end.await;
        while self.ask(token).await != (401, false) {
            assert!(began.elapsed() < crate::support::PATIENCE, "{what}: still accepted");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        eprintln!("{what}: refused after {:.1?}", began.elapsed());
        answer
    }

    pub async fn counted(&self, inlet: &str, result: &str) -> u64 {
        let series = format!("doorward_inlet_events_total{{inlet=\"{inlet}\",result=\"{result}\"}}");
        whole(self.doorward.metric(&series).await.unwrap_or(0.0))
    }

    /// How many revocations there are.
    pub async fn revocations(&self) -> u64 {
        let (_, text) = self.doorward.get("/metrics").await;
        let counts = text.lines().filter_map(|line| line.strip_prefix("doorward_revocations{")?.split(' ').nth(1));
        counts.map(|count| count.parse::<u64>().unwrap()).sum()
    }

    /// `POST` of a body of some type.
    pub fn post(&self, path: &str, media_type: &str, body: impl Into<String>) -> reqwest::RequestBuilder {
        post(self.doorward.http, path, media_type, body)
    }

    /// `POST` of a form.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> reqwest::RequestBuilder {
        let body: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.post(path, "application/x-www-form-urlencoded", body)
    }

    /// A token of the issuer with this header and these claims.
    pub fn sign(&self, typ: Option<&str>, claims: &Value) -> String {
        sign(&self.tokens, typ, claims)
    }
}

pub fn post(address: SocketAddr, path: &str, media_type: &str, body: impl Into<String>) -> reqwest::RequestBuilder {
    let request = reqwest::Client::new().post(format!("http://{address}{path}"));
    request.header("content-type", media_type).body(body.into())
}

pub fn sign(tokens: &Tokens, typ: Option<&str>, claims: &Value) -> String {
    let mut header = json!({"alg": "ES256", "kid": tokens.issuer.key_id()});
    if let Some(typ) = typ {
        header["typ"] = json!(typ);
    }
    tokens.issuer.sign_raw(&header.to_string(), claims.to_string().as_bytes()).unwrap()
}

/// These claims with changes; `null` takes one out.
pub fn changed(claims: &Value, changes: &Value) -> Value {
    let mut claims = claims.clone();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

/// A counter as the number that it is.
pub fn whole(count: f64) -> u64 {
    format!("{count}").parse().unwrap()
}

/// An unused id.
pub fn fresh_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// A peer written for node, with the libraries of `OIDC_PROVIDER`: it prints its port, then answers each
/// line of JSON by one.
pub struct NodeProcess {
    _process: Process,
    pipe: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
    pub port: u16,
}

impl NodeProcess {
    /// `None` if the test is skipped, with a message.
    pub fn start(script: &str, arguments: &[&str]) -> Option<Self> {
        let Some(folder) = std::env::var("OIDC_PROVIDER").ok().filter(|folder| !folder.is_empty()) else {
            eprintln!("SKIPPED: OIDC_PROVIDER does not name a folder with oidc-provider; ./tests/run.sh makes one");
            return None;
        };
        Some(Self::run(&format!("event_sources/{script}"), &folder, arguments))
    }

    /// Runs a script of `tests` with the libraries of a folder.
    pub fn run(script: &str, folder: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new("node")
            .arg(format!("{}/tests/{script}", env!("CARGO_MANIFEST_DIR")))
            .arg(folder)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut lines = BufReader::new(stdout).lines();
        let port = lines.by_ref().find_map(|line| line.unwrap().parse().ok()).unwrap();
        Self { _process: Process(child), pipe: Mutex::new((stdin, lines)), port }
    }

    pub fn command(&self, command: &Value) -> Value {
        let mut pipe = self.pipe.lock().unwrap();
        writeln!(pipe.0, "{command}").unwrap();
        // Libraries print their own notices in between.
        pipe.1.by_ref().find_map(|line| serde_json::from_str(&line.unwrap()).ok()).unwrap()
    }
}
