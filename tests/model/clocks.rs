//! The model of forgetting: one token, one revocation, and clocks, configurations and names that are not as they
//! should be.
//!
//! Time begins with the revocation and ends when every token has expired. A read of the log is one step: interleavings
//! of its parts, and the age of a view, belong to the other model.

use stateright::{Model, Property};

use super::steps::spend;

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
    /// The revocation names the token's id, not its user.
    pub by_id: bool,
    pub left: Left,
    /// Assumption: of an instance's clock and the store's, one is right.
    pub one_is_right: bool,
    /// Assumption: an instance has verified a token that was dated as far ahead as this one is.
    pub lead_is_seen: bool,
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
}

/// Deliberate mistakes, all of which `src` once contained.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// Bug: a revocation that has expired by the local wall clock is forgotten.
    ForgetsByOneClock,
    /// Bug: tokens that had expired when their revocation was forgotten are live again when the clock is set back.
    NoFloor,
    /// Bug: a forgotten revocation ends tokens of every era of the clock.
    FloorOfAnotherEra,
    /// Bug: an expired revocation is forgotten, no matter how short it was held.
    NoHold,
    /// An entry that has expired by the local wall clock is passed over, and counts as read.
    PassesOverByOneClock,
    /// Bug: the log is trimmed by the wall clock of the trimming instance.
    TrimsByOneClock,
    /// Bug: the log is trimmed by the retention of the trimming instance.
    TrimsByOwnRetention,
    /// The log is kept for one retention.
    TrimsAfterOneRetention,
    /// Bug: the age of an entry is taken from its id, also when the clock was set since.
    TrimsAfterAStep,
    /// An instant is that of the local wall clock.
    StampsByOneClock,
    /// An instant is not later than now.
    StampsWithoutLead,
    /// An instant is stamped though the clocks differ by more than the leeway.
    StampsDespiteSkew,
    /// Bug: an entry is kept only as long as its writer requested.
    WritersBound,
    /// A larger bound takes effect without the log being read again.
    RaisesWithoutReading,
    /// Entries of the far future are not understood, and count as read.
    FarIdIsPassedOver,
    /// Bug: the configuration gives the issuer another name, and applied revocations stay under the old one.
    RenamesInSilence,
    /// A change of names is compared only with the configuration before it, not with all names that the issuer had.
    RenamesByTheLastStep,
    /// Bug: a change of names considers applied revocations, but not those that other instances may still make.
    RenamesBesideOthers,
    /// Bug: a change of names considers applied revocations, although the log has more.
    RenamesUnread,
}

/// The names under which a configuration has the issuer, or the one of its `iss` that the token has: a rename and an
/// issuer that is split are the same to the token.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Standing {
    Old,
    New,
    /// Under the new name, with the old one in `formerly`.
    Both,
    /// No instance accepts its tokens.
    Nowhere,
}

impl Standing {
    const ALL: [Self; 4] = [Self::Old, Self::New, Self::Both, Self::Nowhere];

    /// Revocations under these names apply, and new ones are written under them.
    const fn names(self) -> u8 {
        match self {
            Self::Old => 1,
            Self::New => 2,
            Self::Both => 3,
            Self::Nowhere => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Fleet {
    now: i8,
    issuer: i8,
    store: Store,
    /// The token's `iat`, and its revocation.
    revoked: Option<(i8, Entry)>,
    /// Every instance has read it at some time.
    confirmed: bool,
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
}

impl Store {
    /// A tick. A clock that cannot become even for long enough before the end of time need not be counted.
    fn go_on(&mut self, now: i8) {
        let even = (self.even + 1).min(EVEN);
        self.even = if even + END - now < kept(self.noted) { 0 } else { even };
    }
}

/// For how long the log is kept.
fn kept(retention: i8) -> i8 {
    2 * retention + GRACE
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

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct Instance {
    offset: i8,
    limits: Limits,
    standing: Standing,
    /// The instance has read the log since the last entry, and may serve.
    is_current: bool,
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
    FarId,
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
            known: None,
            is_later: false,
            forgotten: 0,
            has_refused: false,
        };
        let instances = std::array::from_fn(instance);
        let noted = instances.iter().map(|instance| instance.limits.retention()).max().unwrap_or_default();
        let store = Store { offset: 0, log: None, noted, even: EVEN, is_far: false };
        let fleet =
            |issuer| Fleet { now: 0, issuer, store, revoked: None, confirmed: false, instances, left: self.left };
        self.leads.iter().copied().map(fleet).collect()
    }

    fn actions(&self, _: &Fleet, acts: &mut Vec<Act>) {
        acts.extend([Act::Tick, Act::FarId]);
        acts.extend(self.store_offsets.iter().map(|&offset| Act::SetStore { offset }));
        for instance in 0..INSTANCES {
            acts.extend([0, 1].map(|age| Act::Revoke { by: instance, age }));
            acts.push(Act::Trim { by: instance });
            acts.extend([Act::Read { instance }, Act::Purge { instance }]);
            acts.push(Act::Restart { instance });
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
        next.confirmed |= next.revoked.is_some() && next.instances.iter().all(|instance| instance.is_current);
        next.instances.sort_unstable(); // They differ only in their place.
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("bound", |model: &Self, fleet: &Fleet| !fleet.is_allowed(model, |_| true)),
            Property::always("receipt", |model: &Self, fleet: &Fleet| !fleet.is_allowed(model, |_| fleet.confirmed)),
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
        let (wall, Limits { life, leeway }) = (fleet.wall(instance), instance.limits);
        fleet.revoked.is_some_and(|(issued, _)| {
            let expires = issued + self.life;
            instance.standing != Standing::Nowhere
                && issued <= wall + leeway
                && wall < expires + leeway
                && self.life <= life
                && expires - wall <= life + leeway
        })
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
        instance.is_current && self.accepts(fleet, instance) && !is_expired && !self.refuses(fleet, instance)
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
            Act::Read { instance } => self.read(fleet, instance),
            Act::Purge { instance } => self.purge(fleet, instance)?,
            Act::Trim { by } => self.trim(fleet, by)?,
            Act::Restart { instance } => {
                spend(&mut fleet.left.restarts)?;
                let at = &mut fleet.instances[instance];
                *at = Instance { is_current: false, known: None, forgotten: 0, has_refused: false, ..*at };
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
                self.may_stand(fleet, instance, to).then_some(())?;
                fleet.instances[instance].standing = to;
            }
            Act::FarId => {
                spend(&mut fleet.left.far_ids)?;
                fleet.store.is_far = true;
            }
        }
        Some(())
    }

    /// Whether a configuration is put in force (`sources/names.rs`).
    fn may_stand(&self, fleet: &Fleet, at: usize, to: Standing) -> bool {
        let (instance, names) = (fleet.instances[at], to.names());
        let noted = if self.has(Fault::RenamesByTheLastStep) { instance.standing } else { Standing::Both };
        if to == Standing::Nowhere || noted.names() & !names == 0 || self.has(Fault::RenamesInSilence) {
            return true;
        }
        let is_lost = |written: u8| written & noted.names() != 0 && written & names == 0;
        let mut others = fleet.instances.iter().enumerate().filter(|(other, _)| *other != at);
        let in_use = others.any(|(_, other)| is_lost(other.standing.names()));
        let is_read = instance.is_current || self.has(Fault::RenamesUnread);
        is_read
            && !instance.known.is_some_and(|known| is_lost(known.names))
            && (!in_use || self.has(Fault::RenamesBesideOthers))
    }

    fn is_assumed(&self, fleet: &Fleet) -> bool {
        let all_right = fleet.instances.iter().all(|instance| instance.offset == 0);
        !self.one_is_right || fleet.store.offset == 0 || all_right
    }

    fn revoke(&self, fleet: &mut Fleet, by: usize, age: i8) -> Option<()> {
        let (issued, writer) = (fleet.issuer - age, fleet.instances[by]);
        (fleet.revoked.is_none() && writer.is_current && writer.standing != Standing::Nowhere).then_some(())?;
        let (local, store) = (fleet.wall(&writer), fleet.store_wall());
        let most = writer.limits.leeway.max(1);
        let seen = if self.lead_is_seen { fleet.issuer } else { 0 };
        let lead = if self.has(Fault::StampsWithoutLead) { 0 } else { seen.clamp(1, most) };
        let (at, expires) = if self.by_id {
            (None, issued + self.life + writer.limits.leeway)
        } else {
            let differ = (local - store).abs() > most;
            (!differ || self.has(Fault::StampsDespiteSkew)).then_some(())?;
            let latest = if self.has(Fault::StampsByOneClock) { local } else { local.max(store) };
            (Some(latest + lead), latest + lead + writer.limits.retention())
        };
        let entry = Entry { id: (!fleet.store.is_far).then_some(store), at, expires, names: writer.standing.names() };
        fleet.store.log = Some(entry);
        fleet.revoked = Some((issued, entry));
        for instance in &mut fleet.instances {
            instance.is_current = false;
        }
        self.read(fleet, by);
        Some(())
    }

    fn read(&self, fleet: &mut Fleet, at: usize) {
        let instance = fleet.instances[at];
        fleet.instances[at].is_current = true;
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

    fn purge(&self, fleet: &mut Fleet, at: usize) -> Option<()> {
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

    fn trim(&self, fleet: &mut Fleet, by: usize) -> Option<()> {
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
