//! The durable, shared log of revocations; the only module that uses Redis and redb.
//!
//! # The Redis contract
//!
//! Public and stable, so that a service in any language can revoke by writing to Redis itself.
//! Under the configured prefix (`doorward:` here; `{r}` is literal, a hash tag that keeps
//! everything in one slot of a cluster):
//!
//! ```text
//! MULTI
//! SET  doorward:{r}:main:token:JTI "* signed_out" EXAT 1767225630
//! XADD doorward:{r}:log * issuer main kind token id JTI at * expires 1767225630000 origin signed_out reason ""
//! EXEC
//! ```
//!
//! - The key is `ISSUER:KIND:ID`; its value is the watermark in milliseconds (or `*`: every token of the target) and
//!   the origin, with one space between; its time to live ends when the last token that it can refuse has expired,
//!   leeway included, rounded up to the second.
//! - Instances follow the log. Its fields, in any order: `issuer kind id at expires origin reason`. `at` and `expires`
//!   are milliseconds since 1970.
//! - An `id` longer than 128 bytes or with bytes outside `[A-Za-z0-9._~@|+=-]` is written as
//!   `sha256:` and its hex digest.
//! - Doorward never overwrites a later watermark in a key with an earlier one and never shortens a time to live;
//!   another writer that does so loses nothing in `replica` mode, because instances merge the log by the latest
//!   watermark.
//!
//! Entries of other writers are read leniently where that can only revoke more:
//!
//! - `at` or `expires` below 10^11 is read as seconds (as milliseconds it would be 1973); a second means all of it.
//! - A missing `origin` is `revoked`; a missing `at` is `*` for a token, a session or a key and the time of the entry
//!   for the others, plus the lead of the issuer's tokens; a missing `id` of kind `issuer` is the issuer's name.
//! - `expires` bounds a token's entry alone. The others are kept for the longest lifetime of this instance's tokens,
//!   from `at` or from the time of the entry, or longer if `expires` is later.
//! - An entry whose id is in the future of the store's clock counts as written now.
//! - Entries of unknown issuers are kept: a reload may add the issuer.
//! - An entry that still cannot be read is counted and logged, and never stops the reading.
//!
//! With `revocation.list: allow` only registered tokens are accepted. A registration is an entry of the same
//! log and a key beside the revocations, of the kind `registration`, with the id that would revoke the token:
//!
//! ```text
//! MULTI
//! SET  doorward:{r}:main:registration:JTI "* registered" EXAT 1767225630
//! XADD doorward:{r}:log * issuer main kind registration id JTI at * expires 1767225630000 origin registered reason ""
//! EXEC
//! ```
//!
//! A registration is read strictly, because leniency would accept more: without a readable `expires` it is ignored. It
//! cannot be withdrawn; the token is revoked instead.
//!
//! Doorward uses more keys under the prefix, which other writers must not touch: `{r}:meta` (the epoch of the log,
//! which is lost with a flush), `{r}:server` (the server that instances read from, and since when), `{r}:lost` (when an
//! instance last saw that the store had lost its data), `{r}:repairing`
//! and `{r}:repairer` (the instances that found a loss, and the one that writes entries back), `{r}:instances` and
//! `{r}:instance:NAME` (leases), `{r}:leases` (the lengths of leases), `{r}:retentions` (the time for which instances
//! need the log), `{r}:clock` (the time since which Redis's clock has been stable), `{r}:leads` (the leads of issuers'
//! tokens), `{r}:issuers` (a sorted set: the meanings of issuers' names, with their last use, or below zero when they were
//! dropped), `{r}:streams` (the secret with which instances seal streams and nonces for each other), `{r}:proof:ID` (used
//! DPoP proofs, while they could be accepted), `{r}:signals` and `{r}:signals…:ID` (the streams of security events, and the owner of each),
//! `{r}:relay:ID` and `{r}:relay-owner:ID` (the relays from this store to another one, and the owner of each), and
//! `{r}:relayed` (the time up to which the relays of other regions have copied to this store). An entry with a field
//! `receipt` requests that the instances report at once that they have applied it; `by` (the name of an admin key) and
//! `since` (milliseconds: the first time of an entry that was written back, or copied from the log of another region) are
//! for operators, and for relays, which tell by it whether an entry says more than its copy. A reader of the log
//! ignores unknown fields.

mod embedded;
mod redis;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::names::Note;
use crate::authz::claims::Timestamp;
use crate::authz::revocation::{Hit, Revocation, Target};

pub use embedded::EmbeddedLedger;
pub(super) use embedded::FORGOTTEN_AFTER;
pub use redis::{
    Adopt, AdoptedKeys, Names, Reader, Redis, RedisConfig, RedisConfigError, RedisLedger, entry_fields, read_entry,
};
pub(super) use redis::{
    Feed, FeedItem, Found, Lease, Leases, Life, Received, Renewal, Report, Server, ServerClock, Snapshot, StoreFacts,
    StreamInfo, Unread, lasting,
};

/// The store of revocations beyond this process.
pub enum RevocationLedger {
    /// In this process, or in a file of this node.
    Embedded(EmbeddedLedger),
    /// Shared by all instances.
    Redis(Box<RedisLedger>),
}

impl From<EmbeddedLedger> for RevocationLedger {
    fn from(ledger: EmbeddedLedger) -> Self {
        Self::Embedded(ledger)
    }
}

impl From<RedisLedger> for RevocationLedger {
    fn from(ledger: RedisLedger) -> Self {
        Self::Redis(Box::new(ledger))
    }
}

impl RevocationLedger {
    /// Writes the revocations of one call durably, all or none, and returns the place of the last one.
    ///
    /// `Ok` means that every revocation is in the store (and on `min_replicas` replicas); after an error some may be:
    /// appending again is safe, because merging twice changes nothing. An expired revocation is written, too: another
    /// instance may have another clock or a longer leeway.
    pub async fn append(&self, revocations: &[Revocation]) -> Result<Position, LedgerError> {
        match self {
            Self::Embedded(ledger) => ledger.append(revocations).await,
            Self::Redis(ledger) => ledger.append(revocations).await,
        }
    }

    /// Looks up in the store itself, in one round trip, whether a token with these targets is revoked.
    ///
    /// A key has only the latest watermark of its target, so if both origins apply, the answer may name the later one.
    pub async fn lookup(&self, targets: &[Target], issued_at: Option<Timestamp>) -> Result<Option<Hit>, LedgerError> {
        match self {
            Self::Embedded(ledger) => Ok(ledger.lookup(targets, issued_at)),
            Self::Redis(ledger) => ledger.lookup(targets, issued_at).await,
        }
    }

    /// The notes of the meaning of issuer names, read on each call, and the epoch of the data that have them (`None`:
    /// without one).
    pub(super) async fn noted_names(&self) -> Result<(Vec<Note>, Option<Box<str>>), LedgerError> {
        match self {
            Self::Embedded(ledger) => Ok((ledger.noted_names().await?, None)),
            Self::Redis(ledger) => ledger.noted_names().await,
        }
    }

    /// Writes notes again that the store has lost, unless it has later ones.
    pub(super) async fn put_back_names(&self, lost: &[Note]) -> Result<(), LedgerError> {
        match self {
            Self::Embedded(ledger) => ledger.put_back_names(lost).await,
            Self::Redis(ledger) => ledger.put_back_names(lost).await,
        }
    }

    /// Writes notes of the present use of names, or that they were dropped.
    pub(super) async fn note_names(&self, notes: &[Note]) -> Result<(), LedgerError> {
        match self {
            Self::Embedded(ledger) => ledger.note_names(notes).await,
            Self::Redis(ledger) => ledger.note_names(notes).await,
        }
    }

    /// Looks up in the store itself, in one round trip, whether a token is registered by this target.
    pub async fn is_registered(&self, target: &Target, issued_at: Option<Timestamp>) -> Result<bool, LedgerError> {
        match self {
            Self::Embedded(ledger) => Ok(ledger.is_registered(target, issued_at)),
            Self::Redis(ledger) => ledger.is_registered(target, issued_at).await,
        }
    }
}

/// What the instances know about the stream of a transmitter of security events.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SignalNotes {
    /// The record of its owner.
    pub stream: Option<String>,
    /// The state of the latest verification event.
    pub verified: Option<String>,
    /// The latest status that the transmitter announced, and a number that differs each time.
    pub announced: Option<String>,
    /// The instance that owns the stream.
    pub owner: Option<String>,
}

/// A part of [`SignalNotes`] that is replaced.
#[derive(Clone, Debug)]
pub enum SignalNote {
    /// `None`: forgets everything but the owner.
    Stream(Option<String>),
    Verified(String),
    Announced(String),
}

impl Position {
    /// Before every entry.
    pub(super) const END: Self = Self { millis: u64::MAX, sequence: u64::MAX };

    /// The time in the id of a stream's entry.
    pub(super) fn time(self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.millis).unwrap_or(i64::MAX))
    }
}

/// A place in the log: the id of a Redis stream entry, or a count of the embedded ledger's writes.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position {
    pub millis: u64,
    pub sequence: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

impl FromStr for Position {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (millis, sequence) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self { millis: millis.parse()?, sequence: sequence.parse()? })
    }
}

/// The refusals of Redis, by the first word of the error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefusalKind {
    /// `OOM`: `maxmemory` is reached.
    OutOfMemory,
    /// `READONLY`: a replica.
    ReadOnly,
    /// `NOREPLICAS`: fewer than `min-replicas-to-write`.
    NotReplicated,
    /// `NOAUTH`, `WRONGPASS`, `NOPERM`: the password or the ACL.
    NotPermitted,
    /// Redis starts or fails over.
    Loading,
    /// The log has the last id that there is.
    LogExhausted,
    Other,
}

impl RefusalKind {
    pub(super) fn of(message: &str) -> Self {
        if message.contains("exhausted the last possible ID") {
            return Self::LogExhausted; // Has no error code of its own.
        }
        match message.split_ascii_whitespace().next().unwrap_or_default() {
            "OOM" => Self::OutOfMemory,
            "READONLY" => Self::ReadOnly,
            "NOREPLICAS" => Self::NotReplicated,
            "NOAUTH" | "WRONGPASS" | "NOPERM" => Self::NotPermitted,
            "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" => Self::Loading,
            _ => Self::Other,
        }
    }
}

/// The state of a log that has the last id that there is.
pub(super) const LOG_EXHAUSTED: &str = "an entry of the log has the last possible id, so Redis adds none after it; \
    Doorward rewrites the log automatically. If this lasts, rename the key of the log (`doorward:{r}:log`) while \
    instances run: they write their revocations to a new one";

/// The first word of the error of Redis about a key of another type.
const WRONG_TYPE: &str = "WRONGTYPE";

/// Why the ledger could not be written or read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// No connection, or it broke and the outcome is unknown.
    #[error("reach the store: {cause}")]
    Unavailable { cause: Box<str> },
    /// No answer within the deadline; the outcome is unknown.
    #[error("no answer from the store within {after:?}")]
    Timeout { after: Duration },
    /// The store answered with an error.
    #[error("refused by the store: {message}")]
    Refused { kind: RefusalKind, message: Box<str> },
    /// Written, but on fewer replicas than `min_replicas` requires.
    #[error("stored, but confirmed by {reached} of {wanted} replicas")]
    NotReplicated { reached: u32, wanted: u32 },
    /// Not sent: the store has just failed several times in a row.
    #[error("not sent: the store failed several times in a row")]
    BreakerOpen,
    /// Under names of issuers that have another meaning in the store, nothing is written; or it was written before the
    /// meaning was known, and other instances may accept the token.
    #[error("issuers' names have another meaning in the store")]
    NamesDiffer,
    /// The file of the embedded ledger could not be opened, read or written.
    #[error("embedded ledger: {cause}")]
    File { cause: Box<str> },
}

impl LedgerError {
    /// Every label, for metrics that list a closed set.
    pub const LABELS: [&'static str; 12] = [
        "unavailable",
        "timeout",
        "out_of_memory",
        "read_only",
        "not_replicated",
        "not_permitted",
        "loading",
        "log_exhausted",
        "refused",
        "breaker_open",
        "names_differ",
        "file",
    ];

    /// A stable lowercase name, for metrics and answers.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Timeout { .. } => "timeout",
            Self::NotReplicated { .. } => "not_replicated",
            Self::BreakerOpen => "breaker_open",
            Self::NamesDiffer => "names_differ",
            Self::File { .. } => "file",
            Self::Refused { kind, .. } => match kind {
                RefusalKind::OutOfMemory => "out_of_memory",
                RefusalKind::ReadOnly => "read_only",
                RefusalKind::NotReplicated => "not_replicated",
                RefusalKind::NotPermitted => "not_permitted",
                RefusalKind::Loading => "loading",
                RefusalKind::LogExhausted => "log_exhausted",
                RefusalKind::Other => "refused",
            },
        }
    }

    /// The operator's action that ends the error, if Doorward has one to suggest.
    #[must_use]
    pub fn cure(&self) -> Option<&'static str> {
        match self {
            Self::Refused { kind: RefusalKind::LogExhausted, .. } => Some(LOG_EXHAUSTED),
            Self::NamesDiffer => Some("/readyz names the issuer and the cure"),
            _ => None,
        }
    }

    /// Whether the store refuses writes because its memory is full.
    pub(super) fn is_out_of_memory(&self) -> bool {
        matches!(self, Self::Refused { kind: RefusalKind::OutOfMemory, .. })
    }

    /// Whether a key of another program stands where one of Doorward's belongs.
    pub(super) fn is_wrong_type(&self) -> bool {
        matches!(self, Self::Refused { message, .. } if message.starts_with(WRONG_TYPE))
    }

    /// Whether a new connection, a moment later, is likely to succeed: the store moves or starts.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Timeout { .. } => true,
            Self::Refused { kind, .. } => matches!(kind, RefusalKind::ReadOnly | RefusalKind::Loading),
            Self::NotReplicated { .. } | Self::BreakerOpen | Self::NamesDiffer | Self::File { .. } => false,
        }
    }
}
