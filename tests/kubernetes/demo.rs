//! The overlay `demo`, without Kubernetes: its Redis, Doorward, Envoy, Accounts and service A run on the files and
//! arguments of the manifests, with only addresses and paths replaced by those of this machine.

use serde_json::{Value, json};

use super::sidecar::{redis, secret};
use super::{build, config, containers};
use crate::four_services::support::Program;
use crate::ledger::support::free_port;
use crate::support::TempDir;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};

/// `text` with each of `inside` replaced, which must be there.
fn replaced(text: &str, replacements: &[(&str, &str)]) -> String {
    replacements.iter().fold(text.to_owned(), |text, (inside, here)| {
        assert!(text.contains(inside), "no {inside} in {text}");
        text.replace(inside, here)
    })
}

/// The arguments of the container `name`.
fn args(objects: &[Value], name: &str, replacements: &[(&str, &str)]) -> Vec<String> {
    let container = containers(objects).find(|container| container["name"] == name).unwrap();
    let args: Vec<_> = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
    replaced(&args.join(" "), replacements).split(' ').map(str::to_owned).collect()
}

async fn program(args: &[String]) -> Program {
    Program::start(&args.iter().map(String::as_str).collect::<Vec<_>>()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_of_the_manifests_signs_out_at_once() {
    let Some(binary) = envoy::binary() else { return };
    let Some(objects) = build("overlays/demo") else { return };
    let (of_redis, of_accounts) = (secret("redis/new-secret.sh"), secret("overlays/demo/new-key.sh"));
    let redis = redis(&objects, &of_redis).await;
    let (dir, port) = (TempDir::new(), free_port());
    std::fs::write(dir.path().join("password"), of_redis["password"].as_str().unwrap()).unwrap();
    let (key, data) = (dir.path().join("key").display().to_string(), dir.path().display().to_string());
    std::fs::write(&key, of_accounts["key"].as_str().unwrap()).unwrap();
    let text = replaced(
        &config(&objects, "doorward", "doorward.yaml"),
        &[
            ("unix:/run/doorward/", "unix:DIR/"),
            ("http: 0.0.0.0:9192", "http: 127.0.0.1:0"),
            ("http://auth/", &format!("http://127.0.0.1:{port}/")),
            ("doorward-redis:6379", &format!("127.0.0.1:{}", redis.port)),
            ("/etc/doorward-redis/", "DIR/"),
            ("sha256: \"\"", &format!("sha256: {}", of_accounts["sha256"].as_str().unwrap())),
        ],
    );
    let doorward = Doorward::launch_in(dir, &text).await;
    let mut accounts = args(
        &objects,
        "auth",
        &[
            ("0.0.0.0:8080", &format!("127.0.0.1:{port}")),
            ("sqlite:/data/", &format!("sqlite:{data}/")),
            ("http://doorward:9192", &format!("http://{}", doorward.http)),
        ],
    );
    accounts.extend(["--admin-key-file".to_owned(), key]); // In the pod by the environment.
    let accounts = program(&accounts).await;
    let service = program(&args(&objects, "a", &[("0.0.0.0:8080", "127.0.0.1:0")])).await;
    doorward.ready().await;

    let cluster = |name: &str, port: &str| format!("address: {name}\n{}port_value: {port}\n", " ".repeat(22));
    let at = |program: &Program| cluster("127.0.0.1", &program.address.port().to_string());
    let text = replaced(
        &envoy::patient(&config(&objects, "envoy", "envoy.yaml")),
        &[
            (&cluster("auth", "80"), &at(&accounts)),
            (&cluster("a", "80"), &at(&service)),
            ("port_value: 10000", "port_value: 0"),
            ("port_value: 9902", "port_value: 0"),
            ("port_value: 9901", &format!("port_value: {}", free_port())), // Both the admin page and the cluster that asks it.
            ("address: 0.0.0.0", "address: 127.0.0.1"),
            ("/run/doorward/check.sock", doorward.check.strip_prefix("unix:").unwrap()),
        ],
    );
    let gateway = Envoy::start_text(&binary, &text).await;
    let client = reqwest::Client::new();
    let login = async || {
        let user = json!({"login": "alice", "password": "wonderland"});
        let answer = client.post(gateway.url("/auth/login")).json(&user).send().await.unwrap();
        answer.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned()
    };
    let orders = async |token: &str| {
        let answer = client.get(gateway.url("/a/orders")).bearer_auth(token).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };

    // Either by the gateway's own rule, or by Accounts with its key.
    for (path, reason) in [("/auth/logout", "signed_out"), ("/auth/logout-everywhere", "revoked")] {
        let token = login().await;
        let (status, seen) = orders(&token).await;
        assert_eq!((status, &seen["service"], &seen["user"]), (200, &json!("A"), &json!("alice")));
        let answer = client.post(gateway.url(path)).bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{path}");
        let (status, body) = orders(&token).await;
        assert_eq!((status, &body["reason"]), (401, &json!(reason)), "{path}");
    }
}
