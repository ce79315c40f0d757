//! An upstream that answers with the request that it received.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::{Request, State};
use axum::{Json, Router};
use serde_json::{Map, Value, json};

pub struct Upstream {
    pub address: SocketAddr,
    seen: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

impl Upstream {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let app = Router::new().fallback(show).with_state(seen.clone());
        #[expect(clippy::disallowed_methods, reason = "a test's own server, ended with it")]
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, seen, server }
    }

    /// How many requests arrived.
    pub fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn show(State(seen): State<Arc<AtomicUsize>>, request: Request) -> Json<Value> {
    seen.fetch_add(1, Ordering::SeqCst);
    let mut headers = Map::new();
    for name in request.headers().keys() {
        let values: Vec<_> =
            request.headers().get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        headers.insert(name.to_string(), json!(values.join(",")));
    }
    Json(json!({"method": request.method().as_str(), "path": request.uri().to_string(), "headers": headers}))
}
