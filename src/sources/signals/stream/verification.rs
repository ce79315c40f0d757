//! Requests verification events at intervals, so that silence means that there were no events.

use reqwest::Method;
use serde_json::json;
use tracing::warn;

use super::{Stream, TIMEOUT, with_stream};
use crate::authz::signals::StreamStatus;
use crate::clock::{self, Steady};
use crate::sources::http::HttpError;
use crate::sources::retry::Backoff;
use crate::sources::signals::{BACKOFF, Operation, Receiver, SignalError, StreamSettings, problem};

impl Receiver {
    /// Watches the stream until it is gone: reads its status every `verify`, and requests verification events as often, or
    /// as often as the transmitter allows.
    pub(in crate::sources::signals) async fn keep_verified(&self, settings: &StreamSettings, stream: &Stream) {
        let (mut backoff, mut requested) = (Backoff::new(BACKOFF), None::<Steady>);
        loop {
            let began = Steady::now();
            let is_due = requested.is_none_or(|at| began.since(at) >= stream.min_interval);
            let verified = self.verify(settings, stream, is_due).await;
            let pause = match &verified {
                Ok(is_requested) => {
                    backoff.succeeded();
                    requested = if *is_requested { Some(began) } else { requested };
                    settings.verify
                }
                Err(error) if error.is_unknown() && self.is_gone(settings, stream).await => {
                    warn!(transmitter = %self.settings.name, "signals stream is gone");
                    let problem = Some("the transmitter no longer has the stream".to_owned());
                    self.change(|known| (known.stream, known.problem) = (Some(false), problem));
                    self.health.changed.notify_one();
                    return;
                }
                Err(error) => {
                    let pause = backoff.failed().max(stream.min_interval.min(settings.verify));
                    self.failed("verify the stream", error, pause);
                    pause
                }
            };
            self.change(|known| {
                known.stream = Some(verified.is_ok());
                if let Err(error) = &verified {
                    known.problem = Some(problem("verify the stream", error));
                } else if known.poll != Some(false) {
                    known.problem = None;
                }
            });
            self.health.changed.notify_one();
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether the transmitter no longer has the stream. Another endpoint of a stream that exists may be missing.
    async fn is_gone(&self, settings: &StreamSettings, stream: &Stream) -> bool {
        matches!(self.read(settings, &stream.endpoints, &stream.id).await, Ok(None))
    }

    /// Reads the status, requests that a stream that is not enabled is, and requests a verification event if that is due.
    /// Returns whether it requested one.
    async fn verify(&self, settings: &StreamSettings, stream: &Stream, is_due: bool) -> Result<bool, SignalError> {
        let Stream { id, endpoints, .. } = stream;
        let status = match &endpoints.status {
            Some(status) => {
                let request = self.request(Method::GET, &with_stream(status, id)?, settings.insecure)?;
                let answer = self.ask(Operation::Status, &self.access, request, TIMEOUT).await?.unwrap_or_default();
                answer["status"].as_str().map_or(StreamStatus::Enabled, StreamStatus::parse)
            }
            // The configuration shows at least whether the stream exists.
            None => match self.read(settings, endpoints, id).await? {
                Some(_) => StreamStatus::Enabled,
                None => return Err(SignalError::Http(HttpError::Status(404))),
            },
        };
        self.change(|known| known.read_status(status, clock::now()));
        if status != StreamStatus::Enabled {
            match self.enable(settings, endpoints, id).await {
                Ok(status) => self.change(|known| known.read_status(status, clock::now())),
                Err(error) => {
                    warn!(transmitter = %self.settings.name, %error, "the transmitter does not enable the stream");
                }
            }
        }
        let (Some(verification), Some(key)) = (&endpoints.verification, &self.settings.stream_key) else {
            return Ok(false);
        };
        if !is_due || self.health.known().status != StreamStatus::Enabled {
            return Ok(false); // A verification event would be held back as well.
        }
        let state = key.state(rand::random());
        // An event may arrive before the answer. One that is awaited already stays so: silence does not begin anew.
        let asked = Steady::now();
        self.change(|known| {
            let since = known.awaited.as_ref().map_or(asked, |(_, since)| *since);
            known.awaited = Some((state.clone(), since));
        });
        let request = self.request(Method::POST, verification, settings.insecure)?;
        let request = request.json(&json!({"stream_id": id, "state": state}));
        let requested = self.ask(Operation::Verification, &self.access, request, TIMEOUT).await;
        if requested.is_err() {
            self.change(|known| {
                if known.awaited.as_ref().is_some_and(|(awaited, _)| *awaited == state) {
                    known.awaited = None;
                }
            });
        }
        requested.map(|_| true)
    }
}
