//! Forward-auth: asked directly, by a real nginx and by a real Envoy over HTTP.

mod kept;
mod proxies;

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::proofs::client::Client as ProofClient;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;

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
        eventually("the refusal is in the log", || async { fixture.doorward.logged(detail) }).await;
    }
    assert!(!fixture.doorward.logged("/admin"), "what a client wrote is not logged");
    let counted = "doorward_checks_total{decision=\"denied\",reason=\"bad_request\",rule=\"default\"}";
    assert_eq!(fixture.doorward.metric(counted).await, Some(5.0));
}
