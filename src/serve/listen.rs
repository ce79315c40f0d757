//! The listener for checks: TCP, or a Unix socket that is created with its mode.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::umask;
use tokio::net::{UnixListener, UnixStream};

use crate::config::CheckAddress;
use crate::engine::listen::Listener;

/// Binds the address of checks; a Unix socket is created anew.
pub(super) async fn bind(address: &CheckAddress) -> anyhow::Result<Listener> {
    match address {
        CheckAddress::Tcp(address) => Listener::bind("listen.check", *address).await,
        CheckAddress::Unix { path, mode } => {
            let failed = |error: io::Error| {
                let cure = socket_cure(&error, path);
                anyhow::Error::new(error).context(format!("listen.check: bind {}{cure}", path.display()))
            };
            remove_stale(path).await.map_err(failed)?;
            // Created with its mode: with a later chmod, the umask would decide until then who may
            // connect.
            let before = umask(Mode::from_raw_mode(0o777 & !mode));
            let bound = UnixListener::bind(path);
            umask(before);
            Ok(Listener::unix(bound.map_err(failed)?, path))
        }
    }
}

/// The remedy for a Unix socket that cannot be bound, appended to the error.
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

/// Removes a socket on which no process listens; anything else in its place is an error.
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
