//! The data format in Redis: keys, values and log entries, as pure functions.

use std::time::Duration;

use super::super::Position;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::dpop::ProofId;
use crate::authz::revocation::{Kind, Note, Origin, Revocation, Target, TargetId, Watermark};

/// The names of everything under the prefix; `{r}` keeps them in one slot of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    stem: Box<str>,
    pub(super) log: Box<str>,
    pub(super) meta: Box<str>,
    pub(super) repairing: Box<str>,
    pub(super) repairer: Box<str>,
    pub(super) instances: Box<str>,
    pub(super) server: Box<str>,
    pub(super) lost: Box<str>,
    pub(super) retentions: Box<str>,
    pub(super) leases: Box<str>,
    pub(super) clock: Box<str>,
    pub(super) leads: Box<str>,
    pub(super) dated: Box<str>,
    pub(super) issuers: Box<str>,
    pub(super) streams: Box<str>,
    pub(super) signals: Box<str>,
    pub(super) relayed: Box<str>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let key = |name| format!("{prefix}{{r}}:{name}").into_boxed_str();
        let [stem, log, meta, lost] = ["", "log", "meta", "lost"].map(key);
        let [repairing, repairer, instances] = ["repairing", "repairer", "instances"].map(key);
        let [server, retentions, leases, clock] = ["server", "retentions", "leases", "clock"].map(key);
        let [leads, dated, issuers, streams, signals] = ["leads", "dated", "issuers", "streams", "signals"].map(key);
        let relayed = key("relayed");
        Self {
            stem,
            log,
            meta,
            repairing,
            repairer,
            instances,
            server,
            lost,
            retentions,
            leases,
            clock,
            leads,
            dated,
            issuers,
            streams,
            signals,
            relayed,
        }
    }

    /// The prefix of every key.
    pub(super) fn stem(&self) -> &str {
        &self.stem
    }

    pub(super) fn instance(&self, name: &str) -> String {
        format!("{}instance:{name}", self.stem)
    }

    /// A key about a transmitter; `part` is empty for the record of its stream.
    pub(super) fn signals(&self, part: &str, id: &str) -> String {
        format!("{}signals{part}:{id}", self.stem)
    }

    /// A key about a relay from this store; `part` is empty for its note.
    pub(super) fn relay(&self, part: &str, id: &str) -> String {
        format!("{}relay{part}:{id}", self.stem)
    }

    pub(super) fn proof(&self, id: &ProofId) -> String {
        format!("{}proof:{}", self.stem, id.text())
    }

    pub(super) fn target(&self, target: &Target) -> String {
        format!("{}{}:{}:{}", self.stem, target.issuer, target.kind, target.id)
    }
}

/// `"<millis or *> <origin>"`.
pub(super) fn value(kind: Kind, watermark: Watermark, origin: Origin) -> String {
    format!("{} {}", instant(watermark), origin_name(kind, origin))
}

/// A registration has no origin; the value is for operators who inspect Redis.
fn origin_name(kind: Kind, origin: Origin) -> &'static str {
    if kind == Kind::Registration { "registered" } else { origin.as_str() }
}

fn instant(watermark: Watermark) -> String {
    if watermark == Watermark::FOREVER {
        return "*".to_owned();
    }
    // No token is older; a smaller number would be read as seconds, or not as a time.
    watermark.instant().as_millis().max(SECONDS_BELOW).to_string()
}

/// Reads a key's value, as leniently as an entry: `None` if it is not a watermark.
pub(super) fn parse_value(text: &str) -> Option<(Watermark, Origin)> {
    let mut words = text.split_ascii_whitespace();
    let watermark = watermark(words.next()?)?;
    Some((watermark, words.next().and_then(Origin::parse).unwrap_or(Origin::Revoked)))
}

/// The fields of a log entry, in the order in which they are written.
#[must_use]
pub fn fields(revocation: &Revocation) -> Vec<(&'static str, String)> {
    let Revocation { target, watermark, expires_at, origin, note } = revocation;
    let reason = note.as_ref().and_then(|note| note.reason.as_deref());
    let mut fields = vec![
        ("issuer", target.issuer.to_string()),
        ("kind", target.kind.to_string()),
        ("id", target.id.to_string()),
        ("at", instant(*watermark)),
        ("expires", expires_at.as_millis().to_string()),
        ("origin", origin_name(target.kind, *origin).to_owned()),
        ("reason", reason.unwrap_or_default().to_owned()),
    ];
    // Instances of an earlier version ignore these.
    if let Some(note) = note {
        fields.extend(note.by.as_deref().map(|by| ("by", by.to_owned())));
        fields.push(("since", note.since.as_millis().to_string()));
    }
    fields
}

/// Reads one log entry as every instance reads it; `Err` names the field at fault.
pub fn read_entry<'a>(
    position: Position,
    fields: impl Iterator<Item = (&'a str, &'a str)>,
    reader: Reader,
) -> Result<Revocation, &'static str> {
    Decoder::default().revocation(position, fields, reader)
}

/// The parameters for reading the log. The time for which an entry is needed depends on the tokens that this instance
/// accepts, so the writer's settings do not bound it.
#[derive(Clone, Copy, Debug)]
pub struct Reader {
    /// The longest time for which a token may be accepted here after it was issued, plus the leeway.
    pub retention: Duration,
    /// The longest time for which a token is accepted here after its `exp`.
    pub leeway: Duration,
    /// The lead of tokens, for an entry of a user without a watermark.
    pub lead: Duration,
    /// The store's clock: no entry was written later, even if its id is.
    pub now: Timestamp,
    /// How far the store's clock, which gives ids, is behind this machine's: at most the leeway, or nothing.
    pub behind: Duration,
    /// By this machine's clock, if the entry was added a moment ago; else 1970.
    pub seen_at: Timestamp,
    /// The last time at which the store's clock was set, or may have been: an entry with an earlier id may be more
    /// recent than its id, but not more recent than this. 1970 if that was long ago.
    pub set_at: Timestamp,
    /// For an entry that is copied into another log, where its id is another one: a written `expires` is taken as it is,
    /// and not extended to the retention; and `since` is the time of the id, if it is not written or later, unless the
    /// written end is all that counts.
    pub as_written: bool,
}

/// The field of an entry whose writer waits for receipts.
pub(super) const RECEIPT: &str = "receipt";

/// Reads log entries; caches issuer names, because a log repeats a few of them very often.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    issuers: Vec<IssuerName>,
}

impl Decoder {
    /// Enough for any configuration; every further name costs one allocation.
    const MAX_NAMES: usize = 64;

    /// Reads one entry, leniently where that can only revoke more; `Err` names the field at fault.
    pub(super) fn revocation<'a>(
        &mut self,
        position: Position,
        fields: impl Iterator<Item = (&'a str, &'a str)>,
        reader: Reader,
    ) -> Result<Revocation, &'static str> {
        let [mut issuer, mut kind, mut id, mut at, mut expires, mut origin] = [""; 6];
        let [mut reason, mut by, mut since] = [""; 3];
        for (name, value) in fields {
            match name {
                "issuer" => issuer = value,
                "kind" => kind = value,
                "id" => id = value,
                "at" => at = value,
                "expires" => expires = value,
                "origin" => origin = value,
                "reason" => reason = value,
                "by" => by = value,
                "since" => since = value,
                _ => {} // A field of a later version.
            }
        }
        let issuer = self.issuer(issuer).ok_or("issuer")?;
        let kind = Kind::from_stored(kind).ok_or("kind")?;
        let id = match (id, kind) {
            ("", Kind::Issuer) => TargetId::new(issuer.as_str()),
            ("", _) => return Err("id"),
            (id, _) => TargetId::from_stored(id),
        };
        // The store's clock may have been set since the last reading.
        let latest = reader.now.plus(reader.leeway);
        let id_at = position.time();
        let written_at = id_at.min(latest);
        // The clock that dated the id may have been behind, before it was set or now.
        let covers = written_at.plus(reader.behind).max(reader.set_at).max(reader.seen_at);
        let watermark = match (at, kind) {
            ("", kind) if kind.is_forever() => Watermark::FOREVER,
            ("", Kind::User) => Watermark::at(covers.plus(reader.lead)),
            ("", _) => Watermark::at(covers.plus(reader.leeway)),
            // As with keys at a lookup: an unreadable entry counts as a revocation.
            (at, kind) => match watermark(at) {
                None if kind == Kind::Registration => return Err("at"),
                read => read.unwrap_or(Watermark::FOREVER),
            },
        };
        let from = match watermark {
            Watermark::FOREVER => written_at.max(reader.set_at),
            at => written_at.max(at.instant()),
        };
        let retained = from.plus(reader.retention.saturating_sub(reader.leeway)); // `from` includes the leeway.
        let expires_at = match (kind, instant_until(expires)) {
            (Kind::Registration, None) => return Err("expires"), // An end that extends acceptance is not guessed.
            (Kind::Registration | Kind::Token, Some(expires)) => expires,
            (_, Some(expires)) if reader.as_written => expires,
            (_, expires) => retained.max(expires.unwrap_or_default()),
        };
        let origin = match kind {
            Kind::Registration => Origin::SignedOut, // Without an origin, as in [`Revocation::registering`].
            _ => Origin::parse(origin).unwrap_or(Origin::Revoked),
        };
        // An entry that was written back keeps its time, which cannot be later than its writing. A copy from a store whose
        // clock is ahead of this one's says its end itself.
        let note = if reader.as_written && !matches!(kind, Kind::Registration | Kind::Token) {
            // By the id alone, so that it is read as the same time whenever it is read; unless that lies further ahead
            // than any entry is needed.
            let latest = id_at.min(reader.now.plus(reader.retention));
            let since = instant_until(since).unwrap_or(latest).min(latest);
            Some(Note::new(since, by, reason).unwrap_or_else(|| Box::new(Note { since, by: None, reason: None })))
        } else {
            Note::new(instant_until(since).unwrap_or(written_at).min(written_at), by, reason)
        };
        Ok(Revocation { target: Target::new(issuer, kind, id), watermark, expires_at, origin, note })
    }

    fn issuer(&mut self, name: &str) -> Option<IssuerName> {
        if let Some(known) = self.issuers.iter().find(|known| known.as_str() == name) {
            return Some(known.clone());
        }
        let issuer = IssuerName::parse(name)?;
        if self.issuers.len() < Self::MAX_NAMES {
            self.issuers.push(issuer.clone());
        }
        Some(issuer)
    }
}

/// Milliseconds of 1973: a smaller number is in seconds. Read as milliseconds it would silently revoke no token.
const SECONDS_BELOW: i64 = 100_000_000_000;

/// Seconds of 2001: no token is that old, so a smaller number is a flag (`1`) and not a time.
const EARLIEST_SECOND: i64 = 1_000_000_000;

fn watermark(text: &str) -> Option<Watermark> {
    if text == "*" {
        return Some(Watermark::FOREVER);
    }
    let millis = match whole(text)? {
        ..EARLIEST_SECOND => return None,
        seconds @ ..SECONDS_BELOW => seconds * 1000 + 999, // All of that second: a token of the same second is refused.
        millis => millis,
    };
    Some(Watermark::at(Timestamp::from_millis(millis)))
}

fn instant_until(text: &str) -> Option<Timestamp> {
    match whole(text)? {
        ..EARLIEST_SECOND => None,
        seconds @ ..SECONDS_BELOW => Some(Timestamp::from_secs(seconds)),
        millis => Some(Timestamp::from_millis(millis)),
    }
}

/// A decimal number; a fraction, which some languages print, is dropped.
fn whole(text: &str) -> Option<i64> {
    let text = text
        .split_once('.')
        .filter(|(_, fraction)| fraction.bytes().all(|b| b.is_ascii_digit()))
        .map_or(text, |(whole, _)| whole);
    text.parse().ok().filter(|&number| number >= 0)
}

#[cfg(test)]
mod tests;
