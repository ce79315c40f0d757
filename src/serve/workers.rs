//! Threads for connections: a connection and all that it asks stay on the thread that took it up.
//!
//! Envoy opens one connection per worker of its own, and keeps it. With tasks that any thread may take
//! over (tokio's multi-thread runtime) the threads wake each other for every request and share the
//! connection's locks: measured on 2 cores, that is 38 % of a decision's CPU at 64 requests at once and 60 %
//! at 8. What a decision does takes microseconds, so there is nothing to even out.

use std::future::Future;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// One thread for each core.
#[derive(Clone)]
pub(super) struct Workers(Arc<[Worker]>);

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts the threads; the future ends when one of them does, which before `stop` none may.
    pub(super) fn start(stop: &CancellationToken) -> anyhow::Result<(Self, impl Future<Output = ()> + use<>)> {
        let count = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (mut workers, mut ends) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (worker, end) = start(number, stop.clone()).context("start a thread for connections")?;
            workers.push(worker);
            ends.push(end);
        }
        let ended = async { drop(futures_util::future::select_all(ends).await) };
        Ok((Self(workers.into()), ended))
    }

    /// The thread with the fewest connections, where one more is to be counted until the place is dropped.
    pub(super) fn place(&self) -> (Handle, Option<Place>) {
        let fewest = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        match fewest {
            Some(worker) => {
                worker.connections.fetch_add(1, Ordering::Relaxed);
                (worker.runtime.clone(), Some(Place(worker.connections.clone())))
            }
            None => (Handle::current(), None),
        }
    }
}

fn start(number: usize, stop: CancellationToken) -> io::Result<(Worker, oneshot::Receiver<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (alive, ended) = oneshot::channel::<()>();
    std::thread::Builder::new().name(format!("connections-{number}")).spawn(move || {
        runtime.block_on(stop.cancelled());
        drop(alive);
    })?;
    Ok((Worker { runtime: handle, connections: Arc::default() }, ended))
}

/// A connection on a thread.
pub(super) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
