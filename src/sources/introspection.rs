//! Asks an issuer about tokens (RFC 7662): one question per token at a time, answers remembered for a
//! while, and none asked while the issuer does not answer.
//!
//! An answer is used for `cache` from the start of the question, and never beyond the token's `exp`. What
//! revokes a token is looked at on every decision, so no answer outlives a revocation. Inactive tokens are
//! remembered apart: a flood of made-up ones pushes out nobody who is signed in.
//!
//! The caller who asks first carries the question; if it leaves (Envoy's own timeout), the next who waits
//! asks again. So Envoy's timeout should exceed `introspection.timeout`.

mod answers;
mod breaker;
mod single_flight;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prometheus::IntCounterVec;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

use super::http::{Authorities, trusting};
use crate::authz::claims::{ClaimSet, IssuerName, Timestamp};
use crate::authz::introspection::{IntrospectionResponse, TokenState};
use answers::Answers;
use breaker::{Breaker, Turn};
use single_flight::SingleFlight;

/// How one issuer is asked.
#[derive(Clone, Debug)]
pub struct IntrospectionSettings {
    pub url: String,
    pub client_id: String,
    pub client_secret: SecretString,
    /// How long an answer is used.
    pub cache: Duration,
    /// For one question, body included.
    pub timeout: Duration,
    /// Answers that are remembered.
    pub max_answers: usize,
    /// Questions at once; more are not asked.
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

/// SHA-256 of a token: the text itself is kept nowhere.
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
    client: reqwest::Client,
    /// By issuer and result.
    asked: IntCounterVec,
    answers: Mutex<Answers>,
    single_flight: SingleFlight,
    breaker: Breaker,
}

/// Why an issuer said nothing.
#[derive(Debug, thiserror::Error)]
enum QuestionError {
    #[error("request: {0}")]
    Request(#[from] reqwest::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("answered {0}")]
    Status(u16),
    #[error("sent more than {0} bytes")]
    TooLarge(usize),
    #[error("answer not understood: {0}")]
    Response(&'static str),
}

impl Introspector {
    /// The largest answer that is read, in bytes: a token's claims, with room for long lists of groups.
    const MAX_BODY: usize = 64 * 1024;

    /// Fails only if the HTTP client cannot be built.
    pub fn new(
        issuer: IssuerName,
        settings: IntrospectionSettings,
        asked: IntCounterVec,
    ) -> Result<Self, reqwest::Error> {
        let client = trusting(super::proxy::client(), settings.authorities.as_ref())?
            // A redirect would carry the token, and our own credentials, to wherever it says.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.timeout)
            .build()?;
        let answers = Mutex::new(Answers::new(settings.max_answers));
        let single_flight = SingleFlight::new(settings.max_questions);
        Ok(Self { issuer, settings, client, asked, answers, single_flight, breaker: Breaker::default() })
    }

    #[must_use]
    pub fn settings(&self) -> &IntrospectionSettings {
        &self.settings
    }

    /// The introspection response for a token, cached or fetched.
    pub async fn ask(&self, token: &str) -> Arc<IntrospectionResponse> {
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
        self.answers().get(digest, Instant::now())
    }

    async fn question(&self, digest: Digest, token: &str) -> Arc<IntrospectionResponse> {
        if let Some(known) = self.recall(&digest) {
            return known; // Answered between our look and our turn.
        }
        let Some(turn) = self.breaker.turn(Instant::now()) else {
            self.count("suspended");
            return self.introspection_response(TokenState::Unavailable);
        };
        let started = Instant::now();
        let timeout = self.settings.timeout;
        let answer = tokio::time::timeout(timeout, self.post(token)).await;
        match answer.unwrap_or(Err(QuestionError::Timeout(timeout))) {
            Ok(said) => {
                if self.breaker.succeeded() {
                    info!(issuer = %self.issuer, "introspection works again");
                }
                let (result, usable) = match &said {
                    TokenState::Active(claims) => ("active", self.settings.cache.min(remaining(claims))),
                    _ => ("inactive", self.settings.cache),
                };
                self.count(result);
                let introspection_response = self.introspection_response(said);
                self.answers().insert(digest, started + usable, &introspection_response);
                introspection_response
            }
            Err(error) => {
                self.failed(turn, &error);
                self.introspection_response(TokenState::Unavailable)
            }
        }
    }

    fn failed(&self, turn: Turn, error: &QuestionError) {
        self.count("failed");
        if let Some(pause) = self.breaker.failed(turn, Instant::now()) {
            let cause = std::error::Error::source(error).and_then(std::error::Error::source).map(ToString::to_string);
            warn!(issuer = %self.issuer, %error, cause, ?pause, "introspection fails; not asking for a while");
        }
    }

    /// RFC 7662 section 2.1, with the credentials of RFC 6749 section 2.3.1.
    async fn post(&self, token: &str) -> Result<TokenState, QuestionError> {
        let encode = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let (id, secret) = (encode(&self.settings.client_id), encode(self.settings.client_secret.expose_secret()));
        let credentials = STANDARD.encode(format!("{id}:{secret}"));
        let body = format!("token={}&token_type_hint=access_token", encode(token));
        let request = self
            .client
            .post(&self.settings.url)
            .header(AUTHORIZATION, format!("Basic {credentials}"))
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(body);
        let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(QuestionError::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            if body.len() + chunk.len() > Self::MAX_BODY {
                return Err(QuestionError::TooLarge(Self::MAX_BODY));
            }
            body.extend_from_slice(&chunk);
        }
        TokenState::parse(&body).map_err(QuestionError::Response)
    }

    fn introspection_response(&self, said: TokenState) -> Arc<IntrospectionResponse> {
        Arc::new(IntrospectionResponse { issuer: self.issuer.clone(), said })
    }

    fn count(&self, result: &str) {
        self.asked.with_label_values(&[self.issuer.as_str(), result]).inc();
    }

    fn answers(&self) -> std::sync::MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a token still lives; one without a readable `exp` is not accepted for it, so it does not matter.
fn remaining(claims: &ClaimSet) -> Duration {
    let expires_at = claims.get("exp").as_ref().and_then(Timestamp::from_numeric_date);
    expires_at.map_or(Duration::MAX, |at| at.since(crate::clock::now()))
}

/// All issuers that can be asked.
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

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A cached introspection response for a token.
    #[must_use]
    pub fn recall(&self, token: &str) -> Option<Arc<IntrospectionResponse>> {
        let digest = digest_of(token);
        self.0.values().find_map(|one| one.recall(&digest))
    }

    /// The introspection response for a token.
    pub async fn ask(&self, issuer: &IssuerName, token: &str) -> Arc<IntrospectionResponse> {
        match self.get(issuer) {
            Some(introspector) => introspector.ask(token).await,
            None => Arc::new(IntrospectionResponse { issuer: issuer.clone(), said: TokenState::Unavailable }),
        }
    }
}
