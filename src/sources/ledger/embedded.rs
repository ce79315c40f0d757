//! The ledger of a single node: in memory, or in one file that is synced before an append answers.

mod file;
mod issuers;
mod signals;
mod watched;

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use self::file::LedgerFile;
use super::{LedgerError, Position, SignalNotes};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{Hit, Kind, Note, Origin, Revocation, RevocationIndex, Target, TargetId, Watermark};
use crate::clock::Steady;

/// Revocations of this node alone.
pub struct EmbeddedLedger {
    file: Option<Arc<LedgerFile>>,
    /// The content of the file, which is also the index that decisions read.
    index: Arc<RevocationIndex>,
    writes: AtomicU64,
    /// The leads of issuers' tokens in the file, by the name of the issuer.
    leads: Mutex<HashMap<String, Duration>>,
    /// The file may lack these leads.
    lacks_leads: AtomicBool,
    signals: Mutex<Signals>,
}

/// By the id of the transmitter.
type Signals = HashMap<String, SignalNotes>;

/// `ISSUER:KIND:ID` → when it may be forgotten, and the watermark of each origin (`None`: never).
type Record = (i64, Option<i64>, Option<i64>);
const TABLE: TableDefinition<'_, &str, Record> = TableDefinition::new("revocations-1");
/// The origin and the key of a record → time, author and reason.
type TokenState = (i64, &'static str, &'static str);
const NOTES: TableDefinition<'_, (&str, &str), TokenState> = TableDefinition::new("notes-1");

impl EmbeddedLedger {
    /// Keeps revocations until the process ends.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            file: None,
            index: Arc::default(),
            writes: AtomicU64::new(0),
            leads: Mutex::default(),
            lacks_leads: AtomicBool::new(false),
            signals: Mutex::default(),
        }
    }

    /// Opens or creates the file and reads it.
    ///
    /// Entries that expired more than [`FORGOTTEN_AFTER`] before `now` are deleted. Entries that expired later are
    /// kept for as long as this process may need them: the clock may have been wrong at its start.
    ///
    /// Fails if another process has it open, or if it is not such a file.
    pub fn open(path: &Path, now: Timestamp) -> Result<Self, LedgerError> {
        let index = Arc::new(RevocationIndex::new());
        let file = LedgerFile::new(path, index.clone(), now)?;
        let leads = Mutex::new(file.with(issuers::leads)?);
        let signals = Mutex::new(file.with(signals::read)?);
        Ok(Self {
            file: Some(Arc::new(file)),
            index,
            writes: AtomicU64::new(0),
            leads,
            lacks_leads: AtomicBool::new(false),
            signals,
        })
    }

    /// See [`super::RevocationLedger::append`].
    pub async fn append(&self, revocations: &[Revocation]) -> Result<Position, LedgerError> {
        let uptime = Steady::now().uptime();
        for revocation in revocations {
            self.index.apply(revocation, uptime);
        }
        if let Some(file) = &self.file {
            let (file, revocations) = (Arc::clone(file), revocations.to_vec());
            // A commit syncs the file, which takes milliseconds: not on a thread that makes decisions.
            tokio::task::spawn_blocking(move || file.with(|database| store(database, &revocations)))
                .await
                .map_err(|error| failed(&error))??;
        }
        Ok(Position { millis: 0, sequence: self.writes.fetch_add(1, Ordering::Relaxed) + 1 })
    }

    /// Ensures that the file is the opened one, and has every entry of the index: a write may have failed. Returns whether
    /// they were written again: the file may be a new one.
    pub(in crate::sources) async fn keep(&self) -> Result<bool, LedgerError> {
        let Some(file) = self.file.clone() else { return Ok(false) };
        let keep = move || {
            let _ = file.with(|_| Ok(())); // A file that changed is noticed, and logged.
            let lacks = file.lacks();
            if lacks { file.write_known().map(|()| lacks) } else { Ok(lacks) }
        };
        let was_written = tokio::task::spawn_blocking(keep).await.map_err(|error| failed(&error))??;
        self.lacks_leads.fetch_or(was_written, Ordering::Relaxed);
        Ok(was_written)
    }

    /// The file may lack an entry of the index.
    pub(in crate::sources) fn lacks(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.lacks())
    }

    pub(in crate::sources) fn is_durable(&self) -> bool {
        self.file.is_some()
    }

    pub(in crate::sources) fn index(&self) -> &Arc<RevocationIndex> {
        &self.index
    }

    pub(super) fn lookup(&self, targets: &[Target], issued_at: Option<Timestamp>) -> Option<Hit> {
        self.index.find(targets, issued_at)
    }

    pub(super) fn is_registered(&self, target: &Target, issued_at: Option<Timestamp>) -> bool {
        self.index.registers(target, issued_at, crate::clock::now())
    }

    /// Deletes entries that can no longer refuse a live token (see [`RevocationIndex::purge`]).
    pub(in crate::sources) async fn purge(
        &self,
        now: Timestamp,
        leeway: Duration,
        hold: Duration,
    ) -> Result<(), LedgerError> {
        let purged = self.index.purge(now, leeway, Steady::now().uptime(), hold);
        let Some(file) = self.file.as_ref().filter(|_| purged > 0) else { return Ok(()) };
        let (file, index) = (Arc::clone(file), Arc::clone(&self.index));
        let forgotten = tokio::task::spawn_blocking(move || {
            file.with(|database| forget(database, |name, _| target(name).is_ok_and(|target| !index.has(&target))))
        });
        forgotten.await.map_err(|error| failed(&error))?
    }
}

fn failed(error: &dyn std::error::Error) -> LedgerError {
    LedgerError::File { cause: error.to_string().into() }
}

fn store(file: &Database, revocations: &[Revocation]) -> Result<(), redb::Error> {
    let transaction = file.begin_write()?;
    {
        let mut table = transaction.open_table(TABLE)?;
        let mut notes = transaction.open_table(NOTES)?;
        for revocation in revocations {
            let Target { issuer, kind, id } = &revocation.target;
            let key = format!("{issuer}:{kind}:{id}");
            let stored = table.get(&*key)?.map(|record| record.value());
            let (mut expires, mut signed_out, mut revoked) = stored.unwrap_or((0, None, None));
            let slot = match revocation.origin {
                Origin::SignedOut => &mut signed_out,
                Origin::Revoked => &mut revoked,
            };
            let before = *slot;
            *slot = before.max(Some(revocation.watermark.instant().as_millis()));
            let revokes_more = *slot > before;
            expires = expires.max(revocation.expires_at.as_millis());
            let record = (expires, signed_out, revoked);
            if stored != Some(record) {
                table.insert(&*key, record)?;
            }
            if let Some(Note { since, by, reason }) = revocation.note.as_deref() {
                let note =
                    (since.as_millis(), by.as_deref().unwrap_or_default(), reason.as_deref().unwrap_or_default());
                let at = (revocation.origin.as_str(), &*key);
                if revokes_more || notes.get(at)?.is_none() {
                    notes.insert(at, note)?;
                }
            }
        }
    }
    transaction.commit()?; // Synced to the disk before it returns.
    Ok(())
}

/// At the start of a process only the wall clock is available, which may be wrong: with this margin an entry is lost
/// only if that clock is a week ahead.
pub(in crate::sources) const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

fn load(file: &Database, index: &RevocationIndex, now: Timestamp) -> Result<(), redb::Error> {
    let (uptime, long_ago) = (Steady::now().uptime(), now.minus(FORGOTTEN_AFTER).as_millis());
    forget(file, |_, expires| expires <= long_ago)?;
    let transaction = file.begin_read()?;
    let notes = transaction.open_table(NOTES)?;
    for record in transaction.open_table(TABLE)?.iter()? {
        let (key, record) = record?;
        let (expires, signed_out, revoked) = record.value();
        let target = target(key.value())?;
        for (origin, millis) in [(Origin::SignedOut, signed_out), (Origin::Revoked, revoked)] {
            let Some(millis) = millis else { continue };
            let note = notes.get((origin.as_str(), key.value()))?;
            let note = note.and_then(|note| {
                let (since, by, reason) = note.value();
                Note::new(Timestamp::from_millis(since), by, reason)
            });
            let revocation = Revocation {
                target: target.clone(),
                watermark: Watermark::at(Timestamp::from_millis(millis)),
                expires_at: Timestamp::from_millis(expires),
                origin,
                note,
            };
            index.apply(&revocation, uptime);
        }
    }
    Ok(())
}

/// The target of a record.
fn target(name: &str) -> Result<Target, redb::Error> {
    let mut parts = name.splitn(3, ':');
    let (Some(issuer), Some(kind), Some(id)) = (
        parts.next().and_then(IssuerName::parse),
        parts.next().and_then(Kind::from_stored),
        parts.next().map(TargetId::from_stored),
    ) else {
        return Err(redb::Error::Corrupted(format!("a record named {name:?}")));
    };
    Ok(Target::new(issuer, kind, id))
}

fn forget(file: &Database, may_go: impl Fn(&str, i64) -> bool) -> Result<(), redb::Error> {
    let transaction = file.begin_write()?;
    {
        let mut table = transaction.open_table(TABLE)?;
        table.retain(|name, (expires, _, _)| !may_go(name, expires))?;
        let mut gone = Vec::new();
        let mut notes = transaction.open_table(NOTES)?;
        for note in notes.iter()? {
            let (key, _) = note?;
            let (origin, name) = key.value();
            if table.get(name)?.is_none() {
                gone.push((origin.to_owned(), name.to_owned()));
            }
        }
        for (origin, name) in &gone {
            notes.remove((&**origin, &**name))?;
        }
    }
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn revocation(id: &str, origin: Origin, at: Timestamp, expires_at: Timestamp) -> Revocation {
        let target = Target::new(IssuerName::parse("main").unwrap(), Kind::User, TargetId::new(id));
        Revocation { target, watermark: Watermark::at(at), expires_at, origin, note: None }
    }

    #[tokio::test]
    async fn a_file_forgets_nothing_over_a_restart_that_may_matter() {
        let directory = std::env::temp_dir().join(format!("doorward-embedded-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory); // Of a run that failed.
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("revocations.redb");
        let now = Timestamp::from_secs(crate::clock::now().as_secs()); // The index keeps whole seconds.
        let (soon, later) = (now.plus(std::time::Duration::from_secs(5)), now.plus(std::time::Duration::from_secs(60)));
        let mut written = [
            revocation("u", Origin::Revoked, now, later),
            revocation("u", Origin::SignedOut, later, later),
            revocation("u", Origin::SignedOut, now, soon), // Older and shorter: changes nothing.
            revocation("brief", Origin::SignedOut, now, soon),
        ];
        written[0].note = Note::new(now, "operator", "lost phone");
        written[3].note = Note::new(now, "", "by mistake");
        let ledger = EmbeddedLedger::open(&path, now).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        ledger.append(&written).await.unwrap();
        let second = EmbeddedLedger::open(&path, now).err().unwrap().to_string();
        assert!(second.contains("another process has it open"), "a second owner of the file is refused: {second}");
        drop(ledger);

        // A clock that is two days ahead deletes nothing, neither in memory nor on disk.
        let hold = Duration::from_secs(3600);
        for start in [later.plus(hold * 48), soon] {
            let ledger = EmbeddedLedger::open(&path, start).unwrap();
            ledger.purge(start, Duration::ZERO, hold).await.unwrap();
            let mut kept: Vec<_> = ledger.index().revocations().collect();
            kept.sort_by_key(|revocation| (revocation.target.id.clone(), revocation.origin));
            assert_eq!(kept, [written[3].clone(), written[1].clone(), written[0].clone()]);
        }
        let ledger = EmbeddedLedger::open(&path, soon.plus(FORGOTTEN_AFTER)).unwrap();
        assert_eq!(ledger.index().revocations().count(), 2, "the brief one expired a week ago");
        let notes = ledger.file.as_ref().unwrap().with(|file| {
            let notes = file.begin_read()?.open_table(NOTES)?;
            notes.iter()?.map(|note| Ok(note?.0.value().1.to_owned())).collect::<Result<Vec<_>, redb::Error>>()
        });
        assert_eq!(notes.unwrap(), ["main:user:u"], "its note went with it");
        drop(ledger);

        let sound = std::fs::read(&path).unwrap();
        let flipped = sound.iter().enumerate().map(|(at, byte)| if at < 4096 { *byte } else { !byte }).collect();
        for unsound in [b"not a ledger".to_vec(), sound[..sound.len() / 2].to_vec(), flipped] {
            std::fs::write(&path, unsound).unwrap();
            let error = EmbeddedLedger::open(&path, now).err().unwrap();
            assert!(error.to_string().contains("revocations.redb"), "{error}");
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    fn overwrite(path: &Path) {
        std::fs::copy(path.with_extension("copy"), path).unwrap();
    }

    fn empty(path: &Path) {
        std::fs::write(path, "").unwrap();
    }

    /// What another program does while this process writes, and before or after the commit.
    #[tokio::test]
    async fn a_file_that_is_changed_during_a_write_is_noticed_before_its_answer() {
        let directory = std::env::temp_dir().join(format!("doorward-during-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory); // Of a run that failed.
        std::fs::create_dir_all(&directory).unwrap();
        let now = Timestamp::from_secs(crate::clock::now().as_secs());
        let revoked = |id: &str| [revocation(id, Origin::Revoked, now, now.plus(Duration::from_secs(60)))];
        for (name, act) in [("overwritten", overwrite as fn(&Path)), ("emptied", empty)] {
            for commits_first in [false, true] {
                let path = directory.join(format!("{name}-{commits_first}.redb"));
                let ledger = EmbeddedLedger::open(&path, now).unwrap();
                ledger.append(&revoked("old")).await.unwrap();
                std::fs::copy(&path, path.with_extension("copy")).unwrap();
                ledger.append(&revoked("first")).await.unwrap();
                let [second] = revoked("second");
                ledger.index.apply(&second, Steady::now().uptime());
                let written = ledger.file.as_ref().unwrap().with(|file| {
                    if commits_first {
                        store(file, &[second])?;
                        act(&path);
                        return Ok(());
                    }
                    let transaction = file.begin_write()?;
                    transaction.open_table(TABLE)?.insert("main:user:second", (now.as_millis(), None, None))?;
                    act(&path);
                    transaction.commit()?;
                    Ok(())
                });
                let error = written.expect_err(name).to_string();
                assert!(error.contains("by another program"), "{name}, {commits_first}: {error}");
                assert!(ledger.keep().await.unwrap(), "everything is written again");
                ledger.append(&revoked("third")).await.unwrap();
                drop(ledger);
                let ledger = EmbeddedLedger::open(&path, now).unwrap();
                let mut kept: Vec<_> = ledger.index().revocations().map(|kept| kept.target.id.to_string()).collect();
                kept.sort_unstable();
                assert_eq!(kept, ["first", "old", "second", "third"], "{name}, {commits_first}");
            }
        }
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn a_panic_over_the_file_is_an_error_after_which_it_is_opened_again() {
        let path = std::env::temp_dir().join(format!("doorward-panic-{}.redb", std::process::id()));
        let _ = std::fs::remove_file(&path); // Of a run that failed.
        let ledger = EmbeddedLedger::open(&path, crate::clock::now()).unwrap();
        let written = ledger.file.as_ref().unwrap().with(|file| -> Result<(), redb::Error> {
            let _open = file.begin_write()?;
            panic!("as redb does over content of another program");
        });
        assert!(written.is_err());
        assert!(ledger.keep().await.unwrap(), "everything is written again");
        std::fs::remove_file(path).unwrap();
    }
}
