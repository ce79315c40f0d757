//! The possible next steps, and their results.

use super::protocol::{Bug, Loss, Protocol};
use super::world::{INSTANCES, Instance, Kind, Lease, Left, Life, Phase, Promise, Read, Store, World};

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    Tick,
    /// An instance is asked to revoke: applied there at once, then written.
    Revoke {
        by: u8,
        token: u8,
        outcome: Outcome,
    },
    /// Another service writes to the store.
    Foreign {
        token: u8,
    },
    Confirm {
        token: u8,
    },
    Start {
        instance: u8,
        kind: Kind,
    },
    /// The store executes the read, or the next half of it.
    Serve {
        instance: u8,
    },
    /// The reply arrives and is taken in, or the next half of it.
    Take {
        instance: u8,
    },
    Break {
        instance: u8,
    },
    LateReply {
        instance: u8,
    },
    Cut {
        instance: u8,
    },
    Heal {
        instance: u8,
    },
    Pause {
        instance: u8,
    },
    Resume {
        instance: u8,
    },
    /// Killed and started again.
    Restart {
        instance: u8,
    },
    /// Its rules allow a view to be older than before, or less old.
    Reload {
        instance: u8,
    },
    PutBack {
        instance: u8,
    },
    /// The spare catches up.
    Copy,
    Lose {
        how: Loss,
        misled: u8,
    },
    /// The oldest entry has expired and is trimmed.
    Trim,
    /// The store is full, or has room again.
    Fill(bool),
    /// The store's wall clock is set forward: every lease ends.
    SetClock,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Outcome {
    /// 2xx.
    Written,
    /// Written, and the answer lost: 503.
    Unknown,
    Refused,
}

impl Protocol {
    /// All candidate steps; a step that does not apply has no result.
    pub fn steps(&self, world: &World, steps: &mut Vec<Step>) {
        if self.is_over(world) {
            return;
        }
        steps.push(Step::Tick);
        for token in 0..self.tokens {
            match world.promises[usize::from(token)] {
                Promise::None if world.left.writes > 0 => {
                    steps.push(Step::Foreign { token });
                    let writers = if self.narrow { 0 } else { self.instances };
                    for by in 0..writers {
                        steps.push(Step::Revoke { by, token, outcome: Outcome::Written });
                        if self.failing_writes {
                            steps.push(Step::Revoke { by, token, outcome: Outcome::Unknown });
                            steps.push(Step::Revoke { by, token, outcome: Outcome::Refused });
                        }
                    }
                }
                Promise::Written { confirmed: false, .. } => steps.push(Step::Confirm { token }),
                _ => {}
            }
        }
        for (instance, of) in (0..).zip(&world.instances[..usize::from(self.instances)]) {
            if of.life == Life::Paused {
                steps.push(Step::Resume { instance });
            } else {
                match of.read {
                    None if of.base.is_none() => steps.push(Step::Start { instance, kind: Kind::Replay }),
                    // Later checks on a connection only add to the reads of `Next`.
                    None if of.checked => steps.push(Step::Start { instance, kind: Kind::Next }),
                    None => steps.push(Step::Start { instance, kind: Kind::Check }),
                    Some(_) => steps.push(Step::Take { instance }),
                }
                steps.push(Step::PutBack { instance });
                if of.late.is_some() {
                    steps.push(Step::LateReply { instance });
                }
            }
            if of.read.is_some() {
                steps.push(Step::Serve { instance });
            }
            if !of.linked {
                steps.push(Step::Heal { instance });
            }
            if world.left.faults > 0 {
                steps.extend([Step::Break { instance }, Step::Cut { instance }]);
                if self.pauses {
                    steps.push(Step::Pause { instance });
                }
            }
            if world.left.restarts > 0 {
                steps.push(Step::Restart { instance });
            }
            if world.left.reloads > 0 {
                steps.push(Step::Reload { instance });
            }
        }
        if world.left.losses > 0 {
            for &how in self.losses {
                let misled = if matches!(how, Loss::Split | Loss::Demoted) { self.instances } else { 1 };
                steps.extend((0..misled).map(|misled| Step::Lose { how, misled }));
            }
            if !self.narrow {
                steps.push(Step::Copy);
            }
        }
        if !self.narrow {
            steps.push(Step::Trim);
        }
        if self.fills {
            steps.push(Step::Fill(!world.store.is_full));
        }
        if self.jumps && world.left.faults > 0 {
            steps.push(Step::SetClock);
        }
    }

    /// Only repeated reads of known entries can follow.
    fn is_over(&self, world: &World) -> bool {
        let Left { writes, faults: _, restarts, losses, reloads: _ } = world.left;
        let running = world.instances.iter().filter(|instance| instance.life != Life::Absent);
        let unknown = (0..).zip(&world.promises).any(|(token, promise)| {
            matches!(promise, Promise::Written { .. }) && running.clone().any(|instance| !instance.knows(token))
        });
        self.bug.is_none() && writes == 0 && restarts == 0 && losses == 0 && !unknown
    }

    /// The world after a step; `None` if it cannot happen, or is assumed not to.
    pub fn after(&self, world: &World, step: Step) -> Option<World> {
        let mut next = *world;
        self.apply(&mut next, step)?;
        for instance in &mut next.instances {
            if instance.life == Life::Running {
                instance.refused |= instance.view;
                if self.has(Bug::AgeAfterLookup) {
                    instance.missed |= !instance.view & ((1 << self.tokens) - 1);
                }
            }
        }
        if next.left.losses == 0 {
            next.spare = Store::new(); // No instance will use it.
        }
        next.sort();
        (next != *world && self.is_assumed(&next)).then_some(next)
    }

    fn apply(&self, world: &mut World, step: Step) -> Option<()> {
        match step {
            Step::Tick => self.tick(world)?,
            Step::Revoke { by, token, outcome } => self.revoke(world, by, token, outcome)?,
            Step::Foreign { token } => {
                spend(&mut world.left.writes)?;
                self.write(world, None, token)?;
            }
            Step::Confirm { token } => self.confirm(world, token)?,
            Step::Start { instance, kind } => {
                let instance = world.at(instance);
                let own = if kind == Kind::Replay { 0 } else { instance.own };
                let hold = self.staleness(instance);
                instance.leased = instance.leased.min(self.leased(hold)); // The lease may be in the store from now on.
                instance.read = Some(Read::sent(kind, own, hold));
            }
            Step::Serve { instance } => self.serve(world, instance)?,
            Step::Take { instance } => self.take(world, instance)?,
            Step::Break { instance } => {
                spend(&mut world.left.faults)?;
                let instance = world.at(instance);
                if self.late_replies {
                    instance.late = instance.read.filter(|read| read.phase == Phase::Served);
                }
                self.hang_up(instance);
            }
            Step::LateReply { instance } => {
                let instance = world.at(instance);
                let late = instance.late.take()?;
                if self.has(Bug::LateReplyIsTaken) && instance.base.is_some() {
                    let waiting = instance.read.as_mut()?;
                    *waiting = Read { age: waiting.age, ..late };
                }
            }
            Step::Cut { instance } => {
                spend(&mut world.left.faults)?;
                world.linked(instance)?.linked = false;
            }
            Step::Heal { instance } => world.at(instance).linked = true,
            Step::Pause { instance } => {
                spend(&mut world.left.faults)?;
                let instance = world.at(instance);
                if instance.life == Life::Paused {
                    return None;
                }
                instance.life = Life::Paused;
            }
            Step::Resume { instance } => world.at(instance).life = Life::Running,
            Step::Restart { instance } => {
                spend(&mut world.left.restarts)?;
                let Instance { linked, patient, .. } = *world.at(instance);
                *world.at(instance) = Instance { patient, linked, ..Instance::started(self.stale()) };
                for promise in &mut world.promises {
                    if let Promise::Written { by, .. } = promise {
                        *by = by.filter(|by| *by != instance); // No caller waits for the receipt any more.
                    }
                }
            }
            Step::Reload { instance } => {
                spend(&mut world.left.reloads)?;
                world.running(instance)?.patient ^= true;
            }
            Step::PutBack { instance } => self.put_back(world, instance)?,
            Step::Copy => world.spare = world.store,
            Step::Lose { how, misled } => self.lose(world, how, misled)?,
            Step::Trim => self.trim(world)?,
            Step::Fill(full) => {
                if full {
                    spend(&mut world.left.faults)?;
                }
                world.store.is_full = full;
            }
            Step::SetClock => {
                spend(&mut world.left.faults)?;
                world.store.even = 0;
                world.store.leases = [None; INSTANCES];
            }
        }
        Some(())
    }

    fn tick(&self, world: &mut World) -> Option<()> {
        if self.survivors && Self::someone_is_about_to_put_back(world) {
            return None;
        }
        let stale = self.stale();
        let older = |age: &mut u8| *age = (*age + 1).min(stale);
        for instance in &mut world.instances[..usize::from(self.instances)] {
            instance.missed = 0; // A decision does not take longer than Envoy waits for it.
            if instance.life == Life::Paused && self.has(Bug::ClockStops) {
                continue;
            }
            older(&mut instance.age);
            if self.more.is_some() {
                instance.leased = instance.leased.saturating_sub(1);
            }
            for read in [&mut instance.read, &mut instance.late].into_iter().flatten() {
                older(&mut read.age);
            }
        }
        for store in [&mut world.store, &mut world.spare].into_iter().chain(&mut world.isolated) {
            older(&mut store.founded);
            older(&mut store.since);
            older(&mut store.even);
            for lease in &mut store.leases {
                if let Some(lease) = lease {
                    older(&mut lease.age);
                }
                let late = u8::from(!self.has(Bug::ShortLease));
                *lease = lease.filter(|lease| lease.age < lease.hold + late);
            }
        }
        for promise in &mut world.promises {
            if let Promise::Written { age, .. } = promise {
                older(age);
            }
        }
        Some(())
    }

    fn revoke(&self, world: &mut World, by: u8, token: u8, outcome: Outcome) -> Option<()> {
        spend(&mut world.left.writes)?;
        let instance = world.running(by)?;
        instance.view |= 1 << token;
        if outcome == Outcome::Refused {
            return Some(());
        }
        world.linked(by)?;
        if outcome == Outcome::Unknown || world.at(by).misled {
            if world.at(by).misled && self.wait && outcome == Outcome::Written {
                return None;
            }
            let (id, promised) = (self.next_id(world, by)?, outcome == Outcome::Written);
            let server = world.server(by);
            server.add(id, token);
            let epoch = server.epoch;
            if promised {
                let written = Promise::Written { age: 0, epoch, id, by: Some(by), confirmed: false };
                world.promises[usize::from(token)] = written;
            }
            return Some(());
        }
        self.write(world, Some(by), token)?;
        world.at(by).own |= 1 << token;
        Some(())
    }

    /// Written by the primary and, with WAIT, by its spare.
    fn write(&self, world: &mut World, by: Option<u8>, token: u8) -> Option<()> {
        let id = self.next_id(world, by.unwrap_or_default())?;
        world.store.add(id, token);
        let epoch = world.store.epoch;
        if self.wait {
            world.spare = world.store;
        }
        world.promises[usize::from(token)] = Promise::Written { age: 0, epoch, id, by, confirmed: false };
        Some(())
    }

    pub fn next_id(&self, world: &mut World, by: u8) -> Option<u8> {
        let misled = world.at(by).misled;
        let server = if misled { world.isolated.as_ref()? } else { &world.store };
        if server.takes_no_more() {
            return None;
        }
        let id = if self.ids_grow { world.newest.0 + 1 } else { server.last + 1 };
        world.newest.0 = world.newest.0.max(id);
        Some(id)
    }

    /// The receipt: every instance that may still serve has applied the revocation, or no instance without it can serve.
    fn confirm(&self, world: &mut World, token: u8) -> Option<()> {
        let Promise::Written { age, epoch, id, by: Some(by), confirmed } = &mut world.promises[usize::from(token)]
        else {
            return None;
        };
        let issuer = &world.instances[usize::from(*by)];
        let longest = if self.has(Bug::ReceiptByOwnLease) { self.staleness(issuer) } else { self.longest() };
        let all_stale = *age > self.longest();
        let reaches = issuer.linked && !issuer.misled;
        let store = &world.store;
        let all_are_listed = (store.since > longest || self.has(Bug::ReceiptTrustsYoungStore))
            && (store.even > longest || self.has(Bug::ReceiptTrustsTheClock));
        let applied = |lease: &Lease| {
            let cut_off = lease.age > 0 && self.has(Bug::ReceiptIgnoresCutOff);
            cut_off || (*id..=store.last).contains(&lease.applied)
        };
        let others = (0..).zip(&store.leases).filter(|(holder, _)| holder != by);
        let all_applied = reaches
            && store.epoch == *epoch
            && all_are_listed
            && others.filter_map(|(_, lease)| lease.as_ref()).all(applied);
        if issuer.life != Life::Running || !(all_stale || all_applied) {
            return None;
        }
        *confirmed = true;
        Some(())
    }
}

pub fn spend(left: &mut u8) -> Option<()> {
    *left = left.checked_sub(1)?;
    Some(())
}
