//! The writer of Protocol Buffers' wire format: only the parts that a `CheckResponse` needs.

/// A message that is being written; it begins at the length that its parent reserved.
pub(in crate::api) struct Message<'a>(&'a mut Vec<u8>);

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;

impl<'a> Message<'a> {
    pub(in crate::api) fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Fields that are already encoded, in the form of this message.
    pub(in crate::api) fn fields(&mut self, written: &[u8]) {
        self.0.extend_from_slice(written);
    }

    pub(in crate::api) fn text(&mut self, number: u8, text: &str) {
        self.key(number, BYTES);
        varint(self.0, text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(in crate::api) fn number(&mut self, number: u8, value: u16) {
        self.key(number, VARINT);
        varint(self.0, usize::from(value));
    }

    pub(in crate::api) fn double(&mut self, number: u8, value: f64) {
        self.key(number, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A message in this one. Its length precedes it, so its bytes are moved if the length needs more than
    /// one byte.
    pub(in crate::api) fn message(&mut self, number: u8, write: impl FnOnce(&mut Message<'_>)) {
        self.key(number, BYTES);
        let start = self.0.len();
        self.0.push(0);
        write(&mut Message(self.0));
        let length = self.0.len() - start - 1;
        if let (true, Ok(byte)) = (length < 0x80, u8::try_from(length)) {
            self.0[start] = byte;
            return;
        }
        let mut prefix = Vec::with_capacity(4);
        varint(&mut prefix, length);
        self.0.splice(start..=start, prefix);
    }

    /// Field numbers up to 15 take one byte with their type; larger ones do not occur.
    fn key(&mut self, number: u8, wire_type: u8) {
        debug_assert!((1..=15).contains(&number));
        self.0.push(number << 3 | wire_type);
    }
}

fn varint(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}
