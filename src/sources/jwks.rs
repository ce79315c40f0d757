//! Keeps the keys of every issuer current: fetched before ready, refreshed in the background, and fetched once more
//! when a token names a key that is not in the set.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::{CACHE_CONTROL, HeaderMap};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::http::{Authorities, Chain, Client, HttpError, Redirects, check_named, send};
use super::retry::Backoff;
use crate::authz::claims::IssuerName;
use crate::authz::jwks::{Algorithm, Jwks, JwksError, LeftOut, without_mark};
use crate::authz::refusal::{Shown, near_miss};

/// The location of an issuer's keys.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Location {
    /// A JSON Web Key Set.
    Url(String),
    /// OpenID Connect Discovery 1.0 at this issuer; its `jwks_uri` is followed.
    Discovery(String),
    /// Shared Signals discovery (SSF 1.0 section 7) of this transmitter; its `jwks_uri` is followed.
    SignalsDiscovery(String),
    /// A file that is read again when it changes.
    File(PathBuf),
}

/// The key settings of one issuer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeySettings {
    pub location: Location,
    pub algorithms: Vec<Algorithm>,
    /// The longest refresh interval; shorter if the provider's Cache-Control requires it.
    pub refresh_interval: Duration,
    /// The shortest time between two fetches for unknown keys.
    pub cooldown: Duration,
    /// The time for which keys are used while the provider cannot be reached.
    pub max_stale: Duration,
    /// The timeout of one fetch, body included.
    pub timeout: Duration,
    /// The largest answer that is read, in bytes.
    pub max_bytes: usize,
    /// Allows plain HTTP to hosts other than loopback.
    pub insecure: bool,
    /// Trusted instead of the system's.
    pub authorities: Option<Authorities>,
}

impl KeySettings {
    /// The location of the keys for logs: a host or the name of a file, without the rest of a URL or a path.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.location {
            Location::Url(url) | Location::Discovery(url) | Location::SignalsDiscovery(url) => {
                let url = reqwest::Url::parse(url).ok();
                url.and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_else(|| "a URL".to_owned())
            }
            Location::File(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("fetch {0}")]
    Http(String, #[source] HttpError),
    #[error("{0} has more than {1} bytes")]
    TooLarge(String, usize),
    #[error("{0}: not a discovery document of the issuer: {1}")]
    Discovery(String, String),
    #[error("read {0}")]
    File(String, #[source] std::io::Error),
    #[error("parse the key set of {0}")]
    Parse(String, #[source] JwksError),
    #[error("no usable key in the set of {url}; left out: {left_out}", left_out = labels(left_out))]
    NoKeys { url: String, left_out: Vec<LeftOut> },
}

/// The key source of one issuer: from the provider to the authorizer.
pub struct KeySource {
    pub issuer: IssuerName,
    settings: KeySettings,
    client: Client,
    wanted: Notify,
    demand: Mutex<Demand>,
    /// Counts the completed fetches for unknown keys.
    served: watch::Sender<u64>,
    tried: watch::Sender<bool>,
    created: Instant,
    /// The time at which keys were last loaded.
    loaded: Mutex<Option<Instant>>,
}

/// Fetches for unknown keys: one at a time, one per cooldown.
#[derive(Default)]
struct Demand {
    last: Option<Instant>,
    stage: Stage,
    /// Whether the last fetch, for any cause, loaded the keys.
    last_succeeded: bool,
}

#[derive(Default, Eq, PartialEq)]
enum Stage {
    #[default]
    Idle,
    /// Requested; a fetch that began earlier may still be in flight and does not count.
    Asked,
    Fetching,
}

/// The effect of a completed attempt on the rest of the process.
pub enum Update {
    Loaded {
        keys: Jwks,
        left_out: Vec<LeftOut>,
    },
    /// With the rejected keys of a set that has no usable key.
    Failed {
        left_out: Vec<LeftOut>,
    },
    /// The issuer has not confirmed any keys for `max_stale`: its keys must not be used any more.
    Withdrawn,
}

/// The pauses after a failed fetch: doubled from the first to the longest.
const BACKOFF: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(30)];
/// A failure that has lasted for about this time is a warning.
const LASTING: Duration = Duration::from_secs(4);
/// The interval at which a key file is checked; a ConfigMap or Secret changes by a symlink swap.
const FILE_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest refresh interval, independent of Cache-Control, within the configured one.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(15);

impl KeySource {
    /// Fails only if the HTTP client cannot be built.
    pub fn new(issuer: IssuerName, settings: KeySettings) -> Result<Self, reqwest::Error> {
        let client = Client::new(settings.authorities.as_ref(), Redirects::Secure)?;
        Ok(Self {
            issuer,
            settings,
            client,
            wanted: Notify::new(),
            demand: Mutex::default(),
            served: watch::Sender::new(0),
            tried: watch::Sender::new(false),
            created: Instant::now(),
            loaded: Mutex::new(None),
        })
    }

    #[must_use]
    pub fn settings(&self) -> &KeySettings {
        &self.settings
    }

    /// Whether an attempt to load keys has been completed.
    pub fn tried(&self) -> bool {
        *self.tried.borrow()
    }

    /// Waits for the first attempt to load keys; returns at once if there was one. False on a timeout.
    pub async fn first_try(&self) -> bool {
        let mut tried = self.tried.subscribe();
        let tried = tokio::time::timeout(self.settings.timeout, tried.wait_for(|tried| *tried)).await;
        matches!(tried, Ok(Ok(_)))
    }

    /// Whether the other source loads the same keys as this one.
    #[must_use]
    pub fn continues(&self, other: &Self) -> bool {
        self.issuer == other.issuer
            && self.settings.location == other.settings.location
            && self.settings.algorithms == other.settings.algorithms
    }

    /// Takes over the load time of the other source, whose keys remain in use.
    #[must_use]
    pub fn continuing(self, other: &Self) -> Self {
        if self.continues(other) {
            *lock(&self.loaded) = *lock(&other.loaded);
            self.tried.send_replace(other.tried());
        }
        self
    }

    /// The time since the keys were last loaded.
    pub fn age(&self) -> Option<Duration> {
        lock(&self.loaded).map(|at| at.elapsed())
    }

    /// Whether the issuer has not confirmed any keys for `max_stale`, counted at the earliest from the start of this
    /// source.
    pub fn is_outlived(&self) -> bool {
        let confirmed = lock(&self.loaded).unwrap_or(self.created);
        confirmed.elapsed() > self.settings.max_stale
    }

    /// Requests a fetch for an unknown key, without waiting; false if there was such a fetch within the cooldown.
    pub fn request_fetch(&self) -> bool {
        let mut demand = lock(&self.demand);
        if demand.stage == Stage::Idle {
            if demand.last.is_some_and(|at| at.elapsed() < self.settings.cooldown) {
                return false;
            }
            demand.last = Some(Instant::now());
            demand.stage = Stage::Asked;
            self.wanted.notify_one();
        }
        true
    }

    /// Requests a fetch because a token names an unknown key, and waits for it; returns at once if there was such a
    /// fetch within the cooldown, so that made-up key ids cost and delay nothing.
    ///
    /// False if the last fetch failed: an unknown key may be a new one.
    pub async fn refresh(&self) -> bool {
        let mut served = self.served.subscribe();
        if !self.request_fetch() {
            return lock(&self.demand).last_succeeded;
        }
        let served = tokio::time::timeout(self.settings.timeout, served.changed()).await;
        matches!(served, Ok(Ok(()))) && lock(&self.demand).last_succeeded
    }

    /// Fetches once, for a command that decides without the service; the error text is for a terminal.
    pub async fn fetch_once(&self) -> Result<Jwks, String> {
        self.fetch().await.map(|(keys, _, _)| keys).map_err(|error| Chain(&error).to_string())
    }

    /// Fetches for ever; passes every outcome to `publish`.
    pub async fn run(&self, publish: impl Fn(&IssuerName, Update)) {
        let mut backoff = Backoff::new(BACKOFF);
        let mut seen = None;
        {
            // An earlier run may have been cancelled in a fetch for which callers wait.
            let stage = &mut lock(&self.demand).stage;
            if *stage == Stage::Fetching {
                *stage = Stage::Asked;
            }
        }
        loop {
            let demanded = {
                let mut demand = lock(&self.demand);
                let demanded = demand.stage == Stage::Asked;
                if demanded {
                    demand.stage = Stage::Fetching;
                }
                demanded
            };
            let stamp = self.file_stamp().await;
            let mut pause = self.settings.refresh_interval;
            if stamp.is_some() && stamp == seen {
                *lock(&self.loaded) = Some(Instant::now());
                pause = FILE_INTERVAL;
            } else {
                match self.fetch().await {
                    Ok((keys, left_out, max_age)) => {
                        *lock(&self.loaded) = Some(Instant::now());
                        publish(&self.issuer, Update::Loaded { keys, left_out });
                        lock(&self.demand).last_succeeded = true;
                        seen = stamp;
                        backoff.succeeded();
                        pause = max_age.map_or(pause, |max_age| max_age.max(SHORTEST_INTERVAL).min(pause));
                    }
                    Err(error) => {
                        // The failure may be temporary: a provider that restarts answers one of the next attempts.
                        let again = backoff.failed();
                        if again < LASTING {
                            info!(issuer = %self.issuer, error = %Chain(&error), "keys not refreshed; trying again");
                        } else {
                            warn!(issuer = %self.issuer, error = %Chain(&error), "keys not refreshed");
                        }
                        pause = pause.min(again);
                        lock(&self.demand).last_succeeded = false;
                        let left_out = match error {
                            FetchError::NoKeys { left_out, .. } => left_out,
                            _ => Vec::new(),
                        };
                        publish(
                            &self.issuer,
                            if self.is_outlived() { Update::Withdrawn } else { Update::Failed { left_out } },
                        );
                    }
                }
                if matches!(self.settings.location, Location::File(_)) {
                    pause = pause.min(FILE_INTERVAL);
                }
            }
            self.tried.send_replace(true);
            if demanded {
                lock(&self.demand).stage = Stage::Idle;
                self.served.send_modify(|served| *served += 1);
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// The attributes by which a changed file is recognised without reading it.
    async fn file_stamp(&self) -> Option<(std::time::SystemTime, u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        let Location::File(path) = &self.settings.location else { return None };
        let metadata = tokio::fs::metadata(path).await.ok()?;
        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    }

    async fn fetch(&self) -> Result<(Jwks, Vec<LeftOut>, Option<Duration>), FetchError> {
        let (source, document, max_age) = match &self.settings.location {
            Location::Url(url) => {
                let (document, max_age) = self.read_url(url).await?;
                (url.clone(), document, max_age)
            }
            Location::Discovery(issuer) | Location::SignalsDiscovery(issuer) => {
                let url = match &self.settings.location {
                    Location::SignalsDiscovery(_) => ssf_configuration(issuer),
                    _ => format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/')),
                };
                let (configuration, _) = self.read_url(&url).await?;
                let jwks_uri = jwks_uri(&configuration, issuer).map_err(|reason| FetchError::Discovery(url, reason))?;
                let named = check_named(issuer, &jwks_uri, self.settings.insecure);
                named.map_err(|error| FetchError::Http(jwks_uri.clone(), error))?;
                let (document, max_age) = self.read_url(&jwks_uri).await?;
                (jwks_uri, document, max_age)
            }
            Location::File(path) => (path.display().to_string(), self.read_file(path).await?, None),
        };
        let parsed = Jwks::parse(&document, &self.settings.algorithms);
        let (keys, left_out) = parsed.map_err(|error| FetchError::Parse(source.clone(), error))?;

        // A provider without a key is broken, and its previous keys stay in use. A file belongs to the operator: an
        // empty set withdraws all keys.
        if keys.is_empty() && !matches!(self.settings.location, Location::File(_)) {
            return Err(FetchError::NoKeys { url: source, left_out });
        }
        Ok((keys, left_out, max_age))
    }

    async fn read_url(&self, url: &str) -> Result<(Vec<u8>, Option<Duration>), FetchError> {
        let fetched = async {
            let request = self.client.request(Method::GET, url, self.settings.insecure)?;
            let request = request.header("accept", "application/json");
            send(request, self.settings.timeout, self.settings.max_bytes).await?.document()
        };
        let response = fetched.await.map_err(|error| FetchError::Http(url.to_owned(), error))?;
        Ok((response.body, max_age(&response.headers)))
    }

    async fn read_file(&self, path: &Path) -> Result<Vec<u8>, FetchError> {
        let name = path.display().to_string();
        let document = tokio::fs::read(path).await.map_err(|error| FetchError::File(name.clone(), error))?;
        if document.len() > self.settings.max_bytes {
            Err(FetchError::TooLarge(name, self.settings.max_bytes))
        } else {
            Ok(document)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The URL of a transmitter's metadata: the well-known name precedes the issuer's own path (SSF 1.0 section 7.2).
#[must_use]
pub fn ssf_configuration(issuer: &str) -> String {
    well_known(issuer, "ssf-configuration")
}

/// The URL of an issuer's metadata under a well-known name, which precedes the issuer's own path (RFC 8414 section 3.1).
#[must_use]
pub fn well_known(issuer: &str, name: &str) -> String {
    let issuer = issuer.trim_end_matches('/');
    let path = issuer.find("://").and_then(|at| issuer[at + 3..].find('/').map(|slash| at + 3 + slash));
    let (host, path) = issuer.split_at(path.unwrap_or(issuer.len()));
    format!("{host}/.well-known/{name}{path}")
}

fn jwks_uri(configuration: &[u8], issuer: &str) -> Result<String, String> {
    let configuration: serde_json::Value =
        serde_json::from_slice(without_mark(configuration)).map_err(|_| "not JSON".to_owned())?;
    // OpenID Connect Discovery 1.0 section 4.3: otherwise one provider could impersonate another.
    let Some(found) = configuration["issuer"].as_str() else { return Err("no `issuer`".to_owned()) };
    if found != issuer {
        let miss = near_miss(found, issuer);
        return Err(format!("its `issuer` is {}, the configured one is {}{miss}", Shown(found), Shown(issuer)));
    }
    configuration["jwks_uri"].as_str().map(str::to_owned).ok_or_else(|| "no `jwks_uri`".to_owned())
}

/// RFC 9111 section 5.2.2.1.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let directives = headers.get(CACHE_CONTROL)?.to_str().ok()?.to_ascii_lowercase();
    let seconds =
        directives.split(',').find_map(|directive| directive.trim().strip_prefix("max-age=")?.parse().ok())?;
    Some(Duration::from_secs(seconds))
}

/// The key sources of all issuers that have one.
#[derive(Default)]
pub struct KeySources(HashMap<IssuerName, Arc<KeySource>>);

impl KeySources {
    #[must_use]
    pub fn new(sources: Vec<Arc<KeySource>>) -> Self {
        Self(sources.into_iter().map(|source| (source.issuer.clone(), source)).collect())
    }

    /// The source of an issuer's keys; `None`: the keys are fixed.
    pub fn of(&self, issuer: &IssuerName) -> Option<&Arc<KeySource>> {
        self.0.get(issuer)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<KeySource>> {
        self.0.values()
    }

    /// See [`KeySource::refresh`]; true for an issuer whose keys are fixed.
    pub async fn refresh(&self, issuer: &IssuerName) -> bool {
        match self.0.get(issuer) {
            Some(source) => source.refresh().await,
            None => true,
        }
    }

    /// See [`KeySource::first_try`].
    pub async fn first_try(&self, issuer: &IssuerName) -> bool {
        match self.0.get(issuer) {
            Some(source) => source.first_try().await,
            None => true,
        }
    }
}

/// Logs and counts an update; common to all sources.
pub fn report(issuer: &IssuerName, keys: &Jwks, left_out: &[LeftOut]) {
    if left_out.is_empty() {
        info!(issuer = %issuer, keys = keys.len(), "keys loaded");
    } else {
        warn!(issuer = %issuer, keys = keys.len(), left_out = labels(left_out), "keys loaded, some are rejected");
    }
}

/// The keys that are left out, of at most [`Jwks::MAX_KEYS`], each named by at most 100 bytes.
fn labels(left_out: &[LeftOut]) -> String {
    let labels: Vec<_> = left_out.iter().map(ToString::to_string).collect();
    if labels.is_empty() { "none".to_owned() } else { labels.join(", ") }
}
