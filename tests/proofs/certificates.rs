//! Tokens that are bound to a certificate (RFC 8705), which real Envoy sends.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::leaks::hex;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;
use crate::support::{TempDir, eventually};
use crate::tls::{Authority, authority, issue};

fn thumbprint(pem: &str) -> Vec<u8> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der).as_ref().to_vec()
}

fn bound(tokens: &Tokens, pem: &str) -> String {
    tokens.with(json!({"cnf": {"x5t#S256": URL_SAFE_NO_PAD.encode(thumbprint(pem))}}))
}

/// An Envoy that requests a client certificate, and sends it to Doorward in one of the two ways.
async fn edge(
    binary: &str,
    check: &str,
    upstream: &Upstream,
    authority: &Authority,
    forwards: bool,
) -> (Envoy, TempDir) {
    let dir = TempDir::new();
    let (certificate, key) = issue(authority);
    for (name, text) in [("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &authority.pem())] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let tls = "        - transport_socket:\n            name: envoy.transport_sockets.tls\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n              common_tls_context:\n                tls_certificates: [{certificate_chain: {filename: DIR/tls.crt}, private_key: {filename: DIR/tls.key}}]\n                validation_context: {trusted_ca: {filename: DIR/ca.crt}}\n          filters:\n"
    .replace("DIR/", &format!("{}/", dir.path().display()));
    let text = envoy::text("envoy/edge-tcp.yaml", check, upstream.address).replacen("        - filters:\n", &tls, 1);
    let text = if forwards {
        let set = "forward_client_cert_details: SANITIZE_SET\n                set_current_client_cert_details: {subject: true, cert: true}";
        text.replacen("forward_client_cert_details: SANITIZE", set, 1).replacen(
            "- exact: dpop ",
            "- exact: x-forwarded-client-cert\n                          - exact: dpop ",
            1,
        )
    } else {
        let told = "transport_api_version: V3\n                      include_peer_certificate: true";
        text.replacen("transport_api_version: V3", told, 1)
    };
    (Envoy::start_text(binary, &text).await, dir)
}

/// Behind a gateway that ends TLS and sets the header, as `docs/bound-tokens.md` has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_s_header_arrives_unless_envoy_removes_it() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, upstream, holder) = (Tokens::new(), Upstream::start().await, issue(&authority()).0);
    let config = tokens.config("proxy: {client_certificate: x-forwarded-client-cert}\n");
    let doorward = Doorward::start(&config).await;
    let token = bound(&tokens, &holder);
    for (details, expected) in [("ALWAYS_FORWARD_ONLY", 200), ("SANITIZE", 401), ("FORWARD_ONLY", 401)] {
        let text = envoy::text("envoy/edge-tcp.yaml", &doorward.check, upstream.address)
            .replacen("forward_client_cert_details: SANITIZE", &format!("forward_client_cert_details: {details}"), 1)
            .replacen(
                "- exact: dpop ",
                "- exact: x-forwarded-client-cert\n                          - exact: dpop ",
                1,
            );
        let envoy = Envoy::start_text(&binary, &text).await;
        let request = reqwest::Client::new().get(envoy.url("/orders")).bearer_auth(&token);
        let request = request.header("x-forwarded-client-cert", format!("Hash={}", hex(&thumbprint(&holder))));
        assert_eq!(request.send().await.unwrap().status().as_u16(), expected, "{details}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_accepted_from_the_holder_of_its_certificate() {
    for (forwards, setting) in [(false, "connection"), (true, "x-forwarded-client-cert")] {
        for binary in envoy::binaries() {
            let (tokens, upstream, authority) = (Tokens::new(), Upstream::start().await, authority());
            let config = tokens.config(&format!("proxy: {{client_certificate: {setting}}}\n"));
            let doorward = Doorward::start(&config).await;
            let (envoy, _dir) = edge(&binary, &doorward.check, &upstream, &authority, forwards).await;
            let client = |shown: Option<&(String, String)>| {
                let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
                let builder = reqwest::Client::builder().tls_certs_only([root]).resolve("localhost", envoy.address);
                let identity = |(certificate, key): &(String, String)| {
                    reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap()
                };
                let builder = if let Some(shown) = shown { builder.identity(identity(shown)) } else { builder };
                builder.build().unwrap()
            };
            let (ours, theirs) = (issue(&authority), issue(&authority));
            let token = bound(&tokens, &ours.0);
            let ask = async |shown: Option<&(String, String)>, forged: Option<&str>| {
                let request = client(shown).get(format!("https://localhost:{}/orders", envoy.address.port()));
                let request = request.bearer_auth(&token);
                let request =
                    if let Some(forged) = forged { request.header("x-forwarded-client-cert", forged) } else { request };
                let response = request.send().await.unwrap();
                let status = response.status().as_u16();
                let body: Value = response.json().await.unwrap();
                (status, body["reason"].as_str().unwrap_or_default().to_owned())
            };
            let refused = |reason: &str| (401, reason.to_owned());
            assert_eq!(ask(Some(&ours), None).await, (200, String::new()), "{setting}");
            assert_eq!(ask(Some(&theirs), None).await, refused("proof_invalid"), "{setting}");
            assert_eq!(ask(None, None).await, refused("proof_missing"), "{setting}");
            // A client cannot supply the certificate header itself.
            let hash = hex(&thumbprint(&ours.0));
            let forged = format!("Hash={hash}");
            assert_eq!(ask(None, Some(&forged)).await, refused("proof_missing"), "{setting}");
            assert_eq!(ask(Some(&theirs), Some(&forged)).await, refused("proof_invalid"), "{setting}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_is_believed_only_where_that_is_configured() {
    let (tokens, authority) = (Tokens::new(), authority());
    let (certificate, _) = issue(&authority);
    let hash = hex(&thumbprint(&certificate));
    let (token, told) = (bound(&tokens, &certificate), format!("By=spiffe://edge;Hash={hash};Subject=\"CN=a,b\""));
    let ask = |field: &str| get("/").token(&token).header("x-forwarded-client-cert", field);
    let doorward = Doorward::start(&tokens.config("")).await;
    let checks = Checks::connect(&doorward.check).await;
    assert_eq!(checks.check(ask(&told)).await.reason(), "proof_missing");

    let config = tokens.config("proxy: {client_certificate: x-forwarded-client-cert}\n");
    std::fs::write(
        doorward.dir.path().join("doorward.yaml"),
        format!("listen: {{check: \"{}\", http: \"{}\"}}\n{config}", doorward.check, doorward.http),
    )
    .unwrap();
    eventually("the setting is in force", || async { checks.check(ask(&told)).await.allowed() }).await;
    for several in [format!("{told},{told}"), format!("{told},Hash=00")] {
        assert_eq!(checks.check(ask(&several)).await.reason(), "proof_invalid", "{several}");
    }
}
