//! Bound tokens: who has one must prove that it may use it.

mod certificates;
pub mod client;
mod envoy;
mod fleet;
mod node;

use serde_json::{Value, json};

use self::client::{Client, URI, hash};
use crate::api::{OPERATOR, admin_keys};
use crate::support::doorward::{Doorward, run};
use crate::support::grpc::{Checks, Verdict, ask, get};
use crate::support::tokens::Tokens;

const RULES: &str = r"
rules:
  - {name: login, match: {path: /login}, access: public}
  - {name: home, match: {path: /home}, access: optional, bad_token: anonymous}
  - {name: refresh, match: {path: /refresh, methods: [POST]}, access: refresh}
  - {name: bye, match: {path: /bye, methods: [POST]}, access: sign_out, sign_out: {scope: user, then: forward}}
  - {name: trial, match: {path: /trial}, enforce: false}
";

/// A Doorward, a client, and a token that is bound to the client's key.
struct Fixture {
    doorward: Doorward,
    checks: Checks,
    tokens: Tokens,
    client: Client,
    bound: String,
}

impl Fixture {
    async fn start(more: &str) -> Self {
        Self::start_by(&format!("{RULES}{more}"), "").await
    }

    /// `issuer`: more settings of the issuer.
    async fn start_by(more: &str, issuer: &str) -> Self {
        let (tokens, client) = (Tokens::new(), Client::new());
        let config = with_issuer(&tokens.config(more), issuer);
        let doorward = Doorward::start(&config).await;
        let checks = Checks::connect(&doorward.check).await;
        let bound = bound(&tokens, &client);
        Self { doorward, checks, tokens, client, bound }
    }

    async fn counted(&self, result: &str) -> Option<f64> {
        self.doorward.metric(&format!("doorward_proofs_total{{result=\"{result}\"}}")).await
    }
}

/// The configuration with more settings of its issuer.
fn with_issuer(config: &str, more: &str) -> String {
    config.replacen("{name: dev, ", &format!("{{name: dev, {more}"), 1)
}

/// A token of alice that is bound to the client's key.
fn bound(tokens: &Tokens, client: &Client) -> String {
    tokens.with(json!({"cnf": {"jkt": client.thumbprint()}}))
}

#[track_caller]
fn refused(verdict: &Verdict, reason: &str, challenge: &str) {
    assert_eq!((verdict.status, verdict.reason()), (401, reason), "{verdict:?}");
    let shown = verdict.headers.get("www-authenticate").map(String::as_str).unwrap_or_default();
    assert!(shown.starts_with(challenge), "{shown}");
}

#[track_caller]
fn names_alice(verdict: &Verdict) {
    assert_eq!(
        (verdict.status, verdict.headers.get("x-user-id").map(String::as_str)),
        (200, Some("alice")),
        "{verdict:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_token_is_of_no_use_without_its_proof() {
    let fixture = Fixture::start("").await;
    let (client, bound, checks) = (&fixture.client, &fixture.bound, &fixture.checks);
    let plain = fixture.tokens.of("alice");
    names_alice(&checks.check(get("/orders").token(&plain)).await);
    let accepted = checks.check(client.get(bound)).await;
    names_alice(&accepted);
    assert!(accepted.removed.contains(&"dpop".to_owned()), "an upstream could use the proof elsewhere");

    let dpop = format!("DPoP {bound}");
    let missing = "DPoP realm=\"doorward\", error=\"invalid_dpop_proof\"";
    refused(&checks.check(get("/orders").token(bound)).await, "proof_missing", missing);
    refused(&checks.check(get("/orders").header("authorization", &dpop)).await, "proof_missing", missing);
    let proof = || client.proof(bound, "GET", URI);
    let downgraded = checks.check(get("/orders").token(bound).header("dpop", proof())).await;
    refused(&downgraded, "proof_invalid", missing);
    let body: Value = serde_json::from_str(&downgraded.body).unwrap();
    assert_eq!((&body["error"], &body["reason"]), (&json!("invalid_dpop_proof"), &json!("proof_invalid")));
    assert!(downgraded.headers["www-authenticate"].contains("algs=\"RS256 "), "{downgraded:?}");

    // The scheme declares the token as bound, and it is not.
    let proof = client.proof(&plain, "GET", URI);
    let ask = get("/orders").header("authorization", format!("DPoP {plain}")).header("dpop", proof);
    refused(&checks.check(ask).await, "proof_invalid", missing);
    // An unknown binding cannot be proved.
    for cnf in [json!({"kid": "k"}), json!({}), json!("x"), json!({"jkt": "x"})] {
        let token = fixture.tokens.with(json!({"cnf": cnf}));
        let error = "Bearer realm=\"doorward\", error=\"invalid_token\"";
        refused(&checks.check(get("/orders").token(&token)).await, "proof_invalid", error);
    }
    names_alice(&checks.check(get("/orders").token(&fixture.tokens.with(json!({"cnf": null})))).await);

    // Other errors of a token with this scheme are answered with the scheme.
    let expired =
        fixture.tokens.with(json!({"exp": 1_700_000_000, "iat": 1_699_999_000, "cnf": {"jkt": client.thumbprint()}}));
    let error = "DPoP realm=\"doorward\", error=\"invalid_token\"";
    refused(&checks.check(client.get(&expired)).await, "expired", error);
    assert_eq!(fixture.counted("accepted").await, Some(1.0));
    assert_eq!((fixture.counted("missing").await, fixture.counted("invalid").await), (Some(2.0), Some(6.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_used_once() {
    let fixture = Fixture::start("").await;
    let (client, checks) = (&fixture.client, &fixture.checks);
    let ask = client.get(&fixture.bound);
    names_alice(&checks.check(ask.clone()).await);
    refused(&checks.check(ask.clone()).await, "proof_invalid", "DPoP realm=\"doorward\", error=\"invalid_dpop_proof\"");
    // Another signature over the same id is the same proof.
    let with_id = |token: &str| {
        let claims = json!({"htm": "GET", "htu": URI, "ath": hash(token), "jti": "one"});
        let proof = client.proof_with(&json!({}), &claims);
        get("/orders").header("authorization", format!("DPoP {token}")).header("dpop", proof)
    };
    names_alice(&checks.check(with_id(&fixture.bound)).await);
    assert_eq!(checks.check(with_id(&fixture.bound)).await.reason(), "proof_invalid");
    assert_eq!(checks.check(with_id(&bound(&fixture.tokens, client))).await.reason(), "proof_invalid");
    assert_eq!(fixture.counted("replayed").await, Some(3.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn explaining_uses_no_proof_up() {
    let fixture = Fixture::start(&admin_keys()).await;
    let (client, checks, bound) = (&fixture.client, &fixture.checks, &fixture.bound);
    let explain = async |proof: &str| {
        let headers = json!({"authorization": format!("DPoP {bound}"), "dpop": proof});
        let body = json!({"path": "/orders", "host": "shop.example.com", "scheme": "http", "headers": headers});
        let request = reqwest::Client::new().post(format!("http://{}/v1/explain", fixture.doorward.http));
        request.bearer_auth(OPERATOR).json(&body).send().await.unwrap().json::<Value>().await.unwrap()
    };
    let check = |explained: &Value| {
        let checks = explained["checks"].as_array().unwrap().iter();
        checks.into_iter().find(|check| check["check"] == "proof").cloned().unwrap()
    };
    let proof = client.proof(bound, "GET", URI);
    for _ in 0..2 {
        let explained = explain(&proof).await;
        assert_eq!(
            (&explained["decision"], &check(&explained)["passed"]),
            (&json!("allowed"), &json!(true)),
            "{explained}"
        );
    }
    let ask = get("/orders").header("authorization", format!("DPoP {bound}")).header("dpop", &proof);
    names_alice(&checks.check(ask).await);
    let explained = explain(&proof).await;
    let proof_check = check(&explained);
    assert_eq!(
        (&explained["reason"], &proof_check["got"]),
        (&json!("proof_invalid"), &json!("replayed")),
        "{explained}"
    );
    assert_eq!(explained["detail"], "the proof was used before (`jti`)");
    assert!(!explained.to_string().contains(&proof), "a proof is a credential");

    // The command has no memory of proofs, and decides as if each were new.
    let config = fixture.doorward.dir.path().join("doorward.yaml");
    let proof = client.proof(bound, "GET", "https://shop.example.com/orders");
    let (authorization, dpop) = (format!("authorization: DPoP {bound}"), format!("dpop: {proof}"));
    let arguments =
        ["explain", "--config", config.to_str().unwrap(), "--host", "shop.example.com", "--path", "/orders"];
    let with_proof = [&arguments[..], &["--header", &authorization, "--header", &dpop]].concat();
    let (code, shown, _) = run(&[&with_proof[..], &["--expect", "allow"]].concat(), "");
    assert!(code == 0 && shown.contains("✓ proof"), "{shown}");
    let (code, shown, _) = run(&[&arguments[..], &["--expect", "deny", bound]].concat(), "");
    assert!(code == 0 && shown.contains("✗ proof") && shown.contains("proof_missing"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_access_asks_for_the_proof_in_its_way() {
    let fixture = Fixture::start("").await;
    let (client, checks, bound) = (&fixture.client, &fixture.checks, &fixture.bound);
    let bare = |method: &str, path: &str| ask(method, path).header("authorization", format!("DPoP {bound}"));
    // A public route may be the authorization server's, which verifies proofs itself.
    let public = checks.check(client.ask("GET", "/login", bound)).await;
    assert!(public.allowed() && !public.removed.contains(&"dpop".to_owned()));
    // A token without a proof yields no identity.
    let anonymous = checks.check(bare("GET", "/home").header("dpop", "x")).await;
    assert!(anonymous.allowed() && anonymous.removed.contains(&"x-user-id".to_owned()), "{anonymous:?}");
    assert!(anonymous.removed.contains(&"dpop".to_owned()) && anonymous.removed.contains(&"authorization".to_owned()));
    names_alice(&checks.check(client.ask("GET", "/home", bound)).await);
    let trial = checks.check(bare("GET", "/trial")).await;
    assert!(trial.allowed() && trial.removed.contains(&"x-user-id".to_owned()) && trial.reason() == "proof_missing");
    let replayed = client.ask("GET", "/trial", bound);
    names_alice(&checks.check(replayed.clone()).await);
    let trial = checks.check(replayed).await;
    assert!(trial.allowed() && trial.removed.contains(&"x-user-id".to_owned()) && trial.reason() == "proof_invalid");
    // The authorization server binds the new token to the key of the proof.
    let refreshed = checks.check(client.ask("POST", "/refresh", bound)).await;
    names_alice(&refreshed);
    assert!(!refreshed.removed.contains(&"dpop".to_owned()));
    assert_eq!(checks.check(bare("POST", "/refresh")).await.reason(), "proof_missing");
    // The finder of a token must not sign its user out everywhere.
    assert_eq!(checks.check(bare("POST", "/bye")).await.reason(), "proof_missing");
    names_alice(&checks.check(client.get(bound)).await);
    names_alice(&checks.check(client.ask("POST", "/bye", bound)).await);
    assert_eq!(checks.check(client.get(bound)).await.reason(), "signed_out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_can_be_asked_about_and_revoked_without_its_proof() {
    let fixture = Fixture::start(&admin_keys()).await;
    let (client, checks, bound) = (&fixture.client, &fixture.checks, &fixture.bound);
    let form = async |path: &str| {
        let request = reqwest::Client::new().post(format!("http://{}{path}", fixture.doorward.http));
        let request = request.header("content-type", "application/x-www-form-urlencoded").bearer_auth(OPERATOR);
        request.body(format!("token={bound}")).send().await.unwrap()
    };
    let said: Value = form("/oauth2/introspect").await.json().await.unwrap();
    assert_eq!((&said["active"], &said["token_type"]), (&json!(true), &json!("DPoP")));
    assert_eq!(said["cnf"]["jkt"], client.thumbprint(), "who asks must know what to have proved");
    // Its own logout is a use of the token.
    let logout = format!("http://{}/logout", fixture.doorward.http);
    let post = || reqwest::Client::new().post(&logout).header("authorization", format!("DPoP {bound}"));
    assert_eq!(post().send().await.unwrap().status(), 401);
    assert_eq!(form("/oauth2/revoke").await.status(), 200);
    assert_eq!(checks.check(client.get(bound)).await.reason(), "signed_out");
    let proved = post().header("dpop", client.proof(bound, "POST", &logout)).send().await.unwrap();
    assert_eq!(proved.status(), 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn proof_of_possession_is_set_per_issuer() {
    let required = Fixture::start_by("", "proof: required, ").await;
    let plain = required.tokens.of("alice");
    let both = "Bearer realm=\"doorward\", DPoP realm=\"doorward\", algs=\"";
    refused(&required.checks.check(get("/")).await, "missing_token", both);
    let error = "Bearer realm=\"doorward\", error=\"invalid_token\"";
    refused(&required.checks.check(get("/").token(&plain)).await, "proof_missing", error);
    names_alice(&required.checks.check(required.client.get(&required.bound)).await);

    let ignored = Fixture::start_by("", "proof: ignore, ").await;
    let ask = get("/orders").header("authorization", format!("DPoP {}", ignored.bound)).header("dpop", "x");
    let verdict = ignored.checks.check(ask).await;
    names_alice(&verdict);
    assert!(!verdict.removed.contains(&"dpop".to_owned()), "the upstream checks it");
    refused(&ignored.checks.check(get("/")).await, "missing_token", "Bearer realm=\"doorward\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_cookie_is_proved_as_well() {
    let fixture = Fixture::start("token: {from: [{cookie: session}, {header: authorization}], forward: false}\n").await;
    let (client, checks, bound) = (&fixture.client, &fixture.checks, &fixture.bound);
    let cookie = || get("/orders").header("cookie", format!("session={bound}"));
    assert_eq!(checks.check(cookie()).await.reason(), "proof_missing");
    names_alice(&checks.check(cookie().header("dpop", client.proof(bound, "GET", URI))).await);
    let behind_scheme = checks.check(client.get(bound)).await;
    names_alice(&behind_scheme);
    assert!(behind_scheme.removed.contains(&"authorization".to_owned()), "it is withheld behind either scheme");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_is_asked_for_and_known_again() {
    let fixture = Fixture::start_by("", "dpop: {nonce: true, window: 10m}, ").await;
    let (client, checks, bound) = (&fixture.client, &fixture.checks, &fixture.bound);
    let with_nonce = |nonce: &Value, iat: i64| {
        let claims = json!({"htm": "GET", "htu": URI, "ath": hash(bound), "nonce": nonce, "iat": iat});
        let proof = client.proof_with(&json!({}), &claims);
        get("/orders").header("authorization", format!("DPoP {bound}")).header("dpop", proof)
    };
    let challenge = "DPoP realm=\"doorward\", error=\"use_dpop_nonce\"";
    let asked = checks.check(client.get(bound)).await;
    refused(&asked, "proof_invalid", challenge);
    let nonce = json!(asked.headers["dpop-nonce"]);
    names_alice(&checks.check(with_nonce(&nonce, 1)).await); // The client's clock does not matter.
    refused(&checks.check(with_nonce(&json!("made up"), 1)).await, "proof_invalid", challenge);
    assert_eq!(fixture.counted("nonce").await, Some(2.0));
    // Another fault brings no nonce, which a client would try again with.
    let bearer = checks.check(get("/orders").token(bound)).await;
    assert_eq!((bearer.reason(), bearer.headers.get("dpop-nonce")), ("proof_missing", None));
}
