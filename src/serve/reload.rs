//! The configuration in force: policies made from it, keys kept for it, and its replacement when the
//! file changes or on SIGHUP. A bad file never replaces a good one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::assemble;
use super::tls::Tls;
use crate::api::inlet::events;
use crate::authz::claims::IssuerName;
use crate::clock;
use crate::config::Config;
use crate::sources::introspection::Introspectors;
use crate::sources::jwks::{KeySettings, KeySource, KeySources, Update, report};
use crate::sources::signals::{Receiver, Verdict};
use crate::state::State;

/// How often watched files are looked at. Polling sees a ConfigMap's symlink swap on every file system.
const POLL: Duration = Duration::from_secs(1);

/// Keeps the configuration and the keys of its issuers in force.
pub(super) struct Reload {
    file: PathBuf,
    watched: Vec<PathBuf>,
    started_with: Config,
    sources: Vec<Arc<KeySource>>,
    receivers: Vec<Arc<Receiver>>,
    state: Arc<State>,
    client: reqwest::Client,
    tls: Option<Arc<Tls>>,
}

type Stamp = Option<(SystemTime, u64, u64)>;

/// All that a changed configuration brings, read and checked; putting it in force cannot fail.
struct Next {
    config: Config,
    certificates: Option<Arc<rustls::ServerConfig>>,
    introspectors: Introspectors,
    receivers: Vec<Arc<Receiver>>,
}

impl Reload {
    pub(super) fn new(
        file: PathBuf,
        config: &Config,
        state: Arc<State>,
        client: reqwest::Client,
        tls: Option<Arc<Tls>>,
    ) -> anyhow::Result<Self> {
        let sources = key_sources(config, &client, &[]);
        state.set_keys(KeySources::new(sources.clone()));
        let watched = config.watched_files().to_vec();
        let receivers = receivers(config, &state)?;
        Ok(Self { file, watched, started_with: config.clone(), sources, receivers, state, client, tls })
    }

    /// Fetches keys and watches for changes until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        let mut fetchers = JoinSet::new();
        self.start_fetchers(&mut fetchers);
        let mut seen = stamps(&self.watched);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = hangup.recv() => {}
                Some(_) = fetchers.join_next() => return, // A fetcher never ends: the process must.
                () = tokio::time::sleep(POLL) => {
                    if stamps(&self.watched) == seen {
                        continue;
                    }
                    tokio::time::sleep(POLL / 10).await; // A writer may be between two files.
                }
            }
            // Before they are read: what changes meanwhile will show as a change.
            seen = stamps(&self.watched);
            let next = match self.prepare() {
                Ok(next) => next,
                Err(error) => {
                    self.state.metrics.config_reloads.with_label_values(&["refused"]).inc();
                    error!(error = %format!("{error:#}"), "configuration not reloaded");
                    continue;
                }
            };
            // What they fetch may be from a place that the next configuration no longer names.
            fetchers.shutdown().await;
            self.put_in_force(next);
            seen = stamps(&self.watched)
                .into_iter()
                .map(|(file, now)| (file.clone(), *seen.get(&file).unwrap_or(&now)))
                .collect();
            self.start_fetchers(&mut fetchers);
        }
    }

    /// Reads everything anew; nothing changes yet.
    fn prepare(&self) -> anyhow::Result<Next> {
        let config = Config::load(&self.file, crate::config::environment())?.config;
        let certificates = self.tls.as_ref().map(|tls| tls.read_again()).transpose()?;
        let known = self.state.introspectors();
        let introspectors = assemble::introspectors(&config, &known, &self.state.metrics.introspections)?;
        let receivers = receivers(&config, &self.state)?;
        Ok(Next { config, certificates, introspectors, receivers })
    }

    /// Replaces what is in force; a decision meets either all of the old or all of the new.
    fn put_in_force(&mut self, next: Next) {
        let Next { config, certificates, introspectors, receivers } = next;
        let later = self.started_with.needs_restart(&config);
        if !later.is_empty() {
            warn!(sections = ?later, "changed sections that take effect at the next start");
        }
        if let (Some(tls), Some(certificates)) = (&self.tls, certificates) {
            tls.put_in_force(certificates);
        }
        self.receivers = receivers;
        let sources = key_sources(&config, &self.client, &self.sources);
        let old = self.state.policy();
        let mut policy = assemble::policy(&config);
        // Keys from the same place stay in force; the others are fetched.
        for source in sources.iter().filter(|source| self.sources.iter().any(|known| source.continues(known))) {
            policy = policy.with_keys(&source.issuer, old.keys_of(&source.issuer));
        }
        self.state.replica.retain_for(config.revocation.retention);
        self.state.replica.adopt_for(assemble::adopting_issuers(&config));
        policy.responder = policy.responder.replacing(&old.responder, clock::now());
        // Who is asked comes before the policy that asks.
        self.state.set_introspectors(introspectors);
        self.state.set_keys(KeySources::new(sources.clone()));
        self.state.set_policy(policy);
        self.sources = sources;
        self.watched = config.watched_files().to_vec();
        self.state.metrics.config_reloads.with_label_values(&["ok"]).inc();
        info!("configuration reloaded");
    }

    fn start_fetchers(&self, fetchers: &mut JoinSet<()>) {
        for source in &self.sources {
            let (source, state) = (source.clone(), self.state.clone());
            fetchers.spawn(async move { source.run(|issuer, update| publish(&state, issuer, update)).await });
        }
        for receiver in &self.receivers {
            let (receiver, state) = (receiver.clone(), self.state.clone());
            let name = receiver.name().clone();
            fetchers.spawn(async move {
                receiver.run(|id, set| take(state.clone(), name.clone(), id, set)).await;
            });
        }
    }
}

/// Receivers hold nothing that must outlive a reload: what they have not acknowledged comes again.
fn receivers(config: &Config, state: &State) -> anyhow::Result<Vec<Arc<Receiver>>> {
    Ok(assemble::receivers(config, &state.metrics)?.into_iter().map(Arc::new).collect())
}

/// What becomes of an event that was polled for.
async fn take(state: Arc<State>, from: IssuerName, id: String, set: String) -> Verdict {
    match events::take(&state, &set, events::Delivery::Polled(&from, &id)).await {
        Ok(()) => Verdict::Acknowledged,
        Err(error) => match error.code() {
            Some(code) => Verdict::Refused { code, description: error.description() },
            None => Verdict::Later,
        },
    }
}

/// A source for every issuer whose keys are fetched; one with the same settings is kept, and one that reads
/// from the same place goes on from what was read.
fn key_sources(config: &Config, client: &reqwest::Client, known: &[Arc<KeySource>]) -> Vec<Arc<KeySource>> {
    let source = |(name, settings): (&IssuerName, KeySettings)| {
        let same = known.iter().find(|source| source.issuer == *name && *source.settings() == settings);
        same.cloned().unwrap_or_else(|| {
            let source = KeySource::new(name.clone(), settings, client.clone());
            Arc::new(known.iter().fold(source, |source, known| source.continuing(known)))
        })
    };
    assemble::all_key_settings(config).map(source).collect()
}

fn publish(state: &State, issuer: &IssuerName, update: Update) {
    let result = match update {
        Update::Loaded { keys, unfit } => {
            state.publish_keys(issuer, Some(&keys));
            state.metrics.unfit_keys(issuer.as_str(), &unfit);
            report(issuer, &keys, &unfit);
            "ok"
        }
        Update::Failed { unfit } => {
            if !unfit.is_empty() {
                state.metrics.unfit_keys(issuer.as_str(), &unfit);
            }
            "failed"
        }
        Update::Withdrawn => {
            state.publish_keys(issuer, None);
            state.metrics.degraded.with_label_values(&["keys", "withdrawn"]).inc();
            "failed"
        }
    };
    state.metrics.jwks_fetches.with_label_values(&[issuer.as_str(), result]).inc();
}

/// What tells a changed file from the same one without reading it.
fn stamps(files: &[PathBuf]) -> HashMap<PathBuf, Stamp> {
    use std::os::unix::fs::MetadataExt;
    let stamp = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    };
    files.iter().map(|file| (file.clone(), stamp(file))).collect()
}
