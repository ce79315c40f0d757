//! Reading the notes of the store, into which anybody may have written.
//!
//! A member of a sorted set that this version could not have written is skipped: it must neither end what instances tell
//! each other nor stop them. A key of another type, or with bytes where a text belongs, is an error that names it. Both
//! are told by the key and the length of what is there, never by its bytes.

use std::sync::{Mutex, PoisonError};

use fred::types::Value;

use super::super::{LedgerError, RefusalKind};
use super::RedisLedger;
use super::answer::{Answer, short};
use crate::authz::claims::Timestamp;

/// What is odd and was told: the keys that have odd members, and a few words of each other fault.
#[derive(Default)]
pub(super) struct Odd(Mutex<Vec<Box<str>>>);

impl Odd {
    /// Whether this was not told yet.
    fn is_new(&self, key: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = told.iter().all(|known| **known != *key);
        if is_new {
            told.push(key.into());
        }
        is_new
    }

    fn is_over(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| **known != *key);
    }
}

impl RedisLedger {
    /// The members of a sorted set, an answer to ZRANGE with scores, that `read` knows by their text and score; the
    /// others are skipped, and told once until there are none.
    pub(super) fn members<T>(
        &self,
        key: &str,
        answer: &Value,
        read: impl Fn(&str, Timestamp) -> Option<T>,
    ) -> Result<Vec<T>, LedgerError> {
        let (mut known, mut odd) = (Vec::new(), Vec::new());
        for pair in answer.parts().unwrap_or_default().chunks_exact(2) {
            let member = pair[0].bytes().ok_or_else(short)?;
            #[expect(clippy::cast_possible_truncation, reason = "it saturates; milliseconds of this age are exact")]
            let score = Timestamp::from_millis(pair[1].as_f64().ok_or_else(short)? as i64);
            match std::str::from_utf8(member).ok().and_then(|text| read(text, score)) {
                Some(member) => known.push(member),
                None => odd.push(member.len()),
            }
        }
        if odd.is_empty() {
            self.odd.is_over(key);
        } else if self.odd.is_new(key) {
            let (members, longest_bytes) = (odd.len(), odd.into_iter().max());
            tracing::warn!(
                key,
                members,
                longest_bytes,
                "members of a sorted set that Doorward cannot have written, by their text or score, are skipped: remove \
                 them (ZREM)"
            );
        }
        Ok(known)
    }

    /// Says once that members were removed from a sorted set; `answer` is their number.
    pub(super) fn tell_of_removed(&self, key: &str, answer: &Value) {
        if let Some(members @ 1..) = answer.as_i64()
            && self.odd.is_new(key)
        {
            tracing::warn!(key, members, "members of a sorted set that Doorward cannot have written were removed");
        }
    }

    /// Says once that a key is not of the type that belongs there.
    pub(super) fn tell_of_type(&self, error: &LedgerError) {
        if let LedgerError::Refused { message, .. } = error
            && message.starts_with("WRONGTYPE")
            && self.odd.is_new(message)
        {
            tracing::warn!(%error, "a note in the store cannot be used");
        }
    }

    /// Says once that an instance lies further ahead than a lease can, and is not waited for.
    pub(super) fn tell_of_ghost(&self, name: &str) {
        let key = &*self.keys.instances;
        if self.odd.is_new(&format!("{key} {}", name.len())) {
            tracing::warn!(
                key,
                member_bytes = name.len(),
                "an instance would run for longer than any lease: it is not believed; the store's clock was set, or \
                 another program wrote it (ZREM)"
            );
        }
    }
}

/// The text of a key; `None` if there is no such key.
pub(super) fn text<'a>(key: &str, value: &'a Value) -> Result<Option<&'a str>, LedgerError> {
    if value.is_nil() {
        return Ok(None);
    }
    value.text().map(Some).ok_or_else(|| {
        let bytes = value.bytes().unwrap_or_default().len();
        let message =
            format!("`{key}` holds {bytes} bytes that are not text: another program wrote it; delete the key");
        LedgerError::Refused { kind: RefusalKind::Other, message: message.into() }
    })
}

/// Whether this may be the name of an instance, which is fit for a log.
pub(super) fn is_instance(name: &str) -> bool {
    const LONGEST: usize = 128;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_an_instance_is_fit_for_a_log() {
        for (name, expected) in
            [("host-1.example.0a1b2c3d", true), ("", false), ("a b", false), ("a\n", false), ("é", false)]
        {
            assert_eq!(is_instance(name), expected, "{name:?}");
        }
        assert!(is_instance(&"a".repeat(128)) && !is_instance(&"a".repeat(129)));
    }

    #[test]
    fn a_text_is_told_from_no_key_and_from_bytes() {
        assert_eq!(text("k", &Value::Null).unwrap(), None);
        assert_eq!(text("k", &Value::from("e 1")).unwrap(), Some("e 1"));
        let told = text("k", &Value::Bytes(vec![0xff, 0xfe].into())).unwrap_err().to_string();
        assert!(told.contains("`k` holds 2 bytes"), "{told}");
    }
}
