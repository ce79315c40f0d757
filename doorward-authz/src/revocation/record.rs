//! A compact record of one target's revocations: 30 bytes for a UUID token id.
//!
//! A million of them must fit beside a service (`cargo bench --bench index`), and each must keep its whole
//! name: from an index of digests lost entries could not be written back to a store.
//!
//! ```text
//! head u16 | issuer u32 | expires u32 | learnt u32 | signed_out i64? | revoked i64? | length u8? | id
//! ```

use std::time::Duration;

use super::target_id::Form;
use super::{Hit, Kind, Origin, Revocation, Target, TargetId, Watermark};
use crate::claims::Timestamp;

/// A record in its memory layout.
#[derive(Clone, Copy)]
pub(super) struct Record<'a>(&'a [u8]);

const HEAD: usize = 14;
const INSTANT: usize = 8;

/// The state of one origin; two bits of the head.
#[derive(Clone, Copy)]
enum Held {
    Nothing = 0,
    Forever = 1,
    Instant = 2,
}

/// The content of a record that changes, unpacked.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Watermarks {
    pub(super) signed_out: Option<Watermark>,
    pub(super) revoked: Option<Watermark>,
    /// Whole seconds since 1970, rounded up; good until 2106.
    pub(super) expires: u32,
    /// The time of the last change of the target in this process, in seconds of its uptime.
    pub(super) learnt: u32,
}

impl Watermarks {
    /// Merges a revocation at this uptime; true if that changed the record.
    pub(super) fn merge(&mut self, revocation: &Revocation, uptime: Duration) -> bool {
        let before = *self;
        let slot = match revocation.origin {
            Origin::SignedOut => &mut self.signed_out,
            Origin::Revoked => &mut self.revoked,
        };
        *slot = (*slot).max(Some(revocation.watermark));
        self.expires = self.expires.max(seconds(revocation.expires_at));
        let taught = *self != before;
        if taught {
            self.learnt = u32::try_from(uptime.as_secs()).unwrap_or(u32::MAX);
        }
        taught
    }

    /// What is merged for the target, by origin.
    pub(super) fn revocations(self, target: &Target) -> impl Iterator<Item = Revocation> {
        let expires_at = Timestamp::from_secs(i64::from(self.expires));
        let by_origin = [(Origin::SignedOut, self.signed_out), (Origin::Revoked, self.revoked)];
        by_origin.into_iter().filter_map(move |(origin, watermark)| {
            Some(Revocation { target: target.clone(), watermark: watermark?, expires_at, origin, note: None })
        })
    }

    /// By origin; separate, because each of them may or may not refuse a token.
    pub(super) fn hit(&self, kind: Kind, issued_at: Option<Timestamp>) -> Option<Hit> {
        [(Origin::Revoked, self.revoked), (Origin::SignedOut, self.signed_out)].into_iter().find_map(
            |(origin, watermark)| {
                let watermark = watermark.filter(|watermark| watermark.covers(issued_at))?;
                Some(Hit { kind, origin, watermark })
            },
        )
    }
}

/// Rounded up, so that nothing is deleted early.
pub(super) fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_secs_ceil().max(0)).unwrap_or(u32::MAX)
}

impl<'a> Record<'a> {
    /// The longest record, in bytes: a text id of full length and both watermarks.
    pub(super) const LARGEST: usize = HEAD + 2 * INSTANT + 1 + TargetId::MAX_LEN;

    /// The record that begins these bytes.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Appends a record.
    pub(super) fn write(arena: &mut Vec<u8>, kind: Kind, issuer: u32, id: &TargetId, watermarks: &Watermarks) {
        let held = |watermark: Option<Watermark>| match watermark {
            None => Held::Nothing,
            Some(Watermark::FOREVER) => Held::Forever,
            Some(_) => Held::Instant,
        };
        let (signed_out, revoked) = (held(watermarks.signed_out), held(watermarks.revoked));
        let (form, bytes) = id.parts();
        let head = kind as u16 | (form as u16) << 3 | (signed_out as u16) << 5 | (revoked as u16) << 7;
        arena.extend_from_slice(&head.to_le_bytes());
        arena.extend_from_slice(&issuer.to_le_bytes());
        arena.extend_from_slice(&watermarks.expires.to_le_bytes());
        arena.extend_from_slice(&watermarks.learnt.to_le_bytes());
        for (held, watermark) in [(signed_out, watermarks.signed_out), (revoked, watermarks.revoked)] {
            if let (Held::Instant, Some(watermark)) = (held, watermark) {
                arena.extend_from_slice(&watermark.instant().as_millis().to_le_bytes());
            }
        }
        if form == Form::Text {
            arena.push(u8::try_from(bytes.len()).unwrap_or(u8::MAX)); // Never longer: the type's invariant.
        }
        arena.extend_from_slice(bytes);
    }

    fn head(self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }

    pub(super) fn kind(self) -> Kind {
        Kind::ALL.get(usize::from(self.head() & 7)).copied().unwrap_or(Kind::Registration)
    }

    fn word(self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    pub(super) fn issuer(self) -> u32 {
        self.word(2)
    }

    pub(super) fn expires(self) -> u32 {
        self.word(6)
    }

    pub(super) fn learnt(self) -> u32 {
        self.word(10)
    }

    fn form(self) -> Form {
        Form::of(self.0[0] >> 3)
    }

    /// The watermarks and where the id begins.
    fn body(self) -> (Watermarks, usize) {
        let mut at = HEAD;
        let mut read = |held: u16| match held & 3 {
            0 => None,
            1 => Some(Watermark::FOREVER),
            _ => {
                let mut bytes = [0; INSTANT];
                bytes.copy_from_slice(&self.0[at..at + INSTANT]);
                at += INSTANT;
                Some(Watermark::at(Timestamp::from_millis(i64::from_le_bytes(bytes))))
            }
        };
        let (signed_out, revoked) = (read(self.head() >> 5), read(self.head() >> 7));
        (Watermarks { signed_out, revoked, expires: self.expires(), learnt: self.learnt() }, at)
    }

    pub(super) fn watermarks(self) -> Watermarks {
        self.body().0
    }

    /// The bytes that are hashed and compared, see [`TargetId::parts`].
    pub(super) fn id_parts(self) -> (Form, &'a [u8]) {
        let (_, at) = self.body();
        let id = match self.form() {
            Form::Text => &self.0[at + 1..=at + usize::from(self.0[at])],
            Form::Uuid | Form::Hex => &self.0[at..at + 16],
            Form::Digest => &self.0[at..at + 32],
        };
        (self.form(), id)
    }

    pub(super) fn len(self) -> usize {
        let (_, at) = self.body();
        at + usize::from(self.form() == Form::Text) + self.id_parts().1.len()
    }

    pub(super) fn as_bytes(self) -> &'a [u8] {
        &self.0[..self.len()]
    }

    /// The original id.
    pub(super) fn id(self) -> TargetId {
        let (form, bytes) = self.id_parts();
        TargetId::of_parts(form, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn written_records_are_read_back(
            id in "[A-Za-z0-9._~@|+=-]{1,128}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}|\\PC{0,40}",
            kind in 0..7_usize, issuer in any::<u32>(), expires in any::<u32>(), learnt in any::<u32>(),
            signed_out in prop::option::of(any::<i64>()), revoked in prop::option::of(any::<i64>()),
        ) {
            let id = TargetId::new(&id);
            let at = |millis: Option<i64>| millis.map(|millis| Watermark::at(Timestamp::from_millis(millis)));
            let watermarks = Watermarks { signed_out: at(signed_out), revoked: at(revoked), expires, learnt };
            let mut arena = vec![7; 3];
            Record::write(&mut arena, Kind::ALL[kind], issuer, &id, &watermarks);
            let end = arena.len();
            arena.extend([9; 5]);
            let record = Record::new(&arena[3..]);
            prop_assert_eq!(record.id_parts(), id.parts());
            prop_assert_eq!(record.id(), id);
            prop_assert_eq!((record.kind(), record.issuer()), (Kind::ALL[kind], issuer));
            prop_assert_eq!(record.watermarks(), watermarks);
            prop_assert_eq!(record.len(), end - 3);
        }
    }

    #[test]
    fn a_uuid_token_takes_30_bytes() {
        let mut arena = Vec::new();
        let watermarks = Watermarks { signed_out: Some(Watermark::FOREVER), ..Watermarks::default() };
        let id = TargetId::new("0f8fad5b-d9cb-469f-a165-70867728950e");
        Record::write(&mut arena, Kind::Token, 0, &id, &watermarks);
        assert_eq!(arena.len(), 30);
    }
}
