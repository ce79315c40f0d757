//! Parsing answers: raw frames, or the library's values.

use fred::types::{Resp3Frame, Value};

use super::super::{LedgerError, Position};
use super::session::{unavailable, unexpected};
use crate::authz::claims::Timestamp;

/// A part of an answer.
pub(super) trait Answer: Sized {
    /// The parts of an array.
    fn parts(&self) -> Option<&[Self]>;
    /// A text; `None` also for bytes that are not text.
    fn text(&self) -> Option<&str>;
    /// A text or bytes.
    fn bytes(&self) -> Option<&[u8]>;
    fn is_nil(&self) -> bool;
}

impl Answer for Value {
    fn parts(&self) -> Option<&[Self]> {
        match self {
            Self::Array(parts) => Some(parts),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    fn bytes(&self) -> Option<&[u8]> {
        self.as_bytes()
    }

    fn is_nil(&self) -> bool {
        self.is_null()
    }
}

impl Answer for Resp3Frame {
    fn parts(&self) -> Option<&[Self]> {
        match self {
            Self::Array { data, .. } => Some(data),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::BlobString { data, .. } | Self::SimpleString { data, .. } => std::str::from_utf8(data).ok(),
            _ => None,
        }
    }

    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::BlobString { data, .. } | Self::SimpleString { data, .. } => Some(data),
            _ => None,
        }
    }

    fn is_nil(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// The entries in an answer to XREAD of one stream: `[[name, [entry…]]]`, or nil.
pub(super) fn entries<A: Answer>(read: &A) -> Result<&[A], LedgerError> {
    if read.is_nil() {
        return Ok(&[]);
    }
    match read.parts() {
        Some([stream]) => match stream.parts() {
            Some([_name, entries]) => entries.parts().ok_or_else(short),
            _ => Err(short()),
        },
        _ => Err(short()),
    }
}

/// An entry's place and its fields, one after the other.
pub(super) fn entry<A: Answer>(entry: &A) -> Result<(Position, &[A]), LedgerError> {
    match entry.parts() {
        Some([id, fields]) => Ok((position(id)?, fields.parts().unwrap_or_default())),
        _ => Err(short()),
    }
}

/// A stream id.
pub(super) fn position<A: Answer>(id: &A) -> Result<Position, LedgerError> {
    id.text().and_then(|id| id.parse().ok()).ok_or_else(short)
}

/// An answer to TIME: seconds and microseconds.
pub(super) fn time(value: &Value) -> Result<Timestamp, LedgerError> {
    let parts = value.parts().unwrap_or_default();
    let number = |at: usize| parts.get(at).and_then(Answer::text).and_then(|number| number.parse::<i64>().ok());
    match (number(0), number(1)) {
        (Some(seconds), Some(micros)) => Ok(Timestamp::from_millis(seconds.saturating_mul(1000) + micros / 1000)),
        _ => Err(unexpected("time", value)),
    }
}

pub(super) fn short() -> LedgerError {
    unavailable("an answer of an unexpected shape")
}
