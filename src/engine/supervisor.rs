//! Keeps every task's handle: a detached task that ends leaves a pod that is ready and broken.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Named tasks that are expected to run until `stop`.
pub(super) struct Supervisor {
    tasks: JoinSet<&'static str>,
    stop: CancellationToken,
}

impl Supervisor {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), stop }
    }

    pub(super) fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// The name of the first task that ends, by itself or by a panic.
    pub(super) async fn ended(&mut self) -> &'static str {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name,
            Some(Err(_)) => "panicked",
            None => std::future::pending().await,
        }
    }

    /// After `stop`, waits for the tasks; what still runs after `limit` is aborted and `false` returned.
    pub(super) async fn finish(mut self, limit: Duration) -> bool {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let done = tokio::time::timeout(limit, all).await.is_ok();
        self.tasks.abort_all();
        done
    }
}
