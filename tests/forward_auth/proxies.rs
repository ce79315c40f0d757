//! Behind a real nginx, Caddy, and Envoy over HTTP.

use std::net::SocketAddr;

use reqwest::Method;
use serde_json::{Value, json};

use super::{FORWARDED, Fixture, header};
use crate::support::envoy::{self, Envoy};
use crate::support::nginx::{self, Nginx};
use crate::support::upstream::Upstream;

/// The request that the upstream received through a proxy, from a client that spoofs root.
struct Proxied<'a> {
    fixture: &'a Fixture,
    proxy: SocketAddr,
}

impl Proxied<'_> {
    const SPOOFED: [&'static str; 6] =
        ["x-user-id", "X_User_Id", "x.user.id", "x-user-email", "x_user-email", "x-doorward-stale"];

    async fn send(&self, method: Method, path: &str, token: Option<&str>, more: &[(&str, &str)]) -> (u16, Value) {
        let mut request = self.fixture.client.request(method, format!("http://{}{path}", self.proxy));
        for name in Self::SPOOFED {
            request = request.header(name, "root");
        }
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        assert!(
            !response.headers().contains_key("x-envoy-auth-headers-to-remove"),
            "what to remove is told to clients"
        );
        (status, response.json().await.unwrap_or_default())
    }

    /// The requirements behind any proxy; `bad_request` is its form of a 400, `foreign` are the headers by which
    /// other proxies describe the request.
    async fn decides(&self, upstream: &Upstream, bad_request: u16, foreign: [&str; 2]) {
        let alice = self.fixture.tokens.of("alice");
        for (path, token, user) in [
            ("/orders?x=1", Some(alice.as_str()), json!("alice")),
            ("/public/x", None, Value::Null),
            ("/public/x", Some(alice.as_str()), Value::Null),
        ] {
            let (status, seen) = self.send(Method::GET, path, token, &[]).await;
            assert_eq!((status, &seen["path"]), (200, &json!(path)), "{seen}");
            assert_eq!(seen["headers"]["x-user-id"], user, "{path}: {seen}");
            assert!(!seen["headers"].to_string().contains("root"), "{path}: {seen}");
            assert!(!seen["headers"].to_string().contains("headers-to-remove"), "an answer to the proxy alone: {seen}");
        }
        let before = upstream.seen();
        assert_eq!(self.send(Method::GET, "/orders", None, &[]).await.0, 401);
        assert_eq!(self.send(Method::GET, "/scoped", Some(&alice), &[("host", "shop.example.com")]).await.0, 403);
        assert_eq!(self.send(Method::POST, "/notes/1", None, &[]).await.0, 401);
        for foreign in foreign {
            let (status, _) = self.send(Method::GET, "/orders", Some(&alice), &[(foreign, "/public")]).await;
            assert_eq!(status, bad_request, "{foreign}");
        }
        assert_eq!(upstream.seen(), before, "a refused request does not arrive");

        assert_eq!(self.send(Method::POST, "/auth/logout", Some(&alice), &[]).await.0, 200);
        assert_eq!(upstream.seen(), before + 1, "revoked, then forwarded");
        assert_eq!(self.send(Method::GET, "/orders", Some(&alice), &[]).await.0, 401);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx() {
    let Some(binary) = nginx::binary() else { return };
    let fixture = Fixture::start("").await;
    let upstream = Upstream::start().await;
    let server = format!(
        "
    location / {{
      auth_request /_doorward;
      auth_request_set $user_id $upstream_http_x_user_id;
      auth_request_set $user_email $upstream_http_x_user_email;
      auth_request_set $stale $upstream_http_x_doorward_stale;
      proxy_set_header X-User-Id $user_id;
      proxy_set_header X-User-Email $user_email;
      proxy_set_header X-Doorward-Stale $stale;
      proxy_pass http://{};
    }}
    location = /_doorward {{
      internal;
      proxy_pass http://{}/auth;
      proxy_pass_request_body off;
      proxy_set_header Content-Length \"\";
      proxy_set_header Host $http_host;
      proxy_set_header X-Original-URI $request_uri;
      proxy_set_header X-Original-Method $request_method;
    }}",
        upstream.address, fixture.doorward.http
    );
    let nginx = Nginx::start(binary, &server).await;
    let proxied = Proxied { fixture: &fixture, proxy: nginx.address };
    proxied.decides(&upstream, 500, FORWARDED).await;
    // nginx takes any 2xx as permission: the token is revoked, and the request goes on nevertheless.
    let (bob, before) = (fixture.tokens.of("bob"), upstream.seen());
    assert_eq!(proxied.send(Method::POST, "/bye", Some(&bob), &[]).await.0, 200);
    assert_eq!(upstream.seen(), before + 1);
    assert_eq!(proxied.send(Method::GET, "/orders", Some(&bob), &[]).await.0, 401);
    // The client's challenge survives.
    let refused = fixture.client.get(format!("http://{}/orders", nginx.address)).send().await.unwrap();
    assert_eq!(header(&refused, "www-authenticate"), Some("Bearer realm=\"doorward\""));
}

/// With the binary that CADDY names (2.11.2 or later): the tests do not download one.
#[tokio::test(flavor = "multi_thread")]
async fn behind_caddy() {
    let Some(binary) = std::env::var_os("CADDY").filter(|binary| !binary.is_empty()) else {
        eprintln!("SKIPPED: CADDY names no binary of Caddy");
        return;
    };
    let fixture = Fixture::start("").await;
    let upstream = Upstream::start().await;
    let dir = crate::support::TempDir::new();
    // Caddy accepts no open socket and does not report its port.
    let address = SocketAddr::from(([127, 0, 0, 1], crate::ledger::support::free_port()));
    let (doorward, upstream_address) = (fixture.doorward.http, upstream.address);
    let config = format!(
        "{{
  admin off
  auto_https off
  storage file_system {dir}
}}
http://:{port} {{
  bind 127.0.0.1
  route {{
    request_header -X_User_Id
    request_header -X.User.Id
    request_header -X_user-Email
    forward_auth {doorward} {{
      uri /auth
      copy_headers X-User-Id X-User-Email X-Doorward-Stale
    }}
    reverse_proxy {upstream_address}
  }}
}}
",
        dir = dir.path().display(),
        port = address.port(),
    );
    let file = dir.path().join("Caddyfile");
    std::fs::write(&file, config).unwrap();
    let mut caddy = std::process::Command::new(binary);
    caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file).env("HOME", dir.path());
    let null = std::process::Stdio::null;
    let _caddy = crate::support::Process(caddy.stdin(null()).stdout(null()).stderr(null()).spawn().unwrap());
    crate::support::eventually("Caddy listens", || async { tokio::net::TcpStream::connect(address).await.is_ok() })
        .await;
    let proxied = Proxied { fixture: &fixture, proxy: address };
    proxied.decides(&upstream, 400, ["x-original-uri", "x-original-method"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_envoy_s_http_ext_authz() {
    let Some(binary) = envoy::binary() else { return };
    let fixture = Fixture::start("token: {forward: false}\n").await;
    let upstream = Upstream::start().await;
    let envoy = Envoy::start_text(&binary, &envoy_config(fixture.doorward.http, upstream.address)).await;
    let proxied = Proxied { fixture: &fixture, proxy: envoy.address };
    proxied.decides(&upstream, 400, FORWARDED).await;
    for path in ["/livez", "/metrics", "/openapi.json"] {
        assert_eq!(proxied.send(Method::GET, path, None, &[]).await.0, 401, "{path}");
    }
    let (bob, before) = (fixture.tokens.of("bob"), upstream.seen());
    let (status, seen) = proxied.send(Method::GET, "/orders", Some(&bob), &[]).await;
    assert_eq!((status, &seen["headers"]["authorization"]), (200, &Value::Null), "the token is taken off");
    assert_eq!(proxied.send(Method::POST, "/bye", Some(&bob), &[]).await.0, 204);
    assert_eq!(upstream.seen(), before + 1, "answered by Doorward");
    let (status, body) = proxied.send(Method::GET, "/orders", Some(&bob), &[]).await;
    assert_eq!((status, &body["reason"]), (401, &json!("signed_out")));
    fixture.doorward.process.signal("KILL");
    let (status, _) = proxied.send(Method::GET, "/public/x", None, &[]).await;
    assert_eq!(status, 503, "without Doorward nobody passes");
}

/// Envoy sends the check to one path with the original request in headers; it applies the removals nevertheless.
#[tokio::test(flavor = "multi_thread")]
async fn behind_envoy_with_a_path_of_its_own() {
    let Some(binary) = envoy::binary() else { return };
    let fixture = Fixture::start("token: {forward: false}\n").await;
    let upstream = Upstream::start().await;
    let path = "path_override: /auth
                authorization_request:
                  headers_to_add:
                  - {key: x-original-uri, value: \"%REQ(:PATH)%\"}
                  - {key: x-original-method, value: \"%REQ(:METHOD)%\"}";
    let config = envoy_config(fixture.doorward.http, upstream.address);
    let envoy = Envoy::start_text(&binary, &config.replace("path_prefix: /auth", path)).await;
    let proxied = Proxied { fixture: &fixture, proxy: envoy.address };
    proxied.decides(&upstream, 400, FORWARDED).await;
    let bob = fixture.tokens.of("bob");
    let (status, seen) = proxied.send(Method::GET, "/orders", Some(&bob), &[]).await;
    assert_eq!((status, &seen["headers"]["authorization"]), (200, &Value::Null), "the token is taken off");
    // Doorward's own endpoints are paths like any other.
    for path in ["/livez", "/metrics", "/openapi.json"] {
        assert_eq!(proxied.send(Method::GET, path, None, &[]).await.0, 401, "{path}");
    }
}

fn envoy_config(doorward: SocketAddr, upstream: SocketAddr) -> String {
    let cluster = |name: &str, address: SocketAddr| {
        format!(
            "  - name: {name}
    connect_timeout: 1s
    type: STATIC
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]\n",
            address.port()
        )
    };
    format!(
        r#"
admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}
static_resources:
  listeners:
  - name: edge
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: edge
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: upstream}}}}]
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              failure_mode_allow: false
              status_on_error: {{code: ServiceUnavailable}}
              # Everything, as the careless would: a client's x-forwarded-uri arrives.
              allowed_headers: {{patterns: [{{safe_regex: {{regex: ".*"}}}}]}}
              http_service:
                server_uri: {{uri: "http://{doorward}", cluster: doorward, timeout: 20s}}
                path_prefix: /auth
                authorization_response:
                  allowed_upstream_headers:
                    patterns: [{{exact: x-user-id}}, {{exact: x-user-email}}, {{exact: x-doorward-stale}}]
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
{}{}"#,
        cluster("doorward", doorward),
        cluster("upstream", upstream)
    )
}
