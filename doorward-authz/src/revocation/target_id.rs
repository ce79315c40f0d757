//! The id of a target, in its compared form: a UUID or a digest is stored as bytes, not as digits.

use std::cmp::Ordering;
use std::fmt::{self, Write};

use aws_lc_rs::digest;

/// The id of a target in Redis keys and the log.
///
/// Invariant: at most 128 bytes of `[A-Za-z0-9._~@|+=-]`, or `sha256:` and 64 hex digits, so no
/// character of a claim ever shapes a key.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct TargetId(
    /// The form, then the bytes.
    Box<[u8]>,
);

/// The form of an id; the digits of a UUID or a digest are stored as bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    Text = 0,
    /// Lower case, with its four dashes.
    Uuid = 1,
    /// 32 lower-case hex digits.
    Hex = 2,
    /// `sha256:` and 64 lower-case hex digits.
    Digest = 3,
}

impl Form {
    /// A form as two bits.
    pub(super) const fn of(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Text,
            1 => Self::Uuid,
            2 => Self::Hex,
            _ => Self::Digest,
        }
    }
}

impl TargetId {
    /// The longest id that is stored unchanged, in bytes.
    pub const MAX_LEN: usize = 128;
    const HASHED: &str = "sha256:";

    /// The id for any value of a claim or an API parameter.
    #[must_use]
    pub fn new(raw: &str) -> Self {
        if !(1..=Self::MAX_LEN).contains(&raw.len()) || !raw.bytes().all(is_plain) {
            return Self::digest(raw.as_bytes());
        }
        let packed = match raw.len() {
            32 => packed(Form::Hex, raw.as_bytes()),
            _ => uuid_digits(raw.as_bytes()).and_then(|digits| packed(Form::Uuid, &digits)),
        };
        packed.unwrap_or_else(|| Self::of_parts(Form::Text, raw.as_bytes()))
    }

    /// The name of a token without `jti`: the SHA-256 of its signing input.
    ///
    /// Never of the raw token: an attacker can change the signature to a second valid form (ECDSA's high s) and
    /// would escape.
    #[must_use]
    pub fn digest(bytes: &[u8]) -> Self {
        Self::of_parts(Form::Digest, digest::digest(&digest::SHA256, bytes).as_ref())
    }

    /// Reads an id back from the store: an id in canonical form stays, anything else is hashed. Other writers
    /// may give the digits of a digest in upper case.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self::written_digest(text).unwrap_or_else(|| Self::new(text))
    }

    /// The digest that a text denotes, if it has that form.
    ///
    /// A text in the form of a digest may denote a digest or be the value of a claim. If it is the value of a claim,
    /// both readings refuse the token.
    #[must_use]
    pub fn written_digest(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::HASHED).filter(|digits| digits.len() == 64)?;
        packed(Form::Digest, digits.to_ascii_lowercase().as_bytes())
    }

    /// Whether this is a digest of the name, and not the name itself.
    #[must_use]
    pub fn is_digest(&self) -> bool {
        self.form() == Form::Digest
    }

    /// The bytes that are hashed and compared: equal bytes of one form are equal ids.
    pub(super) fn parts(&self) -> (Form, &[u8]) {
        (self.form(), &self.0[1..])
    }

    pub(super) fn of_parts(form: Form, bytes: &[u8]) -> Self {
        let mut held = Vec::with_capacity(1 + bytes.len());
        held.push(form as u8);
        held.extend_from_slice(bytes);
        Self(held.into())
    }

    /// Its memory on the heap, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Its stored form, for [`Self::from_held`].
    pub(crate) fn held(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn from_held(held: &[u8]) -> Option<Self> {
        held.first().is_some_and(|form| *form <= Form::Digest as u8).then(|| Self(held.into()))
    }

    fn form(&self) -> Form {
        Form::of(self.0[0])
    }

    fn text(&self) -> impl Iterator<Item = char> {
        let (form, bytes) = self.parts();
        let (plain, packed) = if form == Form::Text { (bytes, &[][..]) } else { (&[][..], bytes) };
        let digit = |digit: u8| char::from(b"0123456789abcdef"[usize::from(digit)]);
        let digits = packed.iter().enumerate().flat_map(move |(at, byte)| {
            let dash = (form == Form::Uuid && [4, 6, 8, 10].contains(&at)).then_some('-');
            dash.into_iter().chain([digit(byte >> 4), digit(byte & 15)])
        });
        let prefix = if form == Form::Digest { Self::HASHED } else { "" };
        prefix.chars().chain(plain.iter().map(|byte| char::from(*byte))).chain(digits)
    }
}

/// By their text.
impl Ord for TargetId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text().cmp(other.text())
    }
}

impl PartialOrd for TargetId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().try_for_each(|letter| f.write_char(letter))
    }
}

impl fmt::Debug for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TargetId({self})")
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'@' | b'|' | b'+' | b'=' | b'-')
}

/// Packs lower-case hex digits; `None` if there is any other byte.
fn packed(form: Form, digits: &[u8]) -> Option<TargetId> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => u8::MAX,
    };
    let (pairs, []) = digits.as_chunks() else { return None };
    let mut bytes = Vec::with_capacity(1 + pairs.len());
    bytes.push(form as u8);
    let mut all = 0;
    for [high, low] in pairs {
        let (high, low) = (value(*high), value(*low));
        all |= high | low;
        bytes.push(high << 4 | low & 15);
    }
    (all < 16).then(|| TargetId(bytes.into()))
}

/// The digits of a UUID, without its four dashes.
fn uuid_digits(text: &[u8]) -> Option<[u8; 32]> {
    let text: &[u8; 36] = text.try_into().ok()?;
    let mut digits = [0; 32];
    digits[..8].copy_from_slice(&text[..8]);
    digits[8..12].copy_from_slice(&text[9..13]);
    digits[12..16].copy_from_slice(&text[14..18]);
    digits[16..20].copy_from_slice(&text[19..23]);
    digits[20..].copy_from_slice(&text[24..]);
    [8, 13, 18, 23].iter().all(|at| text[*at] == b'-').then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusual_ids_are_hashed_and_read_back() {
        for raw in [
            "jti-1",
            "a@b|c+d=e~f._-",
            &"x".repeat(128),
            &"f".repeat(32),
            &"F".repeat(32),
            "0f8fad5b-d9cb-469f-a165-70867728950e",
            "0F8fad5b-d9cb-469f-a165-70867728950e",
            "0f8fad5bd-9cb-469f-a165-70867728950e",
            "--------------------------------",
        ] {
            assert_eq!(TargetId::new(raw).to_string(), raw);
            assert!(!TargetId::new(raw).is_digest());
        }
        for raw in ["", "a:b", "a b", "é", "a\nb", "{r}", "*", &"x".repeat(129), "sha256:00"] {
            let id = TargetId::new(raw);
            assert!(id.is_digest() && id.to_string().starts_with("sha256:") && id.to_string().len() == 71, "{raw:?}");
            assert_eq!(TargetId::from_stored(&id.to_string()), id, "a canonical id stays as it is");
            let upper = format!("sha256:{}", id.to_string()["sha256:".len()..].to_uppercase());
            assert_eq!(TargetId::from_stored(&upper), id, "as some languages print it");
            assert_eq!(TargetId::from_stored(raw), id, "an id that another writer left plain");
        }
    }

    #[test]
    fn ids_of_one_name_are_held_by_its_bytes() {
        let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(TargetId::new(uuid).bytes(), 17);
        assert_ne!(TargetId::new(uuid), TargetId::new(&uuid.replace('-', "")));
        assert_ne!(TargetId::new(uuid), TargetId::new(&uuid.to_uppercase()));
        let mut ids = ["b", &"a".repeat(32), uuid, "user", "a:"].map(TargetId::new);
        ids.sort();
        assert!(ids.map(|id| id.to_string()).is_sorted(), "by their text");
    }
}
