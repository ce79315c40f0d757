//! The exchange between instances about the leads of the issuers' clocks.
//!
//! ```text
//! doorward:{r}:leads  sorted set: an issuer's name, the milliseconds by which an instance saw its tokens dated ahead
//! doorward:{r}:dated  sorted set: an issuer's name, the latest `iat` that an instance has verified (ms), if that is not
//!                     surely covered by a clock and the lead
//! ```
//!
//! A lead is measured by a clock, and also covers tokens that are not issued yet; a date needs no clock. An instance
//! whose own clock is ahead of the issuer's sees no lead, and an instance that cannot decide which of two clocks is
//! wrong does not measure any.

use std::time::Duration;

use fred::types::Value;

use super::super::LedgerError;
use super::RedisLedger;
use super::answer::short;
use super::session::Command;
use super::wire::Keys;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::Lead;

/// Notes how far tokens are dated ahead that were verified here; `earliest` is the earlier of both clocks.
pub(super) fn notes(keys: &Keys, leads: &[(IssuerName, Lead)], earliest: Timestamp) -> impl Iterator<Item = Command> {
    leads.iter().flat_map(move |(issuer, lead)| {
        let ahead = Some(lead.seen()).filter(|ahead| !ahead.is_zero());
        let ahead = ahead.map(|ahead| note(&keys.leads, issuer, i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX)));
        let dated = lead.beyond(earliest).map(|dated| note(&keys.dated, issuer, dated.as_millis()));
        [ahead, dated].into_iter().flatten()
    })
}

fn note(key: &str, issuer: &IssuerName, millis: i64) -> Command {
    Command::new("ZADD").arg(key).arg("GT").arg(millis).arg(issuer.as_str())
}

impl RedisLedger {
    /// Writes these margins for other instances and takes over theirs; a margin is never lowered.
    pub(in crate::sources) async fn share_margins(&self, leads: &[(IssuerName, Lead)]) -> Result<(), LedgerError> {
        let commands = notes(&self.keys, leads, self.earliest()).collect();
        self.read_margins_after(commands, leads).await
    }

    /// Takes over the margins of other instances.
    pub(in crate::sources) async fn read_margins(&self, leads: &[(IssuerName, Lead)]) -> Result<(), LedgerError> {
        self.read_margins_after(Vec::new(), leads).await
    }

    async fn read_margins_after(
        &self,
        mut commands: Vec<Command>,
        leads: &[(IssuerName, Lead)],
    ) -> Result<(), LedgerError> {
        let ask = |key: &str| Command::new("ZRANGE").arg(key).args(["0", "-1", "WITHSCORES"]);
        commands.extend([ask(&self.keys.leads), ask(&self.keys.dated)]);
        let answers = self.shared.pipeline(self, commands).await?;
        let [.., ahead, dated] = answers.as_slice() else { return Err(short()) };
        self.each(&self.keys.leads, ahead, leads, |lead, margin| lead.raise(margin.since(Timestamp::default())))?;
        self.each(&self.keys.dated, dated, leads, Lead::note_dated)?;
        self.note_lead(leads.iter().map(|(_, lead)| lead.seen()).max().unwrap_or_default());
        Ok(())
    }

    /// The time for which this process has seen the store's clock stable.
    pub(in crate::sources) fn stable_for(&self) -> Duration {
        self.clock.stable_at_last_reading()
    }

    /// Applies the note about each issuer; several issuers may share a name.
    fn each(
        &self,
        key: &str,
        noted: &Value,
        leads: &[(IssuerName, Lead)],
        take: impl Fn(&Lead, Timestamp),
    ) -> Result<(), LedgerError> {
        let read = |name: &str, noted| IssuerName::parse(name).map(|name| (name, noted));
        for (name, noted) in self.members(key, noted, read)? {
            leads.iter().filter(|(issuer, _)| *issuer == name).for_each(|(_, lead)| take(lead, noted));
        }
        Ok(())
    }
}
