//! The content of `k8s/`, run for real: each configuration of the overlays is accepted by its program,
//! the containers of a pod together sign users out, and Prometheus finds the metrics of the dashboard
//! and the alerts. The manifests themselves are checked by `tests/kubernetes.sh`.

mod demo;
mod monitoring;
mod sidecar;

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::support::TempDir;
use crate::support::doorward;
use crate::support::envoy;

const OVERLAYS: [&str; 6] = ["shop", "gateway", "gateway-module", "node", "injected", "demo"];

/// The output of `kubectl apply -k`; `None` if the test is skipped, with a message.
fn build(folder: &str) -> Option<Vec<Value>> {
    let Some(kubectl) = std::env::var("KUBECTL").ok().filter(|path| !path.is_empty()) else {
        eprintln!("SKIPPED: KUBECTL does not name a kubectl; ./tests/run.sh fetches one");
        return None;
    };
    let folder = format!("{}/k8s/{folder}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(kubectl).args(["kustomize", &folder]).output().unwrap();
    assert!(output.status.success(), "{folder}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap())
}

/// A file of a ConfigMap; the map's name may end with a hash of its content.
fn config(objects: &[Value], map: &str, file: &str) -> String {
    let named = |object: &&Value| {
        let name = object["metadata"]["name"].as_str().unwrap();
        let hash = name.strip_prefix(map).is_some_and(|hash| hash.is_empty() || hash.len() == 11);
        object["kind"] == "ConfigMap" && hash && object["data"][file].is_string()
    };
    let found = objects.iter().find(named).unwrap_or_else(|| panic!("no ConfigMap {map} with {file}"));
    found["data"][file].as_str().unwrap().to_owned()
}

#[test]
fn doorward_accepts_every_doorward_yaml() {
    let dir = TempDir::new();
    std::fs::write(dir.path().join("password"), "0123456789abcdef").unwrap();
    for overlay in OVERLAYS {
        let Some(objects) = build(&format!("overlays/{overlay}")) else { return };
        let text = config(&objects, "doorward", "doorward.yaml");
        let file = dir.path().join(format!("{overlay}.yaml"));
        std::fs::write(&file, text.replace("/etc/doorward-redis", &dir.path().display().to_string())).unwrap();
        let env = environment(&objects);
        let env: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(!env.is_empty(), ["node", "demo"].contains(&overlay), "{overlay}: {env:?}");
        let (code, _, error) = doorward::run_with(&env, &["validate", "--config", file.to_str().unwrap()], "");
        assert_eq!(code, 0, "{overlay}: {error}");
    }
}

/// The environment of Doorward's containers; a digest replaces a Secret's value.
fn environment(objects: &[Value]) -> BTreeMap<String, String> {
    let doorward = containers(objects).filter(|container| container["name"] == "doorward");
    let entries = doorward.flat_map(|container| container["env"].as_array().unwrap());
    let settings = entries.filter(|entry| entry["name"].as_str().unwrap().starts_with("DOORWARD__"));
    let value = |entry: &Value| entry["value"].as_str().map_or_else(|| "0".repeat(64), str::to_owned);
    settings.map(|entry| (entry["name"].as_str().unwrap().to_owned(), value(entry))).collect()
}

/// Every container of every pod, the sidecars first.
fn containers(objects: &[Value]) -> impl Iterator<Item = &Value> {
    let pods = objects.iter().map(|object| &object["spec"]["template"]["spec"]);
    pods.flat_map(|pod| [&pod["initContainers"], &pod["containers"]]).filter_map(Value::as_array).flatten()
}

#[test]
fn envoy_accepts_every_envoy_yaml() {
    let Some(newest) = envoy::binary() else { return };
    let oldest = std::env::var("ENVOY_OLDEST").ok().filter(|path| !path.is_empty());
    let dir = TempDir::new();
    for overlay in ["shop", "gateway", "injected"] {
        let Some(objects) = build(&format!("overlays/{overlay}")) else { return };
        let file = dir.path().join(format!("{overlay}.yaml")).display().to_string();
        std::fs::write(&file, config(&objects, "envoy", "envoy.yaml")).unwrap();
        let mut args: Vec<_> =
            envoy_args(&objects).iter().map(|arg| arg.replace("/etc/envoy/envoy.yaml", &file)).collect();
        if overlay == "injected" {
            args = vec!["-c".to_owned(), file.clone()]; // Its pods are made by the policy.
        }
        assert!(args.contains(&file), "{args:?}");
        for binary in std::iter::once(&newest).chain(&oldest) {
            let output = Command::new(binary).args(["--mode", "validate"]).args(&args).output().unwrap();
            assert!(output.status.success(), "{overlay}, {binary}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// `--mode validate` reads the file of the pods and does not start the engine.
#[test]
fn envoy_with_the_module_accepts_its_envoy_yaml() {
    let Some(newest) = envoy::binary() else { return };
    let Some(objects) = build("overlays/gateway-module") else { return };
    let dir = TempDir::new();
    std::fs::write(dir.path().join("password"), "0123456789abcdef").unwrap();
    let place = |text: String| {
        let dir = dir.path().display().to_string();
        text.replace("/etc/doorward-redis", &dir).replace("/etc/doorward/", &format!("{dir}/"))
    };
    std::fs::write(dir.path().join("doorward.yaml"), place(config(&objects, "doorward", "doorward.yaml"))).unwrap();
    let file = dir.path().join("envoy.yaml");
    std::fs::write(&file, place(config(&objects, "envoy", "envoy.yaml"))).unwrap();
    let validate = || {
        let mut command = Command::new(&newest);
        let command = command.env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", crate::module::library());
        let output = command.args(["--mode", "validate", "-c"]).arg(&file).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (is_accepted, log) = validate();
    assert!(is_accepted, "{log}");
    // With a fault in Doorward's file, Envoy refuses its own configuration.
    std::fs::write(dir.path().join("doorward.yaml"), "issuers: []").unwrap();
    assert!(!validate().0);
}

/// The two configurations of the gateway's Envoy differ in the filters that decide, their log fields and clusters.
#[test]
fn the_gateway_with_the_module_is_the_gateway() {
    let read = |overlay: &str| {
        let file = format!("{}/k8s/overlays/{overlay}/envoy.yaml", env!("CARGO_MANIFEST_DIR"));
        let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let resources = &mut config["static_resources"];
        let clusters = resources["clusters"].as_array_mut().unwrap();
        clusters.retain(|cluster| !cluster["name"].as_str().unwrap().starts_with("doorward"));
        let manager = &mut resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        let asks = ["envoy.filters.http.ext_authz", "envoy.filters.http.ext_proc", "doorward"];
        let filters = manager["http_filters"].as_array_mut().unwrap();
        filters.retain(|filter| !asks.contains(&filter["name"].as_str().unwrap()));
        let log = &mut manager["access_log"][0]["typed_config"]["log_format"]["json_format"];
        for fact in ["reason", "rule", "user_id", "doorward"] {
            log.as_object_mut().unwrap().remove(fact);
        }
        config
    };
    assert_eq!(read("gateway"), read("gateway-module"));
}

/// The pods' command for Envoy; empty without pods.
fn envoy_args(objects: &[Value]) -> Vec<String> {
    let envoy = containers(objects).find(|container| container["name"] == "envoy");
    let args = envoy.and_then(|envoy| envoy["args"].as_array());
    args.into_iter().flatten().map(|arg| arg.as_str().unwrap().to_owned()).collect()
}
