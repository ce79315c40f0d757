//! Reading the log, on a connection of its own because it blocks.

use std::time::Duration;

use fred::types::Value;

use super::super::{LedgerError, Position};
use super::RedisLedger;
use super::answer::{self, Answer, position, short};
use super::session::{Command, Session, unexpected};
use super::wire::{self, Decoder};
use crate::authz::claims::Timestamp;
use crate::authz::revocation::Revocation;

/// One connection's reading of the log, from wherever the caller is.
pub(in crate::sources) struct Feed<'a> {
    pub(super) ledger: &'a RedisLedger,
    pub(super) session: Session,
    decoder: Decoder,
    /// Of the server's data, as it last said; a restart and a failover change it.
    replication_id: Box<str>,
}

/// A log entry; the error names the field that could not be understood.
pub(in crate::sources) struct FeedItem {
    pub(in crate::sources) position: Position,
    pub(in crate::sources) revocation: Result<Revocation, &'static str>,
    /// Somebody waits to hear who has applied it.
    pub(in crate::sources) asks: bool,
}

/// What one read returned.
pub(in crate::sources) struct Page {
    pub(in crate::sources) items: Vec<FeedItem>,
    /// Nothing was left behind: every entry written before the read began has now been read.
    pub(in crate::sources) complete: bool,
    pub(in crate::sources) epoch: Epoch,
}

/// Which life of the store an answer is from; asked for after the read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::sources) enum Epoch {
    NotAsked,
    /// The store has none: it was emptied.
    Missing,
    Is(Box<str>),
}

/// A read together with the log's own account of itself, in one atomic step.
pub(in crate::sources) struct Snapshot {
    pub(in crate::sources) page: Page,
    /// `None`: there is no log.
    pub(in crate::sources) stream: Option<StreamInfo>,
}

/// What XINFO STREAM says of the log.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::sources) struct StreamInfo {
    pub(in crate::sources) last: Position,
    /// Entries ever added; trimming and deleting leave it as it is.
    pub(in crate::sources) added: u64,
}

/// What makes a store unfit to keep revocations.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::sources) struct StoreFacts {
    pub(in crate::sources) role: Box<str>,
    pub(in crate::sources) max_memory: u64,
    pub(in crate::sources) eviction_policy: Box<str>,
}

impl RedisLedger {
    /// Tries to become the one instance that puts back what the store lost; the claim lapses by
    /// itself, so that a holder that dies does not keep the others from it.
    pub(in crate::sources) async fn claim_reseed(&self, holder: &str) -> Result<bool, LedgerError> {
        let claim = Command::new("SET").arg(&*self.keys.reseed).arg(holder).args(["NX", "PX"]).arg(Feed::CLAIM_MS);
        Ok(!self.shared.call(self, claim, self.deadline()).await?.is_null())
    }

    pub(in crate::sources) async fn extend_reseed(&self, holder: &str) -> Result<(), LedgerError> {
        let extend = Command::new("SET").arg(&*self.keys.reseed).arg(holder).arg("PX").arg(Feed::CLAIM_MS);
        self.shared.call(self, extend, self.deadline()).await.map(drop)
    }

    pub(in crate::sources) async fn release_reseed(&self) -> Result<(), LedgerError> {
        let release = Command::new("DEL").arg(&*self.keys.reseed);
        self.shared.call(self, release, self.deadline()).await.map(drop)
    }

    /// The place of the newest entry, as the server has it now.
    pub(in crate::sources) async fn end(&self) -> Result<Position, LedgerError> {
        let newest = Command::new("XREVRANGE").arg(&*self.keys.log).args(["+", "-", "COUNT", "1"]);
        let answer = self.shared.call(self, newest, self.deadline()).await?;
        match &answer {
            Value::Array(entries) => match entries.first() {
                Some(Value::Array(entry)) => position(entry.first().unwrap_or(&Value::Null)),
                _ => Ok(Position::default()),
            },
            _ => Err(unexpected("entries", &answer)),
        }
    }

    pub(in crate::sources) async fn feed(&self) -> Result<Feed<'_>, LedgerError> {
        Ok(Feed {
            ledger: self,
            session: self.session().await?,
            decoder: Decoder::default(),
            replication_id: Box::default(),
        })
    }
}

impl Feed<'_> {
    /// Entries in one read: 500 and 1000 were measured to be equally fast, 10,000 slower, because a
    /// reply that arrives in more pieces is parsed from its beginning at each of them.
    const COUNT: usize = 1000;
    /// An idle read of 200 followers came back up to 110 ms late.
    const BLOCK_GRACE: Duration = Duration::from_millis(300);
    /// How long a claim on re-seeding lasts without being extended, in milliseconds.
    const CLAIM_MS: i64 = 5_000;

    /// Reads what follows `after` and waits for it up to the configured time; with `ask_epoch`, then
    /// reads the epoch, in that order on this connection.
    pub(in crate::sources) async fn next(&mut self, after: Position, ask_epoch: bool) -> Result<Page, LedgerError> {
        let block = self.ledger.config.block;
        let read = self.read(after, Some(block)).blocking();
        let deadline = block + Self::BLOCK_GRACE;
        if !ask_epoch {
            let answer = self.session.call_raw(read, deadline).await?;
            return self.page(&answer, None);
        }
        let answers = self.session.pipeline(vec![read, self.epoch()], deadline).await?;
        let [read, epoch] = answers.as_slice() else { return Err(short()) };
        self.page(read, Some(epoch))
    }

    /// Reads the log from its start up to a page that is not full, and hands each page over while the
    /// next one is on its way.
    pub(in crate::sources) async fn replay(
        &mut self,
        mut take: impl FnMut(&[FeedItem]),
    ) -> Result<Position, LedgerError> {
        let mut last = Position::default();
        let mut frame = self.session.call_raw(self.read(last, None), self.ledger.deadline()).await?;
        loop {
            let entries = answer::entries(&frame)?;
            last = entries.last().map_or(Ok(last), |entry| answer::entry(entry).map(|(position, _)| position))?;
            if entries.len() < Self::COUNT {
                take(&self.page(&frame, None)?.items);
                return Ok(last);
            }
            let read = self.read(last, None);
            let Self { ledger, session, decoder, .. } = self;
            let (next, taken) = tokio::join!(
                biased; // The command is on its way before this page is looked at.
                session.call_raw(read, ledger.deadline()),
                async { items(decoder, entries, ledger.config.retention).map(|items| take(&items)) },
            );
            taken?;
            frame = next?;
        }
    }

    /// Reads what follows `after`, the log's account of itself and the epoch, in one atomic step.
    pub(in crate::sources) async fn snapshot(&mut self, after: Position) -> Result<Snapshot, LedgerError> {
        let commands = vec![self.read(after, None), self.epoch(), self.info()];
        match self.session.transaction(commands, self.ledger.deadline()).await {
            Ok(answers) => {
                let answers = answers.unwrap_or_default();
                let [read, epoch, info] = answers.as_slice() else { return Err(short()) };
                Ok(Snapshot { page: self.page(read, Some(epoch))?, stream: Some(stream_info(info)?) })
            }
            // A full server queues nothing, reads included; what it left of the transaction goes too.
            Err(error) if error.label() == "out_of_memory" => {
                self.session = self.ledger.session().await?;
                self.unqueued_snapshot(after).await
            }
            Err(error) => self.snapshot_without_log(error).await,
        }
    }

    /// A snapshot without a transaction: if the log's account is the same before and after the read,
    /// nothing happened between.
    async fn unqueued_snapshot(&mut self, after: Position) -> Result<Snapshot, LedgerError> {
        let commands = vec![self.info(), self.read(after, None), self.epoch(), self.info()];
        match self.session.pipeline(commands, self.ledger.deadline()).await {
            Ok(answers) => {
                let [before, read, epoch, info] = answers.as_slice() else { return Err(short()) };
                let (before, stream) = (stream_info(before)?, stream_info(info)?);
                let mut page = self.page(read, Some(epoch))?;
                page.complete &= before == stream; // Else it is read on, and judged then.
                Ok(Snapshot { page, stream: Some(stream) })
            }
            Err(error) => self.snapshot_without_log(error).await,
        }
    }

    /// XINFO of a log that does not exist is an error, and takes the whole answer with it.
    async fn snapshot_without_log(&mut self, error: LedgerError) -> Result<Snapshot, LedgerError> {
        match error {
            LedgerError::Refused { message, .. } if message.contains("no such key") => {
                let epoch = self.session.call(self.epoch(), self.ledger.deadline()).await?;
                Ok(Snapshot { page: self.page(&Value::Null, Some(&epoch))?, stream: None })
            }
            error => Err(error),
        }
    }

    /// The epoch of the store; founds one, named by `name` and the server's time, if it has none.
    pub(in crate::sources) async fn found_epoch(&mut self, name: &str) -> Result<Box<str>, LedgerError> {
        // Asked first: a full server refuses to write, also what is there already.
        let epoch = self.session.call(self.epoch(), self.ledger.deadline()).await?;
        if let Some(epoch) = epoch.text() {
            return Ok(epoch.into());
        }
        let now = self.time().await?;
        let found =
            Command::new("SET").arg(&*self.ledger.keys.meta).arg(format!("{name} {}", now.as_millis())).arg("NX");
        let answers = self.session.pipeline(vec![found, self.epoch()], self.ledger.deadline()).await?;
        let epoch = answers.get(1).and_then(Answer::text).ok_or_else(short)?;
        Ok(epoch.into())
    }

    /// Since when, by its own clock, instances have read from this very server: a failover or a restart
    /// begins anew, with the first new instance that finds another one noted.
    ///
    /// [`Self::facts`] must have been asked for on this connection.
    pub(in crate::sources) async fn served_since(&mut self) -> Result<Timestamp, LedgerError> {
        let key = &*self.ledger.keys.server;
        let noted = self.session.call(Command::new("GET").arg(key), self.ledger.deadline()).await?;
        let (id, since) = noted.text().and_then(|noted| noted.split_once(' ')).unwrap_or_default();
        if id == &*self.replication_id {
            return Ok(Timestamp::from_millis(since.parse().unwrap_or_default()));
        }
        let now = self.time().await?;
        let note = Command::new("SET").arg(key).arg(format!("{} {}", self.replication_id, now.as_millis()));
        match self.session.call(note, self.ledger.deadline()).await {
            // A full server: every new instance waits as if it were the first.
            Err(error) if error.label() != "out_of_memory" => Err(error),
            _ => Ok(now),
        }
    }

    /// The server's clock.
    pub(in crate::sources) async fn time(&mut self) -> Result<Timestamp, LedgerError> {
        answer::time(&self.session.call(Command::new("TIME"), self.ledger.deadline()).await?)
    }

    /// Whether an instance is putting back what the store lost.
    pub(in crate::sources) async fn reseeding(&mut self) -> Result<bool, LedgerError> {
        let exists = Command::new("EXISTS").arg(&*self.ledger.keys.reseed);
        let answer = self.session.call(exists, self.ledger.deadline()).await?;
        Ok(answer.as_i64().ok_or_else(|| unexpected("integer", &answer))? > 0)
    }

    pub(in crate::sources) async fn facts(&mut self) -> Result<StoreFacts, LedgerError> {
        let info = Command::new("INFO").args(["memory", "replication"]);
        let answer = self.session.call(info, self.ledger.deadline()).await?;
        let info = answer.text().ok_or_else(|| unexpected("text", &answer))?;
        let fact =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
        self.replication_id = fact("master_replid").into();
        Ok(StoreFacts {
            role: fact("role").into(),
            max_memory: fact("maxmemory").parse().unwrap_or(0),
            eviction_policy: fact("maxmemory_policy").into(),
        })
    }

    fn read(&self, after: Position, block: Option<Duration>) -> Command {
        let read = Command::new("XREAD").arg("COUNT").arg(i64::try_from(Self::COUNT).unwrap_or(i64::MAX));
        let read = match block {
            Some(block) => read.arg("BLOCK").arg(i64::try_from(block.as_millis()).unwrap_or(i64::MAX)),
            None => read,
        };
        read.arg("STREAMS").arg(&*self.ledger.keys.log).arg(after.to_string())
    }

    fn info(&self) -> Command {
        Command::new("XINFO").arg("STREAM").arg(&*self.ledger.keys.log)
    }

    fn epoch(&self) -> Command {
        Command::new("GET").arg(&*self.ledger.keys.meta)
    }

    fn page(&mut self, read: &impl Answer, epoch: Option<&Value>) -> Result<Page, LedgerError> {
        let entries = answer::entries(read)?;
        let items = items(&mut self.decoder, entries, self.ledger.config.retention)?;
        let epoch = match epoch {
            None => Epoch::NotAsked,
            Some(answer) => answer.text().map_or(Epoch::Missing, |epoch| Epoch::Is(epoch.into())),
        };
        Ok(Page { items, complete: entries.len() < Self::COUNT, epoch })
    }
}

fn items<A: Answer>(decoder: &mut Decoder, entries: &[A], retention: Duration) -> Result<Vec<FeedItem>, LedgerError> {
    let item = |entry: &A| {
        let (position, fields) = answer::entry(entry)?;
        let pairs = fields.chunks_exact(2).filter_map(|pair| Some((pair[0].text()?, pair[1].text()?)));
        // Most entries have the usual fields only.
        let asks = fields.len() > 14 && fields.iter().any(|field| field.text() == Some(wire::RECEIPT));
        Ok(FeedItem { position, revocation: decoder.revocation(position, pairs, retention), asks })
    };
    entries.iter().map(item).collect()
}

fn stream_info(info: &Value) -> Result<StreamInfo, LedgerError> {
    let Value::Array(pairs) = info else { return Err(unexpected("stream info", info)) };
    let fact = |name: &str| pairs.chunks_exact(2).find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1]);
    let added = fact("entries-added").and_then(Value::as_u64).ok_or(LedgerError::Refused {
        code: "VERSION".into(),
        message: "XINFO STREAM names no entries-added: Redis or Valkey 7 or later is needed".into(),
    })?;
    Ok(StreamInfo { last: position(fact("last-generated-id").unwrap_or(&Value::Null))?, added })
}
