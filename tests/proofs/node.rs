//! Independent clients, npm's `oauth4webapi` and `dpop`, with tokens that npm's `oidc-provider` binds to their keys.

use serde_json::{Value, json};

use crate::event_sources::NodeProcess;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::upstream::Upstream;

/// The folder with the clients' packages; `None` if the test is skipped, with a message.
fn clients() -> Option<String> {
    let folder = format!("{}/.tools/dpop", env!("CARGO_MANIFEST_DIR"));
    let is_there = std::path::Path::new(&folder).join("node_modules/oauth4webapi").is_dir();
    if !is_there {
        eprintln!("SKIPPED: .tools/dpop does not hold oauth4webapi; ./tests/run.sh fetches it");
    }
    is_there.then_some(folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_others_wrote_are_understood() {
    let (Some(folder), Some(binary)) = (clients(), envoy::binary()) else { return };
    let Some(node) = NodeProcess::start("../proofs/clients.mjs", &[&folder]) else { return };
    let issuer = format!("http://127.0.0.1:{}", node.port);
    for (dpop, nonce) in [("", false), ("dpop: {nonce: true}, ", true)] {
        let config = format!(
            "revocation: {{store: embedded}}\nissuers:\n  - {{name: provider, {dpop}issuer: \"{issuer}\", audiences: [demo], keys: {{discovery: true}}}}\n"
        );
        let (doorward, upstream) = (Doorward::start(&config).await, Upstream::start().await);
        let envoy = Envoy::start(&binary, "edge-tcp.yaml", &doorward.check, upstream.address).await;
        for alg in ["ES256", "Ed25519", "RS256", "PS256"] {
            let token = node.command(&json!({"token": alg}));
            assert_eq!(token["token_type"], "dpop", "{token}");
            for (method, path) in [("GET", "/orders?x=1"), ("POST", "/a%20b/~c"), ("DELETE", "/")] {
                let asked = node.command(&json!({"request": {"url": envoy.url(path), "method": method}}));
                assert_eq!(
                    (&asked["status"], &asked["body"]["method"]),
                    (&json!(200), &json!(method)),
                    "{alg}: {asked}"
                );
                assert_eq!(asked["body"]["headers"]["x-user-id"], "shop", "{asked}");
                let proofs = if nonce && method == "GET" { 2 } else { 1 };
                assert_eq!(asked["proofs"], proofs, "{alg}: a nonce is asked for once, and then known: {asked}");
            }
            // By the other library.
            let url = envoy.url("/orders");
            let proved = node.command(&json!({"prove": {"url": url, "method": "GET"}}));
            assert_eq!(proved["status"], 200, "{alg}: {proved}");
            let again = node.command(&json!({"again": {"url": url, "method": "GET"}}));
            assert_eq!(again["status"], 401, "{alg}: {again}");
            let challenge = &again["challenges"][0];
            assert_eq!(
                (&challenge["scheme"], &challenge["parameters"]["error"]),
                (&json!("dpop"), &json!("invalid_dpop_proof"))
            );
            assert!(
                challenge["parameters"]["algs"]
                    .as_str()
                    .unwrap()
                    .split(' ')
                    .any(|name| alg.starts_with("Ed") || name == alg)
            );
            let bearer: Value = node.command(&json!({"bearer": {"url": url, "method": "GET"}}));
            assert_eq!(
                (&bearer["status"], &bearer["challenges"][0]["scheme"]),
                (&json!(401), &json!("dpop")),
                "{bearer}"
            );
        }
    }
}
