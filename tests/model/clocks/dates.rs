//! What instances tell each other of the dates of tokens, and the instants that are stamped by it.

use super::{Clocks, Entry, Fault, Fleet, Instance, Store};

/// In the place of a lead: by clocks that differ by more than the leeway none is measured.
const UNMEASURED: i8 = i8::MIN;

/// Where it is known from how far the issuer's tokens are dated ahead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dates {
    /// Nobody knows it.
    Unseen,
    /// Assumption: an instance has verified a token that was dated as far ahead as this one is.
    Seen,
    /// From the instances that verify a token: promises are of what was verified by then. A receipt stamps again.
    Verified,
}

impl Clocks {
    /// An instant that covers what is known to be verified; with `whole`, what an instance may have verified that lapsed.
    pub(super) fn instant(&self, fleet: &Fleet, leeway: i8, whole: bool) -> i8 {
        let most = leeway.max(1);
        let Store { lead, dated, .. } = fleet.store;
        let lead = match self.dates {
            _ if self.has(Fault::StampsWithoutLead) => 0,
            Dates::Unseen => 1,
            Dates::Seen => fleet.issuer.clamp(1, most),
            Dates::Verified if whole => lead.max(most),
            Dates::Verified => lead.max(1),
        };
        (fleet.stamped + lead).max(dated)
    }

    pub(super) fn verify(&self, fleet: &mut Fleet, at: usize) -> Option<()> {
        let instance = fleet.instances[at];
        let serves = instance.may_serve && instance.is_named && !fleet.confirmed;
        // One that was cut off after its report tells nothing more before the receipt.
        let has_reported = instance.is_cut && instance.is_current && fleet.revoked.is_some();
        (serves && !has_reported && self.is_valid(fleet, &instance, fleet.issuer)).then_some(())?;
        let earliest = fleet.earliest(&instance);
        let differ = (fleet.wall(&instance) - fleet.store_wall()).abs() > instance.limits.leeway.max(1);
        let lead = if differ { UNMEASURED } else { fleet.issuer - earliest };
        fleet.is_verified |= fleet.revoked.is_none();
        if instance.is_cut {
            // The first time it led by the most.
            fleet.instances[at].unreported = instance.unreported.or(Some(lead));
        } else {
            self.tell(fleet, at, lead);
        }
        Some(())
    }

    /// Notes a lead, and a date that it does not cover.
    pub(super) fn tell(&self, fleet: &mut Fleet, at: usize, lead: i8) {
        let (date, earliest, known) = (fleet.issuer, fleet.earliest(&fleet.instances[at]), fleet.store);
        let store = &mut fleet.store;
        store.lead = store.lead.max(lead);
        let is_beyond = date > earliest + store.lead.max(1);
        let is_unmeasured = lead == UNMEASURED && !self.has(Fault::DatesNotedByLateClocks);
        if (is_beyond || is_unmeasured) && !self.has(Fault::DatesNotShared) {
            store.dated = store.dated.max(date);
        }
        // What makes no instant later is not told from a token that was issued since.
        fleet.is_verified |= (store.lead.max(1), store.dated) != (known.lead.max(1), known.dated);
    }

    /// The receipt: everybody has applied it and told what it verified, or has lapsed; and nothing that is known since
    /// needs a later instant.
    pub(super) fn confirm(&self, fleet: &mut Fleet, by: usize) -> Option<()> {
        let (issuer, (issued, entry)) = (fleet.instances[by], fleet.revoked?);
        let is_over = |instance: &Instance| instance.is_current || !instance.may_serve && instance.is_cut;
        (issuer.is_current && !issuer.is_cut && !fleet.confirmed && fleet.instances.iter().all(is_over))
            .then_some(())?;
        let is_left_out = |instance: &Instance| instance.is_cut && !instance.may_serve && instance.unreported.is_some();
        fleet.is_verified |= fleet.instances.iter().any(is_left_out);
        let lapsed = fleet.instances.iter().any(|instance| instance.has_lapsed) && !self.has(Fault::LapseIsNotCovered);
        let leeway = issuer.limits.leeway;
        let is_more = entry.at.is_some_and(|at| at < self.instant(fleet, leeway, lapsed));
        let whole = lapsed || is_more && !self.has(Fault::StampsAgainByTheLead);
        let at = entry.at.map(|at| at.max(self.instant(fleet, leeway, whole)));
        if at == entry.at || self.has(Fault::StampsOnce) {
            fleet.confirmed = true;
            return Some(());
        }
        let expires = at.map_or(entry.expires, |at| entry.expires.max(at + issuer.limits.retention()));
        let again = Entry { at, expires, ..entry };
        fleet.revoked = Some((issued, again));
        self.write(fleet, by, again);
        Some(())
    }
}
