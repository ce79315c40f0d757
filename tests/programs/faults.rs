//! What befalls a fleet in the soak.

use std::time::Duration;

use tokio::time::sleep;

use super::soak::Fleet;

/// One fault; `usize` is the instance that it befalls, the others befall the store.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Cut(usize),
    Swallow(usize),
    Stall(usize),
    Refuse(usize),
    Delay(usize),
    StopInstance(usize),
    RestartInstance(usize),
    StopStore,
    KillStore,
    Flush,
    DeleteLog,
    OutOfMemory,
}

impl Fault {
    pub(super) fn nth(n: usize) -> Self {
        let instance = n / 12 % 3;
        match n % 12 {
            0 => Self::Cut(instance),
            1 => Self::KillStore,
            2 => Self::Stall(instance),
            3 => Self::Flush,
            4 => Self::RestartInstance(instance),
            5 => Self::Swallow(instance),
            6 => Self::StopStore,
            7 => Self::StopInstance(instance),
            8 => Self::DeleteLog,
            9 => Self::Refuse(instance),
            10 => Self::OutOfMemory,
            _ => Self::Delay(instance),
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
            | Self::RestartInstance(befallen) => befallen == instance,
            Self::StopStore | Self::KillStore | Self::Flush | Self::DeleteLog | Self::OutOfMemory => true,
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
            Self::StopStore => {
                fleet.redis.lock().await.signal("-STOP");
                sleep(longer).await;
                fleet.redis.lock().await.signal("-CONT");
            }
            Self::KillStore => {
                let mut redis = fleet.redis.lock().await;
                redis.kill();
                sleep(brief).await;
                redis.run().await;
            }
            Self::Flush => {
                fleet.redis.lock().await.cli(&["FLUSHALL"]);
            }
            Self::DeleteLog => {
                fleet.redis.lock().await.cli(&["DEL", "doorward:{r}:log"]);
            }
            Self::OutOfMemory => {
                fleet.redis.lock().await.cli(&["CONFIG", "SET", "maxmemory", "1"]);
                sleep(longer).await;
                fleet.redis.lock().await.cli(&["CONFIG", "SET", "maxmemory", "0"]);
            }
        }
    }
}
