//! Reports that a revoked token was presented: in the log, and to a webhook.
//!
//! A decision never waits for an alarm: it counts, and puts a notification into a bounded queue.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntCounterVec;
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::sync::mpsc;
use tracing::warn;

use crate::authz::labels;

use super::http::{Chain, Client, HttpError, Redirects, send};

/// The receiver of the notifications and their rate.
#[derive(Clone, Debug)]
pub struct AlarmSettings {
    /// The most alarms in a minute.
    pub per_minute: u32,
    pub webhook: Option<Webhook>,
}

#[derive(Clone, Debug)]
pub struct Webhook {
    pub url: String,
    pub token: Option<SecretString>,
}

labels! {
    /// The result of an alarm.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum AlarmResult {
        Delivered = "delivered",
        /// The webhook did not take it.
        Failed = "failed",
        /// More than `per_minute`.
        Suppressed = "suppressed",
        /// Too many waited for the webhook.
        Dropped = "dropped",
    }
}

/// A revoked token that was presented, without its text.
#[derive(Clone, Debug, Serialize)]
pub struct Presented {
    pub event: &'static str,
    /// RFC 3339.
    pub at: String,
    /// The kind of the revocation that refused it.
    pub kind: &'static str,
    pub origin: &'static str,
    pub rule: String,
    pub issuer: Option<String>,
    pub user_id: Option<String>,
    /// The token's id in the store: a plain `jti`, else a digest.
    pub token_id: Option<String>,
    pub request_id: Option<String>,
    /// The client's address as the proxy reports it.
    pub source: Option<IpAddr>,
    /// Alarms that were suppressed since the last one, because of the rate limit.
    pub suppressed: u64,
}

/// The rate limit of alarms, and the queue to the webhook.
pub struct ReplayAlarm {
    per_minute: u32,
    window: Mutex<(Instant, u32)>,
    suppressed: AtomicU64,
    queue: Option<mpsc::Sender<Presented>>,
    alarms: IntCounterVec,
}

/// The task that sends the notifications to the webhook.
pub struct WebhookSender {
    webhook: Webhook,
    client: Client,
    queue: mpsc::Receiver<Presented>,
    alarms: IntCounterVec,
}

/// The most notifications that wait for the webhook: further ones are dropped, and counted.
const QUEUE: usize = 256;
const MINUTE: Duration = Duration::from_secs(60);

impl ReplayAlarm {
    /// The alarm, and its sender, if there is a webhook. Fails only if the HTTP client cannot be built.
    pub fn new(
        settings: AlarmSettings,
        alarms: IntCounterVec,
    ) -> Result<(Self, Option<WebhookSender>), reqwest::Error> {
        let (queue, webhook_sender) = match settings.webhook {
            None => (None, None),
            Some(webhook) => {
                let client = Client::new(None, Redirects::Refused)?;
                let (sender, queue) = mpsc::channel(QUEUE);
                (Some(sender), Some(WebhookSender { webhook, client, queue, alarms: alarms.clone() }))
            }
        };
        let window = Mutex::new((Instant::now(), 0));
        Ok((
            Self { per_minute: settings.per_minute, window, suppressed: AtomicU64::new(0), queue, alarms },
            webhook_sender,
        ))
    }

    /// Whether to raise an alarm now: the number of suppressed ones before it, or `None` to suppress
    /// this one.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(window.0) >= MINUTE {
            *window = (now, 0);
        }
        if window.1 >= self.per_minute {
            drop(window);
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            self.alarms.with_label_values(&[AlarmResult::Suppressed.label()]).inc();
            return None;
        }
        window.1 += 1;
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }

    /// Queues a notification for the webhook, if there is one and the queue has room.
    pub fn notify(&self, note: impl FnOnce() -> Presented) {
        let Some(queue) = &self.queue else { return };
        if queue.try_send(note()).is_err() {
            self.alarms.with_label_values(&[AlarmResult::Dropped.label()]).inc();
        }
    }
}

impl WebhookSender {
    const ATTEMPTS: u32 = 3;
    /// The timeout of one attempt.
    const TIMEOUT: Duration = Duration::from_secs(5);
    /// The largest answer that is read, in bytes, so that the connection is used again.
    const MAX_ANSWER: usize = 64 * 1024;

    /// Sends notifications for ever.
    pub async fn run(mut self) {
        let mut failing = false;
        while let Some(note) = self.queue.recv().await {
            let delivered = self.deliver(&note).await;
            let result = if delivered.is_ok() { AlarmResult::Delivered } else { AlarmResult::Failed };
            self.alarms.with_label_values(&[result.label()]).inc();
            if let Err(error) = &delivered
                && !failing
            {
                warn!(%error, "replay alarm not delivered");
            }
            failing = delivered.is_err();
        }
    }

    async fn deliver(&self, note: &Presented) -> Result<(), String> {
        let body = serde_json::to_vec(note).map_err(|error| error.to_string())?;
        let mut last = String::new();
        for attempt in 0..Self::ATTEMPTS {
            match self.post(body.clone()).await {
                // The receiver has accepted it; the text of its answer is ignored.
                Ok(()) | Err(HttpError::TooLarge(_)) => return Ok(()),
                Err(error) => last = Chain(&error).to_string(),
            }
            tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
        }
        Err(last)
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), HttpError> {
        let request = self.client.request(Method::POST, &self.webhook.url, true)?;
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        let token = self.webhook.token.as_ref();
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token.expose_secret()));
        send(request, Self::TIMEOUT, Self::MAX_ANSWER).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;

    use super::*;

    #[test]
    fn a_flood_of_alarms_is_limited_and_counted() {
        let alarms = IntCounterVec::new(Opts::new("alarms", "x"), &["result"]).unwrap();
        let (alarm, webhook_sender) =
            ReplayAlarm::new(AlarmSettings { per_minute: 3, webhook: None }, alarms.clone()).unwrap();
        assert!(webhook_sender.is_none());
        let now = Instant::now();
        let admitted: Vec<_> = (0..10).map(|_| alarm.admit(now)).collect();
        assert_eq!(admitted[..4], [Some(0), Some(0), Some(0), None]);
        assert_eq!(alarm.admit(now + MINUTE), Some(7));
        assert_eq!(alarms.with_label_values(&[AlarmResult::Suppressed.label()]).get(), 7);
    }
}
