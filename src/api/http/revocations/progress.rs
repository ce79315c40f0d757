//! `wait=all` with `Accept: text/event-stream`: who has confirmed, while others have not.

use std::convert::Infallible;
use std::pin::Pin;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, header};
use axum::response::IntoResponse;
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use serde::Serialize;
use tokio::sync::watch;

use super::super::events;
use super::Asked;
use super::receipt::Wait;
use crate::authz::revocation::Revocation;
use crate::clock;
use crate::state::{Position, Receipt};

/// The confirmations so far.
#[derive(Clone, Eq, PartialEq, Serialize)]
struct Progress {
    applied: usize,
    instances: usize,
    waiting: Vec<String>,
    /// RFC 3339, to the second: it moves by a little whenever it is worked out.
    uncertain_until: Option<String>,
}

/// Whether the client prefers events: it names their media type and no other.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    headers.get(header::ACCEPT).is_some_and(|accept| accept.as_bytes().eq_ignore_ascii_case(b"text/event-stream"))
}

/// The response: its head at once, its events until the receipt.
pub(super) fn respond(asked: Asked, wait: Wait, revocation: Revocation, position: Position) -> Response<Body> {
    let (sender, progress) = watch::channel(None);
    let work = async move {
        let tell = move |receipt: &Receipt| {
            let next = Some(Progress::of(receipt));
            sender.send_if_modified(|known| {
                let changed = *known != next;
                *known = next;
                changed
            });
        };
        let (name, response) = match asked.confirm(wait, revocation, position, &tell).await {
            Ok((_, receipt)) => ("receipt", receipt.into_response()),
            Err(problem) => ("problem", problem.into_response()),
        };
        let body = response.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Bytes::from([b"event: ", name.as_bytes(), b"\ndata: ", &body, b"\n\n"].concat())
    };
    events::respond(Body::from_stream(until_done(Box::pin(work), progress)))
}

impl Progress {
    fn of(receipt: &Receipt) -> Self {
        let until = receipt.uncertain_for.map(|left| clock::format_rfc3339(clock::now().plus(left)));
        Self {
            applied: receipt.applied,
            instances: receipt.instances,
            waiting: receipt.waiting.clone(),
            uncertain_until: until.map(|until| until.split_once('.').map_or(until.clone(), |(to, _)| format!("{to}Z"))),
        }
    }
}

type Work = Pin<Box<dyn Future<Output = Bytes> + Send>>;

/// Each change of `progress` as an event, then the result of the work.
fn until_done(
    work: Work,
    progress: watch::Receiver<Option<Progress>>,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(Some((work, progress)), |running| async move {
        let (mut work, mut progress) = running?;
        tokio::select! {
            last = &mut work => Some((Ok(last), None)),
            Ok(()) = progress.changed() => {
                let event = events::event("progress", &*progress.borrow_and_update());
                Some((Ok(Bytes::from(event)), Some((work, progress))))
            }
        }
    })
}
