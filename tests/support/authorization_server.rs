//! An authorization server that is asked about tokens (RFC 7662), and counts the questions.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};

use super::tokens::now;

pub const CLIENT_ID: &str = "https://doorward.example";
pub const CLIENT_SECRET: &str = "s3cret:with/odd+characters%";

#[derive(Default)]
struct TokenState {
    by_token: HashMap<String, String>,
    questions: Vec<String>,
    delay: Duration,
    /// Instead of an answer; 200 answers.
    status: u16,
    location: Option<String>,
}

pub struct AuthorizationServer {
    pub address: SocketAddr,
    said: Arc<Mutex<TokenState>>,
    server: tokio::task::JoinHandle<()>,
}

impl AuthorizationServer {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let said = Arc::new(Mutex::new(TokenState { status: 200, ..TokenState::default() }));
        let app = Router::new().route("/introspect", post(answer)).with_state(said.clone());
        #[expect(clippy::disallowed_methods, reason = "a test's own server, ended with it")]
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, said, server }
    }

    /// The issuer's settings, to stand before its `keys`.
    pub fn settings(&self, more: &str) -> String {
        // Enough for an answer on a busy machine; a test of the timeout sets its own.
        let timeout = if more.contains("timeout") { "" } else { ", timeout: 20s" };
        format!(
            "introspection: {{url: \"http://{}/introspect\", client_id: \"{CLIENT_ID}\", client_secret: \"{CLIENT_SECRET}\"{timeout}{more}}}",
            self.address
        )
    }

    /// A valid response for an active token of a user.
    pub fn active(user: &str) -> Value {
        json!({
            "active": true, "iss": doorward::dev::ISSUER, "aud": doorward::dev::AUDIENCE, "sub": user,
            "email": format!("{user}@example.com"), "client_id": "shop-web", "scope": "read write",
            "jti": format!("{:032x}", rand::random::<u128>()), "sid": format!("session-of-{user}"),
            "token_type": "Bearer", "iat": now() - 60, "exp": now() + 600,
        })
    }

    pub fn says(&self, token: &str, response: &Value) {
        self.says_text(token, &response.to_string());
    }

    pub fn says_text(&self, token: &str, response: &str) {
        self.said.lock().unwrap().by_token.insert(token.to_owned(), response.to_owned());
    }

    pub fn takes(&self, delay: Duration) {
        self.said.lock().unwrap().delay = delay;
    }

    pub fn fails(&self, status: u16) {
        self.said.lock().unwrap().status = status;
    }

    pub fn redirects(&self, location: &str) {
        self.said.lock().unwrap().location = Some(location.to_owned());
    }

    /// The tokens that were asked about.
    pub fn questions(&self) -> Vec<String> {
        self.said.lock().unwrap().questions.clone()
    }

    pub fn questions_about(&self, token: &str) -> usize {
        self.questions().iter().filter(|asked| *asked == token).count()
    }
}

impl Drop for AuthorizationServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    State(said): State<Arc<Mutex<TokenState>>>,
    headers: HeaderMap,
    body: String,
) -> (StatusCode, HeaderMap, String) {
    let form: HashMap<_, _> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let token = form["token"].clone();
    let (delay, status, location, response) = {
        let mut said = said.lock().unwrap();
        said.questions.push(token.clone());
        (said.delay, said.status, said.location.clone(), said.by_token.get(&token).cloned())
    };
    tokio::time::sleep(delay).await;
    let mut answered = HeaderMap::new();
    if let Some(location) = location {
        answered.insert("location", location.parse().unwrap());
        return (StatusCode::TEMPORARY_REDIRECT, answered, String::new());
    }
    if status != 200 {
        return (StatusCode::from_u16(status).unwrap(), answered, "no".to_owned());
    }
    if !authenticated(&headers) || form["token_type_hint"] != "access_token" {
        return (StatusCode::UNAUTHORIZED, answered, json!({"error": "invalid_client"}).to_string());
    }
    answered.insert("content-type", "application/json".parse().unwrap());
    (StatusCode::OK, answered, response.unwrap_or_else(|| json!({"active": false}).to_string()))
}

/// RFC 6749 section 2.3.1: id and secret are form-encoded before they are joined.
fn authenticated(headers: &HeaderMap) -> bool {
    use base64::Engine;
    let field = headers["authorization"].to_str().unwrap().strip_prefix("Basic ").unwrap();
    let pair = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(field).unwrap()).unwrap();
    let (id, secret) = pair.split_once(':').unwrap();
    let decode = |text: &str| url::form_urlencoded::parse(text.as_bytes()).next().unwrap().0.into_owned();
    decode(id) == CLIENT_ID && decode(secret) == CLIENT_SECRET
}
