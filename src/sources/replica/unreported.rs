//! Leads of tokens that no instance has reported: a receipt then covers the whole leeway.

use std::time::Duration;

use super::super::ledger::{Lease, Leases, RedisLedger};
use super::Replica;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::clock::Steady;

impl Replica {
    /// Whether an instance may have verified tokens of the issuer, up to the leeway before `asked` or later, without having
    /// reported how far they are dated ahead. The answer counts when the receipt is confirmed: this process has watched the
    /// store's clock for a while by then.
    pub(super) fn has_unreported(
        &self,
        listed: &Leases,
        issuer: &IssuerName,
        asked: Steady,
        longest: Duration,
    ) -> bool {
        // An instance names the issuer as its own configuration does.
        let names = self.names_beside(issuer);
        let is_named = |unmeasured: &[IssuerName]| unmeasured.iter().any(|name| names.contains(name));
        let is_unmeasured = |lease: &Lease| lease.report.as_ref().is_some_and(|it| is_named(&it.unmeasured));
        if is_named(&self.unmeasured()) || listed.running.iter().any(is_unmeasured) {
            return true;
        }
        // All leases that this process saw lost, and those by a clock that was set, have expired after so long.
        let (waited, expired) = (asked.elapsed(), longest + self.clocks.leeway());
        if self.lease_state.lost().is_some_and(|lost| lost + expired > asked) {
            return true;
        }
        // The note of all instances counts if this process has not observed the clock for as long.
        let is_observed = listed.stable_for >= expired + waited;
        let inexact = if is_observed { Duration::ZERO } else { RedisLedger::INEXACT };
        let is_known = listed.stable_for_all >= expired + waited + inexact;
        let since = listed.now.minus(self.clocks.leeway() + waited + inexact);
        let lost = listed.lost_at.map(|at| if at > Timestamp::default() { at.plus(longest) } else { at });
        let mut ends = listed.lapsed.iter().map(|(_, ended)| *ended).chain(lost);
        ends.any(|ended| !is_known || ended > since)
    }
}
