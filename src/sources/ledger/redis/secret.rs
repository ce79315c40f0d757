//! The secret with which the instances on one store seal the subjects of streams for each other.
//!
//! ```text
//! doorward:{r}:streams   64 hex digits, made by the first instance
//! ```

use super::super::LedgerError;
use super::RedisLedger;
use super::answer::{Answer, short};
use super::session::Command;
use crate::authz::stream_proof::Secret;

impl RedisLedger {
    /// The secret of the store; `offered` if the store does not have one yet.
    pub(in crate::sources) async fn stream_secret(&self, offered: Secret) -> Result<Secret, LedgerError> {
        let get = || Command::new("GET").arg(&*self.keys.streams);
        let found = self.shared.call(self, get(), self.deadline()).await?;
        if let Some(secret) = found.text().and_then(read) {
            return Ok(secret);
        }
        let set = Command::new("SET").arg(&*self.keys.streams).arg(write(&offered));
        // A value that is not a valid secret is replaced.
        let set = if found.is_nil() { set.arg("NX") } else { set };
        self.shared.call(self, set, self.deadline()).await?;
        let kept = self.shared.call(self, get(), self.deadline()).await?;
        kept.text().and_then(read).ok_or_else(short)
    }
}

fn write(secret: &Secret) -> String {
    secret.map(|byte| format!("{byte:02x}")).concat()
}

fn read(text: &str) -> Option<Secret> {
    let mut secret = Secret::default();
    if text.len() != 2 * secret.len() || !text.is_ascii() {
        return None;
    }
    for (byte, at) in secret.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_is_written() {
        let secret: Secret = rand::random();
        assert_eq!(read(&write(&secret)), Some(secret));
        for odd in ["", "00", &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
