//! The faults of a fleet in the soak.

use std::time::Duration;

use tokio::time::sleep;

use super::soak::{Fleet, LIMITS};

/// One fault; `usize` is its instance, the others concern the store or all instances.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Cut(usize),
    Swallow(usize),
    Stall(usize),
    Refuse(usize),
    Delay(usize),
    StopInstance(usize),
    RestartInstance(usize),
    /// A temporarily wrong wall clock of an instance.
    StepInstance(usize, &'static str),
    /// An instance that is started with a wrong wall clock, which is corrected later.
    StartWrong(usize, &'static str),
    StepStore(&'static str),
    /// A rolling change of the instances' bounds.
    Reconfigure(usize),
    StopStore,
    KillStore,
    /// The replica becomes the primary; the old one becomes its replica.
    FailOver,
    Flush,
    DeleteLog,
    OutOfMemory,
}

const KINDS: usize = 17;
const OFFSETS: [&str; 6] = ["+1h", "-1h", "+20m", "-20m", "+10s", "-10s"];

/// Numbers that a seed repeats.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Less than `limit` (splitmix64).
    pub(super) fn roll(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

impl Fault {
    /// Every fault once, in an order of the dice.
    pub(super) fn round(dice: &mut Dice) -> Vec<Self> {
        let mut kinds: Vec<_> = (0..KINDS).collect();
        for at in (1..KINDS).rev() {
            kinds.swap(at, dice.roll(at + 1));
        }
        kinds.into_iter().map(|kind| Self::of_kind(kind, dice)).collect()
    }

    fn of_kind(kind: usize, dice: &mut Dice) -> Self {
        let (instance, offset) = (dice.roll(3), OFFSETS[dice.roll(OFFSETS.len())]);
        match kind {
            0 => Self::Cut(instance),
            1 => Self::Swallow(instance),
            2 => Self::Stall(instance),
            3 => Self::Refuse(instance),
            4 => Self::Delay(instance),
            5 => Self::StopInstance(instance),
            6 => Self::RestartInstance(instance),
            7 => Self::StepInstance(instance, offset),
            8 => Self::StartWrong(instance, offset),
            9 => Self::StepStore(offset),
            10 => Self::Reconfigure(dice.roll(LIMITS.len())),
            11 => Self::StopStore,
            12 => Self::KillStore,
            13 => Self::FailOver,
            14 => Self::Flush,
            15 => Self::DeleteLog,
            _ => Self::OutOfMemory,
        }
    }

    pub(super) fn befalls(self, instance: usize) -> bool {
        match self {
            Self::Cut(befallen)
            | Self::Swallow(befallen)
            | Self::Stall(befallen)
            | Self::Refuse(befallen)
            | Self::Delay(befallen)
            | Self::StopInstance(befallen)
            | Self::RestartInstance(befallen)
            | Self::StepInstance(befallen, _)
            | Self::StartWrong(befallen, _) => befallen == instance,
            Self::StepStore(_)
            | Self::Reconfigure(_)
            | Self::StopStore
            | Self::KillStore
            | Self::FailOver
            | Self::Flush
            | Self::DeleteLog
            | Self::OutOfMemory => true,
        }
    }

    /// Does it, and undoes it.
    pub(super) async fn happen(self, fleet: &Fleet) {
        let (longer, brief) = (Duration::from_secs(5), Duration::from_secs(1));
        match self {
            Self::Cut(at) => fleet.proxies[at].cut(),
            Self::Swallow(at) => fleet.proxies[at].swallow(),
            Self::Stall(at) => {
                fleet.proxies[at].stall();
                sleep(longer).await;
                fleet.proxies[at].heal();
            }
            Self::Refuse(at) => {
                fleet.proxies[at].refuse();
                sleep(longer).await;
                fleet.proxies[at].heal();
            }
            Self::Delay(at) => {
                fleet.proxies[at].delay(Duration::from_millis(60));
                sleep(longer).await;
                fleet.proxies[at].heal();
            }
            Self::StopInstance(at) => {
                fleet.instances[at].read().await.doorward.process.signal("STOP");
                sleep(longer).await;
                fleet.instances[at].read().await.doorward.process.signal("CONT");
            }
            Self::RestartInstance(at) => fleet.restart(at).await,
            Self::StepInstance(at, offset) => {
                fleet.clocks[at].step(offset);
                sleep(longer).await;
                fleet.clocks[at].step("+0");
            }
            Self::StartWrong(at, offset) => {
                fleet.clocks[at].step(offset);
                fleet.restart(at).await;
                sleep(brief).await;
                fleet.clocks[at].step("+0");
            }
            Self::StepStore(offset) => {
                fleet.step_store(offset).await;
                sleep(longer).await;
                fleet.step_store("+0").await;
            }
            Self::Reconfigure(limits) => {
                for at in 0..fleet.instances.len() {
                    fleet.reconfigure(at, limits).await;
                    sleep(brief).await;
                }
            }
            Self::StopStore => {
                fleet.redis.lock().await[0].signal("-STOP");
                sleep(longer).await;
                fleet.redis.lock().await[0].signal("-CONT");
            }
            Self::KillStore => {
                let redis = &mut fleet.redis.lock().await[0];
                redis.kill();
                sleep(brief).await;
                redis.run().await;
            }
            Self::FailOver => fleet.fail_over().await,
            Self::Flush => {
                fleet.redis.lock().await[0].cli(&["FLUSHALL"]);
            }
            Self::DeleteLog => {
                fleet.redis.lock().await[0].cli(&["DEL", "doorward:{r}:log"]);
            }
            Self::OutOfMemory => {
                fleet.redis.lock().await[0].cli(&["CONFIG", "SET", "maxmemory", "1"]);
                sleep(longer).await;
                fleet.redis.lock().await[0].cli(&["CONFIG", "SET", "maxmemory", "0"]);
            }
        }
    }
}
