//! The listeners of the HTTP API, and the routes of each.

use std::net::SocketAddr;

use super::Engine;
use super::connections::Protocol;
use super::listen::Listener;
use crate::api::http::{Http, Part, router};
use crate::config::{Config, Listen};

/// `listen.http` and `listen.admin`, bound.
pub struct HttpListeners {
    http: Option<Listener>,
    /// `None`: the routes with an admin key are served on `http`.
    admin: Option<Listener>,
}

impl HttpListeners {
    /// Binds the configured addresses.
    pub async fn bind(listen: &Listen) -> anyhow::Result<Self> {
        Ok(Self { http: bind("listen.http", listen.http).await?, admin: bind("listen.admin", listen.admin).await? })
    }

    /// The bound addresses of `http` and `admin`.
    #[must_use]
    pub fn addresses(&self) -> [Option<String>; 2] {
        [&self.http, &self.admin].map(|bound| bound.as_ref().map(Listener::address))
    }
}

async fn bind(key: &'static str, address: Option<SocketAddr>) -> anyhow::Result<Option<Listener>> {
    match address {
        Some(address) => Listener::bind(key, address).await.map(Some),
        None => Ok(None),
    }
}

impl Engine {
    /// Serves the HTTP API until the engine drains.
    pub fn serve_http(&mut self, listeners: HttpListeners, config: &Config) {
        let limits = &config.limits;
        let HttpListeners { http, admin } = listeners;
        let app = Http::new(self.state.clone(), self.readiness.clone(), *limits, &config.listen.cors_origins);
        // Without an address of their own, the routes with an admin key are served beside the
        // others.
        let part = if admin.is_some() { Part::Public } else { Part::All };
        for (name, listener, part) in [("http", http, part), ("admin", admin, Part::Admin)] {
            let Some(listener) = listener else { continue };
            let server = self.server(name, Protocol::Http, router(app.clone(), part, config.console), limits);
            self.serve(name, server.with_tls(self.tls.clone()), listener);
        }
    }
}
