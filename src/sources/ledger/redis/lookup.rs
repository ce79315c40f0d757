//! Lookups of one token in Redis: one round trip on a shared connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::types::Value;
use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep, timeout};

use super::super::LedgerError;
use super::RedisLedger;
use super::answer::Answer;
use super::foreign;
use super::session::{Command, Session, unavailable, unexpected};
use super::wire;
use crate::authz::claims::Timestamp;
use crate::authz::revocation::{Hit, Kind, Origin, Target, Watermark};

/// The connection for everything that neither blocks nor watches.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    missing: Notify,
}

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    failed_at: Option<Instant>,
}

impl Shared {
    /// The time after a failure to connect for which lookups fail at once instead of waiting.
    const BREAK: Duration = Duration::from_millis(200);

    pub(super) async fn lookup(
        &self,
        ledger: &RedisLedger,
        targets: &[Target],
        issued_at: Option<Timestamp>,
    ) -> Result<Option<Hit>, LedgerError> {
        let keys = targets.iter().map(|target| ledger.keys.target(target));
        let mget = Command::new("MGET").args(keys);
        let (values, adopted) = tokio::try_join!(
            self.call(ledger, mget, ledger.config.lookup_deadline),
            self.adopted(ledger, targets), // Sent with it: one round trip.
        )?;
        if adopted {
            return Ok(Some(Hit { kind: Kind::Token, origin: Origin::Revoked, watermark: Watermark::FOREVER }));
        }
        let Value::Array(values) = values else { return Err(unexpected("array", &values)) };
        let hits = targets.iter().zip(values).filter_map(|(target, value)| {
            if value.is_null() {
                return None;
            }
            // A key that exists but cannot be parsed counts as a revocation.
            let stored = value.bytes().and_then(foreign::plain).and_then(|text| wire::parse_value(&text));
            let (watermark, origin) = stored.unwrap_or((Watermark::FOREVER, Origin::Revoked));
            watermark.covers(issued_at).then_some(Hit { kind: target.kind, origin, watermark })
        });
        Ok(hits.max_by_key(|hit| (hit.origin, hit.watermark)))
    }

    /// Whether another service's key names the token; its value does not matter.
    async fn adopted(&self, ledger: &RedisLedger, targets: &[Target]) -> Result<bool, LedgerError> {
        let tokens = targets.iter().filter(|target| target.kind == Kind::Token);
        let adopt = ledger.config.adopt.as_ref();
        let Some((adopt, tokens)) = adopt.zip(Some(tokens)) else { return Ok(false) };
        let asks = tokens.flat_map(|token| adopt.lookup_commands(&token.id));
        let asks = asks.map(|ask| self.call(ledger, ask, ledger.config.lookup_deadline));
        for answer in futures_util::future::try_join_all(asks).await? {
            if answer.as_i64().ok_or_else(|| unexpected("integer", &answer))? > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the store has this registration; unlike a revocation, one that cannot be parsed is
    /// ignored.
    pub(super) async fn is_registered(
        &self,
        ledger: &RedisLedger,
        target: &Target,
        issued_at: Option<Timestamp>,
    ) -> Result<bool, LedgerError> {
        let get = Command::new("GET").arg(ledger.keys.target(target));
        let value = self.call(ledger, get, ledger.config.lookup_deadline).await?;
        let stored = value.bytes().and_then(foreign::plain).and_then(|text| wire::parse_value(&text));
        Ok(stored.is_some_and(|(watermark, _)| watermark.covers(issued_at)))
    }

    /// Runs a command on the shared connection; the deadline includes connecting.
    pub(super) async fn call(
        &self,
        ledger: &RedisLedger,
        command: Command,
        deadline: Duration,
    ) -> Result<Value, LedgerError> {
        self.within(ledger, deadline, async |session| session.call(command, deadline).await).await
    }

    /// Commands in one round trip on the shared connection, answered in order.
    pub(super) async fn pipeline(
        &self,
        ledger: &RedisLedger,
        commands: Vec<Command>,
    ) -> Result<Vec<Value>, LedgerError> {
        let deadline = ledger.deadline();
        self.within(ledger, deadline, async |session| session.pipeline(commands, deadline).await).await
    }

    async fn within<T>(
        &self,
        ledger: &RedisLedger,
        deadline: Duration,
        ask: impl AsyncFnOnce(&Session) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let asked = async {
            let session = self.session(ledger).await?;
            let answer = ask(&session).await;
            if let Err(error) = &answer {
                ledger.warn_of_wrong_type(error);
                self.discard(&session).await;
            }
            answer
        };
        if let Ok(answer) = timeout(deadline, asked).await {
            return answer;
        }
        if let Ok(mut state) = self.state.try_lock() {
            state.session = None; // The connection may never answer again.
            self.missing.notify_one();
        }
        Err(LedgerError::Timeout { after: deadline })
    }

    async fn session(&self, ledger: &RedisLedger) -> Result<Arc<Session>, LedgerError> {
        let mut state = self.state.lock().await;
        if let Some(session) = state.session.as_ref().filter(|session| !session.has_ended()) {
            return Ok(Arc::clone(session));
        }
        if state.failed_at.is_some_and(|at| at.elapsed() < Self::BREAK) {
            return Err(unavailable("connecting failed a moment ago"));
        }
        state.failed_at = Some(Instant::now()); // Stands if this future is dropped at its deadline.
        let session = Arc::new(ledger.session().await?);
        *state = State { session: Some(Arc::clone(&session)), failed_at: None };
        Ok(session)
    }

    async fn discard(&self, broken: &Arc<Session>) {
        let mut state = self.state.lock().await;
        if state.session.as_ref().is_some_and(|session| Arc::ptr_eq(session, broken)) {
            state.session = None;
            self.missing.notify_one();
        }
    }

    /// Keeps a connection open in advance: discovery and TLS may take longer than the deadline of a lookup.
    pub(super) async fn keep_connected(&self, ledger: &RedisLedger) {
        loop {
            while self.session(ledger).await.is_err() {
                sleep(Self::BREAK).await;
            }
            self.missing.notified().await;
        }
    }
}
