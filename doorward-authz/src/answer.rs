//! From decision to answer: identity headers, metadata, statuses, challenges and bodies.
//!
//! Pure, so that every protocol front end (gRPC, forward-auth, the dynamic module to come) answers alike. On every
//! allowed request each header that Doorward owns is either set or removed, never both and never
//! neither: a client's own `x-user-id` that slips through is a stolen identity.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::authorizer::{Decision, Evidence, Grant, LockedOut, Outcome, Principal, ProofResult};
use super::claims::{IssuerName, Timestamp, fits_header, scopes};
use super::denial::Denial;
use super::dpop;
use super::encoded::Encoded;
pub use super::identity::{IdentityField, PayloadHeader, PayloadProfile};
use super::resource::ProtectedResource;
use super::rule::{Access, RequestView, Requirements, Rule, Then};
use super::stream_proof::Proofs;
use super::token::VerifiedToken;
use super::token_source::{Offer, TokenSettings, TokenSource, WEBSOCKET_PROTOCOL, spellings_in_query};

/// Tells the upstream that the decision was made on an old view; ours, so a client's copy is removed.
pub const STALE_HEADER: &str = "x-doorward-stale";

/// In the metadata: whose stream it is, sealed.
pub const STREAM: &str = "stream";
/// In the metadata: the proof of its `rule`.
pub const STREAM_RULE: &str = "stream_rule";

/// How decisions are put into words; immutable, replaced with the authorizer.
#[derive(Clone, Debug)]
pub struct Responder {
    identity: Vec<(String, IdentityField)>,
    payload: Option<PayloadHeader>,
    /// The look-alikes of all names we own, never set.
    look_alikes: Arc<Encoded<Vec<String>>>,
    errors: ErrorSettings,
    /// Whether challenges name the scheme `DPoP`, too.
    asks_for_dpop: bool,
    /// What challenges lead clients to; `None`: nothing.
    resource: Option<Arc<ProtectedResource>>,
    /// Where tokens stand.
    sources: Vec<TokenSource>,
    /// Whether upstreams see tokens.
    forward_token: bool,
    /// `None`: answers prove nothing about streams.
    proofs: Option<Arc<Proofs>>,
}

/// How much a refusal says.
#[derive(Clone, Debug)]
pub struct ErrorSettings {
    /// False leaves `reason` and `message` out.
    pub reasons: bool,
    /// Stands quoted in challenges; without `"` and `\`.
    pub realm: String,
}

/// An answer to a request, for any protocol.
#[derive(Clone, Debug)]
pub enum Answer<'a> {
    /// The request goes on, changed.
    Forward(Forward<'a>),
    /// The client is answered.
    Respond(Respond),
}

/// How a request is changed: by this request's own part, the part of its token, which never changes, and
/// the look-alikes, which are always removed. No name is in two of them.
#[derive(Clone, Debug)]
pub struct Forward<'a> {
    responder: &'a Responder,
    principal: Option<&'a Principal>,
    pub set: Vec<(&'a str, Cow<'a, str>)>,
    pub remove: Vec<&'a str>,
    pub remove_query: Vec<String>,
    /// Headers of the response, unless the upstream sets them.
    pub response: Vec<(&'static str, &'a str)>,
}

/// The identity headers that depend on the token alone.
#[derive(Clone, Debug, Default)]
pub struct Identity<'a> {
    pub set: Vec<(&'a str, String)>,
    pub remove: Vec<&'a str>,
}

impl<'a> Forward<'a> {
    /// Answers the offer of a WebSocket's client, which ends the handshake when none of its subprotocols is
    /// selected: by the word before the token, unless the upstream has others to choose from.
    fn select_protocol(&mut self, word: &'a str, request: &RequestView<'_>, withholds: bool) {
        let offer = Offer::read(request, word);
        if !offer.has_word {
            return;
        }
        if withholds {
            match String::from_utf8(offer.rest.join(&b", "[..])) {
                Ok(rest) if !rest.is_empty() => self.set.push((WEBSOCKET_PROTOCOL, Cow::Owned(rest))),
                _ => self.remove.push(WEBSOCKET_PROTOCOL),
            }
        }
        if !withholds || offer.rest.is_empty() {
            self.response.push((WEBSOCKET_PROTOCOL, word));
        }
    }

    /// The part of the token; without a principal, all of it is removed.
    #[must_use]
    pub fn identity(&self) -> Identity<'a> {
        let mut identity = Identity::default();
        let mut tell = |name: &'a str, value: Option<String>| match value {
            Some(value) => identity.set.push((name, value)),
            None => identity.remove.push(name),
        };
        let token = self.principal.map(Principal::token);
        for (name, field) in &self.responder.identity {
            if *field != IdentityField::ApiClient {
                tell(name, token.and_then(|token| field.of_token(token)).filter(|value| fits_header(value)));
            }
        }
        if let Some(payload) = self.responder.payload.as_ref().filter(|payload| payload.signer.is_none()) {
            tell(&payload.name, self.principal.map(PayloadHeader::write_plain));
        }
        identity
    }

    /// The encoding of the part of the token, made once for each token and responder; `None` without a
    /// principal.
    pub fn kept(&self, make: impl FnOnce() -> Box<[u8]>) -> Option<&'a [u8]> {
        self.principal?.token().kept(&self.responder.look_alikes, make)
    }

    /// The sealed subject, for a request that becomes a stream.
    #[must_use]
    pub fn subject(&self) -> Option<(&'static str, Cow<'a, str>)> {
        let proofs = self.responder.proofs.as_ref()?;
        let anonymous = || Cow::Borrowed(proofs.anonymous());
        let subject = self.principal.map_or_else(anonymous, |principal| Cow::Owned(proofs.subject(principal.token())));
        Some((STREAM, subject))
    }

    /// The proof that this rule decided.
    #[must_use]
    pub fn rule_proof(&self, rule: &str) -> Option<(&'static str, &'a str)> {
        Some((STREAM_RULE, self.responder.proofs.as_ref()?.rule(rule)?))
    }

    #[must_use]
    pub fn always_removed(&self) -> &'a Encoded<Vec<String>> {
        &self.responder.look_alikes
    }

    /// Every header that is set.
    pub fn all_set(&self) -> impl Iterator<Item = (&'a str, Cow<'a, str>)> {
        let of_token = self.identity().set.into_iter().map(|(name, value)| (name, Cow::Owned(value)));
        of_token.chain(self.set.clone())
    }

    /// Every header that is removed.
    pub fn all_removed(&self) -> impl Iterator<Item = &'a str> {
        let always = self.always_removed().iter().map(String::as_str);
        always.chain(self.identity().remove).chain(self.remove.clone())
    }
}

#[derive(Clone, Debug)]
pub struct Respond {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl Respond {
    /// The `grpc-status` of the same answer, as Envoy derives it from an HTTP status (`Grpc::Utility::httpToGrpcStatus`).
    #[must_use]
    pub const fn grpc_status(&self) -> &'static str {
        match self.status {
            400 => "13", // Internal
            401 => "16", // Unauthenticated
            403 => "7",  // PermissionDenied
            503 => "14", // Unavailable
            _ => "2",    // Unknown
        }
    }
}

/// A request target without some parameters of its query, as Envoy's `query_parameters_to_remove` leaves it: the
/// others sorted by their names, each with `=` (`Http::Utility::QueryParamsMulti`).
#[must_use]
pub fn without_query(target: &str, names: &[String]) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // What is empty behind the last `&` is no parameter to Envoy.
    let query = query.strip_suffix('&').unwrap_or(query);
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut kept: Vec<_> = pairs.filter(|(name, _)| !names.iter().any(|removed| removed == name)).collect();
    if query.is_empty() {
        kept.clear();
    }
    kept.sort_by_key(|(name, _)| *name); // Stable: values of one name stay in order.
    let mut rest = path.to_owned();
    for (at, (name, value)) in kept.into_iter().enumerate() {
        rest.push(if at == 0 { '?' } else { '&' });
        rest.extend([name, "=", value]);
    }
    rest
}

impl Responder {
    /// The most dashes a header of ours may have: each triples the number of its look-alikes.
    pub const MAX_DASHES: usize = 5;

    /// `identity` and `payload` have lower-case header names with at most [`Self::MAX_DASHES`] dashes.
    #[must_use]
    pub fn new(
        identity: Vec<(String, IdentityField)>,
        payload: Option<PayloadHeader>,
        errors: ErrorSettings,
        tokens: &TokenSettings,
        forward_token: bool,
    ) -> Self {
        let payload_name = payload.as_ref().map(|payload| payload.name.as_str());
        let settable: Vec<&str> =
            identity.iter().map(|(name, _)| name.as_str()).chain(payload_name).chain([STALE_HEADER]).collect();
        let mut never_set: Vec<String> = settable.iter().flat_map(|name| look_alikes(name)).collect();
        never_set.retain(|name| !settable.contains(&name.as_str()));
        never_set.sort();
        never_set.dedup();
        let (look_alikes, sources) = (Arc::new(Encoded::new(never_set)), tokens.from.clone());
        let (asks_for_dpop, resource, proofs) = (false, None, None);
        Self { look_alikes, identity, payload, errors, asks_for_dpop, resource, sources, forward_token, proofs }
    }

    /// The same, with challenges that lead clients to the description of the resource.
    #[must_use]
    pub fn describing(self, resource: ProtectedResource) -> Self {
        Self { resource: Some(Arc::new(resource)), ..self }
    }

    #[must_use]
    pub fn resource(&self) -> Option<&ProtectedResource> {
        self.resource.as_deref()
    }

    /// The same, with challenges that name the scheme `DPoP`, too.
    #[must_use]
    pub fn asking_for_dpop(self) -> Self {
        Self { asks_for_dpop: true, ..self }
    }

    /// The realm that challenges name.
    #[must_use]
    pub fn realm(&self) -> &str {
        &self.errors.realm
    }

    /// The public keys that verify signed payloads, as a JSON Web Key Set.
    #[must_use]
    pub fn public_keys(&self, now: Timestamp) -> Value {
        json!({"keys": self.payload.as_ref().map(|payload| payload.public_keys(now)).unwrap_or_default()})
    }

    /// Takes the place of another responder, whose public keys stay known while they are needed.
    #[must_use]
    pub fn replacing(mut self, old: &Self, now: Timestamp) -> Self {
        if let (Some(payload), Some(old)) = (self.payload.take(), &old.payload) {
            self.payload = Some(payload.replacing(old, now));
        }
        self
    }

    /// The same without signatures: what is shown to people must be of no use to services.
    #[must_use]
    pub fn unsigned(&self) -> Self {
        let payload = self.payload.as_ref().map(PayloadHeader::unsigned);
        Self { payload, proofs: None, ..self.clone() }.afresh()
    }

    /// The same with these proofs for streams.
    #[must_use]
    pub fn proving(self, proofs: Proofs) -> Self {
        Self { proofs: Some(Arc::new(proofs)), ..self }.afresh()
    }

    #[must_use]
    pub fn proofs(&self) -> Option<&Arc<Proofs>> {
        self.proofs.as_ref()
    }

    /// The cached encoding belongs to another responder.
    fn afresh(self) -> Self {
        Self { look_alikes: Arc::new(Encoded::new(self.look_alikes.to_vec())), ..self }
    }

    /// The answer to a decision; a decision that still needs a lookup is refused as if it had failed.
    #[must_use]
    pub fn answer<'a>(&'a self, decision: &'a Decision<'_>, request: &RequestView<'_>) -> Answer<'a> {
        match &decision.outcome {
            Outcome::Allowed(grant) => match grant.sign_out {
                Some((_, Then::Respond)) => Answer::Respond(signed_out()),
                _ => Answer::Forward(self.forward(decision.rule, grant, &decision.evidence, request)),
            },
            refused => {
                let denial = refused.denial().unwrap_or(Denial::InternalError);
                Answer::Respond(self.refuse(denial, &decision.rule.require, &decision.evidence, request))
            }
        }
    }

    fn forward<'a>(
        &'a self,
        rule: &Rule,
        grant: &'a Grant,
        evidence: &'a Evidence,
        request: &RequestView<'_>,
    ) -> Forward<'a> {
        let principal = grant.principal.as_ref();
        let (set, remove, remove_query, response) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut forward = Forward { responder: self, principal, set, remove, remove_query, response };
        let mut tell = |name: &'a str, value: Option<Cow<'a, str>>| match value {
            Some(value) => forward.set.push((name, value)),
            None => forward.remove.push(name),
        };
        for (name, _) in self.identity.iter().filter(|(_, field)| *field == IdentityField::ApiClient) {
            tell(name, evidence.api_client.as_deref().filter(|id| fits_header(id)).map(Cow::Borrowed));
        }
        if let Some(payload) = self.payload.as_ref().filter(|payload| payload.signer.is_some()) {
            let signed = principal.and_then(|principal| payload.write_signed(principal, &rule.name, request));
            tell(&payload.name, signed.map(Cow::Owned));
        }
        tell(STALE_HEADER, grant.stale.then_some(Cow::Borrowed("true")));
        // A token that was refused must not be believed by a service that reads it by itself.
        let withholds = !self.forward_token || grant.ignored.is_some();
        let mut cookies: Vec<&TokenSource> = Vec::new();
        for source in &self.sources {
            match source {
                TokenSource::WebSocketProtocol(word) => forward.select_protocol(word, request, withholds),
                _ if !withholds => {}
                TokenSource::Header { name, .. } if source.may_stand_in(request) => forward.remove.push(name),
                TokenSource::Header { .. } => {}
                // Only from requests that have it: Envoy writes the whole query anew.
                TokenSource::Query(name) => {
                    let spelled = spellings_in_query(request, name);
                    if !spelled.is_empty() {
                        forward.remove_query.push(name.clone());
                    }
                    forward.remove_query.extend(spelled.into_iter().filter(|other| other != name).map(str::to_owned));
                }
                TokenSource::Cookie(_) | TokenSource::ChunkedCookie(_) => cookies.push(source),
            }
        }
        // An upstream that has the proof could use it elsewhere. An authorization server that is asked for a new token
        // needs it: the new one is bound to the same key (RFC 9449 section 5).
        let is_spent = principal.is_some_and(Principal::is_proved_by_dpop) && rule.access != Access::Refresh;
        if is_spent || grant.ignored.is_some() && request.header(dpop::FIELD).next().is_some() {
            forward.remove.push(dpop::FIELD);
        }
        let nonce = evidence.proof.as_ref().and_then(|proof| proof.nonce.as_deref());
        forward.response.extend(nonce.map(|nonce| (dpop::NONCE_FIELD, nonce)));
        match cookies_without(request, &cookies) {
            Some(rest) if rest.is_empty() => forward.remove.push("cookie"),
            Some(rest) => forward.set.push(("cookie", Cow::Owned(rest))),
            None => {}
        }
        forward
    }

    /// The refusal for a reason; `require`, `evidence` and `request` have what a challenge must tell.
    #[must_use]
    pub fn refuse(
        &self,
        denial: Denial,
        require: &Requirements,
        evidence: &Evidence,
        request: &RequestView<'_>,
    ) -> Respond {
        let kind = Refusal::of(denial, evidence);
        let mut headers =
            vec![("content-type", "application/json".to_owned()), ("cache-control", "no-store".to_owned())];
        if let Some(challenge) = self.challenge(denial, kind, require, evidence.is_dpop, request) {
            headers.push(("www-authenticate", challenge));
        }
        let nonce = evidence.proof.as_ref().and_then(|proof| proof.nonce.as_deref());
        headers.extend(nonce.map(|nonce| (dpop::NONCE_FIELD, nonce.to_owned())));
        if kind.status == 503 {
            headers.push(("retry-after", "1".to_owned()));
        }
        let mut body = self.body(kind.error, denial.label(), denial.message());
        if let (Denial::Revoked | Denial::SignedOut, Some(LockedOut { until, left })) = (denial, evidence.locked_out) {
            headers.push(("retry-after", (left.as_secs() + 1).to_string()));
            body["until"] = until.to_rfc3339().into();
        }
        Respond { status: kind.status, headers, body: body.to_string() }
    }

    /// The refusal, with 503, of a stream whose request is not at fault; both texts are fixed ones.
    #[must_use]
    pub fn refuse_stream(&self, reason: &'static str, message: &'static str) -> Respond {
        let kind = Refusal::of(Denial::InternalError, &Evidence::default());
        let headers = [("content-type", "application/json"), ("cache-control", "no-store"), ("retry-after", "1")];
        let headers = headers.map(|(name, value)| (name, value.to_owned())).into();
        Respond { status: kind.status, headers, body: self.body(kind.error, reason, message).to_string() }
    }

    fn body(&self, error: &str, reason: &str, message: &str) -> serde_json::Value {
        if self.errors.reasons {
            json!({"error": error, "reason": reason, "message": message})
        } else {
            json!({"error": error})
        }
    }

    /// RFC 6750 section 3, RFC 9449 section 7.1, RFC 9470 section 3, RFC 9728 section 5.1.
    fn challenge(
        &self,
        denial: Denial,
        kind: Refusal,
        require: &Requirements,
        is_dpop: bool,
        request: &RequestView<'_>,
    ) -> Option<String> {
        let scheme = kind.challenge?;
        let mut parameters = Vec::new();
        // Clients that are led to the issuer ask it for what the rule wants (MCP, Scope Selection Strategy).
        let leads = scheme == BEARER && self.resource.is_some();
        let metadata = self.resource.as_ref().filter(|_| leads).and_then(|resource| resource.metadata_url(request));
        // RFC 6750 section 3.1: no error code where no credentials were.
        if scheme == BEARER && denial != Denial::MissingToken {
            parameters.push(("error", kind.error.to_owned()));
            if self.errors.reasons {
                parameters.push(("error_description", denial.message().to_owned()));
            }
            if denial == Denial::InsufficientAuthentication {
                let acr = Some(require.acr.join(" ")).filter(|acr| !acr.is_empty());
                parameters.extend(acr.map(|acr| ("acr_values", acr)));
                parameters.extend(require.max_age.map(|max_age| ("max_age", max_age.as_secs().to_string())));
            }
        }
        if denial == Denial::InsufficientScope || leads && !require.scopes.is_empty() {
            parameters.push(("scope", require.scopes.join(" ")));
        }
        let written = |scheme: &str, more: Vec<(&str, String)>| {
            let algorithms = (scheme == dpop::SCHEME).then(|| ("algs", dpop::algorithms()));
            let metadata = metadata.iter().map(|url| ("resource_metadata", url.clone()));
            let parameters = [("realm", self.errors.realm.clone())].into_iter().chain(more).chain(algorithms);
            let parameters = parameters.chain(metadata);
            let parameters: Vec<_> = parameters.map(|(name, value)| format!("{name}=\"{value}\"")).collect();
            format!("{scheme} {}", parameters.join(", "))
        };
        Some(match scheme {
            BEARER if is_dpop => written(dpop::SCHEME, parameters),
            // One field, because Envoy would set only the last of several.
            BEARER if self.asks_for_dpop => {
                format!("{}, {}", written(scheme, parameters), written(dpop::SCHEME, Vec::new()))
            }
            scheme => written(scheme, parameters),
        })
    }
}

/// The scheme of challenges for tokens (RFC 6750 section 3).
const BEARER: &str = "Bearer";

/// The wire form of a refusal: status, error code, challenge.
#[derive(Clone, Copy)]
struct Refusal {
    status: u16,
    error: &'static str,
    /// The scheme of the `WWW-Authenticate` challenge.
    challenge: Option<&'static str>,
}

impl Refusal {
    /// The one place where a reason gets its status; a new reason does not compile without one.
    fn of(denial: Denial, evidence: &Evidence) -> Self {
        let (status, error, challenge) = match denial {
            Denial::MissingToken => (401, "missing_token", Some(BEARER)),
            Denial::MultipleTokens | Denial::BadRequest => (400, "invalid_request", None),
            Denial::MalformedToken
            | Denial::UnknownIssuer
            | Denial::UnknownKey
            | Denial::AlgorithmNotAllowed
            | Denial::BadSignature
            | Denial::MissingClaim
            | Denial::InvalidClaim
            | Denial::Expired
            | Denial::NotYetValid
            | Denial::LifetimeTooLong
            | Denial::WrongAudience
            | Denial::WrongType
            | Denial::TokenInactive
            | Denial::Revoked
            | Denial::SignedOut
            | Denial::NotRegistered => (401, "invalid_token", Some(BEARER)),
            Denial::ProofMissing | Denial::ProofInvalid => {
                let result = evidence.proof.as_ref().map(|proof| proof.result);
                let error = match result {
                    Some(ProofResult::Nonce) => "use_dpop_nonce", // RFC 9449 section 9.
                    _ if evidence.is_dpop => "invalid_dpop_proof",
                    _ => "invalid_token",
                };
                (401, error, Some(BEARER))
            }
            Denial::ApiKeyMissing | Denial::ApiKeyUnknown | Denial::ApiKeyExpired => {
                (401, "invalid_api_key", Some("ApiKey"))
            }
            Denial::ApiKeyPlatform | Denial::ApiKeyDomain | Denial::ClaimMismatch => (403, "access_denied", None),
            Denial::InsufficientScope => (403, "insufficient_scope", Some(BEARER)),
            Denial::InsufficientAuthentication => (401, "insufficient_user_authentication", Some(BEARER)),
            Denial::KeysUnavailable
            | Denial::RevocationsStale
            | Denial::StoreUnavailable
            | Denial::IntrospectionUnavailable
            | Denial::ClockSkew
            | Denial::InternalError => (503, "temporarily_unavailable", None),
        };
        Self { status, error, challenge }
    }
}

fn signed_out() -> Respond {
    Respond { status: 204, headers: vec![("cache-control", "no-store".to_owned())], body: String::new() }
}

/// A fact of a decision for access logs and later filters.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact<'a> {
    Text(&'a str),
    /// Since the Unix epoch.
    Seconds(i64),
    Texts(Vec<String>),
}

/// The facts of a decision, allowed or refused.
pub fn facts_of<'a>(decision: &'a Decision<'_>) -> impl Iterator<Item = (&'static str, Fact<'a>)> {
    let (outcome, denial) = match &decision.outcome {
        Outcome::Allowed(grant) => (if grant.shadowed.is_some() { "shadow" } else { "allowed" }, grant.shadowed),
        refused => ("denied", refused.denial()),
    };
    let facts = [
        ("decision", Some(outcome)),
        ("rule", Some(&*decision.rule.name)),
        ("reason", Some(denial.map_or("ok", Denial::label))),
        ("issuer", decision.evidence.issuer.as_ref().map(IssuerName::as_str)),
        ("api_client", decision.evidence.api_client.as_deref()),
    ];
    facts.into_iter().filter_map(|(name, text)| Some((name, Fact::Text(text?))))
}

/// The facts of a verified token, allowed or refused.
///
/// Values that could not stand in a header are left out here as well: a line break in a `sid` would
/// write lines of its own into a text access log.
pub fn facts_of_token(token: &VerifiedToken) -> impl Iterator<Item = (&'static str, Fact<'_>)> {
    let scopes = scopes(token.claims()).into_iter().filter(|scope| fits_header(scope)).collect();
    let actors: Vec<_> = token.actors().filter(|actor| fits_header(actor)).map(str::to_owned).collect();
    let facts = [
        ("user_id", fitting(token.user_id())),
        ("token_id", fitting(Some(token.token_id()))),
        ("session_id", fitting(token.session_id())),
        ("client_id", fitting(token.client_id())),
        ("actor", fitting(token.actor())),
        ("actors", Some(Fact::Texts(actors)).filter(|_| token.actor().is_some())),
        ("scopes", Some(Fact::Texts(scopes))),
        ("expires_at", Some(Fact::Seconds(token.expires_at().as_secs()))),
    ];
    facts.into_iter().filter_map(|(name, fact)| Some((name, fact?)))
}

fn fitting(text: Option<&str>) -> Option<Fact<'_>> {
    text.filter(|text| fits_header(text)).map(Fact::Text)
}

/// A name and every spelling of it with `_` or `.` for `-`: many back ends read them as one
/// (`HTTP_X_USER_ID`), so a look-alike that passes is a spoofed identity.
pub fn look_alikes(name: &str) -> Vec<String> {
    let mut spellings = vec![String::new()];
    for part in name.split_inclusive('-') {
        let (text, dash) = part.strip_suffix('-').map_or((part, false), |text| (text, true));
        let ends: &[&str] = if dash { &["-", "_", "."] } else { &[""] };
        spellings =
            spellings.iter().flat_map(|start| ends.iter().map(move |end| format!("{start}{text}{end}"))).collect();
    }
    spellings
}

/// The `cookie` fields as one without these cookies; `None` if none of them was there. Empty, too, if what is
/// left is no text, which cannot be sent on.
fn cookies_without(request: &RequestView<'_>, sources: &[&TokenSource]) -> Option<String> {
    let withheld = |pair: &&[u8]| {
        let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii_end();
        sources.iter().any(|source| source.is_cookie(name))
    };
    let pairs = || request.header("cookie").flat_map(|field| field.split(|b| *b == b';')).map(<[u8]>::trim_ascii);
    if sources.is_empty() || !pairs().any(|pair| withheld(&pair)) {
        return None;
    }
    let kept: Vec<_> = pairs().filter(|pair| !withheld(pair)).collect();
    Some(String::from_utf8(kept.join(&b"; "[..])).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_uri::ProxyTrust;
    use crate::resource::ResourceIdentifier;

    #[test]
    fn every_refusal_has_its_status_and_challenge() {
        let responder = Responder::new(
            Vec::new(),
            None,
            ErrorSettings { reasons: true, realm: "doorward".to_owned() },
            &TokenSettings { from: Vec::new(), max_bytes: 1 },
            true,
        );
        let require = Requirements {
            scopes: vec!["a".to_owned(), "b".to_owned()],
            acr: vec!["mfa".to_owned()],
            max_age: Some(std::time::Duration::from_secs(900)),
            ..Requirements::default()
        };
        for denial in Denial::ALL {
            let refusal = responder.refuse(denial, &require, &Evidence::default(), &RequestView::NOTHING);
            let header = |name| refusal.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
            let body: Value = serde_json::from_str(&refusal.body).unwrap();
            assert_eq!(body["reason"], denial.label());
            assert_eq!(header("cache-control"), Some("no-store"));
            assert_eq!(
                header("www-authenticate").is_some(),
                refusal.status == 401 || denial == Denial::InsufficientScope,
                "{denial:?}"
            );
            assert_eq!(header("retry-after").is_some(), refusal.status == 503, "{denial:?}");
        }
        let challenge = |denial| {
            responder
                .refuse(denial, &require, &Evidence::default(), &RequestView::NOTHING)
                .headers
                .into_iter()
                .find(|(n, _)| *n == "www-authenticate")
                .unwrap()
                .1
        };
        assert_eq!(challenge(Denial::MissingToken), "Bearer realm=\"doorward\"");
        assert_eq!(challenge(Denial::ApiKeyMissing), "ApiKey realm=\"doorward\"");
        assert!(challenge(Denial::Expired).starts_with("Bearer realm=\"doorward\", error=\"invalid_token\""));
        assert!(challenge(Denial::InsufficientScope).ends_with("scope=\"a b\""));
        assert!(challenge(Denial::InsufficientAuthentication).ends_with("acr_values=\"mfa\", max_age=\"900\""));
        assert!(challenge(Denial::ProofMissing).starts_with("Bearer realm=\"doorward\", error=\"invalid_token\""));
    }

    #[test]
    fn challenges_lead_to_the_metadata_of_the_resource() {
        let errors = ErrorSettings { reasons: false, realm: "r".to_owned() };
        let tokens = TokenSettings { from: Vec::new(), max_bytes: 1 };
        let identifier = ResourceIdentifier::fixed("https://api.test/mcp").unwrap();
        let resource = ProtectedResource::new(identifier, ProxyTrust::default(), serde_json::Map::new());
        let responder = Responder::new(Vec::new(), None, errors, &tokens, true).describing(resource);
        let require = Requirements { scopes: vec!["a".to_owned(), "b".to_owned()], ..Requirements::default() };
        let foreign = RequestView { host: "evil.test", target: "/x", scheme: "https", ..RequestView::NOTHING };
        let challenge = |responder: &Responder, denial| {
            let refusal = responder.refuse(denial, &require, &Evidence::default(), &foreign);
            refusal.headers.into_iter().find(|(name, _)| *name == "www-authenticate").unwrap().1
        };
        let metadata = "resource_metadata=\"https://api.test/.well-known/oauth-protected-resource/mcp\"";
        for (denial, expected) in [
            (Denial::MissingToken, format!("Bearer realm=\"r\", scope=\"a b\", {metadata}")),
            (Denial::Revoked, format!("Bearer realm=\"r\", error=\"invalid_token\", scope=\"a b\", {metadata}")),
            (
                Denial::InsufficientScope,
                format!("Bearer realm=\"r\", error=\"insufficient_scope\", scope=\"a b\", {metadata}"),
            ),
            (Denial::ApiKeyMissing, "ApiKey realm=\"r\"".to_owned()),
        ] {
            assert_eq!(challenge(&responder, denial), expected);
        }
        // Each challenge of the field has it: a client reads the one that it can use.
        let both = challenge(&responder.asking_for_dpop(), Denial::MissingToken);
        assert_eq!(both.matches(metadata).count(), 2, "{both}");
    }

    #[test]
    fn a_query_is_rewritten_as_envoy_does() {
        let names = ["token".to_owned()];
        for (target, expected) in [
            ("/a?token=x", "/a"),
            ("/a?b=1&token=x", "/a?b=1"),
            ("/a?c&b=2&token&b=1", "/a?b=2&b=1&c="),
            ("/a?token=x&&b", "/a?=&b="),
            ("/a?token=x&", "/a"),
            ("/a?token=x&b=c=d?", "/a?b=c=d?"),
            ("/a?", "/a"),
            ("/a", "/a"),
        ] {
            assert_eq!(without_query(target, &names), expected, "{target}");
        }
    }

    #[test]
    fn look_alikes_are_all_spellings_once() {
        let spellings = look_alikes("x-user-id");
        assert_eq!(spellings.len(), 9);
        for name in ["x-user-id", "x_user_id", "x.user.id", "x_user-id", "x.user_id"] {
            assert!(spellings.contains(&name.to_owned()), "{name}");
        }
        assert_eq!(look_alikes("identity"), ["identity"]);
    }

    #[test]
    fn cookies_are_taken_out_and_the_others_stay() {
        let check = |fields: &[&[u8]], names: &[&str], expected: Option<&str>| {
            let headers: Vec<_> = fields.iter().map(|field| ("cookie", *field)).collect();
            let request = RequestView { headers: &headers, ..RequestView::NOTHING };
            let sources: Vec<_> = names.iter().map(|name| TokenSource::ChunkedCookie((*name).to_owned())).collect();
            let sources: Vec<_> = sources.iter().collect();
            assert_eq!(cookies_without(&request, &sources).as_deref(), expected, "{fields:?}");
        };
        check(&[b"a=1; token=x; b=2"], &["token"], Some("a=1; b=2"));
        check(&[b"a=1; token_0=x; token.1=y; token_x=2; token_=3"], &["token"], Some("a=1; token_x=2; token_=3"));
        check(&[b"a=1; token=x; b=2; old =x"], &["token", "old"], Some("a=1; b=2"));
        check(&[b"a=1; token=x", b"old=x;b=2"], &["token", "old"], Some("a=1; b=2"));
        check(&[b"token=x"], &["token"], Some(""));
        check(&[b"a=1; mytoken=x"], &["token"], None);
        check(&[b"token=x; a=\xe9; b=2"], &["token"], Some(""));
        check(&[b"a=\xe9"], &["token"], None);
    }
}
