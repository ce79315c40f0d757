//! Listening, and ending in peace.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::Context;
use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Serves until SIGTERM or SIGINT, then finishes requests in flight.
///
/// Once it listens, it prints one line on standard output: `listening on 127.0.0.1:PORT`.
pub async fn serve(listen: SocketAddr, app: Router) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let address = listener.local_addr().context("learn the own address")?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut stdout = std::io::stdout();
    // The parent process may not read it.
    let _ = writeln!(stdout, "listening on {address}").and_then(|()| stdout.flush());
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await.context("serve")
}
