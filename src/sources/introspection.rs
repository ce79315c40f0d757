//! Introspects tokens at their issuer (RFC 7662): one request per token at a time, with cached responses,
//! and no requests while the issuer does not answer.
//!
//! A response is used for `cache` from the start of its request, and never beyond the token's `exp`. Every decision
//! checks the revocations, so no response outlives a revocation. Inactive tokens have a separate cache: a flood of
//! made-up tokens does not evict active ones.
//!
//! The first caller sends the request; if that caller leaves (Envoy's own timeout), the next waiting one
//! sends it again. So Envoy's timeout should exceed `introspection.timeout`.

mod answers;
mod single_flight;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prometheus::IntCounterVec;
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

use super::http::{Authorities, Chain, Client, HttpError, Redirects, send};
use super::retry::{Breaker, Change};
use crate::authz::claims::{ClaimSet, IssuerName, Timestamp};
use crate::authz::introspection::{IntrospectionResponse, TokenState};
use answers::Answers;
use single_flight::SingleFlight;

/// The introspection settings of one issuer.
#[derive(Clone, Debug)]
pub struct IntrospectionSettings {
    pub url: String,
    pub client_id: String,
    pub client_secret: SecretString,
    /// The time for which a response is used.
    pub cache: Duration,
    /// The timeout of one request, body included.
    pub timeout: Duration,
    /// The most cached responses.
    pub max_answers: usize,
    /// The most concurrent requests; further ones are not sent.
    pub max_questions: usize,
    /// Trusted instead of the system's.
    pub authorities: Option<Authorities>,
}

impl Eq for IntrospectionSettings {}

impl PartialEq for IntrospectionSettings {
    fn eq(&self, other: &Self) -> bool {
        let rest = |s: &Self| (s.url.clone(), s.client_id.clone(), s.cache, s.timeout, s.max_answers, s.max_questions);
        rest(self) == rest(other)
            && self.authorities == other.authorities
            && self.client_secret.expose_secret() == other.client_secret.expose_secret()
    }
}

/// The first and the longest pause after failures of an issuer: short enough for a brief outage.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(5)];

/// SHA-256 of a token: the text itself is not stored.
type Digest = [u8; 32];

fn digest_of(token: &str) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    bytes
}

/// An issuer with an introspection endpoint.
pub struct Introspector {
    issuer: IssuerName,
    settings: IntrospectionSettings,
    client: Client,
    /// By issuer and result.
    asked: IntCounterVec,
    answers: Answers,
    single_flight: SingleFlight,
    breaker: Breaker,
}

/// Why an issuer returned no response.
#[derive(Debug, thiserror::Error)]
enum QuestionError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("response not understood: {0}")]
    Response(&'static str),
}

impl Introspector {
    /// The largest response that is read, in bytes: a token's claims, with room for long lists of groups.
    const MAX_BODY: usize = 64 * 1024;

    /// Fails only if the HTTP client cannot be built.
    pub fn new(
        issuer: IssuerName,
        settings: IntrospectionSettings,
        asked: IntCounterVec,
    ) -> Result<Self, reqwest::Error> {
        let client = Client::new(settings.authorities.as_ref(), Redirects::Refused)?;
        let answers = Answers::new(settings.max_answers);
        let single_flight = SingleFlight::new(settings.max_questions);
        let name = issuer.clone();
        let breaker = Breaker::new(PAUSES, move |change, error| match change {
            Change::Opened { pause } => {
                let error = error.map_or_else(|| "no answer in time".to_owned(), |error| Chain(error).to_string());
                warn!(issuer = %name, error, ?pause, "introspection fails; requests are suspended");
            }
            Change::Closed => info!(issuer = %name, "introspection works again"),
        });
        Ok(Self { issuer, settings, client, asked, answers, single_flight, breaker })
    }

    #[must_use]
    pub fn settings(&self) -> &IntrospectionSettings {
        &self.settings
    }

    /// The introspection response for a token, cached or fetched.
    pub async fn introspect(&self, token: &str) -> Arc<IntrospectionResponse> {
        let digest = digest_of(token);
        if let Some(known) = self.recall(&digest) {
            return known;
        }
        let Some(flight) = self.single_flight.enter(digest) else {
            self.count("busy");
            return self.introspection_response(TokenState::Unavailable);
        };
        flight.join(self.question(digest, token)).await
    }

    fn recall(&self, digest: &Digest) -> Option<Arc<IntrospectionResponse>> {
        self.answers.get(digest, Instant::now())
    }

    async fn question(&self, digest: Digest, token: &str) -> Arc<IntrospectionResponse> {
        if let Some(known) = self.recall(&digest) {
            return known; // Answered since the first lookup.
        }
        let Some(attempt) = self.breaker.admit(self.settings.timeout) else {
            self.count("suspended");
            return self.introspection_response(TokenState::Unavailable);
        };
        let started = Instant::now();
        let answer = self.post(token).await;
        attempt.ended(answer.as_ref().map(drop).map_err(|error| error as _));
        let Ok(state) = answer else {
            self.count("failed");
            return self.introspection_response(TokenState::Unavailable);
        };
        let (result, usable) = match &state {
            TokenState::Active(claims) => ("active", self.settings.cache.min(remaining(claims))),
            _ => ("inactive", self.settings.cache),
        };
        self.count(result);
        let introspection_response = self.introspection_response(state);
        self.answers.insert(digest, started + usable, &introspection_response);
        introspection_response
    }

    /// RFC 7662 section 2.1, with the credentials of RFC 6749 section 2.3.1.
    async fn post(&self, token: &str) -> Result<TokenState, QuestionError> {
        let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let (id, secret) = (encode(&self.settings.client_id), encode(self.settings.client_secret.expose_secret()));
        let credentials = STANDARD.encode(format!("{id}:{secret}"));
        let body = format!("token={}&token_type_hint=access_token", encode(token));
        // The configuration has already refused plain http, unless it is allowed.
        let request = self
            .client
            .request(Method::POST, &self.settings.url, true)?
            .header(AUTHORIZATION, format!("Basic {credentials}"))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        let response = send(request, self.settings.timeout, Self::MAX_BODY).await?.document()?;
        TokenState::parse(&response.body).map_err(QuestionError::Response)
    }

    fn introspection_response(&self, state: TokenState) -> Arc<IntrospectionResponse> {
        Arc::new(IntrospectionResponse { issuer: self.issuer.clone(), state })
    }

    fn count(&self, result: &str) {
        self.asked.with_label_values(&[self.issuer.as_str(), result]).inc();
    }
}

/// How long a token still lives; one without a readable `exp` is not accepted for it, so it does not matter.
fn remaining(claims: &ClaimSet) -> Duration {
    let expires_at = claims.get("exp").as_ref().and_then(Timestamp::from_numeric_date);
    expires_at.map_or(Duration::MAX, |at| at.since(crate::clock::now()))
}

/// The introspection clients of all issuers that have one.
#[derive(Default)]
pub struct Introspectors(HashMap<IssuerName, Arc<Introspector>>);

impl Introspectors {
    #[must_use]
    pub fn new(introspectors: Vec<Arc<Introspector>>) -> Self {
        Self(introspectors.into_iter().map(|one| (one.issuer.clone(), one)).collect())
    }

    #[must_use]
    pub fn get(&self, issuer: &IssuerName) -> Option<&Arc<Introspector>> {
        self.0.get(issuer)
    }

    /// A cached introspection response for a token.
    #[must_use]
    pub fn recall(&self, token: &str) -> Option<Arc<IntrospectionResponse>> {
        let digest = digest_of(token);
        self.0.values().find_map(|one| one.recall(&digest))
    }

    /// The introspection response for a token.
    pub async fn introspect(&self, issuer: &IssuerName, token: &str) -> Arc<IntrospectionResponse> {
        match self.get(issuer) {
            Some(introspector) => introspector.introspect(token).await,
            None => Arc::new(IntrospectionResponse { issuer: issuer.clone(), state: TokenState::Unavailable }),
        }
    }
}
