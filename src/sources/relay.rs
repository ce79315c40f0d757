//! A relay between two regions that have a Redis each: it follows the log of one and appends to the other what that
//! lacks.
//!
//! The log is a union that merges by the latest instant, so a copy may arrive late, twice or out of order. The relay
//! keeps in memory what the other log has, and compares each entry with it; it needs no place of its own in either log.
//!
//! - **Idempotent, resumable.** At its start it reads both logs whole, and appends what is missing. So a process that
//!   was killed in the middle of a copy, and one that takes over from it, continue where it was.
//! - **Free of loops.** An entry is compared by what was written in it, never by its id, which its copy does not have.
//!   Before it appends, the relay reads the other log to its end: an entry that has come from there is in it.
//! - **Losses.** What makes an instance read a log again makes the relay do so (see `replica/gap.rs`), and any change of
//!   the server, too. If the other log has lost entries, this one is read again from its start, and the lost ones are
//!   appended.
//! - **Instants** are copied as they are. What an entry leaves to its reader (no `at`, no `expires`) is written into its
//!   copy, by the clocks of the store from which it comes: in the other one its id is that of the copy.
//!
//! One process on a store runs its relay to another store, under a lease; two at once do no harm. A relay decides
//! nothing: the bound of the guarantee and the receipt are those of one region.

mod copying;
mod known;
mod note;
mod outage;
mod passing;
mod stats;
mod unread;

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ledger::{LedgerError, Redis, RedisConfig, RedisConfigError, RedisLedger};
use super::retry::Backoff;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{Lead, TargetId};
use crate::clock::Steady;
use copying::{Fault, Progress};
use note::RelayNote;
pub use note::{RelayState, RelayStatus};
use outage::Outage;
use stats::Outcome;
pub use stats::RelayStats;

/// The stores of a relay, and its names.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// Its name in metrics and for operators, such as `relay.1`.
    pub name: Box<str>,
    /// This process, for the lease.
    pub process: Box<str>,
    /// The store whose log is followed. Its `retention` is the time for which both logs are needed; entries are copied
    /// until they have been expired for so long.
    pub from: RedisConfig,
    /// The store to which entries are appended.
    pub to: RedisConfig,
}

/// A relay in one direction.
pub struct Relay {
    name: Box<str>,
    process: Box<str>,
    /// Names the relay in the store.
    id: Box<str>,
    retention: Duration,
    from: RedisLedger,
    to: RedisLedger,
    stats: RelayStats,
    /// By [`Outcome`]: an entry was named in the log.
    named: [AtomicBool; Outcome::ALL.len()],
    known: Mutex<Known>,
    changed: Notify,
    /// The margins of the issuers that the stores know.
    leads: Mutex<Vec<(IssuerName, Lead)>>,
}

/// What this process knows about the relay.
struct Known {
    owned: bool,
    owner: Option<String>,
    note: RelayNote,
    /// What hinders beside the copying, by [`Remark`].
    remarks: [Option<String>; 2],
    /// What the present owner's note was at first. One that was killed changes it no more.
    watched: Watched,
    /// Since when the note does not have [`RelayNote::as_of`], if it does not.
    uncertain: Steady,
    outage: Outage,
}

/// A key of another type that an operator must remove, while entries are copied.
#[derive(Clone, Copy)]
enum Remark {
    Lease,
    Note,
}

/// What a process that does not copy has seen of the owner.
#[derive(Default)]
struct Watched {
    owner: Option<String>,
    first: Option<String>,
    is_alive: bool,
}

/// The lease of a relay's owner; another process takes over after it.
const LEASE: Duration = Duration::from_secs(10);
/// The interval of renewals, and of notes.
const TICK: Duration = Duration::from_secs(2);
/// The interval of notes in both stores, and of reading the meaning of issuers' names.
const TEND_EVERY: Duration = Duration::from_secs(5);
/// The interval at which the other processes read the note, and try to take over.
const FOLLOW: Duration = Duration::from_secs(5);
/// The pauses between connections: doubled from the first to the longest.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];
/// The pause after a fault that an operator must repair.
const LASTING: Duration = Duration::from_secs(5);
/// The longest time for giving the lease up at the end.
const RELEASING: Duration = Duration::from_secs(1);

impl Relay {
    /// The age of the copy from which on a region counts as behind; a shorter outage is not warned about.
    pub const BEHIND: Duration = Duration::from_secs(30);

    /// How a relay uses a store, which may be far away.
    #[must_use]
    pub fn config(server: Redis) -> RedisConfig {
        RedisConfig {
            connect_deadline: Duration::from_secs(5),
            command_deadline: Duration::from_secs(5),
            write_deadline: Duration::from_secs(10),
            ..RedisConfig::new(server)
        }
    }

    /// Checks the settings; does not connect yet.
    pub fn new(settings: RelaySettings, stats: RelayStats) -> Result<Self, RedisConfigError> {
        let RelaySettings { name, process, from, to } = settings;
        stats.expect(&name);
        let id = id_of(&format!("{}\0{}", from.server.identity(), to.server.identity()));
        let retention = from.retention;
        // The instances there note for how long a key is needed; a relay has no needs of its own.
        let to = RedisConfig { retention: Duration::ZERO, defers_keys: true, ..to };
        Ok(Self {
            name,
            process,
            id,
            retention,
            from: RedisLedger::new(from)?,
            to: RedisLedger::new(to)?,
            stats,
            named: Default::default(),
            known: Mutex::new(Known {
                owned: false,
                owner: None,
                note: RelayNote::default(),
                remarks: Default::default(),
                watched: Watched::default(),
                uncertain: Steady::now(),
                outage: Outage::default(),
            }),
            changed: Notify::new(),
            leads: Mutex::default(),
        })
    }

    /// Copies until `stop`, whenever this process has the lease.
    pub async fn run(&self, stop: CancellationToken) {
        tokio::select! {
            () = self.to.write() => {} // It never ends.
            () = Box::pin(self.keep()) => {}
            () = stop.cancelled() => {}
        }
        if self.known().owned {
            let _ = timeout(RELEASING, self.claim(Duration::from_millis(1))).await; // The lease ends by itself, too.
        }
    }

    /// What is known of the relay, whichever process runs it.
    #[must_use]
    pub fn status(&self) -> RelayStatus {
        let now = self.from.store_clock();
        let known = self.known();
        let RelayNote { state, as_of, problem, .. } = known.note.clone();
        let lag = as_of.and_then(|as_of| Some(now?.since(Timestamp::from_millis(as_of))));
        let is_behind = lag.unwrap_or_else(|| known.uncertain.elapsed()) > Self::BEHIND;
        RelayStatus {
            name: self.name.clone(),
            to: self.to.config().server.place(),
            state,
            owner: known.owner.clone(),
            lag,
            is_up: lag.is_some() && !is_behind && !state.is_lasting(),
            is_overdue: is_behind || state.is_lasting(),
            problem,
        }
    }

    /// A fault of the two stores together that this process has found itself, and that lasts.
    #[must_use]
    pub fn own_fault(&self) -> Option<String> {
        let known = self.known();
        let problem = known.note.problem.as_ref().filter(|_| known.note.state.is_lasting() && known.owned)?;
        let [from, to] = [&self.from, &self.to].map(|ledger| ledger.config().server.place());
        Some(format!("from {from} to {to}: {problem}"))
    }

    async fn keep(&self) {
        loop {
            match self.claim(LEASE).await {
                Ok(true) => {
                    self.owns(true);
                    tokio::select! {
                        () = self.copy_patiently() => {} // It never ends.
                        () = self.hold() => {}
                    }
                    self.owns(false);
                }
                Ok(false) => {
                    let is_alive = self.follow_note().await;
                    sleep(if is_alive { FOLLOW } else { TICK }).await;
                }
                Err(fault) => {
                    self.hindered(&fault);
                    sleep(TICK).await;
                }
            }
        }
    }

    /// Takes or renews the lease: in this region's store, or in the other one while this one is full, or has another
    /// program's key there. Reading the log needs neither.
    async fn claim(&self, lasts: Duration) -> Result<bool, Fault> {
        let claimed = self.from.own_relay(&self.id, &self.process, lasts).await;
        self.remark(Remark::Lease, &self.from, claimed.as_ref().err());
        let (ledger, claimed) = match claimed {
            Err(error) if error.is_out_of_memory() || error.is_wrong_type() => {
                (&self.to, self.to.own_relay(&self.id, &self.process, lasts).await)
            }
            claimed => (&self.from, claimed),
        };
        claimed.map_err(|error| Fault::at(ledger, error))
    }

    /// Renews the lease and the note until the lease is lost. While the other store cannot be reached, this one learns all
    /// the same for how long its log is needed, and the lease is left from time to time: another process may reach that
    /// store, or have a password that it accepts. If none takes the lease, this one goes on.
    async fn hold(&self) {
        let (mut renewed, mut tended) = (Steady::now(), Steady::now());
        self.known().outage.gives_up(); // Failures from before it had the lease do not count.
        loop {
            let _ = timeout(TICK, self.changed.notified()).await;
            let gives_up = self.known().outage.gives_up();
            if gives_up && self.claim(Duration::from_millis(1)).await.is_ok() {
                sleep(FOLLOW + TICK).await; // Each other process tries to take it meanwhile.
            }
            match self.claim(LEASE).await {
                Ok(true) => renewed = Steady::now(),
                Ok(false) => return,
                Err(_) if renewed.elapsed() + TICK >= LEASE => return, // Another process may own it from here on.
                Err(_) => continue,
            }
            let noted = self.from.store_clock().map(Timestamp::as_millis);
            let note = RelayNote { noted, ..self.known().note.clone() }.text();
            let _ = self.from.note_relay(&self.id, &note).await; // Repeated at the next tick.
            if self.known().note.state != RelayState::Following && tended.elapsed() >= TEND_EVERY {
                tended = Steady::now();
                let _ = self.from.tend(self.needed()).await; // The same.
            }
        }
    }

    /// Takes over what the owner notes; false if nothing shows that it lives.
    async fn follow_note(&self) -> bool {
        let [text, owner] = match self.from.relay_note(&self.id).await {
            Ok(read) => read,
            Err(error) => {
                self.hindered(&Fault::at(&self.from, error));
                return false;
            }
        };
        // The clock is read with the log only by the owner.
        if let Err(error) = self.from.read_clock().await {
            tracing::debug!(%error, "the store's clock is not read");
        }
        let mut known = self.known();
        let note = text.as_deref().and_then(RelayNote::parse).unwrap_or_default();
        let is_alive = known.watched.look(owner.as_ref(), text);
        let note = if is_alive { note } else { RelayNote { as_of: known.note.as_of, ..RelayNote::default() } };
        (known.note.state, known.note.problem, known.owner) = (note.state, note.problem, owner);
        drop(known);
        self.copied_up_to(note.as_of.map(Timestamp::from_millis));
        if note.state == RelayState::Following {
            self.caught_up();
        }
        is_alive
    }

    /// Copies over new connections whenever one ends.
    async fn copy_patiently(&self) {
        let (mut progress, mut backoff) = (Progress::default(), Backoff::new(BACKOFF));
        loop {
            let began = Steady::now();
            let Err(fault) = Box::pin(self.copy(&mut progress)).await;
            self.hindered(&fault);
            if began.elapsed() > BACKOFF[1] * 2 {
                backoff.succeeded(); // The connections worked for a while.
            }
            let pause = if fault.state().is_lasting() { LASTING } else { backoff.failed() };
            sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
        }
    }

    fn owns(&self, owned: bool) {
        let mut known = self.known();
        known.owned = owned;
        known.owner = Some(self.process.to_string()).filter(|_| owned);
        if owned {
            known.note.state = RelayState::Starting;
        }
        drop(known);
        tracing::info!(relay = %self.name, owned, to = self.to.config().server.place(), "relay");
    }

    /// Records a state; it is logged when it changes.
    fn set(&self, state: RelayState) {
        let mut known = self.known();
        let was = std::mem::replace(&mut known.note.state, state);
        known.note.problem = known.remarks.iter().flatten().next().cloned();
        drop(known);
        if was != state {
            tracing::info!(relay = %self.name, %state, %was, "relay");
            self.changed.notify_one();
        }
    }

    /// Records a key of another type, or that there is none; the log has it from the store's client.
    fn remark(&self, of: Remark, ledger: &RedisLedger, error: Option<&LedgerError>) {
        let error = error.filter(|error| error.is_wrong_type()).cloned();
        self.known().remarks[of as usize] = error.map(|error| Fault::at(ledger, error).to_string());
    }

    fn hindered(&self, fault: &Fault) {
        let (state, problem) = (fault.state(), fault.to_string());
        let mut known = self.known();
        let is_new = known.note.state != state;
        let differs = is_new || known.note.problem.as_ref() != Some(&problem);
        (known.note.state, known.note.problem) = (state, Some(problem));
        let warns = known.outage.goes_on(Steady::now(), state.is_lasting());
        drop(known);
        if warns {
            tracing::warn!(relay = %self.name, %state, error = %fault, "relay: revocations are not copied");
        } else if is_new {
            tracing::info!(relay = %self.name, %state, error = %fault, "relay");
        }
        if differs {
            self.changed.notify_one();
        }
    }

    /// Everything that was written before the present moment is in the other store.
    fn caught_up(&self) {
        let ended = self.known().outage.end(Steady::now());
        if let Some((lasted, entries)) = ended {
            let seconds = lasted.as_secs();
            tracing::info!(relay = %self.name, outage_seconds = seconds, entries, "relay: revocations are copied again");
        }
    }

    /// Everything that was written to the source up to then, by its clock, is in the other store.
    fn copied_up_to(&self, as_of: Option<Timestamp>) {
        let mut known = self.known();
        if as_of.is_none() && known.note.as_of.is_some() {
            known.uncertain = Steady::now();
        }
        known.note.as_of = as_of.map(Timestamp::as_millis); // Earlier than before, if the clock was set back.
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// Whether the owner lives: its note has changed while this process looked.
    fn look(&mut self, owner: Option<&String>, text: Option<String>) -> bool {
        if self.owner.as_ref() != owner {
            *self = Self { owner: owner.cloned(), first: text, is_alive: false };
        } else if owner.is_some() && self.first != text {
            self.is_alive = true;
        }
        self.is_alive
    }
}

/// 128 bits of SHA-256 in hex.
fn id_of(text: &str) -> Box<str> {
    let digest = TargetId::digest(text.as_bytes()).to_string();
    let hex = digest.rsplit(':').next().unwrap_or_default();
    hex.chars().take(32).collect::<String>().into()
}
