//! Edits of a request's headers, owned and in one piece: they are kept with a token, and applied after the request was
//! read.

use doorward::authz::answer::name_bit;
use doorward::authz::rule::RequestView;

/// The names of a request's headers.
pub struct Present<'a> {
    headers: &'a [(&'a str, &'a [u8])],
    /// Their [`name_bit`]s.
    bits: u64,
}

impl<'a> Present<'a> {
    /// `each`: is called with each name, in the same pass.
    pub fn of(request: &RequestView<'a>, mut each: impl FnMut(&'a str)) -> Self {
        let mut bits = 0;
        for (name, _) in request.headers {
            bits |= name_bit(name.as_bytes());
            each(name);
        }
        Self { headers: request.headers, bits }
    }

    fn has(&self, name: &[u8]) -> bool {
        let is_it = |(known, _): &(&str, &[u8])| known.as_bytes().eq_ignore_ascii_case(name);
        self.bits & name_bit(name) != 0 && self.headers.iter().any(is_it)
    }
}

/// Headers to set, to add and to remove: for each its kind, the lengths of name and value, name, value.
#[derive(Default)]
pub struct Edits(Vec<u8>);

/// An edit of one header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Edit<'a> {
    /// Replaces all fields of the name.
    Set(&'a [u8]),
    /// The request has no field of the name: for Envoy that is less work.
    Add(&'a [u8]),
    Remove,
}

impl Edits {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As one text, for [`Self::put_all_in`].
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.put(name.as_bytes(), Edit::Set(value.as_bytes()));
    }

    pub fn remove(&mut self, name: &str) {
        self.put(name.as_bytes(), Edit::Remove);
    }

    /// Sets a header of this request.
    pub fn set_in(&mut self, present: &Present<'_>, name: &str, value: &str) {
        self.put_in(present, name.as_bytes(), Edit::Set(value.as_bytes()));
    }

    /// Removes a header if the request has it.
    pub fn remove_from(&mut self, present: &Present<'_>, name: &str) {
        self.put_in(present, name.as_bytes(), Edit::Remove);
    }

    /// Puts edits that were written for any request.
    pub fn put_all_in(&mut self, present: &Present<'_>, edits: &[u8]) {
        self.0.reserve(edits.len());
        each(edits).for_each(|(name, edit)| self.put_in(present, name, edit));
    }

    fn put_in(&mut self, present: &Present<'_>, name: &[u8], edit: Edit<'_>) {
        match edit {
            Edit::Set(value) if !present.has(name) => self.put(name, Edit::Add(value)),
            Edit::Remove if !present.has(name) => {}
            edit => self.put(name, edit),
        }
    }

    fn put(&mut self, name: &[u8], edit: Edit<'_>) {
        let (kind, value) = match edit {
            Edit::Set(value) => (SET, value),
            Edit::Add(value) => (ADD, value),
            Edit::Remove => (REMOVE, &[][..]),
        };
        self.0.push(kind);
        self.0.extend_from_slice(&length(name).to_le_bytes());
        self.0.extend_from_slice(&length(value).to_le_bytes());
        self.0.extend_from_slice(name);
        self.0.extend_from_slice(value);
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Edit<'_>)> {
        each(&self.0)
    }
}

const SET: u8 = 0;
const ADD: u8 = 1;
const REMOVE: u8 = 2;

/// The name of each header, and its edit.
fn each(mut edits: &[u8]) -> impl Iterator<Item = (&[u8], Edit<'_>)> {
    std::iter::from_fn(move || {
        let kind = *edits.split_off_first()?;
        let (name, value) = (number(&mut edits)?, number(&mut edits)?);
        let (name, value) = (edits.split_off(..name as usize)?, edits.split_off(..value as usize)?);
        let edit = match kind {
            SET => Edit::Set(value),
            ADD => Edit::Add(value),
            _ => Edit::Remove,
        };
        Some((name, edit))
    })
}

/// Names and values come from one request and one configuration: they are far smaller than four gigabytes.
pub fn length(text: &[u8]) -> u32 {
    u32::try_from(text.len()).unwrap_or(0)
}

pub fn number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_read_as_they_were_written() {
        let mut edits = Edits::default();
        edits.set("x-user-id", "anna");
        edits.remove("x_user_id");
        edits.set("x-empty", "");
        let read: Vec<_> = edits.iter().collect();
        let expected: [(&[u8], Edit<'_>); 3] =
            [(b"x-user-id", Edit::Set(b"anna")), (b"x_user_id", Edit::Remove), (b"x-empty", Edit::Set(b""))];
        assert_eq!(read, expected);
    }
}
