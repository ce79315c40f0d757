//! A service behind Envoy: it answers with the headers that it received.
//!
//! The caller is in headers that only Doorward can have set. There is no token code here, and no connection to Redis
//! or Accounts.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;
use tokio_stream::{Stream, StreamExt};

use crate::server;

/// Runs one service, which shows the headers that it received.
#[derive(clap::Args)]
pub struct Args {
    /// Its displayed name.
    #[arg(long, default_value = "A")]
    name: String,
    /// Where it listens; port 0: one that is free.
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    server::serve(args.listen, app(&args.name)).await
}

fn app(name: &str) -> Router {
    Router::new().route("/{service}/live", get(live)).fallback(show).with_state(Arc::from(name))
}

/// Events for as long as a client listens. The service has no sessions: Envoy and Doorward end the stream at a
/// sign-out.
async fn live() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    const EVERY: Duration = Duration::from_millis(250);
    Sse::new(IntervalStream::new(interval(EVERY)).map(|_| Ok(Event::default().data("tick"))))
}

async fn show(State(name): State<Arc<str>>, request: Request) -> Json<Value> {
    let headers = request.headers();
    Json(json!({
        "service": *name,
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "user": text(headers, "x-user-id"),
        "email": text(headers, "x-user-email"),
        "identity": text(headers, "x-identity").as_deref().and_then(identity),
        "headers": all(headers),
    }))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// The payload that Doorward passes on: base64url JSON, or the middle of a signed one, which is shown here
/// without a look at its signature.
pub fn identity(header: &str) -> Option<Value> {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let payload = header.split('.').nth(1).unwrap_or(header);
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

fn all(headers: &HeaderMap) -> Map<String, Value> {
    let joined = |name| {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.collect::<Vec<_>>().join(",")
    };
    headers.keys().map(|name| (name.to_string(), Value::from(joined(name)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_plain_or_signed() {
        let plain = "eyJ1c2VyX2lkIjoiYWxpY2UifQ";
        for header in [plain.to_owned(), format!("e30.{plain}.c2ln")] {
            assert_eq!(identity(&header), Some(json!({"user_id": "alice"})), "{header}");
        }
        for header in ["", "e30.", "not base64!", "YWxpY2U"] {
            assert_eq!(identity(header), None, "{header}");
        }
    }
}
