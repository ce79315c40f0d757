//! The protocol of the replica, explored by machine; `README.md` beside this file has the argument.
#![cfg(test)]

mod clocks;
mod forgetting;
mod losses;
mod protocol;
mod reads;
mod regions;
mod steps;
mod world;

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Instant;

use protocol::{Bug, Loss, Protocol};
use stateright::{Checker, HasDiscoveries, Model, Path, Property};
use steps::Step;
use world::{Left, World};

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![self.start()]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        self.steps(world, steps);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        self.after(world, step)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("bound", Self::bound_holds),
            Property::always("receipt", Self::receipts_hold),
            Property::always("kept", |_, world| Self::nothing_is_taken_back(world)),
        ]
    }
}

/// One store without losses, behind an arbitrary network.
fn network() -> Protocol {
    Protocol {
        instances: 2,
        tokens: 1,
        max_staleness: 1,
        more: None,
        differ: false,
        page: u8::MAX,
        left: Left { writes: 1, faults: 1, restarts: 0, losses: 0, reloads: 0 },
        losses: &[],
        fine: false,
        late_replies: false,
        pauses: true,
        failing_writes: false,
        wait: false,
        fills: false,
        jumps: false,
        narrow: false,
        survivors: false,
        ids_grow: true,
        history: 0,
        bug: None,
    }
}

/// A store that loses its content once; survivors write it back. Instances may be arbitrarily slow,
/// which looks like a cut-off from outside.
fn loss(losses: &'static [Loss]) -> Protocol {
    let left = Left { writes: 1, faults: 0, restarts: 0, losses: 1, reloads: 0 };
    Protocol { left, losses, pauses: false, survivors: true, ..network() }
}

fn restarting(mut protocol: Protocol) -> Protocol {
    protocol.left.restarts = 1;
    protocol
}

/// The `max_staleness` of one instance is longer.
fn differing(protocol: Protocol) -> Protocol {
    Protocol { more: Some(1), differ: true, ..protocol }
}

/// Reloads make it longer, and shorter.
fn reloading(mut protocol: Protocol, reloads: u8) -> Protocol {
    protocol.left.reloads = reloads;
    Protocol { more: Some(1), ..protocol }
}

/// Two tokens, and a bound of no tick at all, to reach as far with more states.
fn two_tokens(mut protocol: Protocol) -> Protocol {
    protocol.max_staleness = 0;
    protocol.tokens = 2;
    protocol.left.writes = 2;
    protocol
}

const ALL: &[Loss] = &[Loss::Flush, Loss::Empty, Loss::Older, Loss::Restart];

/// How much deeper than usual to look.
fn deeper() -> usize {
    std::env::var("DOORWARD_MODEL_DEEPER").map_or(0, |more| more.parse().expect("a number of steps"))
}

/// Breadth first, up to the depth.
fn explore<M>(
    name: &str,
    model: M,
    depth: usize,
    until: HasDiscoveries,
) -> HashMap<&'static str, Path<M::State, M::Action>>
where
    M: Model<State: Clone + Debug + Eq + Hash + Send + Sync, Action: Clone + Debug + PartialEq> + Send + Sync + 'static,
{
    let began = Instant::now();
    let checker = model.checker().threads(2).finish_when(until);
    let checker = checker.target_max_depth(depth.saturating_add(deeper())).spawn_bfs().join();
    let (states, deepest) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states to depth {deepest} in {:?}", began.elapsed());
    checker.discoveries()
}

#[track_caller]
fn holds(name: &str, protocol: Protocol, depth: usize) {
    if let Some((property, path)) = explore(name, protocol, depth, HasDiscoveries::AnyFailures).into_iter().next() {
        panic!("{name}: {property} fails: {:#?}", path.into_actions());
    }
}

#[track_caller]
fn fails(name: &str, protocol: Protocol, property: &'static str) {
    let mut found = explore(name, protocol, usize::MAX, HasDiscoveries::AnyOf([property].into()));
    let path = found.remove(property).unwrap_or_else(|| panic!("{name}: {property} holds"));
    println!("  {property}: {:?}", path.into_actions());
}

#[test]
fn it_holds_over_a_faulty_network() {
    let quiet = Left { faults: 0, ..network().left };
    holds("network, step by step", Protocol { left: quiet, fine: true, failing_writes: true, ..network() }, 30);
    holds("network", network(), 12);
    holds("network, late replies", Protocol { late_replies: true, pauses: false, ..network() }, 11);
    holds("network, three instances", Protocol { instances: 3, ..network() }, 8);
    holds("network, a full store", Protocol { fills: true, ..network() }, 10);
    holds("network, a store whose clock jumps", Protocol { jumps: true, pauses: false, ..network() }, 11);
    holds("network, restarts", restarting(Protocol { left: quiet, ..network() }), 12);
}

#[test]
fn it_holds_over_losses_of_the_store() {
    for how in [&[Loss::Flush][..], &[Loss::Empty], &[Loss::Older], &[Loss::Restart], &[Loss::Demoted]] {
        holds(&format!("{how:?}"), loss(how), 10);
        // To the end: what takes many steps, with the fewest ways to take them.
        holds(&format!("{how:?}, narrow"), Protocol { narrow: true, ..loss(how) }, usize::MAX);
    }
    for how in [&[Loss::Flush][..], &[Loss::Empty]] {
        let anew = Protocol { ids_grow: false, history: 2, ..loss(how) };
        holds(&format!("{how:?}, ids begin anew"), anew, 10);
    }
    holds("losses, a restart", restarting(loss(ALL)), 9);
    holds("losses, two tokens", two_tokens(loss(ALL)), 8);
    let faulty = Left { faults: 1, ..loss(ALL).left };
    holds("losses, faults", Protocol { left: faulty, ..loss(ALL) }, 8);
    let waiting = Protocol { wait: true, survivors: false, ..loss(&[Loss::Older]) };
    holds("failover with WAIT, no survivors", waiting, 11);
}

#[test]
fn it_holds_with_bounds_of_freshness_that_differ_and_change() {
    let quiet = Left { faults: 0, ..network().left };
    holds("bounds that differ", differing(network()), 9);
    holds("bounds that differ, step by step", differing(Protocol { left: quiet, fine: true, ..network() }), 14);
    holds("bounds that differ, a clock jumps", differing(Protocol { jumps: true, pauses: false, ..network() }), 9);
    for how in [&[Loss::Flush][..], &[Loss::Older]] {
        holds(&format!("bounds that differ, {how:?}"), differing(Protocol { max_staleness: 0, ..loss(how) }), 9);
    }
    holds("bounds that change", reloading(Protocol { left: quiet, ..network() }, 3), 11);
    holds("bounds that change, restarts", restarting(reloading(Protocol { left: quiet, ..network() }, 2)), 9);
    holds("bounds that change, a flush", reloading(Protocol { max_staleness: 0, ..loss(&[Loss::Flush]) }, 1), 9);
}

#[test]
fn each_assumption_is_needed() {
    let alone = |how| Protocol { survivors: false, max_staleness: 0, ..loss(how) };
    fails("no survivors", alone(&[Loss::Flush]), "bound");
    fails("failover without WAIT, no survivors", alone(&[Loss::Older]), "bound");
    fails("an isolated primary", loss(&[Loss::Split]), "bound");
    fails(
        "ids given out twice",
        Protocol { ids_grow: false, narrow: true, ..two_tokens(loss(&[Loss::Older])) },
        "bound",
    );
}

#[test]
fn each_deliberate_bug_is_caught() {
    let quiet = || Protocol { left: Left { faults: 0, ..network().left }, ..network() };
    let flush = || Protocol { max_staleness: 0, ..loss(&[Loss::Flush]) };
    let older = || Protocol { max_staleness: 0, ..loss(&[Loss::Older]) };
    for (bug, protocol, property) in [
        (Bug::FreshAsOfTheEnd, quiet(), "bound"),
        (Bug::PublishedBeforeApplied, quiet(), "bound"),
        (Bug::PartialPageIsFresh, Protocol { page: 1, ..two_tokens(quiet()) }, "bound"),
        (Bug::LateReplyIsTaken, Protocol { late_replies: true, narrow: true, pauses: false, ..network() }, "bound"),
        (Bug::AgeAfterLookup, quiet(), "bound"),
        (Bug::ClockStops, network(), "bound"),
        (Bug::NoGapRule, flush(), "bound"),
        (Bug::NextWithoutEpoch, flush(), "bound"),
        (Bug::NoCount, Protocol { narrow: true, ..two_tokens(older()) }, "bound"),
        (Bug::Replace, flush(), "kept"),
        (Bug::NothingPutBack, flush(), "bound"),
        (Bug::NoSettling, flush(), "bound"),
        (Bug::SettledByEpoch, older(), "bound"),
        (Bug::SettledAfterRead, Protocol { narrow: true, ..loss(&[Loss::Flush]) }, "bound"),
        (Bug::SettledForGood, older(), "bound"),
        (Bug::OwnWritesForgotten, older(), "bound"),
        (Bug::RoleNotAsked, loss(&[Loss::Demoted]), "bound"),
        (Bug::NoLeaseWhenFull, Protocol { fills: true, pauses: false, ..network() }, "receipt"),
        (Bug::ReceiptIgnoresCutOff, quiet(), "receipt"),
        (Bug::ReceiptTrustsYoungStore, loss(&[Loss::Older]), "receipt"),
        (Bug::ReceiptTrustsTheClock, Protocol { jumps: true, pauses: false, ..network() }, "receipt"),
        (Bug::LeaseAfterRead, restarting(quiet()), "receipt"),
        (Bug::ShortLease, quiet(), "receipt"),
        (Bug::ReceiptByOwnLease, differing(flush()), "receipt"),
        (Bug::ReceiptByOwnLease, differing(Protocol { jumps: true, pauses: false, ..network() }), "receipt"),
        (Bug::ReloadOutlivesLease, reloading(quiet(), 1), "receipt"),
        (Bug::PositionOutlivesLog, Protocol { ids_grow: false, history: 1, ..flush() }, "receipt"),
    ] {
        fails(&format!("{bug:?}"), Protocol { bug: Some(bug), ..protocol }, property);
    }
}
