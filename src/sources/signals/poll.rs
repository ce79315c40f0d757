//! Polling (RFC 8936): every poll acknowledges the events of the previous one.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};

use super::super::retry::Backoff;
use super::{BACKOFF, Operation, PollSettings, Receiver, SignalError, Verdict, problem};

/// The most tokens of one poll; a token has 16 KiB at most.
const MAX_EVENTS: usize = 32;
/// Tokens of one poll that are processed concurrently.
const IN_FLIGHT: usize = 8;
/// The longest time for which a transmitter may hold a poll; most hold it for half of that.
const LONGEST: Duration = Duration::from_secs(60);

/// The acknowledgements and errors for the next poll.
#[derive(Default)]
struct Report {
    acknowledged: Vec<String>,
    refused: BTreeMap<String, Value>,
}

impl Report {
    fn reports(&self, id: &str) -> bool {
        self.acknowledged.iter().any(|acknowledged| acknowledged == id) || self.refused.contains_key(id)
    }
}

impl Receiver {
    /// Polls for ever. Acknowledgements that could not be sent are repeated; lost events are delivered
    /// again.
    pub(super) async fn poll<F>(&self, url: &str, settings: &PollSettings, take: &(impl Fn(String, String) -> F + Sync))
    where
        F: Future<Output = Verdict> + Send,
    {
        let (mut report, mut backoff) = (Report::default(), Backoff::new(BACKOFF));
        loop {
            let started = Instant::now();
            let polled = self.poll_once(url, settings, &report).await;
            self.change(|known| {
                known.poll = Some(polled.is_ok());
                if let Err(error) = &polled {
                    known.problem = Some(problem("poll", error));
                } else if known.stream != Some(false) {
                    known.problem = None;
                }
            });
            let sets = match polled {
                Ok(answer) => answer,
                Err(error) => {
                    let pause = backoff.failed();
                    self.failed("poll", &error, pause);
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            let brings_new = sets.iter().any(|(id, _)| !report.reports(id));
            report = Report::default();
            let verdicts = stream::iter(sets)
                .map(|(id, set)| async move { (id.clone(), take(id, set).await) })
                .buffer_unordered(IN_FLIGHT)
                .collect::<Vec<_>>()
                .await;
            let mut later = false;
            for (id, verdict) in verdicts {
                match verdict {
                    Verdict::Acknowledged => report.acknowledged.push(id),
                    Verdict::Refused { code, description } => {
                        report.refused.insert(id, json!({"err": code, "description": description}));
                    }
                    Verdict::Later => later = true,
                }
            }
            if later {
                tokio::time::sleep(backoff.failed()).await; // The store is full, or does not answer.
            } else {
                if backoff.succeeded() {
                    self.works_again("poll");
                }
                if !brings_new {
                    // A transmitter that holds the poll has waited already; one that always reports more
                    // events, or repeats acknowledged ones, must not cause a busy loop.
                    tokio::time::sleep(settings.interval.saturating_sub(started.elapsed())).await;
                }
            }
        }
    }

    /// The tokens by their ids. `moreAvailable` does not matter: the next poll returns them.
    async fn poll_once(
        &self,
        url: &str,
        settings: &PollSettings,
        report: &Report,
    ) -> Result<Vec<(String, String)>, SignalError> {
        let mut body = json!({"maxEvents": MAX_EVENTS, "returnImmediately": false});
        if !report.acknowledged.is_empty() {
            body["ack"] = json!(report.acknowledged);
        }
        if !report.refused.is_empty() {
            body["setErrs"] = json!(report.refused);
        }
        let request = self.request(Method::POST, url, settings.insecure)?.json(&body);
        let access = self.poll_access.as_ref().unwrap_or(&self.access);
        let answer = self.ask(Operation::Poll, access, request, LONGEST).await?;
        let Some(sets) = answer.as_ref().and_then(|answer| answer.get("sets")) else { return Ok(Vec::new()) };
        let sets = sets.as_object().ok_or(SignalError::Answer("`sets` is not an object"))?;
        // A value that is not text is refused as an invalid token.
        let text = |set: &Value| set.as_str().unwrap_or_default().to_owned();
        Ok(sets.iter().take(MAX_EVENTS).map(|(id, set)| (id.clone(), text(set))).collect())
    }
}
