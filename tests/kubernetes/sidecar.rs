//! The pod that the component `sidecar` makes, without Kubernetes: its Redis, Doorward and Envoy run on the
//! files of the manifests, with only addresses and paths replaced by those of this machine.

use std::net::TcpListener;
use std::process::Command;

use serde_json::{Value, json};

use super::{build, config};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;
use crate::support::{TempDir, eventually};

/// The Secret that a script below `k8s/` makes.
pub fn secret(script: &str) -> Value {
    let output = Command::new(format!("{}/k8s/{script}", env!("CARGO_MANIFEST_DIR"))).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_saphyr::from_str::<Value>(&String::from_utf8(output.stdout).unwrap()).unwrap()["stringData"].clone()
}

/// Redis by the trial's own file and ACL, with one more user for the test's observations.
pub async fn redis(objects: &[Value], secret: &Value) -> RedisServer {
    let mut redis = RedisServer::stopped(&[]);
    let dir = redis.directory().display().to_string();
    let acl = format!("{}user looker on nopass ~* +@all\n", secret["users.acl"].as_str().unwrap());
    std::fs::write(redis.directory().join("users.acl"), acl).unwrap();
    let text = config(objects, "doorward-redis", "redis.conf");
    let file = redis.directory().join("redis.conf");
    std::fs::write(&file, text.replace("/etc/redis-secret", &dir).replace("dir /data", "")).unwrap();
    redis.run_from(&file, &[]).await;
    redis
}

fn look(redis: &RedisServer, command: &[&str]) -> String {
    redis.cli(&[&["--no-auth-warning", "--user", "looker", "--pass", "any"], command].concat())
}

/// Doorward by the ConfigMap, as the pod mounts it.
async fn doorward(objects: &[Value], secret: &Value, redis: &RedisServer, tokens: &Tokens) -> Doorward {
    let dir = TempDir::new();
    std::fs::write(dir.path().join("password"), secret["password"].as_str().unwrap()).unwrap();
    std::fs::write(dir.path().join("jwks.json"), tokens.issuer.jwks().to_string()).unwrap();
    let mut text = config(objects, "doorward", "doorward.yaml");
    for (inside, here) in [
        ("unix:/run/doorward/", "unix:DIR/"),
        ("http: 0.0.0.0:9192", "http: 127.0.0.1:0"),
        ("admin: 0.0.0.0:9193", "admin: 127.0.0.1:0"),
        ("jwks_url: https://auth.example.com/jwks", "jwks_file: DIR/jwks.json"),
        ("doorward-redis:6379", &format!("127.0.0.1:{}", redis.port)),
        ("/etc/doorward-redis/", "DIR/"),
    ] {
        assert!(text.contains(inside), "doorward.yaml has no {inside}");
        text = text.replace(inside, here);
    }
    let doorward = Doorward::launch_in(dir, &text).await;
    doorward.ready().await;
    doorward
}

/// Envoy by the ConfigMap; the other address is the one of its probes.
async fn envoy(binary: &str, objects: &[Value], doorward: &Doorward, upstream: &Upstream) -> (Envoy, String) {
    let socket = doorward.check.strip_prefix("unix:").unwrap();
    // The listener of the probes asks the admin page, so both are configured with its port.
    let admin = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut text = config(objects, "envoy", "envoy.yaml");
    for (inside, here) in [
        ("port_value: 10000", "port_value: 0"),
        ("port_value: 9902", "port_value: 0"),
        ("port_value: 9901", &format!("port_value: {}", admin.port())),
        ("port_value: 8080", &format!("port_value: {}", upstream.address.port())),
        ("address: 0.0.0.0", "address: 127.0.0.1"),
        ("/run/doorward/check.sock", socket),
    ] {
        assert!(text.contains(inside), "envoy.yaml has no {inside}");
        text = text.replace(inside, here);
    }
    let envoy = Envoy::start_text(binary, &text).await;
    let listeners: Value =
        reqwest::get(format!("http://{admin}/listeners?format=json")).await.unwrap().json().await.unwrap();
    let listeners = listeners["listener_statuses"].as_array().unwrap();
    let health = listeners.iter().find(|listener| listener["name"] == "health").unwrap();
    let port = &health["local_address"]["socket_address"]["port_value"];
    (envoy, format!("http://127.0.0.1:{port}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_the_manifests_signs_out_at_once() {
    let Some(binary) = envoy::binary() else { return };
    let (Some(shop), Some(trial)) = (build("overlays/shop"), build("overlays/redis")) else { return };
    let objects = [shop, trial].concat();
    let (tokens, secret, upstream) = (Tokens::new(), secret("redis/new-secret.sh"), Upstream::start().await);
    let redis = redis(&objects, &secret).await;
    let doorward = doorward(&objects, &secret, &redis, &tokens).await;
    let (envoy, health) = envoy(&binary, &objects, &doorward, &upstream).await;
    let token = |user: &str| {
        tokens.with(json!({"iss": "https://auth.example.com", "aud": "shop", "sub": user,
            "jti": format!("{:032x}", rand::random::<u128>())}))
    };
    let (alice, bob) = (token("alice"), token("bob"));
    let client = reqwest::Client::new();
    let get = async |token: &str| {
        let request = client.get(envoy.url("/orders")).bearer_auth(token).header("x_user_id", "root");
        let response = request.send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };

    let (status, seen) = get(&alice).await;
    assert_eq!((status, &seen["headers"]["x-user-id"]), (200, &json!("alice")));
    assert_eq!(seen["headers"]["x_user_id"], Value::Null);
    let logout = client.post(envoy.url("/auth/logout")).bearer_auth(&alice).send().await.unwrap();
    assert_eq!(logout.status(), 200);
    let before = upstream.seen();
    let (status, body) = get(&alice).await;
    assert_eq!((status, &body["reason"]), (401, &json!("signed_out")));
    assert_eq!(upstream.seen(), before);
    assert_eq!(get(&bob).await.0, 200);

    // The requests of the kubelet and Prometheus to Envoy, which no other client may send.
    let ask = async |path: &str| client.get(format!("{health}{path}")).send().await.unwrap();
    assert_eq!(ask("/ready").await.status(), 200);
    assert!(ask("/stats/prometheus").await.text().await.unwrap().contains("ext_authz_denied"));
    assert_eq!(ask("/config_dump").await.status(), 404);
    assert_eq!(client.post(format!("{health}/quitquitquit")).send().await.unwrap().status(), 404);

    // The ACL gives Doorward all it needs, putting back what Redis lost included, and no more.
    look(&redis, &["FLUSHALL"]);
    eventually("what was lost is put back", || async {
        look(&redis, &["EXISTS", "doorward:{r}:log"]) == "1"
            && look(&redis, &["KEYS", "doorward:{r}:main:token:*"]).lines().count() == 1
    })
    .await;
    assert_eq!(get(&alice).await.0, 401);
    assert_eq!(look(&redis, &["ACL", "LOG"]), "", "no command was refused");
    let password = secret["password"].as_str().unwrap();
    let doorward_s = ["--no-auth-warning", "--user", "doorward", "--pass", password];
    for more in [&["FLUSHALL"][..], &["CONFIG", "GET", "*"], &["EVAL", "return 1", "0"], &["SET", "other", "1"]] {
        let answer = redis.cli(&[&doorward_s, more].concat());
        assert!(answer.starts_with("NOPERM"), "{more:?}: {answer}");
    }
    assert!(redis.cli(&["PING"]).starts_with("NOAUTH"), "nobody without a password");
}
