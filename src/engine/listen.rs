//! Listeners: TCP, or a Unix socket that was created for this process.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use super::unix::UnixConnection;

/// A bound listener.
pub(crate) enum Listener {
    Tcp(TcpListener, SocketAddr),
    /// With the created file.
    Unix(UnixListener, PathBuf, Option<FileId>),
}

impl Listener {
    /// `key` is the configuration key of the address.
    pub(crate) async fn bind(key: &'static str, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let cure = tcp_cure(&error, key);
            anyhow::Error::new(error).context(format!("{key}: bind {address}{cure}"))
        })?;
        let bound = listener.local_addr().with_context(|| format!("{key}: read the bound address"))?;
        Ok(Self::Tcp(listener, bound))
    }

    /// A Unix socket that was bound at this path.
    pub(crate) fn unix(bound: UnixListener, path: &Path) -> Self {
        Self::Unix(bound, path.to_owned(), identity(path))
    }

    /// The address, as written in Envoy's configuration.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.to_string(),
            Self::Unix(_, path, _) => format!("unix:{}", path.display()),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true); // A slower connection is still one.
                stream.into_std().map(Accepted::Tcp)
            }
            Self::Unix(listener, ..) => listener.accept().await?.0.into_std().map(Accepted::Unix),
        }
    }

    /// Stops accepting connections.
    pub(super) fn close(self) {
        // The next process may have created its own socket at this path.
        if let Self::Unix(_, path, ours) = self
            && ours.is_some()
            && identity(&path) == ours
        {
            let _ = std::fs::remove_file(path); // The next start would remove it as well.
        }
    }
}

/// The remedy for an address that cannot be bound, appended to the error.
fn tcp_cure(error: &io::Error, key: &str) -> String {
    let variable = format!("DOORWARD__{}", key.replace('.', "__").to_uppercase());
    let other = format!("set `{key}` (or {variable}) to another address");
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(" (another process listens there: stop it, or {other})"),
        io::ErrorKind::AddrNotAvailable => format!(" (no interface of this machine has this address: {other})"),
        io::ErrorKind::PermissionDenied => format!(" (ports below 1024 need CAP_NET_BIND_SERVICE: {other})"),
        _ => String::new(),
    }
}

/// A connection that is not registered with a runtime yet.
pub(super) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// Registers the connection with the current runtime.
    pub(super) fn register(self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(stream) => Box::new(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Box::new(UnixConnection::register(stream)?),
        })
    }
}

/// A connection's bytes, whatever carries them.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Device and inode.
type FileId = (u64, u64);

/// Identifies the file that is at the path now.
fn identity(path: &Path) -> Option<FileId> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
