//! The listeners of the process, and what each serves.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};
use tracing::info;

use super::budget::Budget;
use super::connections::{Protocol, Server};
use super::listen::Listener;
use super::supervisor::Supervisor;
use super::tls::Tls;
use super::workers::Workers;
use crate::api::check::{self, CheckServer};
use crate::api::http::{Http, HttpLimits, Part, Readiness, router};
use crate::api::streams;
use crate::config::{Config, Listen};
use crate::state::State;

/// Everything that is listened on, bound.
pub(super) struct Listeners {
    check: Listener,
    http: Option<Listener>,
    /// `None`: what needs an admin key is served on `http`.
    admin: Option<Listener>,
    pub(super) tls: Option<Arc<Tls>>,
}

impl Listeners {
    pub(super) async fn bind(listen: &Listen) -> anyhow::Result<Self> {
        let check = Listener::bind_check(&listen.check).await?;
        let http = bind("listen.http", listen.http).await?;
        let admin = bind("listen.admin", listen.admin).await?;
        let tls = listen.tls.as_ref().map(Tls::load).transpose()?.map(Arc::new);
        Ok(Self { check, http, admin, tls })
    }

    /// Starts a server on each, which serves until `drain`.
    pub(super) fn serve(
        self,
        config: &Config,
        state: &Arc<State>,
        readiness: &Arc<Readiness>,
        health: HealthServer<impl Health>,
        servers: &mut Supervisor,
        drain: &CancellationToken,
    ) -> anyhow::Result<()> {
        let Self { check, http, admin, tls } = self;
        let limits = &config.limits;
        let addresses = [Some(&check), http.as_ref(), admin.as_ref()].map(|bound| bound.map(Listener::address));
        let budget = Budget::new(limits.buffered_bytes);
        let server = |name, protocol, router| {
            Server::new(name, protocol, router, limits, budget.clone(), state.metrics.connections.clone())
        };
        let check_server = check::service(state.clone(), limits.grpc_message_bytes, limits.request_headers);
        // A Unix socket is guarded by its mode.
        let check_tls = tls.clone().filter(|_| matches!(check, Listener::Tcp(..)));
        let grpc = server("check", Protocol::Grpc, grpc(check_server.clone(), health)?);
        let streams = streams::service(state.clone(), limits.grpc_message_bytes, limits.request_timeout);
        let grpc = grpc.with_check(check_server, streams, Workers::start()?).with_tls(check_tls);
        servers.spawn("grpc", grpc.serve(check, drain.clone()));

        let http_limits = HttpLimits {
            body_bytes: limits.http_body_bytes,
            timeout: limits.http_timeout,
            list_page: limits.list_page,
            receipt_timeout: limits.receipt_timeout,
            inlet_requests: limits.inlet_requests,
        };
        let app = Http::new(state.clone(), readiness.clone(), http_limits, &config.listen.cors_origins);
        // Without an address of its own, what needs an admin key is served beside the rest.
        let part = if admin.is_some() { Part::Public } else { Part::All };
        for (name, listener, part) in [("http", http, part), ("admin", admin, Part::Admin)] {
            let Some(listener) = listener else { continue };
            let http = server(name, Protocol::Http, router(app.clone(), part)).with_tls(tls.clone());
            servers.spawn(name, http.serve(listener, drain.clone()));
        }
        let [check, http, admin] = addresses;
        info!(version = env!("CARGO_PKG_VERSION"), check, http, admin, "listening");
        Ok(())
    }
}

async fn bind(key: &'static str, address: Option<SocketAddr>) -> anyhow::Result<Option<Listener>> {
    match address {
        Some(address) => Listener::bind(key, address).await.map(Some),
        None => Ok(None),
    }
}

/// Checks, health (`grpc.health.v1`) and reflection.
fn grpc(check: CheckServer, health: HealthServer<impl Health>) -> anyhow::Result<Router> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(check::FILE_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::new(check)
        .add_service(health)
        .add_service(reflection().build_v1().context("build gRPC reflection")?)
        .add_service(reflection().build_v1alpha().context("build gRPC reflection")?);
    Ok(routes.into_axum_router())
}
