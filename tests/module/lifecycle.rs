//! Waiting, leaving, ending; updates of Envoy's configuration, and its end.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::alike::inline;
use super::sides::{address, bootstrap, command, filter, listener, module_http};
use crate::streams::support::Upstream as StreamUpstream;
use crate::support::envoy::{self, Envoy};
use crate::support::jwks_server::JwksServer;
use crate::support::raw::Client;
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;
use crate::support::{PATIENCE, TempDir, eventually};

fn head(path: &str, token: Option<&str>) -> String {
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nhost: shop.example.com\r\n{token}\r\n")
}

async fn status(at: SocketAddr, path: &str, token: Option<&str>) -> u16 {
    let token = token.map(|token| ("authorization".to_owned(), format!("Bearer {token}").into_bytes()));
    let host = ("host".to_owned(), b"shop.example.com".to_vec());
    let headers: Vec<_> = [Some(host), token].into_iter().flatten().collect();
    Client::new(at).send("GET", path, &headers).await.status
}

/// An Envoy with the module whose issuer's keys come from a server that a test can hold.
struct Waiting {
    tokens: Tokens,
    /// Its key is not published: a token of it waits for a fetch.
    stranger: Tokens,
    keys: JwksServer,
    envoy: Envoy,
    at: SocketAddr,
    _upstream: Upstream,
}

impl Waiting {
    async fn start(binary: &str) -> Self {
        let (tokens, stranger, upstream) = (Tokens::new(), Tokens::new(), Upstream::start().await);
        let keys = JwksServer::start(tokens.issuer.jwks()).await;
        let mut config: Value = serde_json::from_str(&inline(&tokens)).unwrap();
        config["issuers"][0]["keys"] = json!({"jwks_url": keys.url(), "timeout": "20s", "cooldown": "1s"});
        config["limits"] = json!({"waiting_decisions": 10_000, "decision_timeout": "20s"});
        let listeners = [listener("module", &[filter(&json!({"inline": config}))], "DONE")];
        let envoy = Envoy::start_by(command(binary), &bootstrap(&listeners, upstream.address, None)).await;
        let at = address(&envoy, "module").await;
        Self { tokens, stranger, keys, envoy, at, _upstream: upstream }
    }

    /// Opens connections with waiting requests.
    async fn park(&self, count: usize) -> Vec<TcpStream> {
        let token = self.stranger.of("alice");
        let mut parked = Vec::new();
        for _ in 0..count {
            let mut stream = TcpStream::connect(self.at).await.unwrap();
            stream.write_all(head("/", Some(&token)).as_bytes()).await.unwrap();
            parked.push(stream);
        }
        parked
    }

    /// Waits until a token of an unknown key starts a fetch, which happens once a second at most.
    async fn fetches(&self) {
        let before = self.keys.fetches();
        eventually("the keys are fetched", || async {
            self.park(1).await;
            self.keys.fetches() > before
        })
        .await;
    }

    async fn active(&self) -> usize {
        let stats = self.envoy.ask_admin("/stats?filter=http.module.downstream_rq_active").await;
        stats.trim().rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_holds_up_no_other() {
    let Some(binary) = envoy::binary() else { return };
    let waiting = Waiting::start(&binary).await;
    let held = waiting.keys.hold().await;
    let mut parked = waiting.park(20).await;
    eventually("they wait", || async { waiting.active().await == 20 }).await;
    for _ in 0..20 {
        assert_eq!(status(waiting.at, "/", Some(&waiting.tokens.of("bob"))).await, 200, "beside those that wait");
    }
    assert_eq!(waiting.active().await, 20);
    // The key is published now: the waiting requests are let through.
    let mut both = waiting.tokens.issuer.jwks().clone();
    let more = waiting.stranger.issuer.jwks()["keys"].as_array().unwrap().clone();
    both["keys"].as_array_mut().unwrap().extend(more);
    waiting.keys.publish(&both);
    drop(held);
    for stream in &mut parked {
        let mut answer = [0; 12];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_may_leave_while_their_requests_wait() {
    let Some(binary) = envoy::binary() else { return };
    let waiting = Waiting::start(&binary).await;
    for _ in 0..10 {
        let held = waiting.keys.hold().await;
        waiting.fetches().await;
        let parked = waiting.park(300).await;
        eventually("they wait", || async { waiting.active().await >= 300 }).await;
        drop(parked);
        eventually("they have left", || async { waiting.active().await == 0 }).await;
        drop(held);
        assert_eq!(status(waiting.at, "/", Some(&waiting.tokens.of("bob"))).await, 200);
    }
    assert_eq!(status(waiting.at, "/", Some(&waiting.stranger.of("eve"))).await, 401, "nobody is waited for any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_ends_while_requests_wait() {
    let Some(binary) = envoy::binary() else { return };
    let mut waiting = Waiting::start(&binary).await;
    let held = waiting.keys.hold().await;
    let parked = waiting.park(250).await;
    eventually("they wait", || async { waiting.active().await == 250 }).await;
    waiting.envoy.signal("TERM");
    let code = {
        let envoy = &mut waiting.envoy;
        envoy.ended().await
    };
    assert_eq!(code, Some(0), "{}", waiting.envoy.log());
    drop((held, parked));
}

/// The streams that a sign-out must end: events and a WebSocket.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_out_ends_the_streams_of_its_user_alone() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), StreamUpstream::start().await);
    let config: Value = serde_json::from_str(&inline(&tokens)).unwrap();
    let listeners =
        [listener("module", &[filter(&json!({"inline": config}))], "DONE %FILTER_STATE(doorward.ended:PLAIN)%")];
    let envoy = Envoy::start_by(command(&binary), &bootstrap(&listeners, upstream.http, None)).await;
    let (at, http) = (address(&envoy, "module").await, module_http(&envoy).await);
    let open = async |path: &str, token: &str| {
        let upgrade = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let mut head = head(path, Some(token));
        if path == "/ws" {
            head.truncate(head.len() - 2);
            head.push_str(upgrade);
        }
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer[9..], if path == "/ws" { b"101" } else { b"200" });
        stream
    };
    let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
    let mut of_alice = [open("/events", &alice).await, open("/ws", &alice).await];
    let of_bob = [open("/events", &bob).await, open("/ws", &bob).await];
    let metric = async |series: &str| {
        let text = reqwest::get(format!("http://{http}/metrics")).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse::<usize>().ok()).unwrap_or(0)
    };
    eventually("they are known", || async { metric("doorward_streams{state=\"open\"}").await == 4 }).await;
    let logout = reqwest::Client::new().post(format!("http://{http}/logout")).bearer_auth(&alice);
    assert_eq!(logout.send().await.unwrap().status(), 204);
    for stream in &mut of_alice {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    }
    assert_eq!(metric("doorward_streams_ended_total{cause=\"signed_out\"}").await, 2);
    eventually("the log has them", || async {
        envoy.log().lines().filter(|line| *line == "DONE signed_out").count() == 2
    })
    .await;
    for stream in &of_bob {
        let mut more = [0; 4096];
        while let Ok(1..) = stream.try_read(&mut more) {} // The bytes that had arrived before.
        let now = stream.try_read(&mut more).map_err(|error| error.kind());
        assert_eq!(now, Err(std::io::ErrorKind::WouldBlock), "bob's stream is open");
    }
    assert_eq!(metric("doorward_streams{state=\"open\"}").await, 2);
    assert_eq!(status(at, "/", Some(&alice)).await, 401);
}

/// How Envoy's configuration is replaced.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Delivery {
    /// The listener with all its filters (LDS).
    Listener,
    /// The filter alone (ECDS).
    Extension,
}

impl Delivery {
    /// Replaces it as Envoy's file watcher wants it: by a rename.
    fn publish(self, dir: &TempDir, version: usize, config: &Value, port: SocketAddr) {
        let module = filter(&json!({"inline": config}));
        let resource = match self {
            Self::Listener => {
                let mut listener = on_port(&module, port);
                listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
                listener
            }
            Self::Extension => {
                let kind = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
                json!({"@type": kind, "name": "doorward", "typed_config": module["typed_config"]})
            }
        };
        let (next, file) = (dir.path().join("next.json"), dir.path().join("resources.json"));
        let text = json!({"version_info": version.to_string(), "resources": [resource]}).to_string();
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, file).unwrap();
    }

    fn bootstrap(self, dir: &TempDir, upstream: SocketAddr, port: SocketAddr) -> String {
        let source =
            json!({"path_config_source": {"path": dir.path().join("resources.json")}, "resource_api_version": "V3"});
        let discovered = json!({
            "name": "doorward",
            "config_discovery": {
                "config_source": source,
                "type_urls": ["type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter"],
            }
        });
        let listeners = match self {
            Self::Listener => Vec::new(),
            Self::Extension => vec![on_port(&discovered, port)],
        };
        let mut text: Value = serde_json::from_str(&bootstrap(&listeners, upstream, None)).unwrap();
        text["node"] = json!({"id": "test", "cluster": "test"});
        if self == Self::Listener {
            text["dynamic_resources"] = json!({"lds_config": source});
        }
        text.to_string()
    }
}

fn on_port(filter: &Value, port: SocketAddr) -> Value {
    let mut listener = listener("module", std::slice::from_ref(filter), "DONE");
    listener["address"]["socket_address"]["port_value"] = json!(port.port());
    listener
}

async fn stat(envoy: &Envoy, name: &str) -> usize {
    let stats = envoy.ask_admin(&format!("/stats?filter={name}$")).await;
    stats.trim().rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Threads, and resident memory in pages.
fn size(envoy: &Envoy) -> (usize, usize) {
    let process = format!("/proc/{}", envoy.id());
    let threads = std::fs::read_dir(format!("{process}/task")).unwrap().count();
    let pages = std::fs::read_to_string(format!("{process}/statm")).unwrap();
    (threads, pages.split(' ').nth(1).unwrap().parse().unwrap())
}

/// 50 updates with four workers and a client of each.
async fn update_under_load(binary: &str, delivery: Delivery) {
    let (tokens, dir, upstream) = (Tokens::new(), TempDir::new(), Upstream::start().await);
    let mut config: Value = serde_json::from_str(&inline(&tokens)).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], crate::ledger::support::free_port()));
    delivery.publish(&dir, 0, &config, at);
    let mut four = command(binary);
    four.args(["--concurrency", "4", "--drain-time-s", "1"]);
    let envoy = Envoy::start_by(four, &delivery.bootstrap(&dir, upstream.address, at)).await;
    let http = module_http(&envoy).await;
    // A sign-out before the updates holds after them: the store is memory of the engine.
    let gone = tokens.of("gone");
    let logout = reqwest::Client::new().post(format!("http://{http}/logout")).bearer_auth(&gone);
    assert_eq!(logout.send().await.unwrap().status(), 204);

    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for user in ["anna", "ben", "cleo", "dan"] {
        let (token, over, asked) = (tokens.of(user), over.clone(), asked.clone());
        clients.spawn(async move {
            let headers = [
                ("host".to_owned(), b"shop.example.com".to_vec()),
                ("authorization".to_owned(), format!("Bearer {token}").into_bytes()),
            ];
            let mut client = Client::new(at);
            while !over.load(Ordering::SeqCst) {
                assert_eq!(client.send("GET", "/", &headers).await.status, 200);
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let mut update = async |version: usize| {
        config["rules"][0]["match"]["path_prefix"] = json!(format!("/public-{version}"));
        let before = asked.load(Ordering::SeqCst);
        delivery.publish(&dir, version, &config, at);
        let path = format!("/public-{version}");
        eventually("the text is in force", || async { status(at, &path, None).await == 200 }).await;
        eventually("requests go on", || async { asked.load(Ordering::SeqCst) > before + 20 }).await;
    };
    for version in 1..=10 {
        update(version).await;
    }
    let (threads, pages) = size(&envoy);
    for version in 11..=50 {
        update(version).await;
    }
    eventually("what was replaced is gone", || async { stat(&envoy, "total_filter_chains_draining").await == 0 }).await;
    let (threads_after, pages_after) = size(&envoy);
    over.store(true, Ordering::SeqCst);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    assert!(threads_after <= threads + 2, "{threads} threads became {threads_after}"); // tokio's blocking pool.
    assert!(pages_after <= pages + 8_192, "{pages} pages became {pages_after}"); // 32 MB, of Envoy's own updates, too.
    assert_eq!(envoy.log().matches("\"message\":\"listening\"").count(), 1, "one engine");
    assert_eq!(status(at, "/public-49", None).await, 401);
    assert_eq!(status(at, "/", Some(&gone)).await, 401, "signed out before the updates");

    // A bad text is refused by Envoy, and the engine keeps the good one.
    config["rules"][0]["access"] = json!("open");
    delivery.publish(&dir, 51, &config, at);
    eventually("Envoy tells the fault", || async { envoy.log().contains("rules[0].access") }).await;
    assert_eq!(status(at, "/public-50", None).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_are_replaced_under_load() {
    let Some(binary) = envoy::binary() else { return };
    update_under_load(&binary, Delivery::Listener).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_filter_is_replaced_under_load() {
    let Some(binary) = envoy::binary() else { return };
    update_under_load(&binary, Delivery::Extension).await;
}

#[test]
fn validation_starts_nothing_and_reports_every_fault() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, dir) = (Tokens::new(), TempDir::new());
    let good: Value = serde_json::from_str(&inline(&tokens)).unwrap();
    let mut bad = good.clone();
    bad["issuers"][0]["audiences"] = json!([]);
    bad["rules"][0]["access"] = json!("open");
    let validate = |config: Value| {
        let file = dir.path().join("envoy.json");
        let listeners = [listener("module", &[filter(&config)], "DONE")];
        std::fs::write(&file, bootstrap(&listeners, "127.0.0.1:1".parse().unwrap(), None)).unwrap();
        let mut command = command(&binary);
        command.args(["--mode", "validate", "--log-level", "warn", "-c"]).arg(&file);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = validate(json!({"inline": good}));
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("listening"), "{said}");
    for (config, faults) in [
        (json!({"inline": bad}), &["issuers[0].audiences", "rules[0].access"][..]),
        (json!({"config": dir.path().join("missing.yaml")}), &["cannot be read"]),
        (json!({}), &["one of `config` and `inline`"]),
        (json!({"inline": good, "fact": "none"}), &["unknown field `fact`"]),
        (json!({"inline": good, "namespace": "a b"}), &["filter_config.namespace"]),
    ] {
        let (code, said) = validate(config);
        assert_eq!(code, Some(1), "{said}");
        for fault in faults {
            assert!(said.contains(fault), "{fault}: {said}");
        }
    }
}

/// Two Envoys at once, as at a hot restart: the second serves the HTTP API when the first is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_tried_again() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let port = SocketAddr::from(([127, 0, 0, 1], crate::ledger::support::free_port()));
    let mut config: Value = serde_json::from_str(&inline(&tokens)).unwrap();
    config["listen"]["http"] = json!(port.to_string());
    let listeners = [listener("module", &[filter(&json!({"inline": config}))], "DONE")];
    let text = bootstrap(&listeners, upstream.address, None);
    let first = Envoy::start_by(command(&binary), &text).await;
    let second = Envoy::start_by(command(&binary), &text).await;
    eventually("it says so", || async { second.log().contains("the HTTP listener is not started") }).await;
    let at = address(&second, "module").await;
    assert_eq!(status(at, "/", Some(&tokens.of("alice"))).await, 200, "decisions need no HTTP API");
    drop(first);
    assert_eq!(module_http(&second).await, port);
    let ready =
        || async { reqwest::get(format!("http://{port}/readyz")).await.is_ok_and(|answer| answer.status() == 200) };
    eventually("the second serves", ready).await;
}

/// The symbols that the library imports and exports: a snapshot.
#[test]
fn the_library_exports_hooks_alone_and_imports_no_allocator() {
    let library = super::sides::library().join("libdoorward_envoy.so");
    let symbols = |arguments: &[&str]| {
        let output = Command::new("nm").arg("-D").args(arguments).arg(&library).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter_map(|line| Some(line.split_whitespace().last()?.to_owned())).collect::<Vec<_>>()
    };
    let exported = symbols(&["--defined-only"]);
    assert!(exported.len() > 20, "{exported:?}");
    let foreign: Vec<_> = exported.iter().filter(|name| !name.starts_with("envoy_dynamic_module_on_")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    let imported = symbols(&["--undefined-only"]);
    let callbacks = imported.iter().filter_map(|name| name.strip_prefix("envoy_dynamic_module_callback_"));
    let callbacks: Vec<_> = callbacks.collect();
    assert_eq!(
        callbacks,
        [
            "get_most_specific_route_config",
            "http_add_dynamic_metadata_list_string",
            "http_add_header",
            "http_clear_route_cache",
            "http_filter_continue_decoding",
            "http_filter_get_attribute_string",
            "http_filter_reset_stream",
            "http_filter_scheduler_commit",
            "http_filter_scheduler_delete",
            "http_filter_scheduler_new",
            "http_get_header",
            "http_get_headers",
            "http_get_headers_size",
            "http_send_response",
            "http_set_dynamic_metadata_number",
            "http_set_dynamic_metadata_string",
            "http_set_filter_state_bytes",
            "http_set_header",
            "is_validation_mode",
            "log",
        ]
    );
    for allocates in ["mi_", "je_", "tc_"] {
        assert!(!imported.iter().any(|name| name.starts_with(allocates)), "{allocates}");
    }
    let needed = Command::new("readelf").arg("-d").arg(&library).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    assert!(needed.contains("NEEDED") && !needed.contains("libgcc_s"), "{needed}");
}

/// As Envoy Gateway writes it: the library by its file, the configuration as JSON text, the filter off, and on by route.
#[tokio::test(flavor = "multi_thread")]
async fn the_filter_of_envoy_gateway_decides_where_a_route_turns_it_on() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let mut filter = filter(&json!({}));
    let name = "envoy.filters.http.dynamic_modules/doorward";
    filter["name"] = json!(name);
    filter["disabled"] = json!(true);
    let file = super::library().join("libdoorward_envoy.so");
    filter["typed_config"]["dynamic_module_config"] =
        json!({"do_not_close": true, "module": {"local": {"filename": file}}});
    let config = json!({"inline": serde_json::from_str::<Value>(&inline(&tokens)).unwrap()});
    filter["typed_config"]["filter_config"] =
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": config.to_string()});
    let text = bootstrap(&[listener("module", &[filter], "DONE")], upstream.address, None);
    let by_route = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}});
    let mut text: Value = serde_json::from_str(&text).unwrap();
    let manager = &mut text["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    for route in manager["route_config"]["virtual_hosts"][0]["routes"].as_array_mut().unwrap() {
        route["typed_per_filter_config"] = json!({ name: by_route });
    }
    // The library is found by its path alone.
    let mut command = Command::new(&binary);
    command.args(["--file-flush-interval-msec", "50"]);
    let envoy = Envoy::start_by(command, &text.to_string()).await;
    let at = address(&envoy, "module").await;
    assert_eq!(status(at, "/", None).await, 401);
    assert_eq!(status(at, "/", Some(&tokens.of("alice"))).await, 200);
}
