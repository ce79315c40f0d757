//! Security event tokens, pushed or polled: from the text to revocations in the store.

use std::borrow::Cow;
use std::time::Duration;

use subtle::ConstantTimeEq;
use tracing::{info, warn};

use super::{EventSource, Refused, log, receive, revoke, transmitter};
use crate::authz::api_key::digest_of;
use crate::authz::claims::IssuerName;
use crate::authz::denial::Denial;
use crate::authz::refusal::Refusal;
use crate::authz::revocation::Revocation;
use crate::authz::signals::{EventOutcome, EventRefusal, EventToken, StreamStatus, Transmitter};
use crate::authz::token::UnverifiedToken;
use crate::clock;
use crate::sources::signals::{Receiver, Tally};
use crate::state::{Policy, State};

/// Why an event token is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventError {
    /// With the detail that its sender may see.
    Denied(Denial, Option<Box<str>>),
    /// A verification event that was not requested.
    InvalidState,
    /// The transmitter did not send the configured token.
    Unauthenticated,
    /// An event about a stream that names another one.
    AnotherStream,
    /// The `jti` differs from the id under which the token was delivered.
    AnotherId,
    /// Not stored; the transmitter should send it again.
    Store,
}

impl EventError {
    /// The code of RFC 8935 section 2.4, and of SSF 1.0 for the state; `None` for a temporary failure.
    #[must_use]
    pub const fn code(&self) -> Option<&'static str> {
        match self {
            Self::Denied(denial, _) => match denial {
                Denial::UnknownKey | Denial::BadSignature | Denial::AlgorithmNotAllowed => Some("invalid_key"),
                Denial::UnknownIssuer => Some("invalid_issuer"),
                Denial::WrongAudience => Some("invalid_audience"),
                Denial::KeysUnavailable | Denial::StoreUnavailable => None,
                _ => Some("invalid_request"),
            },
            Self::InvalidState => Some("invalid_state"),
            Self::Unauthenticated => Some("authentication_failed"),
            Self::AnotherId | Self::AnotherStream => Some("invalid_request"),
            Self::Store => None,
        }
    }

    /// For the operator of the transmitter: the claim at fault, after the signature was verified.
    #[must_use]
    pub fn description(&self) -> Cow<'static, str> {
        let description = match self {
            Self::Denied(_, Some(fault)) => return format!("the security event token: {fault}").into(),
            Self::Denied(Denial::MalformedToken, _) => {
                "the security event token is not a well-formed signed JWT of at most `token.max_bytes`"
            }
            Self::Denied(Denial::UnknownIssuer, _) => "the issuer of the security event token is not configured here",
            Self::Denied(Denial::UnknownKey, _) => "the security event token is signed by a key that is not published",
            Self::Denied(Denial::AlgorithmNotAllowed, _) => "the algorithm does not fit the key",
            Self::Denied(Denial::BadSignature, _) => "the signature is not valid",
            Self::Denied(Denial::WrongAudience, _) => "the security event token is for another audience",
            Self::Denied(Denial::WrongType, _) => "the type of the token is not secevent+jwt",
            Self::Denied(Denial::MissingClaim | Denial::InvalidClaim, _) => "`iss` is missing or not text",
            Self::Denied(Denial::Expired, _) => "the security event token has expired",
            Self::Denied(Denial::NotYetValid, _) => "the security event token is dated in the future",
            Self::Denied(Denial::KeysUnavailable, _) => "the transmitter's keys are not available",
            Self::Denied(_, _) => "the security event token is not valid",
            Self::InvalidState => "the verification event has a state that was not requested",
            Self::AnotherStream => "`sub_id` names another stream",
            Self::Unauthenticated => "the configured token is required as `Authorization: Bearer`",
            Self::AnotherId => "the `jti` of the token is not the id under which it was sent",
            Self::Store => "the revocation is not stored",
        };
        description.into()
    }

    pub(in crate::api) const fn label(&self) -> &'static str {
        match self {
            Self::Denied(denial, _) => denial.label(),
            Self::InvalidState => "invalid_state",
            Self::Unauthenticated => "unauthenticated",
            Self::AnotherId => "another_id",
            Self::AnotherStream => "another_stream",
            Self::Store => "store_unavailable",
        }
    }
}

impl From<Refused> for EventError {
    fn from(refused: Refused) -> Self {
        Self::Denied(refused.refusal.denial, refused.for_sender().map(Into::into))
    }
}

/// How an event token was delivered.
#[derive(Clone, Copy)]
pub enum Delivery<'a> {
    /// With this credential.
    Pushed(Option<&'a [u8]>),
    /// From this transmitter, under this id.
    Polled(&'a IssuerName, &'a str),
}

/// Applies an event token. `Ok`: the token may be acknowledged, whether or not it had an effect; so may a
/// repeated token (RFC 8935 section 2.2).
pub async fn take(state: &State, text: &str, delivery: Delivery<'_>) -> Result<(), EventError> {
    let source = match delivery {
        Delivery::Pushed(_) => EventSource::Push,
        Delivery::Polled(..) => EventSource::Poll,
    };
    let taken = apply(state, text, delivery, source).await;
    let labels = match &taken {
        Ok(labels) => labels.clone(),
        Err(error) => vec![error.label()],
    };
    for label in labels {
        source.count(state, label);
    }
    taken.map(|_| ())
}

async fn apply(
    state: &State,
    text: &str,
    delivery: Delivery<'_>,
    source: EventSource,
) -> Result<Vec<&'static str>, EventError> {
    let polled = match delivery {
        Delivery::Pushed(_) => None,
        Delivery::Polled(name, _) => Some(name),
    };
    let sender = |policy: &Policy, token: &UnverifiedToken<'_>| transmitter(policy, token, polled);
    let check = |policy: &Policy, from: &Transmitter, token: UnverifiedToken<'_>| -> Result<_, Refusal> {
        let target = policy.authorizer.issuer_named(&from.target).ok_or(Denial::UnknownIssuer)?;
        // Other instances may accept tokens for longer; until this instance has read their retention, no event is too
        // old.
        let (own, longest) = (target.retention(), state.replica.longest_retention());
        let token = from.verify(token, own.max(longest.unwrap_or_default()), clock::now())?;
        let retention = longest.map_or(Duration::MAX, |longest| own.max(longest));
        let outcomes = from.outcomes(&token, target, retention, state.replica.clocks());
        Ok((token, outcomes))
    };
    let (from, (token, outcomes)) = receive(state, source, text, sender, check).await.map_err(|refused| {
        // A pushed token may be anybody's until its signature is verified; a polled one is the transmitter's.
        let signer = refused.issuer.as_ref().filter(|_| refused.is_signed());
        let receiver = polled.or(signer).and_then(|name| state.receiver(name));
        let error = EventError::from(refused);
        if let Some(receiver) = receiver.filter(|_| error.code().is_some()) {
            receiver.count(Tally::Refused);
        }
        error
    })?;
    let receiver = state.receiver(&from.name);
    let count = |tally| {
        if let Some(receiver) = &receiver {
            receiver.count(tally);
        }
    };
    authenticate(&from, &token, delivery).inspect_err(|_| count(Tally::Refused))?;
    let outcomes = outcomes.map_err(|refused| match refused {
        EventRefusal::Denied(refusal) => {
            let refused = Refused { refusal, issuer: Some(from.name.clone()) };
            log(&state.policy(), source, &refused);
            EventError::from(refused)
        }
        EventRefusal::InvalidState => EventError::InvalidState,
    });
    let outcomes = outcomes.inspect_err(|_| count(Tally::Refused))?;
    if state.replays.knows(&token.id) {
        return Ok(vec!["replayed"]);
    }
    if let Some(receiver) = &receiver {
        about_streams(state, receiver, &outcomes).await?;
    }
    let (labels, tallies, revocations) = results(&from, outcomes);
    revoke(state, source, revocations).await.map_err(|_| EventError::Store)?;
    tallies.into_iter().for_each(count);
    state.replays.remember(token.id, clock::now());
    Ok(labels)
}

/// Forwards events about the stream itself to its owner.
async fn about_streams(state: &State, receiver: &Receiver, outcomes: &[EventOutcome]) -> Result<(), EventError> {
    for outcome in outcomes {
        let (EventOutcome::Verified { stream, .. } | EventOutcome::StreamUpdated { stream, .. }) = outcome else {
            continue;
        };
        if !receiver.is_about(&state.replica, stream.as_deref()).await {
            receiver.count(Tally::Refused);
            return Err(EventError::AnotherStream);
        }
        let noted = match outcome {
            EventOutcome::Verified { state: verified, .. } => {
                receiver.verified(&state.replica, verified.as_deref()).await
            }
            EventOutcome::StreamUpdated { status, at, .. } => receiver.announced(&state.replica, *status, *at).await,
            _ => Ok(()),
        };
        noted.map_err(|_| EventError::Store)?;
    }
    Ok(())
}

fn authenticate(from: &Transmitter, token: &EventToken, delivery: Delivery<'_>) -> Result<(), EventError> {
    match delivery {
        Delivery::Polled(_, id) if id != token.jti => Err(EventError::AnotherId),
        Delivery::Polled(..) => Ok(()),
        Delivery::Pushed(sent) => match (&from.push_token, sent) {
            (None, _) => Ok(()),
            (Some(expected), Some(sent)) if bool::from(expected.ct_eq(&digest_of(sent))) => Ok(()),
            (Some(_), _) => Err(EventError::Unauthenticated),
        },
    }
}

/// The counter labels, the tallies of the transmitter and the revocations of a token's events.
fn results(from: &Transmitter, outcomes: Vec<EventOutcome>) -> (Vec<&'static str>, Vec<Tally>, Vec<Revocation>) {
    let mut tallies = Vec::new();
    let (mut labels, mut revocations) = (Vec::new(), Vec::new());
    let transmitter = &from.name;
    for outcome in outcomes {
        labels.push(match outcome {
            EventOutcome::Revocations(found) => {
                revocations.extend(found);
                tallies.push(Tally::Applied);
                "applied"
            }
            EventOutcome::Unseen(found) => {
                warn!(%transmitter, "a security event names a user by an email address, and no token verified here since \
                    the start has named one: it may have no effect");
                revocations.extend(found);
                tallies.push(Tally::Unseen);
                "unseen"
            }
            EventOutcome::Verified { .. } => {
                info!(%transmitter, "signals stream verified");
                "verified"
            }
            EventOutcome::StreamUpdated { status: StreamStatus::Enabled, .. } => {
                info!(%transmitter, "signals stream enabled by its transmitter");
                "stream_updated"
            }
            EventOutcome::StreamUpdated { status, .. } => {
                warn!(%transmitter, status = status.as_str(), "signals stream stopped by its transmitter");
                "stream_updated"
            }
            EventOutcome::Ignored => {
                tallies.push(Tally::Ignored);
                "ignored"
            }
            EventOutcome::Stale => {
                tallies.push(Tally::Ignored);
                "stale"
            }
            EventOutcome::Unmapped => {
                tallies.push(Tally::Unmapped);
                warn!(%transmitter, "a security event does not name a subject that identifies tokens");
                "unmapped"
            }
        });
    }
    (labels, tallies, revocations)
}
