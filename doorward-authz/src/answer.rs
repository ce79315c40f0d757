//! From decision to answer: identity headers, metadata, statuses, challenges and bodies.
//!
//! Pure, so that every protocol front end (gRPC, forward-auth, the dynamic module to come) answers alike. On every
//! allowed request each header that Doorward owns is either set or removed, never both and never
//! neither: a client's own `x-user-id` that slips through is a stolen identity.

mod facts;
mod respond;
mod rewrite;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

pub use self::facts::facts_of;
pub use self::respond::Respond;
use self::respond::signed_out;
use self::rewrite::cookies_without;
pub use self::rewrite::{look_alikes, without_query};
use super::authorizer::{Decision, Evidence, Grant, Outcome, Principal};
use super::claims::{Timestamp, fits_header};
use super::denial::Denial;
use super::dpop;
use super::encoded::Encoded;
pub use super::identity::{Fact, IdentityField, PayloadHeader, PayloadProfile, TokenField, facts_of_token};
use super::resource::ProtectedResource;
use super::rule::{Access, RequestView, Rule, Then};
use super::stream_proof::Proofs;
use super::token_source::{Offer, TokenSettings, TokenSource, WEBSOCKET_PROTOCOL, spellings_in_query};

/// Set for the upstream when the decision was made on an old view; Doorward's own header, so a client's copy is
/// removed.
pub const STALE_HEADER: &str = "x-doorward-stale";

/// In the metadata: the sealed facts of the stream's token.
pub const STREAM: &str = "stream";
/// In the metadata: the proof of its `rule`.
pub const STREAM_RULE: &str = "stream_rule";

/// Turns decisions into responses; immutable, replaced with the authorizer.
#[derive(Clone, Debug)]
pub struct Responder {
    identity: Vec<(String, IdentityField)>,
    payload: Option<PayloadHeader>,
    /// The look-alikes of all names we own, never set.
    look_alikes: Arc<Encoded<Vec<String>>>,
    /// Their [`name_bit`]s: few other headers have one of them.
    look_alike_bits: u64,
    errors: ErrorSettings,
    /// Whether challenges name the scheme `DPoP`, too.
    asks_for_dpop: bool,
    /// The protected resource whose metadata challenges name; `None`: challenges name no metadata.
    resource: Option<Arc<ProtectedResource>>,
    /// Where tokens stand.
    sources: Vec<TokenSource>,
    /// Whether upstreams see tokens.
    forward_token: bool,
    /// `None`: answers have no proof for streams.
    proofs: Option<Arc<Proofs>>,
}

/// The detail of refusals.
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
    /// Answers a WebSocket client's offer of subprotocols, because the client ends the handshake if none is selected:
    /// selects the name before the token, unless the upstream can choose from others.
    fn select_protocol(&mut self, protocol: &'a str, request: &RequestView<'_>, withholds: bool) {
        let offer = Offer::read(request, protocol);
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
            self.response.push((WEBSOCKET_PROTOCOL, protocol));
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

    /// Whether a header of this name is among [`Self::always_removed`].
    #[must_use]
    #[inline]
    pub fn always_removes(&self, name: &str) -> bool {
        self.responder.look_alike_bits & name_bit(name.as_bytes()) != 0 && self.responder.has_look_alike(name)
    }

    /// In the order of their text.
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
        let look_alike_bits = never_set.iter().fold(0, |bits, name| bits | name_bit(name.as_bytes()));
        let (look_alikes, sources) = (Arc::new(Encoded::new(never_set)), tokens.from.clone());
        Self {
            identity,
            payload,
            look_alikes,
            look_alike_bits,
            errors,
            asks_for_dpop: false,
            resource: None,
            sources,
            forward_token,
            proofs: None,
        }
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
    pub fn with_dpop_challenge(self) -> Self {
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

    /// Replaces another responder, whose public keys remain published while they are needed.
    #[must_use]
    pub fn replacing(mut self, old: &Self, now: Timestamp) -> Self {
        if let (Some(payload), Some(old)) = (self.payload.take(), &old.payload) {
            self.payload = Some(payload.replacing(old, now));
        }
        self
    }

    /// How long the identity payload of one answer may be sent with other requests; `None` without a payload.
    #[must_use]
    pub fn payload_reusable_for(&self) -> Option<Duration> {
        self.payload.as_ref().map(PayloadHeader::reusable_for)
    }

    /// The same without signatures: output for people must be useless to services.
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

    /// Not inlined: this is asked about few of the headers.
    #[inline(never)]
    fn has_look_alike(&self, name: &str) -> bool {
        name.bytes().any(|b| matches!(b, b'_' | b'.')) // Each of them has one.
            && self.look_alikes.binary_search_by(|known| known.as_str().cmp(name)).is_ok()
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
                TokenSource::WebSocketProtocol(protocol) => forward.select_protocol(protocol, request, withholds),
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
}

/// One bit of 64 for the name of a header, by its length and its ends in any case: names with different bits differ.
#[must_use]
#[inline]
pub fn name_bit(name: &[u8]) -> u64 {
    let [first, last] = [name.first(), name.last()].map(|b| usize::from(b.unwrap_or(&0) | 0x20));
    1 << ((3 * name.len() + 5 * first + 7 * last) & 63)
}

#[cfg(test)]
mod tests;
