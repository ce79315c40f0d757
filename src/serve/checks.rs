//! Envoy's checks and streams over gRPC, with health (`grpc.health.v1`) and reflection beside them.

use anyhow::Context;
use axum::Router;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::api::check::{self, CheckServer};
use crate::api::streams;
use crate::config::Config;
use crate::engine::Engine;
use crate::engine::connections::Protocol;
use crate::engine::listen::Listener;
use crate::engine::workers::Workers;

/// Serves on the listener for checks until the engine drains.
pub(super) async fn serve(engine: &mut Engine, listener: Listener, config: &Config) -> anyhow::Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(check::SERVICE_NAME, ServingStatus::NotServing).await;
    engine.supervise("health", report(engine.ready(), reporter));
    let (limits, state) = (&config.limits, engine.state());
    let checks = check::service(state.clone(), limits.grpc_message_bytes, limits.request_headers);
    let streams = streams::service(state.clone(), limits.grpc_message_bytes, *limits.request_timeout);
    // A Unix socket is guarded by its mode.
    let tls = engine.tls().filter(|_| matches!(listener, Listener::Tcp(..)));
    let server = engine.server("check", Protocol::Grpc, router(checks.clone(), health)?, limits);
    engine.serve("grpc", server.with_check(checks, streams, Workers::start()?).with_tls(tls), listener);
    Ok(())
}

/// Keeps `grpc.health.v1` in step with `/readyz`, until the engine stops.
async fn report(mut ready: watch::Receiver<bool>, reporter: HealthReporter) {
    loop {
        let status = if *ready.borrow_and_update() { ServingStatus::Serving } else { ServingStatus::NotServing };
        reporter.set_service_status(check::SERVICE_NAME, status).await;
        reporter.set_service_status("", status).await;
        if ready.changed().await.is_err() {
            return;
        }
    }
}

fn router(checks: CheckServer, health: HealthServer<impl Health>) -> anyhow::Result<Router> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(check::FILE_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(checks)
        .add_service(health)
        .add_service(reflection().build_v1().context("build gRPC reflection")?)
        .add_service(reflection().build_v1alpha().context("build gRPC reflection")?);
    Ok(routes.into_axum_router())
}
