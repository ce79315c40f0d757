//! What instances tell each other of clocks: how far issuers' tokens are dated ahead, and for how long after its end a
//! token may still be accepted somewhere.
//!
//! ```text
//! doorward:{r}:leads  sorted set: an issuer's name, the milliseconds by which an instance saw its tokens dated ahead;
//!                     `*`, the longest leeway of an instance and how far its clock was behind the store's
//! ```

use std::time::Duration;

use fred::types::Value;

use super::super::LedgerError;
use super::RedisLedger;
use super::session::Command;
use super::wire::Keys;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{LONGEST_LEEWAY, Lead};

/// Not the name of an issuer.
const GRACE: &str = "*";

/// Notes how far tokens are dated ahead that were verified here.
pub(super) fn notes(keys: &Keys, leads: &[(IssuerName, Lead)]) -> impl Iterator<Item = Command> {
    let seen = leads.iter().filter(|(_, lead)| !lead.seen().is_zero());
    seen.map(|(issuer, lead)| note(keys, issuer.as_str(), lead.seen()))
}

fn note(keys: &Keys, name: &str, margin: Duration) -> Command {
    let millis = i64::try_from(margin.as_millis()).unwrap_or(i64::MAX);
    Command::new("ZADD").arg(&*keys.leads).arg("GT").arg(millis).arg(name)
}

impl RedisLedger {
    /// Notes these margins for others and takes over what others noted; none of them is ever lowered.
    pub(in crate::sources) async fn share_margins(
        &self,
        leads: &[(IssuerName, Lead)],
        grace: Duration,
    ) -> Result<(), LedgerError> {
        let commands = notes(&self.keys, leads).chain([note(&self.keys, GRACE, grace)]).collect();
        self.read_margins_after(commands, leads).await
    }

    /// Takes over what others noted.
    pub(in crate::sources) async fn read_margins(&self, leads: &[(IssuerName, Lead)]) -> Result<(), LedgerError> {
        self.read_margins_after(Vec::new(), leads).await
    }

    async fn read_margins_after(
        &self,
        mut commands: Vec<Command>,
        leads: &[(IssuerName, Lead)],
    ) -> Result<(), LedgerError> {
        commands.push(Command::new("ZRANGE").arg(&*self.keys.leads).args(["0", "-1", "WITHSCORES"]));
        let answers = self.shared.pipeline(self, commands).await?;
        let is_ours = |name: &str| name == GRACE || IssuerName::parse(name).is_some();
        let read = |name: &str, margin| is_ours(name).then(|| (Box::<str>::from(name), margin));
        for (name, margin) in self.members(&self.keys.leads, answers.last().unwrap_or(&Value::Null), read)? {
            let margin = margin.since(Timestamp::default()).min(LONGEST_LEEWAY * 2);
            if &*name == GRACE {
                self.note_grace(margin);
            }
            // A name may be that of several issuers.
            for (_, lead) in leads.iter().filter(|(issuer, _)| *issuer.as_str() == *name) {
                lead.raise(margin);
            }
        }
        self.note_lead(leads.iter().map(|(_, lead)| lead.seen()).max().unwrap_or_default());
        Ok(())
    }
}
