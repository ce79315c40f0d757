//! Relays between regions without a service: `doorward relay`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::budget::Budget;
use super::connections::{Protocol, Server};
use super::listen::Listener;
use super::supervisor::Supervisor;
use crate::config::Limits;
use crate::sources::relay::{Relay, RelaySettings, RelayStats};

/// The interval of looking at the relays' states.
const LOOK: Duration = Duration::from_millis(500);
/// The longest wait for the relays to give their leases up.
const ENDING: Duration = Duration::from_secs(3);

/// The relays of this process, for its endpoints.
struct Shown {
    relays: Vec<Arc<Relay>>,
    stats: RelayStats,
    registry: Registry,
}

/// Runs the relays until `stop`; fails if two regions must not be connected. With an address it serves `/livez`,
/// `/readyz` and `/metrics` there.
pub async fn run_relays(
    settings: Vec<RelaySettings>,
    address: Option<SocketAddr>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (stats, registry) = (RelayStats::new().context("make the metrics")?, Registry::new());
    stats.register(&registry).context("register the metrics")?;
    let relay = |settings| Relay::new(settings, stats.clone()).map(Arc::new).context("the address of a store");
    let relays = settings.into_iter().map(relay).collect::<anyhow::Result<Vec<_>>>()?;
    let mut tasks = Supervisor::new(stop.clone());
    let http = match address {
        Some(address) => Some(Listener::bind("--listen", address).await?),
        None => None,
    };
    let bound = http.as_ref().map(Listener::address);
    if let Some(listener) = http {
        let counted = Opts::new("doorward_connections_total", "Connections, by result.");
        let counted = IntCounterVec::new(counted, &["listener", "result"]).context("make the metrics")?;
        registry.register(Box::new(counted.clone())).context("register the metrics")?;
        let (limits, shown) = (Limits::default(), Shown { relays: relays.clone(), stats, registry });
        let router = router(Arc::new(shown));
        let server = Server::new("http", Protocol::Http, router, &limits, Budget::new(limits.buffered_bytes), counted);
        tasks.spawn("http", server.serve(listener, stop.clone()));
    }
    for relay in &relays {
        let (relay, stopped) = (relay.clone(), stop.clone());
        tasks.spawn("relay", async move { relay.run(stopped).await });
    }
    info!(version = env!("CARGO_PKG_VERSION"), http = bound, "relay");
    let ended = loop {
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            name = tasks.ended() => break Err(anyhow::anyhow!("the task `{name}` ended unexpectedly")),
            () = sleep(LOOK) => {}
        }
        if let Some(fault) = relays.iter().find_map(|relay| relay.own_fault()) {
            break Err(anyhow::anyhow!(fault));
        }
    };
    tasks.finish(ENDING).await;
    ended
}

fn router(shown: Arc<Shown>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(shown)
}

async fn readyz(State(shown): State<Arc<Shown>>) -> (StatusCode, String) {
    let behind = shown.relays.iter().map(|relay| relay.status()).filter(|status| !status.is_up);
    let behind: Vec<_> = behind.map(|status| status.warning()).collect();
    let status = if behind.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({"ready": behind.is_empty(), "relays": behind});
    (status, format!("{body}\n"))
}

async fn metrics(State(shown): State<Arc<Shown>>) -> impl IntoResponse {
    shown.relays.iter().for_each(|relay| shown.stats.show(&relay.status()));
    let mut text = Vec::new();
    let encoded = TextEncoder::new().encode(&shown.registry.gather(), &mut text);
    let status = if encoded.is_ok() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    (status, [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
