//! The writer: concurrent appends in one MULTI/EXEC, on a separate connection.
//!
//! Under WATCH it reads the values of the keys, so that an earlier watermark never overwrites a later one
//! and a time to live is never shortened; WAIT counts for the connection of the write.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fred::types::Value;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::super::{LedgerError, Position, RefusalKind};
use super::answer;
use super::clock::ServerClock;
use super::retention::Kept;
use super::session::{Command, Session, unavailable, unexpected};
use super::wire::{self, Keys};
use super::{RedisLedger, clock_note, retention};
use crate::authz::claims::Timestamp;
use crate::authz::revocation::{Kind, Origin, Revocation, Target, Watermark};
use crate::clock::Steady;

pub(super) struct Writer {
    queue: mpsc::Sender<Append>,
    waiting: AsyncMutex<mpsc::Receiver<Append>>,
    session: Mutex<Option<Session>>,
    /// Entries that are in the log, and whose keys others kept changing; see [`super::RedisConfig::defers_keys`].
    deferred: Mutex<HashMap<Target, Revocation>>,
}

struct Append {
    revocations: Vec<Revocation>,
    until: Instant,
    done: oneshot::Sender<Result<Position, LedgerError>>,
}

impl Writer {
    /// Appends that may wait; further ones are refused at their deadline.
    const MAX_WAITING: usize = 4096;
    /// Revocations in one transaction: small enough that the server answers within a millisecond
    /// or two, large enough that a burst is not bound by round trips.
    const MAX_BATCH: usize = 256;
    /// The pause between attempts while the store moves or starts.
    const RETRY: Duration = Duration::from_millis(25);
    /// The time reserved for the answer to reach the caller before the caller's own deadline.
    const GRACE: Duration = Duration::from_millis(50);
    /// The most attempts while other writers change the same keys.
    const MAX_CONFLICTS: usize = 16;
    /// Conflicts after which a key that others changed meanwhile is deferred, if that is allowed.
    const DEFERRED_AFTER: usize = 2;
    /// The most keys that are deferred, and those that are tried in one go.
    const MAX_DEFERRED: usize = 1_000;
    const TRIED: usize = 4;

    pub(super) fn new() -> Self {
        let (queue, waiting) = mpsc::channel(Self::MAX_WAITING);
        Self { queue, waiting: AsyncMutex::new(waiting), session: Mutex::new(None), deferred: Mutex::default() }
    }

    pub(super) async fn append(
        &self,
        revocations: Vec<Revocation>,
        deadline: Duration,
    ) -> Result<Position, LedgerError> {
        let (done, answer) = oneshot::channel();
        let append = Append { revocations, until: Instant::now() + deadline, done };
        let written = async {
            self.queue.send(append).await.map_err(|_| unavailable("the writer has stopped"))?;
            answer.await.map_err(|_| unavailable("the writer has stopped"))?
        };
        timeout(deadline + Self::GRACE, written).await.unwrap_or(Err(LedgerError::Timeout { after: deadline }))
    }

    pub(super) async fn run(&self, ledger: &RedisLedger) {
        let mut waiting = self.waiting.lock().await;
        while let Some(first) = waiting.recv().await {
            let mut size = first.revocations.len();
            let mut batch = vec![first];
            while size < Self::MAX_BATCH
                && let Ok(next) = waiting.try_recv()
            {
                size += next.revocations.len();
                batch.push(next);
            }
            self.write(ledger, batch).await;
        }
    }

    /// Writes a batch, on new connections if need be, until the last of its deadlines.
    async fn write(&self, ledger: &RedisLedger, mut batch: Vec<Append>) {
        let mut refusal = LedgerError::Timeout { after: ledger.config.write_deadline };
        loop {
            let now = Instant::now();
            for late in batch.extract_if(.., |append| append.until <= now || append.done.is_closed()) {
                let _ = late.done.send(Err(refusal.clone())); // A caller that left needs no answer.
            }
            if batch.is_empty() {
                return;
            }
            match self.attempt(ledger, &batch).await {
                Ok(positions) => {
                    for (append, position) in batch.into_iter().zip(positions) {
                        let _ = append.done.send(Ok(position));
                    }
                    return;
                }
                Err(error) if error.is_passing() => {
                    refusal = error;
                    sleep(Self::RETRY).await;
                }
                Err(error) => {
                    for append in batch {
                        let _ = append.done.send(Err(error.clone()));
                    }
                    return;
                }
            }
        }
    }

    /// Makes one attempt; the session is returned only after a success, so that a session with leftovers
    /// (a watch, an answer in flight) is never used again.
    async fn attempt(&self, ledger: &RedisLedger, batch: &[Append]) -> Result<Vec<Position>, LedgerError> {
        let kept = self.session().take();
        let session = match kept {
            Some(session) => session,
            None => ledger.session().await?,
        };
        let revocations: Vec<_> = batch.iter().flat_map(|append| &append.revocations).collect();
        let positions = commit(ledger, &session, &revocations).await?;
        if ledger.config.server.min_replicas > 0 {
            replicated(ledger, &session).await?;
        }
        *self.session() = Some(session);
        let mut ends = 0;
        batch
            .iter()
            .map(|append| {
                ends += append.revocations.len();
                positions.get(ends - 1).copied().ok_or_else(|| unavailable("fewer answers than commands"))
            })
            .collect()
    }

    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn deferred(&self) -> MutexGuard<'_, HashMap<Target, Revocation>> {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn defer(&self, revocation: &Revocation) {
        let mut deferred = self.deferred();
        let known = deferred.entry(revocation.target.clone()).or_insert_with(|| revocation.clone());
        let latest = (known.watermark, known.origin).max((revocation.watermark, revocation.origin));
        (known.watermark, known.origin) = latest;
        known.expires_at = known.expires_at.max(revocation.expires_at);
    }

    /// Tries once to set some of the deferred keys.
    pub(super) async fn set_deferred(&self, ledger: &RedisLedger) -> Result<(), LedgerError> {
        let some: Vec<_> = self.deferred().values().take(Self::TRIED).cloned().collect();
        if some.is_empty() {
            return Ok(());
        }
        let session = ledger.session().await?;
        for revocation in some {
            let mut records = Records::read(ledger, &session, &[&revocation]).await?;
            records.merge(&revocation);
            let sets = records.sets(&ledger.keys);
            if sets.is_empty() || session.transaction(sets, ledger.deadline()).await?.is_some() {
                self.deferred().remove(&revocation.target);
            }
        }
        Ok(())
    }
}

/// Writes keys and log entries in one transaction; returns each entry's place.
async fn commit<'a>(
    ledger: &RedisLedger,
    session: &Session,
    revocations: &[&'a Revocation],
) -> Result<Vec<Position>, LedgerError> {
    let (mut before, mut deferred) = (HashMap::new(), HashSet::new());
    for conflicts in 1..=Writer::MAX_CONFLICTS {
        let (later, now): (Vec<&Revocation>, Vec<&Revocation>) =
            revocations.iter().copied().partition(|revocation| deferred.contains(&revocation.target));
        let mut records = Records::read(ledger, session, &now).await?;
        let stored: HashMap<_, _> =
            records.by_target.iter().map(|(target, record)| (*target, (record.stored, record.life))).collect();
        for revocation in now {
            records.merge(revocation);
        }
        let mut commands = records.sets(&ledger.keys);
        commands.extend(records.kept.forget(&ledger.keys));
        let place = commands.len();
        commands.extend(revocations.iter().enumerate().map(|(at, revocation)| {
            let add = Command::new("XADD").arg(&*ledger.keys.log);
            // Once per transaction is enough.
            let add = match records.kept.trim_before().filter(|_| at == 0) {
                Some(before) => add.args(["MINID", "~"]).arg(before.as_millis()),
                None => add,
            };
            wire::fields(revocation).into_iter().fold(add.arg("*"), |add, (name, value)| add.arg(name).arg(value))
        }));
        if let Some(answers) = session.transaction(commands, ledger.deadline()).await? {
            for revocation in later {
                ledger.writer.defer(revocation);
            }
            return answers.get(place..).unwrap_or_default().iter().map(answer::position).collect();
        }
        let room = Writer::MAX_DEFERRED.saturating_sub(ledger.writer.deferred().len() + deferred.len());
        if ledger.config.defers_keys && conflicts > Writer::DEFERRED_AFTER {
            let has_changed = |target: &&'a Target| before.get(target).is_some_and(|was| *was != stored[target]);
            let changed = stored.keys().copied().filter(has_changed);
            deferred.extend(changed.take(room));
        }
        before = stored;
    }
    Err(LedgerError::Refused { kind: RefusalKind::Other, message: "other writers kept changing the same keys".into() })
}

async fn replicated(ledger: &RedisLedger, session: &Session) -> Result<(), LedgerError> {
    let wanted = ledger.config.server.min_replicas;
    let patience = (ledger.deadline() * 4 / 5).as_millis(); // Its answer must arrive before the deadline.
    let wait = Command::new("WAIT").arg(wanted).arg(i64::try_from(patience).unwrap_or(i64::MAX)).blocking();
    let answer = session.call(wait, ledger.deadline()).await?;
    let reached = answer
        .as_u64()
        .and_then(|reached| u32::try_from(reached).ok())
        .ok_or_else(|| unexpected("integer", &answer))?;
    if reached < wanted { Err(LedgerError::NotReplicated { reached, wanted }) } else { Ok(()) }
}

/// The latest end of a key, in seconds: that of a revocation in an instance. Redis refuses one that overflows.
const LAST_END: i64 = u32::MAX as i64;

/// The present and the intended values of the watched keys.
struct Records<'a> {
    by_target: HashMap<&'a Target, Record>,
    kept: Kept,
    /// The time for which other instances need an entry, if it is longer than the writer's.
    longer: Option<Duration>,
    now: Timestamp,
}

#[derive(Clone, Copy, Default)]
struct Record {
    stored: Option<(Watermark, Origin)>,
    merged: Option<(Watermark, Origin)>,
    life: Life,
    merged_life: Life,
}

/// The time to live of a key; ordered, the longest last.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
enum Life {
    #[default]
    Absent,
    Until(Timestamp),
    Forever,
}

impl<'a> Records<'a> {
    async fn read(
        ledger: &RedisLedger,
        session: &Session,
        revocations: &[&'a Revocation],
    ) -> Result<Self, LedgerError> {
        let mut targets: Vec<_> = revocations.iter().map(|revocation| &revocation.target).collect();
        targets.sort_unstable();
        targets.dedup();
        let mut keys: Vec<_> = targets.iter().map(|target| ledger.keys.target(target)).collect();
        if keys.is_empty() {
            keys.push(ledger.keys.meta.to_string()); // All are deferred; this one does not change.
        }
        let (watch, get) = (Command::new("WATCH").args(&keys), Command::new("MGET").args(&keys));
        let (time, clock) = (Command::new("TIME"), clock_note::Note::command(&ledger.keys));
        let mut commands = vec![watch, time, clock, retention::notes_command(&ledger.keys), get];
        commands.extend(keys.iter().map(|key| Command::new("PEXPIRETIME").arg(key)));
        let asked = Steady::now();
        let mut answers = session.pipeline(commands, ledger.deadline()).await?.into_iter().skip(1);
        let mut next = || answers.next().ok_or_else(|| unavailable("fewer answers than commands"));
        let (time, clock, noted, values) = (next()?, next()?, next()?, next()?);
        let Value::Array(values) = values else { return Err(unexpected("array", &values)) };
        let mut by_target = HashMap::with_capacity(targets.len());
        for ((target, value), life) in targets.into_iter().zip(values).zip(answers) {
            let stored = value.as_str().as_deref().and_then(wire::parse_value);
            let life = match life.as_i64() {
                Some(-1) => Life::Forever,
                Some(millis) if millis >= 0 => Life::Until(Timestamp::from_millis(millis)),
                _ => Life::Absent,
            };
            by_target.insert(target, Record { stored, merged: stored, life, merged_life: life });
        }
        let now = answer::time(&time)?; // The server's clock, which also names the log's entries.
        let read = ServerClock::read(asked, now);
        ledger.clock.begin(read);
        let stable_for = ledger.clock.stable_for_all(ledger.clock_note(&clock)?, read);
        let noted = ledger.retentions(&noted)?;
        let kept = Kept::from_notes(&noted, ledger.retention(), now.min(crate::clock::now()), stable_for);
        let longer = Some(kept.longest).filter(|longest| *longest > ledger.retention());
        Ok(Self { by_target, kept, longer, now })
    }

    fn sets(&self, keys: &Keys) -> Vec<Command> {
        self.by_target.iter().filter_map(|(target, record)| record.set(keys, target)).collect()
    }

    fn merge(&mut self, revocation: &'a Revocation) {
        let record = self.by_target.entry(&revocation.target).or_default();
        record.merged = record.merged.max(Some((revocation.watermark, revocation.origin)));
        let from = if revocation.watermark == Watermark::FOREVER { self.now } else { revocation.watermark.instant() };
        let until = match (revocation.target.kind, self.longer) {
            (Kind::Token | Kind::Registration, _) | (_, None) => revocation.expires_at,
            // Instances that look the key up may accept tokens with a longer lifetime than the writer's.
            (_, Some(longer)) => revocation.expires_at.max(from.plus(longer)),
        };
        let until = Timestamp::from_secs(until.as_secs_ceil().min(LAST_END));
        record.merged_life = record.merged_life.max(Life::Until(until));
    }
}

impl Record {
    /// The command that sets the key to the merged record; `None` if it is already set.
    fn set(&self, keys: &Keys, target: &Target) -> Option<Command> {
        let (watermark, origin) = self.merged?;
        if self.stored == self.merged && self.life == self.merged_life {
            return None;
        }
        let set = Command::new("SET").arg(keys.target(target)).arg(wire::value(target.kind, watermark, origin));
        Some(match self.merged_life {
            life if life == self.life => set.arg("KEEPTTL"),
            Life::Until(until) => set.arg("EXAT").arg(until.as_secs_ceil().max(1)),
            Life::Forever | Life::Absent => set,
        })
    }
}
