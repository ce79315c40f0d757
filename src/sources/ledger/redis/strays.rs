//! Keys of revocations without an entry in the log.
//!
//! A key that a service sets without an entry applies to lookups, and never reaches instances that hold the list; a
//! key that a template wrote in quotes, or serialised, is not read at all. The log shows neither.

use super::super::LedgerError;
use super::RedisLedger;
use super::adopt::{literal, page};
use super::answer::Answer;
use super::foreign;
use super::session::Command;
use crate::authz::claims::IssuerName;
use crate::authz::revocation::{Kind, Target, TargetId};

/// The purpose of a key under Doorward's prefix.
#[derive(Debug, Eq, PartialEq)]
enum Own {
    /// Not for a target, or not a key of Doorward's at all.
    Other,
    Target(Target),
    /// For a target, but not parseable as one.
    Unreadable,
}

impl RedisLedger {
    /// Goes through the keys of targets, and returns the targets that are not `is_known`, 100 at most; `None` stands
    /// for a key that is not read.
    ///
    /// All keys of the log's server are scanned, in calls of under a millisecond (see `adopt`).
    pub(in crate::sources) async fn stray_keys(
        &self,
        is_known: impl Fn(&Target) -> bool,
    ) -> Result<Vec<Option<Target>>, LedgerError> {
        const MOST: usize = 100;
        let session = self.session().await?;
        let pattern = format!("*{}*", literal(self.keys.stem()));
        let (mut cursor, mut strays) = ("0".to_owned(), Vec::new());
        loop {
            let scan = Command::new("SCAN").of_key(self.keys.log.as_bytes()).arg(&*cursor);
            let scan = scan.arg("MATCH").arg(&*pattern).arg("COUNT").arg(Self::SCAN_COUNT);
            let answer = session.call(scan, self.deadline()).await?;
            let (next, keys) = page(&answer)?;
            strays.extend(keys.iter().filter_map(|key| match own(key.bytes()?, self.keys.stem()) {
                Own::Target(target) if is_known(&target) => None,
                Own::Target(target) => Some(Some(target)),
                Own::Unreadable => Some(None),
                Own::Other => None,
            }));
            if next == "0" || strays.len() >= MOST {
                strays.truncate(MOST);
                return Ok(strays);
            }
            next.clone_into(&mut cursor);
        }
    }
}

fn own(key: &[u8], stem: &str) -> Own {
    let Some(text) = foreign::plain(key) else { return Own::Other };
    let Some(rest) = text.strip_prefix(stem) else { return Own::Other };
    let mut parts = rest.splitn(3, ':');
    let (Some(issuer), Some(kind), Some(id)) = (parts.next(), parts.next(), parts.next()) else { return Own::Other };
    if issuer == "instance" && Kind::from_stored(kind).is_none() {
        return Own::Other; // The lease of an instance, whatever its name is.
    }
    match (IssuerName::parse(issuer), Kind::from_stored(kind)) {
        (Some(issuer), Some(kind)) if text.as_bytes() == key && !id.is_empty() => {
            Own::Target(Target::new(issuer, kind, TargetId::from_stored(id)))
        }
        _ => Own::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_a_target_or_of_nobody() {
        let stem = "doorward:{r}:";
        let target = Target::new(IssuerName::parse("main").unwrap(), Kind::Token, TargetId::from_stored("a:b"));
        assert_eq!(own(b"doorward:{r}:main:token:a:b", stem), Own::Target(target));
        for other in [
            &b"doorward:{r}:log"[..],
            b"doorward:{r}:instance:pod-7",
            b"doorward:{r}:instance:a:b",
            b"doorward:{r}:proof:x",
            b"x",
            b"\xff",
        ] {
            assert_eq!(own(other, stem), Own::Other, "{other:?}");
        }
        let serialised = foreign::as_java("doorward:{r}:main:token:j").unwrap();
        for unreadable in [
            &serialised[..],
            b"\"doorward:{r}:main:token:j\"",
            b"doorward:{r}:main:jti:j",
            b"doorward:{r}:Main:token:j",
        ] {
            assert_eq!(own(unreadable, stem), Own::Unreadable, "{unreadable:?}");
        }
    }
}
