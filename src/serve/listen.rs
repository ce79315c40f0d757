//! Listeners: TCP, or a Unix socket that is made afresh.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::Mode;
use rustix::process::umask;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::connections::Stream;
use crate::config::CheckAddress;

/// A bound listener.
pub(super) enum Listener {
    Tcp(TcpListener, SocketAddr),
    /// With the file that was made.
    Unix(UnixListener, PathBuf, Option<FileId>),
}

impl Listener {
    /// For checks.
    pub(super) async fn bind_check(address: &CheckAddress) -> anyhow::Result<Self> {
        match address {
            CheckAddress::Tcp(address) => Self::bind("listen.check", *address).await,
            CheckAddress::Unix { path, mode } => {
                let failed = |error: io::Error| {
                    let cure = socket_cure(&error, path);
                    anyhow::Error::new(error).context(format!("listen.check: bind {}{cure}", path.display()))
                };
                remove_stale(path).await.map_err(failed)?;
                // Made with its mode: until it were changed, anyone could connect whom the umask lets.
                let before = umask(Mode::from_raw_mode(0o777 & !mode));
                let bound = UnixListener::bind(path);
                umask(before);
                Ok(Self::Unix(bound.map_err(failed)?, path.clone(), identity(path)))
            }
        }
    }

    /// `key` is where the address stands in the configuration.
    pub(super) async fn bind(key: &'static str, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let cure = tcp_cure(&error, key);
            anyhow::Error::new(error).context(format!("{key}: bind {address}{cure}"))
        })?;
        let bound = listener.local_addr().with_context(|| format!("{key}: read the bound address"))?;
        Ok(Self::Tcp(listener, bound))
    }

    /// As Envoy would be told it.
    pub(super) fn address(&self) -> String {
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

    /// Takes no more connections.
    pub(super) fn close(self) {
        // The next process may have put its own socket there.
        if let Self::Unix(_, path, ours) = self
            && ours.is_some()
            && identity(&path) == ours
        {
            let _ = std::fs::remove_file(path); // The next start would remove it as well.
        }
    }
}

/// What to do about an address that cannot be bound, to stand behind the failure.
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

/// As [`tcp_cure`], for a Unix socket.
fn socket_cure(error: &io::Error, path: &Path) -> String {
    let folder = path.parent().unwrap_or(path).display();
    let other = "or set `listen.check` (or DOORWARD__LISTEN__CHECK) to another path, or to 127.0.0.1:9191";
    match error.kind() {
        io::ErrorKind::NotFound => format!(" (the folder {folder} does not exist: make it, {other})"),
        io::ErrorKind::PermissionDenied => {
            format!(" (this user may not write to the folder {folder}: let it, {other})")
        }
        io::ErrorKind::AddrInUse => format!(" (stop the other process, {other})"),
        io::ErrorKind::AlreadyExists => format!(" (remove the file, {other})"),
        _ => String::new(),
    }
}

/// A connection that no runtime knows yet.
pub(super) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Accepted {
    /// The runtime that this is called in is the one that wakes the connection.
    pub(super) fn register(self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(stream) => Box::new(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Box::new(UnixStream::from_std(stream)?),
        })
    }
}

/// Device and inode.
type FileId = (u64, u64);

/// Which file stands there now.
fn identity(path: &Path) -> Option<FileId> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
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
