//! The relay between two regions that have a Redis each.

mod copies;
mod faults;
mod figures;
mod foreign;
mod full;
mod merged;
mod odd;
mod processes;

use std::sync::Arc;
use std::time::Duration;

use doorward::sources::ledger::{Redis, RedisConfig};
use doorward::sources::relay::{Relay, RelaySettings, RelayState, RelayStats};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::ledger::support::{RedisServer, eventually};

const LOG: &str = "doorward:{r}:log";

/// A running relay, like that of a separate process.
struct Running {
    relay: Arc<Relay>,
    metrics: prometheus::Registry,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    fn start(from: impl Into<Redis>, to: impl Into<Redis>) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let config = |server| RedisConfig { retention: Duration::from_secs(3_660), ..Relay::config(server) };
        let settings = RelaySettings {
            name: "relay.1".into(),
            process: format!("process.{count}").into(),
            from: config(from.into()),
            to: config(to.into()),
        };
        let (stats, metrics) = (RelayStats::new().unwrap(), prometheus::Registry::new());
        stats.register(&metrics).unwrap();
        let relay = Arc::new(Relay::new(settings, stats).unwrap());
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let (running, stopped) = (relay.clone(), stop.clone());
        tasks.spawn(async move { running.run(stopped).await });
        Self { relay, metrics, stop, tasks }
    }

    /// In both directions.
    fn both(one: &RedisServer, other: &RedisServer) -> [Self; 2] {
        [Self::start(one.url(), other.url()), Self::start(other.url(), one.url())]
    }

    fn state(&self) -> RelayState {
        self.relay.status().state
    }

    /// The entries with this result in `doorward_relay_entries_total`.
    fn counted(&self, result: &str) -> u64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.metrics.gather()).unwrap();
        let is_it = |line: &&str| line.starts_with("doorward_relay_entries_total{") && line.contains(result);
        text.lines().find(is_it).and_then(|line| line.rsplit(' ').next()).unwrap().parse().unwrap()
    }

    async fn becomes(&self, state: RelayState) {
        eventually(&format!("the relay is {state}"), || self.state() == state).await;
    }

    async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

fn length(redis: &RedisServer) -> usize {
    redis.cli(&["XLEN", LOG]).parse().unwrap()
}

/// The values of a field in a log, in its order.
fn values(redis: &RedisServer, field: &str) -> Vec<String> {
    let text = redis.cli(&["--json", "XRANGE", LOG, "-", "+"]);
    let entries: serde_json::Value = serde_json::from_str(&text).unwrap();
    let of = |entry: &serde_json::Value| {
        let fields = entry[1].as_array().unwrap().clone();
        let pair = fields.chunks_exact(2).find(|pair| pair[0] == field).map(|pair| pair[1].clone());
        pair.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    entries.as_array().unwrap().iter().map(of).collect()
}
