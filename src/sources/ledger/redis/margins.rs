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
use super::store::scores;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{LONGEST_LEEWAY, Lead};

/// Not the name of an issuer.
const GRACE: &str = "*";

impl RedisLedger {
    /// Notes these margins for others and takes over what others noted; none of them is ever lowered.
    pub(in crate::sources) async fn share_margins(
        &self,
        leads: &[(IssuerName, Lead)],
        grace: Duration,
    ) -> Result<(), LedgerError> {
        let add = |name: &str, margin: Duration| {
            let millis = i64::try_from(margin.as_millis()).unwrap_or(i64::MAX);
            Command::new("ZADD").arg(&*self.keys.leads).arg("GT").arg(millis).arg(name)
        };
        let seen = leads.iter().filter(|(_, lead)| !lead.seen().is_zero());
        let mut commands: Vec<_> = seen.map(|(issuer, lead)| add(issuer.as_str(), lead.seen())).collect();
        commands.push(add(GRACE, grace));
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
        for (name, margin) in scores(answers.last().unwrap_or(&Value::Null))? {
            let margin = margin.since(Timestamp::default()).min(LONGEST_LEEWAY * 2);
            if &*name == GRACE {
                self.note_grace(margin);
            } else if let Some((_, lead)) = leads.iter().find(|(issuer, _)| *issuer.as_str() == *name) {
                lead.raise(margin);
            }
        }
        self.note_lead(leads.iter().map(|(_, lead)| lead.seen()).max().unwrap_or_default());
        Ok(())
    }
}
