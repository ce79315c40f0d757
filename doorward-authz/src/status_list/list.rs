//! The list itself: values of 1, 2, 4 or 8 bits, compressed (section 4).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use miniz_oxide::deflate::compress_to_vec_zlib;
use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_zlib_with_limit};
use serde_json::{Map, Value, json};

use super::StatusValue;

/// The size of a value: 1, 2, 4 or 8 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bits(u8);

impl Bits {
    pub const ONE: Self = Self(1);

    #[must_use]
    pub fn new(bits: u64) -> Option<Self> {
        [1, 2, 4, 8].into_iter().find(|known| u64::from(*known) == bits).map(Self)
    }
}

/// The values of an issuer's tokens, by their indexes.
#[derive(Clone, Eq, PartialEq)]
pub struct StatusList {
    bits: Bits,
    bytes: Box<[u8]>,
}

/// Why a list cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MalformedList {
    #[error("`status_list` is not an object with `bits` (1, 2, 4 or 8) and `lst`")]
    Form,
    #[error("`lst` is not base64url without padding")]
    Encoding,
    #[error("`lst` is not compressed in the ZLIB format")]
    Compression,
    #[error("`lst` is larger than `limits.status_list_bytes` when decompressed")]
    TooLarge,
}

impl StatusList {
    /// A list of `entries` values, all valid but those with these indexes, which are `0x01`; indexes beyond it are left
    /// out.
    #[must_use]
    pub fn of_invalid(entries: u32, invalid: impl IntoIterator<Item = u32>) -> Self {
        let mut bytes = vec![0_u8; (entries as usize).div_ceil(8)].into_boxed_slice();
        for index in invalid.into_iter().filter(|index| *index < entries) {
            bytes[index as usize / 8] |= 1 << (index % 8);
        }
        Self { bits: Bits::ONE, bytes }
    }

    /// Reads the claim `status_list` (section 4.2). The result has at most `max_bytes`: decompression stops there, so
    /// that a small list cannot take more memory.
    pub fn parse(claim: &Value, max_bytes: usize) -> Result<Self, MalformedList> {
        let bits = claim.get("bits").and_then(Value::as_u64).and_then(Bits::new).ok_or(MalformedList::Form)?;
        let text = claim.get("lst").and_then(Value::as_str).ok_or(MalformedList::Form)?;
        let compressed = URL_SAFE_NO_PAD.decode(text).map_err(|_| MalformedList::Encoding)?;
        // One byte more, so that a list of exactly that size ends before the limit.
        let bytes = decompress_to_vec_zlib_with_limit(&compressed, max_bytes.saturating_add(1));
        let bytes = bytes.map_err(|error| match error.status {
            TINFLStatus::HasMoreOutput => MalformedList::TooLarge,
            _ => MalformedList::Compression,
        })?;
        if bytes.len() > max_bytes { Err(MalformedList::TooLarge) } else { Ok(Self { bits, bytes: bytes.into() }) }
    }

    /// The claim `status_list`.
    #[must_use]
    pub fn to_claim(&self) -> Value {
        let lst = URL_SAFE_NO_PAD.encode(compress_to_vec_zlib(&self.bytes, LEVEL));
        Value::Object(Map::from_iter([("bits".to_owned(), json!(self.bits.0)), ("lst".to_owned(), json!(lst))]))
    }

    /// The value at an index; `None` beyond the list. The first value of a byte has its least significant bits (section
    /// 4.1).
    #[must_use]
    pub fn value(&self, index: u32) -> Option<StatusValue> {
        let Bits(bits) = self.bits;
        let per_byte = u32::from(8 / bits);
        let byte = self.bytes.get((index / per_byte) as usize)?;
        let shift = (index % per_byte) * u32::from(bits);
        Some(StatusValue((byte >> shift) & (u8::MAX >> (8 - bits))))
    }

    /// The number of values, those of the last byte included.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.bytes.len() * 8 / usize::from(self.bits.0)
    }

    /// Its memory, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// The effort of the compression, of 10.
const LEVEL: u8 = 9;

impl std::fmt::Debug for StatusList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StatusList({} values of {} bits)", self.entries(), self.bits.0)
    }
}
