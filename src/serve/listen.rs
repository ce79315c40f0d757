//! The gRPC listener: TCP, or a Unix socket that is made afresh.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::warn;

use super::front::Front;
use super::tls::{Tls, TlsListener};
use crate::config::CheckAddress;

/// A bound listener for checks.
pub(super) enum CheckListener {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

impl CheckListener {
    pub(super) async fn bind(address: &CheckAddress) -> anyhow::Result<Self> {
        match address {
            CheckAddress::Tcp(address) => {
                let listener =
                    TcpListener::bind(address).await.with_context(|| format!("listen.check: bind {address}"))?;
                let bound = listener.local_addr().context("listen.check: read the bound address")?;
                Ok(Self::Tcp(listener, bound))
            }
            CheckAddress::Unix { path, mode } => {
                remove_stale(path).await.with_context(|| format!("listen.check: bind {}", path.display()))?;
                let listener =
                    UnixListener::bind(path).with_context(|| format!("listen.check: bind {}", path.display()))?;
                let permissions = std::fs::Permissions::from_mode(*mode);
                std::fs::set_permissions(path, permissions)
                    .with_context(|| format!("listen.mode: set on {}", path.display()))?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    /// As Envoy would be told it.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.to_string(),
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// Serves until `drain`, then lets what is in flight finish.
    ///
    /// `tls` is for TCP; a Unix socket is guarded by its mode.
    pub(super) async fn serve(self, server: Server, front: Front, tls: Option<Arc<Tls>>, drain: CancellationToken) {
        let drained = drain.cancelled_owned();
        let served = match (self, tls) {
            (Self::Tcp(listener, address), Some(tls)) => {
                let incoming = TlsListener::new(listener, address, tls).into_stream();
                server.serve_with_incoming_shutdown(front, incoming, drained).await
            }
            (Self::Tcp(listener, _), None) => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                server.serve_with_incoming_shutdown(front, incoming, drained).await
            }
            (Self::Unix(listener, path), _) => {
                let served =
                    server.serve_with_incoming_shutdown(front, UnixListenerStream::new(listener), drained).await;
                let _ = std::fs::remove_file(path); // The next start would remove it as well.
                served
            }
        };
        if let Err(error) = served {
            warn!(%error, "grpc server failed");
        }
    }
}

/// Removes a socket that nobody listens on; anything else in its place is an error.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket is in the way"));
    }
    if UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket"));
    }
    std::fs::remove_file(path)
}
