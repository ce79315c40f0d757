//! One way of detecting a revoked token: its store, its Doorward, and the measurements.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::list::List;
use crate::ledger::support::{Instance, RedisServer};
use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};

/// Entries in each list, besides the entries that the measurement itself writes.
const ENTRIES: u32 = 200_000;
/// The number of starts for the median of the resident memory.
const STARTS: usize = 3;
/// Entries written one by one, to count the commands of a write.
const WRITTEN: u32 = 200;
/// Checks one after the other, in a round.
const CHECKS: usize = 1000;
/// How long as many callers as there are tokens ask without a pause, in a round.
const BUSY: Duration = Duration::from_secs(1);

pub(super) const ADMIN_KEY: &str = "a-key-for-the-measurement";

pub(super) struct Design {
    pub(super) name: &'static str,
    /// Doorward's, with `REDIS` for the address of its store, if it has one.
    pub(super) config: String,
    /// The memory of Redis.
    pub(super) list: Option<List>,
}

pub(super) struct Way {
    name: &'static str,
    store: Option<(List, RedisServer)>,
    doorward: Doorward,
    checks: Checks,
    /// Bytes an entry takes in Redis and in Doorward.
    sizes: Option<(f64, f64)>,
    /// Redis commands a second when nothing happens.
    idle: f64,
    commands_an_entry: f64,
    rounds: Vec<Round>,
    refused: usize,
}

struct Round {
    p50: Duration,
    p99: Duration,
    checks_a_second: f64,
    commands_a_check: f64,
}

pub(super) const HEADER: &str = "\
| what a decision asks | p50 | p99 | checks/s | an entry is | in Redis | in Doorward | commands a check | commands an entry |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |";

impl Way {
    /// Fills its list, and measures the memory of that.
    pub(super) async fn start(design: Design) -> Self {
        let store = match design.list {
            Some(list) => Some((list, RedisServer::start(&[]).await)),
            None => None,
        };
        let url = store.as_ref().map(|(_, redis)| redis.url()).unwrap_or_default();
        let config = design.config.replace("REDIS", &url);
        let (mut doorward, empty) = started(&config).await;
        let mut sizes = None;
        if let Some((list, redis)) = &store {
            let before = info(redis, "memory", "used_memory");
            fill(redis, *list).await;
            let in_redis = info(redis, "memory", "used_memory") - before;
            let filled;
            (doorward, filled) = started(&config).await;
            sizes = Some((in_redis / f64::from(ENTRIES), (filled - empty) / f64::from(ENTRIES)));
        }
        let checks = Checks::connect(&doorward.check).await;
        let (idle, commands_an_entry, rounds, refused) = (0.0, 0.0, Vec::new(), 0);
        Self { name: design.name, store, doorward, checks, sizes, idle, commands_an_entry, rounds, refused }
    }

    /// Redis commands since the start; the question is one command itself.
    pub(super) fn commands(&self) -> f64 {
        self.store.as_ref().map_or(0.0, |(_, redis)| info(redis, "stats", "total_commands_processed"))
    }

    /// An idle period of this length, with `before` commands.
    pub(super) fn idled(&mut self, time: Duration, before: f64) {
        self.idle = (self.commands() - before - 1.0).max(0.0) / time.as_secs_f64();
    }

    /// Commands since then, less the idle ones.
    fn commands_since(&self, began: Instant, before: f64) -> f64 {
        let idle = self.idle * began.elapsed().as_secs_f64();
        (self.commands() - before - 1.0 - idle).max(0.0)
    }

    async fn post(&self, path: &str, body: &Value) {
        let request = reqwest::Client::new().post(format!("http://{}{path}", self.doorward.http));
        let response = request.bearer_auth(ADMIN_KEY).json(body).send().await.unwrap();
        assert_eq!(response.status(), 201, "{}: {path} {body}", self.name);
    }

    /// Writes entries one by one, as logins and sign-outs come.
    pub(super) async fn write_entries(&mut self) {
        let Some((list, _)) = self.store else { return };
        let (began, before) = (Instant::now(), self.commands());
        for n in ENTRIES..ENTRIES + WRITTEN {
            let (path, body) = list.request(n);
            self.post(path, &body).await;
        }
        self.commands_an_entry = self.commands_since(began, before) / f64::from(WRITTEN);
    }

    /// Registers the tokens in a whitelist; then presents each, so that it is in the token cache.
    pub(super) async fn meets(&self, tokens: &[String]) {
        for token in tokens {
            if let Some((List::Live, _)) = self.store {
                self.post("/v1/registrations", &json!({"token": token})).await;
            }
            let verdict = self.checks.check(get("/").token(token)).await;
            assert!(verdict.allowed(), "{}: {verdict:?}", self.name);
        }
    }

    /// One check after the other, then concurrent checks, one for each token.
    pub(super) async fn round(&mut self, tokens: &[String]) {
        let (began, before) = (Instant::now(), self.commands());
        let mut took = Vec::with_capacity(CHECKS);
        let mut refused = 0;
        for token in tokens.iter().cycle().take(CHECKS) {
            let began = Instant::now();
            let verdict = self.checks.check(get("/").token(token)).await;
            took.push(began.elapsed());
            refused += usize::from(!verdict.allowed()); // A deadline that a busy machine missed.
        }
        took.sort();
        let busy = Instant::now();
        let asked = join_all(tokens.iter().map(|token| self.asks(token, busy))).await;
        let asked: usize = asked.into_iter().sum();
        let checks = f64::from(u32::try_from(CHECKS + asked).unwrap());
        self.rounds.push(Round {
            p50: took[CHECKS / 2],
            p99: took[CHECKS * 99 / 100],
            checks_a_second: f64::from(u32::try_from(asked).unwrap()) / busy.elapsed().as_secs_f64(),
            commands_a_check: self.commands_since(began, before) / checks,
        });
        self.refused += refused;
    }

    /// Asks about one token without a pause; how often it was allowed.
    async fn asks(&self, token: &str, began: Instant) -> usize {
        let mut allowed = 0;
        while began.elapsed() < BUSY {
            allowed += usize::from(self.checks.check(get("/").token(token)).await.allowed());
        }
        allowed
    }

    /// The medians of its rounds.
    pub(super) fn row(&self) -> String {
        let of = |value: fn(&Round) -> f64| median(self.rounds.iter().map(value).collect());
        let milliseconds = |value: fn(&Round) -> Duration| {
            1000.0 * median(self.rounds.iter().map(|round| value(round).as_secs_f64()).collect())
        };
        let (p50, p99) = (milliseconds(|round| round.p50), milliseconds(|round| round.p99));
        let stored = match (&self.store, self.sizes) {
            (Some((list, _)), Some((redis, doorward))) => format!(
                "{} | {redis:.0} B | {doorward:.0} B | {:.2} | {:.1}",
                list.an_entry_is(),
                of(|round| round.commands_a_check),
                self.commands_an_entry
            ),
            _ => "– | – | – | 0 | 0".to_owned(),
        };
        format!("| {} | {p50:.2} ms | {p99:.2} ms | {:.0} | {stored} |", self.name, of(|round| round.checks_a_second))
    }

    /// Figures that do not fit into the table.
    pub(super) fn remark(&self) -> Option<String> {
        let refused = self.refused;
        let said = format!("{}: {:.0} commands/s when idle, {refused} of its checks refused", self.name, self.idle);
        (self.store.is_some() || refused > 0).then_some(said)
    }
}

/// Doorward by this configuration, and its resident memory in bytes.
async fn started(config: &str) -> (Doorward, f64) {
    let (mut sizes, mut last) = (Vec::new(), None);
    for _ in 0..STARTS {
        drop(last.take());
        let doorward = Doorward::start(config).await;
        sizes.push(doorward.metric("process_resident_memory_bytes").await.unwrap());
        last = Some(doorward);
    }
    (last.unwrap(), median(sizes))
}

async fn fill(redis: &RedisServer, list: List) {
    let writer = Instance::start(redis).await;
    for batch in (0..ENTRIES).collect::<Vec<_>>().chunks(256) {
        writer.replica.revoke(batch.iter().map(|n| list.entry(*n)).collect()).await.unwrap();
    }
    writer.end().await;
}

fn info(redis: &RedisServer, section: &str, field: &str) -> f64 {
    let info = redis.cli(&["INFO", section]);
    let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    value.trim().parse().unwrap()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
