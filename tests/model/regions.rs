//! The relay between regions (`src/sources/relay`): two stores, or three in a ring, and a relay in each direction.
//!
//! A step of a relay is one exchange with one store, so everything may happen between two of them: writes of others,
//! losses, and the end of the process. A region that is cut off is a relay that takes no step.

use stateright::{HasDiscoveries, Model, Property};

use super::explore;

const REGIONS: usize = 3;
/// Room in a log.
const LOG: usize = 8;
/// What a service says of one target: of two entries neither covers the other, such as a later instant and a later end.
const SAYINGS: [u8; 2] = [1, 2];
/// An entry that says both.
const ALL: u8 = 3;
/// In an entry, beside what it says: a relay has written it.
const COPY: u8 = 1 << 4;
/// In an entry, beside what it says: its time of writing lies ahead of other regions' clocks. By that, instances of its own
/// region make of it that it has the later end, too.
const AHEAD: u8 = 1 << 5;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Store {
    epoch: u8,
    log: [u8; LOG],
    length: usize,
    /// What the key of the target says.
    key: u8,
    flushed: bool,
    /// What services of the region wrote.
    written: u8,
}

/// What a relay knows, in the memory of its process.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Relay {
    /// 0: the other log is to be read from its start.
    to_epoch: u8,
    to_read: usize,
    /// What the other log says.
    has: u8,
    /// One entry there says all of it.
    is_said: bool,
    /// 0: this log is to be read from its start.
    from_epoch: u8,
    from_read: usize,
    /// An entry that the other log may lack.
    page: Option<u8>,
    /// The other log was read to its end after that entry was read.
    compared: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct World {
    stores: [Store; REGIONS],
    relays: [Relay; REGIONS],
    flushes: u8,
    crashes: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Step {
    Write { region: usize, saying: u8 },
    ReadTarget { relay: usize },
    ReadSource { relay: usize },
    Append { relay: usize },
    Crash { relay: usize },
    Flush { region: usize },
}

/// Deliberate mistakes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Bug {
    /// After a flush of the other store the relay goes on where it was.
    ForgetsToReadAgain,
    /// The key of the target gets what each copy says.
    OverwritesTheLater,
    /// Entries are compared with what was known of the other log when they were read.
    ComparesWithAnOldView,
    /// Entries are not compared: their ids differ.
    ComparesIds,
    /// Of entries that do not cover each other, the last alone is remembered, and each is copied as it is.
    RemembersTheLast,
    /// What two entries say together counts as said.
    CountsTheSum,
    /// A copy has the time of writing, and not the end that follows from it.
    CopiesTheTimeOfWriting,
}

#[derive(Clone)]
struct Regions {
    /// Two regions with a relay each way, or three in a ring: the relay of a region appends to the next one.
    count: usize,
    flushes: u8,
    crashes: u8,
    /// The first saying is written with a time that lies ahead.
    is_ahead: bool,
    bug: Option<Bug>,
}

impl Regions {
    fn next(&self, region: usize) -> usize {
        (region + 1) % self.count
    }

    fn apply(&self, world: &mut World, step: Step) -> Option<()> {
        match step {
            Step::Write { region, saying } => {
                let store = &mut world.stores[region];
                store.written |= saying;
                let entry = if self.is_ahead && saying == SAYINGS[0] { saying | AHEAD } else { saying };
                store.add(entry)?;
                store.key |= meaning(entry); // The contract of every writer.
            }
            Step::ReadTarget { relay } => self.read_target(&mut world.relays[relay], world.stores[self.next(relay)]),
            Step::ReadSource { relay } => self.read_source(&mut world.relays[relay], world.stores[relay])?,
            Step::Append { relay } => {
                let (of, store) = (&mut world.relays[relay], &mut world.stores[self.next(relay)]);
                let entry = of.page.take()?;
                let saying = assumed(entry);
                if !of.compared && self.bug != Some(Bug::ComparesWithAnOldView) {
                    return None;
                }
                if self.lacks(of, saying) {
                    let is_alone = matches!(self.bug, Some(Bug::RemembersTheLast | Bug::ComparesIds));
                    let copy = match self.bug {
                        Some(Bug::CopiesTheTimeOfWriting) => entry | of.has,
                        _ if is_alone => saying,
                        _ => saying | of.has,
                    };
                    store.add(copy | COPY)?;
                    let said = meaning(copy | COPY);
                    store.key = if self.bug == Some(Bug::OverwritesTheLater) { said } else { store.key | said };
                    self.note(of, assumed(copy));
                }
            }
            Step::Crash { relay } => {
                world.crashes = world.crashes.checked_sub(1)?;
                world.relays[relay] = Relay::default();
            }
            Step::Flush { region } => {
                world.flushes = world.flushes.checked_sub(1)?;
                let Store { epoch, written, .. } = world.stores[region];
                world.stores[region] = Store { epoch: epoch + 1, written, flushed: true, ..Store::new() };
            }
        }
        Some(())
    }

    fn read_target(&self, of: &mut Relay, store: Store) {
        if of.to_epoch != store.epoch {
            if of.to_epoch != 0 && self.bug == Some(Bug::ForgetsToReadAgain) {
                of.to_read = store.length;
            } else {
                *of = Relay::default();
            }
            of.to_epoch = store.epoch;
        }
        store.log[of.to_read..store.length].iter().for_each(|entry| self.note(of, assumed(*entry)));
        of.to_read = store.length;
        of.compared = of.page.is_some();
    }

    fn read_source(&self, of: &mut Relay, store: Store) -> Option<()> {
        if of.to_epoch == 0 || of.page.is_some() {
            return None;
        }
        if of.from_epoch != store.epoch {
            (of.from_epoch, of.from_read) = (store.epoch, 0);
        }
        if let Some(entry) = store.log[..store.length].get(of.from_read).map(|entry| entry & !COPY) {
            of.from_read += 1;
            (of.page, of.compared) = (self.lacks(of, assumed(entry)).then_some(entry), false);
        }
        Some(())
    }

    /// Records an entry of the other log.
    fn note(&self, of: &mut Relay, saying: u8) {
        let before = if self.bug == Some(Bug::RemembersTheLast) { 0 } else { of.has };
        of.is_said = saying | before == saying || of.is_said && saying | before == before;
        of.has = saying | before;
    }

    /// Whether no entry of the other log says as much.
    fn lacks(&self, of: &Relay, saying: u8) -> bool {
        let is_said = of.is_said || self.bug == Some(Bug::CountsTheSum);
        !is_said || saying | of.has != of.has || self.bug == Some(Bug::ComparesIds)
    }

    /// Whether each relay takes everything to be copied.
    fn is_quiet(&self, world: &World) -> bool {
        (0..self.count).all(|at| {
            let (of, from, to) = (world.relays[at], world.stores[at], world.stores[self.next(at)]);
            of.page.is_none()
                && (of.to_epoch, of.to_read) == (to.epoch, to.length)
                && (of.from_epoch, of.from_read) == (from.epoch, from.length)
        })
    }

    /// When nothing is left to copy, one entry in every region says all.
    fn is_complete(&self, world: &World) -> bool {
        let stores = &world.stores[..self.count];
        let all = stores.iter().flat_map(Store::entries).fold(0, |all, saying| all | saying);
        !self.is_quiet(world) || stores.iter().all(|store| all == 0 || store.entries().any(|saying| saying == all))
    }

    /// A log has an entry by a relay once at most, and none that says what came from its own region alone, unless it lost
    /// that, or had it in two.
    fn settles(&self, world: &World) -> bool {
        (0..self.count).all(|at| {
            let store = world.stores[at];
            let elsewhere =
                (0..self.count).filter(|other| *other != at).fold(0, |all, other| all | world.stores[other].written);
            (1..=ALL).all(|saying| {
                let is_copy = |entry: &u8| usize::from(*entry == saying | COPY);
                let copies: usize = store.log[..store.length].iter().map(is_copy).sum();
                let is_foreign = store.flushed || elsewhere & saying != 0 || saying == ALL;
                copies <= usize::from(is_foreign)
            })
        })
    }

    /// A key says what the log says.
    fn is_later(world: &World) -> bool {
        world.stores.iter().all(|store| store.entries().all(|saying| saying | store.key == store.key))
    }
}

impl Store {
    fn new() -> Self {
        Self { epoch: 1, log: [0; LOG], length: 0, key: 0, flushed: false, written: 0 }
    }

    fn add(&mut self, entry: u8) -> Option<()> {
        *self.log.get_mut(self.length)? = entry;
        self.length += 1;
        Some(())
    }

    fn entries(&self) -> impl Iterator<Item = u8> {
        self.log[..self.length].iter().map(|entry| meaning(*entry))
    }
}

/// What instances of the region make of an entry.
fn meaning(entry: u8) -> u8 {
    if entry & COPY == 0 { assumed(entry) } else { entry & ALL }
}

/// What a relay reads in an entry.
fn assumed(entry: u8) -> u8 {
    if entry & AHEAD == 0 { entry & ALL } else { ALL }
}

impl Model for Regions {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let (flushes, crashes) = (self.flushes, self.crashes);
        vec![World { stores: [Store::new(); REGIONS], relays: [Relay::default(); REGIONS], flushes, crashes }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        for at in 0..self.count {
            let unwritten = SAYINGS.into_iter().filter(|saying| world.stores[at].written & saying == 0);
            steps.extend(unwritten.map(|saying| Step::Write { region: at, saying }));
            let relay = at;
            steps.extend([Step::ReadTarget { relay }, Step::ReadSource { relay }, Step::Append { relay }]);
            steps.extend([Step::Crash { relay }, Step::Flush { region: at }]);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        self.apply(&mut next, step)?;
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("complete", Self::is_complete),
            Property::always("settles", Self::settles),
            Property::always("later", |_, world| Self::is_later(world)),
            Property::sometimes("copied", |model: &Self, world: &World| {
                let log = &world.stores[0].log[..world.stores[0].length];
                model.is_quiet(world) && log.contains(&(SAYINGS[1] | COPY))
            }),
        ]
    }
}

const PAIR: Regions = Regions { count: 2, flushes: 1, crashes: 1, is_ahead: false, bug: None };

#[track_caller]
fn holds(name: &str, model: Regions, depth: usize) {
    let mut found = explore(name, model, depth, HasDiscoveries::AnyFailures);
    assert!(found.remove("copied").is_some(), "{name}: nothing is ever copied");
    if let Some((property, path)) = found.into_iter().next() {
        panic!("{name}: {property} fails: {:#?}", path.into_actions());
    }
}

#[test]
fn regions_come_to_have_the_same() {
    holds("regions, to the end", Regions { crashes: 0, ..PAIR }, usize::MAX);
    holds("regions, a crash", PAIR, 16);
    holds("regions, flushes on both sides", Regions { flushes: 2, crashes: 0, ..PAIR }, 16);
    holds("regions, a time ahead", Regions { is_ahead: true, crashes: 0, ..PAIR }, usize::MAX);
    holds("regions in a ring, a time ahead", Regions { count: 3, flushes: 0, crashes: 0, is_ahead: true, ..PAIR }, 13);
    holds("regions in a ring", Regions { count: 3, flushes: 0, crashes: 0, ..PAIR }, 13);
}

#[test]
fn each_mistake_of_a_relay_is_caught() {
    for (bug, property) in [
        (Bug::ForgetsToReadAgain, "complete"),
        (Bug::OverwritesTheLater, "later"),
        (Bug::ComparesWithAnOldView, "settles"),
        (Bug::ComparesIds, "settles"),
        (Bug::RemembersTheLast, "settles"),
        (Bug::CountsTheSum, "complete"),
        (Bug::CopiesTheTimeOfWriting, "complete"),
    ] {
        let model = Regions { is_ahead: bug == Bug::CopiesTheTimeOfWriting, bug: Some(bug), ..PAIR };
        let found = explore(&format!("{bug:?}"), model, usize::MAX, HasDiscoveries::AnyOf([property].into()));
        assert!(found.contains_key(property), "{bug:?}: {property} holds");
    }
}
