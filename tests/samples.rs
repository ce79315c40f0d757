//! The samples beside envoy/README.md, as services behind Envoy: each rebuilds who is calling from the
//! payload, plain and signed, and a forged one never counts.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::tokens::Tokens;
use crate::support::{Process, TempDir};

const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/samples");

#[tokio::test(flavor = "multi_thread")]
async fn node() {
    if !is_there("node", "--version") {
        return;
    }
    check_sample(&["node", &format!("{SAMPLES}/node/demo.mjs")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spring() {
    if !is_there("mvn", "--version") {
        return;
    }
    let folder = format!("{SAMPLES}/spring");
    let built = Command::new("mvn").args(["-q", "-B", "package"]).current_dir(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&built.stdout);
    if !built.status.success()
        && ["Could not transfer", "Could not resolve", "Unknown host"].iter().any(|why| said.contains(why))
    {
        eprintln!("SKIPPED: Maven cannot fetch what the sample needs:\n{said}");
        return;
    }
    assert!(built.status.success(), "{said}");
    check_sample(&[
        "java",
        "-cp",
        &format!("{folder}/target/classes:{folder}/target/dependency/*"),
        "doorward.sample.Demo",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rust() {
    let sample = Path::new(env!("CARGO_BIN_EXE_doorward")).with_file_name("examples/identity");
    assert!(sample.exists(), "a run of all tests builds it; alone: cargo build --example identity");
    check_sample(&[sample.to_str().unwrap()]).await;
}

/// Whether a tool is on this machine; prints a message if the test is skipped.
fn is_there(tool: &str, argument: &str) -> bool {
    let found = Command::new(tool).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        eprintln!("SKIPPED: `{tool}` is not on this machine");
    }
    found
}

struct Sample {
    _process: Process,
    address: std::net::SocketAddr,
}

fn start(command: &[&str], jwks: Option<&str>) -> Sample {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .arg("0")
        .args(jwks)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port: u16 = line.trim().parse().unwrap_or_else(|_| panic!("the sample says {line:?} instead of its port"));
    Sample { _process: Process(child), address: ([127, 0, 0, 1], port).into() }
}

/// Status and body of a request with some headers.
async fn ask(url: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let request = headers.iter().fold(reqwest::Client::new().get(url), |ask, (name, value)| ask.header(*name, *value));
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}

async fn check_sample(command: &[&str]) {
    let tokens = Tokens::new();
    let claims = json!({"jti": "token-1", "exp": crate::support::tokens::now() + 300, "scope": "a b"});
    let token = format!("Bearer {}", tokens.with(claims.clone()));
    let expected = json!({"jti": "token-1", "expires": claims["exp"], "user": "alice", "email": "alice@example.com", "scopes": ["a", "b"]});
    let forged = json!({"issuer": "dev", "user_id": "root", "token_id": "1", "expires_at": 9_999_999_999_u64, "exp": 9_999_999_999_u64, "scopes": []});
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let plain_forgery = encode(&forged);

    for key in [None, Some("sign-p256.pem"), Some("sign-ed25519.pem"), Some("sign-rsa2048.pem")] {
        let dir = TempDir::new();
        let sign = key.map_or_else(String::new, |key| {
            let from = format!("{}/src/config/testdata/{key}", env!("CARGO_MANIFEST_DIR"));
            std::fs::copy(from, dir.path().join("sign.pem")).unwrap();
            ", sign: {key_file: sign.pem}".to_owned()
        });
        let more = format!(
            "identity: {{payload: {{header: x-identity{sign}}}}}\nrules: [{{name: public, match: {{path_prefix: /public}}, access: public}}]\n"
        );
        let doorward = Doorward::launch_in(dir, &tokens.config(&more)).await;
        doorward.ready().await;
        let jwks = format!("http://{}/jwks.json", doorward.http);
        let sample = start(command, key.map(|_| jwks.as_str()));

        // Without Envoy between, only a signature distinguishes valid payloads from forgeries.
        let direct = format!("http://{}/", sample.address);
        assert_eq!(ask(&direct, &[]).await.0, 401, "{key:?}");
        for garbage in ["", "a", "a.b.c", "....", "e30", "e30.e30.", "null"] {
            assert_eq!(ask(&direct, &[("x-identity", garbage)]).await.0, 401, "{key:?} {garbage}");
        }
        if key.is_some() {
            let (_, published) = ask(&jwks, &[]).await;
            let kid = &published["keys"][0]["kid"];
            let head = |alg: &str, typ: &str| encode(&json!({"alg": alg, "kid": kid, "typ": typ}));
            let checks = crate::support::grpc::Checks::connect(&doorward.check).await;
            let verdict = checks.check(crate::support::grpc::get("/").header("authorization", &token)).await;
            let good = &verdict.headers["x-identity"];
            let (signed, signature) = good.rsplit_once('.').unwrap();
            let algorithm = published["keys"][0]["alg"].as_str().unwrap();
            for (what, forgery) in [
                ("unsigned", plain_forgery.clone()),
                ("without a signature", format!("{}.{plain_forgery}.", head(algorithm, "identity+jwt"))),
                ("of another payload", format!("{}.{plain_forgery}.{signature}", signed.split('.').next().unwrap())),
                ("alg none", format!("{}.{plain_forgery}.", head("none", "identity+jwt"))),
                ("alg HS256", format!("{}.{plain_forgery}.{signature}", head("HS256", "identity+jwt"))),
                (
                    "another type",
                    format!("{}.{}.{signature}", head(algorithm, "JWT"), signed.split('.').nth(1).unwrap()),
                ),
                ("an access token", token.trim_start_matches("Bearer ").to_owned()),
                ("more parts", format!("{good}.x")),
            ] {
                assert_eq!(ask(&direct, &[("x-identity", &forgery)]).await.0, 401, "{key:?} {what}");
            }
            assert_eq!(ask(&direct, &[("x-identity", good)]).await, (200, expected.clone()), "{key:?}");
        }

        // Behind Envoy the kind of key makes no difference.
        let Some(binary) = envoy::binary().filter(|_| matches!(key, None | Some("sign-p256.pem"))) else { continue };
        let envoy = Envoy::start(&binary, "edge-tcp.yaml", &doorward.check, sample.address).await;
        let headers = [("authorization", token.as_str()), ("x-identity", plain_forgery.as_str())];
        assert_eq!(ask(&envoy.url("/"), &headers).await, (200, expected.clone()), "{key:?}");
        // On a public path the identity is empty, whatever the client sends; the sample requires an identity.
        for headers in [&[][..], &[("x-identity", plain_forgery.as_str())], &headers] {
            assert_eq!(ask(&envoy.url("/public"), headers).await.0, 401, "{key:?}");
        }
    }
}
