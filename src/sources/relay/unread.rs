//! Entries of kinds that are not known here: a later version has written them.
//!
//! Such an entry is appended to the other log byte by byte, so that instances of the later version there apply it. What it
//! means cannot be merged here, so it is compared with the other log by all its fields; no key is written for it.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::super::ledger::Unread;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::Kind;

/// The entries that the other log has, by a digest that nobody outside this process can foresee.
#[derive(Default)]
pub(super) struct UnreadEntries {
    /// With its end.
    seen: HashMap<u64, Timestamp>,
    hasher: RandomState,
}

/// The longest name of a kind.
const LONGEST_KIND: usize = 32;
/// The most fields of an entry.
const MAX_FIELDS: usize = 32;
/// The most bytes of all fields of an entry.
const MAX_BYTES: usize = 4096;

impl UnreadEntries {
    /// The most entries that are remembered; further ones are not passed on, because their copies would not be known.
    const MOST: usize = 100_000;

    /// Records an entry of the other log.
    pub(super) fn note(&mut self, entry: &Unread) {
        if let Some(end) = end(entry)
            && self.seen.len() < Self::MOST
        {
            self.seen.insert(self.digest(entry), end);
        }
    }

    pub(super) fn forget(&mut self, entries: &[&Unread]) {
        for entry in entries {
            self.seen.remove(&self.digest(entry));
        }
    }

    /// Drops those that ended by `over`: none of them is passed on again, see [`is_fit`].
    pub(super) fn purge(&mut self, over: Timestamp) {
        self.seen.retain(|_, end| *end > over);
    }

    pub(super) fn knows(&self, entry: &Unread) -> bool {
        self.seen.contains_key(&self.digest(entry))
    }

    pub(super) fn is_full(&self) -> bool {
        self.seen.len() >= Self::MOST
    }

    /// In whichever encoding it was written.
    fn digest(&self, entry: &Unread) -> u64 {
        self.hasher.hash_one(&entry.fields)
    }
}

/// Whether an entry may be passed on: it is of a kind that may exist, of bounded size, and states itself from when and
/// until when it counts, which its copy with another id could not. One that ended by `over` is not needed.
pub(super) fn is_fit(entry: &Unread, over: Timestamp) -> bool {
    let fields = &entry.fields;
    let value = |wanted: &str| value(entry, wanted);
    let bytes: usize = entry.bytes.iter().map(|part| part.len()).sum();
    if fields.len() > MAX_FIELDS || bytes > MAX_BYTES {
        return false;
    }
    let is_kind = |kind: &str| {
        (1..=LONGEST_KIND).contains(&kind.len())
            && kind.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'-'))
            && Kind::from_stored(kind).is_none()
    };
    value("issuer").is_some_and(|name| IssuerName::parse(name).is_some())
        && value("kind").is_some_and(is_kind)
        && value("id").is_some_and(|id| !id.is_empty())
        && value("at").is_some_and(|at| at == "*" || is_millis(at))
        && end(entry).is_some_and(|end| end > over)
}

fn value<'a>(entry: &'a Unread, wanted: &str) -> Option<&'a str> {
    entry.fields.iter().find(|(name, _)| **name == *wanted).map(|(_, value)| &**value)
}

fn is_millis(text: &str) -> bool {
    text.len() == 13 && text.bytes().all(|b| b.is_ascii_digit())
}

/// The end of an entry that states one.
fn end(entry: &Unread) -> Option<Timestamp> {
    value(entry, "expires").filter(|text| is_millis(text))?.parse().ok().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn entry(text: &str) -> Unread {
        let pairs = text.split(' ').filter_map(|field| field.split_once('='));
        let bytes = pairs.clone().flat_map(|(name, value)| [name, value].map(|part| part.as_bytes().into())).collect();
        Unread { fields: pairs.map(|(name, value)| (name.into(), value.into())).collect(), bytes }
    }

    #[test]
    fn an_entry_of_a_later_version_is_passed_on_once() {
        let newer = entry("issuer=main kind=device id=d at=* expires=1700000600000 new=field");
        assert!(is_fit(&newer, NOW));
        assert!(is_fit(&entry("issuer=main kind=device id=d at=1700000000000 expires=1700000600000"), NOW));
        for odd in [
            "issuer=main kind=device id=d at=* expires=1699999999999",
            "issuer=main kind=device id=d at=* expires=soon",
            "issuer=main kind=device id=d at=* expires=1700000600",
            "issuer=main kind=device id=d expires=1700000600000",
            "issuer=main kind=device at=* expires=1700000600000",
            "issuer=MAIN kind=device id=d at=* expires=1700000600000",
            "issuer=main kind=De:vice id=d at=* expires=1700000600000",
            "issuer=main kind=token id= at=* expires=1700000600000",
            &format!("issuer=main kind=device id={} at=* expires=1700000600000", "x".repeat(MAX_BYTES)),
        ] {
            assert!(!is_fit(&entry(odd), NOW), "{odd}");
        }
        let mut seen = UnreadEntries::default();
        assert!(!seen.knows(&newer));
        seen.note(&newer);
        assert!(seen.knows(&newer) && !seen.is_full());
        assert!(!seen.knows(&entry("issuer=main kind=device id=e at=* expires=1700000600000 new=field")));
        // One that is over is not passed on again, and takes no room.
        let end = Timestamp::from_millis(1_700_000_600_000);
        seen.purge(end.minus(std::time::Duration::from_millis(1)));
        assert!(seen.knows(&newer));
        seen.purge(end);
        assert!(!seen.knows(&newer) && !is_fit(&newer, end));
    }
}
