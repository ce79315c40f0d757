//! The demo's levers: what Doorward promises is seen best while something breaks. `envoy/demo.sh` says by a file which
//! processes it started; no other system has them.
//!
//! ```text
//! GET  /page/stage.json        who is there, how old each Doorward's view is, which levers are pulled
//! POST /page/stage/{lever}     redis, doorward, flush, clock; `x-demo: stage`, which no other site's page can send
//! ```

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use axum::Json;
use axum::extract::{Path as Part, State};
use axum::http::{HeaderMap, StatusCode};
use reqwest::Client;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Accounts;
use super::error::Error;
use super::events::redis::Log;

/// How long a Doorward may take to show its metrics before it counts as frozen.
const GLANCE: Duration = Duration::from_millis(300);
/// The series of the metrics that is shown.
const VIEW_AGE: &str = "doorward_view_age_seconds ";

pub struct Stage {
    file: PathBuf,
    http: Client,
    pulled: Mutex<Pulled>,
}

/// Which levers are pulled.
#[derive(Clone, Copy, Default, Serialize)]
struct Pulled {
    redis: bool,
    doorward: bool,
    clock: bool,
}

/// What `envoy/demo.sh` started, and where.
#[derive(Deserialize)]
struct Cast {
    redis: Option<Redis>,
    doorwards: Vec<Doorward>,
    /// What the view's age may be at most, in milliseconds.
    max_staleness_ms: u64,
    /// The Doorward that the lever freezes, by its process.
    frozen: Option<Lever>,
    /// The Doorward whose clock is stepped, and the file with the offset.
    clock: Option<Clock>,
    /// Where to look further: titles and addresses.
    links: Vec<(String, String)>,
}

#[derive(Deserialize)]
struct Redis {
    pid: u32,
    url: String,
}

#[derive(Deserialize)]
struct Doorward {
    name: String,
    http: String,
}

#[derive(Deserialize)]
struct Lever {
    name: String,
    pid: u32,
}

#[derive(Deserialize)]
struct Clock {
    name: String,
    file: PathBuf,
}

impl Stage {
    pub fn new(file: PathBuf) -> anyhow::Result<Self> {
        let http = Client::builder().timeout(GLANCE).no_proxy().build()?;
        Ok(Self { file, http, pulled: Mutex::default() })
    }

    /// Read each time: the first of the cast is Accounts itself.
    fn cast(&self) -> anyhow::Result<Cast> {
        let text = std::fs::read_to_string(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("understand {}", self.file.display()))
    }

    fn pulled(&self) -> Pulled {
        *self.pulled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The age of a Doorward's view in milliseconds, infinite when it has none; `None`: it does not answer.
    async fn view_age(&self, doorward: &Doorward) -> Option<f64> {
        let text = self.http.get(format!("{}/metrics", doorward.http)).send().await.ok()?.text().await.ok()?;
        let seconds: f64 = text.lines().find_map(|line| line.strip_prefix(VIEW_AGE)?.parse().ok())?;
        Some(seconds * 1000.0)
    }

    async fn seen(&self) -> anyhow::Result<Value> {
        let cast = self.cast()?;
        let mut doorwards = Vec::new();
        for doorward in &cast.doorwards {
            let age = self.view_age(doorward).await;
            let view_age_ms = age.filter(|age| age.is_finite()); // Too old to be kept: JSON has no infinity.
            doorwards.push(json!({"name": doorward.name, "answers": age.is_some(), "view_age_ms": view_age_ms}));
        }
        let mut levers = Vec::new();
        levers.extend(cast.redis.as_ref().map(|_| "redis"));
        levers.extend(cast.frozen.as_ref().map(|_| "doorward"));
        levers.extend(cast.redis.as_ref().map(|_| "flush"));
        levers.extend(cast.clock.as_ref().map(|_| "clock"));
        Ok(json!({
            "store": if cast.redis.is_some() { "redis" } else { "embedded" },
            "doorwards": doorwards,
            "max_staleness_ms": cast.max_staleness_ms,
            "levers": levers,
            "pulled": self.pulled(),
            "frozen": cast.frozen.map(|lever| lever.name),
            "clock": cast.clock.map(|clock| clock.name),
            "links": cast.links,
        }))
    }

    /// Pulls a lever, or lets go of one that is pulled.
    async fn pull(&self, lever: &str) -> anyhow::Result<()> {
        let cast = self.cast()?;
        let mut pulled = self.pulled();
        match lever {
            "redis" => {
                pulled.redis = !pulled.redis;
                signal(cast.redis.context("there is no Redis")?.pid, pulled.redis)?;
            }
            "doorward" => {
                pulled.doorward = !pulled.doorward;
                signal(cast.frozen.context("there is none to freeze")?.pid, pulled.doorward)?;
            }
            "flush" => {
                ensure!(!pulled.redis, "Redis is unplugged");
                Log::open(cast.redis.context("there is no Redis")?.url, String::new())?.flush().await?;
            }
            "clock" => {
                pulled.clock = !pulled.clock;
                step(&cast.clock.context("there is no clock to step")?.file, pulled.clock)?;
            }
            _ => anyhow::bail!("there is no such lever"),
        }
        *self.pulled.lock().unwrap_or_else(PoisonError::into_inner) = pulled;
        Ok(())
    }
}

/// Stops a process, as a frozen machine or a cable that is pulled does to others; or lets it go on.
fn signal(pid: u32, stop: bool) -> anyhow::Result<()> {
    let signal = if stop { "-STOP" } else { "-CONT" };
    let done = std::process::Command::new("kill").args([signal, &pid.to_string()]).status()?;
    ensure!(done.success(), "the process {pid} is gone");
    Ok(())
}

/// Ten minutes ahead, where every token of the demo has expired and its revocation with it; or right again. Renamed into
/// place: whoever reads the clock meanwhile sees one offset or the other.
fn step(file: &Path, ahead: bool) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, if ahead { "+10m\n" } else { "+0\n" })?;
    std::fs::rename(new, file).context("step the clock")
}

pub async fn seen(State(accounts): State<Arc<Accounts>>) -> Result<Json<Value>, Error> {
    match &accounts.stage {
        None => Ok(Json(json!({"levers": [], "links": [], "doorwards": []}))),
        Some(stage) => Ok(Json(stage.seen().await?)),
    }
}

pub async fn pull(
    State(accounts): State<Arc<Accounts>>,
    Part(lever): Part<String>,
    headers: HeaderMap,
) -> Result<StatusCode, Error> {
    let Some(stage) = accounts.stage.as_ref().filter(|_| headers.get("x-demo").is_some_and(|demo| demo == "stage"))
    else {
        return Ok(StatusCode::NOT_FOUND);
    };
    stage.pull(&lever).await?;
    Ok(StatusCode::NO_CONTENT)
}
