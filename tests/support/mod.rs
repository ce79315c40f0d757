//! The processes of the tests: the real binary, real Envoy, real Redis, an upstream that returns the
//! request. Everything binds to loopback on a free port and ends with the test.

pub mod authorization_server;
pub mod browser;
pub mod clock;
pub mod doorward;
pub mod envoy;
pub mod grpc;
pub mod hostile;
pub mod jwks_server;
pub mod nginx;
pub mod proxy;
pub mod raw;
pub mod tokens;
pub mod upstream;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// Generous: a busy machine must not make a right answer wrong.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits a condition; panics with `what` when it does not come true.
#[track_caller]
pub fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        while !condition().await {
            assert!(started.elapsed() < PATIENCE, "{caller}: not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A folder that goes with the test.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        let path =
            std::env::temp_dir().join(format!("doorward-test-{}-{:016x}", std::process::id(), rand::random::<u64>()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process of ours, killed with the test.
pub struct Process(pub Child);

impl Process {
    pub fn signal(&self, signal: &str) {
        let status =
            std::process::Command::new("kill").arg(format!("-{signal}")).arg(self.0.id().to_string()).status().unwrap();
        assert!(status.success(), "kill -{signal}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
