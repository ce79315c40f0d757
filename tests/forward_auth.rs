//! Forward-auth: asked directly, by a real nginx and by a real Envoy over HTTP.

use std::net::SocketAddr;

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::proofs::client::Client as ProofClient;
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::nginx::{self, Nginx};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

const RULES: &str = r"
identity: {headers: {x-user-id: user_id, x-user-email: email}}
rules:
  - {name: public, match: {path_prefix: /public}, access: public}
  - {name: logout, match: {path: /auth/logout, methods: [POST]}, access: sign_out, sign_out: {scope: token, then: forward}}
  - {name: bye, match: {path: /bye, methods: [POST]}, access: sign_out, sign_out: {scope: token, then: respond}}
  - {name: shop, match: {path_prefix: /scoped, hosts: [shop.example.com]}, require: {scopes: [admin]}}
  - {name: read, match: {path_prefix: /notes, methods: [GET]}, access: public}
";

/// The headers of Traefik and Caddy, which set them themselves.
const FORWARDED: [&str; 2] = ["x-forwarded-uri", "x-forwarded-method"];

struct Fixture {
    tokens: Tokens,
    doorward: Doorward,
    client: Client,
}

impl Fixture {
    async fn start(more: &str) -> Self {
        let tokens = Tokens::new();
        let doorward = Doorward::start(&tokens.config(&format!("{RULES}{more}"))).await;
        Self { tokens, doorward, client: Client::new() }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.doorward.http))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_tokens_are_proved_by_the_request_that_is_asked_about() {
    let fixture = Fixture::start("").await;
    let (client, http) = (ProofClient::new(), &fixture.doorward);
    let bound = fixture.tokens.with(json!({"cnf": {"jkt": client.thumbprint()}}));
    let ask = |proto: &str, proof: &str| {
        let request = fixture.ask(Method::GET, "/auth").header("authorization", format!("DPoP {bound}"));
        let request = request.header("x-forwarded-uri", "/orders?x=1").header("x-forwarded-method", "POST");
        let request = request.header("x-forwarded-host", "shop.example.com").header("x-forwarded-proto", proto);
        request.header("dpop", proof).send()
    };
    let proof = || client.proof(&bound, "POST", "https://shop.example.com/orders");
    let once = proof();
    let allowed = ask("https", &once).await.unwrap();
    assert_eq!((allowed.status().as_u16(), header(&allowed, "x-user-id")), (200, Some("alice")));
    let removed = header(&allowed, "x-envoy-auth-headers-to-remove").unwrap_or_default();
    assert!(removed.split(',').any(|name| name == "dpop"), "{removed}");
    for (proto, proof) in [("https", once), ("http", proof()), ("", proof()), ("https,http", proof())] {
        let refused = ask(proto, &proof).await.unwrap();
        let challenge = header(&refused, "www-authenticate").unwrap_or_default();
        assert!(refused.status() == 401 && challenge.contains("error=\"invalid_dpop_proof\""), "{proto}: {challenge}");
    }
    eventually("the detail is logged", || async { http.logged("the request's URI is not known: see `proxy.scheme`") })
        .await;
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_proxy_s_request_gets_the_answer_of_check() {
    let fixture = Fixture::start("").await;
    let alice = fixture.tokens.of("alice");
    let convention = |how: &str, method: &Method, path: &str| match how {
        "envoy" => fixture.ask(method.clone(), &format!("/auth{path}")).header("host", "shop.example.com"),
        "nginx" => fixture
            .ask(Method::GET, "/auth")
            .header("host", "shop.example.com")
            .header("x-original-uri", path)
            .header("x-original-method", method.as_str()),
        _ => fixture
            .ask(Method::GET, "/auth")
            .header("x-forwarded-uri", path)
            .header("x-forwarded-method", method.as_str())
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "shop.example.com"),
    };
    for how in ["envoy", "nginx", "traefik"] {
        let ask = async |method: Method, path: &str, token: Option<&str>| {
            let request = convention(how, &method, path).header("x-user-id", "root");
            let request = if let Some(token) = token { request.bearer_auth(token) } else { request };
            request.send().await.unwrap()
        };
        let allowed = ask(Method::GET, "/orders?x=1", Some(&alice)).await;
        assert_eq!(allowed.status(), 200, "{how}");
        assert_eq!(header(&allowed, "x-user-id"), Some("alice"));
        assert_eq!(header(&allowed, "x-user-email"), Some("alice@example.com"));
        let removed = header(&allowed, "x-envoy-auth-headers-to-remove").unwrap_or_default().to_owned();
        assert!(removed.split(',').any(|name| name == "x_user_id"), "{how}: {removed}");
        assert!(!removed.split(',').any(|name| name == "x-user-id"), "set, so not removed");

        let public = ask(Method::GET, "/public/a", None).await;
        assert_eq!((public.status().as_u16(), header(&public, "x-user-id")), (200, None), "{how}");

        let refused = ask(Method::GET, "/orders", None).await;
        assert_eq!(refused.status(), 401, "{how}");
        assert_eq!(header(&refused, "www-authenticate"), Some("Bearer realm=\"doorward\""));
        assert_eq!(header(&refused, "cache-control"), Some("no-store"));
        assert_eq!(refused.json::<Value>().await.unwrap()["reason"], "missing_token");

        // Method and host are those of the original request.
        assert_eq!(ask(Method::GET, "/notes/1", None).await.status(), 200, "{how}");
        assert_eq!(ask(Method::POST, "/notes/1", None).await.status(), 401, "{how}");
        assert_eq!(ask(Method::GET, "/scoped", Some(&alice)).await.status(), 403, "{how}");
        // The path reads as it does in Check.
        assert_eq!(ask(Method::GET, "/public/..;/admin", None).await.status(), 401, "{how}");
        assert_eq!(ask(Method::GET, "/public/%2e%2e/admin", None).await.status(), 401, "{how}");

        let bob = fixture.tokens.of("bob");
        assert_eq!(ask(Method::POST, "/auth/logout", Some(&bob)).await.status(), 200, "{how}");
        let dead = ask(Method::GET, "/orders", Some(&bob)).await;
        assert_eq!(
            (dead.status().as_u16(), dead.json::<Value>().await.unwrap()["reason"].clone()),
            (401, json!("signed_out"))
        );
        assert_eq!(ask(Method::POST, "/bye", Some(&bob)).await.status(), 204, "{how}");
    }
    let checks = Checks::connect(&fixture.doorward.check).await;
    assert!(checks.check(get("/orders").token(&alice)).await.allowed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_named_twice_must_be_named_alike() {
    let fixture = Fixture::start("").await;
    let alice = fixture.tokens.of("alice");
    for (what, request) in [
        ("without a header for the original request", fixture.ask(Method::GET, "/auth")),
        ("Envoy's client", fixture.ask(Method::GET, "/auth/admin").header("x-forwarded-uri", "/public")),
        ("Envoy's client", fixture.ask(Method::POST, "/auth/notes").header("x-forwarded-method", "GET")),
        (
            "nginx's client",
            fixture
                .ask(Method::GET, "/auth")
                .header("x-original-uri", "/admin")
                .header("x-original-method", "GET")
                .header("x-forwarded-uri", "/public"),
        ),
        ("nginx without the method", fixture.ask(Method::GET, "/auth").header("x-original-uri", "/admin")),
    ] {
        let refused = request.bearer_auth(&alice).send().await.unwrap();
        assert_eq!(refused.status(), 400, "{what}");
        assert_eq!(refused.json::<Value>().await.unwrap()["reason"], "bad_request", "{what}");
    }
    for detail in [
        "one of these is needed: the path after /auth, x-original-uri, x-forwarded-uri",
        "the path after /auth and x-forwarded-uri differ",
        "the method of the request to /auth and x-forwarded-method differ",
        "x-original-uri and x-forwarded-uri differ",
        "one of these is needed: the method of the request to /auth, x-original-method, x-forwarded-method",
    ] {
        crate::support::eventually("the refusal is in the log", || async { fixture.doorward.logged(detail) }).await;
    }
    assert!(!fixture.doorward.logged("/admin"), "what a client wrote is not logged");
    let counted = "doorward_checks_total{decision=\"denied\",reason=\"bad_request\",rule=\"default\"}";
    assert_eq!(fixture.doorward.metric(counted).await, Some(5.0));
}

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
    // Caddy accepts no open socket and does not report its port: a recently free one is used.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
                server_uri: {{uri: "http://{doorward}", cluster: doorward, timeout: 2s}}
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

/// Which answers may be kept, and for how long.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_kept_no_longer_than_a_revocation_may_take() {
    let rules = "forward_auth: {cache: 60s}\nrevocation: {store: embedded, max_staleness: 20s}\n\
                 rules:\n\
                 \x20 - {name: open, match: {path: /open}, access: public}\n\
                 \x20 - {name: strict, match: {path: /strict}, max_staleness: 5s}\n\
                 \x20 - {name: loose, match: {path: /loose}, on_stale: allow}\n\
                 \x20 - {name: recent, match: {path: /recent}, require: {max_age: 1h}}\n\
                 \x20 - {name: trial, match: {path: /trial}, require: {scopes: [none]}, enforce: false}\n\
                 \x20 - {name: bye, match: {path: /bye}, access: sign_out}\n\
                 \x20 - {name: refresh, match: {path: /refresh}, access: refresh}\n";
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(rules)).await;
    let now = crate::support::tokens::now();
    let (alice, short) = (tokens.of("alice"), tokens.with(json!({"exp": now + 8})));
    let signed_in = tokens.with(json!({ "auth_time": now - 60 }));
    let client = reqwest::Client::new();
    let ask = async |path: &str, token: Option<&str>| {
        let request = client.get(format!("http://{}/auth{path}", doorward.http)).header("host", "shop.example.com");
        let response = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth).send().await.unwrap();
        let kept = header(&response, "cache-control").unwrap_or_default().to_owned();
        let max_age = kept.strip_prefix("max-age=").map(|seconds| seconds.parse::<u64>().unwrap());
        assert!(max_age.is_some() || kept == "no-store", "{path}: {kept}");
        let varies = header(&response, "vary").unwrap_or_default();
        assert_eq!(varies.split(", ").any(|name| name == "authorization"), max_age.is_some(), "{path}: {varies}");
        (response.status().as_u16(), max_age)
    };
    let (status, kept) = ask("/", Some(&alice)).await;
    assert!(status == 200 && kept.is_some_and(|kept| (1..=20).contains(&kept)), "{kept:?}");
    let (_, kept) = ask("/strict", Some(&alice)).await;
    assert!(kept.is_some_and(|kept| (1..=5).contains(&kept)), "{kept:?}");
    let (_, kept) = ask("/", Some(&short)).await;
    assert!(kept.is_some_and(|kept| (1..=8).contains(&kept)), "{kept:?}");
    assert_eq!(ask("/open", None).await, (200, Some(60)));
    for (path, token) in
        [("/loose", &alice), ("/recent", &signed_in), ("/trial", &alice), ("/refresh", &alice), ("/bye", &short)]
    {
        assert_eq!(ask(path, Some(token)).await, (200, None), "{path}");
    }
    for (path, token) in [("/", None), ("/", Some("x")), ("/", Some(short.as_str()))] {
        assert_eq!(ask(path, token).await, (401, None), "a refusal");
    }
    // Without the setting nothing is kept.
    let doorward = Doorward::start(&tokens.config("")).await;
    let response = client.get(format!("http://{}/auth/", doorward.http)).bearer_auth(&alice).send().await.unwrap();
    assert_eq!((response.status().as_u16(), header(&response, "cache-control")), (200, Some("no-store")));
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_keeps_an_answer_and_gives_it_up_in_time() {
    let Some(binary) = nginx::binary() else { return };
    let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
    let config = "forward_auth: {cache: 3s}\nrevocation: {store: embedded, max_staleness: 3s}\n";
    let doorward = Doorward::start(&tokens.config(config)).await;
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/forward-auth.md")).unwrap();
    let key = page.lines().map(str::trim).find(|line| line.starts_with("proxy_cache_key")).unwrap();
    let server = format!(
        "location / {{ auth_request /_doorward; proxy_pass http://{}; }}
    location = /_doorward {{
      internal;
      proxy_pass http://{}/auth;
      proxy_pass_request_body off;
      proxy_set_header Content-Length \"\";
      proxy_set_header Host $http_host;
      proxy_set_header X-Original-URI $request_uri;
      proxy_set_header X-Original-Method $request_method;
      proxy_cache auth;
      {key}
    }}",
        upstream.address, doorward.http
    );
    let nginx = Nginx::start_with(binary, "proxy_cache_path DIR/auth keys_zone=auth:1m;\n", &server).await;
    let client = reqwest::Client::new();
    let ask = async |path: &str, token: &str| {
        let request = client.get(format!("http://{}{path}", nginx.address)).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
    let checks =
        async || doorward.metric("doorward_checks_total{decision=\"allowed\",reason=\"ok\",rule=\"default\"}").await;
    for _ in 0..5 {
        assert_eq!(ask("/orders", &alice).await, 200);
    }
    let asked = checks().await.unwrap();
    assert!(asked < 5.0, "{asked} of five answers were kept");
    assert_eq!(ask("/orders", &bob).await, 200);
    assert_eq!(ask("/other", &alice).await, 200);
    assert_eq!(checks().await, Some(asked + 2.0), "another user and another path are other questions");
    assert_eq!(ask("/orders", "x").await, 401);
    assert_eq!(doorward.post("/logout", &alice).await.0, 204);
    eventually("what was kept is not used any more", || async { ask("/orders", &alice).await == 401 }).await;
    assert_eq!(ask("/orders", &bob).await, 200);
}
