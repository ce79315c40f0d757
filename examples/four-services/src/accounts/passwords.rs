//! Passwords: Argon2id, a few at a time, with a limit of guesses.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::anyhow;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

use crate::clock::Timestamp;

/// Hashing takes 19 MiB and tens of milliseconds of a core each: more at once would only be slower.
const AT_ONCE: usize = 2;
/// How long a request waits for its turn: beyond it, a flood of logins is turned away.
const WAIT: Duration = Duration::from_secs(2);
/// Longer ones are refused unhashed.
pub const MAX_BYTES: usize = 128;

pub struct Passwords {
    turns: Arc<Semaphore>,
    /// The hash for the password of an unknown user, so that the answer takes as long.
    decoy: String,
    guesses: Mutex<HashMap<String, Guesses>>,
}

/// No turn came within [`WAIT`].
#[derive(Debug, thiserror::Error)]
#[error("too many passwords to check at once")]
pub struct Busy;

impl Passwords {
    pub async fn new() -> anyhow::Result<Self> {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let passwords = Self { turns, decoy: String::new(), guesses: Mutex::default() };
        let decoy = passwords.hash("nobody's".to_owned()).await?;
        Ok(Self { decoy, ..passwords })
    }

    /// A PHC string with a salt of its own.
    pub async fn hash(&self, password: String) -> anyhow::Result<String> {
        let hash = move || Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string());
        self.in_turn(hash).await?.map_err(|error| anyhow!("hash a password: {error}"))
    }

    /// Whether this is the password of `hash`; without one, `false`, after the same time.
    pub async fn verify(&self, password: String, hash: Option<&str>) -> anyhow::Result<bool> {
        let (known, hash) = (hash.is_some(), hash.unwrap_or(&self.decoy).to_owned());
        let verify = move || {
            let hash = PasswordHash::new(&hash)?;
            Ok::<_, argon2::password_hash::phc::Error>(
                Argon2::default().verify_password(password.as_bytes(), &hash).is_ok(),
            )
        };
        let right = self.in_turn(verify).await?.map_err(|error| anyhow!("read a password hash: {error}"))?;
        Ok(right && known)
    }

    /// On a thread that may block. Its turn lasts until the work is done, even if nobody waits any more.
    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
        let turn = tokio::time::timeout(WAIT, self.turns.clone().acquire_owned()).await.map_err(|_| Busy)??;
        let work = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        Ok(work.await?)
    }
}

/// Passwords tried for one login, since when.
struct Guesses {
    tried: u32,
    since: Timestamp,
}

/// So many wrong passwords a login may have within [`WINDOW`], known or not: 14,400 a day at most.
const GUESSES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Logins counted at once; beyond it nobody new may try until a window has passed.
const COUNTED: usize = 10_000;

impl Passwords {
    /// Whether a password may be tried for this login now; it counts as wrong until [`Self::was_right`].
    ///
    /// Counted beforehand, so that a thousand guesses at once are not all the first. A right one does not
    /// pass either while they are used up, or the limit would limit nothing.
    pub fn may_try(&self, login: &str, now: Timestamp) -> bool {
        let Ok(mut guesses) = self.guesses.lock() else { return false };
        if guesses.len() >= COUNTED {
            guesses.retain(|_, guesses| now < guesses.since.plus(WINDOW));
        }
        if guesses.len() >= COUNTED && !guesses.contains_key(login) {
            return false;
        }
        let guesses = guesses.entry(login.to_owned()).or_insert(Guesses { tried: 0, since: now });
        if now >= guesses.since.plus(WINDOW) {
            *guesses = Guesses { tried: 0, since: now };
        }
        let may = guesses.tried < GUESSES;
        guesses.tried += u32::from(may);
        may
    }

    /// Removes the one successful attempt from the count, and no more: others may be guessing meanwhile.
    pub fn was_right(&self, login: &str) {
        let Ok(mut guesses) = self.guesses.lock() else { return };
        if let Some(guesses) = guesses.get_mut(login) {
            guesses.tried = guesses.tried.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_is_right() {
        let passwords = Passwords::new().await.unwrap();
        let hash = passwords.hash("wonderland".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
        for (password, hash, right) in
            [("wonderland", Some(&*hash), true), ("Wonderland", Some(&*hash), false), ("nobody's", None, false)]
        {
            assert_eq!(passwords.verify(password.to_owned(), hash).await.unwrap(), right, "{password}");
        }
        assert!(passwords.verify("x".to_owned(), Some("no hash")).await.is_err());
    }

    #[tokio::test]
    async fn guesses_are_counted_by_login_and_forgotten_with_time() {
        let passwords = Passwords::new().await.unwrap();
        let at = |secs: i64| Timestamp::from_millis(secs * 1000);
        for _ in 0..100 {
            assert!(passwords.may_try("alice", at(0)));
            passwords.was_right("alice");
        }
        for _ in 0..GUESSES {
            assert!(passwords.may_try("alice", at(0)));
        }
        assert!(!passwords.may_try("alice", at(59)));
        assert!(passwords.may_try("bob", at(59)));
        assert!(passwords.may_try("alice", at(60)));

        // A flood of made-up names fills a bounded table, for a minute.
        for name in 0..COUNTED {
            passwords.may_try(&name.to_string(), at(61));
        }
        assert!(!passwords.may_try("somebody new", at(61)));
        assert!(passwords.may_try("somebody new", at(121)));
    }
}
