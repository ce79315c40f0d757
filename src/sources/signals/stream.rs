//! Finds, creates, updates and deletes a stream.

mod verification;

use std::time::Duration;

use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tracing::{info, warn};
use url::Url;

use super::super::http::{HttpError, check_named};
use super::super::ledger::SignalNotes;
use super::super::replica::Replica;
use super::super::retry::Backoff;
use super::health::{Known, StreamRecord, Written};
use super::{BACKOFF, Operation, Receiver, SignalError, StreamSettings, problem};
use crate::authz::signals::{StreamStatus, requested};
use crate::sources::jwks::ssf_configuration;

/// Doorward's stream at its transmitter.
pub(super) struct Stream {
    id: String,
    pub(super) poll_url: Option<String>,
    endpoints: Endpoints,
    /// The shortest interval of verifications that the transmitter allows.
    min_interval: Duration,
}

/// The endpoints of a transmitter's API.
pub(super) struct Endpoints {
    configuration: String,
    status: Option<String>,
    verification: Option<String>,
}

const PUSH: &str = "urn:ietf:rfc:8935";
const POLL: &str = "urn:ietf:rfc:8936";
/// The longest interval of verifications that a transmitter may require.
const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// The pauses after a creation whose answer does not name the stream: each attempt may leave one at the transmitter.
const AFTER_CREATION: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(3600)];
/// The timeout of one request.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Receiver {
    /// `None`: an operator has deleted the stream.
    pub(super) async fn set_up_patiently(&self, settings: &StreamSettings, store: &Replica) -> Option<Stream> {
        let (mut backoff, mut after_creation) = (Backoff::new(BACKOFF), Backoff::new(AFTER_CREATION));
        loop {
            self.health.known().written = Written::SettingUp;
            match self.set_up(settings, store).await {
                Ok(stream) => {
                    self.health.changed.notify_one();
                    return stream;
                }
                Err(error) => {
                    let is_left = matches!(error, SignalError::Created(_));
                    let pause = if is_left { after_creation.failed() } else { backoff.failed() };
                    self.failed("set up the stream", &error, pause);
                    self.change(|known| {
                        (known.stream, known.problem) = (Some(false), Some(problem("set up the stream", &error)));
                    });
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    async fn set_up(&self, settings: &StreamSettings, store: &Replica) -> Result<Option<Stream>, SignalError> {
        let notes = store.signal_notes(&self.id).await?;
        let record = notes.stream.as_deref().and_then(StreamRecord::parse).unwrap_or_default();
        if self.is_deleted_by(&record) {
            self.change(|known| known.delete(notes.stream));
            return Ok(None);
        }
        let endpoints = self.endpoints(settings).await?;
        let wanted = self.wanted(settings);
        let known = match &record.stream_id {
            Some(id) => self.read(settings, &endpoints, id).await?,
            None => None,
        };
        let found = match known.filter(|known| self.check_owner(known).is_ok()) {
            Some(known) => Some(known),
            None => self.find(settings, &endpoints).await?,
        };
        let is_current = |stream: &Value| {
            record.settings == self.fingerprint()
                && is_superset(&stream["events_requested"], &wanted["events_requested"])
        };
        let (stream, is_new) = match found {
            Some(found) if is_current(&found) => (found, false),
            Some(found) => (self.update(settings, &endpoints, found, &wanted).await?, false),
            None => {
                // Until the new id is known, an event about any stream is about this one.
                self.health.known().stream_id = None;
                self.write(store, Some(StreamRecord { stream_id: None, ..record.clone() }.text())).await?;
                self.health.known().written = Written::SettingUp;
                (self.create(settings, &endpoints, &wanted).await?, true)
            }
        };
        let id = id_of(&stream).ok_or(SignalError::Answer("the stream has no `stream_id` of 1 to 1024 bytes"))?;
        if is_new {
            // If the rest fails, the next attempt finds it, and does not create another.
            if self.notes_unless_deleted(settings, &endpoints, &id, store).await?.is_none() {
                return Ok(None);
            }
            let created = StreamRecord { stream_id: Some(id.clone()), ..record };
            self.write(store, Some(created.text())).await?;
            self.health.known().written = Written::SettingUp;
        }
        // The transmitter's view, with what it supplies: also that of a stream that was just created.
        let stream = self.read(settings, &endpoints, &id).await?.unwrap_or(stream);
        if let Err(fault) = self.check_owner(&stream) {
            if is_new && self.delete_stream(settings, &endpoints, &id).await.is_err() {
                return Err(SignalError::Created(
                    "the new stream is of another issuer or audience, and was not deleted",
                ));
            }
            return Err(fault);
        }
        let poll_url = stream["delivery"]["endpoint_url"].as_str().or(stream["delivery"]["url"].as_str());
        let poll_url = poll_url.map(|url| named(&endpoints.configuration, url, settings)).transpose()?;
        let Some(now) = self.notes_unless_deleted(settings, &endpoints, &id, store).await? else { return Ok(None) };
        if is_new {
            info!(transmitter = %self.settings.name, "signals stream created");
            // It may have been created paused. A transmitter need not let receivers decide this.
            let _ = self.enable(settings, &endpoints, &id).await;
        }
        let next = Known { stream_id: Some(id.clone()), deleted: false, ..self.health.known().clone() };
        self.write(store, Some(self.record(&next).text())).await?;
        self.change(|known| {
            (known.stream_id, known.announced) = (Some(id.clone()), now.announced);
            (known.deleted, known.awaited, known.silent) = (false, None, false);
            (known.stream, known.problem) = (Some(true), None);
        });
        info!(transmitter = %self.settings.name, "signals stream set up");
        let min_interval = Duration::from_secs(stream["min_verification_interval"].as_u64().unwrap_or(0));
        let min_interval = min_interval.min(LONGEST_INTERVAL);
        if min_interval > settings.verify {
            warn!(transmitter = %self.settings.name, ?min_interval, verify = ?settings.verify, "the transmitter allows verification events less often than `verify`");
        }
        if endpoints.verification.is_none() {
            warn!(transmitter = %self.settings.name, "the transmitter has no `verification_endpoint`: a stream that is silent is not noticed");
        }
        Ok(Some(Stream { id, poll_url, endpoints, min_interval }))
    }

    /// The notes of now; `None` if an operator has deleted the stream meanwhile.
    async fn notes_unless_deleted(
        &self,
        settings: &StreamSettings,
        endpoints: &Endpoints,
        id: &str,
        store: &Replica,
    ) -> Result<Option<SignalNotes>, SignalError> {
        let now = store.signal_notes(&self.id).await?;
        if now.stream.as_deref().and_then(StreamRecord::parse).is_none_or(|record| !self.is_deleted_by(&record)) {
            return Ok(Some(now));
        }
        let _ = self.delete_stream(settings, endpoints, id).await;
        self.change(|known| known.delete(now.stream));
        Ok(None)
    }

    pub(super) async fn endpoints(&self, settings: &StreamSettings) -> Result<Endpoints, SignalError> {
        let url = ssf_configuration(&self.settings.issuer);
        let request = self.request(Method::GET, &url, settings.insecure)?;
        let open = super::Access::new(None); // The metadata is public (SSF 1.0 section 7.2.2).
        let metadata = self.ask(Operation::Metadata, &open, request, TIMEOUT).await?;
        let metadata = metadata.ok_or(SignalError::Answer("no metadata"))?;
        // SSF 1.0 section 7.2.4: otherwise one transmitter could impersonate another.
        if metadata["issuer"] != self.settings.issuer.as_str() {
            return Err(SignalError::Answer("`issuer` of the metadata differs from the configured one"));
        }
        let endpoint = |name: &str| {
            let url = metadata.get(name).and_then(Value::as_str);
            url.map(|url| named(&self.settings.issuer, url, settings)).transpose()
        };
        Ok(Endpoints {
            configuration: endpoint("configuration_endpoint")?
                .ok_or(SignalError::Answer("the metadata names no `configuration_endpoint`"))?,
            status: endpoint("status_endpoint")?,
            verification: endpoint("verification_endpoint")?,
        })
    }

    /// Whether an operator has deleted the stream of these settings.
    fn is_deleted_by(&self, record: &StreamRecord) -> bool {
        record.deleted && record.settings == self.fingerprint()
    }

    /// The members of a stream's configuration that the receiver supplies (SSF 1.0 section 8.1.1).
    fn wanted(&self, settings: &StreamSettings) -> Value {
        let events: Vec<_> = requested().collect();
        json!({"delivery": self.delivery(settings), "events_requested": events, "description": "Doorward"})
    }

    /// A digest of what [`Self::wanted`] sends, with the token of pushed events.
    pub(super) fn fingerprint(&self) -> String {
        let (Some(settings), Some(key)) = (&self.settings.stream, &self.settings.stream_key) else {
            return String::new();
        };
        key.digest(&self.wanted(settings).to_string())
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

    /// A stream of another issuer must not be used (SSF 1.0 section 8.1.1.1), and events for another audience are refused.
    fn check_owner(&self, stream: &Value) -> Result<(), SignalError> {
        if !self.is_of_issuer(stream) {
            return Err(SignalError::Answer("`iss` of the stream differs from the configured issuer"));
        }
        if self.is_of_audience(stream) == Some(false) {
            return Err(SignalError::Answer("`aud` of the stream does not name the configured audience"));
        }
        Ok(())
    }

    fn is_of_issuer(&self, stream: &Value) -> bool {
        stream["iss"].as_str().is_none_or(|iss| iss == self.settings.issuer)
    }

    /// Whether the stream's events name the configured audience, exactly as it is written; `None` if the stream has no
    /// `aud`, which the transmitter supplies (SSF 1.0 section 8.1.1).
    fn is_of_audience(&self, stream: &Value) -> Option<bool> {
        let ours = self.settings.audience.as_str();
        match &stream["aud"] {
            Value::Null => None,
            Value::Array(texts) => Some(texts.iter().any(|text| text == ours)),
            text => Some(text == ours),
        }
    }

    /// Reads the stream by its id; `None` if the transmitter has it no more.
    async fn read(
        &self,
        settings: &StreamSettings,
        endpoints: &Endpoints,
        id: &str,
    ) -> Result<Option<Value>, SignalError> {
        let url = with_stream(&endpoints.configuration, id)?;
        let request = self.request(Method::GET, &url, settings.insecure)?;
        match self.ask(Operation::Stream, &self.access, request, TIMEOUT).await {
            Ok(Some(stream @ Value::Object(_))) if stream["stream_id"] == id => Ok(Some(stream)),
            Ok(Some(Value::Array(streams))) => Ok(streams.into_iter().find(|stream| stream["stream_id"] == id)),
            Ok(_) => Ok(None),
            Err(error) if error.is_unknown() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The stream with this delivery and this audience, of all that the transmitter lists. One without an audience may be
    /// that of another receiver: it would be changed, emptied and deleted here.
    pub(super) async fn find(
        &self,
        settings: &StreamSettings,
        endpoints: &Endpoints,
    ) -> Result<Option<Value>, SignalError> {
        let request = self.request(Method::GET, &endpoints.configuration, settings.insecure)?;
        let streams = match self.ask(Operation::Stream, &self.access, request, TIMEOUT).await {
            Ok(Some(Value::Array(streams))) => streams,
            Ok(Some(stream)) => vec![stream],
            // Some transmitters return this when there is no stream yet.
            Ok(None) => Vec::new(),
            Err(error) if error.is_unknown() => Vec::new(),
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
            ours && self.is_of_issuer(stream) && self.is_of_audience(stream) == Some(true)
        };
        Ok(streams.into_iter().find(fits))
    }

    async fn create(
        &self,
        settings: &StreamSettings,
        endpoints: &Endpoints,
        wanted: &Value,
    ) -> Result<Value, SignalError> {
        let request = self.request(Method::POST, &endpoints.configuration, settings.insecure)?.json(wanted);
        let created = match self.ask(Operation::Stream, &self.access, request, TIMEOUT).await {
            Err(SignalError::NotJson | SignalError::Http(HttpError::TooLarge(_))) => None,
            created => created?,
        };
        let fault = SignalError::Created("the answer to the stream's creation has no `stream_id` of 1 to 1024 bytes");
        created.filter(|created| id_of(created).is_some()).ok_or(fault)
    }

    /// Updates events, delivery and credentials. A transmitter that refuses another delivery gets a new stream; one that
    /// refuses anything else keeps the present stream.
    async fn update(
        &self,
        settings: &StreamSettings,
        endpoints: &Endpoints,
        found: Value,
        wanted: &Value,
    ) -> Result<Value, SignalError> {
        let mut body = wanted.clone();
        body["stream_id"] = found["stream_id"].clone();
        let [before, after] = [&found, wanted].map(|stream| &stream["delivery"]["method"]);
        let is_same = before == after;
        if is_same && after == POLL {
            // The endpoint is the transmitter's to supply, and Keycloak 26.7 loses it when it is sent a delivery without.
            body.as_object_mut().and_then(|members| members.remove("delivery"));
        }
        let request = self.request(Method::PATCH, &endpoints.configuration, settings.insecure)?.json(&body);
        match self.ask(Operation::Stream, &self.access, request, TIMEOUT).await {
            Ok(updated) => Ok(updated.filter(|updated| updated["stream_id"].is_string()).unwrap_or(found)),
            Err(error) if error.is_refusal() => {
                let name = &self.settings.name;
                if is_same {
                    warn!(transmitter = %name, %error, "the transmitter refuses to update the stream");
                    return Ok(found);
                }
                info!(transmitter = %name, "the delivery changes: the stream is replaced");
                self.delete_stream(settings, endpoints, found["stream_id"].as_str().unwrap_or_default()).await?;
                self.create(settings, endpoints, wanted).await
            }
            Err(error) => Err(error),
        }
    }

    /// Deletes the stream of this id, unless it is of another issuer or audience: then it was never this receiver's.
    pub(super) async fn delete_own(
        &self,
        settings: &StreamSettings,
        endpoints: &Endpoints,
        id: &str,
    ) -> Result<(), SignalError> {
        match self.read(settings, endpoints, id).await? {
            Some(stream) => self.check_owner(&stream)?,
            None => return Ok(()),
        }
        self.delete_stream(settings, endpoints, id).await
    }

    /// Deletes a stream; one that does not exist counts as deleted.
    async fn delete_stream(
        &self,
        settings: &StreamSettings,
        endpoints: &Endpoints,
        id: &str,
    ) -> Result<(), SignalError> {
        let url = with_stream(&endpoints.configuration, id)?;
        let request = self.request(Method::DELETE, &url, settings.insecure)?;
        match self.ask(Operation::Delete, &self.access, request, TIMEOUT).await {
            Err(error) if !error.is_unknown() => Err(error),
            _ => Ok(()),
        }
    }

    /// Requests delivery, and returns the status that the stream then has.
    async fn enable(
        &self,
        settings: &StreamSettings,
        endpoints: &Endpoints,
        id: &str,
    ) -> Result<StreamStatus, SignalError> {
        let Some(url) = &endpoints.status else { return Ok(StreamStatus::Enabled) };
        let body = json!({"stream_id": id, "status": "enabled"});
        let request = self.request(Method::POST, url, settings.insecure)?.json(&body);
        let answer = self.ask(Operation::Status, &self.access, request, TIMEOUT).await?.unwrap_or_default();
        Ok(answer["status"].as_str().map_or(StreamStatus::Enabled, StreamStatus::parse))
    }
}

/// A URL that a document of the transmitter names: requests to it carry credentials.
fn named(document: &str, url: &str, settings: &StreamSettings) -> Result<String, SignalError> {
    check_named(document, url, settings.insecure)?;
    Ok(url.to_owned())
}

/// The id of a stream, which is kept in the store and sent in URLs: bounded.
fn id_of(stream: &Value) -> Option<String> {
    stream["stream_id"].as_str().filter(|id| (1..=1024).contains(&id.len())).map(str::to_owned)
}

fn with_stream(endpoint: &str, id: &str) -> Result<String, SignalError> {
    let mut url = Url::parse(endpoint).map_err(|_| SignalError::Answer("an endpoint of the metadata is not a URL"))?;
    url.query_pairs_mut().append_pair("stream_id", id);
    Ok(url.into())
}

/// Whether a list of texts has all of another list.
fn is_superset(found: &Value, wanted: &Value) -> bool {
    let found = found.as_array().map(Vec::as_slice).unwrap_or_default();
    wanted.as_array().is_some_and(|wanted| wanted.iter().all(|event| found.contains(event)))
}
