//! Security event tokens (RFC 8417) of Shared Signals transmitters (SSF, CAEP and RISC 1.0): their senders, their
//! form, and the revocations that they cause.
//!
//! ```text
//! UnverifiedToken → Transmitter::verify → EventToken → events → revocations of the target issuer
//! ```

mod audit;
mod event;
mod stream;
mod subject;

use std::time::Duration;

use serde_json::{Map, Value};

pub use self::event::{Effect, requested};
pub use self::stream::{StreamKey, StreamStatus};
pub use self::subject::SubjectFormats;
pub use self::subject::{Unmapped, user_targets};
use super::claims::{ClaimSet, IssuerName, Timestamp};
use super::denial::Denial;
use super::jwks::{Algorithm, Jwks};
use super::message::{filled, made_at, missing, signed};
use super::refusal::Refusal;
use super::replay::MessageId;
use super::revocation::{Clocks, Revocation};
use super::token::{Audiences, TrustedIssuer, UnverifiedToken, numeric_date};

/// A sender whose security event tokens are applied.
#[derive(Clone)]
pub struct Transmitter {
    /// Its place in the configuration, for metrics and logs.
    pub name: IssuerName,
    /// Compared with `iss`, byte by byte.
    pub issuer: String,
    /// The `aud` that its tokens must name.
    pub audience: String,
    /// The issuer whose tokens its events revoke.
    pub target: IssuerName,
    pub subjects: SubjectFormats,
    pub algorithms: Vec<Algorithm>,
    pub leeway: Duration,
    /// `None` until they were loaded once.
    pub keys: Option<Jwks>,
    /// The `Authorization` header that its pushed events must carry.
    pub push_token: Option<[u8; 32]>,
    /// Recognises the verification events that were requested.
    pub stream_key: Option<StreamKey>,
}

/// A security event token that its transmitter signed for this service.
#[derive(Debug)]
pub struct EventToken {
    pub id: MessageId,
    /// Its own `jti`, for acknowledgements.
    pub jti: String,
    claims: ClaimSet,
    issued_at: Timestamp,
}

/// The outcome of one event.
#[derive(Debug)]
pub enum EventOutcome {
    Revocations(Vec<Revocation>),
    /// It names a user by an email address alone, and no token that was verified in this process names one. Other
    /// instances may have verified some, so the revocations count.
    Unseen(Vec<Revocation>),
    /// The stream is verified; `state` is that of a request, none if nobody requested it.
    Verified {
        state: Option<Box<str>>,
        stream: StreamName,
    },
    StreamUpdated {
        status: StreamStatus,
        /// When its token was issued.
        at: Timestamp,
        stream: StreamName,
    },
    /// The event does not concern tokens, or is unknown.
    Ignored,
    /// The event names no subject that can be mapped to tokens.
    Unmapped,
    /// Too old: every token that the event could concern has expired.
    Stale,
}

/// The `stream_id` that an event about a stream names (SSF 1.0 section 8.1.4.1); `None` if it names none.
pub type StreamName = Option<Box<str>>;

/// Why a whole token is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EventRefusal {
    Denied(Refusal),
    /// A verification event that was not requested (SSF 1.0 section 8.1.4.1).
    InvalidState,
}

impl From<Refusal> for EventRefusal {
    fn from(refusal: Refusal) -> Self {
        Self::Denied(refusal)
    }
}

impl Transmitter {
    /// The end of the audience of transmitters that may send revocation requests: the URL of that endpoint.
    const REVOCATION_PATH: &str = "/global-token-revocation";

    /// Checks a security event token: signed by its transmitter, of the right type, for this service, created in the
    /// past.
    ///
    /// An event token needs no `exp` (RFC 8417 section 2.2: an event does not cease to have happened); a present `exp`
    /// is checked. `retention`: the time for which its revocation would matter, and its `jti` is remembered.
    pub fn verify(
        &self,
        token: UnverifiedToken<'_>,
        retention: Duration,
        now: Timestamp,
    ) -> Result<EventToken, Refusal> {
        let claims = signed(token, self.keys.as_ref(), &self.algorithms, &["secevent+jwt"])?;
        self.check_audience(&claims)?;
        let issued_at = made_at(&claims, now.plus(self.leeway))?;
        let expires_at = numeric_date(&claims, "exp")?;
        if expires_at.is_some_and(|at| now >= at.plus(self.leeway)) {
            return Err(Denial::Expired.into());
        }
        let jti = filled(&claims, "jti")?.ok_or_else(|| missing("jti"))?;
        match claims.get("events") {
            Some(Value::Object(events)) if !events.is_empty() && events.values().all(Value::is_object) => {}
            Some(_) => {
                let accepted = "an object of objects (RFC 8417 section 2.2)";
                return Err(Refusal::invalid("events", "something else, or empty", accepted));
            }
            None => return Err(missing("events")),
        }
        let until = issued_at.plus(retention).max(now).plus(self.leeway);
        let id = MessageId::new(self.name.as_str(), &jti, until);
        Ok(EventToken { id, jti, claims, issued_at })
    }

    /// Checks the credential of a revocation request (draft-parecki-oauth-global-token-revocation section 3.5): a
    /// short-lived JWT whose audience is the endpoint. Only a transmitter whose audience ends with that URL's path
    /// may send one, so that no other token for the same audience is accepted.
    pub fn authenticate(&self, token: UnverifiedToken<'_>, now: Timestamp) -> Result<MessageId, Refusal> {
        let claims = signed(token, self.keys.as_ref(), &self.algorithms, &["global-token-revocation+jwt", "JWT"])?;
        if claims.contains_key("events") || claims.contains_key("nonce") {
            return Err(Denial::WrongType.into());
        }
        self.check_audience(&claims)?;
        if !self.audience.ends_with(Self::REVOCATION_PATH) {
            return Err(Denial::WrongAudience.into());
        }
        let issued_at = made_at(&claims, now.plus(self.leeway))?;
        let expires_at = numeric_date(&claims, "exp")?.ok_or_else(|| missing("exp"))?;
        let not_before = numeric_date(&claims, "nbf")?;
        if not_before.is_some_and(|at| at > now.plus(self.leeway)) {
            return Err(Denial::NotYetValid.into());
        }
        if now >= expires_at.plus(self.leeway) {
            return Err(Denial::Expired.into());
        }
        if expires_at > issued_at.plus(Self::LONGEST_CREDENTIAL) {
            return Err(Denial::LifetimeTooLong.into());
        }
        filled(&claims, "sub")?.ok_or_else(|| missing("sub"))?;
        let jti = filled(&claims, "jti")?.ok_or_else(|| missing("jti"))?;
        Ok(MessageId::new(self.name.as_str(), &jti, expires_at.plus(self.leeway)))
    }

    /// Five minutes are recommended; a stolen one can sign users out for that time.
    const LONGEST_CREDENTIAL: Duration = Duration::from_secs(3600);

    fn check_audience(&self, claims: &ClaimSet) -> Result<(), Refusal> {
        Audiences::OneOf(vec![self.audience.clone()]).check("aud", claims.get("aud"))
    }

    /// Whether a token's audiences name this receiver; for choosing the transmitter.
    #[must_use]
    pub fn is_named_by(&self, token: &UnverifiedToken<'_>) -> bool {
        token.unverified_audiences().contains(&self.audience)
    }

    /// The outcome of each event of a token; `target` is the issuer [`Self::target`], `retention` the longest time after
    /// its issue for which any instance that applies the events accepts a token.
    pub fn outcomes(
        &self,
        token: &EventToken,
        target: &TrustedIssuer,
        retention: Duration,
        clocks: Clocks,
    ) -> Result<Vec<EventOutcome>, EventRefusal> {
        let Some(Value::Object(events)) = token.claims.get("events") else { return Ok(Vec::new()) };
        events
            .iter()
            .filter_map(|(uri, event)| Some((uri, event.as_object()?)))
            .map(|(uri, event)| self.outcome((uri, event), token, target, retention, clocks))
            .collect()
    }

    fn outcome(
        &self,
        (uri, event): (&str, &Map<String, Value>),
        token: &EventToken,
        target: &TrustedIssuer,
        retention: Duration,
        clocks: Clocks,
    ) -> Result<EventOutcome, EventRefusal> {
        // RFC 9493 and SSF 1.0 put the subject beside the events, earlier drafts put it into each event.
        let subject = event.get("subject").cloned().or_else(|| token.claims.get("sub_id"));
        let stream = || subject.as_ref()?.get("id")?.as_str().map(Into::into);
        let effect = match Effect::of(uri, event) {
            None | Some(Effect::Nothing) => return Ok(EventOutcome::Ignored),
            Some(Effect::Verification) => {
                let state = event.get("state").map(|state| state.as_str().unwrap_or_default());
                let expected = state.is_none_or(|state| self.stream_key.as_ref().is_none_or(|key| key.made(state)));
                if !expected {
                    return Err(EventRefusal::InvalidState);
                }
                return Ok(EventOutcome::Verified { state: state.map(Into::into), stream: stream() });
            }
            Some(Effect::StreamUpdated) => {
                let status = StreamStatus::parse(event.get("status").and_then(Value::as_str).unwrap_or_default());
                return Ok(EventOutcome::StreamUpdated { status, at: token.issued_at, stream: stream() });
            }
            Some(effect @ (Effect::Session | Effect::User)) => effect,
        };
        let instant = event::instant(event, &token.claims)?.unwrap_or(token.issued_at);
        // A future time of another sender counts as now. The issuer itself dates its events by the same clock as its
        // tokens, which may be ahead of this one; an event precedes its token.
        let instant = match target.issuer.name(&self.issuer) {
            Some(_) => instant.min(token.issued_at.max(clocks.latest())),
            None => target.covered_from(instant.min(clocks.latest()), clocks),
        };
        // The event is acknowledged, so one wall clock alone must not decide this.
        if instant.plus(retention) <= clocks.earliest() {
            return Ok(EventOutcome::Stale);
        }
        let Some(subject) = subject else { return Err(missing("sub_id").into()) };
        let note = audit::note(&self.name, (uri, event), &token.claims, clocks.latest());
        match self.revocations(effect, &subject, target, instant, clocks.latest()) {
            Ok((mut revocations, by_address)) => {
                for revocation in &mut revocations {
                    revocation.note.clone_from(&note);
                }
                let unseen = by_address && !target.seen.has_address();
                Ok(if unseen { EventOutcome::Unseen(revocations) } else { EventOutcome::Revocations(revocations) })
            }
            Err(Unmapped::Nobody) => Ok(EventOutcome::Unmapped),
            Err(Unmapped::NamedOtherwise(refusal)) => Err(refusal.into()),
        }
    }
}
