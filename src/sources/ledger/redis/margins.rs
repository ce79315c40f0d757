//! The clock margins that instances share: the leads of issuers' tokens, and the longest time after its end for which
//! an instance may still accept a token.
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
use super::wire::Keys;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::revocation::{LONGEST_LEEWAY, Lead};

/// A field that is not the name of an issuer.
const GRACE: &str = "*";

/// Writes the leads of the tokens that were verified here.
pub(super) fn notes(keys: &Keys, leads: &[(IssuerName, Lead)]) -> impl Iterator<Item = Command> {
    let seen = leads.iter().filter(|(_, lead)| !lead.seen().is_zero());
    seen.map(|(issuer, lead)| note(keys, issuer.as_str(), lead.seen()))
}

fn note(keys: &Keys, name: &str, margin: Duration) -> Command {
    let millis = i64::try_from(margin.as_millis()).unwrap_or(i64::MAX);
    Command::new("ZADD").arg(&*keys.leads).arg("GT").arg(millis).arg(name)
}

impl RedisLedger {
    /// Writes these margins for other instances and takes over theirs; a margin is never lowered.
    pub(in crate::sources) async fn share_margins(
        &self,
        leads: &[(IssuerName, Lead)],
        grace: Duration,
    ) -> Result<(), LedgerError> {
        let commands = notes(&self.keys, leads).chain([note(&self.keys, GRACE, grace)]).collect();
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
        commands.push(Command::new("ZRANGE").arg(&*self.keys.leads).args(["0", "-1", "WITHSCORES"]));
        let answers = self.shared.pipeline(self, commands).await?;
        for (name, margin) in scores(answers.last().unwrap_or(&Value::Null))? {
            let margin = margin.since(Timestamp::default()).min(LONGEST_LEEWAY * 2);
            if &*name == GRACE {
                self.note_grace(margin);
            }
            // Several issuers may have one name.
            for (_, lead) in leads.iter().filter(|(issuer, _)| *issuer.as_str() == *name) {
                lead.raise(margin);
            }
        }
        self.note_lead(leads.iter().map(|(_, lead)| lead.seen()).max().unwrap_or_default());
        Ok(())
    }
}
