//! Finds or creates a stream, and requests verification events at intervals, so that silence means that
//! there were no events.

use std::time::Duration;

use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::super::http::HttpError;
use super::super::retry::Backoff;
use super::{BACKOFF, Part, Receiver, SignalError, StreamSettings, Up};
use crate::authz::signals::{REQUESTED, StreamKey};
use crate::sources::jwks::ssf_configuration;

/// Doorward's stream at its transmitter.
pub(super) struct Stream {
    id: String,
    pub(super) poll_url: Option<String>,
    status: Option<String>,
    verification: Option<String>,
    /// The shortest interval of verifications that the transmitter allows.
    min_interval: Duration,
}

const PUSH: &str = "urn:ietf:rfc:8935";
const POLL: &str = "urn:ietf:rfc:8936";
/// The timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Receiver {
    pub(super) async fn set_up_patiently(&self, settings: &StreamSettings, up: &Up) -> Stream {
        let mut backoff = Backoff::new(BACKOFF);
        loop {
            let set_up = self.set_up(settings).await;
            up.note(Part::Stream, set_up.is_ok());
            match set_up {
                Ok(stream) => {
                    info!(transmitter = %self.settings.name, "signals stream set up");
                    return stream;
                }
                Err(error) => {
                    let pause = backoff.failed();
                    self.failed("set up the stream", &error, pause);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn set_up(&self, settings: &StreamSettings) -> Result<Stream, SignalError> {
        let url = ssf_configuration(&self.settings.issuer);
        let request = self.request(Method::GET, &url, None, settings.insecure)?;
        let metadata = self.ask("metadata", request, TIMEOUT).await?.ok_or(SignalError::Answer("no metadata"))?;
        // SSF 1.0 section 7.2.4: otherwise one transmitter could impersonate another.
        if metadata["issuer"] != self.settings.issuer.as_str() {
            return Err(SignalError::Answer("`issuer` of the metadata differs from the configured one"));
        }
        let endpoint = |name: &str| metadata.get(name).and_then(Value::as_str).map(str::to_owned);
        let configuration = endpoint("configuration_endpoint")
            .ok_or(SignalError::Answer("the metadata names no `configuration_endpoint`"))?;
        let stream = match self.find(settings, &configuration).await? {
            Some(found) => self.update(settings, &configuration, &found).await.unwrap_or(found),
            None => self.create(settings, &configuration).await?,
        };
        let id = stream["stream_id"].as_str().ok_or(SignalError::Answer("the stream has no `stream_id`"))?;
        let min_interval = Duration::from_secs(stream["min_verification_interval"].as_u64().unwrap_or(0));
        let poll_url = stream["delivery"]["endpoint_url"].as_str().or(stream["delivery"]["url"].as_str());
        Ok(Stream {
            id: id.to_owned(),
            poll_url: poll_url.map(str::to_owned),
            status: endpoint("status_endpoint"),
            verification: endpoint("verification_endpoint"),
            min_interval,
        })
    }

    /// The delivery of events, in the form of SSF 1.0 section 6.1.
    fn delivery(&self, settings: &StreamSettings) -> Value {
        match &settings.push_url {
            Some(url) if self.settings.poll.is_none() => {
                let mut delivery = json!({"method": PUSH, "endpoint_url": url});
                if let Some(token) = &self.settings.push_token {
                    delivery["authorization_header"] = json!(format!("Bearer {}", token.expose_secret()));
                }
                delivery
            }
            _ => json!({"method": POLL}),
        }
    }

    /// The stream with this delivery.
    async fn find(&self, settings: &StreamSettings, endpoint: &str) -> Result<Option<Value>, SignalError> {
        let request = self.request(Method::GET, endpoint, settings.token.as_ref(), settings.insecure)?;
        let streams = match self.ask("stream", request, TIMEOUT).await {
            Ok(Some(Value::Array(streams))) => streams,
            Ok(Some(stream)) => vec![stream],
            // Some transmitters return this when there is no stream yet.
            Ok(None) | Err(SignalError::Http(HttpError::Status(404))) => Vec::new(),
            Err(error) => return Err(error),
        };
        let wanted = self.delivery(settings);
        let fits = |stream: &Value| {
            let delivery = &stream["delivery"];
            let method = delivery["method"].as_str().unwrap_or_default();
            let (poll, push) =
                (method == POLL || method.ends_with("/poll"), method == PUSH || method.ends_with("/push"));
            let ours = if wanted["method"] == PUSH {
                push && delivery["endpoint_url"] == wanted["endpoint_url"]
            } else {
                poll
            };
            ours && stream["iss"].as_str().is_none_or(|iss| iss == self.settings.issuer)
        };
        Ok(streams.into_iter().find(fits))
    }

    async fn create(&self, settings: &StreamSettings, endpoint: &str) -> Result<Value, SignalError> {
        let body =
            json!({"delivery": self.delivery(settings), "events_requested": REQUESTED, "description": "Doorward"});
        let request = self.request(Method::POST, endpoint, settings.token.as_ref(), settings.insecure)?;
        let created = self.ask("stream", request.json(&body), TIMEOUT).await?;
        created.ok_or(SignalError::Answer("the answer to the stream's creation is empty"))
    }

    /// Updates events and credentials; a transmitter that refuses keeps the present ones.
    async fn update(&self, settings: &StreamSettings, endpoint: &str, found: &Value) -> Option<Value> {
        let body = json!({
            "stream_id": found["stream_id"], "delivery": self.delivery(settings), "events_requested": REQUESTED,
        });
        let request = self.request(Method::PATCH, endpoint, settings.token.as_ref(), settings.insecure).ok()?;
        let updated = self.ask("stream", request.json(&body), TIMEOUT).await;
        updated.inspect_err(|error| warn!(transmitter = %self.settings.name, %error, "stream not updated")).ok()?
    }

    /// Requests verification events until the stream is gone.
    pub(super) async fn keep_verified(&self, settings: &StreamSettings, stream: &Stream, up: &Up) {
        let mut backoff = Backoff::new(BACKOFF);
        loop {
            let verified = self.verify(settings, stream).await;
            up.note(Part::Stream, matches!(verified, Ok(true)));
            let pause = match verified {
                Ok(_) => settings.verify.max(stream.min_interval),
                Err(SignalError::Http(HttpError::Status(404))) => {
                    warn!(transmitter = %self.settings.name, "signals stream is gone");
                    return;
                }
                Err(error) => {
                    let pause = backoff.failed().max(stream.min_interval);
                    self.failed("verify the stream", &error, pause);
                    pause
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether the transmitter reports the stream as enabled.
    async fn verify(&self, settings: &StreamSettings, stream: &Stream) -> Result<bool, SignalError> {
        let mut is_enabled = true;
        let ask = |method, url: &str| self.request(method, url, settings.token.as_ref(), settings.insecure);
        if let Some(status) = &stream.status {
            let mut url = url::Url::parse(status).map_err(|_| SignalError::Answer("`status_endpoint` is not a URL"))?;
            url.query_pairs_mut().append_pair("stream_id", &stream.id);
            let request = ask(Method::GET, url.as_str())?;
            let answer = self.ask("status", request, TIMEOUT).await?.unwrap_or_default();
            is_enabled = answer["status"].as_str().is_none_or(|status| status == "enabled");
            if !is_enabled {
                warn!(transmitter = %self.settings.name, "signals stream is not enabled by its transmitter");
            }
        }
        let Some(verification) = &stream.verification else { return Ok(is_enabled) };
        let mut body = json!({"stream_id": stream.id});
        if let Some(token) = &settings.token {
            let key = StreamKey::new(token.expose_secret().as_bytes());
            body["state"] = json!(key.state(rand::random()));
        }
        let request = ask(Method::POST, verification)?.json(&body);
        self.ask("verification", request, TIMEOUT).await.map(|_| is_enabled)
    }
}
