//! The file of a single node: opened, found changed, opened again, and written again.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::Database;

use super::super::LedgerError;
use super::watched::{WatchedFile, changed};
use super::{load, store};
use crate::authz::claims::Timestamp;
use crate::authz::revocation::RevocationIndex;

/// The page cache in bytes: the file is read once, and decisions read the index.
const CACHE: usize = 8 << 20;

/// An open database. After a failed write redb refuses every operation until the file is opened again.
pub(super) struct LedgerFile {
    path: PathBuf,
    /// Reads the file into the index whenever the file is opened.
    index: Arc<RevocationIndex>,
    /// `None`: not open.
    opened: Mutex<Option<Opened>>,
    /// The file may lack an entry of the index.
    lacks: AtomicBool,
}

struct Opened {
    database: Database,
    file: WatchedFile,
}

/// redb does not expect content that another program wrote: its panic is an error of the file.
fn caught<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(redb::Error::Corrupted("what was read is not a database".to_owned())))
}

impl Opened {
    /// Does the work and ensures that the file has its result. `None`, closed, after an error.
    fn work<T>(self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> (Option<Self>, Result<T, redb::Error>) {
        let done = caught(|| {
            self.file.begin()?;
            let done = work(&self.database)?;
            self.file.verify()?;
            Ok(done)
        });
        if done.is_ok() {
            return (Some(self), done);
        }
        self.file.refuse(); // The end of the database would write to it.
        let _ = caught(|| {
            drop(self.database);
            Ok(())
        });
        (None, done)
    }
}

impl LedgerFile {
    pub(super) fn new(path: &Path, index: Arc<RevocationIndex>, now: Timestamp) -> Result<Self, LedgerError> {
        let file = Self { path: path.to_owned(), index, opened: Mutex::default(), lacks: AtomicBool::new(false) };
        let opened = file.open(now).map_err(|error| {
            let in_use = matches!(error, redb::Error::DatabaseAlreadyOpen);
            let cure = if in_use { " (another process has it open: stop it, or name another file)" } else { "" };
            LedgerError::File { cause: format!("{}: {error}{cure}", file.path.display()).into() }
        })?;
        Ok(Self { opened: Mutex::new(Some(opened)), ..file })
    }

    fn open(&self, now: Timestamp) -> Result<Opened, redb::Error> {
        // Only the owner may read the file, which names signed-out users; redb would create it readable by all.
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.path)?;
        let file = WatchedFile::new(self.path.clone(), file)?;
        // The check costs as much as reading the file, which is done anyway; without it a corrupted file causes a
        // panic later.
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
        let database = caught(|| Ok(builder.create_with_backend(file.clone())?))?;
        let (opened, loaded) = Opened { database, file }.work(|database| load(database, &self.index, now));
        loaded.and_then(|()| opened.ok_or_else(|| changed().into()))
    }

    /// A file that another program overwrote cannot be read, but this process has its content in memory: the file is
    /// moved aside, once, and a new one is created.
    fn open_again(&self) -> Result<Opened, redb::Error> {
        let error = match self.open(crate::clock::now()) {
            Err(error @ redb::Error::Corrupted(_)) => error,
            Err(redb::Error::Io(error)) if error.kind() == ErrorKind::InvalidData => redb::Error::Io(error),
            opened => return opened,
        };
        let mut aside = self.path.clone().into_os_string();
        aside.push(".unreadable");
        if Path::new(&aside).exists() {
            std::fs::remove_file(&self.path)?;
        } else {
            std::fs::rename(&self.path, &aside)?;
        }
        tracing::error!(%error, aside = %aside.display(), "the revocation file cannot be read; a new one is created");
        self.lacks.store(true, Ordering::Relaxed);
        self.open(crate::clock::now())
    }

    /// Does the work on the file, opened again if it was closed.
    ///
    /// Fails, and closes the file, if another program has removed, replaced or changed it.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, LedgerError> {
        let mut held = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let was_open = held.is_some();
        let opened = held.take().map_or_else(|| self.open_again(), Ok);
        let done = opened.and_then(|opened| {
            let (opened, done) = opened.work(work);
            *held = opened;
            done
        });
        if let Err(error) = &done {
            self.lacks.store(true, Ordering::Relaxed);
            if was_open {
                let path = self.path.display();
                tracing::warn!(%path, %error, "the revocation file cannot be used; writing every revocation again");
            }
        }
        done.map_err(|error| LedgerError::File { cause: format!("{}: {error}", self.path.display()).into() })
    }

    pub(super) fn lacks(&self) -> bool {
        self.lacks.load(Ordering::Relaxed)
    }

    /// Writes every entry of the index that is not in the file.
    pub(super) fn write_known(&self) -> Result<(), LedgerError> {
        const BATCH: usize = 4096;
        self.lacks.store(false, Ordering::Relaxed);
        let mut known = self.index.entries();
        loop {
            let batch: Vec<_> = known.by_ref().take(BATCH).collect();
            self.with(|database| store(database, &batch))?;
            if batch.len() < BATCH {
                return Ok(());
            }
        }
    }
}
