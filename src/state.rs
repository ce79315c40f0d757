//! State shared by the protocol front ends: the policy in force, behind one pointer, and the revocations.

pub mod admin_key;
mod key_history;
mod refusals;
mod status;
mod waits;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::authz::answer::Responder;
use crate::authz::authorizer::{Authorizer, View};
use crate::authz::claims::IssuerName;
use crate::authz::dpop::{Nonces, SpentProofs};
use crate::authz::jwks::{Jwks, KeyDigest};
use crate::authz::replay::Replays;
use crate::authz::signals::Transmitter;
use crate::authz::status_list::StatusLists;
use crate::authz::status_publisher::StatusPublisher;
use crate::authz::stream_proof::{Proofs, Secret};
use crate::clock::Steady;
use crate::metrics::{AllowedCounters, Metrics};
pub use crate::sources::alarm::Presented;
use crate::sources::alarm::ReplayAlarm;
use crate::sources::introspection::Introspectors;
pub use crate::sources::jwks::KeySource;
use crate::sources::jwks::KeySources;
pub use crate::sources::ledger::{LedgerError, Position};
use crate::sources::relay::Relay;
pub use crate::sources::replica::{Peer, Receipt, Replica, ReplicaState};
use crate::sources::signals::Receiver;
use crate::sources::status_lists::StatusListSources;
use crate::sources::streams::LiveStreams;
use crate::traces::Traces;
use admin_key::AdminKeys;
use key_history::KeyHistory;
pub use refusals::{Refusal, RefusalCount, RefusalKind, Refusals};
pub use waits::{Waiting, Waits};

/// The policy of decisions and answers; immutable, swapped as a whole.
#[derive(Clone)]
pub struct Policy {
    pub authorizer: Authorizer,
    pub responder: Responder,
    pub decision_log: DecisionLog,
    pub admin_keys: AdminKeys,
    /// The transmitters whose security events are applied.
    pub transmitters: Vec<Arc<Transmitter>>,
    /// The longest wait of a decision for keys or for the store.
    pub max_wait: Duration,
    /// The most decisions that may wait for one resource at once.
    pub max_waiting: usize,
    /// How long proxies that ask over HTTP may keep an answer, at most.
    pub kept_answers: Duration,
    /// Issuers' names may get another meaning while revocations live.
    pub accept_loss: bool,
    /// The status lists that are published, by issuer.
    pub publishers: Vec<(IssuerName, Arc<StatusPublisher>)>,
    /// Set when the policy comes into force.
    pub allowed: AllowedCounters,
}

impl Policy {
    /// This policy with other keys for one issuer or transmitter.
    #[must_use]
    pub fn with_keys(&self, name: &IssuerName, keys: Option<&Jwks>) -> Self {
        let replace = |transmitter: &Arc<Transmitter>| {
            if transmitter.name == *name {
                Arc::new(Transmitter { keys: keys.cloned(), ..(**transmitter).clone() })
            } else {
                transmitter.clone()
            }
        };
        let transmitters = self.transmitters.iter().map(replace).collect();
        Self { authorizer: self.authorizer.with_keys(name, keys), transmitters, ..self.clone() }
    }

    /// This policy with counters for its rules, with answers that seal the subjects of streams, and with nonces for DPoP
    /// proofs.
    #[must_use]
    fn in_force(mut self, secrets: &[Secret]) -> Self {
        let rules = || self.authorizer.rules.iter().chain([&*self.authorizer.default_rule]);
        self.allowed = AllowedCounters::new(rules().map(|rule| &rule.name));
        let proofs = Proofs::new(secrets, rules().map(|rule| rule.name.clone()));
        self.responder = self.responder.proving(proofs);
        self.authorizer.nonces = Some(Arc::new(Nonces::new(secrets)));
        self
    }

    /// The keys in force of an issuer or a transmitter.
    #[must_use]
    pub fn keys_of(&self, name: &IssuerName) -> Option<&Jwks> {
        let transmitter = || self.transmitters.iter().find(|transmitter| transmitter.name == *name);
        match self.authorizer.issuer_named(name) {
            Some(issuer) => issuer.keys.as_ref(),
            None => transmitter()?.keys.as_ref(),
        }
    }
}

/// The decisions that are logged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionLog {
    /// Refusals.
    #[default]
    Denied,
    All,
    None,
}

/// The state of one running Doorward.
pub struct State {
    policy: ArcSwap<Policy>,
    keys: ArcSwap<KeySources>,
    introspectors: ArcSwap<Introspectors>,
    receivers: ArcSwap<Vec<Arc<Receiver>>>,
    relays: ArcSwap<Vec<Arc<Relay>>>,
    status_sources: ArcSwap<StatusListSources>,
    /// The status lists of issuers.
    pub status_lists: Arc<StatusLists>,
    pub replica: Arc<Replica>,
    pub metrics: Arc<Metrics>,
    /// Messages that were applied already.
    pub replays: Replays,
    /// DPoP proofs that were used at this process.
    pub spent_proofs: SpentProofs,
    /// Notified when a revoked token is presented.
    pub alarm: ReplayAlarm,
    pub waits: Waits,
    /// The refusals of the last minutes.
    pub refusals: Refusals,
    /// `None`: no decision is traced.
    pub traces: Option<Traces>,
    /// The secrets that seal stream proofs and nonces, the current one first.
    secrets: Mutex<Vec<Secret>>,
    /// The earlier keys of issuers.
    key_history: KeyHistory,
}

/// The accepted secrets: the one in force, that of this process, and earlier ones.
const MAX_SECRETS: usize = 4;

impl State {
    /// No keys are fetched until [`Self::set_keys`] sets their sources, and no token is introspected until
    /// [`Self::set_introspectors`] sets the clients.
    #[must_use]
    pub fn new(
        policy: Policy,
        replica: Arc<Replica>,
        metrics: Arc<Metrics>,
        alarm: ReplayAlarm,
        traces: Option<Traces>,
    ) -> Self {
        replica.hold_for(policy.authorizer.longest_staleness());
        replica.share_leads(policy.authorizer.leads_of_all_names());
        replica.stand_for(&policy.authorizer.issuers, policy.accept_loss);
        let secrets = vec![rand::random()];
        let key_history = KeyHistory::default();
        for issuer in &policy.authorizer.issuers {
            key_history.follow(&issuer.name, issuer.keys.as_ref());
        }
        Self {
            policy: ArcSwap::from_pointee(policy.in_force(&secrets)),
            keys: ArcSwap::default(),
            introspectors: ArcSwap::default(),
            receivers: ArcSwap::default(),
            relays: ArcSwap::default(),
            status_sources: ArcSwap::default(),
            status_lists: Arc::default(),
            replica,
            metrics,
            replays: Replays::default(),
            spent_proofs: SpentProofs::default(),
            alarm,
            waits: Waits::default(),
            refusals: Refusals::default(),
            traces,
            secrets: Mutex::new(secrets),
            key_history,
        }
    }

    /// The streams of this process.
    pub fn streams(&self) -> &Arc<LiveStreams> {
        self.replica.streams()
    }

    /// Seals streams with the secret that all instances on this store share.
    pub fn share_secret(&self, secret: Secret) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        if secrets.first() == Some(&secret) {
            return;
        }
        secrets.retain(|known| *known != secret);
        secrets.insert(0, secret);
        secrets.truncate(MAX_SECRETS);
        self.policy.rcu(|policy| Policy::clone(policy).in_force(&secrets));
    }

    /// The sources of the keys.
    pub fn keys(&self) -> Arc<KeySources> {
        self.keys.load_full()
    }

    pub fn set_keys(&self, keys: KeySources) {
        self.keys.store(Arc::new(keys));
    }

    /// The issuers that answer introspection requests.
    pub fn introspectors(&self) -> Arc<Introspectors> {
        self.introspectors.load_full()
    }

    pub fn set_introspectors(&self, introspectors: Introspectors) {
        self.introspectors.store(Arc::new(introspectors));
    }

    /// The receivers of security events, one for each transmitter.
    pub fn receivers(&self) -> Arc<Vec<Arc<Receiver>>> {
        self.receivers.load_full()
    }

    /// The receiver of a transmitter.
    pub fn receiver(&self, name: &IssuerName) -> Option<Arc<Receiver>> {
        self.receivers.load().iter().find(|receiver| receiver.name() == name).cloned()
    }

    pub fn set_receivers(&self, receivers: Vec<Arc<Receiver>>) {
        self.receivers.store(Arc::new(receivers));
    }

    /// The relays to the stores of other regions.
    pub fn relays(&self) -> Arc<Vec<Arc<Relay>>> {
        self.relays.load_full()
    }

    pub fn set_relays(&self, relays: Vec<Arc<Relay>>) {
        self.relays.store(Arc::new(relays));
    }

    pub fn set_policy(&self, policy: Policy) {
        self.replica.hold_for(policy.authorizer.longest_staleness());
        self.replica.share_leads(policy.authorizer.leads_of_all_names());
        self.replica.stand_for(&policy.authorizer.issuers, policy.accept_loss);
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.policy.swap(Arc::new(policy.in_force(&secrets)));
        drop(secrets);
        self.end_streams_of(&old);
    }

    /// The policy in force now; a decision keeps the one that it began with.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// The same for a decision that does not wait: it counts no reference, which the workers would share. A thread has few
    /// such guards.
    pub fn policy_now(&self) -> Guard<Arc<Policy>> {
        self.policy.load()
    }

    /// Puts new keys of an issuer or a transmitter in force; `None`: the issuer has confirmed none for too long.
    ///
    /// Ends the streams of other keys, also of keys that this instance has never had (see `api::streams`).
    pub fn publish_keys(&self, issuer: &IssuerName, keys: Option<&Jwks>) {
        let old = self.policy.rcu(|policy| policy.with_keys(issuer, keys));
        if old.authorizer.issuer_named(issuer).is_none() {
            return; // A transmitter has no streams.
        }
        self.key_history.follow(issuer, keys);
        self.streams().keep_keys(issuer, |key| keys.is_some_and(|keys| keys.has(key)));
    }

    /// Whether a key of the issuer was in force here and has been withdrawn.
    pub fn has_withdrawn(&self, issuer: &IssuerName, key: KeyDigest) -> bool {
        self.key_history.has_withdrawn(issuer, key)
    }

    /// Ends the streams whose tokens `old` accepted and the present policy does not. Keys that are not loaded yet do
    /// not withdraw others: only the issuer's published set does.
    fn end_streams_of(&self, old: &Policy) {
        let policy = self.policy();
        for before in &old.authorizer.issuers {
            let now = policy.authorizer.issuer_once_named(&before.name);
            let Some(now) = now.filter(|now| now.issuer.covers(&before.issuer) && now.names_alike(before)) else {
                self.key_history.forget(&before.name);
                self.streams().remove_issuer(&before.name);
                continue;
            };
            if now.name != before.name {
                self.key_history.rename(&before.name, &now.name);
                self.streams().rename_issuer(&before.name, &now.name);
            }
            let withdrawn = self.key_history.follow(&now.name, now.keys.as_ref());
            self.streams().keep_keys(&now.name, |key| !withdrawn.contains(&key));
        }
        for issuer in &policy.authorizer.issuers {
            self.key_history.follow(&issuer.name, issuer.keys.as_ref());
        }
    }

    /// The current view of the revocations.
    pub fn view(&self) -> View<'_> {
        let now = Steady::now();
        View {
            age: self.replica.freshness().age(now),
            store_clock: self.replica.store_clock(),
            status_lists: Some(&self.status_lists),
            uptime: now.uptime(),
            ..View::of(self.replica.index())
        }
    }
}
