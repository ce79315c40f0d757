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
use crate::clock::Steady;

/// The greatest lead that an instance notes, in milliseconds since 1970 as scores are read.
const LONGEST_LEAD: Timestamp = Timestamp::from_secs(LONGEST_LEEWAY.as_secs().cast_signed());

/// The notes whose values only grow, as they were read: a store that lacks one, or has it lower, has lost it.
#[derive(Default)]
pub(super) struct Known {
    /// The start of the last reading of the leads.
    read: Option<Steady>,
    leads: Greatest,
    dated: Greatest,
    retentions: Greatest,
    leases: Greatest,
}

/// The greatest score of each member of a sorted set.
#[derive(Default)]
struct Greatest(BTreeMap<Box<str>, Timestamp>);

impl Greatest {
    /// The most members; further ones are not kept.
    const MAX: usize = 1024;

    /// Takes over a reading; returns the commands that put lost members back, if their scores can still be so.
    fn update(
        &mut self,
        key: &str,
        read: Vec<(Box<str>, Timestamp)>,
        can_be: impl Fn(Timestamp) -> bool,
    ) -> Vec<Command> {
        let read: BTreeMap<_, _> = read.into_iter().collect();
        for (member, score) in &read {
            if let Some(known) = self.0.get_mut(member) {
                *known = (*score).max(*known);
            } else if self.0.len() < Self::MAX {
                self.0.insert(member.clone(), *score);
            }
        }
        let lost = self
            .0
            .iter()
            .filter(|(member, known)| can_be(**known) && read.get(*member).is_none_or(|score| score < *known));
        lost.map(|(member, known)| note(key, member, known.as_millis())).collect()
    }
}

fn note(key: &str, member: &str, millis: i64) -> Command {
    Command::new("ZADD").arg(key).arg("GT").arg(millis).arg(member)
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
            let ahead = ahead
                .map(|ahead| note(&keys.leads, issuer.as_str(), i64::try_from(ahead.as_millis()).unwrap_or(i64::MAX)));
            let dated =
                lead.beyond(clocks.earliest()).map(|dated| note(&keys.dated, issuer.as_str(), dated.as_millis()));
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
        let lost = self.read_margins_after(self.note_margins(own), all).await?;
        self.put_back_if_possible(lost).await;
        Ok(())
    }

    /// Takes over the margins of other instances.
    pub(in crate::sources) async fn read_margins(&self, leads: &[(IssuerName, Lead)]) -> Result<(), LedgerError> {
        let lost = self.read_margins_after(Vec::new(), leads).await?;
        self.put_back_if_possible(lost).await; // A server that takes no writes has answered all the same.
        Ok(())
    }

    /// Notes again the margins, the retentions and the lengths of leases that the store has lost.
    pub(in crate::sources) async fn put_back_margins(&self) -> Result<(), LedgerError> {
        let lost = self.read_margins_after(Vec::new(), &[]).await?;
        self.put_back(lost).await
    }

    async fn put_back(&self, lost: Vec<Command>) -> Result<(), LedgerError> {
        if lost.is_empty() { Ok(()) } else { self.shared.pipeline(self, lost).await.map(drop) }
    }

    async fn put_back_if_possible(&self, lost: Vec<Command>) {
        if let Err(error) = self.put_back(lost).await {
            tracing::debug!(%error, "notes that the store has lost are not put back yet");
        }
    }

    /// Returns the commands that put back what the store has lost.
    async fn read_margins_after(
        &self,
        mut commands: Vec<Command>,
        leads: &[(IssuerName, Lead)],
    ) -> Result<Vec<Command>, LedgerError> {
        let ask = |key: &str| Command::new("ZRANGE").arg(key).args(["0", "-1", "WITHSCORES"]);
        commands.extend([ask(&self.keys.leads), ask(&self.keys.dated)]);
        commands.extend([retention::notes_command(&self.keys), retention::lease_notes_command(&self.keys)]);
        let began = Steady::now();
        let answers = self.shared.pipeline(self, commands).await?;
        let [written @ .., ahead, dated, retentions, leases] = answers.as_slice() else { return Err(short()) };
        self.warn_of_margins(written);
        let clocks = self.clocks();
        let ahead = self.noted_margins(&self.keys.leads, ahead, LONGEST_LEAD)?;
        for (lead, margin) in of_each(leads, &ahead) {
            lead.raise(margin.since(Timestamp::default()));
        }
        let latest = Some(clocks.latest_date()).filter(|_| clocks.agree_within(self.leeway()));
        let dated = latest.map_or(Ok(Vec::new()), |latest| self.noted_margins(&self.keys.dated, dated, latest))?;
        for (lead, date) in of_each(leads, &dated) {
            lead.note_dated(date);
        }
        self.note_lead(leads.iter().map(|(_, lead)| lead.seen()).max().unwrap_or_default());
        let lasting = |(length, until): (Duration, Timestamp)| (length.as_millis().to_string().into(), until);
        let retentions = self.retentions(retentions)?.into_iter().map(lasting).collect();
        let leases = self.lease_lengths(leases)?.into_iter().map(lasting).collect();
        let (now, keys) = (self.store_clock().unwrap_or(Timestamp::MAX), &self.keys);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !leads.is_empty() {
            known.read = Some(began);
        }
        let mut lost = known.leads.update(&keys.leads, ahead, |_| true);
        lost.extend(known.dated.update(&keys.dated, dated, |date| latest.is_some_and(|latest| date <= latest)));
        // A note that has expired was dropped.
        lost.extend(known.retentions.update(&keys.retentions, retentions, |until| until > now));
        lost.extend(known.leases.update(&keys.leases, leases, |until| until > now));
        Ok(lost)
    }

    /// The lead of an entry of a user that names no instant, as of [`Lead::is_known`].
    pub(super) fn lead_of_entries(&self) -> Duration {
        let read = self.known.lock().unwrap_or_else(PoisonError::into_inner).read;
        let is_known = read.is_some_and(|began| began.elapsed() <= Lead::READ_FOR);
        if is_known { self.lead() } else { self.leeway().max(self.lead()) }
    }

    /// The time for which this process has seen the store's clock stable.
    pub(in crate::sources) fn stable_for(&self) -> Duration {
        self.clock.stable_at_last_reading()
    }

    /// The margins in an answer, up to `greatest`.
    fn noted_margins(
        &self,
        key: &str,
        noted: &Value,
        greatest: Timestamp,
    ) -> Result<Vec<(Box<str>, Timestamp)>, LedgerError> {
        let can_be = |noted: &Timestamp| *noted > Timestamp::default() && *noted <= greatest;
        let read = |name: &str, noted| {
            Some(noted).filter(can_be).zip(IssuerName::parse(name)).map(|(noted, _)| (name.into(), noted))
        };
        self.members(key, noted, read)
    }
}

/// What is noted about each issuer; several may have one name.
fn of_each<'a>(
    leads: &'a [(IssuerName, Lead)],
    noted: &'a [(Box<str>, Timestamp)],
) -> impl Iterator<Item = (&'a Lead, Timestamp)> {
    noted.iter().flat_map(move |(name, noted)| {
        leads.iter().filter(move |(issuer, _)| issuer.as_str() == &**name).map(move |(_, lead)| (lead, *noted))
    })
}
