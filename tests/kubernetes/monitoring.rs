//! Metrics: every metric in the dashboard, the alerts and the pages exists, every existing one is documented, and
//! a real Prometheus scrapes it.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use regex::Regex;
use serde_json::{Value, json};

use crate::support::authorization_server::AuthorizationServer;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;
use crate::support::{Process, TempDir, eventually};

/// The metrics that were promised, whether this build has them yet or not.
const PROMISED: [&str; 22] = [
    "doorward_checks_total",
    "doorward_check_duration_seconds",
    "doorward_shadow_refusals_total",
    "doorward_revoked_presented_total",
    "doorward_token_cache_total",
    "doorward_revocations",
    "doorward_view_age_seconds",
    "doorward_revocation_lag_seconds",
    "doorward_store_up",
    "doorward_store_operations_total",
    "doorward_degraded_total",
    "doorward_jwks_age_seconds",
    "doorward_jwks_fetches_total",
    "doorward_config_reloads_total",
    "doorward_build_info",
    "doorward_signals_stream_up",
    "doorward_store_durable",
    "doorward_store_foreign_total",
    "doorward_adopted_keys",
    "doorward_streams",
    "doorward_streams_ended_total",
    "doorward_stream_end_seconds",
];

fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The README and the pages of `docs`.
fn documentation() -> String {
    let docs = std::fs::read_dir(format!("{}/docs", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let pages = docs.map(|page| page.unwrap().path()).filter(|page| page.extension().is_some_and(|end| end == "md"));
    pages.map(|page| std::fs::read_to_string(page).unwrap()).chain([file("README.md")]).collect()
}

/// The names of metrics in a text; a histogram's series are under its name.
fn named(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\b(?:doorward|process)_[a-z_]+[a-z]\b").unwrap();
    let plain = |name: &str| {
        let series = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        series.unwrap_or(name).to_owned()
    };
    name.find_iter(text).map(|found| plain(found.as_str())).collect()
}

/// The queries of the dashboard.
fn dashboard() -> Vec<String> {
    fn expressions(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match value.as_str().filter(|_| name == "expr" || name == "query") {
                        Some(text) => found.push(text.to_owned()),
                        None => expressions(value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&file("k8s/monitoring/dashboard/doorward.json")).unwrap(), &mut found);
    found
}

fn alerts() -> Value {
    serde_saphyr::from_str::<Value>(&file("k8s/monitoring/rules.yaml")).unwrap()["spec"].clone()
}

/// The expressions of the alerts.
fn expressions(alerts: &Value) -> String {
    let rules = alerts["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| rule["expr"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// A Doorward that has met everything a metric counts: a labelled one shows only then.
async fn experienced(tokens: &Tokens, server: &AuthorizationServer) -> Doorward {
    let dir = TempDir::new();
    std::fs::write(dir.path().join("keys.json"), tokens.issuer.jwks().to_string()).unwrap();
    let config = format!(
        "revocation: {{store: embedded}}
issuers:
  - {{name: dev, issuer: \"{}\", audiences: [demo], keys: {{jwks_file: DIR/keys.json}}, {}}}
  - {{name: other, issuer: https://other.example, audiences: [demo], keys: {{jwks_url: \"http://{}/none\"}}}}
telemetry: {{otlp: {{endpoint: \"http://{}\"}}}}
rules:
  - {{name: shadow, match: {{path: /shadow}}, enforce: false}}
  - {{name: out, match: {{path: /out}}, access: sign_out}}
",
        doorward::dev::ISSUER,
        server.settings(""),
        server.address,
        server.address,
    );
    let doorward = Doorward::launch_in(dir, &config).await;
    doorward.ready().await;
    let checks = Checks::connect(&doorward.check).await;
    let alice = tokens.of("alice");
    assert!(checks.check(get("/").token(&alice)).await.allowed());
    assert!(checks.check(get("/shadow")).await.allowed());
    assert!(checks.check(get("/out").token(&alice)).await.allowed());
    assert_eq!(checks.check(get("/").token(&alice)).await.reason(), "signed_out");
    checks.check(get("/").token("opaque-token")).await;
    // No collector is there: the batch fails, and is counted.
    let traced = get("/").header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    checks.check(traced).await;
    eventually("a batch of spans is counted", || async {
        doorward.get("/metrics").await.1.contains("doorward_trace_exports_total{")
    })
    .await;
    doorward
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_of_a_metric_is_that_of_a_metric() {
    let (tokens, server) = (Tokens::new(), AuthorizationServer::start().await);
    let doorward = experienced(&tokens, &server).await;
    let (_, text) = doorward.get("/metrics").await;
    let exported: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).map(str::to_owned).collect();
    let helped = |name: &&String| text.contains(&format!("# TYPE {name} "));
    assert_eq!(exported.iter().find(|name| !helped(name)), None, "each has a type");
    let promised: BTreeSet<_> = PROMISED.iter().map(|name| (*name).to_owned()).collect();
    let known: BTreeSet<_> = exported.union(&promised).cloned().collect();

    let (dashboard, alerts) = (named(&dashboard().join("\n")), named(&expressions(&alerts())));
    let page = file("k8s/README.md");
    let table = named(page.split("## Metrics").nth(1).unwrap().split("\n## ").next().unwrap());
    for (place, names) in [
        ("the dashboard", &dashboard),
        ("the alerts", &alerts),
        ("the table of k8s/README.md", &table),
        // The name of the library that Envoy loads is not that of a metric.
        ("the documentation", &named(&documentation().replace("name: doorward_envoy", ""))),
    ] {
        let unknown: Vec<_> = names.iter().filter(|name| !known.contains(*name)).collect();
        assert!(unknown.is_empty(), "{place} names {unknown:?}, which is no metric");
    }
    let undocumented: Vec<_> =
        known.iter().filter(|name| name.starts_with("doorward_") && !table.contains(*name)).collect();
    assert!(undocumented.is_empty(), "not in the table of k8s/README.md: {undocumented:?}");
    // The metrics of this build are on the dashboard.
    let unseen: Vec<_> =
        exported.iter().filter(|name| name.starts_with("doorward_") && !dashboard.contains(*name)).collect();
    assert!(unseen.is_empty(), "not on the dashboard: {unseen:?}");
}

/// The first row is an overview; the others are opened for details.
#[test]
fn the_dashboard_begins_with_what_matters() {
    let dashboard: Value = serde_json::from_str(&file("k8s/monitoring/dashboard/doorward.json")).unwrap();
    let top = dashboard["panels"].as_array().unwrap();
    let is_row = |panel: &&Value| panel["type"] == "row";
    let (rows, glance): (Vec<&Value>, Vec<&Value>) = top.iter().partition(is_row);
    assert!(is_row(&&top[0]) && top[0]["collapsed"] == false);
    assert!(rows.len() > 3 && rows[1..].iter().all(|row| row["collapsed"] == true), "{rows:?}");
    let queries: Vec<_> = glance.iter().map(|panel| panel["targets"][0]["expr"].as_str().unwrap()).collect();
    for (metric, query) in [
        "doorward_build_info",
        "doorward_view_age_seconds",
        "doorward_revocation_lag_seconds_bucket",
        "doorward_checks_total",
        "doorward_store_unsaved",
        "doorward_streams",
    ]
    .into_iter()
    .zip(&queries)
    {
        assert!(query.contains(metric), "{query} is not about {metric}");
    }
    assert!(glance.len() == 6 && glance.iter().all(|panel| panel["gridPos"]["y"] == 1), "one row");
    let nested = rows.iter().flat_map(|row| row["panels"].as_array().unwrap());
    let all: Vec<_> = top.iter().chain(nested).collect();
    let ids: BTreeSet<_> = all.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), all.len(), "each panel has an id of its own");
    for panel in all.iter().filter(|panel| !is_row(panel)) {
        let described = panel["fieldConfig"]["defaults"]["unit"].is_string() && panel["title"].is_string();
        assert!(described && panel["datasource"]["uid"] == "${datasource}", "{panel}");
    }
    for alert in Regex::new(r"\bDoorward[A-Z][A-Za-z]+\b").unwrap().find_iter(&dashboard.to_string()) {
        assert!(alerts().to_string().contains(&format!("\"{}\"", alert.as_str())), "{} is no alert", alert.as_str());
    }
}

#[test]
fn every_alert_is_explained() {
    let (alerts, page) = (alerts(), file("k8s/README.md"));
    let rules = alerts["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let names: BTreeSet<_> = rules.filter_map(|rule| rule["alert"].as_str()).collect();
    let explained = Regex::new(r"\bDoorward[A-Z][A-Za-z]+\b").unwrap();
    let explained: BTreeSet<_> = explained.find_iter(&page).map(|found| found.as_str()).collect();
    assert_eq!(names, explained, "the alerts, and those that k8s/README.md names");
    let (tested, runbook) = (file("tests/kubernetes/rules_test.yaml"), file("docs/alerts.md"));
    let sections: BTreeSet<_> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(names, sections, "the alerts, and the sections of docs/alerts.md");
    for name in names {
        let link = format!("docs/alerts.md#{}\n", name.to_lowercase());
        assert!(file("k8s/monitoring/rules.yaml").contains(&link), "{name} has no runbook_url");
        assert!(tested.contains(&format!("alertname: {name}\n")), "{name} never fires in a test");
    }
}

/// Whether a selector matches a series, `NAME{LABEL="VALUE",…}`.
fn is_meant(series: &str, selector: &str) -> bool {
    let label = Regex::new(r#"([a-z]+)(=~|!=|=)"([^"]*)""#).unwrap();
    let parts = |text: &str| {
        let (name, labels) = text.split_once('{').unwrap_or((text, ""));
        let labels = label.captures_iter(labels).map(|found| [1, 2, 3].map(|at| found[at].to_owned()));
        (name.to_owned(), labels.collect::<Vec<_>>())
    };
    let ((name, labels), (wanted, matchers)) = (parts(series), parts(selector));
    name == wanted
        && matchers.iter().all(|[of, by, value]| {
            let is = labels.iter().find(|[name, ..]| name == of).map_or("", |[_, _, is]| is);
            match by.as_str() {
                "=" => is == value,
                "!=" => is != value,
                _ => Regex::new(&format!("^(?:{value})$")).unwrap().is_match(is),
            }
        })
}

/// An increase shows only in a series that existed before: series that the tests of the alerts count up from zero
/// are exported from the start.
#[tokio::test(flavor = "multi_thread")]
async fn series_of_alerts_exist_from_the_start() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config("")).await;
    let (_, text) = doorward.get("/metrics").await;
    let exported: Vec<_> =
        text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.replace("\",", "\", "))).collect();
    let selectors = Regex::new(r"increase\((doorward_[a-z_]+(?:\{[^}]*\})?)\[").unwrap();
    let expressions = expressions(&alerts());
    let selectors: Vec<_> = selectors.captures_iter(&expressions).map(|found| found[1].to_owned()).collect();
    assert!(selectors.len() > 6, "{selectors:?}");
    let tests = file("tests/kubernetes/rules_test.yaml");
    let series = Regex::new(r"\{series: '(doorward_[^']+)'").unwrap();
    let ours = series.captures_iter(&tests).map(|found| {
        found[1].replace("namespace=\"shop\", pod=\"a\", ", "").replace("{namespace=\"shop\", pod=\"a\"}", "")
    });
    let mut counted = 0;
    for series in ours.filter(|series| selectors.iter().any(|selector| is_meant(series, selector))) {
        assert!(exported.contains(&series), "{series} is not exported before it happens");
        counted += 1;
    }
    assert!(counted > 6);
    for name in PROMISED {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} is not described from the start");
    }
}

/// Prometheus with our alerts, asked every 200 ms.
fn prometheus(dir: &TempDir, doorward: &Doorward) -> Option<(Process, String)> {
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("rules.yaml"), alerts().to_string()).unwrap();
    // The labels that a PodMonitor gives.
    let config = json!({
        "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [path("rules.yaml")],
        "scrape_configs": [{"job_name": "shop/doorward", "static_configs": [{
            "targets": [doorward.http.to_string()],
            "labels": {"namespace": "shop", "pod": "a", "container": "doorward"}}]}],
    });
    std::fs::write(path("prometheus.yaml"), config.to_string()).unwrap();
    // Prometheus does not report its port: a recently free one is used.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", path("prometheus.yaml").display()))
        .arg(format!("--storage.tsdb.path={}", path("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(path("log")).unwrap())
        .spawn();
    let Ok(child) = child else {
        eprintln!("SKIPPED: prometheus is not installed; ./tests/run.sh installs it");
        return None;
    };
    Some((Process(child), format!("http://{address}/api/v1")))
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_it_and_the_alerts_see_it() {
    let (tokens, server, dir) = (Tokens::new(), AuthorizationServer::start().await, TempDir::new());
    let doorward = experienced(&tokens, &server).await;
    let Some((_prometheus, api)) = prometheus(&dir, &doorward) else { return };
    let query = async |query: &str| {
        let url = url::Url::parse_with_params(&format!("{api}/query"), [("query", query)]).unwrap();
        let answer: Value = reqwest::get(url).await.ok()?.json().await.ok()?;
        let text = answer["data"]["result"][0]["value"][1].as_str()?;
        text.parse::<f64>().ok()
    };
    eventually("it is scraped", || async { query("up{container=\"doorward\"}").await == Some(1.0) }).await;
    let series = "doorward_checks_total{decision=\"denied\", reason=\"signed_out\", namespace=\"shop\"}";
    eventually("a query answers", || async { query(series).await == Some(1.0) }).await;
    eventually("the missing keys are seen", || async {
        query("ALERTS{alertname=\"DoorwardKeysMissing\", issuer=\"other\"}").await == Some(1.0)
    })
    .await;
    // Prometheus parses each query of the dashboard.
    for expression in dashboard().iter().filter(|query| !query.starts_with("label_values")) {
        let expression = expression.replace("$namespace", "shop").replace("$__rate_interval", "1m");
        let url = url::Url::parse_with_params(&format!("{api}/query"), [("query", &expression)]).unwrap();
        let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
    }
    drop(doorward);
    eventually("its end is seen", || async {
        query("ALERTS{alertname=\"DoorwardDown\", alertstate=\"pending\"}").await == Some(1.0)
    })
    .await;
}
