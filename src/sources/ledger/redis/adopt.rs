//! Keys that an existing service writes by itself for tokens it revoked: `SET blacklist:<jti> 1 EX …`.
//!
//! No log tells of them, so they are found by going through the whole database with SCAN, on every
//! primary if it is a cluster. Each instance starts a scan every half of the bound (the shortest
//! `max_staleness`), on a connection of its own, and its view is no fresher than the start of its
//! last complete one: SCAN returns every key that is there from its start to its end, so a key
//! written before that start has been seen. A lookup asks for the key of its token in the same
//! round trip as for the rest. Keyspace notifications would be faster and are not relied on: they
//! are off by default, and are lost with a connection.
//!
//! Such a key lives as long as its token, so with `adopt` no leeway is granted after `exp`: a token is never
//! accepted again because its key has ended. One whose key ends before any scan has seen it was accepted for
//! less than the bound, as any other is that was revoked since the last scan. A service that rounds the time
//! to live down lets a token live again for what it cut off: round up.
//!
//! The cost grows with all keys of the database, not only with those that match, and with the
//! instances. Measured on Redis 7.0 with COUNT 1000 (`figures::adopting`): one scan of 1,000,000
//! keys, 100,000 of which match, takes 0.74 s of the server's time in calls of under a millisecond:
//! about 0.75 µs a key. With `max_staleness: 30s`, a scan every 15 s, that is 5 % of a core for each
//! instance; with 10,000 keys it is 0.05 %. Time to live is asked for only where a key is new or
//! about to end. A fleet that finds this too dear lets the service write the log as well, which
//! costs nothing at rest and is followed within milliseconds.
//!
//! Where it ends: a key that is deleted stays in force until its time to live, as everything else
//! (there is no taking back); one that a cluster moves to a server already scanned is found by the
//! next scan, so the bound doubles while slots move.

use std::time::Duration;

use fred::types::Value;

use super::super::LedgerError;
use super::RedisLedger;
use super::answer::{self, Answer};
use super::session::{Command, Session, unexpected};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::TargetId;

/// Which keys of another service revoke a token.
#[derive(Clone, Debug)]
pub struct Adopt {
    /// What stands before the token id.
    pub before: String,
    /// What stands after it.
    pub after: String,
    /// The oldest that the view of these keys may be: the shortest `max_staleness`.
    pub within: Duration,
    /// Whose token ids these are, and the leeway of each: by how much the clock of whoever made a key end with
    /// its token may be ahead of ours.
    pub issuers: Vec<(IssuerName, Duration)>,
}

/// A token id found in a key, and when that key ends.
pub(in crate::sources) struct Found {
    pub(in crate::sources) id: TargetId,
    /// `None`: it has no time to live.
    pub(in crate::sources) ends_at: Option<Timestamp>,
}

impl Adopt {
    /// The key that would revoke the token with this id; `None` if the id is a digest, from which
    /// the claim cannot be had back. Those are found by the scan alone.
    pub(super) fn key(&self, id: &TargetId) -> Option<String> {
        (!id.is_digest()).then(|| format!("{}{id}{}", self.before, self.after))
    }

    /// The token id in a key, as the claim would be named.
    fn token_id(&self, key: &str) -> Option<TargetId> {
        let id = key.strip_prefix(&*self.before)?.strip_suffix(&*self.after)?;
        (!id.is_empty()).then(|| TargetId::new(id))
    }

    /// For MATCH, the template's own characters taken literally.
    fn pattern(&self) -> String {
        let literal = |text: &str| {
            text.chars().fold(String::new(), |mut pattern, c| {
                if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
                    pattern.push('\\');
                }
                pattern.push(c);
                pattern
            })
        };
        format!("{}*{}", literal(&self.before), literal(&self.after))
    }
}

impl RedisLedger {
    /// Keys that one SCAN looks at: the server answers within a millisecond.
    const SCAN_COUNT: i64 = 1000;

    /// Goes through the database once. Of what is found, `take` gets all but what `is_known`.
    pub(in crate::sources) async fn scan_adopted(
        &self,
        adopt: &Adopt,
        mut is_known: impl FnMut(&TargetId) -> bool,
        mut take: impl FnMut(Found),
    ) -> Result<(), LedgerError> {
        let session = self.session().await?;
        for server in session.primaries() {
            let mut cursor = "0".to_owned();
            loop {
                let scan = Command::new("SCAN").arg(&*cursor).arg("MATCH").arg(adopt.pattern());
                let scan = scan.arg("COUNT").arg(Self::SCAN_COUNT);
                let answer = session.call_at(server.as_ref(), scan, self.deadline()).await?;
                let Some([next, Value::Array(keys)]) = answer.parts() else {
                    return Err(unexpected("keys", &answer));
                };
                cursor = next.text().ok_or_else(answer::short)?.to_owned();
                let new: Vec<_> = keys
                    .iter()
                    .filter_map(|key| key.text().and_then(|key| Some((key, adopt.token_id(key)?))))
                    .filter(|(_, id)| !is_known(id))
                    .collect();
                self.ends(&session, new).await?.into_iter().for_each(&mut take);
                if cursor == "0" {
                    break;
                }
            }
        }
        Ok(())
    }

    /// When each of these keys ends; one that ended since is taken to end now.
    async fn ends(&self, session: &Session, keys: Vec<(&str, TargetId)>) -> Result<Vec<Found>, LedgerError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let ends = keys.iter().map(|(key, _)| Command::new("PEXPIRETIME").arg(*key).of_key(key)).collect();
        let ends = session.pipeline(ends, self.deadline()).await?;
        let found = keys.into_iter().zip(ends).map(|((_, id), end)| {
            let ends_at = match end.as_i64() {
                Some(-1) => None,
                Some(millis) if millis >= 0 => Some(Timestamp::from_millis(millis)),
                _ => Some(crate::clock::now()),
            };
            Found { id, ends_at }
        });
        Ok(found.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_matched_literally_and_name_the_token_as_its_claim_would() {
        let adopt = |before: &str, after: &str| Adopt {
            before: before.into(),
            after: after.into(),
            within: Duration::from_secs(30),
            issuers: Vec::new(),
        };
        let plain = adopt("blacklist:", "");
        assert_eq!(plain.pattern(), "blacklist:*");
        assert_eq!(plain.token_id("blacklist:j-1"), Some(TargetId::new("j-1")));
        assert_eq!(plain.token_id("blacklist:a b"), Some(TargetId::new("a b")));
        for other in ["blacklist:", "blacklist", "x:blacklist:j", ""] {
            assert_eq!(plain.token_id(other), None, "{other:?}");
        }
        assert_eq!(plain.key(&TargetId::new("j-1")).as_deref(), Some("blacklist:j-1"));
        assert_eq!(plain.key(&TargetId::new("a b")), None);
        let odd = adopt("a*[b]?:", "\\:dead");
        assert_eq!(odd.pattern(), "a\\*\\[b\\]\\?:*\\\\:dead");
        assert_eq!(odd.token_id("a*[b]?:j\\:dead"), Some(TargetId::new("j")));
        assert_eq!(adopt("x", "x").token_id("x"), None, "one character is not two");
    }
}
