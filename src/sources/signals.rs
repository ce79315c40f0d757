//! Receives security events that are not pushed: polls for them (RFC 8936), and sets streams up and verifies
//! them by the transmitter's metadata (SSF 1.0 sections 7 and 8).
//!
//! Every instance does so. The instance that receives an event writes its revocation into the shared log,
//! and an event that two instances receive has the effect of one.

mod poll;
mod stream;

use std::borrow::Cow;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec};
use reqwest::{Method, RequestBuilder};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tracing::{info, warn};

use super::http::{Authorities, Chain, Client, HttpError, Redirects, send};
use crate::authz::claims::IssuerName;
use crate::authz::jwks::without_mark;

/// The settings of one transmitter.
#[derive(Clone, Debug)]
pub struct ReceiverSettings {
    pub name: IssuerName,
    /// The transmitter's issuer, by which its metadata is found.
    pub issuer: String,
    pub poll: Option<PollSettings>,
    pub stream: Option<StreamSettings>,
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
    pub token: Option<SecretString>,
    /// The interval of verifications.
    pub verify: Duration,
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
    #[error("answer not understood: {0}")]
    Answer(&'static str),
}

/// The receiver of one transmitter's events.
pub struct Receiver {
    settings: ReceiverSettings,
    client: Client,
    /// By operation and result.
    requests: IntCounterVec,
    up: IntGaugeVec,
}

/// The pauses after a failed request: doubled from the first to the longest.
const BACKOFF: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(60)];

impl Receiver {
    /// The largest answer that is read, in bytes: one poll's worth of tokens.
    const MAX_BODY: usize = 1 << 20;

    /// Fails only if the HTTP client cannot be built.
    pub fn new(settings: ReceiverSettings, requests: IntCounterVec, up: IntGaugeVec) -> Result<Self, reqwest::Error> {
        let client = Client::new(settings.authorities.as_ref(), Redirects::Refused)?;
        Ok(Self { settings, client, requests, up })
    }

    #[must_use]
    pub fn name(&self) -> &IssuerName {
        &self.settings.name
    }

    /// Receives for ever; `take` processes an event, given its id and its text, and returns the outcome.
    pub async fn run<F>(&self, take: impl Fn(String, String) -> F + Sync)
    where
        F: Future<Output = Verdict> + Send,
    {
        let up = Up::new(self);
        loop {
            let stream = match &self.settings.stream {
                Some(settings) => Some((settings, self.set_up_patiently(settings, &up).await)),
                None => None,
            };
            let polled = async {
                let Some(poll) = &self.settings.poll else { return std::future::pending().await };
                let offered = stream.as_ref().and_then(|(_, stream)| stream.poll_url.as_ref());
                let Some(url) = poll.url.as_ref().or(offered) else {
                    warn!(transmitter = %self.settings.name, "the stream names no endpoint to poll");
                    return std::future::pending().await;
                };
                self.poll(url, poll, &up, &take).await;
            };
            let verified = async {
                match &stream {
                    Some((settings, stream)) => self.keep_verified(settings, stream, &up).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = polled => {}
                () = verified => {} // The stream is gone: set up another.
            }
        }
    }

    /// Sends a request and parses its JSON response; `None` if that is empty.
    async fn ask(
        &self,
        operation: &'static str,
        request: RequestBuilder,
        timeout: Duration,
    ) -> Result<Option<Value>, SignalError> {
        let answer = Self::parsed(request, timeout).await;
        let result = if answer.is_ok() { "ok" } else { "failed" };
        self.requests.with_label_values(&[operation, result]).inc();
        answer
    }

    async fn parsed(request: RequestBuilder, timeout: Duration) -> Result<Option<Value>, SignalError> {
        let body = send(request, timeout, Self::MAX_BODY).await?.body;
        if body.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(without_mark(&body)).map(Some).map_err(|_| SignalError::Answer("not JSON"))
    }

    fn request(
        &self,
        method: Method,
        url: &str,
        token: Option<&SecretString>,
        insecure: bool,
    ) -> Result<RequestBuilder, SignalError> {
        let request = self.client.request(method, url, insecure)?.header("accept", "application/json");
        Ok(token.into_iter().fold(request, |request, token| request.bearer_auth(token.expose_secret())))
    }

    fn failed(&self, doing: &'static str, error: &SignalError, pause: Duration) {
        warn!(transmitter = %self.settings.name, doing, error = %Chain(error), ?pause, "signals transmitter fails");
    }

    fn works_again(&self, doing: &'static str) {
        info!(transmitter = %self.settings.name, doing, "signals transmitter works again");
    }
}

/// The parts that must work for events of a transmitter to arrive.
#[derive(Clone, Copy)]
enum Part {
    Stream,
    Poll,
}

/// Whether each part works; the gauge shows whether all do. A replaced receiver keeps an unused gauge.
struct Up {
    gauge: IntGauge,
    parts: [AtomicBool; 2],
}

impl Up {
    /// A part that is not configured counts as working.
    fn new(receiver: &Receiver) -> Self {
        let ReceiverSettings { name, stream, poll, .. } = &receiver.settings;
        let gauge = receiver.up.with_label_values(&[name.as_str()]);
        gauge.set(0);
        Self { gauge, parts: [stream.is_none(), poll.is_none()].map(AtomicBool::new) }
    }

    fn note(&self, part: Part, works: bool) {
        self.parts[part as usize].store(works, Ordering::Relaxed);
        self.gauge.set(i64::from(self.parts.iter().all(|part| part.load(Ordering::Relaxed))));
    }
}
