//! Accounts answers introspection requests about each token (RFC 7662), instead of reporting sign-outs to Doorward.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::support::Program;
use crate::support::TempDir;
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};

const SECRET: &str = "the-secret-of-the-client-doorward-0123456789";

/// Accounts without a proxy: its sign-outs are not reported.
pub struct Accounts {
    program: Program,
    _files: TempDir,
}

impl Accounts {
    pub async fn start() -> Self {
        let files = TempDir::new();
        let (secret, database) = (files.path().join("secret"), files.path().join("accounts.db"));
        std::fs::write(&secret, SECRET).unwrap();
        let database = format!("sqlite:{}", database.display());
        let args = ["--database", &database, "--introspection-secret-file", secret.to_str().unwrap()];
        Self { program: Program::start(&[&["accounts"], &args[..]].concat()).await, _files: files }
    }

    /// Doorward's issuer, with or without `introspection`.
    pub fn issuer(&self, introspection: &str) -> String {
        let jwks = self.program.url("/.well-known/jwks.json");
        format!(
            "issuers: [{{name: main, issuer: https://accounts.example, audiences: [shop], {introspection} keys: {{jwks_url: \"{jwks}\"}}}}]\n"
        )
    }

    /// Asks about every token; answers are kept for this long.
    pub fn asked(&self, cache: &str) -> String {
        let url = self.program.url("/oauth2/introspect");
        format!(
            "introspection: {{url: \"{url}\", client_id: doorward, client_secret: {SECRET}, cache: {cache}, when: always}},"
        )
    }

    /// The answer to a login.
    pub async fn log_in(&self, user: &str) -> Value {
        let password = if user == "alice" { "wonderland" } else { "builder" };
        let request = reqwest::Client::new().post(self.program.url("/auth/login"));
        let response = request.json(&json!({"login": user, "password": password})).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    pub async fn access_token(&self, user: &str) -> String {
        self.log_in(user).await["access_token"].as_str().unwrap().to_owned()
    }

    /// Bypasses Doorward, which does not see this.
    async fn log_out(&self, token: &str) {
        let claims = claims(token);
        let identity = json!({"user_id": claims["sub"], "session_id": claims["sid"]});
        let request = reqwest::Client::new().post(self.program.url("/auth/logout"));
        let identity = URL_SAFE_NO_PAD.encode(identity.to_string());
        assert_eq!(request.header("x-identity", identity).send().await.unwrap().status(), 204);
    }

    async fn introspect(&self, secret: &str, body: &str) -> (u16, Value) {
        let request = reqwest::Client::new().post(self.program.url("/oauth2/introspect"));
        let request = request.basic_auth("doorward", Some(secret)).body(body.to_owned());
        let response = request.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_in_the_database_is_refused_when_accounts_is_asked() {
    let accounts = Accounts::start().await;
    let config = format!("revocation: {{store: embedded}}\n{}", accounts.issuer(&accounts.asked("0s")));
    let doorward = Doorward::start(&config).await;
    let checks = Checks::connect(&doorward.check).await;
    let (token, other) = (accounts.access_token("alice").await, accounts.access_token("alice").await);
    for token in [&token, &other] {
        let verdict = checks.check(get("/").token(token)).await;
        assert_eq!((verdict.reason(), verdict.headers["x-user-id"].as_str()), ("ok", "alice"));
    }
    accounts.log_out(&token).await;
    let verdict = checks.check(get("/").token(&token)).await;
    assert_eq!((verdict.status, verdict.reason()), (401, "token_inactive"));
    assert!(checks.check(get("/").token(&other)).await.allowed());
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_introspects_live_tokens_for_its_client_only() {
    let accounts = Accounts::start().await;
    let tokens = accounts.log_in("bob").await;
    let (token, refresh) = (tokens["access_token"].as_str().unwrap(), tokens["refresh_token"].as_str().unwrap());

    let (status, said) = accounts.introspect(SECRET, &format!("token={token}&token_type_hint=access_token")).await;
    let mut expected = claims(token);
    expected["active"] = json!(true);
    expected["token_type"] = json!("Bearer");
    assert_eq!((status, said), (200, expected));

    for secret in ["", "the-secret-of-the-client-doorward-012345678", "x"] {
        let (status, said) = accounts.introspect(secret, &format!("token={token}")).await;
        assert_eq!((status, &said["error"], said.get("active")), (401, &json!("invalid_client"), None));
    }
    let (status, said) = accounts.introspect(SECRET, "hint=none").await;
    assert_eq!((status, &said["error"]), (400, &json!("invalid_request")));

    let (signed, _) = token.rsplit_once('.').unwrap();
    let (forged, unsigned) = (format!("{signed}.AAAA"), format!("{signed}."));
    for other in [refresh, "", "a.b.c", &forged, &unsigned] {
        let (status, said) = accounts.introspect(SECRET, &format!("token={other}")).await;
        assert_eq!((status, said), (200, json!({"active": false})), "{other}");
    }
    accounts.log_out(token).await;
    let (_, said) = accounts.introspect(SECRET, &format!("token={token}")).await;
    assert_eq!(said, json!({"active": false}));
}
