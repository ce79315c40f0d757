//! redb's access to the file, which recognises that another program changed it.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// The file at a path, as long as nothing but this process changes it. Once it was changed, everything is refused: a
/// write would be acknowledged and lost, and could damage what the other program wrote.
///
/// Each write is preceded by a comparison of the attributes. They do not show a change within the same tick of the
/// file system's clock as an own write, so the last own writes are read back, too.
#[derive(Clone, Debug)]
pub(super) struct WatchedFile(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    file: FileBackend,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// `None`: refused from now on.
    stamp: Option<Stamp>,
    round: u64,
    /// Writes of this round and of the one before, by their offset; they do not overlap.
    written: BTreeMap<u64, Written>,
    /// How many of them are of this round.
    count: usize,
}

#[derive(Debug)]
struct Written {
    length: usize,
    digest: u64,
    round: u64,
}

/// The attributes by which the file at the path is recognised as the opened one, unchanged by others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Stamp {
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(found: Metadata) -> Self {
        Self { inode: (found.dev(), found.ino()), length: found.len(), modified: (found.mtime(), found.mtime_nsec()) }
    }
}

pub(super) fn changed() -> io::Error {
    io::Error::other("was removed, replaced or changed by another program; opening it again")
}

fn digest(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(data);
    hasher.finish()
}

impl Known {
    /// The most writes of a round that are read back, besides the header: the first ones, which any later change of the
    /// whole file destroys.
    const MOST: usize = 64;

    fn forget(&mut self, from: u64, to: u64) {
        while let Some((&at, before)) = self.written.range(..to).next_back() {
            if at + before.length as u64 <= from {
                break;
            }
            self.written.remove(&at);
        }
    }

    fn note(&mut self, offset: u64, data: &[u8]) {
        self.forget(offset, offset + data.len() as u64);
        if offset == 0 || self.count < Self::MOST {
            self.count += 1;
            let written = Written { length: data.len(), digest: digest(data), round: self.round };
            self.written.insert(offset, written);
        }
    }
}

impl WatchedFile {
    pub(super) fn new(path: PathBuf, file: File) -> Result<Self, redb::Error> {
        let stamp = Some(file.metadata()?.into());
        let known = Known { stamp, round: 0, written: BTreeMap::new(), count: 0 };
        Ok(Self(Arc::new(Inner { path, file: FileBackend::new(file)?, known: Mutex::new(known) })))
    }

    /// Verifies the file before writes that belong together.
    pub(super) fn begin(&self) -> io::Result<()> {
        self.verify()?;
        let mut known = self.known()?;
        if known.count > 0 {
            let last = known.round;
            known.written.retain(|_, written| written.round == last);
            (known.round, known.count) = (last + 1, 0);
        }
        Ok(())
    }

    /// Compares the file with what this process wrote last.
    pub(super) fn verify(&self) -> io::Result<()> {
        let mut known = self.known()?;
        let mut same = true;
        for (offset, written) in &known.written {
            let mut data = vec![0; written.length];
            same = same && self.0.file.read(*offset, &mut data).is_ok() && digest(&data) == written.digest;
        }
        if !same || self.stamp()? != known.stamp {
            known.stamp = None;
            return Err(changed());
        }
        Ok(())
    }

    /// Refuses everything from now on.
    pub(super) fn refuse(&self) {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).stamp = None;
    }

    fn stamp(&self) -> io::Result<Option<Stamp>> {
        std::fs::metadata(&self.0.path).map(|found| Some(found.into())).map_err(|_| changed())
    }

    /// Fails if the attributes are not those after the last own write.
    fn known(&self) -> io::Result<MutexGuard<'_, Known>> {
        let mut known = self.0.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.stamp.is_none() || self.stamp().ok() != Some(known.stamp) {
            known.stamp = None;
            return Err(changed());
        }
        Ok(known)
    }

    /// Does what changes the length of the file to `length`, of its length before.
    fn change(
        &self,
        length: impl FnOnce(u64) -> u64,
        work: impl FnOnce(&FileBackend, &mut Known) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut known = self.known()?;
        let before = known.stamp.take().ok_or_else(changed)?; // An error leaves it so.
        work(&self.0.file, &mut known)?;
        let now = self.stamp()?.filter(|now| now.inode == before.inode && now.length == length(before.length));
        known.stamp = Some(now.ok_or_else(changed)?);
        Ok(())
    }
}

impl StorageBackend for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.known()?.stamp.map(|stamp| stamp.length).ok_or_else(changed)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let read = self.0.file.read(offset, out);
        drop(self.known()?); // What was read may be another program's.
        read
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(
            |_| len,
            |file, known| {
                known.forget(len, u64::MAX);
                file.set_len(len)
            },
        )
    }

    fn sync_data(&self) -> io::Result<()> {
        drop(self.known()?);
        self.0.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(
            |length| length.max(offset + data.len() as u64),
            |file, known| {
                known.note(offset, data);
                file.write(offset, data)
            },
        )
    }

    fn close(&self) -> io::Result<()> {
        self.0.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.query_lock_range(start, end)
    }
}
