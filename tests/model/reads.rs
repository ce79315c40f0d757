//! A read from its being sent to its being taken in (`replica/follow.rs`, `replica/gap.rs`).

use super::protocol::{Bug, Protocol};
use super::world::{Base, Instance, Kind, Lease, Phase, Read, Tokens, World};

impl Read {
    pub fn sent(kind: Kind, own: Tokens, hold: u8) -> Self {
        Self {
            kind,
            phase: Phase::Sent,
            age: 0,
            tokens: 0,
            count: 0,
            complete: false,
            epoch: 0,
            last: 0,
            added: 0,
            settled: false,
            after_loss: false,
            by_primary: true,
            leased: true,
            hold,
            own,
        }
    }
}

impl Protocol {
    /// The store executes the part of the read that has reached it, even while the instance is paused.
    pub fn serve(&self, world: &mut World, at: u8) -> Option<()> {
        let instance = *world.at(at);
        let mut read = instance.read.filter(|_| instance.linked)?;
        let newest = world.newest.1;
        let server = world.server(at);
        match read.phase {
            Phase::Sent => {
                if read.kind == Kind::Replay && server.epoch == 0 {
                    if server.is_full {
                        return None;
                    }
                    server.epoch = newest + 1;
                    server.founded = 0;
                }
                let base = instance.base.filter(|_| read.kind != Kind::Replay);
                if !self.has(Bug::LeaseAfterRead) {
                    let applied = self.reported(base);
                    let lease = &mut server.leases[usize::from(at)];
                    if !server.is_full {
                        *lease = Some(Lease { age: 0, applied, hold: read.hold });
                    } else if let Some(lease) = lease.as_mut().filter(|_| !self.has(Bug::NoLeaseWhenFull)) {
                        (lease.age, lease.hold) = (0, read.hold); // The lease continues with its previous report.
                    }
                    read.leased = lease.is_some();
                }
                let after = base.map_or(0, |base| base.last);
                let page = if read.kind == Kind::Replay { u8::MAX } else { self.page };
                for entry in server.log.iter().flatten().filter(|entry| entry.id > after).take(page.into()) {
                    read.tokens |= 1 << entry.token;
                    read.count += 1;
                    read.last = entry.id;
                }
                read.complete = read.count < page;
                read.settled = !instance.settled && self.is_settled(server.founded, server.since);
                if read.kind == Kind::Next {
                    read.phase = Phase::HalfServed;
                } else {
                    (read.epoch, read.last, read.added) = (server.epoch, server.last, server.added);
                    if !read.complete {
                        read.last = after.max(self.page_end(server.log.iter().flatten().map(|e| e.id), after));
                    }
                    read.phase = Phase::Served;
                }
                world.newest.1 = newest.max(server.epoch);
            }
            Phase::HalfServed => {
                read.epoch = server.epoch;
                read.phase = Phase::Served;
            }
            Phase::Served | Phase::HalfTaken => return None,
        }
        if read.phase == Phase::HalfServed && world.left.losses == 0 {
            read.epoch = world.server(at).epoch; // No event can come between.
            read.phase = Phase::Served;
        }
        read.by_primary = world.server(at).is_primary;
        read.after_loss = instance.unaware && read.phase == Phase::Served;
        world.at(at).read = Some(read);
        Some(())
    }

    /// The reported progress of an instance.
    fn reported(&self, base: Option<Base>) -> u8 {
        let before = if self.has(Bug::PositionOutlivesLog) { self.history } else { 0 };
        base.map_or(0, |base| base.last).max(before)
    }

    fn page_end(&self, ids: impl Iterator<Item = u8>, after: u8) -> u8 {
        ids.filter(|id| *id > after).take(self.page.into()).last().unwrap_or(after)
    }

    /// Whether instances have written possible losses back to a store of this age.
    fn is_settled(&self, founded: u8, since: u8) -> bool {
        let age = if self.has(Bug::SettledByEpoch) { founded } else { founded.min(since) };
        age > 0 || self.has(Bug::NoSettling)
    }

    /// The reply is applied, and then published; with `fine`, decisions see the state between.
    pub fn take(&self, world: &mut World, at: u8) -> Option<()> {
        let (founded, since) = (world.server(at).founded, world.server(at).since);
        let settled_now = self.is_settled(founded, since);
        let instance = world.linked(at)?;
        let mut read = instance.read?;
        let publish_first = self.has(Bug::PublishedBeforeApplied);
        let gap = match read.phase {
            Phase::Served => {
                if publish_first {
                    self.conclude(instance, &read, settled_now)
                } else {
                    self.absorb(instance, &read)
                }
            }
            Phase::HalfTaken => None,
            Phase::Sent | Phase::HalfServed => return None,
        };
        debug_assert!(gap.is_none());
        if read.phase == Phase::Served && (self.fine || publish_first) {
            read.phase = Phase::HalfTaken;
            instance.read = Some(read);
            return Some(());
        }
        if publish_first {
            self.absorb(instance, &read)
        } else {
            self.conclude(instance, &read, settled_now)
        };
        instance.read = None;
        if self.has(Bug::LeaseAfterRead) {
            let applied = self.reported(instance.base);
            world.server(at).leases[usize::from(at)] = Some(Lease { age: 0, applied, hold: read.hold });
        }
        Some(())
    }

    fn absorb(&self, instance: &mut Instance, read: &Read) -> Option<()> {
        if read.kind == Kind::Replay {
            instance.loss = instance.loss.map(|_| 0);
            if self.has(Bug::Replace) {
                instance.view = 0;
            }
        }
        instance.view |= read.tokens;
        instance.own &= !read.tokens;
        if let Some(seen) = &mut instance.loss {
            *seen |= read.tokens;
        }
        None
    }

    /// The gap rule; then the freshness, or reading again.
    fn conclude(&self, instance: &mut Instance, read: &Read, settled_now: bool) -> Option<()> {
        if !read.by_primary && !self.has(Bug::RoleNotAsked) {
            self.hang_up(instance); // And connects to the primary.
            instance.misled = false;
            instance.unaware = true;
            return None;
        }
        if read.kind == Kind::Replay {
            let Read { epoch, last, added, .. } = *read;
            instance.base = Some(Base { epoch, last, added });
            instance.checked = false;
            return None;
        }
        let base = instance.base.as_mut()?;
        base.advance(read);
        let other_epoch = read.epoch != base.epoch && !(self.has(Bug::NextWithoutEpoch) && read.kind == Kind::Next);
        let behind = read.kind == Kind::Check && read.complete && read.last < base.last;
        let miscounted =
            read.kind == Kind::Check && read.complete && read.added != base.added && !self.has(Bug::NoCount);
        let own_lost = read.complete && read.own & !read.tokens != 0 && !self.has(Bug::OwnWritesForgotten);
        instance.unaware &= !read.after_loss;
        if (other_epoch || behind || miscounted || own_lost) && !self.has(Bug::NoGapRule) {
            instance.base = None;
            instance.checked = false;
            instance.own = 0;
            instance.unaware = false;
            instance.loss = Some(0);
            instance.settled &= self.has(Bug::SettledForGood);
            return None;
        }
        if !read.complete && !self.has(Bug::PartialPageIsFresh) {
            return None;
        }
        instance.checked |= read.kind == Kind::Check;
        instance.settled |= if self.has(Bug::SettledAfterRead) { settled_now } else { read.settled };
        if instance.settled && read.leased {
            instance.age = if self.has(Bug::FreshAsOfTheEnd) { 0 } else { read.age };
            let runs = if self.more.is_some() { self.leased(read.hold).saturating_sub(read.age) } else { 1 };
            instance.leased = runs;
        }
        None
    }
}
