//! The explored space: its size, faults, assumptions and bug.

use super::world::{INSTANCES, Instance, Lease, Left, Life, Promise, Store, TOKENS, World};

/// The protocol and its surroundings.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug)]
pub struct Protocol {
    pub instances: u8,
    pub tokens: u8,
    /// In ticks.
    pub max_staleness: u8,
    /// How much more than that the rules of a patient instance allow; `None`: all are alike.
    pub more: Option<u8>,
    /// One instance is patient from the start.
    pub differ: bool,
    /// Entries in a read: a page that is full is not complete.
    pub page: u8,
    pub left: Left,
    pub losses: &'static [Loss],
    /// Applying and publishing are two steps that decisions see between.
    pub fine: bool,
    /// Replies of given-up connections may still arrive.
    pub late_replies: bool,
    pub pauses: bool,
    /// Writes may be refused, or their answers lost.
    pub failing_writes: bool,
    /// A 2xx waits for the spare (`min_replicas`, WAIT).
    pub wait: bool,
    /// The store may be full for a while.
    pub fills: bool,
    /// The store's wall clock is set forward.
    pub jumps: bool,
    /// Only other services write, the spare stays as it is, and nothing expires: enough for some
    /// counterexamples, and quicker.
    pub narrow: bool,
    /// Assumption: a connected instance has every lost entry, and writes it back before the time to settle (one tick)
    /// has passed.
    pub survivors: bool,
    /// Assumption: no server gives out an id that is not newer than all before.
    pub ids_grow: bool,
    /// The newest id of the log when the run begins; its entries have been trimmed.
    pub history: u8,
    pub bug: Option<Bug>,
}

/// How a store loses.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Loss {
    /// No loss: an intact restart.
    Restart,
    /// FLUSHALL: connections stay.
    Flush,
    Empty,
    /// The older copy comes up: a snapshot of the past, or a failover.
    Older,
    /// A failover whose old primary continues to answer one of the instances.
    Split,
    /// The same, but the server reports it: a demotion under a live connection.
    Demoted,
}

/// Deliberate mistakes; `src` once contained some of them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Bug {
    /// `fresh_as_of` is the end of the read, not its start.
    FreshAsOfTheEnd,
    /// The freshness is published before the entries are applied.
    PublishedBeforeApplied,
    /// A full page counts as all there was.
    PartialPageIsFresh,
    /// A reply of a given-up connection is taken for that of the read that waits.
    LateReplyIsTaken,
    /// A decision looks the token up first, and then how old the view is.
    AgeAfterLookup,
    /// The clock stands still while the process does, or the machine: CLOCK_MONOTONIC in suspend.
    ClockStops,
    /// No check whether the log is still the same.
    NoGapRule,
    /// Between checks, not even at the epoch.
    NextWithoutEpoch,
    /// The gap rule without the count of entries.
    NoCount,
    /// Bug: entries that are read again replace the view instead of being merged.
    Replace,
    /// A noticed loss is not put back.
    NothingPutBack,
    /// A new instance relies on the store at once.
    NoSettling,
    /// Settling looks at the age of the epoch only, not of the server.
    SettledByEpoch,
    /// Settling is judged after the read that is then published.
    SettledAfterRead,
    /// An instance that was once ready relies at once on any store that it finds.
    SettledForGood,
    /// Bug: entries that this process wrote and has not read back are not looked for.
    OwnWritesForgotten,
    /// Bug: a read counts with any role of the server.
    RoleNotAsked,
    /// A full store is read on without a lease.
    NoLeaseWhenFull,
    /// A receipt does not wait for instances that did not renew of late.
    ReceiptIgnoresCutOff,
    /// A receipt trusts the leases of a store that may have lost some.
    ReceiptTrustsYoungStore,
    /// Bug: a receipt counts a lease as expired by the store's wall clock alone.
    ReceiptTrustsTheClock,
    /// An instance announces itself only after it has read.
    LeaseAfterRead,
    /// A lease lapses before the instance stops serving.
    ShortLease,
    /// A receipt assumes the own length of leases for those of others.
    ReceiptByOwnLease,
    /// A view is used for as long as the rules allow now, beyond the lease that was made for it.
    ReloadOutlivesLease,
    /// How far an instance was in a log that is gone is reported of the next one, too.
    PositionOutlivesLog,
}

impl Protocol {
    pub fn stale(&self) -> u8 {
        self.longest() + 1
    }

    /// The longest `max_staleness` of any instance.
    pub fn longest(&self) -> u8 {
        self.max_staleness + self.more.unwrap_or_default()
    }

    pub fn staleness(&self, instance: &Instance) -> u8 {
        if instance.patient { self.longest() } else { self.max_staleness }
    }

    /// How long a lease runs that is made for a view of this age, the present tick among it.
    pub fn leased(&self, hold: u8) -> u8 {
        if self.more.is_some() { hold + 1 } else { 1 }
    }

    pub fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// Everything is quiet and every instance follows an empty log.
    pub fn start(&self) -> World {
        let (stale, history) = (self.stale(), self.history);
        let began = Store { epoch: 1, founded: stale, since: stale, even: stale, ..Store::new() };
        let mut store = Store { last: history, added: history, ..began };
        let mut instances = [Instance::absent(); INSTANCES];
        for (at, (instance, lease)) in
            instances.iter_mut().zip(&mut store.leases).take(self.instances.into()).enumerate()
        {
            *instance = Instance { patient: self.differ && at == 0, ..Instance::started(0) };
            let hold = self.staleness(instance);
            instance.leased = self.leased(hold);
            instance.base = Some(super::world::Base { epoch: 1, last: history, added: history });
            instance.checked = true;
            instance.settled = true;
            *lease = Some(Lease { age: 0, applied: history, hold });
        }
        World {
            store,
            spare: store,
            isolated: None,
            instances,
            promises: [Promise::None; TOKENS],
            newest: (history, 1),
            left: self.left,
        }
    }

    /// Whether an instance would let a request with this token pass.
    pub fn allows(&self, instance: &Instance, token: u8) -> bool {
        let unseen = !instance.knows(token) || self.has(Bug::AgeAfterLookup) && instance.missed & 1 << token != 0;
        let is_leased = instance.leased > 0 || self.has(Bug::ReloadOutlivesLease);
        instance.life == Life::Running && instance.age <= self.staleness(instance) && is_leased && unseen
    }

    fn no_instance_allows(&self, world: &World, promised: impl Fn(&Instance, u8, bool) -> bool) -> bool {
        (0..self.tokens).all(|token| match world.promises[usize::from(token)] {
            Promise::Written { age, confirmed, .. } => {
                let breaks = |instance: &Instance| promised(instance, age, confirmed) && self.allows(instance, token);
                !world.instances.iter().any(breaks)
            }
            _ => true,
        })
    }

    /// (a) No instance allows a token later than `max_staleness` after its revocation was written.
    pub fn bound_holds(&self, world: &World) -> bool {
        self.no_instance_allows(world, |instance, age, _| age > self.staleness(instance))
    }

    /// (b) Once confirmed, no instance ever allows it.
    pub fn receipts_hold(&self, world: &World) -> bool {
        self.no_instance_allows(world, |_, _, confirmed| confirmed)
    }

    /// (c) An instance refuses for ever a token that it has refused once.
    pub fn nothing_is_taken_back(world: &World) -> bool {
        world.instances.iter().all(|instance| instance.refused & !instance.view == 0)
    }
}
