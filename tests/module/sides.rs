//! One Envoy with two listeners that differ in one filter: `ext_authz` with the service, or the module.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::TempDir;
use crate::support::doorward::Doorward;
use crate::support::envoy::Envoy;
use crate::support::eventually;
use crate::support::raw::{Answer, Client};
use crate::support::upstream::Upstream;

/// The folder with the library, which Cargo builds beside this test.
pub fn library() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    assert!(folder.join("libdoorward_envoy.so").exists(), "Cargo builds the module with the tests");
    folder
}

/// An Envoy that finds the module.
pub fn command(binary: &str) -> Command {
    let mut command = Command::new(binary);
    command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", library());
    command.args(["--file-flush-interval-msec", "50"]);
    command
}

/// The HTTP filter, on one line.
pub fn filter(config: &Value) -> Value {
    json!({
        "name": "doorward",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {"name": "doorward_envoy", "do_not_close": true},
            "filter_name": "doorward",
            "filter_config": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": config},
        }
    })
}

fn ext_authz() -> Value {
    json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": "doorward"}, "timeout": "20s"},
            "failure_mode_allow": false,
            "encode_raw_headers": true,
        }
    })
}

/// Only the router.
pub fn router() -> Value {
    let kind = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    json!({"name": "envoy.filters.http.router", "typed_config": {"@type": kind}})
}

/// A listener with one filter before the router; routes below `/by-route/` name the rule `public`.
pub fn listener(name: &str, filters: &[Value], log: &str) -> Value {
    let manager =
        "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let upgrades = json!([{"upgrade_type": "websocket"}]);
    let by_route = json!({
        "envoy.filters.http.ext_authz": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
            "check_settings": {"context_extensions": {"doorward.rule": "public"}},
        },
        "doorward": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilterPerRoute",
            "dynamic_module_config": {"name": "doorward_envoy", "do_not_close": true},
            "filter_name": "doorward",
            "filter_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": r#"{"rule": "public"}"#},
        }
    });
    let name_of = |filter: &Value| filter["name"].as_str().unwrap().to_owned();
    let used: Vec<_> = filters.iter().map(name_of).collect();
    let by_route: BTreeMap<_, _> =
        by_route.as_object().unwrap().iter().filter(|(name, _)| used.contains(name)).collect();
    let route = |prefix: &str, more: Value| {
        let mut route = json!({"match": {"prefix": prefix}, "route": {"cluster": "upstream", "timeout": "0s"}});
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        route
    };
    let connect = json!({
        "match": {"connect_matcher": {}},
        "route": {"cluster": "upstream", "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}
    });
    let routes = [connect, route("/by-route/", json!({"typed_per_filter_config": by_route})), route("/", json!({}))];
    let http_filters = [filters, &[router()]].concat();
    let config = json!({
        "@type": manager,
        "stat_prefix": name,
        "generate_request_id": false,
        "max_request_headers_kb": 2048,
        "common_http_protocol_options": {"max_headers_count": 3000},
        "upgrade_configs": upgrades,
        "access_log": [{
            "name": "envoy.access_loggers.stdout",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                "log_format": {"text_format_source": {"inline_string": format!("{log}\n")}},
            }
        }],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": http_filters,
    });
    json!({
        "name": name,
        "enable_reuse_port": false,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": config}]}]
    })
}

fn cluster(name: &str, address: SocketAddr, is_grpc: bool) -> Value {
    let endpoint = json!({"socket_address": {"address": "127.0.0.1", "port_value": address.port()}});
    let mut cluster = json!({
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": endpoint}}]}]
        }
    });
    if is_grpc {
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        });
    }
    cluster
}

/// A configuration of Envoy with these listeners.
pub fn bootstrap(listeners: &[Value], upstream: SocketAddr, check: Option<SocketAddr>) -> String {
    let clusters: Vec<_> = [Some(cluster("upstream", upstream, false)), check.map(|at| cluster("doorward", at, true))]
        .into_iter()
        .flatten()
        .collect();
    let admin = json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}});
    json!({"admin": admin, "static_resources": {"listeners": listeners, "clusters": clusters}}).to_string()
}

/// The address of a listener.
pub async fn address(envoy: &Envoy, name: &str) -> SocketAddr {
    let listeners: Value = serde_json::from_str(&envoy.ask_admin("/listeners?format=json").await).unwrap();
    let listeners = listeners["listener_statuses"].as_array().unwrap();
    let found = listeners.iter().find(|listener| listener["name"] == name).unwrap_or_else(|| panic!("no {name}"));
    let port = found["local_address"]["socket_address"]["port_value"].as_u64().unwrap();
    SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()))
}

/// Where the module serves the HTTP API.
pub async fn module_http(envoy: &Envoy) -> SocketAddr {
    let line = || {
        let log = envoy.log();
        let line = log.lines().find(|line| line.contains("\"message\":\"listening\""))?.to_owned();
        serde_json::from_str::<Value>(&line).ok()?["http"].as_str()?.parse().ok()
    };
    eventually("the module listens", || async { line().is_some() }).await;
    line().unwrap()
}

/// A request that is asked of both.
#[derive(Clone, Debug)]
pub struct Row {
    pub what: String,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Row {
    pub fn new(what: impl Into<String>, method: &str, target: &str, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        Self { what: what.into(), method: method.to_owned(), target: target.to_owned(), headers: headers.collect() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }
}

/// Writes the access log of a listener into a file, where no other line comes between.
fn logged_to(mut listener: Value, file: &Path) -> Value {
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    let log = &mut manager["access_log"][0];
    log["name"] = json!("envoy.access_loggers.file");
    log["typed_config"]["@type"] = json!("type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog");
    log["typed_config"]["path"] = json!(file);
    listener
}

/// The service and the module behind one Envoy, on one configuration of Doorward.
pub struct Sides {
    /// With the access log.
    dir: TempDir,
    _envoy: Envoy,
    pub upstream: Upstream,
    pub service: SocketAddr,
    pub module: SocketAddr,
}

/// The namespace of the metadata, on both sides.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
/// Where a row's number stands.
const ROW: &str = "x-test-row";

impl Sides {
    /// `doorward` runs; the module reads the same file.
    pub async fn start(binary: &str, doorward: &Doorward) -> Self {
        let (dir, upstream) = (TempDir::new(), Upstream::start().await);
        let file = doorward.dir.path().join("doorward.yaml");
        let module = filter(&json!({"config": file, "facts": "metadata", "namespace": NAMESPACE}));
        let log = |side: &str| format!("ROW {side} %REQ({ROW})% %DYNAMIC_METADATA({NAMESPACE})%");
        let listeners =
            [listener("service", &[ext_authz()], &log("service")), listener("module", &[module], &log("module"))];
        let listeners = listeners.map(|listener| logged_to(listener, &dir.path().join("access.log")));
        let text = bootstrap(&listeners, upstream.address, Some(doorward.check.parse().unwrap()));
        let envoy = Envoy::start_by(command(binary), &text).await;
        let (service, module) = (address(&envoy, "service").await, address(&envoy, "module").await);
        Self { dir, _envoy: envoy, upstream, service, module }
    }

    /// Sends every row to both: the differences, each on a line. The metadata of every row must have been
    /// logged.
    pub async fn compare(&self, rows: &[Row]) -> Vec<String> {
        let mut wrong = Vec::new();
        let (mut service, mut module) = (Client::new(self.service), Client::new(self.module));
        for (at, row) in rows.iter().enumerate() {
            let (by_service, by_module) = tokio::join!(ask(&mut service, row, at), ask(&mut module, row, at));
            if by_service != by_module {
                wrong.push(format!("{}: service {by_service:?}\n    module {by_module:?}", row.what));
            }
        }
        // A request that Envoy refuses by itself may have no headers to log; the last request has them.
        let marker = Row::new("marker", "GET", "/", &[("host", "marker.example.com")]);
        ask(&mut service, &marker, rows.len()).await;
        ask(&mut module, &marker, rows.len()).await;
        let log = || std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        let logged = || ["service", "module"].map(|side| metadata(&log(), side));
        let is_written = || logged().iter().all(|logged| logged.contains_key(&rows.len()));
        eventually("the access log is written", || std::future::ready(is_written())).await;
        let [by_service, by_module] = logged();
        for (at, row) in rows.iter().enumerate() {
            if by_service.get(&at) != by_module.get(&at) {
                let mut line = format!("{}: metadata: ", row.what);
                write!(line, "service {:?}\n    module {:?}", by_service.get(&at), by_module.get(&at)).unwrap();
                wrong.push(line);
            }
        }
        wrong
    }
}

/// The facts by the number of the row, without those for streams and Envoy's additions.
fn metadata(log: &str, side: &str) -> BTreeMap<usize, Value> {
    let row = |line: &str| {
        let (number, facts) = line.strip_prefix(&format!("ROW {side} "))?.split_once(' ')?;
        let mut facts = serde_json::from_str(facts).unwrap_or(Value::Null);
        if let Value::Object(facts) = &mut facts {
            for name in ["stream", "stream_rule", "ext_authz_duration"] {
                facts.remove(name);
            }
        }
        Some((number.parse().ok()?, facts))
    };
    log.lines().filter_map(row).collect()
}

/// The answer, without the parts that differ by nature: the time, and the moment until which a user is locked out.
async fn ask(client: &mut Client, row: &Row, number: usize) -> Answer {
    let mut headers = row.headers.clone();
    headers.push((ROW.to_owned(), number.to_string().into_bytes()));
    let mut answer = client.send(&row.method, &row.target, &headers).await;
    answer.headers.retain(|(name, _)| !matches!(name.as_str(), "date" | "x-envoy-upstream-service-time"));
    answer
}
