//! Keys that an existing service writes for revoked tokens: `SET blacklist:<jti> 1 EX …`.
//!
//! The adopted keys have no log entries, so they are found with SCAN over the whole database, on every primary of a
//! cluster. Each instance starts a scan every half of the bound (the shortest `max_staleness`), on a separate
//! connection, and its view is at most as fresh as the start of its last complete one: SCAN returns every key that
//! exists from its start to its end, so a key written before that start has been seen. A lookup reads the key of its
//! token in the same round trip as the others. Keyspace notifications would be faster, but they are off by default,
//! and are lost with a connection.
//!
//! An adopted key lives as long as its token, so with `adopt` no leeway is granted after `exp`: a token is never
//! accepted again because its key has ended. A token whose key ends before any scan was accepted for less than the
//! bound, as is any token that was revoked since the last scan. A service that rounds the time to live down makes its
//! token acceptable again for the cut-off part: round up.
//!
//! The cost grows with all keys of the database, not only with those that match, and with the instances. Measured on
//! Redis 7.0 with COUNT 1000 (`figures::adopting`): one scan of 1,000,000 keys, 100,000 of which match, takes 0.74 s
//! of the server's time in calls of under a millisecond: about 0.75 µs a key. With `max_staleness: 30s`, a scan
//! every 15 s, that is 5 % of a core for each instance; with 10,000 keys it is 0.05 %. The time to live is read only
//! for keys that are new or about to end. If this costs too much, let the service write the log as well, which costs
//! nothing at rest and is followed within milliseconds.
//!
//! Limits: a deleted key stays in force until the end of its time to live, because revocations cannot be withdrawn;
//! a key that a cluster moves to a server already scanned is found by the next scan, so the bound doubles while
//! slots move.

use std::time::Duration;

use fred::types::Value;

use super::super::LedgerError;
use super::RedisLedger;
use super::answer::{self, Answer};
use super::foreign;
use super::session::{Command, Session, unexpected};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::TargetId;
use crate::authz::token::{BearerToken, UnverifiedToken};

/// The keys of another service that revoke a token.
#[derive(Clone, Debug)]
pub struct Adopt {
    pub keys: AdoptedKeys,
    /// The greatest age of the view of these keys: the shortest `max_staleness`.
    pub within: Duration,
    /// The issuers of these token ids, and the leeway of each: the most by which the clock of a key's writer may be
    /// ahead of this one.
    pub issuers: Vec<(IssuerName, Duration)>,
}

/// A token id found in a key, and the end of that key.
pub(in crate::sources) struct Found {
    pub(in crate::sources) id: TargetId,
    /// `None`: the key has no time to live.
    pub(in crate::sources) ends_at: Option<Timestamp>,
}

/// The place of another service's revoked tokens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AdoptedKeys {
    /// A key for each token.
    Each {
        /// The part of the key before the token's name.
        before: String,
        /// The part of the key after it.
        after: String,
        names: Names,
    },
    /// The members of one set are token ids.
    Set(String),
}

/// How a key names its token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Names {
    /// By its `jti`.
    TokenId,
    /// By its whole text.
    Token,
    /// By the SHA-256 of its whole text, in hex. A second valid form of a signature (ES256) changes this name too.
    TokenSha256,
}

impl Names {
    /// The target of the token that this names.
    fn target(self, name: &str) -> Option<TargetId> {
        match self {
            _ if name.is_empty() => None,
            Self::TokenId => Some(TargetId::new(name)),
            Self::Token => UnverifiedToken::parse(BearerToken::parse(name.as_bytes(), name.len()).ok()?)
                .ok()
                .map(|token| token.unverified_id()),
            Self::TokenSha256 if name.len() == 64 && name.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                Some(TargetId::from_stored(&format!("{SHA256}{name}")))
            }
            Self::TokenSha256 => None,
        }
    }

    /// The name of a token with this target; `None` if the target does not contain it.
    fn name(self, id: &TargetId) -> Option<String> {
        let name = id.to_string();
        match self {
            Self::TokenId => (!id.is_digest()).then_some(name),
            Self::Token => None,
            Self::TokenSha256 => name.strip_prefix(SHA256).map(str::to_owned),
        }
    }
}

/// The prefix of a digest.
const SHA256: &str = "sha256:";

impl Adopt {
    /// Whether a lookup cannot name the key of the token with this id, so that only the scan finds it: the id is a
    /// digest, from which the claim cannot be restored, or the key contains the whole token.
    pub(in crate::sources) fn cannot_look_up(&self, id: &TargetId) -> bool {
        match &self.keys {
            AdoptedKeys::Each { names: Names::TokenSha256, .. } => false,
            AdoptedKeys::Each { names, .. } => names.name(id).is_none(),
            AdoptedKeys::Set(_) => id.is_digest(),
        }
    }

    /// The command to send for the token with this id; a reply above 0 revokes the token.
    pub(super) fn lookup_commands(&self, id: &TargetId) -> Vec<Command> {
        let forms = |text: String| [foreign::as_java(&text), Some(text.into_bytes())].into_iter().flatten();
        match &self.keys {
            AdoptedKeys::Each { before, after, names } => {
                let key = names.name(id).map(|name| format!("{before}{name}{after}"));
                key.into_iter().flat_map(forms).map(|key| Command::new("EXISTS").of_key(&key).arg(&*key)).collect()
            }
            AdoptedKeys::Set(key) => {
                let member = Names::TokenId.name(id);
                let ask = |member: Vec<u8>| {
                    Command::new("SISMEMBER").of_key(key.as_bytes()).arg(key.as_bytes()).arg(&*member)
                };
                member.into_iter().flat_map(forms).map(ask).collect()
            }
        }
    }

    /// The pattern for MATCH, with the template's own characters escaped. The pattern allows text around the ids:
    /// Java's serialisation, or quotes.
    fn pattern(&self) -> String {
        let AdoptedKeys::Each { before, after, .. } = &self.keys else { return "*".to_owned() };
        format!("*{}*{}*", literal(before), literal(after))
    }

    /// The token that a key names; `own` is the prefix of Doorward's own keys.
    fn token_id(&self, key: &[u8], own: &str) -> Option<TargetId> {
        let key = foreign::plain(key)?;
        match &self.keys {
            _ if key.starts_with(own) => None,
            AdoptedKeys::Each { before, after, names } => {
                names.target(key.strip_prefix(&**before)?.strip_suffix(&**after)?)
            }
            AdoptedKeys::Set(_) => Names::TokenId.target(&key),
        }
    }
}

impl RedisLedger {
    /// Keys per SCAN: the server answers within a millisecond.
    pub(super) const SCAN_COUNT: i64 = 1000;

    /// Scans the database once, and returns the number of keys that name a token. `take` receives the ids for which
    /// `is_known` is false.
    pub(in crate::sources) async fn scan_adopted(
        &self,
        adopt: &Adopt,
        mut is_known: impl FnMut(&TargetId) -> bool,
        mut take: impl FnMut(Found),
    ) -> Result<u64, LedgerError> {
        let session = self.session().await?;
        let mut found = 0;
        let servers = match &adopt.keys {
            AdoptedKeys::Each { .. } => session.primaries(),
            AdoptedKeys::Set(_) => vec![None], // The server of the set's slot.
        };
        for server in servers {
            let mut cursor = "0".to_owned();
            loop {
                let scan = match &adopt.keys {
                    AdoptedKeys::Each { .. } => Command::new("SCAN").arg(&*cursor).arg("MATCH").arg(adopt.pattern()),
                    AdoptedKeys::Set(key) => {
                        Command::new("SSCAN").of_key(key.as_bytes()).arg(key.as_bytes()).arg(&*cursor)
                    }
                };
                let scan = scan.arg("COUNT").arg(Self::SCAN_COUNT);
                let answer = session.call_at(server.as_ref(), scan, self.deadline()).await?;
                let (next, keys) = page(&answer)?;
                let named = keys.iter().filter_map(|key| {
                    let key = key.bytes()?;
                    Some((key, adopt.token_id(key, self.keys.stem())?))
                });
                let new: Vec<_> = named.inspect(|_| found += 1).filter(|(_, id)| !is_known(id)).collect();
                match &adopt.keys {
                    AdoptedKeys::Each { .. } => self.ends(&session, new).await?.into_iter().for_each(&mut take),
                    AdoptedKeys::Set(_) => new.into_iter().for_each(|(_, id)| take(Found { id, ends_at: None })),
                }
                if next == "0" {
                    break;
                }
                next.clone_into(&mut cursor);
            }
        }
        Ok(found)
    }

    /// Whether the database has a key that is not one of Doorward's own.
    pub(in crate::sources) async fn has_others_keys(&self) -> Result<bool, LedgerError> {
        let session = self.session().await?;
        for server in session.primaries() {
            let mut cursor = "0".to_owned();
            loop {
                let scan = Command::new("SCAN").arg(&*cursor).arg("COUNT").arg(Self::SCAN_COUNT);
                let answer = session.call_at(server.as_ref(), scan, self.deadline()).await?;
                let (next, keys) = page(&answer)?;
                let own = self.keys.stem().as_bytes();
                if keys.iter().any(|key| key.bytes().is_some_and(|key| !key.starts_with(own))) {
                    return Ok(true);
                }
                if next == "0" {
                    break;
                }
                next.clone_into(&mut cursor);
            }
        }
        Ok(false)
    }

    /// The end of each of these keys; a key that no longer exists ends now.
    async fn ends(&self, session: &Session, keys: Vec<(&[u8], TargetId)>) -> Result<Vec<Found>, LedgerError> {
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

/// Text for MATCH, with its special characters escaped.
pub(super) fn literal(text: &str) -> String {
    text.chars().fold(String::new(), |mut pattern, c| {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(c);
        pattern
    })
}

/// The cursor and the keys in an answer to SCAN or SSCAN.
pub(super) fn page(answer: &Value) -> Result<(&str, &[Value]), LedgerError> {
    match answer.parts() {
        Some([next, Value::Array(keys)]) => Ok((next.text().ok_or_else(answer::short)?, keys.as_slice())),
        _ => Err(unexpected("keys", answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_matched_literally_and_name_the_token_as_its_claim_would() {
        let adopt = |before: &str, after: &str, names| Adopt {
            keys: AdoptedKeys::Each { before: before.into(), after: after.into(), names },
            within: Duration::from_secs(30),
            issuers: Vec::new(),
        };
        let id = |adopt: &Adopt, key: &str| adopt.token_id(key.as_bytes(), "doorward:{r}:");
        let plain = adopt("blacklist:", "", Names::TokenId);
        assert_eq!(plain.pattern(), "*blacklist:**");
        assert_eq!(id(&plain, "blacklist:j-1"), Some(TargetId::new("j-1")));
        assert_eq!(id(&plain, "blacklist:a b"), Some(TargetId::new("a b")));
        assert_eq!(id(&plain, "\"blacklist:j-1\""), Some(TargetId::new("j-1")));
        assert_eq!(
            plain.token_id(&foreign::as_java("blacklist:j-1").unwrap(), ""),
            None,
            "everything begins with nothing"
        );
        assert_eq!(plain.token_id(&foreign::as_java("blacklist:j-1").unwrap(), "d"), Some(TargetId::new("j-1")));
        for other in ["blacklist:", "blacklist", "x:blacklist:j", ""] {
            assert_eq!(id(&plain, other), None, "{other:?}");
        }
        assert_eq!(
            (plain.lookup_commands(&TargetId::new("j-1")).len(), plain.cannot_look_up(&TargetId::new("j-1"))),
            (2, false)
        );
        assert_eq!(
            (plain.lookup_commands(&TargetId::new("a b")).len(), plain.cannot_look_up(&TargetId::new("a b"))),
            (0, true)
        );
        let odd = adopt("a*[b]?:", "\\:dead", Names::TokenId);
        assert_eq!(odd.pattern(), "*a\\*\\[b\\]\\?:*\\\\:dead*");
        assert_eq!(id(&odd, "a*[b]?:j\\:dead"), Some(TargetId::new("j")));
        assert_eq!(id(&adopt("x", "x", Names::TokenId), "x"), None, "one character is not two");
        // The id alone: every key but Doorward's own.
        let alone = adopt("", "", Names::TokenId);
        assert_eq!((alone.pattern().as_str(), id(&alone, "doorward:{r}:log")), ("***", None));
        assert_eq!(id(&alone, "j"), Some(TargetId::new("j")));
        // The whole token, by its claims; and its digest.
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJqdGkiOiJqLTEifQ.AA";
        let whole = adopt("bl:", "", Names::Token);
        assert_eq!(id(&whole, &format!("bl:{token}")), Some(TargetId::new("j-1")));
        assert_eq!(id(&whole, "bl:no token"), None);
        let hex = "0d".repeat(32);
        let digest = adopt("bl:", "", Names::TokenSha256);
        let named = TargetId::from_stored(&format!("sha256:{hex}"));
        assert_eq!(id(&digest, &format!("bl:{}", hex.to_uppercase())), Some(named.clone()));
        assert_eq!(
            (id(&digest, "bl:0d"), digest.lookup_commands(&named).len(), digest.cannot_look_up(&named)),
            (None, 2, false)
        );
    }
}
