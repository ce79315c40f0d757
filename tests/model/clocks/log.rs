//! The log: written, read, purged and trimmed.

use super::{Clocks, Dates, END, EVEN, Entry, Fault, Fleet, GRACE, Known, Limits, Standing, Store};

/// For how long the log is kept.
fn kept(retention: i8) -> i8 {
    2 * retention + GRACE
}

impl Store {
    /// A tick. A clock that cannot become even for long enough before the end of time need not be counted.
    pub(super) fn go_on(&mut self, now: i8) {
        let even = (self.even + 1).min(EVEN);
        self.even = if even + END - now < kept(self.noted) { 0 } else { even };
    }
}

impl Clocks {
    pub(super) fn revoke(&self, fleet: &mut Fleet, by: usize, age: i8) -> Option<()> {
        let (issued, writer) = (fleet.issuer - age, fleet.instances[by]);
        let may_write = writer.is_current && writer.is_named && !writer.is_cut && writer.standing != Standing::Nowhere;
        (fleet.revoked.is_none() && may_write).then_some(())?;
        let (local, store) = (fleet.wall(&writer), fleet.store_wall());
        let most = writer.limits.leeway.max(1);
        let (at, expires) = if self.by_id {
            (None, issued + self.life + writer.limits.leeway)
        } else {
            let differ = (local - store).abs() > most;
            (!differ || self.has(Fault::StampsDespiteSkew)).then_some(())?;
            fleet.stamped = if self.has(Fault::StampsByOneClock) { local } else { local.max(store) };
            let at = self.instant(fleet, writer.limits.leeway, false);
            (Some(at), at + writer.limits.retention())
        };
        if self.dates == Dates::Verified {
            fleet.is_bound = fleet.is_verified && fleet.instances.iter().all(|instance| instance.unreported.is_none());
        }
        let entry = Entry { id: (!fleet.store.is_far).then_some(store), at, expires, names: writer.standing.names() };
        fleet.revoked = Some((issued, entry));
        if self.has(Fault::ExpiredIsNotWritten) && self.by_id && fleet.earliest(&writer) >= expires {
            return Some(());
        }
        self.write(fleet, by, entry);
        Some(())
    }

    pub(super) fn write(&self, fleet: &mut Fleet, by: usize, entry: Entry) {
        fleet.store.log = Some(entry);
        for instance in &mut fleet.instances {
            instance.is_current = false;
        }
        self.read(fleet, by);
    }

    pub(super) fn read(&self, fleet: &mut Fleet, at: usize) {
        let instance = fleet.instances[at];
        (fleet.instances[at].is_current, fleet.instances[at].may_serve) = (true, true);
        fleet.instances[at].noted = if self.left.losses > 0 { fleet.store.names } else { 0 };
        let Some(entry) = fleet.store.log else { return };
        if entry.id.is_none() && self.has(Fault::FarIdIsPassedOver) {
            return;
        }
        let Limits { leeway, .. } = instance.limits;
        // The reader's own bound; an id of the future counts as now.
        let read = entry.id.unwrap_or(END).min(fleet.store_wall());
        let expires = match entry.at {
            _ if self.has(Fault::WritersBound) => entry.expires,
            None => entry.expires + leeway,
            Some(at) => entry.expires.max(at.max(read) + instance.limits.retention()),
        };
        let is_over = if self.has(Fault::PassesOverByOneClock) {
            fleet.wall(&instance) >= expires
        } else {
            fleet.earliest(&instance) >= expires + instance.limits.retention()
        };
        if is_over || instance.known.is_some_and(|known| known.expires >= expires) {
            return;
        }
        let (learnt, is_later) = (fleet.now, instance.is_later);
        fleet.instances[at].known = Some(Known { at: entry.at, expires, names: entry.names, learnt, is_later });
    }

    pub(super) fn purge(&self, fleet: &mut Fleet, at: usize) -> Option<()> {
        let instance = fleet.instances[at];
        let known = instance.known?;
        let may_go = if self.has(Fault::ForgetsByOneClock) {
            fleet.wall(&instance) >= known.expires
        } else {
            let was_held = fleet.now - known.learnt > instance.limits.retention() || self.has(Fault::NoHold);
            fleet.earliest(&instance) >= known.expires && was_held
        };
        may_go.then_some(())?;
        let is_later = if self.has(Fault::FloorOfAnotherEra) { instance.is_later } else { known.is_later };
        let at = &mut fleet.instances[at];
        at.known = None;
        if !is_later && !self.has(Fault::ForgetsByOneClock) {
            at.forgotten = at.forgotten.max(known.expires);
        }
        Some(())
    }

    pub(super) fn trim(&self, fleet: &mut Fleet, by: usize) -> Option<()> {
        let instance = fleet.instances[by];
        let clock = if self.has(Fault::TrimsByOneClock) { fleet.wall(&instance) } else { fleet.earliest(&instance) };
        let retention =
            if self.has(Fault::TrimsByOwnRetention) { instance.limits.retention() } else { fleet.store.noted };
        let kept = if self.has(Fault::TrimsAfterOneRetention) { retention } else { kept(retention) };
        let is_sure = fleet.store.even >= kept || self.has(Fault::TrimsAfterAStep);
        (is_sure && fleet.store.log?.id? < clock - kept).then_some(())?;
        fleet.store.log = None;
        Some(())
    }
}
