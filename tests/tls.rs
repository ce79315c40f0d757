//! `listen.tls`: both listeners, client certificates, and a certificate that is replaced.

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_client::HealthClient;

use crate::support::authorization_server::AuthorizationServer;
use crate::support::doorward::{Doorward, run_with};
use crate::support::grpc::{Checks, get};
use crate::support::jwks_server::JwksServer;
use crate::support::nginx::{self, Nginx};
use crate::support::tokens::Tokens;
use crate::support::{TempDir, eventually};

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `localhost` and its key, both PEM.
pub(crate) fn issue(authority: &Authority) -> (String, String) {
    issue_for(authority, "localhost")
}

pub(crate) fn issue_for(authority: &Authority, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    // Without its own name it has the authority's, and BoringSSL treats it as self-signed.
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

fn connector(authorities: &[&Authority], client: Option<&(String, String)>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(vec![certificate], PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                .unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// A TLS connection of a client with these trusted authorities and this certificate; an error if the
/// handshake is refused.
pub(crate) async fn channel(
    address: &str,
    authorities: &[&Authority],
    client: Option<&(String, String)>,
) -> Result<Channel, String> {
    let (address, connector) = (address.to_owned(), connector(authorities, client));
    let connect = tower::service_fn(move |_| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connect).await.map_err(|error| error.to_string())
}

/// The status of a gRPC health check over TLS; an error when the handshake is refused.
async fn health(address: &str, authority: &Authority, client: Option<&(String, String)>) -> Result<i32, String> {
    let mut health = HealthClient::new(channel(address, &[authority], client).await?);
    let answer = health.check(tonic_health::pb::HealthCheckRequest { service: String::new() }).await;
    answer.map(|answer| answer.into_inner().status).map_err(|error| error.to_string())
}

fn config(tokens: &Tokens, client_ca: &str) -> String {
    let listen = format!(
        "listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:0\", tls: {{cert_file: DIR/tls.crt, key_file: DIR/tls.key{client_ca}}}}}\n"
    );
    tokens.config(&listen)
}

fn write(dir: &TempDir, (certificate, key): &(String, String)) {
    std::fs::write(dir.path().join("tls.key"), key).unwrap();
    std::fs::write(dir.path().join("tls.crt"), certificate).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_speak_tls_and_a_new_certificate_takes_effect() {
    let (tokens, first, second) = (Tokens::new(), authority(), authority());
    let dir = TempDir::new();
    write(&dir, &issue(&first));
    let doorward = Doorward::launch_in(dir, &config(&tokens, "")).await;
    eventually("serving", || async { health(&doorward.check, &first, None).await == Ok(1) }).await;
    let http = |authority: &Authority| {
        let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], doorward.http.port()));
        let client = reqwest::Client::builder().tls_certs_only([root]).resolve("localhost", address).build().unwrap();
        client.get(format!("https://localhost:{}/livez", address.port())).send()
    };
    assert_eq!(http(&first).await.unwrap().status(), 200);
    assert!(http(&second).await.is_err(), "another authority's");
    let plain = reqwest::get(format!("http://{}/livez", doorward.http)).await;
    assert!(plain.is_err(), "no plain text");

    write(&doorward.dir, &issue(&second));
    eventually("the new certificate is served", || async { health(&doorward.check, &second, None).await == Ok(1) })
        .await;
    assert_eq!(http(&second).await.unwrap().status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_must_show_a_certificate_where_that_is_asked() {
    let (tokens, authority, stranger) = (Tokens::new(), authority(), authority());
    let dir = TempDir::new();
    write(&dir, &issue(&authority));
    std::fs::write(dir.path().join("ca.crt"), authority.pem()).unwrap();
    let doorward = Doorward::launch_in(dir, &config(&tokens, ", client_ca_file: DIR/ca.crt")).await;
    let envoy = issue(&authority);
    eventually("serving", || async { health(&doorward.check, &authority, Some(&envoy)).await == Ok(1) }).await;
    assert!(health(&doorward.check, &authority, None).await.is_err());
    assert!(health(&doorward.check, &authority, Some(&issue(&stranger))).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_show_a_certificate_where_one_is_asked() {
    let (tokens, authority, dir) = (Tokens::new(), authority(), TempDir::new());
    write(&dir, &issue(&authority));
    std::fs::write(dir.path().join("ca.crt"), authority.pem()).unwrap();
    let (certificate, key) = issue(&authority);
    std::fs::write(dir.path().join("client.crt"), certificate).unwrap();
    std::fs::write(dir.path().join("client.key"), key).unwrap();
    let digest = "9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f"; // 0123456789abcdef
    let admin = format!("admin: {{keys: [{{name: a, sha256: {digest}, may: [read]}}]}}\n");
    let text = config(&tokens, ", client_ca_file: DIR/ca.crt") + &admin;
    let doorward = Doorward::launch_in(dir, &text).await;
    let path = |name: &str| doorward.dir.path().join(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (path("ca.crt"), path("client.crt"), path("client.key"));
    let shown = ["--cert", &cert, "--key", &key];

    // `healthcheck` asks the bound port.
    let (http, config) = (doorward.http.to_string(), path("doorward.yaml"));
    let env = [("DOORWARD__LISTEN__HTTP", http.as_str())];
    let check = |more: &[&str]| run_with(&env, &[&["healthcheck", "--config", &config], more].concat(), "");
    eventually("ready", || async { check(&shown).0 == 0 }).await;
    assert_eq!(check(&[]).0, 1, "without a certificate");
    assert_eq!(check(&["--cert", &cert]).0, 2, "without its key");

    let server = format!("https://localhost:{}", doorward.http.port());
    let env = [("DOORWARD_ADMIN_KEY", "0123456789abcdef\n"), ("DOORWARD_SERVER", &server)];
    let status = |more: &[&str]| run_with(&env, &[&["status"], more].concat(), "");
    let (code, out, error) = status(&[&shown[..], &["--ca", &ca]].concat());
    assert!(code == 0 && out.contains("INSTANCE"), "{error}");
    assert_eq!(status(&shown).0, 1, "whose authority nobody knows");
    assert_eq!(status(&["--ca", &ca]).0, 1, "without a certificate");
}

/// Keys, introspection and security events from servers with certificates of a private authority.
#[tokio::test(flavor = "multi_thread")]
async fn the_servers_of_issuers_may_have_an_authority_of_their_own() {
    let Some(binary) = nginx::binary() else { return };
    let (tokens, asked, private) = (Tokens::new(), AuthorizationServer::start().await, authority());
    let keys = JwksServer::start(tokens.issuer.jwks()).await;
    let opaque = "an-opaque-token";
    asked.says(opaque, &AuthorizationServer::active("alice"));
    let server = format!(
        "location /jwks {{ proxy_pass http://{}; }} location /introspect {{ proxy_pass http://{}; }}
location /poll {{ return 204; }} location / {{ return 404; }}",
        keys.address, asked.address
    );
    let nginx = Nginx::start_tls(binary, &issue(&private), &server).await;
    let at = format!("https://localhost:{}", nginx.address.port());
    let launch = async |trusted: &Authority| {
        let dir = TempDir::new();
        std::fs::write(dir.path().join("ca.pem"), trusted.pem()).unwrap();
        let introspection = asked.settings(", ca_file: DIR/ca.pem").replace(&format!("http://{}", asked.address), &at);
        let (issuer, audience) = (doorward::dev::ISSUER, doorward::dev::AUDIENCE);
        let config = format!(
            "revocation: {{store: embedded}}
issuers:
  - {{name: dev, issuer: \"{issuer}\", audiences: [{audience}], keys: {{jwks_url: \"{at}/jwks\", ca_file: DIR/ca.pem}}, {introspection}}}
signals: {{transmitters: [{{issuer: https://t.example, audience: doorward, target_issuer: dev, ca_file: DIR/ca.pem, keys: {{jwks_url: \"{at}/jwks\"}}, poll: {{url: \"{at}/poll\", token: polling-token-0123456789}}}}]}}
"
        );
        Doorward::launch_in(dir, &config).await
    };
    let fetched =
        |of: &str, result: &str| format!("doorward_jwks_fetches_total{{issuer=\"{of}\",result=\"{result}\"}}");
    let polled = |result: &str| format!("doorward_signals_requests_total{{operation=\"poll\",result=\"{result}\"}}");
    for (trusted, result, answers) in
        [(&private, "ok", ["ok", "ok"]), (&authority(), "failed", ["keys_unavailable", "introspection_unavailable"])]
    {
        let doorward = launch(trusted).await;
        for series in [fetched("dev", result), fetched("signals.1", result), polled(result)] {
            eventually(&series, || async { doorward.metric(&series).await.is_some_and(|count| count > 0.0) }).await;
        }
        let checks = Checks::connect(&doorward.check).await;
        for (token, expected) in [tokens.of("alice"), opaque.to_owned()].iter().zip(answers) {
            assert_eq!(checks.check(get("/").token(token)).await.reason(), expected);
        }
    }
}
