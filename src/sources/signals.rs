//! Receives security events that are not pushed: polls for them (RFC 8936), and sets streams up, verifies and deletes
//! them by the transmitter's metadata (SSF 1.0 sections 7 and 8).
//!
//! One of the instances on one store owns the stream of a transmitter, under a lease: it polls, verifies and reports the
//! state. The instance that receives an event writes its revocation into the shared log, from which all instances have
//! it; an event that two instances receive has the effect of one.

mod credentials;
mod delete;
mod health;
mod owner;
mod poll;
mod stream;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use prometheus::{IntCounterVec, IntGaugeVec};
use reqwest::{Method, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tracing::{info, warn};

use super::http::{Authorities, Chain, Client, FetchResult, HttpError, Redirects, send};
use super::ledger::LedgerError;
use super::replica::Replica;
use crate::authz::claims::{IssuerName, Timestamp};
use crate::authz::jwks::without_mark;
use crate::authz::labels;
use crate::authz::signals::StreamKey;
use credentials::Access;
pub use credentials::{ClientAuthentication, ClientCredentials, Credential};
pub use delete::DeleteError;
use health::{Health, Known};
pub use health::{StreamRecord, StreamState, Tally};

labels! {
    /// A request to the API of a transmitter.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum Operation {
        Poll = "poll",
        Metadata = "metadata",
        /// Reads, creates or changes the stream.
        Stream = "stream",
        Delete = "delete",
        Status = "status",
        Verification = "verification",
    }
}

/// The settings of one transmitter.
#[derive(Clone, Debug)]
pub struct ReceiverSettings {
    pub name: IssuerName,
    /// The transmitter's issuer, by which its metadata is found.
    pub issuer: String,
    /// The audience that its events must name.
    pub audience: String,
    /// For the transmitter's API, and for polling where that has no token of its own.
    pub credential: Option<Credential>,
    pub poll: Option<PollSettings>,
    pub stream: Option<StreamSettings>,
    /// Makes the states of verifications.
    pub stream_key: Option<StreamKey>,
    /// The `Authorization` header that the transmitter shall send with pushed events.
    pub push_token: Option<SecretString>,
    /// Trusted instead of the system's.
    pub authorities: Option<Authorities>,
}

/// The polling settings (RFC 8936).
#[derive(Clone, Debug)]
pub struct PollSettings {
    /// `None`: from the stream.
    pub url: Option<String>,
    pub token: Option<SecretString>,
    /// The pause between two empty polls.
    pub interval: Duration,
    pub insecure: bool,
}

/// The settings of a stream (SSF 1.0 section 8).
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// `None`: events are polled.
    pub push_url: Option<String>,
    /// The interval of verifications.
    pub verify: Duration,
    /// The time within which a requested verification event must arrive.
    pub silent_after: Duration,
    pub insecure: bool,
}

/// The outcome of one event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    Acknowledged,
    Refused {
        code: &'static str,
        description: Cow<'static, str>,
    },
    /// Neither: the transmitter should send it again.
    Later,
}

/// Why a request to a transmitter failed.
#[derive(Debug, thiserror::Error)]
enum SignalError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("request a token")]
    Token(#[source] HttpError),
    #[error("read the metadata of the authorization server")]
    Metadata(#[source] HttpError),
    #[error("answer not understood: not JSON")]
    NotJson,
    #[error("answer not understood: {0}")]
    Answer(&'static str),
    /// A stream was created that cannot be used.
    #[error("answer not understood: {0}")]
    Created(&'static str),
    #[error(transparent)]
    Store(#[from] LedgerError),
}

impl SignalError {
    /// Whether the transmitter has no such stream.
    fn is_unknown(&self) -> bool {
        matches!(self, Self::Http(HttpError::Status(404)))
    }

    /// Whether the transmitter refuses the request, so that a repetition would be refused too.
    fn is_refusal(&self) -> bool {
        matches!(self, Self::Http(HttpError::Status(400..=428)))
    }
}

/// The receiver of one transmitter's events.
pub struct Receiver {
    settings: ReceiverSettings,
    /// Names the transmitter in the store.
    id: Box<str>,
    client: Client,
    access: Access,
    /// `None`: polls use `access`.
    poll_access: Option<Access>,
    health: Arc<Health>,
    /// By operation and result.
    requests: IntCounterVec,
    up: IntGaugeVec,
}

/// The facts about a transmitter for operators.
#[derive(Clone, Debug)]
pub struct Shown {
    pub name: IssuerName,
    pub issuer: String,
    pub audience: String,
    pub polled: bool,
    /// Whether Doorward sets the stream up.
    pub managed: bool,
    /// `None`: nothing is known of a stream that an operator has set up and that is pushed.
    pub state: Option<StreamState>,
    pub owner: Option<String>,
    pub stream_id: Option<String>,
    /// When its latest requested verification event arrived.
    pub verified_at: Option<Timestamp>,
    pub problem: Option<String>,
    /// The events that this instance received.
    pub events: [u64; Tally::ALL.len()],
    pub last_event: Option<Timestamp>,
}

/// The pauses after a failed request: doubled from the first to the longest.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(60)];

impl Receiver {
    /// The largest answer that is read, in bytes: one poll's worth of tokens.
    const MAX_BODY: usize = 1 << 20;

    /// Goes on with what one of `known` knows of the same transmitter. Fails only if the HTTP client cannot be built.
    pub fn new(
        settings: ReceiverSettings,
        known: &[Arc<Self>],
        requests: IntCounterVec,
        up: IntGaugeVec,
    ) -> Result<Self, reqwest::Error> {
        let client = Client::new(settings.authorities.as_ref(), Redirects::Refused)?;
        let id = id_of(&settings.issuer, &settings.audience);
        let health = known.iter().find(|known| known.id == id).map(|known| known.health.clone()).unwrap_or_default();
        let poll_token = settings.poll.as_ref().and_then(|poll| poll.token.clone());
        let poll_access = poll_token.map(|token| Access::new(Some(Credential::Token(token))));
        let access = Access::new(settings.credential.clone());
        Ok(Self { settings, id, client, access, poll_access, health, requests, up })
    }

    #[must_use]
    pub fn name(&self) -> &IssuerName {
        &self.settings.name
    }

    /// Names the transmitter in the store: a digest of its issuer and its audience.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The issuer of the transmitter, if Doorward sets its stream up.
    #[must_use]
    pub fn issuer_of_stream(&self) -> Option<&str> {
        self.settings.stream.as_ref().map(|_| &*self.settings.issuer)
    }

    /// Whether it has something to do by itself: to poll, or to keep a stream.
    fn is_active(&self) -> bool {
        self.settings.poll.is_some() || self.settings.stream.is_some()
    }

    /// Counts the outcome of an event.
    pub fn count(&self, tally: Tally) {
        self.health.count(tally);
    }

    /// Whether an event about a stream is about this one. An event that names no stream is about the only one.
    pub async fn is_about(&self, store: &Replica, named: Option<&str>) -> bool {
        let (Some(named), Some(_)) = (named, &self.settings.stream) else { return true };
        if self.health.known().stream_id.as_deref() == Some(named) {
            return true;
        }
        // Another instance may have set it up a moment ago; while it is being set up, its id is not known.
        let notes = store.signal_notes(&self.id).await.unwrap_or_default();
        let record = notes.stream.as_deref().and_then(StreamRecord::parse).unwrap_or_default();
        record.stream_id.is_none_or(|ours| ours == named)
    }

    #[must_use]
    pub fn shown(&self) -> Shown {
        let ReceiverSettings { name, issuer, audience, poll, stream, .. } = &self.settings;
        let known = self.health.known().clone();
        Shown {
            name: name.clone(),
            issuer: issuer.clone(),
            audience: audience.clone(),
            polled: poll.is_some(),
            managed: stream.is_some(),
            state: self.is_active().then(|| known.state()),
            owner: known.owner,
            stream_id: known.stream_id,
            verified_at: known.verified_at,
            problem: known.problem,
            events: self.health.tallies(),
            last_event: self.health.last_event(),
        }
    }

    /// Changes what is known, shows the result, and logs a new state.
    fn change(&self, change: impl FnOnce(&mut Known)) {
        let name = &self.settings.name;
        let [before, after] = self.health.change(&self.up.with_label_values(&[name.as_str()]), change);
        if before == after {
            return;
        }
        let state = after.as_str();
        match after {
            StreamState::Enabled | StreamState::SettingUp => info!(transmitter = %name, state, "signals stream"),
            _ => warn!(transmitter = %name, state, "signals stream: its events do not arrive"),
        }
    }

    /// Sends an authorized request and parses its JSON response; `None` if that is empty. A token that the transmitter
    /// refuses is replaced once.
    async fn ask(
        &self,
        operation: Operation,
        access: &Access,
        request: RequestBuilder,
        timeout: Duration,
    ) -> Result<Option<Value>, SignalError> {
        let answer = self.authorized(access, request, timeout).await;
        let result = if answer.is_ok() { FetchResult::Ok } else { FetchResult::Failed };
        self.requests.with_label_values(&[operation.label(), result.label()]).inc();
        answer
    }

    async fn authorized(
        &self,
        access: &Access,
        request: RequestBuilder,
        timeout: Duration,
    ) -> Result<Option<Value>, SignalError> {
        let again = request.try_clone();
        let token = access.token(&self.client).await?;
        let answer = parsed(bearing(request, token.as_ref()), timeout).await;
        match (answer, token, again) {
            (Err(SignalError::Http(HttpError::Status(401))), Some(token), Some(again))
                if access.discard(&token).await =>
            {
                let token = access.token(&self.client).await?;
                parsed(bearing(again, token.as_ref()), timeout).await
            }
            (answer, ..) => answer,
        }
    }

    fn request(&self, method: Method, url: &str, insecure: bool) -> Result<RequestBuilder, SignalError> {
        Ok(self.client.request(method, url, insecure)?.header("accept", "application/json"))
    }

    fn failed(&self, doing: &'static str, error: &SignalError, pause: Duration) {
        warn!(transmitter = %self.settings.name, doing, error = %Chain(error), ?pause, "signals transmitter fails");
    }

    fn works_again(&self, doing: &'static str) {
        info!(transmitter = %self.settings.name, doing, "signals transmitter works again");
    }
}

/// A failure for operators, of bounded length.
fn problem(doing: &str, error: &SignalError) -> String {
    format!("{doing}: {}", Chain(error)).chars().take(200).collect()
}

fn bearing(request: RequestBuilder, token: Option<&SecretString>) -> RequestBuilder {
    token.into_iter().fold(request, |request, token| request.bearer_auth(token.expose_secret()))
}

async fn parsed(request: RequestBuilder, timeout: Duration) -> Result<Option<Value>, SignalError> {
    let body = send(request, timeout, Receiver::MAX_BODY).await?.body;
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(without_mark(&body)).map(Some).map_err(|_| SignalError::NotJson)
}

/// 128 bits of SHA-256 in hex.
fn id_of(issuer: &str, audience: &str) -> Box<str> {
    let digest = digest::digest(&digest::SHA256, format!("{issuer}\0{audience}").as_bytes());
    let hex = digest.as_ref().iter().take(16).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // Writing to text does not fail.
        hex
    });
    hex.into()
}
