//! Threads for connections: a connection and all its requests stay on the thread that accepted it.
//!
//! Envoy opens one connection per worker of its own, and keeps it. With tasks that any thread may take over
//! (tokio's multi-thread runtime) the threads wake each other for every request and share the connection's locks:
//! on 2 cores a decision took 14.7 µs of CPU with 64 at once and 17.7 with 8, and takes 8.7 and 11.8 since
//! (`benches/compare.sh`). A decision takes microseconds, so there is no load to balance.

use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A worker thread for each core; the threads end when this value is dropped.
pub(crate) struct Workers {
    workers: Vec<Worker>,
    _stop: DropGuard,
}

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Workers {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let count = std::thread::available_parallelism().map_or(1, NonZero::get);
        let workers: io::Result<_> = (0..count).map(|number| start(number, stop.clone())).collect();
        let workers = workers.context("start the threads for connections")?;
        Ok(Self { workers, _stop: stop.drop_guard() })
    }

    /// The thread with the fewest connections, where one more is counted until the place is dropped.
    pub(super) fn place(&self) -> (Handle, Option<Place>) {
        let fewest = self.workers.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        match fewest {
            Some(worker) => {
                worker.connections.fetch_add(1, Ordering::Relaxed);
                (worker.runtime.clone(), Some(Place(worker.connections.clone())))
            }
            None => (Handle::current(), None),
        }
    }
}

fn start(number: usize, stop: CancellationToken) -> io::Result<Worker> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let worker = Worker { runtime: runtime.handle().clone(), connections: Arc::default() };
    let thread = std::thread::Builder::new().name(format!("connections-{number}"));
    thread.spawn(move || runtime.block_on(stop.cancelled()))?;
    Ok(worker)
}

/// A connection on a thread.
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
