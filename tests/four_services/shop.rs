//! Accounts and a service, each behind a real Envoy, and the Doorward that both ask.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::support::Program;
use crate::api::{OPERATOR, Reply, admin_keys, send};
use crate::ledger::support::{RedisServer, free_port};
use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;

pub struct Shop {
    pub accounts: Program,
    pub doorward: Doorward,
    pub redis: RedisServer,
    pub gateway: Envoy,
    pub service: Envoy,
    _service: Program,
}

/// The answer to a login or a refresh.
#[derive(Clone)]
pub struct Tokens {
    pub access: String,
    pub refresh: String,
}

impl Shop {
    /// `None` without Envoy; `more` are further arguments of Accounts.
    pub async fn open(database: &str, more: &[&str]) -> Option<Self> {
        let envoy = envoy::binary()?;
        let redis = RedisServer::start(&[]).await;
        let (port, redis_url) = (free_port(), redis.url());
        let doorward = Doorward::launch(&config(port, &redis_url)).await;
        let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://{}", doorward.http));
        let key_file = doorward.dir.path().join("admin-key");
        std::fs::write(&key_file, OPERATOR).unwrap();
        let mut args = vec!["accounts", "--listen", &listen, "--database", database, "--doorward", &url];
        args.extend(["--admin-key-file", key_file.to_str().unwrap(), "--redis", &redis_url]);
        args.extend(more);
        let accounts = Program::start(&args).await;
        doorward.ready().await;
        let service = Program::start(&["service", "--name", "A"]).await;
        Some(Self {
            gateway: Envoy::start(&envoy, "edge-tcp.yaml", &doorward.check, accounts.address).await,
            service: Envoy::start(&envoy, "edge-tcp.yaml", &doorward.check, service.address).await,
            _service: service,
            accounts,
            doorward,
            redis,
        })
    }

    /// Through Envoy, as the page does.
    pub async fn post(&self, path: &str, token: Option<&str>, body: Value) -> Reply {
        let mut request = reqwest::Client::new().post(self.gateway.url(path)).json(&body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        send(request).await
    }

    pub async fn try_login(&self, login: &str, password: &str) -> Reply {
        self.post("/auth/login", None, json!({"login": login, "password": password})).await
    }

    pub async fn login(&self, login: &str, password: &str) -> Tokens {
        tokens(&self.try_login(login, password).await)
    }

    pub async fn try_refresh(&self, tokens: &Tokens) -> Reply {
        // With the revoked access token, like a client that always sends it.
        self.post("/auth/refresh", Some(&tokens.access), json!({"refresh_token": tokens.refresh})).await
    }

    pub async fn refresh(&self, old: &Tokens) -> Tokens {
        tokens(&self.try_refresh(old).await)
    }

    /// The answer of the service, or of Doorward in its place.
    pub async fn call(&self, token: &str) -> Reply {
        send(reqwest::Client::new().get(self.service.url("/a/orders")).bearer_auth(token)).await
    }

    #[track_caller]
    pub fn works(&self, what: &'static str, token: &Tokens) -> impl Future<Output = ()> {
        let call = self.call(&token.access);
        async move {
            let reply = call.await;
            assert_eq!((reply.status, reply.body["service"].as_str()), (200, Some("A")), "{what}: {reply:?}");
        }
    }

    pub async fn is_refused(&self, what: &str, token: &Tokens, reason: &str) {
        let reply = self.call(&token.access).await;
        assert_eq!((reply.status, reply.body["reason"].as_str()), (401, Some(reason)), "{what}: {reply:?}");
    }

    /// The whole: works before, `event` is answered 204, refused after.
    pub async fn ends(&self, what: &'static str, token: &Tokens, reason: &str, path: &str, by: &Tokens, body: Value) {
        self.works(what, token).await;
        let began = Instant::now();
        let reply = self.post(path, Some(&by.access), body).await;
        assert_eq!(reply.status, 204, "{what}: {reply:?}");
        let answered = began.elapsed();
        self.is_refused_soon(what, token, reason).await;
        eprintln!("{what}: answered after {answered:.1?}, refused after {:.1?}", began.elapsed());
    }

    /// An entry in Redis arrives through the log, a moment later.
    pub async fn is_refused_soon(&self, what: &str, token: &Tokens, reason: &str) {
        eventually(what, || async { self.call(&token.access).await.status == 401 }).await;
        self.is_refused(what, token, reason).await;
    }

    pub async fn cannot_refresh(&self, what: &str, tokens: &Tokens) {
        let reply = self.try_refresh(tokens).await;
        assert_eq!((reply.status, reply.body["error"].as_str()), (400, Some("invalid_grant")), "{what}: {reply:?}");
    }
}

fn config(accounts: u16, redis: &str) -> String {
    let keys =
        format!("{{jwks_url: \"http://127.0.0.1:{accounts}/.well-known/jwks.json\", refresh: 1s, cooldown: 1s}}");
    format!(
        "issuers:\n  - {{name: main, issuer: \"https://accounts.example\", audiences: [shop], keys: {keys}}}
signals: {{transmitters: [{{issuer: \"https://accounts.example\", audience: doorward, target_issuer: main, keys: {keys}}}]}}
identity: {{payload: {{header: x-identity}}}}
rules:
  - {{name: page, match: {{path: /, methods: [GET]}}, access: public}}
  - {{name: files, match: {{path_prefix: /page, methods: [GET]}}, access: public}}
  - {{name: login, match: {{path: /auth/login, methods: [POST]}}, access: public}}
  - {{name: refresh, match: {{path: /auth/refresh, methods: [POST]}}, access: refresh}}
  - {{name: logout, match: {{path: /auth/logout, methods: [POST]}}, access: sign_out, sign_out: {{scope: session, then: forward}}}}
revocation: {{store: redis, redis: {{url: \"{redis}\"}}}}
{}",
        admin_keys()
    )
}

#[track_caller]
pub fn tokens(reply: &Reply) -> Tokens {
    assert_eq!((reply.status, reply.header("cache-control")), (200, "no-store"), "{reply:?}");
    assert_eq!((&reply.body["token_type"], &reply.body["expires_in"]), (&json!("Bearer"), &json!(300)), "{reply:?}");
    let text = |name: &str| reply.body[name].as_str().unwrap().to_owned();
    Tokens { access: text("access_token"), refresh: text("refresh_token") }
}

/// A part of a token, read.
pub fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

pub fn claims(tokens: &Tokens) -> Value {
    part(&tokens.access, 1)
}
