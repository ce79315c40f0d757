//! Protocol Buffers' wire format, read in place: the fields of a message one after the other.
//!
//! Every length is compared with the rest of the message, so only bytes that have arrived are read, and memory is
//! never reserved for more. The reader refuses and skips the same input as prost; a test compares the two.

/// The bytes are not a protobuf message: truncated, of a wrong wire type, or not UTF-8 where text is required.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::api) struct Malformed;

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub(in crate::api) enum Value<'a> {
    /// Text, bytes or a message.
    Bytes(&'a [u8]),
    /// A wire type that Protocol Buffers do not define.
    Other,
}

impl<'a> Value<'a> {
    pub(in crate::api) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Other => Err(Malformed),
        }
    }

    pub(in crate::api) fn text(self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    pub(in crate::api) fn message(self) -> Result<Fields<'a>, Malformed> {
        self.bytes().map(Fields)
    }
}

/// The fields of one message that are still to be read.
#[derive(Clone, Copy)]
pub(in crate::api) struct Fields<'a>(pub(in crate::api) &'a [u8]);

/// The deepest nesting of groups (a feature of proto2), which bounds the reader's stack.
const MAX_GROUPS: usize = 90;

impl<'a> Fields<'a> {
    /// The number and value of the next field; `None` at the end.
    pub(in crate::api) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let (number, wire_type) = self.key()?;
        Ok(Some((number, self.value(number, wire_type, MAX_GROUPS)?)))
    }

    fn key(&mut self) -> Result<(u32, u8), Malformed> {
        let key = u32::try_from(self.varint()?).map_err(|_| Malformed)?;
        let (number, wire_type) = (key >> 3, (key & 7) as u8);
        if number == 0 { Err(Malformed) } else { Ok((number, wire_type)) }
    }

    fn value(&mut self, number: u32, wire_type: u8, groups: usize) -> Result<Value<'a>, Malformed> {
        match wire_type {
            0 => self.varint().map(|_| Value::Other),
            1 => self.take(8).map(|_| Value::Other),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                self.take(length).map(Value::Bytes)
            }
            3 => {
                let deeper = groups.checked_sub(1).ok_or(Malformed)?;
                loop {
                    match self.key()? {
                        (end, 4) if end == number => return Ok(Value::Other),
                        (_, 4) => return Err(Malformed),
                        (inner, wire_type) => self.value(inner, wire_type, deeper)?,
                    };
                }
            }
            5 => self.take(4).map(|_| Value::Other),
            _ => Err(Malformed),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// At most ten bytes, and 64 bits.
    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        if let [byte @ ..0x80, rest @ ..] = self.0 {
            self.0 = rest; // Nearly all varints are this short.
            return Ok((*byte).into());
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for (at, &byte) in self.0.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.0 = &self.0[at + 1..];
                return if at == 9 && byte > 1 { Err(Malformed) } else { Ok(number) };
            }
        }
        Err(Malformed)
    }
}
