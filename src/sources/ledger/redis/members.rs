//! Reading the notes of the store, into which any client of Redis may have written.
//!
//! A member of a sorted set that this version could not have written is skipped: it must neither replace nor block the
//! notes of other instances. A key of another type, or with bytes instead of text, is an error that names the key. The
//! log gets the key and the length of the value, never its bytes.

use std::sync::{Mutex, PoisonError};

use fred::types::Value;

use super::super::{LedgerError, RefusalKind};
use super::RedisLedger;
use super::answer::{Answer, short};
use crate::authz::claims::Timestamp;

/// The reported faults: the keys with unexpected members, and a short text for each other fault.
#[derive(Default)]
pub(super) struct ReportedFaults(Mutex<Vec<Box<str>>>);

impl ReportedFaults {
    /// Whether this fault was not reported yet.
    fn is_new(&self, key: &str) -> bool {
        let mut reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = reported.iter().all(|known| **known != *key);
        if is_new {
            reported.push(key.into());
        }
        is_new
    }

    fn clear(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| **known != *key);
    }
}

impl RedisLedger {
    /// The members of a sorted set, an answer to ZRANGE with scores, that `read` accepts by their text and score; the
    /// others are skipped, and reported once until the set is free of them.
    pub(super) fn members<T>(
        &self,
        key: &str,
        answer: &Value,
        read: impl Fn(&str, Timestamp) -> Option<T>,
    ) -> Result<Vec<T>, LedgerError> {
        let (mut known, mut unreadable) = (Vec::new(), Vec::new());
        for pair in answer.parts().unwrap_or_default().chunks_exact(2) {
            let member = pair[0].bytes().ok_or_else(short)?;
            #[expect(clippy::cast_possible_truncation, reason = "it saturates; milliseconds of this age are exact")]
            let score = Timestamp::from_millis(pair[1].as_f64().ok_or_else(short)? as i64);
            match std::str::from_utf8(member).ok().and_then(|text| read(text, score)) {
                Some(member) => known.push(member),
                None => unreadable.push(member.len()),
            }
        }
        if unreadable.is_empty() {
            self.reported.clear(key);
        } else if self.reported.is_new(key) {
            let (members, longest_bytes) = (unreadable.len(), unreadable.into_iter().max());
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

    /// Logs once that members were removed from a sorted set; `answer` is their number.
    pub(super) fn warn_of_removed(&self, key: &str, answer: &Value) {
        if let Some(members @ 1..) = answer.as_i64()
            && self.reported.is_new(key)
        {
            tracing::warn!(key, members, "members of a sorted set that Doorward cannot have written were removed");
        }
    }

    /// Logs once that a key is not of the type that belongs there.
    pub(super) fn warn_of_wrong_type(&self, error: &LedgerError) {
        if let LedgerError::Refused { message, .. } = error
            && error.is_wrong_type()
            && self.reported.is_new(message)
        {
            tracing::warn!(%error, "a key in the store cannot be used");
        }
    }

    /// Logs once that an instance's lease ends later than any lease can, and that receipts do not wait for it.
    pub(super) fn warn_of_endless_lease(&self, name: &str) {
        let key = &*self.keys.instances;
        if self.reported.is_new(&format!("{key} {}", name.len())) {
            tracing::warn!(
                key,
                member_bytes = name.len(),
                "a lease that ends later than any lease can is ignored: the store's clock was set, or another \
                 program wrote it (remove it: ZREM)"
            );
        }
    }
}

/// The text of a key; `None` if the key does not exist.
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
        let error = text("k", &Value::Bytes(vec![0xff, 0xfe].into())).unwrap_err().to_string();
        assert!(error.contains("`k` holds 2 bytes"), "{error}");
    }
}
