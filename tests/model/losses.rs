//! The losses of a store, and its return.

use super::protocol::{Bug, Loss, Protocol};
use super::steps::spend;
use super::world::{Instance, Promise, Store, World};

impl Protocol {
    pub fn lose(&self, world: &mut World, how: Loss, misled: u8) -> Option<()> {
        spend(&mut world.left.losses)?;
        let old = world.store;
        world.store = match how {
            Loss::Restart => Store { since: 0, ..old },
            Loss::Flush | Loss::Empty => Store::new(),
            Loss::Older | Loss::Split | Loss::Demoted => Store { since: 0, ..world.spare },
        };
        let goes_on = matches!(how, Loss::Split | Loss::Demoted);
        if goes_on {
            world.isolated = Some(Store { is_primary: how == Loss::Split, ..old });
        }
        for (at, instance) in (0..).zip(&mut world.instances[..usize::from(self.instances)]) {
            instance.unaware = true;
            if goes_on && at == misled {
                instance.misled = true;
            } else if how != Loss::Flush {
                self.hang_up(instance);
            }
        }
        Some(())
    }

    pub fn hang_up(&self, instance: &mut Instance) {
        let settled = instance.settled;
        instance.hang_up();
        instance.settled = settled && self.has(Bug::SettledForGood);
    }

    pub fn trim(&self, world: &mut World) -> Option<()> {
        let head = world.store.log[0]?;
        let promise = &mut world.promises[usize::from(head.token)];
        if !matches!(promise, Promise::Written { age, .. } if *age == self.stale()) {
            return None;
        }
        *promise = Promise::Over;
        world.store.trim_head();
        for instance in &mut world.instances {
            instance.view &= !(1 << head.token); // Expired: nothing is left to refuse.
            instance.refused &= !(1 << head.token);
            instance.own &= !(1 << head.token);
            for read in instance.read.iter_mut().chain(&mut instance.late) {
                read.own &= !(1 << head.token);
                read.tokens &= !(1 << head.token);
            }
        }
        Some(())
    }

    /// The promised entries that the store lost.
    fn missing(world: &World) -> impl Iterator<Item = u8> {
        let stored = world.store.tokens();
        (0..).zip(&world.promises).filter_map(move |(token, promise)| {
            (matches!(promise, Promise::Written { .. }) && stored & 1 << token == 0).then_some(token)
        })
    }

    /// A survivor that has yet to look, or to put back, does so before the tick ends.
    pub fn someone_is_about_to_put_back(world: &World) -> bool {
        Self::missing(world).any(|token| {
            world.instances.iter().any(|instance| {
                instance.is_connected() && instance.knows(token) && (instance.unaware || instance.loss.is_some())
            })
        })
    }

    pub fn is_assumed(&self, world: &World) -> bool {
        !self.survivors
            || Self::missing(world)
                .all(|token| world.instances.iter().any(|instance| instance.is_connected() && instance.knows(token)))
    }

    pub fn put_back(&self, world: &mut World, at: u8) -> Option<()> {
        let instance = world.linked(at)?;
        let seen = instance.loss.filter(|_| instance.base.is_some())?;
        instance.loss = None;
        let missing = instance.view & !seen;
        let stored = world.server(at).tokens();
        for token in (0..self.tokens).filter(|token| missing & !stored & 1 << token != 0) {
            if self.has(Bug::NothingPutBack) {
                break;
            }
            let id = self.next_id(world, at)?;
            world.server(at).add(id, token);
        }
        Some(())
    }
}
