//! A provider that publishes keys, and counts who asks.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::Value;

struct Published {
    /// Held by a test that keeps askers waiting.
    gate: tokio::sync::RwLock<()>,
    answer: Mutex<(u16, String)>,
    fetches: AtomicUsize,
}

pub struct JwksServer {
    pub address: SocketAddr,
    published: Arc<Published>,
    server: tokio::task::JoinHandle<()>,
}

impl JwksServer {
    pub async fn start(jwks: &Value) -> Self {
        Self::start_at("/jwks", jwks).await
    }

    /// As [`Self::start`], with the document at another path.
    pub async fn start_at(path: &str, document: &Value) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let published = Arc::new(Published {
            gate: tokio::sync::RwLock::new(()),
            answer: Mutex::new((200, document.to_string())),
            fetches: AtomicUsize::new(0),
        });
        let app = Router::new().route(path, get(answer)).with_state(published.clone());
        #[expect(clippy::disallowed_methods, reason = "a test's own server, ended with it")]
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, published, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}/jwks", self.address)
    }

    pub fn publish(&self, jwks: &Value) {
        self.answer(200, &jwks.to_string());
    }

    pub fn answer(&self, status: u16, body: &str) {
        *self.published.answer.lock().unwrap() = (status, body.to_owned());
    }

    /// Requests wait until the guard is dropped.
    pub async fn hold(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.published.gate.write().await
    }

    pub fn fetches(&self) -> usize {
        self.published.fetches.load(Ordering::SeqCst)
    }
}

impl Drop for JwksServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(published): State<Arc<Published>>) -> (StatusCode, String) {
    published.fetches.fetch_add(1, Ordering::SeqCst);
    drop(published.gate.read().await);
    let (status, body) = published.answer.lock().unwrap().clone();
    (StatusCode::from_u16(status).unwrap(), body)
}
