//! Files that are read again when they have changed, and the change is complete.
//!
//! A file that is replaced by a rename or behind a symlink is complete at once. A file that is written in place is
//! complete when no known writer has it open and it has not changed for [`SETTLE`]: half of a configuration can be
//! valid, and allow more than the whole.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tracing::warn;

/// The time without a change after which files that are written in place are read.
pub const SETTLE: Duration = Duration::from_secs(3);

/// [`SETTLE`] for files that are replaced as a whole: several may be replaced one after the other.
const REPLACED: Duration = Duration::from_millis(200);

/// The longest wait for a writer with an open file after its last write. A program that only sets the time of
/// modification looks like a writer that never ends.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The age at which an incomplete change is logged.
const LONG: Duration = Duration::from_secs(15);

/// The attributes by which a changed file is recognised without reading it. A program can set the time of modification,
/// and not the inode's time of change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// The file behind all symlinks.
    real: PathBuf,
    inode: (u64, u64),
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` for a missing file.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let real = path.canonicalize().ok()?;
        let found = real.metadata().ok()?;
        Some(Self {
            inode: (found.dev(), found.ino()),
            length: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
            real,
        })
    }
}

/// Files, with their attributes at the last look.
pub type Stamps = BTreeMap<PathBuf, Option<Stamp>>;

/// The files with their current attributes.
pub fn stamps<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Stamps {
    files.into_iter().map(|file| (file.clone(), Stamp::of(file))).collect()
}

/// The result of a look at the watched files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Look {
    /// Unchanged since they were read.
    Same,
    /// Changed, and perhaps not complete.
    Moving,
    /// Changed, and complete.
    Settled,
}

/// Watched files; polling detects a change on every file system.
#[derive(Default)]
pub struct Watch {
    read: Stamps,
    last: Stamps,
    /// `None` before the first change.
    still_since: Option<Instant>,
    /// The start of an incomplete change, until it is logged.
    moving_since: Option<Instant>,
    writers: Writers,
}

impl Watch {
    /// Watches files that were read with the attributes in `read`.
    #[must_use]
    pub fn new(read: Stamps) -> Self {
        let last = read.clone();
        let mut writers = Writers::new();
        writers.watch(&last);
        Self { read, last, still_since: None, moving_since: None, writers }
    }

    /// Compares the files with the last look; accesses the file system.
    pub fn look(&mut self) -> Look {
        let (now, current) = (Instant::now(), stamps(self.last.keys()));
        self.writers.watch(&current);
        if current != self.last || self.writers.any_open() {
            self.last = current;
            self.still_since = Some(now);
        }
        if self.last == self.read {
            self.moving_since = None;
            return Look::Same;
        }
        let replaced = |(path, now): (&PathBuf, &Option<Stamp>)| {
            let before = self.read.get(path);
            before == Some(now) || is_elsewhere(before, now.as_ref()) || self.writers.replaced(path)
        };
        let settle = if self.last.iter().all(replaced) { REPLACED } else { SETTLE };
        if self.still_since.is_none_or(|since| now - since >= settle) {
            self.moving_since = None;
            return Look::Settled;
        }
        if now - *self.moving_since.get_or_insert(now) > LONG {
            warn!(files = ?self.changed(), still_for = ?SETTLE, "changed files are still being written; not read yet");
            self.moving_since = Some(now);
        }
        Look::Moving
    }

    /// Whether these files, which were read since the last look, are complete: none changed meanwhile, and none is new
    /// to this watch. A new file is watched from now on, and must be unchanged like the others.
    pub fn confirms(&mut self, read: &Stamps) -> bool {
        let known = self.last.len();
        for (file, stamp) in read {
            self.last.entry(file.clone()).or_insert_with(|| stamp.clone());
        }
        let as_seen = |(file, stamp): (&PathBuf, &Option<Stamp>)| self.last.get(file) == Some(stamp);
        let confirmed = self.last.len() == known && read.iter().all(as_seen) && stamps(self.last.keys()) == self.last;
        if !confirmed {
            self.still_since = Some(Instant::now());
        }
        confirmed
    }

    /// Marks the result of the last look as read; files that are not kept are no longer watched.
    pub fn go_on(&mut self, keep: impl Fn(&PathBuf) -> bool) {
        self.last.retain(|file, _| keep(file));
        self.read.clone_from(&self.last);
        self.writers.moved.clear();
    }

    fn changed(&self) -> Vec<&Path> {
        let differ = |(path, stamp): &(&PathBuf, &Option<Stamp>)| self.read.get(*path) != Some(*stamp);
        self.last.iter().filter(differ).map(|(path, _)| path.as_path()).collect()
    }
}

/// Whether a symlink in the path points to another file than before, as in a mounted ConfigMap.
fn is_elsewhere(before: Option<&Option<Stamp>>, now: Option<&Stamp>) -> bool {
    let before = before.and_then(Option::as_ref);
    before.zip(now).is_some_and(|(before, now)| before.real != now.real && before.inode != now.inode)
}

/// A name in a watched folder, or (without one) a watched file.
type Place = (i32, Vec<u8>);

/// Tracks which watched files are open for writing, as far as inotify reports it: not on network file systems, and not
/// when its watches are used up. There [`SETTLE`] alone decides.
#[derive(Default)]
struct Writers {
    inotify: Option<OwnedFd>,
    /// The places of each watched path: its folder, and the file itself for one that is mounted alone.
    places: HashMap<PathBuf, Vec<Place>>,
    /// Written since this time and not closed.
    open: HashMap<Place, Instant>,
    /// Moved into place and not written since.
    moved: HashSet<Place>,
}

impl Writers {
    fn new() -> Self {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok();
        Self { inotify, ..Self::default() }
    }

    /// Reads the events, and adds missing watches for these files.
    fn watch(&mut self, files: &Stamps) {
        let Some(inotify) = &self.inotify else { return };
        self.places.clear();
        for (path, stamp) in files {
            let mut places = Vec::new();
            let real = stamp.as_ref().map(|stamp| stamp.real.as_path());
            // inotify returns the existing watch for a file that is watched already.
            let mut add = |folder: Option<&Path>, name: &[u8]| {
                let folder = folder.map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
                let watch = folder.and_then(|folder| inotify::add_watch(inotify, folder, EVENTS).ok());
                places.extend(watch.map(|watch| (watch, name.to_vec())));
            };
            for path in [Some(path.as_path()), real].into_iter().flatten() {
                let name = path.file_name().unwrap_or_default();
                add(path.parent(), name.as_bytes());
            }
            add(real, b"");
            self.places.insert(path.clone(), places);
        }
        self.read_events();
    }

    fn read_events(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        let ours: HashSet<&Place> = self.places.values().flatten().collect();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(inotify, &mut buffer);
        while let Ok(event) = events.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.open.clear();
                self.moved.clear();
                continue;
            }
            let place = (event.wd(), event.file_name().map(|name| name.to_bytes().to_vec()).unwrap_or_default());
            if !ours.contains(&place) {
                continue;
            }
            if event.events().contains(ReadFlags::MODIFY) {
                self.moved.remove(&place);
                self.open.insert(place, Instant::now());
            } else {
                self.open.remove(&place);
                if event.events().contains(ReadFlags::MOVED_TO) {
                    self.moved.insert(place);
                } else if !event.events().contains(ReadFlags::CLOSE_WRITE) {
                    self.moved.remove(&place);
                }
            }
        }
    }

    fn any_open(&self) -> bool {
        let writes = |place| self.open.get(place).is_some_and(|since| since.elapsed() < LONGEST_PAUSE);
        self.places.values().flatten().any(writes)
    }

    fn replaced(&self, path: &Path) -> bool {
        self.places.get(path).is_some_and(|places| places.iter().any(|place| self.moved.contains(place)))
    }
}

const EVENTS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF);

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;

    use super::*;

    /// A folder of its own, with one file in it that has been read.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> (Self, PathBuf, Watch) {
            let folder = std::env::temp_dir().join(format!("doorward-files-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir(&folder).unwrap();
            let file = folder.join("a.yaml");
            fs::write(&file, "old").unwrap();
            let watch = Watch::new(stamps([&file]));
            (Self(folder), file, watch)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Looks until a look is `wanted`; how long it took.
    #[track_caller]
    fn until(watch: &mut Watch, wanted: Look) -> Duration {
        let started = Instant::now();
        while watch.look() != wanted {
            assert!(started.elapsed() < Duration::from_secs(60), "never {wanted:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        started.elapsed()
    }

    #[test]
    fn a_writer_that_has_the_file_open_is_waited_for() {
        let (_folder, path, mut watch) = Folder::new("open");
        assert_eq!(watch.look(), Look::Same);
        let mut file = File::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        let started = Instant::now();
        while started.elapsed() < SETTLE + Duration::from_secs(1) {
            assert_eq!(watch.look(), Look::Moving);
            std::thread::sleep(Duration::from_millis(50));
        }
        file.write_all(b" and half").unwrap();
        drop(file);
        assert!(until(&mut watch, Look::Settled) >= SETTLE.mul_f64(0.9));
        watch.go_on(|_| true);
        assert_eq!(watch.look(), Look::Same);
    }

    #[test]
    fn a_file_written_in_place_must_be_still() {
        let (_folder, path, mut watch) = Folder::new("place");
        for _ in 0..5 {
            // The same length and the old times.
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, "new").unwrap();
            let times = fs::FileTimes::new().set_accessed(before).set_modified(before);
            File::open(&path).unwrap().set_times(times).unwrap();
            let started = Instant::now();
            while started.elapsed() < SETTLE / 3 {
                assert_eq!(watch.look(), Look::Moving);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        until(&mut watch, Look::Settled);
    }

    #[test]
    fn files_replaced_as_a_whole_are_read_soon() {
        let (folder, path, mut watch) = Folder::new("whole");
        let beside = folder.0.join("b.yaml");
        fs::write(&beside, "new").unwrap();
        fs::rename(&beside, &path).unwrap();
        assert!(until(&mut watch, Look::Settled) < SETTLE / 2);
        watch.go_on(|_| true);
        // Removed and created again, it may be incomplete.
        fs::remove_file(&path).unwrap();
        assert_eq!(watch.look(), Look::Moving);
        fs::write(&path, "half").unwrap();
        assert!(until(&mut watch, Look::Settled) >= SETTLE.mul_f64(0.9));
        watch.go_on(|_| true);
        // Moved into place while its writer continues.
        let mut file = File::create(&beside).unwrap();
        fs::rename(&beside, &path).unwrap();
        assert_eq!(watch.look(), Look::Moving);
        file.write_all(b"half").unwrap();
        drop(file);
        assert!(until(&mut watch, Look::Settled) >= SETTLE.mul_f64(0.9));
    }

    #[test]
    fn a_symlink_that_is_swapped_is_followed_soon() {
        let (folder, path, _) = Folder::new("link");
        for (name, text) in [("..v1", "old"), ("..v2", "new")] {
            fs::create_dir(folder.0.join(name)).unwrap();
            fs::write(folder.0.join(name).join("a.yaml"), text).unwrap();
        }
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("..v1", folder.0.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/a.yaml", &path).unwrap();
        let mut watch = Watch::new(stamps([&path]));
        assert_eq!(watch.look(), Look::Same);
        std::os::unix::fs::symlink("..v2", folder.0.join("..next")).unwrap();
        fs::rename(folder.0.join("..next"), folder.0.join("..data")).unwrap();
        assert!(until(&mut watch, Look::Settled) < SETTLE / 2);
    }

    #[test]
    fn a_file_that_is_named_newly_must_be_still_and_a_missing_one_may_come() {
        let (folder, _path, mut watch) = Folder::new("also");
        let other = folder.0.join("other");
        assert!(!watch.confirms(&stamps([&other])));
        assert!(watch.confirms(&stamps([&other])));
        assert_eq!(watch.look(), Look::Moving);
        until(&mut watch, Look::Settled);
        watch.go_on(|_| true);
        assert_eq!(watch.look(), Look::Same);
        fs::write(&other, "it came").unwrap();
        assert_eq!(watch.look(), Look::Moving);
    }
}
