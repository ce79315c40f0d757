//! Fetches status lists (draft-ietf-oauth-status-list section 8) in the background: a list when a token first refers to
//! it, then as often as its `ttl` and the settings require, for as long as tokens or streams refer to it.
//!
//! Every fetch is verified anew by the issuer's present keys. What is fetched is bounded: the URIs by the issuer's
//! configured prefixes (see [`crate::authz::status_list::StatusListPolicy`]), the lists of an issuer in number and size,
//! and the requests in flight.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::Method;
use reqwest::header::ACCEPT;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::http::{Authorities, Chain, Client, FetchResult, HttpError, Redirects, send};
use super::retry::Backoff;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::status_list::StatusLists;
use crate::clock::{self, Steady};

/// The settings of one issuer's lists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StatusListSettings {
    /// The longest time between two fetches of a list; shorter if its `ttl` or `exp` requires it.
    pub refresh: Duration,
    /// The timeout of one fetch, body included.
    pub timeout: Duration,
    /// The largest list, in bytes when decompressed.
    pub max_bytes: usize,
    /// The most lists.
    pub max_lists: usize,
    /// Allows plain HTTP to hosts other than loopback.
    pub insecure: bool,
    /// Trusted instead of the system's.
    pub authorities: Option<Authorities>,
}

impl StatusListSettings {
    /// The largest response, in bytes: a list that does not compress, encoded in base64 twice, and other claims.
    #[must_use]
    pub const fn max_body(&self) -> usize {
        self.max_bytes.saturating_mul(2).saturating_add(64 * 1024)
    }
}

/// The lists of one issuer: which there are, and when each is fetched.
pub struct StatusListSource {
    pub issuer: IssuerName,
    settings: StatusListSettings,
    client: Client,
    lists: Arc<StatusLists>,
    schedule: Mutex<HashMap<Arc<str>, Entry>>,
    wake: Notify,
}

/// The schedule of one list.
struct Entry {
    /// When the list was first referred to.
    since: Steady,
    /// The last reference of a decision that waited, or of a stream.
    asked: Steady,
    due: Instant,
    began: Option<Instant>,
    is_running: bool,
    /// Whether a decision waits for the next fetch.
    is_awaited: bool,
    standing: Standing,
    backoff: Backoff,
    /// Counts the completed fetches.
    done: watch::Sender<u64>,
}

/// The standing of a list by its fetches, from the lists that are fetched first to those that are fetched last.
///
/// A server that does not answer holds a request for its whole timeout. So the lists of a standing have one request at
/// once less than those of the standing before: however many of them do not answer, the others are fetched.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Standing {
    /// The last fetch brought it.
    Loaded,
    New,
    /// The last fetch failed, an earlier one brought it.
    Lost,
    /// No fetch has brought it.
    NeverLoaded,
}

impl Standing {
    const ALL: [Self; 4] = [Self::Loaded, Self::New, Self::Lost, Self::NeverLoaded];

    /// The most requests to one issuer at once for lists of this standing and of those behind it.
    const fn most(self) -> usize {
        match self {
            Self::Loaded => MAX_FETCHES,
            Self::New => MAX_FETCHES - 1,
            Self::Lost => MAX_FETCHES - 2,
            Self::NeverLoaded => MAX_FETCHES - 3,
        }
    }
}

impl Entry {
    fn new() -> Self {
        let now = Steady::now();
        Self {
            since: now,
            asked: now,
            due: Instant::now(),
            began: None,
            is_running: false,
            is_awaited: false,
            standing: Standing::New,
            backoff: Backoff::new(BACKOFF),
            done: watch::Sender::new(0),
        }
    }
}

/// A response, for the one who verifies it.
pub struct Fetched {
    pub uri: Arc<str>,
    /// The start of the request.
    pub began: Steady,
    pub body: Vec<u8>,
}

/// The use of a response.
pub enum Taken {
    /// It is stored.
    Stored { ttl: Option<Duration>, expires_at: Option<Timestamp> },
    /// Its text is for the log.
    Rejected(String),
}

/// The pauses after a failed fetch: doubled from the first to the longest, which is that of a list that was never loaded.
const BACKOFF: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(300)];
/// The longest pause after a failed fetch of a list that was loaded before, within the configured interval.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A failure that has lasted for about this time is a warning.
const LASTING: Duration = Duration::from_secs(4);
/// The shortest refresh interval, independent of `ttl`, within the configured one.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(15);
/// The shortest time between two fetches of a list that is about to expire, or has within the leeway.
const LEAST_BEFORE_END: Duration = Duration::from_secs(1);
/// The shortest time between two fetches of a list because of decisions, within the configured interval.
const COOLDOWN: Duration = Duration::from_secs(5);
/// The most requests to one issuer at once.
const MAX_FETCHES: usize = 4;
/// A list to which nothing refers for this time is dropped.
const UNUSED: Duration = Duration::from_secs(3600);
/// The same where another list needs its place.
const UNUSED_WHEN_FULL: Duration = Duration::from_secs(60);

impl StatusListSource {
    /// Fails only if the HTTP client cannot be built.
    pub fn new(
        issuer: IssuerName,
        settings: StatusListSettings,
        lists: Arc<StatusLists>,
    ) -> Result<Self, reqwest::Error> {
        let client = Client::new(settings.authorities.as_ref(), Redirects::Secure)?;
        Ok(Self { issuer, settings, client, lists, schedule: Mutex::default(), wake: Notify::new() })
    }

    #[must_use]
    pub fn settings(&self) -> &StatusListSettings {
        &self.settings
    }

    /// Fetches a list because a decision needs it, and waits for it. At once where it was fetched a moment ago, or its
    /// server is left alone for a while after a failure: whether the last fetch brought it.
    pub async fn fetch(&self, uri: &Arc<str>) -> bool {
        if let Some(mut done) = self.ask(uri, true) {
            let done = tokio::time::timeout(self.settings.timeout, done.changed()).await;
            if !matches!(done, Ok(Ok(()))) {
                return false;
            }
        }
        self.schedule().get(uri).is_some_and(|entry| entry.standing == Standing::Loaded)
    }

    /// Asks for a fetch without waiting for it.
    pub fn want(&self, uri: &Arc<str>) {
        self.ask(uri, false);
    }

    /// Asks for a fetch; `None` if there will be none now.
    fn ask(&self, uri: &Arc<str>, is_awaited: bool) -> Option<watch::Receiver<u64>> {
        let mut schedule = self.schedule();
        if !schedule.contains_key(uri) && !self.has_room(&mut schedule) {
            return None;
        }
        let entry = schedule.entry(uri.clone()).or_insert_with(Entry::new);
        entry.asked = Steady::now();
        if !entry.is_running {
            let now = Instant::now();
            let cooldown = COOLDOWN.min(self.settings.refresh);
            let is_recent = entry.began.is_some_and(|began| now < began + cooldown);
            let is_held_back = match entry.standing {
                Standing::Loaded => is_recent,
                Standing::New => false,
                Standing::Lost | Standing::NeverLoaded => entry.due > now,
            };
            if is_held_back {
                return None;
            }
            entry.due = entry.due.min(now); // One that is due already keeps its place.
            entry.is_awaited |= is_awaited;
            self.wake.notify_one();
        }
        Some(entry.done.subscribe())
    }

    /// The time since a list was first referred to.
    #[must_use]
    pub fn known_for(&self, uri: &str, now: Steady) -> Option<Duration> {
        self.schedule().get(uri).map(|entry| now.since(entry.since))
    }

    /// Makes room for one more list, if one may go.
    fn has_room(&self, schedule: &mut HashMap<Arc<str>, Entry>) -> bool {
        if schedule.len() < self.settings.max_lists {
            return true;
        }
        let (now, used) = (Steady::now(), self.used());
        let idle = |(uri, entry): (&Arc<str>, &Entry)| {
            let idle = idle(entry, used.get(uri), now);
            (!entry.is_running && idle > UNUSED_WHEN_FULL).then(|| (idle, uri.clone()))
        };
        let Some((_, longest)) = schedule.iter().filter_map(idle).max() else { return false };
        self.forget(schedule, &longest);
        true
    }

    fn forget(&self, schedule: &mut HashMap<Arc<str>, Entry>, uri: &Arc<str>) {
        schedule.remove(uri);
        self.lists.retain(|issuer, known, _| *issuer != self.issuer || known != uri);
    }

    /// The last use of each list that is stored.
    fn used(&self) -> HashMap<Arc<str>, Duration> {
        self.lists.of(&self.issuer).into_iter().collect()
    }

    /// Fetches for ever. `allows` says whether a URI is one of those that may be fetched, `take` verifies each response
    /// and stores it, and `count` is given every result.
    pub async fn run(
        &self,
        allows: impl Fn(&str) -> bool,
        take: impl Fn(Fetched) -> Taken,
        count: impl Fn(FetchResult),
    ) {
        {
            let mut schedule = self.schedule();
            // An earlier run may have been cancelled in a fetch.
            schedule.values_mut().for_each(|entry| entry.is_running = false);
            for (uri, _) in self.lists.of(&self.issuer) {
                schedule.entry(uri).or_insert_with(|| Entry { standing: Standing::Loaded, ..Entry::new() });
            }
        }
        let mut running = FuturesUnordered::new();
        loop {
            let (due, next) = self.take_due(&allows);
            running.extend(due.into_iter().map(|uri| self.get(uri)));
            tokio::select! {
                Some((uri, response)) = running.next(), if !running.is_empty() => {
                    let taken = match response {
                        Ok(fetched) => take(fetched),
                        Err(error) => Taken::Rejected(Chain(&error).to_string()),
                    };
                    count(if matches!(taken, Taken::Stored { .. }) { FetchResult::Ok } else { FetchResult::Failed });
                    self.settle(&uri, taken);
                }
                () = tokio::time::sleep_until(next) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// The lists to fetch now, and when the next one is due: first those that a decision waits for, then by their standing,
    /// then those that have been due for longest; each within the bound of its standing. What is not used any more, or may
    /// not be fetched any more, is dropped.
    fn take_due(&self, allows: impl Fn(&str) -> bool) -> (Vec<Arc<str>>, Instant) {
        let mut schedule = self.schedule();
        let (now, used, steady) = (Instant::now(), self.used(), Steady::now());
        let is_over = |uri: &Arc<str>, entry: &Entry| idle(entry, used.get(uri), steady) > UNUSED || !allows(uri);
        let due = schedule.iter().filter(|(_, entry)| entry.due <= now && !entry.is_running);
        let over: Vec<_> = due.filter(|(uri, entry)| is_over(uri, entry)).map(|(uri, _)| uri.clone()).collect();
        for uri in over {
            self.forget(&mut schedule, &uri);
        }
        let mut running = Standing::ALL
            .map(|standing| schedule.values().filter(|entry| entry.is_running && entry.standing >= standing).count());
        let (mut waiting, mut next) = (Vec::new(), now + LONGEST_SLEEP);
        for (uri, entry) in schedule.iter_mut().filter(|(_, entry)| !entry.is_running) {
            if entry.due <= now {
                waiting.push(((!entry.is_awaited, entry.standing, entry.due), uri.clone(), entry));
            } else {
                next = next.min(entry.due);
            }
        }
        waiting.sort_by_key(|(place, ..)| *place);
        let mut due = Vec::new();
        for ((_, standing, _), uri, entry) in waiting {
            let has_room = |(of, running): (Standing, &usize)| of > standing || *running < of.most();
            if !Standing::ALL.into_iter().zip(&running).all(has_room) {
                continue; // It is taken when one of those in flight has ended.
            }
            for (of, running) in Standing::ALL.into_iter().zip(&mut running) {
                *running += usize::from(of <= standing);
            }
            (entry.is_running, entry.began) = (true, Some(now));
            due.push(uri);
        }
        (due, next)
    }

    async fn get(&self, uri: Arc<str>) -> (Arc<str>, Result<Fetched, HttpError>) {
        let began = Steady::now();
        let fetched = async {
            let request = self.client.request(Method::GET, &uri, self.settings.insecure)?;
            let request = request.header(ACCEPT, "application/statuslist+jwt");
            send(request, self.settings.timeout, self.settings.max_body()).await?.document()
        };
        let fetched = fetched.await;
        let fetched = fetched.map(|response| Fetched { uri: uri.clone(), began, body: response.body });
        (uri, fetched)
    }

    fn settle(&self, uri: &Arc<str>, taken: Taken) {
        let mut schedule = self.schedule();
        let Some(entry) = schedule.get_mut(uri) else { return };
        let refresh = self.settings.refresh;
        let (standing, pause) = match taken {
            Taken::Stored { ttl, expires_at } => {
                if entry.backoff.succeeded() || entry.standing != Standing::Loaded {
                    info!(issuer = %self.issuer, list = %uri, "status list loaded");
                }
                let interval = ttl.map_or(refresh, |ttl| ttl.max(SHORTEST_INTERVAL).min(refresh));
                let left = expires_at.map_or(Duration::MAX, |at| at.since(clock::now()));
                (Standing::Loaded, interval.min(left.max(LEAST_BEFORE_END)))
            }
            Taken::Rejected(error) => {
                let again = entry.backoff.failed();
                if again < LASTING {
                    info!(issuer = %self.issuer, list = %uri, error, "status list not refreshed; trying again");
                } else {
                    warn!(issuer = %self.issuer, list = %uri, error, "status list not refreshed");
                }
                match entry.standing {
                    Standing::Loaded | Standing::Lost => (Standing::Lost, again.min(LONGEST_PAUSE).min(refresh)),
                    Standing::New | Standing::NeverLoaded => (Standing::NeverLoaded, again),
                }
            }
        };
        entry.standing = standing;
        (entry.is_running, entry.is_awaited) = (false, false);
        entry.due = Instant::now() + pause;
        entry.done.send_modify(|done| *done += 1);
    }

    fn schedule(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bound of the sleep while nothing is due.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// The time since the last reference to a list, whose last use by a decision was at `used`.
fn idle(entry: &Entry, used: Option<&Duration>, now: Steady) -> Duration {
    let used = used.map_or(Duration::MAX, |used| now.uptime().saturating_sub(*used));
    now.since(entry.asked).min(used)
}

/// The lists of all issuers whose lists are read.
#[derive(Default)]
pub struct StatusListSources(HashMap<IssuerName, Arc<StatusListSource>>);

impl StatusListSources {
    #[must_use]
    pub fn new(sources: Vec<Arc<StatusListSource>>) -> Self {
        Self(sources.into_iter().map(|source| (source.issuer.clone(), source)).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<StatusListSource>> {
        self.0.values()
    }

    #[must_use]
    pub fn of(&self, issuer: &IssuerName) -> Option<&Arc<StatusListSource>> {
        self.0.get(issuer)
    }

    /// See [`StatusListSource::fetch`].
    pub async fn fetch(&self, issuer: &IssuerName, uri: &Arc<str>) -> bool {
        match self.of(issuer) {
            Some(source) => source.fetch(uri).await,
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
