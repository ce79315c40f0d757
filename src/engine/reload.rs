//! The configuration in force: policies made from it, keys kept for it, and its replacement when its
//! source changes or on request. A bad or half-written file never replaces a good one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::assemble;
use super::source::Source;
use super::status_lists;
use super::tls::Tls;
use crate::api::event_source::events;
use crate::authz::claims::IssuerName;
use crate::authz::token::TrustedIssuer;
use crate::clock;
use crate::config::{Config, Fault, Faults, KeyPath, Loaded};
use crate::metrics::{Degraded, Metrics, ReloadResult};
use crate::sources::files::{Look, Stamps, Watch};
use crate::sources::http::FetchResult;
use crate::sources::introspection::Introspectors;
use crate::sources::jwks::{KeySettings, KeySource, KeySources, Update, report};
use crate::sources::names::Conflict;
use crate::sources::signals::{Receiver, Verdict};
use crate::sources::status_lists::{StatusListSource, StatusListSources};
use crate::state::State;

/// How often watched files are looked at. Polling sees a ConfigMap's symlink swap on every file system.
const POLL: Duration = Duration::from_millis(250);

/// The longest time for reading its files: one may be a pipe without a writer, or on a mount that hangs.
const READING: Duration = Duration::from_secs(10);

/// The longest time for giving up the leases on streams at the end.
const RELEASING: Duration = Duration::from_secs(1);

/// Keeps the configuration and the keys of its issuers in force.
pub(super) struct Reload {
    source: Source,
    /// A reload was requested, whether or not the files changed.
    wanted: Arc<Notify>,
    watched: Stamps,
    started_with: Arc<Config>,
    sources: Vec<Arc<KeySource>>,
    receivers: Vec<Arc<Receiver>>,
    /// The streams of transmitters that are not configured any more are being deleted.
    farewells: JoinSet<()>,
    status_lists: Vec<Arc<StatusListSource>>,
    state: Arc<State>,
    tls: Option<Arc<Tls>>,
}

/// Everything that a changed configuration needs, read and checked; putting it in force cannot fail.
struct Next {
    files: Files,
    introspectors: Introspectors,
    receivers: Vec<Arc<Receiver>>,
    status_lists: Vec<Arc<StatusListSource>>,
    fetched: Vec<KeySource>,
}

/// The configuration as read from the files.
struct Files {
    config: Config,
    warnings: Vec<Fault>,
    /// The keys that differ and take effect at the next start.
    later: Vec<String>,
    certificates: Option<Arc<rustls::ServerConfig>>,
}

impl Reload {
    pub(super) fn new(
        source: Source,
        wanted: Arc<Notify>,
        config: &Config,
        state: Arc<State>,
        tls: Option<Arc<Tls>>,
    ) -> anyhow::Result<Self> {
        let sources = key_sources(fetched(config)?, &[], &state.metrics);
        state.set_keys(KeySources::new(sources.clone()));
        let watched = config.watched_files().clone();
        let receivers = assemble::receivers(config, &state.metrics, &[])?;
        state.set_receivers(receivers.clone());
        let status_lists = status_lists::sources(config, &[], &state)?;
        state.set_status_sources(StatusListSources::new(status_lists.clone()));
        let started_with = Arc::new(config.clone());
        let farewells = JoinSet::new();
        Ok(Self { source, wanted, watched, started_with, sources, receivers, farewells, status_lists, state, tls })
    }

    /// Fetches keys and watches for changes until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let state = self.state.clone();
        tokio::select! {
            () = self.keep() => {} // A fetcher never ends: the process must.
            () = stop.cancelled() => {}
        }
        let receivers = state.receivers();
        let release = receivers.iter().map(|receiver| receiver.release(&state.replica));
        let _ = tokio::time::timeout(RELEASING, join_all(release)).await; // Leases end by themselves.
    }

    /// Until a fetcher ends.
    async fn keep(mut self) {
        let mut fetchers = JoinSet::new();
        self.start_fetchers(&mut fetchers);
        let mut watch = Watch::new(self.watched.clone());
        let mut asked = false;
        loop {
            tokio::select! {
                () = self.wanted.notified() => asked = true,
                () = self.source.changed() => asked = true,
                Some(_) = fetchers.join_next() => return,
                () = tokio::time::sleep(POLL) => {}
            }
            let Some(look) = on(&mut watch, Watch::look).await else { return };
            if look == Look::Moving || look == Look::Same && !asked {
                continue;
            }
            let next = self.prepare().await;
            let read = match &next {
                Ok(next) => next.files.config.watched_files().clone(),
                Err(error) => error.downcast_ref::<Faults>().map(|faults| faults.watched.clone()).unwrap_or_default(),
            };
            let named = read.clone();
            match on(&mut watch, move |watch| watch.confirms(&read)).await {
                Some(true) => asked = false,
                Some(false) => continue, // A file was written meanwhile, or was perhaps not watched yet.
                None => return,
            }
            match next {
                Ok(next) => {
                    // The fetched keys may come from a URL that the next configuration no longer names.
                    fetchers.shutdown().await;
                    self.put_in_force(next);
                    self.start_fetchers(&mut fetchers);
                }
                Err(error) => {
                    self.state.metrics.reloads(ReloadResult::Refused).inc();
                    error!(error = %format!("{error:#}"), "configuration not reloaded");
                }
            }
            // A file that is missing from a refused configuration may appear later, and make the configuration
            // valid.
            watch.go_on(|file| self.watched.contains_key(file) || named.contains_key(file));
        }
    }

    /// Reads everything again; nothing changes yet.
    async fn prepare(&self) -> anyhow::Result<Next> {
        let (source, tls, started_with) = (self.source.clone(), self.tls.clone(), self.started_with.clone());
        let reading = tokio::task::spawn_blocking(move || read(&source, tls.as_deref(), &started_with));
        let read = tokio::time::timeout(READING, reading).await;
        let files =
            read.with_context(|| format!("the files of the configuration cannot be read within {READING:?}"))???;
        let known = self.state.introspectors();
        self.keeps_revocations(&files.config).await?;
        let introspectors = assemble::introspectors(&files.config, &known, &self.state.metrics.introspections)?;
        let receivers = assemble::receivers(&files.config, &self.state.metrics, &self.receivers)?;
        let status_lists = status_lists::sources(&files.config, &self.status_lists, &self.state)?;
        let fetched = fetched(&files.config)?;
        Ok(Next { files, introspectors, receivers, status_lists, fetched })
    }

    /// Refuses a configuration under which live revocations may no longer apply.
    async fn keeps_revocations(&self, config: &Config) -> anyhow::Result<()> {
        if config.accept_loss {
            return Ok(());
        }
        let conflicts = Box::pin(self.state.replica.names_lost_by(&trusted(config))).await?;
        let fault = |conflict: Conflict| {
            let issuer = KeyPath::default().key("issuers").index(conflict.issuer);
            let path = conflict.key.iter().fold(issuer, |path, key| path.key(key));
            Fault { place: None, path, message: conflict.message, value: None }
        };
        let faults: Vec<_> = conflicts.into_iter().map(fault).collect();
        let (file, watched) = (self.source.name(), config.watched_files().clone());
        if faults.is_empty() { Ok(()) } else { Err(Faults { file, faults, watched }.into()) }
    }

    /// Replaces the policy and the sources in force; a decision uses either only the old or only the new ones.
    fn put_in_force(&mut self, next: Next) {
        let Next { files, introspectors, receivers, status_lists, fetched } = next;
        let Files { config, warnings, later, certificates } = files;
        log_warnings(&warnings, &self.source.name());
        if !later.is_empty() {
            warn!(keys = ?later, "changed keys that take effect at the next start");
        }
        if let (Some(tls), Some(certificates)) = (&self.tls, certificates) {
            tls.put_in_force(certificates);
        }
        self.leave(&receivers);
        self.state.set_receivers(receivers.clone());
        self.receivers = receivers;
        self.state.metrics.signals_stream_up.reset(); // Each of the receivers sets its own again.
        let sources = key_sources(fetched, &self.sources, &self.state.metrics);
        let old = self.state.policy();
        let mut policy = assemble::policy(&config);
        policy.authorizer = policy.authorizer.continuing(&old.authorizer);
        // Keys from the same place stay in force; the others are fetched.
        for source in sources.iter().filter(|source| self.sources.iter().any(|known| source.continues(known))) {
            policy = policy.with_keys(&source.issuer, old.keys_of(&source.issuer));
        }
        self.state.replica.retain_for(config.retention, assemble::longest_leeway(&config));
        self.state.replica.expect_issuers(assemble::issuer_names(&config));
        self.state.streams().limit(config.limits.streams);
        self.state.replica.adopt_for(assemble::adopting_issuers(&config), assemble::shortest_staleness(&config));
        policy.responder = policy.responder.replacing(&old.responder, clock::now());
        // The introspection clients are replaced before the policy that uses them.
        self.state.set_introspectors(introspectors);
        self.state.set_status_sources(StatusListSources::new(status_lists.clone()));
        self.status_lists = status_lists;
        self.state.set_keys(KeySources::new(sources.clone()));
        self.state.set_policy(policy);
        self.sources = sources;
        // The certificates read at the start stay in use, whichever files the new configuration names.
        self.watched = self.started_with.watched_files().clone();
        self.watched.extend(config.watched_files().clone());
        self.state.metrics.reloads(ReloadResult::Ok).inc();
        info!("configuration reloaded");
    }

    /// Begins to delete the streams of transmitters that are not among the next ones.
    fn leave(&mut self, next: &[Arc<Receiver>]) {
        while self.farewells.try_join_next().is_some() {}
        for receiver in self.receivers.iter().filter(|receiver| next.iter().all(|next| next.id() != receiver.id())) {
            // Another entry with the same issuer may have found the same stream.
            let issuer = receiver.issuer_of_stream();
            let kept = next.iter().any(|next| next.issuer_of_stream() == issuer);
            let (receiver, state) = (receiver.clone(), self.state.clone());
            self.farewells.spawn(async move { receiver.farewell(&state.replica, kept).await });
        }
    }

    fn start_fetchers(&self, fetchers: &mut JoinSet<()>) {
        for source in &self.sources {
            let (source, state) = (source.clone(), self.state.clone());
            fetchers.spawn(async move { source.run(|issuer, update| publish(&state, issuer, update)).await });
        }
        for source in &self.status_lists {
            let (source, state) = (source.clone(), self.state.clone());
            fetchers.spawn(async move { status_lists::keep(&source, &state).await });
        }
        for receiver in &self.receivers {
            let (receiver, state) = (receiver.clone(), self.state.clone());
            let name = receiver.name().clone();
            fetchers.spawn(async move {
                let take = |id, set| take(state.clone(), name.clone(), id, set);
                Box::pin(receiver.run(&state.replica, take)).await; // A large future.
            });
        }
    }
}

/// Logs the settings of a configuration that are probably mistakes.
pub fn log_warnings(warnings: &[Fault], source: &str) {
    for warning in warnings {
        warn!(warning = warning.line(source), "configuration");
    }
}

/// Reads the configuration and the listeners' certificates; may block for as long as a file does.
fn read(source: &Source, tls: Option<&Tls>, started_with: &Config) -> anyhow::Result<Files> {
    let Loaded { config, warnings } = source.load()?;
    let later = config.needs_restart(started_with);
    let certificates = tls.map(Tls::read_again).transpose()?;
    Ok(Files { config: config.until_restart(started_with), warnings, later, certificates })
}

fn trusted(config: &Config) -> Vec<Arc<TrustedIssuer>> {
    config.issuers.iter().map(|issuer| Arc::new(issuer.trusted.clone())).collect()
}

/// The outcome of a polled event.
async fn take(state: Arc<State>, from: IssuerName, id: String, set: String) -> Verdict {
    match events::take(&state, &set, events::Delivery::Polled(&from, &id)).await {
        Ok(()) => Verdict::Acknowledged,
        Err(error) => match error.code() {
            Some(code) => Verdict::Refused { code, description: error.description() },
            None => Verdict::Later,
        },
    }
}

/// A source for every issuer whose keys are fetched; a source with the same settings is kept, and a new source that
/// reads from the same place takes over the keys and their load time.
fn key_sources(fetched: Vec<KeySource>, known: &[Arc<KeySource>], metrics: &Metrics) -> Vec<Arc<KeySource>> {
    let source = |source: KeySource| {
        metrics.expect_fetches(source.issuer.as_str());
        let same = known.iter().find(|known| known.issuer == source.issuer && known.settings() == source.settings());
        same.cloned().unwrap_or_else(|| Arc::new(known.iter().fold(source, |source, known| source.continuing(known))))
    };
    fetched.into_iter().map(source).collect()
}

/// A new source for every issuer whose keys are fetched.
fn fetched(config: &Config) -> anyhow::Result<Vec<KeySource>> {
    let source = |(name, settings): (&IssuerName, &KeySettings)| {
        KeySource::new(name.clone(), settings.clone())
            .with_context(|| format!("build the HTTP client for the keys of {name}"))
    };
    assemble::all_key_settings(config).map(source).collect()
}

fn publish(state: &State, issuer: &IssuerName, update: Update) {
    let result = match update {
        Update::Loaded { keys, left_out } => {
            state.publish_keys(issuer, Some(&keys));
            state.metrics.rejected_keys(issuer.as_str(), &left_out);
            report(issuer, &keys, &left_out);
            FetchResult::Ok
        }
        Update::Failed { left_out } => {
            if !left_out.is_empty() {
                state.metrics.rejected_keys(issuer.as_str(), &left_out);
            }
            FetchResult::Failed
        }
        Update::Withdrawn => {
            state.publish_keys(issuer, None);
            state.metrics.degraded(Degraded::KeysWithdrawn).inc();
            FetchResult::Failed
        }
    };
    state.metrics.jwks_fetches(issuer.as_str(), result).inc();
}

/// Runs file-system work on a thread that may block; `None` if it panicked.
async fn on<T: Send + 'static>(watch: &mut Watch, act: impl FnOnce(&mut Watch) -> T + Send + 'static) -> Option<T> {
    let mut taken = std::mem::take(watch);
    let done = tokio::task::spawn_blocking(move || (act(&mut taken), taken)).await.ok();
    done.map(|(value, taken)| {
        *watch = taken;
        value
    })
}
