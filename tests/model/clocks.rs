//! The model of forgetting: one token, one revocation, and clocks, configurations and names that are not as they
//! should be.
//!
//! Time begins with the revocation and ends when every token has expired. A read of the log is one step: interleavings
//! of its parts, and the age of a view, belong to the other model.

mod dates;
mod fault;
mod log;
mod names;

use stateright::{Model, Property};

use super::steps::spend;
pub use dates::Dates;
pub use fault::Fault;
pub use names::Standing;

const INSTANCES: usize = 2;
const END: i8 = 9;
/// Beyond the retention, in which entries stay in the log (60 s in the code).
const GRACE: i8 = 1;
/// Longer than any log is kept here.
const EVEN: i8 = 2 * END;

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Limits {
    pub life: i8,
    pub leeway: i8,
}

impl Limits {
    fn retention(self) -> i8 {
        self.life + self.leeway
    }
}

#[derive(Clone, Debug)]
pub struct Clocks {
    /// The initial configuration of the instances.
    pub limits: [Limits; INSTANCES],
    /// The configurations of a reload.
    pub reloads: &'static [Limits],
    /// How far the wall clock of an instance may be off.
    pub offsets: &'static [i8],
    /// How far the store's may be.
    pub store_offsets: &'static [i8],
    /// How far the issuer's clock may lead.
    pub leads: &'static [i8],
    /// The life of the issuer's tokens.
    pub life: i8,
    /// How long before the revocation the token may have been issued.
    pub ages: &'static [i8],
    /// It revokes the token by its id, not its user.
    pub by_id: bool,
    pub left: Left,
    /// Assumption: of an instance's clock and the store's, one is right.
    pub one_is_right: bool,
    /// Where the dates of tokens are known from.
    pub dates: Dates,
    pub bug: Option<Fault>,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Left {
    /// Wall clocks that are set.
    pub clocks: u8,
    pub restarts: u8,
    pub reloads: u8,
    pub renames: u8,
    /// Entries that another service adds under an id of the far future.
    pub far_ids: u8,
    /// Instances that are cut off from the store, and reach it again.
    pub cuts: u8,
    /// Losses of leases in the store, which a connected instance sees.
    pub losses: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fleet {
    now: i8,
    issuer: i8,
    store: Store,
    /// The token's `iat`, and its revocation.
    revoked: Option<(i8, Entry)>,
    /// No later than now and the skew: the instant before a lead is added.
    stamped: i8,
    /// The dates of such tokens were known when it was stamped.
    is_bound: bool,
    /// Every instance has read it at some time, or a receipt says so.
    confirmed: bool,
    /// A token that is dated as late as any was verified before the receipt.
    is_verified: bool,
    instances: [Instance; INSTANCES],
    left: Left,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Store {
    offset: i8,
    log: Option<Entry>,
    /// The longest retention of any instance.
    noted: i8,
    /// Since its clock was set, up to [`EVEN`]; some instance noticed that.
    even: i8,
    /// The next id is of the far future.
    is_far: bool,
    /// What its notes say: the lead and the latest date of the issuer's tokens, and the names of the issuer.
    lead: i8,
    dated: i8,
    names: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Entry {
    /// `None`: of the far future.
    id: Option<i8>,
    /// `None`: whenever issued.
    at: Option<i8>,
    expires: i8,
    names: u8,
}

#[expect(clippy::struct_excessive_bools, reason = "each holds or not whatever the others do")]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Instance {
    offset: i8,
    limits: Limits,
    standing: Standing,
    /// The instance has read the log since the last entry, and may serve.
    is_current: bool,
    /// Its configuration was held against the notes of names; without that it does not serve.
    is_named: bool,
    /// The names that its process has had in force before, less those that a checked configuration replaced.
    past: u8,
    /// The names in the notes of the store, as it read them; left out where the store loses none.
    noted: u8,
    /// It does not reach the store.
    is_cut: bool,
    /// Its lease has run out, and a receipt is given without it.
    has_lapsed: bool,
    /// It may serve by the view of before the revocation.
    may_serve: bool,
    /// It verified the token, and has not told the others; the lead that it measured then.
    unreported: Option<i8>,
    known: Option<Known>,
    /// Since the earlier clock was last set, it accepts no token that is as old as this one.
    is_later: bool,
    /// Revocations of the eras of the token that expire up to then may be forgotten.
    forgotten: i8,
    has_refused: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Known {
    at: Option<i8>,
    expires: i8,
    names: u8,
    /// By the monotonic clock.
    learnt: i8,
    /// The instance's, then.
    is_later: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Act {
    Tick,
    /// For a token that was issued this long before.
    Revoke {
        by: usize,
        age: i8,
    },
    Read {
        instance: usize,
    },
    Purge {
        instance: usize,
    },
    Trim {
        by: usize,
    },
    Restart {
        instance: usize,
    },
    /// The store's wall clock.
    SetStore {
        offset: i8,
    },
    SetInstance {
        instance: usize,
        offset: i8,
    },
    Reload {
        instance: usize,
        limits: Limits,
    },
    Rename {
        instance: usize,
        to: Standing,
    },
    /// A configuration is held against the notes of names.
    Name {
        instance: usize,
    },
    /// It verifies a token of the issuer that is dated as late as any.
    Verify {
        instance: usize,
    },
    Cut {
        instance: usize,
    },
    Heal {
        instance: usize,
    },
    Lapse {
        instance: usize,
    },
    /// A receipt is given, or the revocation is stamped again.
    Confirm {
        by: usize,
    },
    FarId,
    /// The store has no lease any more of an instance that is cut off.
    LoseLeases,
    /// The store has no notes of names any more, until instances put them back.
    LoseNames,
}

impl Model for Clocks {
    type State = Fleet;
    type Action = Act;

    fn init_states(&self) -> Vec<Fleet> {
        let instance = |at: usize| Instance {
            offset: 0,
            limits: self.limits[at],
            standing: Standing::Old,
            is_current: true,
            is_named: true,
            past: 0,
            noted: if self.left.losses > 0 { Standing::Both.names() } else { 0 },
            is_cut: false,
            has_lapsed: false,
            may_serve: true,
            unreported: None,
            known: None,
            is_later: false,
            forgotten: i8::MIN,
            has_refused: false,
        };
        let instances = std::array::from_fn(instance);
        let noted = instances.iter().map(|instance| instance.limits.retention()).max().unwrap_or_default();
        let (lead, dated, names) = (0, i8::MIN, Standing::Both.names());
        let store = Store { offset: 0, log: None, noted, even: EVEN, is_far: false, lead, dated, names };
        let is_known = self.dates != Dates::Verified;
        let fleet = |issuer| Fleet {
            now: 0,
            issuer,
            store,
            revoked: None,
            stamped: 0,
            is_bound: is_known,
            confirmed: false,
            is_verified: is_known,
            instances,
            left: self.left,
        };
        self.leads.iter().copied().map(fleet).collect()
    }

    fn actions(&self, _: &Fleet, acts: &mut Vec<Act>) {
        acts.extend([Act::Tick, Act::FarId]);
        acts.push(if self.dates == Dates::Verified { Act::LoseLeases } else { Act::LoseNames });
        acts.extend(self.store_offsets.iter().map(|&offset| Act::SetStore { offset }));
        for instance in 0..INSTANCES {
            acts.extend(self.ages.iter().map(|&age| Act::Revoke { by: instance, age }));
            acts.push(Act::Trim { by: instance });
            acts.extend([Act::Read { instance }, Act::Purge { instance }]);
            acts.extend([Act::Restart { instance }, Act::Name { instance }]);
            if self.dates == Dates::Verified {
                acts.extend([Act::Verify { instance }, Act::Lapse { instance }, Act::Confirm { by: instance }]);
                acts.extend([Act::Cut { instance }, Act::Heal { instance }]);
            }
            acts.extend(Standing::ALL.map(|to| Act::Rename { instance, to }));
            acts.extend(self.offsets.iter().map(|&offset| Act::SetInstance { instance, offset }));
            acts.extend(self.reloads.iter().map(|&limits| Act::Reload { instance, limits }));
        }
    }

    fn next_state(&self, fleet: &Fleet, act: Act) -> Option<Fleet> {
        let mut next = *fleet;
        self.act(&mut next, act)?;
        for at in 0..INSTANCES {
            next.instances[at].has_refused |= self.refuses(&next, &next.instances[at]);
        }
        let is_read = next.revoked.is_some() && next.instances.iter().all(|instance| instance.is_current);
        next.confirmed |= is_read && self.dates != Dates::Verified;
        next.instances.sort_unstable(); // They differ in nothing but their place.
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("bound", |model: &Self, fleet: &Fleet| !fleet.is_allowed(model, |_| fleet.is_bound)),
            Property::always("receipt", |model: &Self, fleet: &Fleet| {
                !fleet.is_allowed(model, |_| fleet.confirmed && fleet.is_verified)
            }),
            Property::always("kept", |model: &Self, fleet: &Fleet| {
                !fleet.is_allowed(model, |instance| instance.has_refused)
            }),
            Property::always("let in again", Self::lets_in_again),
        ]
    }
}

impl Fleet {
    fn is_allowed(&self, model: &Clocks, promised: impl Fn(&Instance) -> bool) -> bool {
        self.instances.iter().any(|instance| promised(instance) && model.allows(self, instance))
    }

    fn wall(&self, instance: &Instance) -> i8 {
        self.now + instance.offset
    }

    fn store_wall(&self) -> i8 {
        self.now + self.store.offset
    }

    fn earliest(&self, instance: &Instance) -> i8 {
        self.wall(instance).min(self.store_wall())
    }

    /// The earlier clock was set.
    fn begin_era(&mut self, at: usize) {
        let (instance, issued) = (self.instances[at], self.revoked.map_or(self.issuer, |(issued, _)| issued));
        self.instances[at].is_later = issued < self.earliest(&instance) - instance.limits.retention();
    }
}

impl Clocks {
    fn has(&self, bug: Fault) -> bool {
        self.bug == Some(bug)
    }

    /// Whether the instance would accept the token without any revocation (`authz/token.rs`).
    fn accepts(&self, fleet: &Fleet, instance: &Instance) -> bool {
        fleet.revoked.is_some_and(|(issued, _)| self.is_valid(fleet, instance, issued))
    }

    fn is_valid(&self, fleet: &Fleet, instance: &Instance, issued: i8) -> bool {
        let (wall, Limits { life, leeway }) = (fleet.wall(instance), instance.limits);
        let expires = issued + self.life;
        instance.standing != Standing::Nowhere
            && issued <= wall + leeway
            && wall < expires + leeway
            && self.life <= life
            && expires - wall <= life + leeway
    }

    fn refuses(&self, fleet: &Fleet, instance: &Instance) -> bool {
        let covers = |known: Known| known.at.is_none_or(|at| fleet.revoked.is_some_and(|(issued, _)| issued <= at));
        let is_named = |known: Known| known.names & instance.standing.names() != 0;
        self.accepts(fleet, instance) && instance.known.is_some_and(|known| covers(known) && is_named(known))
    }

    fn allows(&self, fleet: &Fleet, instance: &Instance) -> bool {
        let is_forgotten =
            fleet.revoked.is_some_and(|(issued, _)| issued + self.life + instance.limits.leeway <= instance.forgotten);
        let is_expired = is_forgotten && !self.has(Fault::NoFloor);
        let serves = instance.is_current && instance.is_named;
        serves && self.accepts(fleet, instance) && !is_expired && !self.refuses(fleet, instance)
    }

    /// A user who signs in again may be locked out for the lead and the skew, each of them at most the leeway.
    fn lets_in_again(&self, fleet: &Fleet) -> bool {
        let Some((_, Entry { at: Some(at), .. })) = fleet.revoked else { return true };
        let leeway = self.limits.iter().map(|limits| limits.leeway).fold(1, i8::max);
        at <= 2 * leeway
    }

    fn act(&self, fleet: &mut Fleet, act: Act) -> Option<()> {
        match act {
            Act::Tick => {
                fleet.revoked?;
                fleet.now += 1;
                fleet.store.go_on(fleet.now);
                (fleet.now <= END).then_some(())?;
            }
            Act::Revoke { by, age } => self.revoke(fleet, by, age)?,
            Act::Read { instance } => {
                (!fleet.instances[instance].is_cut).then_some(())?;
                self.read(fleet, instance);
            }
            Act::Verify { instance } => self.verify(fleet, instance)?,
            Act::Cut { instance } => {
                spend(&mut fleet.left.cuts)?;
                fleet.instances[instance].is_cut = true;
            }
            Act::Heal { instance } => {
                let at = &mut fleet.instances[instance];
                at.is_cut.then_some(())?;
                (at.is_cut, at.has_lapsed) = (false, false);
                if let Some(lead) = at.unreported.take() {
                    self.tell(fleet, instance, lead);
                }
            }
            Act::Lapse { instance } => {
                let is_even = fleet.left.clocks == self.left.clocks;
                let is_listed = fleet.left.losses == self.left.losses;
                let at = &mut fleet.instances[instance];
                (at.is_cut && at.may_serve).then_some(())?;
                at.has_lapsed = is_even || !self.has(Fault::LapseOfAnotherEraIsNotCovered);
                at.has_lapsed &= is_listed || !self.has(Fault::LostLeaseIsNotCovered);
                (at.may_serve, at.is_current) = (false, false);
            }
            Act::LoseLeases => spend(&mut fleet.left.losses)?,
            Act::LoseNames => {
                spend(&mut fleet.left.losses)?;
                self.lose_names(fleet);
            }
            Act::Confirm { by } => self.confirm(fleet, by)?,
            Act::Name { instance } => {
                let at = fleet.instances[instance];
                let is_due = (at.is_current || self.has(Fault::RenamesUnread)) && !at.is_named && !at.is_cut;
                (is_due && self.may_stand(fleet, instance, at.standing)).then_some(())?;
                fleet.instances[instance].is_named = true;
                fleet.store.note(at.standing);
            }
            Act::Purge { instance } => self.purge(fleet, instance)?,
            Act::Trim { by } => self.trim(fleet, by)?,
            Act::Restart { instance } => {
                spend(&mut fleet.left.restarts)?;
                let at = &mut fleet.instances[instance];
                // Where names never change, the check of them is left out.
                let is_named = self.left.renames == 0;
                *at = Instance {
                    is_current: false,
                    is_named,
                    past: 0,
                    noted: 0,
                    known: None,
                    forgotten: i8::MIN,
                    has_refused: false,
                    ..*at
                };
                fleet.begin_era(instance);
            }
            Act::SetStore { offset } => {
                spend(&mut fleet.left.clocks)?;
                (fleet.store.offset, fleet.store.even) = (offset, 0);
                (0..INSTANCES).for_each(|at| fleet.begin_era(at));
                self.is_assumed(fleet).then_some(())?;
            }
            Act::SetInstance { instance, offset } => {
                spend(&mut fleet.left.clocks)?;
                fleet.instances[instance].offset = offset;
                fleet.begin_era(instance);
                self.is_assumed(fleet).then_some(())?;
            }
            Act::Reload { instance, limits } => {
                spend(&mut fleet.left.reloads)?;
                let at = &mut fleet.instances[instance];
                let is_raised = limits.leeway > at.limits.leeway || limits.life > at.limits.life;
                at.limits = limits;
                at.is_current &= !is_raised || self.has(Fault::RaisesWithoutReading);
                fleet.store.noted = fleet.store.noted.max(limits.retention());
            }
            Act::Rename { instance, to } => {
                spend(&mut fleet.left.renames)?;
                let at = fleet.instances[instance];
                let mut past = at.past;
                if at.is_named {
                    self.may_stand(fleet, instance, to).then_some(())?;
                    fleet.store.note(to);
                    past |= at.standing.names(); // Names that were never in force have changed nothing.
                    if to != Standing::Nowhere {
                        past = 0; // What it does not have is replaced, and what it has is its own.
                    }
                } else if self.has(Fault::UncheckedSupersedes) && to != Standing::Nowhere {
                    fleet.store.names = to.names();
                }
                (fleet.instances[instance].standing, fleet.instances[instance].past) = (to, past);
            }
            Act::FarId => {
                spend(&mut fleet.left.far_ids)?;
                fleet.store.is_far = true;
            }
        }
        Some(())
    }

    fn is_assumed(&self, fleet: &Fleet) -> bool {
        let all_right = fleet.instances.iter().all(|instance| instance.offset == 0);
        !self.one_is_right || fleet.store.offset == 0 || all_right
    }
}
