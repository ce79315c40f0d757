//! Entries of the Redis stream, as any service may have written them.

use std::time::Duration;

use doorward::authz::claims::{IssuerName, Timestamp};
use doorward::authz::revocation::{Kind, Note, Revocation, RevocationIndex, Target, Watermark};
use doorward::sources::ledger::{Position, Reader, entry_fields, read_entry};

const READER: Reader = Reader {
    retention: Duration::from_secs(86_430),
    leeway: Duration::from_secs(30),
    lead: Duration::from_secs(1),
    now: Timestamp::MAX,
    behind: Duration::ZERO,
    seen_at: Timestamp::from_millis(0),
    as_written: false,
    set_at: Timestamp::from_millis(0),
};
/// Before every entry: nothing has been forgotten yet.
const NOW: Timestamp = Timestamp::from_millis(0);

/// Entries, parted by an empty line: the id, then `name value`, one a line.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let entries: Vec<_> = text.split("\n\n").take(8).filter_map(read).collect();

    // Order, duplicates and replays change nothing.
    let [forwards, backwards] = [RevocationIndex::new(), RevocationIndex::new()];
    for entry in &entries {
        forwards.apply(entry, Duration::ZERO);
        assert!(!forwards.apply(entry, Duration::ZERO), "twice is once");
    }
    for entry in entries.iter().rev() {
        backwards.apply(entry, Duration::ZERO);
    }
    for entry in entries.iter().filter(|entry| entry.target.kind != Kind::Registration) {
        let instant = entry.watermark.instant();
        for at in [None, Some(instant), Some(Timestamp::from_millis(instant.as_millis().saturating_add(1)))] {
            let found = [&forwards, &backwards].map(|index| index.find([&entry.target], at));
            assert_eq!(found[0], found[1], "{entry:?}");
            assert!(found[0].is_some() || !entry.watermark.covers(at), "forgotten: {entry:?}");
        }
    }
    for entry in entries.iter().filter(|entry| entry.target.kind == Kind::Registration) {
        let token = Target::new(entry.target.issuer.clone(), Kind::Token, entry.target.id.clone());
        let revoked = entries.iter().any(|other| other.target == token);
        assert!(revoked || forwards.find([&token], None).is_none(), "a registration refuses nothing");
        let registers = [&forwards, &backwards].map(|index| index.registers(&entry.target, None, NOW));
        assert_eq!(registers, [entry.expires_at > NOW; 2], "{entry:?}");
    }
}

fn read(text: &str) -> Option<Revocation> {
    let (id, fields) = text.split_once('\n').unwrap_or((text, ""));
    let position: Position = id.parse().ok()?;
    assert_eq!(position.to_string().parse(), Ok(position));
    let fields = || fields.split('\n').map(|line| line.split_once(' ').unwrap_or((line, "")));
    let entry = read_entry(position, fields(), READER).ok()?;

    let said = |name: &str| fields().rfind(|(field, _)| *field == name).map_or("", |(_, value)| value);
    assert_eq!(IssuerName::parse(said("issuer")).as_ref(), Some(&entry.target.issuer));
    assert_eq!(said("kind"), entry.target.kind.as_str());
    let id = &entry.target.id.to_string();
    assert!(
        !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~@|+=-:".contains(&b))
    );
    assert!(!id.contains(':') || id.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64));
    assert!(said("at") != "*" || entry.watermark == Watermark::FOREVER);
    if let Some(note) = &entry.note {
        let fits = |text: &Option<Box<str>>, most| text.as_deref().is_none_or(|text| (1..=most).contains(&text.len()));
        assert!(fits(&note.by, Note::MAX_BY) && fits(&note.reason, Note::MAX_REASON));
        assert!([&note.by, &note.reason].into_iter().flatten().all(|text| !text.contains(char::is_control)));
    }

    // An entry that is written back after a loss must equal the lost one.
    let written = entry_fields(&entry);
    let again = read_entry(position, written.iter().map(|(name, value)| (*name, value.as_str())), READER);
    if entry.watermark.instant().as_millis() >= 100_000_000_000 && entry.expires_at.as_millis() >= 100_000_000_000 {
        assert_eq!(again.as_ref(), Ok(&entry));
    }
    Some(entry)
}
