//! What stands in Redis: keys, values and log entries, as pure functions.

use std::time::Duration;

use super::super::Position;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{Kind, Origin, Revocation, Target, TargetId, Watermark};

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
    pub(super) retentions: Box<str>,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let key = |name| format!("{prefix}{{r}}:{name}").into_boxed_str();
        let [stem, log, meta] = ["", "log", "meta"].map(key);
        let [repairing, repairer, instances] = ["repairing", "repairer", "instances"].map(key);
        let [server, retentions] = ["server", "retentions"].map(key);
        Self { stem, log, meta, repairing, repairer, instances, server, retentions }
    }

    /// What begins every key.
    pub(super) fn stem(&self) -> &str {
        &self.stem
    }

    pub(super) fn instance(&self, name: &str) -> String {
        format!("{}instance:{name}", self.stem)
    }

    pub(super) fn target(&self, target: &Target) -> String {
        format!("{}{}:{}:{}", self.stem, target.issuer, target.kind, target.id)
    }
}

/// `"<millis or *> <origin>"`.
pub(super) fn value(kind: Kind, watermark: Watermark, origin: Origin) -> String {
    format!("{} {}", instant(watermark), origin_name(kind, origin))
}

/// A registration is nobody's revocation; it says so to whoever looks into Redis.
fn origin_name(kind: Kind, origin: Origin) -> &'static str {
    if kind == Kind::Registration { "registered" } else { origin.as_str() }
}

fn instant(watermark: Watermark) -> String {
    if watermark == Watermark::FOREVER {
        return "*".to_owned();
    }
    // No token is older; a smaller number would be read as seconds, or as none.
    watermark.instant().as_millis().max(SECONDS_BELOW).to_string()
}

/// Reads a key's value, as leniently as an entry: `None` if it is no instant at all.
pub(super) fn parse_value(text: &str) -> Option<(Watermark, Origin)> {
    let mut words = text.split_ascii_whitespace();
    let watermark = watermark(words.next()?)?;
    Some((watermark, words.next().and_then(Origin::parse).unwrap_or(Origin::Revoked)))
}

/// The fields of a log entry, in the order in which they are written.
#[must_use]
pub fn fields(revocation: &Revocation) -> [(&'static str, String); 7] {
    let Revocation { target, watermark, expires_at, origin, reason } = revocation;
    [
        ("issuer", target.issuer.to_string()),
        ("kind", target.kind.to_string()),
        ("id", target.id.to_string()),
        ("at", instant(*watermark)),
        ("expires", expires_at.as_millis().to_string()),
        ("origin", origin_name(target.kind, *origin).to_owned()),
        ("reason", reason.as_deref().unwrap_or_default().to_owned()),
    ]
}

/// Reads one log entry as every instance reads it; `Err` names the field at fault.
///
/// `position` is the entry's id, `retention` how long an entry is kept that does not say it readably.
pub fn read_entry<'a>(
    position: Position,
    fields: impl Iterator<Item = (&'a str, &'a str)>,
    retention: Duration,
) -> Result<Revocation, &'static str> {
    Decoder::default().revocation(position, fields, retention)
}

/// A field of an entry whose writer waits to hear who has applied it.
pub(super) const RECEIPT: &str = "receipt";

/// Reads log entries; remembers issuer names, because a log repeats few of them very often.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    issuers: Vec<IssuerName>,
}

impl Decoder {
    /// Enough for any configuration; a log that names more only costs an allocation each.
    const MAX_NAMES: usize = 64;

    /// Reads one entry, leniently where that can only revoke more; `Err` names the field at fault.
    pub(super) fn revocation<'a>(
        &mut self,
        position: Position,
        fields: impl Iterator<Item = (&'a str, &'a str)>,
        retention: Duration,
    ) -> Result<Revocation, &'static str> {
        let [mut issuer, mut kind, mut id, mut at, mut expires, mut origin, mut reason] = [""; 7];
        for (name, value) in fields {
            match name {
                "issuer" => issuer = value,
                "kind" => kind = value,
                "id" => id = value,
                "at" => at = value,
                "expires" => expires = value,
                "origin" => origin = value,
                "reason" => reason = value,
                _ => {} // A later version's field.
            }
        }
        let issuer = self.issuer(issuer).ok_or("issuer")?;
        let kind = Kind::from_stored(kind).ok_or("kind")?;
        let id = match (id, kind) {
            ("", Kind::Issuer) => TargetId::new(issuer.as_str()),
            ("", _) => return Err("id"),
            (id, _) => TargetId::from_stored(id),
        };
        let written_at = Timestamp::from_millis(i64::try_from(position.millis).map_err(|_| "entry id")?);
        let watermark = match (at, kind) {
            ("", kind) if kind.is_forever() => Watermark::FOREVER,
            ("", _) => Watermark::at(written_at),
            // As a lookup reads a key: what is there was meant to revoke.
            (at, kind) => match watermark(at) {
                None if kind == Kind::Registration => return Err("at"),
                read => read.unwrap_or(Watermark::FOREVER),
            },
        };
        let expires = instant_until(expires);
        if kind == Kind::Registration && expires.is_none() {
            return Err("expires"); // What accepts is not guessed.
        }
        let expires_at = expires.unwrap_or_else(|| {
            let from = if watermark == Watermark::FOREVER { written_at } else { written_at.max(watermark.instant()) };
            from.plus(retention)
        });
        let origin = match kind {
            Kind::Registration => Origin::SignedOut, // Nobody's; as [`Revocation::registering`] has it.
            _ => Origin::parse(origin).unwrap_or(Origin::Revoked),
        };
        let reason = Some(truncated(reason)).filter(|reason| !reason.is_empty()).map(Into::into);
        Ok(Revocation { target: Target::new(issuer, kind, id), watermark, expires_at, origin, reason })
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

/// Milliseconds of 1973: an instant below it was meant in seconds. Read as it stands it would
/// un-revoke silently, which is the one mistake that must not be easy.
const SECONDS_BELOW: i64 = 100_000_000_000;

/// Seconds of 2001: no token is that old, so a smaller number is a flag (`1`) and not an instant.
const EARLIEST_SECOND: i64 = 1_000_000_000;

fn watermark(text: &str) -> Option<Watermark> {
    if text == "*" {
        return Some(Watermark::FOREVER);
    }
    let millis = match whole(text)? {
        ..EARLIEST_SECOND => return None,
        seconds @ ..SECONDS_BELOW => seconds * 1000 + 999, // All of that second: the same second loses.
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

fn truncated(reason: &str) -> &str {
    let end = (0..=Revocation::MAX_REASON.min(reason.len())).rev().find(|&end| reason.is_char_boundary(end));
    &reason[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: i64 = 1_700_000_000_500;
    const RETENTION: Duration = Duration::from_secs(3600);

    #[track_caller]
    fn check(entry: &str, expected: Result<&str, &'static str>) {
        let position = Position { millis: 1_700_000_000_500, sequence: 0 };
        let fields = entry.split(' ').filter_map(|field| field.split_once('='));
        let read = Decoder::default().revocation(position, fields, RETENTION).map(|r| {
            let keys = Keys::new("");
            format!(
                "{} {} {}",
                keys.target(&r.target),
                value(r.target.kind, r.watermark, r.origin),
                r.expires_at.as_millis()
            )
        });
        assert_eq!(read.as_deref(), expected.as_ref().map(|text| *text), "{entry}");
    }

    #[test]
    fn entries_are_read_leniently_where_that_can_only_revoke_more() {
        let later = WRITTEN + 3_600_000;
        for (entry, expected) in [
            (
                "issuer=main kind=token id=j at=* expires=1700000600000 origin=signed_out reason=bye",
                "{r}:main:token:j * signed_out 1700000600000".to_owned(),
            ),
            ("issuer=main kind=token id=j expires=1700000600", "{r}:main:token:j * revoked 1700000600000".to_owned()),
            ("issuer=main kind=session id=s", format!("{{r}}:main:session:s * revoked {later}")),
            ("issuer=main kind=user id=u", format!("{{r}}:main:user:u {WRITTEN} revoked {later}")),
            (
                "issuer=main kind=user id=u at=1700000000",
                format!("{{r}}:main:user:u 1700000000999 revoked {}", later + 499),
            ),
            ("issuer=main kind=token id=j at=yesterday", format!("{{r}}:main:token:j * revoked {later}")),
            ("issuer=main kind=user id=u at=-1", format!("{{r}}:main:user:u * revoked {later}")),
            ("issuer=main kind=token id=j at=1", format!("{{r}}:main:token:j * revoked {later}")),
            ("issuer=main kind=key id=k", format!("{{r}}:main:key:k * revoked {later}")),
            (
                "issuer=main kind=user id=u at=1700000000.25",
                format!("{{r}}:main:user:u 1700000000999 revoked {}", later + 499),
            ),
            (
                "issuer=main kind=user id=u at=1700009999123 expires=soon",
                "{r}:main:user:u 1700009999123 revoked 1700013599123".to_owned(),
            ),
            ("issuer=main kind=issuer", format!("{{r}}:main:issuer:main {WRITTEN} revoked {later}")),
            (
                "issuer=main kind=registration id=j expires=1700000600",
                "{r}:main:registration:j * registered 1700000600000".to_owned(),
            ),
            ("issuer=unheard-of kind=key id=k at=*", format!("{{r}}:unheard-of:key:k * revoked {later}")),
            (
                "origin=who issuer=main id=c kind=client new=field",
                format!("{{r}}:main:client:c {WRITTEN} revoked {later}"),
            ),
        ] {
            check(entry, Ok(&expected));
        }
    }

    #[test]
    fn what_cannot_be_understood_names_its_field() {
        for (entry, field) in [
            ("kind=token id=j", "issuer"),
            ("issuer=MAIN kind=token id=j", "issuer"),
            ("issuer=main id=j", "kind"),
            ("issuer=main kind=tokens id=j", "kind"),
            ("issuer=main kind=token", "id"),
            ("issuer=main kind=registration id=j", "expires"),
            ("issuer=main kind=registration id=j expires=soon", "expires"),
            ("issuer=main kind=registration id=j at=yesterday expires=1700000600", "at"),
        ] {
            check(entry, Err(field));
        }
    }

    #[test]
    fn odd_ids_of_other_writers_are_hashed_as_ours_are() {
        let mut decoder = Decoder::default();
        let fields = [("issuer", "main"), ("kind", "user"), ("id", "a b")];
        let read = decoder.revocation(Position::default(), fields.into_iter(), RETENTION).unwrap();
        assert_eq!(read.target.id, TargetId::new("a b"));
    }

    #[test]
    fn an_entry_is_read_back_as_it_was_written() {
        let issuer = IssuerName::parse("main").unwrap();
        for (watermark, reason) in
            [(Watermark::FOREVER, None), (Watermark::at(Timestamp::from_millis(WRITTEN)), Some("lost phone".into()))]
        {
            let written = Revocation {
                target: Target::new(issuer.clone(), Kind::User, TargetId::new("u")),
                watermark,
                expires_at: Timestamp::from_millis(WRITTEN + 1),
                origin: Origin::SignedOut,
                reason,
            };
            let fields = fields(&written);
            let pairs = fields.iter().map(|(name, value)| (*name, value.as_str()));
            assert_eq!(Decoder::default().revocation(Position::default(), pairs, RETENTION), Ok(written));
        }
    }

    #[test]
    fn values_are_read_as_they_are_written() {
        assert_eq!(parse_value("* signed_out"), Some((Watermark::FOREVER, Origin::SignedOut)));
        assert_eq!(
            parse_value("1700000000500 revoked"),
            Some((Watermark::at(Timestamp::from_millis(WRITTEN)), Origin::Revoked))
        );
        assert_eq!(
            parse_value("1700000000500"),
            Some((Watermark::at(Timestamp::from_millis(WRITTEN)), Origin::Revoked))
        );
        for odd in ["", "x revoked", "-5 revoked", "1", "0 signed_out"] {
            assert_eq!(parse_value(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn long_reasons_are_cut_at_a_character() {
        let reason = "é".repeat(200);
        assert_eq!(truncated(&reason), "é".repeat(128));
    }
}
