//! The exchange between instances about the leads of the issuers' clocks.
//!
//! ```text
//! doorward:{r}:leads  sorted set: an issuer's name, the milliseconds by which an instance saw its tokens dated ahead
//! doorward:{r}:dated  sorted set: an issuer's name, the latest `iat` that an instance has verified (ms), if that is not
//!                     surely covered by a clock and the lead
//! ```
//!
//! Beside the names of issuers, digests of their `iss` stand there (`IssuerName::of_iss`).
//!
//! A lead is measured by a clock, and foretells; a date needs no clock. An instance whose own is ahead of the issuer's
//! sees no lead, and one that cannot tell which of two clocks is wrong measures none.
//!
//! A value beyond what any instance can have verified would lock users out, and hide smaller ones of instances: it is
//! not used, and removed. While the clocks disagree it is not known of a date: none is used, and no instant is stamped.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use fred::types::Value;

use super::super::LedgerError;
use super::answer::short;
use super::session::Command;
use super::{RedisLedger, retention};
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{LONGEST_LEEWAY, Lead};

/// The greatest lead that an instance notes, in milliseconds since 1970 as scores are read.
const LONGEST_LEAD: Timestamp = Timestamp::from_secs(LONGEST_LEEWAY.as_secs().cast_signed());

/// The margins in the store, as they were read.
#[derive(Default)]
pub(super) struct ReadMargins {
    leads: BTreeMap<IssuerName, Timestamp>,
    dated: BTreeMap<IssuerName, Timestamp>,
}

impl ReadMargins {
    /// The most names; further ones are not kept.
    const MAX: usize = 1024;

    fn keep(&mut self, is_lead: bool, noted: &[(IssuerName, Timestamp)]) {
        let kept = if is_lead { &mut self.leads } else { &mut self.dated };
        for (name, noted) in noted {
            if let Some(known) = kept.get_mut(name) {
                *known = (*noted).max(*known);
            } else if kept.len() < Self::MAX {
                kept.insert(name.clone(), *noted);
            }
        }
    }
}

fn note(key: &str, issuer: &IssuerName, millis: i64) -> Command {
    Command::new("ZADD").arg(key).arg("GT").arg(millis).arg(issuer.as_str())
}

fn remove(key: &str, beyond: Timestamp) -> Command {
    Command::new("ZREMRANGEBYSCORE").arg(key).arg(format!("({}", beyond.as_millis())).arg("+inf")
}

impl RedisLedger {
    /// Notes how far tokens are dated ahead that were verified here, after the removal of values that would hide that.
    /// [`Self::warn_of_margins`] takes the answers.
    pub(super) fn note_margins(&self, leads: &[(IssuerName, Lead)]) -> Vec<Command> {
        let (keys, clocks) = (&self.keys, self.clocks());
        let latest = self.store_clock().map_or(Timestamp::MAX, |_| clocks.latest_date());
        let mut commands = vec![remove(&keys.leads, LONGEST_LEAD), remove(&keys.dated, latest)];
        for (issuer, lead) in leads {
            let ahead = Some(lead.seen()).filter(|ahead| !ahead.is_zero());
            let ahead =
                ahead.map(|ahead| note(&keys.leads, issuer, i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX)));
            let dated = lead.beyond(clocks.earliest()).map(|dated| note(&keys.dated, issuer, dated.as_millis()));
            commands.extend([ahead, dated].into_iter().flatten());
        }
        commands
    }

    /// Names what [`Self::note_margins`] removed.
    pub(super) fn warn_of_margins(&self, answers: &[Value]) {
        for (key, removed) in [&*self.keys.leads, &*self.keys.dated].into_iter().zip(answers) {
            self.warn_of_removed(key, removed);
        }
    }

    /// Writes the margins in `own` for other instances and takes over theirs into `all`; a margin is never lowered.
    pub(in crate::sources) async fn share_margins(
        &self,
        own: &[(IssuerName, Lead)],
        all: &[(IssuerName, Lead)],
    ) -> Result<(), LedgerError> {
        self.read_margins_after(self.note_margins(own), all).await
    }

    /// Writes the margins of every issuer that this process has read, and the longest retention: the store has lost them.
    pub(in crate::sources) async fn put_back_margins(&self) -> Result<(), LedgerError> {
        let mut commands: Vec<_> = {
            let read = self.margins.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = [(&self.keys.leads, &read.leads), (&self.keys.dated, &read.dated)];
            kept.iter().flat_map(|(key, of)| of.iter().map(|(name, at)| note(key, name, at.as_millis()))).collect()
        };
        commands.extend(
            self.longest_retention().map(|longest| retention::note(&self.keys, longest, self.clocks().latest())),
        );
        if commands.is_empty() { Ok(()) } else { self.shared.pipeline(self, commands).await.map(drop) }
    }

    /// Takes over the margins of other instances.
    pub(in crate::sources) async fn read_margins(&self, leads: &[(IssuerName, Lead)]) -> Result<(), LedgerError> {
        self.read_margins_after(Vec::new(), leads).await // A server that takes no writes answers this all the same.
    }

    async fn read_margins_after(
        &self,
        mut commands: Vec<Command>,
        leads: &[(IssuerName, Lead)],
    ) -> Result<(), LedgerError> {
        let ask = |key: &str| Command::new("ZRANGE").arg(key).args(["0", "-1", "WITHSCORES"]);
        commands.extend([ask(&self.keys.leads), ask(&self.keys.dated)]);
        let answers = self.shared.pipeline(self, commands).await?;
        let [written @ .., ahead, dated] = answers.as_slice() else { return Err(short()) };
        self.warn_of_margins(written);
        let raise = |lead: &Lead, margin: Timestamp| lead.raise(margin.since(Timestamp::default()));
        self.each(&self.keys.leads, ahead, LONGEST_LEAD, leads, raise)?;
        let clocks = self.clocks();
        if clocks.agree_within(self.leeway()) {
            self.each(&self.keys.dated, dated, clocks.latest_date(), leads, Lead::note_dated)?;
        }
        self.note_lead(leads.iter().map(|(_, lead)| lead.seen()).max().unwrap_or_default());
        Ok(())
    }

    /// The time for which this process has seen the store's clock stable.
    pub(in crate::sources) fn stable_for(&self) -> Duration {
        self.clock.stable_at_last_reading()
    }

    /// Takes what is noted about each issuer, up to `greatest`; several may have one name.
    fn each(
        &self,
        key: &str,
        noted: &Value,
        greatest: Timestamp,
        leads: &[(IssuerName, Lead)],
        take: impl Fn(&Lead, Timestamp),
    ) -> Result<(), LedgerError> {
        let can_be = |noted: &Timestamp| *noted > Timestamp::default() && *noted <= greatest;
        let read = |name: &str, noted| IssuerName::parse(name).zip(Some(noted).filter(can_be));
        let noted = self.members(key, noted, read)?;
        self.margins.lock().unwrap_or_else(PoisonError::into_inner).keep(key == &*self.keys.leads, &noted);
        for (name, noted) in noted {
            leads.iter().filter(|(issuer, _)| *issuer == name).for_each(|(_, lead)| take(lead, noted));
        }
        Ok(())
    }
}
