//! Reading the log, on a separate connection because the read blocks.

use std::time::Duration;

use fred::types::Value;

use super::super::{LedgerError, Position, RefusalKind};
use super::RedisLedger;
use super::answer::{self, Answer, position, short};
use super::foreign;
use super::server::{Server, StoreFacts};
use super::session::{Command, Session, unexpected};
use super::wire::{self, Decoder, Reader};
use crate::authz::claims::Timestamp;
use crate::authz::revocation::Revocation;

/// Reads the log over one connection, from the caller's position.
pub(in crate::sources) struct Feed<'a> {
    pub(super) ledger: &'a RedisLedger,
    pub(super) session: Session,
    decoder: Decoder,
    /// Everything added until a moment ago has been read: further entries are new.
    pub(in crate::sources) is_live: bool,
    /// Entries are read to be copied into another log (see [`Reader::as_written`]), with the fields of those that are
    /// not understood. They are dated by the store's clock alone: this machine may be in neither region. The longest
    /// retention of an instance in either.
    pub(in crate::sources) copies_for: Option<Duration>,
    /// The server at the start of the connection; see [`Self::facts`].
    pub(in crate::sources) server: Server,
}

/// A log entry; the error names the field that could not be parsed.
pub(in crate::sources) struct FeedItem {
    pub(in crate::sources) position: Position,
    pub(in crate::sources) revocation: Result<Revocation, &'static str>,
    /// Its writer waits for receipts.
    pub(in crate::sources) asks: bool,
    /// The fields of an entry that is not understood, if entries are copied; without the request for receipts.
    pub(in crate::sources) unread: Option<Unread>,
}

/// An entry that is not understood.
pub(in crate::sources) struct Unread {
    /// Its fields, decoded, in their order.
    pub(in crate::sources) fields: Box<[(Box<str>, Box<str>)]>,
    /// The same as they were written, one after the other.
    pub(in crate::sources) bytes: Box<[Box<[u8]>]>,
}

/// The result of one read.
pub(in crate::sources) struct Page {
    pub(in crate::sources) items: Vec<FeedItem>,
    /// Complete: every entry written before the read began has now been read.
    pub(in crate::sources) complete: bool,
    /// The source of the page, read after it. `None`: not requested.
    pub(in crate::sources) source: Option<Source>,
}

/// The store that answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::sources) struct Source {
    /// `None`: the store has no epoch, because it was emptied.
    pub(in crate::sources) epoch: Option<Box<str>>,
    pub(in crate::sources) server: Server,
}

/// A read together with the state of the log and of the store, in one atomic step.
pub(in crate::sources) struct Snapshot {
    pub(in crate::sources) page: Page,
    /// `None`: there is no log.
    pub(in crate::sources) stream: Option<StreamInfo>,
    pub(in crate::sources) facts: StoreFacts,
}

/// The log's state as reported by XINFO STREAM.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::sources) struct StreamInfo {
    pub(in crate::sources) last: Position,
    /// Entries ever added; trimming and deleting do not change it.
    pub(in crate::sources) added: u64,
    /// The number of entries.
    pub(in crate::sources) length: u64,
    /// The oldest entry, if there is one.
    pub(in crate::sources) first: Position,
    /// The newest entry that was ever deleted by XDEL; trimming does not change it.
    pub(in crate::sources) deleted: Position,
}

impl RedisLedger {
    /// The place of the newest entry at the server.
    pub(in crate::sources) async fn end(&self) -> Result<Position, LedgerError> {
        newest(&self.shared.call(self, self.newest_command(), self.deadline()).await?)
    }

    /// The command whose answer [`newest`] parses.
    pub(super) fn newest_command(&self) -> Command {
        Command::new("XREVRANGE").arg(&*self.keys.log).args(["+", "-", "COUNT", "1"])
    }

    pub(in crate::sources) async fn feed(&self) -> Result<Feed<'_>, LedgerError> {
        Ok(Feed {
            ledger: self,
            session: self.session().await?,
            decoder: Decoder::default(),
            server: Server::default(),
            is_live: false,
            copies_for: None,
        })
    }
}

/// The place of the newest entry; the start for an empty log.
pub(super) fn newest(answer: &Value) -> Result<Position, LedgerError> {
    match answer {
        Value::Array(entries) => match entries.first() {
            Some(Value::Array(entry)) => position(entry.first().unwrap_or(&Value::Null)),
            _ => Ok(Position::default()),
        },
        _ => Err(unexpected("entries", answer)),
    }
}

impl Feed<'_> {
    /// Entries in one read: 500 and 1000 were measured to be equally fast, 10,000 slower, because a reply in
    /// several pieces is parsed from its beginning at each piece.
    pub(super) const COUNT: usize = 1000;
    /// Added to the deadline: an idle read of 200 followers returned up to 110 ms late.
    const BLOCK_GRACE: Duration = Duration::from_millis(300);

    /// Reads the entries after `after` and waits for them up to `block`; with `ask_source`, then reads the source
    /// of the page, in that order on this connection.
    pub(in crate::sources) async fn next(
        &mut self,
        after: Position,
        block: Duration,
        ask_source: bool,
    ) -> Result<Page, LedgerError> {
        let read = self.read(after, Some(block)).blocking();
        // A server in another region may be far away; a copy need not notice soon that it does not answer.
        let grace = if self.copies_for.is_some() { self.ledger.deadline() } else { Self::BLOCK_GRACE };
        let deadline = block + grace;
        if !ask_source {
            let answer = self.session.call_raw(read, deadline).await?;
            return self.page(&answer, None);
        }
        let answers = self.session.pipeline(vec![read, self.epoch(), Server::command()], deadline).await?;
        let [read, epoch, who] = answers.as_slice() else { return Err(short()) };
        self.page(read, Some(source(epoch, Server::read(who))))
    }

    /// Reads the entries after `after`, without waiting for more.
    pub(in crate::sources) async fn page_after(&mut self, after: Position) -> Result<Page, LedgerError> {
        let frame = self.session.call_raw(self.read(after, None), self.ledger.deadline()).await?;
        self.page(&frame, None)
    }

    /// Reads the log from its start up to `end`, or to a page that is not full, and yields each page while the
    /// next one is in flight.
    pub(in crate::sources) async fn replay(
        &mut self,
        end: Position,
        mut take: impl FnMut(&[FeedItem]),
    ) -> Result<Position, LedgerError> {
        self.is_live = false;
        let mut last = Position::default();
        let mut frame = self.session.call_raw(self.read(last, None), self.ledger.deadline()).await?;
        loop {
            let entries = answer::entries(&frame)?;
            last = entries.last().map_or(Ok(last), |entry| answer::entry(entry).map(|(position, _)| position))?;
            if entries.len() < Self::COUNT || last >= end {
                take(&self.page(&frame, None)?.items);
                return Ok(last);
            }
            let read = self.read(last, None);
            let reader = self.reader();
            let Self { ledger, session, decoder, .. } = self;
            let (next, taken) = tokio::join!(
                biased; // The next command is sent before this page is processed.
                session.call_raw(read, ledger.deadline()),
                async { items(decoder, entries, reader).map(|items| take(&items)) },
            );
            taken?;
            frame = next?;
        }
    }

    /// Reads the entries after `after`, the state of the log and that of the store, in one atomic step.
    pub(in crate::sources) async fn snapshot(&mut self, after: Position) -> Result<Snapshot, LedgerError> {
        let commands = vec![self.read(after, None), self.epoch(), self.info(), StoreFacts::command()];
        match self.session.transaction(commands, self.ledger.deadline()).await {
            Ok(answers) => {
                let answers = answers.unwrap_or_default();
                let [read, epoch, info, facts] = answers.as_slice() else { return Err(short()) };
                self.snapshot_of(read, epoch, Some(stream_info(info)?), facts)
            }
            // A full server refuses to queue any command, reads included; the rest of the transaction is
            // discarded.
            Err(error) if error.is_out_of_memory() => {
                self.session = self.ledger.session().await?;
                self.unqueued_snapshot(after).await
            }
            Err(error) => self.snapshot_without_log(error).await,
        }
    }

    /// A snapshot without a transaction: if the state of the log is the same before and after the read, nothing
    /// changed between.
    async fn unqueued_snapshot(&mut self, after: Position) -> Result<Snapshot, LedgerError> {
        let commands = vec![self.info(), self.read(after, None), self.epoch(), self.info(), StoreFacts::command()];
        match self.session.pipeline(commands, self.ledger.deadline()).await {
            Ok(answers) => {
                let [before, read, epoch, info, facts] = answers.as_slice() else { return Err(short()) };
                let (before, stream) = (stream_info(before)?, stream_info(info)?);
                let mut snapshot = self.snapshot_of(read, epoch, Some(stream), facts)?;
                snapshot.page.complete &= before == stream; // Otherwise the reading continues, and is judged later.
                Ok(snapshot)
            }
            Err(error) => self.snapshot_without_log(error).await,
        }
    }

    /// XINFO of a log that does not exist is an error, and fails the whole answer.
    async fn snapshot_without_log(&mut self, error: LedgerError) -> Result<Snapshot, LedgerError> {
        match error {
            LedgerError::Refused { message, .. } if message.contains("no such key") => {
                let answers =
                    self.session.pipeline(vec![self.epoch(), StoreFacts::command()], self.ledger.deadline()).await?;
                let [epoch, facts] = answers.as_slice() else { return Err(short()) };
                self.snapshot_of(&Value::Null, epoch, None, facts)
            }
            error => Err(error),
        }
    }

    fn snapshot_of(
        &mut self,
        read: &Value,
        epoch: &Value,
        stream: Option<StreamInfo>,
        facts: &Value,
    ) -> Result<Snapshot, LedgerError> {
        let facts = StoreFacts::read(facts);
        let page = self.page(read, Some(source(epoch, facts.server.clone())))?;
        Ok(Snapshot { page, stream, facts })
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

    fn reader(&self) -> Reader {
        let reader = self.ledger.reader(self.is_live);
        match self.copies_for {
            None => reader,
            Some(retention) => Reader {
                retention,
                lead: self.ledger.lead(), // Read every few seconds, and a relay that cannot read them copies nothing.
                behind: Duration::ZERO,
                seen_at: Timestamp::default(),
                // The relays of two regions observe the setting of a clock a moment apart.
                set_at: Timestamp::from_secs(reader.set_at.as_secs_ceil()),
                as_written: true,
                ..reader
            },
        }
    }

    fn page(&mut self, read: &impl Answer, source: Option<Source>) -> Result<Page, LedgerError> {
        let entries = answer::entries(read)?;
        let reader = self.reader();
        let items = items(&mut self.decoder, entries, reader)?;
        Ok(Page { items, complete: entries.len() < Self::COUNT, source })
    }
}

fn source(epoch: &Value, server: Server) -> Source {
    Source { epoch: epoch.text().map(Into::into), server }
}

fn items<'a, A: Answer>(decoder: &mut Decoder, entries: &'a [A], reader: Reader) -> Result<Vec<FeedItem>, LedgerError> {
    let mut pairs = Vec::with_capacity(7);
    let item = |entry| {
        let (position, fields) = answer::entry(entry)?;
        let plain = |part: &'a A| foreign::plain(part.bytes()?);
        pairs.clear();
        pairs.extend(fields.chunks_exact(2).filter_map(|pair| Some((plain(&pair[0])?, plain(&pair[1])?))));
        let texts = pairs.iter().map(|(name, value)| (&**name, &**value));
        let revocation = decoder.revocation(position, texts.clone(), reader);
        let is_whole = pairs.len() * 2 == fields.len();
        let is_unread = reader.as_written && is_whole && revocation.is_err();
        let unread = is_unread.then(|| {
            let both = texts.zip(fields.chunks_exact(2)).filter(|((name, _), _)| *name != wire::RECEIPT);
            let bytes = both.clone().flat_map(|(_, pair)| pair).filter_map(|part| part.bytes().map(Into::into));
            let fields = both.map(|((name, value), _)| (name.into(), value.into()));
            Unread { bytes: bytes.collect(), fields: fields.collect() }
        });
        // Most entries have the usual fields only.
        let asks = fields.len() > 14 && fields.iter().any(|field| field.text() == Some(wire::RECEIPT));
        Ok(FeedItem { position, revocation, asks, unread })
    };
    entries.iter().map(item).collect()
}

pub(super) fn stream_info(info: &Value) -> Result<StreamInfo, LedgerError> {
    let Value::Array(pairs) = info else { return Err(unexpected("stream info", info)) };
    let fact = |name: &str| pairs.chunks_exact(2).find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1]);
    let count = |name: &str| {
        fact(name).and_then(Value::as_u64).ok_or_else(|| LedgerError::Refused {
            kind: RefusalKind::Other,
            message: format!("XINFO STREAM names no {name}: Redis or Valkey 7 or later is needed").into(),
        })
    };
    let place = |name: &str| position(fact(name).unwrap_or(&Value::Null));
    Ok(StreamInfo {
        added: count("entries-added")?,
        length: count("length")?,
        last: place("last-generated-id")?,
        first: place("recorded-first-entry-id")?,
        deleted: place("max-deleted-entry-id")?,
    })
}
