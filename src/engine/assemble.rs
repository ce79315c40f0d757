//! Builds each module's part from the configuration.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus::IntCounterVec;

use crate::authz::claims::IssuerName;
use crate::clock;
use crate::config::{self, Config, IssuerConfig, KeySource, Store};
use crate::metrics::{AllowedCounters, Metrics};
use crate::sources::alarm::{AlarmSettings, ReplayAlarm, Webhook, WebhookSender};
use crate::sources::introspection::{IntrospectionSettings, Introspector, Introspectors};
use crate::sources::jwks::KeySettings;
use crate::sources::ledger::{Adopt, AdoptedKeys, EmbeddedLedger, Redis, RedisConfig, RedisLedger, RevocationLedger};
use crate::sources::relay::{Relay, RelaySettings, RelayStats};
use crate::sources::replica::Replica;
use crate::sources::signals::{Receiver, ReceiverSettings};
use crate::sources::status_lists::StatusListSettings;
use crate::state::admin_key::AdminKeys;
use crate::state::{Policy, State};
use crate::traces::Traces;

/// The state for a configuration, with nothing read or fetched yet, and the sender of its replay alarms, if
/// one is configured. Call it within the runtime.
pub fn state(config: &Config) -> anyhow::Result<(Arc<State>, Option<WebhookSender>)> {
    let metrics = Arc::new(Metrics::new().context("register metrics")?);
    let traces = |endpoint: &String| Traces::new(endpoint, metrics.trace_exports.clone());
    let traces = config.telemetry.otlp_endpoint.as_ref().map(traces).transpose().context("telemetry.otlp.endpoint")?;
    let replica = Arc::new(Replica::new(ledger(config)?, metrics.store.clone()));
    metrics.store_durable.set(i64::from(config.revocation.store != Store::Embedded { path: None }));
    replica.retain_for(config.retention, longest_leeway(config));
    replica.expect_issuers(issuer_names(config));
    let (alarm, webhook_sender) = alarm(config, &metrics)?;
    let introspectors = introspectors(config, &Introspectors::default(), &metrics.introspections)?;
    replica.streams().limit(config.limits.streams);
    let state = State::new(policy(config), replica, metrics, alarm, traces);
    state.set_introspectors(introspectors);
    Ok((Arc::new(state), webhook_sender))
}

/// The policy of a configuration; keys that must be fetched are not in it yet.
#[must_use]
pub fn policy(config: &Config) -> Policy {
    let admin_keys = AdminKeys::new(config.admin_keys.clone());
    let transmitters = config.transmitters.iter().map(|transmitter| Arc::new(transmitter.trusted.clone())).collect();
    let publisher = |issuer: &IssuerConfig| Some((issuer.trusted.name.clone(), issuer.publisher.clone()?));
    let publishers = config.issuers.iter().filter_map(publisher).collect();
    Policy {
        authorizer: config.authorizer(),
        responder: config.responder(),
        decision_log: config.decision_log,
        admin_keys,
        transmitters,
        max_wait: *config.limits.decision_timeout,
        max_waiting: config.limits.waiting_decisions,
        kept_answers: config.kept_answers,
        accept_loss: config.accept_loss,
        publishers,
        allowed: AllowedCounters::default(),
    }
}

/// How keys are kept fresh; `None` for keys that stand in the configuration.
#[must_use]
pub fn key_settings(keys: &KeySource) -> Option<&KeySettings> {
    match keys {
        KeySource::Inline | KeySource::Secret(_) => None,
        KeySource::Fetched(settings) => Some(settings),
    }
}

/// [`key_settings`] of issuers and of transmitters, by name.
pub fn all_key_settings(config: &Config) -> impl Iterator<Item = (&IssuerName, &KeySettings)> {
    let issuers = config.issuers.iter().map(|issuer| (&issuer.trusted.name, &issuer.keys));
    let transmitters = config.transmitters.iter().map(|from| (&from.trusted.name, &from.keys));
    issuers.chain(transmitters).filter_map(|(name, keys)| Some((name, key_settings(keys)?)))
}

/// The introspection clients; a client whose settings are unchanged is kept together with its cached answers.
pub fn introspectors(config: &Config, known: &Introspectors, asked: &IntCounterVec) -> anyhow::Result<Introspectors> {
    let introspector = |(name, settings): (&IssuerName, IntrospectionSettings)| {
        if let Some(same) = known.get(name).filter(|known| *known.settings() == settings) {
            return Ok(same.clone());
        }
        let introspector = Introspector::new(name.clone(), settings, asked.clone());
        introspector.map(Arc::new).with_context(|| format!("build the HTTP client for the introspection of {name}"))
    };
    let asked_about = config.issuers.iter().filter_map(|issuer| {
        let introspection = issuer.introspection.as_ref()?;
        let settings = IntrospectionSettings {
            url: introspection.url.clone(),
            client_id: introspection.client_id.clone(),
            client_secret: introspection.client_secret.clone(),
            cache: introspection.cache,
            timeout: introspection.timeout,
            max_answers: config.limits.introspection_cache,
            max_questions: config.limits.introspection_waiting,
            authorities: introspection.authorities.clone(),
        };
        Some((&issuer.trusted.name, settings))
    });
    asked_about.map(introspector).collect::<anyhow::Result<Vec<_>>>().map(Introspectors::new)
}

/// How the status lists of each issuer are fetched, where they are read.
pub fn status_list_settings(config: &Config) -> impl Iterator<Item = (&IssuerName, &StatusListSettings)> {
    config.issuers.iter().filter_map(|issuer| Some((&issuer.trusted.name, issuer.status_lists.as_ref()?)))
}

/// The webhook for presented revoked tokens.
fn alarm(config: &Config, metrics: &Metrics) -> anyhow::Result<(ReplayAlarm, Option<WebhookSender>)> {
    let configured = config.telemetry.replay_alarm.as_ref();
    let webhook = configured.map(|alarm| Webhook { url: alarm.url.clone(), token: alarm.token.clone() });
    let per_minute = configured.map_or(DEFAULT_ALARMS, |alarm| alarm.per_minute);
    let settings = AlarmSettings { per_minute, webhook };
    ReplayAlarm::new(settings, metrics.replay_alarms.clone())
        .context("build the HTTP client for telemetry.replay_alarm")
}

/// The default limit of log lines about presented revoked tokens, per minute.
const DEFAULT_ALARMS: u32 = 60;

/// The receivers of all transmitters; each goes on with what one of `known` knows.
pub fn receivers(config: &Config, metrics: &Metrics, known: &[Arc<Receiver>]) -> anyhow::Result<Vec<Arc<Receiver>>> {
    let receiver = |from: &config::Transmitter| {
        let settings = ReceiverSettings {
            name: from.trusted.name.clone(),
            issuer: from.trusted.issuer.clone(),
            audience: from.trusted.audience.clone(),
            credential: from.credential.clone(),
            poll: from.poll.clone(),
            stream: from.stream.clone(),
            stream_key: from.trusted.stream_key.clone(),
            push_token: from.push_token.clone(),
            authorities: from.authorities.clone(),
        };
        Receiver::new(settings, known, metrics.signal_requests.clone(), metrics.signals_stream_up.clone())
            .map(Arc::new)
            .context("build the HTTP client for signals")
    };
    config.transmitters.iter().map(receiver).collect()
}

/// The store of the revocations, opened or about to be connected.
pub fn ledger(config: &Config) -> anyhow::Result<RevocationLedger> {
    Ok(match &config.revocation.store {
        Store::Embedded { path: None } => RevocationLedger::Embedded(EmbeddedLedger::in_memory()),
        Store::Embedded { path: Some(path) } => {
            RevocationLedger::Embedded(EmbeddedLedger::open(path, clock::now()).context("revocation.embedded.path")?)
        }
        Store::Redis { server, adopt, .. } => {
            let redis = RedisLedger::new(redis_config(config, server, adopt.as_ref()));
            RevocationLedger::from(redis.context("revocation.redis")?)
        }
    })
}

fn redis_config(config: &Config, server: &Redis, adopt: Option<&AdoptedKeys>) -> RedisConfig {
    RedisConfig {
        adopt: adopt.map(|keys| Adopt {
            keys: keys.clone(),
            within: shortest_staleness(config),
            issuers: adopting_issuers(config),
        }),
        allow_eviction: config.revocation.allow_eviction,
        retention: config.retention,
        leeway: longest_leeway(config),
        command_deadline: *config.limits.store_timeout,
        write_deadline: *config.limits.store_timeout,
        lookup_deadline: config.limits.lookup_timeout.min(*config.limits.store_timeout),
        ..RedisConfig::new(server.clone())
    }
}

/// The relays to the stores of other regions; `process` is the name of this one for its peers.
pub fn relays(config: &Config, process: &str, stats: &RelayStats) -> anyhow::Result<Vec<Arc<Relay>>> {
    let Store::Redis { server, relay: others, .. } = &config.revocation.store else { return Ok(Vec::new()) };
    let redis = |server: &Redis| RedisConfig {
        allow_eviction: config.revocation.allow_eviction,
        retention: config.retention,
        leeway: longest_leeway(config),
        ..Relay::config(server.clone())
    };
    let relay = |(at, to): (usize, &Redis)| {
        let (name, process) = (format!("relay.{at}").into(), process.into());
        let settings = RelaySettings { name, process, from: redis(server), to: redis(to) };
        Relay::new(settings, stats.clone()).map(Arc::new).context("revocation.redis.relay")
    };
    (1..).zip(others).map(relay).collect()
}

/// The longest time for which a token of any issuer is accepted after its `exp`.
#[must_use]
pub fn longest_leeway(config: &Config) -> Duration {
    config.issuers.iter().map(|issuer| issuer.trusted.leeway).max().unwrap_or_default()
}

/// The names under which revocations refuse tokens, former ones included.
#[must_use]
pub fn issuer_names(config: &Config) -> Vec<IssuerName> {
    config.issuers.iter().flat_map(|issuer| issuer.trusted.names().cloned()).collect()
}

/// Adopted keys are read often enough for the strictest rule.
#[must_use]
pub fn shortest_staleness(config: &Config) -> Duration {
    let by_rule = config.rules.iter().filter_map(|rule| rule.max_staleness);
    by_rule.fold(config.max_staleness, Duration::min)
}

/// The issuers whose token ids an adopted key may name: all of them, because the key names none.
#[must_use]
pub fn adopting_issuers(config: &Config) -> Vec<(IssuerName, Duration)> {
    config.issuers.iter().map(|issuer| (issuer.trusted.name.clone(), issuer.trusted.leeway)).collect()
}
