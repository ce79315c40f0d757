//! The source of a configuration, and of its later versions.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::{Config, Faults, Loaded, environment};

/// The source of a configuration, and of its later versions.
#[derive(Clone)]
pub enum Source {
    /// A file; it is read again when it changes, or a file that it names.
    File(PathBuf),
    /// Text that the host process supplies, and may replace. Relative paths in it are relative to the
    /// process's working directory.
    Handed { name: String, text: watch::Receiver<Arc<str>> },
}

impl Source {
    /// The name that precedes its faults.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Handed { name, .. } => name.clone(),
        }
    }

    /// Reads it, and the environment; may block for as long as a file does.
    pub fn load(&self) -> Result<Loaded, Faults> {
        match self {
            Self::File(path) => Config::load(path, environment()),
            Self::Handed { name, text } => {
                let text = text.borrow().clone();
                Config::parse(&text, name, Path::new(""), environment())
            }
        }
    }

    /// Returns when the host supplies another text; a file has its own watcher.
    pub(super) async fn changed(&mut self) {
        if let Self::Handed { text, .. } = self
            && text.changed().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
