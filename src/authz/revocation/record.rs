//! One target's revocations in a few bytes: a UUID token takes 24, and nothing but its own memory.
//!
//! A million of them must fit beside a service (`cargo bench --bench index`), and each must keep its whole
//! name: an index of digests could not give a store back what it lost.
//!
//! ```text
//! head u16 | issuer u16 | expires u32 | signed_out i64? | revoked i64? | length u8? | id
//! ```

use super::{Hit, Kind, Origin, Revocation, TargetId, Watermark};
use crate::authz::claims::Timestamp;

/// How an id is held; text that is the writing of a number is held as the number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Text = 0,
    /// Lower case, with its four dashes.
    Uuid = 1,
    /// 32 lower-case hex digits.
    Hex = 2,
    /// `sha256:` and 64 lower-case hex digits.
    Digest = 3,
}

/// A target's name as it is held and compared.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct PackedId {
    form: Form,
    bytes: [u8; TargetId::MAX_LEN],
    len: u8,
}

impl PackedId {
    pub(super) fn new(id: &TargetId) -> Self {
        let text = id.as_str().as_bytes();
        let mut packed = Self { form: Form::Text, bytes: [0; TargetId::MAX_LEN], len: 0 };
        let digits = match text.len() {
            32 => Some((Form::Hex, text, &[][..])),
            36 => Some((Form::Uuid, text, &DASHES[..])),
            71 => text.strip_prefix(b"sha256:").map(|digits| (Form::Digest, digits, &[][..])),
            _ => None,
        };
        if let Some((form, digits, dashes)) = digits
            && let Some(len) = read_hex(digits, dashes, &mut packed.bytes)
        {
            (packed.form, packed.len) = (form, len);
            return packed;
        }
        let len = text.len().min(TargetId::MAX_LEN); // Never longer: the type's invariant.
        packed.bytes[..len].copy_from_slice(&text[..len]);
        packed.len = u8::try_from(len).unwrap_or(u8::MAX);
        packed
    }

    /// What is hashed and compared.
    pub(super) fn as_bytes(&self) -> (u8, &[u8]) {
        (self.form as u8, &self.bytes[..usize::from(self.len)])
    }
}

const DASHES: [usize; 4] = [8, 13, 18, 23];

/// Packs lower-case hex digits with dashes at these places; `None` if there is any other byte.
fn read_hex(text: &[u8], dashes: &[usize], bytes: &mut [u8]) -> Option<u8> {
    let mut len: u8 = 0;
    let mut high = None;
    for (at, byte) in text.iter().enumerate() {
        let digit = match byte {
            b'-' if dashes.contains(&at) => continue,
            _ if dashes.contains(&at) => return None,
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        match high.take() {
            None => high = Some(digit << 4),
            Some(high) => {
                *bytes.get_mut(usize::from(len))? = high | digit;
                len += 1;
            }
        }
    }
    Some(len)
}

/// A record as it lies in memory.
#[derive(Clone, Copy)]
pub(super) struct Record<'a>(&'a [u8]);

const HEAD: usize = 8;
const INSTANT: usize = 8;

/// What of an origin is known; two bits of the head.
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
}

impl Watermarks {
    /// Takes a revocation in; true if that taught anything.
    pub(super) fn merge(&mut self, revocation: &Revocation) -> bool {
        let before = *self;
        let slot = match revocation.origin {
            Origin::SignedOut => &mut self.signed_out,
            Origin::Revoked => &mut self.revoked,
        };
        *slot = (*slot).max(Some(revocation.watermark));
        self.expires = self.expires.max(seconds(revocation.expires_at));
        *self != before
    }

    /// By origin; kept apart because each token is hit, or not, by each of them.
    pub(super) fn hit(&self, kind: Kind, issued_at: Option<Timestamp>) -> Option<Hit> {
        [(Origin::Revoked, self.revoked), (Origin::SignedOut, self.signed_out)].into_iter().find_map(
            |(origin, watermark)| {
                let watermark = watermark.filter(|watermark| watermark.covers(issued_at))?;
                Some(Hit { kind, origin, watermark })
            },
        )
    }
}

/// Rounded up, so that nothing is forgotten early.
pub(super) fn seconds(at: Timestamp) -> u32 {
    u32::try_from(at.as_secs_ceil().max(0)).unwrap_or(u32::MAX)
}

impl<'a> Record<'a> {
    /// The most bytes a record may have: a text id of full length and both instants.
    pub(super) const LARGEST: usize = HEAD + 2 * INSTANT + 1 + TargetId::MAX_LEN;

    /// The record that begins these bytes.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Appends a record.
    pub(super) fn write(arena: &mut Vec<u8>, kind: Kind, issuer: u16, id: &PackedId, watermarks: &Watermarks) {
        let held = |watermark: Option<Watermark>| match watermark {
            None => Held::Nothing,
            Some(Watermark::FOREVER) => Held::Forever,
            Some(_) => Held::Instant,
        };
        let (signed_out, revoked) = (held(watermarks.signed_out), held(watermarks.revoked));
        let head = kind as u16 | (id.form as u16) << 3 | (signed_out as u16) << 5 | (revoked as u16) << 7;
        arena.extend_from_slice(&head.to_le_bytes());
        arena.extend_from_slice(&issuer.to_le_bytes());
        arena.extend_from_slice(&watermarks.expires.to_le_bytes());
        for (held, watermark) in [(signed_out, watermarks.signed_out), (revoked, watermarks.revoked)] {
            if let (Held::Instant, Some(watermark)) = (held, watermark) {
                arena.extend_from_slice(&watermark.instant().as_millis().to_le_bytes());
            }
        }
        if id.form == Form::Text {
            arena.push(id.len);
        }
        arena.extend_from_slice(id.as_bytes().1);
    }

    fn head(self) -> u16 {
        u16::from_le_bytes([self.0[0], self.0[1]])
    }

    pub(super) fn kind(self) -> Kind {
        Kind::ALL.get(usize::from(self.head() & 7)).copied().unwrap_or(Kind::Registration)
    }

    pub(super) fn issuer(self) -> u16 {
        u16::from_le_bytes([self.0[2], self.0[3]])
    }

    pub(super) fn expires(self) -> u32 {
        u32::from_le_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    fn form(self) -> Form {
        match self.head() >> 3 & 3 {
            0 => Form::Text,
            1 => Form::Uuid,
            2 => Form::Hex,
            _ => Form::Digest,
        }
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
        (Watermarks { signed_out, revoked, expires: self.expires() }, at)
    }

    pub(super) fn watermarks(self) -> Watermarks {
        self.body().0
    }

    /// What is hashed and compared, see [`PackedId::as_bytes`].
    pub(super) fn id_bytes(self) -> (u8, &'a [u8]) {
        let (_, at) = self.body();
        let id = match self.form() {
            Form::Text => &self.0[at + 1..=at + usize::from(self.0[at])],
            Form::Uuid | Form::Hex => &self.0[at..at + 16],
            Form::Digest => &self.0[at..at + 32],
        };
        (self.form() as u8, id)
    }

    pub(super) fn len(self) -> usize {
        let (_, at) = self.body();
        at + usize::from(self.form() == Form::Text) + self.id_bytes().1.len()
    }

    pub(super) fn as_bytes(self) -> &'a [u8] {
        &self.0[..self.len()]
    }

    /// The id as it was given.
    pub(super) fn id(self) -> TargetId {
        use std::fmt::Write;
        let (_, bytes) = self.id_bytes();
        if self.form() == Form::Text {
            return TargetId::from_stored(&String::from_utf8_lossy(bytes));
        }
        let mut text = String::with_capacity(71);
        if self.form() == Form::Digest {
            text.push_str("sha256:");
        }
        for (at, byte) in bytes.iter().enumerate() {
            if self.form() == Form::Uuid && [4, 6, 8, 10].contains(&at) {
                text.push('-');
            }
            let _ = write!(text, "{byte:02x}"); // Writing to a String cannot fail.
        }
        TargetId::from_stored(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            id in "[A-Za-z0-9._~@|+=-]{1,128}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}|\\PC{0,40}",
            kind in 0..6_usize, issuer in any::<u16>(), expires in any::<u32>(),
            signed_out in prop::option::of(any::<i64>()), revoked in prop::option::of(any::<i64>()),
        ) {
            let id = TargetId::new(&id);
            let at = |millis: Option<i64>| millis.map(|millis| Watermark::at(Timestamp::from_millis(millis)));
            let watermarks = Watermarks { signed_out: at(signed_out), revoked: at(revoked), expires };
            let mut arena = vec![7; 3];
            let packed = PackedId::new(&id);
            Record::write(&mut arena, Kind::ALL[kind], issuer, &packed, &watermarks);
            let end = arena.len();
            arena.extend([9; 5]);
            let record = Record::new(&arena[3..]);
            prop_assert_eq!(record.id(), id);
            prop_assert_eq!(record.id_bytes(), packed.as_bytes());
            prop_assert_eq!((record.kind(), record.issuer()), (Kind::ALL[kind], issuer));
            prop_assert_eq!(record.watermarks(), watermarks);
            prop_assert_eq!(record.len(), end - 3);
        }
    }

    #[test]
    fn a_uuid_token_takes_24_bytes() {
        let mut arena = Vec::new();
        let watermarks = Watermarks { signed_out: Some(Watermark::FOREVER), ..Watermarks::default() };
        let id = PackedId::new(&TargetId::new("0f8fad5b-d9cb-469f-a165-70867728950e"));
        Record::write(&mut arena, Kind::Token, 0, &id, &watermarks);
        assert_eq!(arena.len(), 24);
    }
}
