//! The protocol of the replica, explored by machine; `model/README.md` has the argument.

mod protocol;
mod reads;
mod steps;
mod world;

use protocol::{Bug, Loss, Protocol};
use stateright::{Checker, HasDiscoveries, Model, Property};
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
            Property::always("kept", Self::nothing_is_taken_back),
        ]
    }
}

fn network() -> Protocol {
    Protocol {
        instances: 2,
        tokens: 1,
        max_staleness: 1,
        page: u8::MAX,
        left: Left { writes: 1, faults: 2, restarts: 0, losses: 0 },
        losses: &[],
        fine: true,
        late_replies: true,
        pauses: true,
        wait: false,
        survivors: false,
        ids_grow: true,
        bug: None,
    }
}

fn explore(name: &str, protocol: Protocol) -> Option<Vec<Step>> {
    let began = std::time::Instant::now();
    let checker =
        protocol.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    println!(
        "{name}: {} states, {} steps, depth {}, {:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    let found = checker.discoveries().into_iter().next()?;
    let steps = found.1.into_actions();
    println!("  {}: {steps:?}", found.0);
    Some(steps)
}

#[test]
fn network_faults() {
    assert_eq!(explore("network", network()), None);
}
