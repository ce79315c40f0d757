//! Against a real Keycloak, where `KEYCLOAK` names the folder of its distribution (Maven Central has it:
//! org.keycloak:keycloak-quarkus-dist). It needs Java, half a gigabyte of memory and two minutes to start, so
//! it is not part of the usual run: `tests/keycloak.sh` fetches it and runs these.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Edge;
use crate::api::admin_keys;
use crate::support::Process;
use crate::support::tokens::Tokens;

struct Keycloak {
    process: Process,
    url: String,
}

impl Drop for Keycloak {
    /// The script does not become the server: both are in one group.
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.process.0.id())]).status();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn form(url: &str, fields: &[(&str, &str)]) -> Value {
    let body: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = reqwest::Client::new().post(url).header("content-type", "application/x-www-form-urlencoded");
    let response = request.body(body).send().await.unwrap();
    assert!(response.status().is_success(), "{url}: {response:?}");
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null)
}

impl Keycloak {
    async fn start(folder: &str) -> Self {
        let (port, management) = (free_port(), free_port());
        let child = Command::new(format!("{folder}/bin/kc.sh"))
            .args(["start-dev", "--db=dev-mem", "--cache=local", "--http-host=127.0.0.1"])
            .args([format!("--http-port={port}"), format!("--http-management-port={management}")])
            // Shared Signals are experimental in 26.7; push to plain http on this host, and verification at once.
            .args(["--features=ssf", "--spi-ssf-transmitter--default--allow-insecure-push-targets=true"])
            .arg("--spi-ssf-transmitter--default--min-verification-interval-seconds=0")
            .arg("--spi-ssf-transmitter--default--outbox-drainer-interval=500ms") // 30 s by default
            .envs([("KC_BOOTSTRAP_ADMIN_USERNAME", "admin"), ("KC_BOOTSTRAP_ADMIN_PASSWORD", "admin")])
            .env("JAVA_OPTS_KC_HEAP", "-Xmx512m")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let (process, began) = (Process(child), Instant::now());
        let url = format!("http://127.0.0.1:{port}");
        while reqwest::get(format!("{url}/realms/master")).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(400), "Keycloak does not start");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        eprintln!("Keycloak started after {:.0?}", began.elapsed());
        Self { process, url }
    }

    /// An administrator's token is valid for a minute.
    async fn administrator(&self) -> String {
        let fields =
            [("grant_type", "password"), ("client_id", "admin-cli"), ("username", "admin"), ("password", "admin")];
        let answer = form(&format!("{}/realms/master/protocol/openid-connect/token", self.url), &fields).await;
        answer["access_token"].as_str().unwrap().to_owned()
    }

    async fn administer(&self, path: &str, body: &Value) {
        self.change(reqwest::Method::POST, path, body).await;
    }

    async fn change(&self, method: reqwest::Method, path: &str, body: &Value) {
        let request = reqwest::Client::new().request(method, format!("{}/admin/realms{path}", self.url));
        let request = request.bearer_auth(self.administrator().await);
        let response = request.json(body).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
    }

    async fn realm(&self, doorward: &str) {
        let user = |name: &str| {
            json!({
                "id": format!("id-of-{name}"), "username": name, "enabled": true, "email": format!("{name}@example.com"),
                "emailVerified": true, "firstName": name, "lastName": "X",
                "credentials": [{"type": "password", "value": "password", "temporary": false}],
            })
        };
        let client = json!({
            "clientId": "shop-web", "secret": "secret-of-the-shop", "publicClient": false,
            "directAccessGrantsEnabled": true, "redirectUris": ["https://shop.example/*"],
            "protocolMappers": [{
                "name": "audience", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
                "config": {"included.custom.audience": "demo", "access.token.claim": "true"},
            }],
            "attributes": {
                "backchannel.logout.url": format!("{doorward}/oidc/backchannel-logout"),
                "backchannel.logout.session.required": "true",
            },
        });
        let realm = json!({
            "realm": "shop", "enabled": true, "sslRequired": "none", "clients": [client],
            "users": [user("alice"), user("bob"), user("carol")], "attributes": {"ssf.transmitterEnabled": "true"},
            "eventsEnabled": true, "adminEventsEnabled": true, "adminEventsDetailsEnabled": true,
            "eventsListeners": ["jboss-logging", "ssf-events"],
        });
        self.administer("", &realm).await;
    }

    /// A client that may manage a stream of security events and receive them.
    async fn receiver(&self, name: &str, push_url: &str) {
        let client = json!({
            "clientId": name, "secret": "secret-of-doorward", "publicClient": false, "serviceAccountsEnabled": true,
            "standardFlowEnabled": false, "optionalClientScopes": ["ssf.read", "ssf.manage"],
            "attributes": {
                "ssf.enabled": "true", "ssf.defaultSubjects": "ALL", "ssf.streamAudience": "doorward",
                "ssf.validPushUrls": push_url,
            },
        });
        self.administer("/shop/clients", &client).await;
    }

    fn openid(&self, endpoint: &str) -> String {
        format!("{}/realms/shop/protocol/openid-connect/{endpoint}", self.url)
    }

    /// Access and refresh token.
    async fn login(&self, user: &str) -> (String, String) {
        let fields = [
            ("grant_type", "password"),
            ("client_id", "shop-web"),
            ("client_secret", "secret-of-the-shop"),
            ("username", user),
            ("password", "password"),
            ("scope", "openid"),
        ];
        let tokens = form(&self.openid("token"), &fields).await;
        let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
        (text("access_token"), text("refresh_token"))
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KEYCLOAK, and minutes"]
async fn keycloak_s_logout_reaches_the_next_request() {
    let Ok(folder) = std::env::var("KEYCLOAK") else {
        eprintln!("SKIPPED: KEYCLOAK does not name the folder of a Keycloak");
        return;
    };
    let keycloak = Keycloak::start(&folder).await;
    let port = free_port();
    keycloak.realm(&format!("http://127.0.0.1:{port}")).await;
    let config = format!(
        "listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:{port}\"}}\nrevocation: {{store: embedded}}\nissuers:\n  - {{name: keycloak, issuer: \"{}/realms/shop\", audiences: [demo], keys: {{discovery: true}}, backchannel_logout: {{audiences: [shop-web]}}}}\n{}",
        keycloak.url,
        admin_keys()
    );
    let edge = Edge::of(Tokens::new(), &config).await;
    let ((alice, refresh), (bob, _)) = (keycloak.login("alice").await, keycloak.login("bob").await);
    for token in [&alice, &bob] {
        assert_eq!(edge.reason(token).await, "ok");
    }
    let logout = async {
        let fields = [("client_id", "shop-web"), ("client_secret", "secret-of-the-shop"), ("refresh_token", &refresh)];
        form(&keycloak.openid("logout"), &fields).await
    };
    edge.ends_soon("Keycloak, the user logs out", &alice, logout).await;
    assert_eq!((edge.reason(&alice).await.as_str(), edge.reason(&bob).await.as_str()), ("signed_out", "ok"));
    let path = "/shop/users/id-of-bob/logout";
    edge.ends_soon("Keycloak, an administrator logs the user out", &bob, keycloak.administer(path, &json!({}))).await;
    assert_eq!(edge.counted("backchannel_logout", "applied").await, 2);
    let (again, _) = keycloak.login("alice").await;
    assert_eq!(edge.ask(&again).await, (200, true));
}

/// Keycloak 26.7 as a transmitter of Shared Signals (its feature `ssf`), over push and poll; the stream is set up by the
/// client credentials grant, with everything by discovery.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs KEYCLOAK, and minutes"]
async fn keycloak_s_security_events_reach_the_next_request() {
    let Ok(folder) = std::env::var("KEYCLOAK") else {
        eprintln!("SKIPPED: KEYCLOAK does not name the folder of a Keycloak");
        return;
    };
    let keycloak = Keycloak::start(&folder).await;
    keycloak.realm("http://127.0.0.1:1").await; // Nobody listens to its logout tokens.
    for delivery in ["push", "poll"] {
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}/signals/events");
        keycloak.receiver(&format!("doorward-{delivery}"), &url).await;
        let how = match delivery {
            "push" => format!("push: {{token: push-secret-0123456789}}, stream: {{push_url: \"{url}\"}}"),
            _ => "poll: {interval: 1s}, stream: {}".to_owned(),
        };
        let config = format!(
            "listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:{port}\"}}\nrevocation: {{store: embedded}}\nissuers:\n  - {{name: keycloak, issuer: \"{issuer}\", audiences: [demo], keys: {{discovery: true}}}}\nsignals:\n  transmitters:\n    - issuer: {issuer}\n      audience: doorward\n      keys: {{discovery: true}}\n      target_issuer: keycloak\n      client_credentials: {{client_id: doorward-{delivery}, client_secret: secret-of-doorward, scopes: [ssf.read, ssf.manage]}}\n      {how}\n{admin}",
            issuer = format_args!("{}/realms/shop", keycloak.url),
            how = how.replace(", stream:", "\n      stream:"),
            admin = admin_keys(),
        );
        let edge = Edge::of(Tokens::new(), &config).await;
        let shown = async || {
            crate::api::read(&edge.doorward, "/v1/signals", crate::api::READER).await.body["transmitters"][0].clone()
        };
        crate::support::eventually("the stream is verified", || async {
            let shown = shown().await;
            shown["state"] == "enabled" && shown["verified_at"].is_string()
        })
        .await;
        eprintln!("{delivery}: {}", shown().await);
        let (alice, refresh) = keycloak.login("alice").await;
        let ((bob, _), (carol, _)) = (keycloak.login("bob").await, keycloak.login("carol").await);
        for token in [&alice, &bob, &carol] {
            assert_eq!(edge.ask(token).await, (200, true));
        }
        let path = "/shop/users/id-of-bob/logout";
        let what = format!("Keycloak, {delivery}: an administrator logs the user out");
        edge.ends_soon(&what, &bob, keycloak.administer(path, &json!({}))).await;
        assert_eq!((edge.reason(&alice).await.as_str(), edge.reason(&carol).await.as_str()), ("ok", "ok"));
        let logout = async {
            let fields =
                [("client_id", "shop-web"), ("client_secret", "secret-of-the-shop"), ("refresh_token", &refresh)];
            form(&keycloak.openid("logout"), &fields).await
        };
        edge.ends_soon(&format!("Keycloak, {delivery}: the user logs out"), &alice, logout).await;
        let password = json!({"type": "password", "value": "password", "temporary": false});
        let reset = keycloak.change(reqwest::Method::PUT, "/shop/users/id-of-carol/reset-password", &password);
        edge.ends_soon(&format!("Keycloak, {delivery}: a password is reset"), &carol, reset).await;
        let listed = crate::api::read(&edge.doorward, "/v1/revocations", crate::api::READER).await;
        eprintln!("{delivery}: {}", listed.body["revocations"]);
        // The stream of the other client can be set up beside this one; this one is deleted.
        let server = format!("http://{}", edge.doorward.http);
        let env = [("DOORWARD_ADMIN_KEY", crate::api::OPERATOR), ("DOORWARD_SERVER", &*server)];
        let (code, out, error) = crate::support::doorward::run_with(&env, &["signals", "delete", "signals.1"], "");
        assert!(code == 0 && out.starts_with("deleted: the stream "), "{out}{error}");
        // A sign-in in the second of a sign-out would be refused.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
