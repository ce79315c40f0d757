//! The caller's identity for upstreams: single headers and a signed payload.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::authorizer::Principal;
use super::claims::{ClaimPath, Timestamp, on_one_line, scopes};
use super::rule::RequestView;
use super::signing::{PAYLOAD_TYPE, PayloadSigner};
use super::token::VerifiedToken;

/// A fact in the form for metadata and payloads.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact<'a> {
    Text(Cow<'a, str>),
    /// Since the Unix epoch.
    Seconds(i64),
    Texts(Vec<String>),
}

impl<'a> Fact<'a> {
    #[must_use]
    pub const fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Seconds(seconds) => json!(seconds),
            Self::Texts(texts) => json!(texts),
        }
    }
}

/// Where a field may stand beside the others of its token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// A separate header, if the configuration names it.
    Header,
    /// The identity payload.
    Payload,
    /// The dynamic metadata.
    Metadata,
    /// An explanation.
    Explanation,
}

struct Row {
    name: &'static str,
    /// The separator of several texts in a header: a list with a text that contains it is left out. `None`: the field
    /// is one text.
    joiner: Option<&'static str>,
    places: &'static [Place],
    read: fn(&VerifiedToken) -> Option<Fact<'_>>,
}

/// Declares the fields of an identity: each with its name, the separator of several texts in a header, the places
/// where it stands and how it is read.
macro_rules! token_fields {
    (@joiner) => { None };
    (@joiner $joiner:literal) => { Some($joiner) };
    ($($(#[$doc:meta])* $field:ident = $name:literal $(joined by $joiner:literal)?, [$($place:ident)+], $read:expr;)+) => {
        /// The fields of a token about its caller.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum TokenField {
            $($(#[$doc])* $field,)+
        }

        impl TokenField {
            /// In the order of their declaration.
            pub const ALL: [Self; ROWS.len()] = [$(Self::$field),+];
        }

        const ROWS: &[Row] = &[
            $(Row {
                name: $name,
                joiner: token_fields!(@joiner $($joiner)?),
                places: &[$(Place::$place),+],
                read: $read,
            },)+
        ];
    };
}

token_fields! {
    UserId = "user_id", [Header Payload Metadata Explanation], |token| token.user_id().map(Fact::text);
    Email = "email", [Header Payload], |token| token.email().map(Fact::text);
    SessionId = "session_id", [Header Payload Metadata Explanation], |token| token.session_id().map(Fact::text);
    ClientId = "client_id", [Header Payload Metadata Explanation], |token| token.client_id().map(Fact::text);
    /// The party that acts for the user now.
    Actor = "actor", [Header Payload Metadata], |token| token.actor().map(Fact::text);
    /// All parties that act or acted, the current one first.
    Actors = "actors" joined by ",", [Header Payload Metadata Explanation], |token| {
        Some(Fact::Texts(token.actors().map(str::to_owned).collect())).filter(|_| token.actor().is_some())
    };
    TokenId = "token_id", [Header Payload Metadata Explanation], |token| Some(Fact::text(token.token_id()));
    /// The issuer's configured name; metadata has it of the decision, also without a token.
    Issuer = "issuer", [Header Payload Explanation], |token| Some(Fact::text(token.issuer().as_str()));
    Scopes = "scopes" joined by " ", [Header Payload Metadata], |token| Some(Fact::Texts(scopes(token.claims())));
    /// Whole seconds since the Unix epoch.
    IssuedAt = "issued_at", [Payload], |token| token.issued_at().map(|at| Fact::Seconds(at.as_secs()));
    /// Whole seconds since the Unix epoch.
    ExpiresAt = "expires_at", [Header Payload Metadata], |token| Some(Fact::Seconds(token.expires_at().as_secs()));
}

impl TokenField {
    /// The fields that stand in a place.
    pub fn in_place(place: Place) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |field| field.row().places.contains(&place))
    }

    const fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Its stable public name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The token's value; `None` without one.
    #[must_use]
    pub fn read(self, token: &VerifiedToken) -> Option<Fact<'_>> {
        (self.row().read)(token)
    }

    /// The value as JSON, where each field is present: an absent text is null, and an absent list is empty.
    #[must_use]
    pub fn to_json(self, token: &VerifiedToken) -> Value {
        let absent = || self.row().joiner.map_or(Value::Null, |_| json!([]));
        self.read(token).map_or_else(absent, |fact| fact.to_json())
    }

    /// The value of its header.
    fn header_value(self, token: &VerifiedToken) -> Option<String> {
        match self.read(token)? {
            Fact::Text(text) => Some(text.into_owned()),
            Fact::Seconds(seconds) => Some(seconds.to_string()),
            Fact::Texts(texts) => {
                let joiner = self.row().joiner.unwrap_or(",");
                Some(texts).filter(|texts| !texts.iter().any(|text| text.contains(joiner))).map(|it| it.join(joiner))
            }
        }
    }
}

/// The facts of a verified token for metadata, allowed or refused.
///
/// Metadata is text of any characters. Limits are counted by metadata, so a name that was left out would be a caller
/// without a limit. Invisible characters are escaped: a line break in a `sid` would write lines of its own into a text
/// access log.
pub fn facts_of_token(token: &VerifiedToken) -> impl Iterator<Item = (&'static str, Fact<'_>)> {
    TokenField::in_place(Place::Metadata).filter_map(|field| {
        let fact = match field.read(token)? {
            Fact::Text(Cow::Borrowed(text)) => Fact::Text(on_one_line(text)),
            Fact::Texts(mut texts) => {
                for text in &mut texts {
                    if let Cow::Owned(escaped) = on_one_line(text) {
                        *text = escaped;
                    }
                }
                Fact::Texts(texts)
            }
            other => other,
        };
        Some((field.name(), fact))
    })
}

/// The content of an identity header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IdentityField {
    Token(TokenField),
    /// The id of the API key.
    ApiClient,
    /// Text, numbers and booleans as they are; lists joined with commas.
    Claim(ClaimPath),
    /// As base64url without padding: for text that a header cannot carry.
    Base64(Box<IdentityField>),
}

impl IdentityField {
    const API_CLIENT: &str = "api_client";

    /// The names of the fields that are configured by one.
    pub fn names() -> impl Iterator<Item = &'static str> {
        TokenField::in_place(Place::Header).map(TokenField::name).chain([Self::API_CLIENT])
    }

    /// The field of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let of_token = TokenField::in_place(Place::Header).find(|field| field.name() == name).map(Self::Token);
        of_token.or((name == Self::API_CLIENT).then_some(Self::ApiClient))
    }

    /// The value from the token; empty for fields of the request.
    pub(super) fn of_token(&self, token: &VerifiedToken) -> Option<String> {
        match self {
            Self::Token(field) => field.header_value(token),
            Self::Claim(path) => path.find(token.claims()).as_ref().and_then(plain_text),
            Self::Base64(field) => field.of_token(token).map(|text| URL_SAFE_NO_PAD.encode(text)),
            Self::ApiClient => None,
        }
    }
}

fn plain_text(claim: &Value) -> Option<String> {
    match claim {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        // An item with a comma would read as two items.
        Value::Array(items) => {
            let items: Option<Vec<_>> = items
                .iter()
                .map(|item| plain_text(item).filter(|text| !item.is_array() && !text.contains(',')))
                .collect();
            items.map(|items| items.join(","))
        }
        Value::Object(_) | Value::Null => None,
    }
}

/// The fields of an identity payload; absent ones are left out.
fn identity_of(token: &VerifiedToken) -> Map<String, Value> {
    let fields = TokenField::in_place(Place::Payload);
    fields.filter_map(|field| Some((field.name().to_owned(), field.read(token)?.to_json()))).collect()
}

/// The `typ` of a transaction token (draft-ietf-oauth-transaction-tokens).
const TRANSACTION_TYPE: &str = "txntoken+jwt";

/// The content of a signed payload.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PayloadProfile {
    /// The canonical fields of an identity.
    Identity,
    /// A transaction token for the trust domain of this name.
    Transaction { audience: String },
}

/// The claims of a transaction token, without `iat` and `exp` (draft-ietf-oauth-transaction-tokens-10): a new `txn`
/// for each request, the caller and its permissions, and the request's context. `purp` is the claim of earlier drafts.
/// `None` if the token names neither a user nor a client.
fn transaction_of(
    token: &VerifiedToken,
    audience: &str,
    rule: &str,
    request: &RequestView<'_>,
) -> Option<Map<String, Value>> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).ok()?;
    let mut context = Map::new();
    context.extend(request.source.address().map(|source| ("req_ip".to_owned(), json!(source))));
    context.extend(token.claims().get("acr").filter(Value::is_string).map(|acr| ("authn".to_owned(), acr)));
    let fields = [
        ("txn", Some(json!(URL_SAFE_NO_PAD.encode(id)))),
        ("aud", Some(json!(audience))),
        ("sub", Some(json!(token.user_id().or(token.client_id())?))),
        ("act", token.actor().map(|actor| json!({"sub": actor}))),
        ("scope", Some(json!(scopes(token.claims()).join(" ")))),
        ("purp", Some(json!(rule))),
        ("rctx", Some(Value::Object(context)).filter(|context| *context != json!({}))),
    ];
    Some(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

/// The identity as one document in one header, which replaces the parsing of the token in the services.
#[derive(Clone, Debug)]
pub struct PayloadHeader {
    /// In lower case.
    pub name: String,
    /// `None`: base64url JSON, trusted because only Doorward can set the header.
    pub signer: Option<Arc<PayloadSigner>>,
    profile: PayloadProfile,
    /// Public keys of earlier signers, and the time up to which their signatures are valid.
    retired: Vec<(Value, Timestamp)>,
}

impl PayloadHeader {
    #[must_use]
    pub const fn new(name: String, signer: Option<Arc<PayloadSigner>>) -> Self {
        Self { name, signer, profile: PayloadProfile::Identity, retired: Vec::new() }
    }

    /// The same with claims of this profile, which a signer signs.
    #[must_use]
    pub fn with_profile(self, profile: PayloadProfile) -> Self {
        Self { profile, ..self }
    }

    /// How long a written payload may be sent again with other requests: less than it is valid, because its `exp` is in
    /// whole seconds. Zero: it is written for one request.
    #[must_use]
    pub fn reusable_for(&self) -> Duration {
        match (&self.profile, &self.signer) {
            (PayloadProfile::Transaction { .. }, _) => Duration::ZERO,
            (PayloadProfile::Identity, Some(signer)) => signer.ttl().saturating_sub(Duration::from_secs(1)),
            (PayloadProfile::Identity, None) => Duration::MAX,
        }
    }

    /// The same for people to look at: without a signature it is of no use to services.
    #[must_use]
    pub fn unsigned(&self) -> Self {
        Self::new(self.name.clone(), None)
    }

    /// The identity as plain JSON.
    pub(super) fn write_plain(principal: &Principal) -> String {
        URL_SAFE_NO_PAD.encode(Value::Object(identity_of(principal.token())).to_string())
    }

    /// `None` if it cannot be signed, or if the token does not have the user or client that the profile needs.
    pub(super) fn write_signed(&self, principal: &Principal, rule: &str, request: &RequestView<'_>) -> Option<String> {
        let token = principal.token();
        let (token_type, claims) = match &self.profile {
            PayloadProfile::Identity => (PAYLOAD_TYPE, identity_of(token)),
            PayloadProfile::Transaction { audience } => {
                (TRANSACTION_TYPE, transaction_of(token, audience, rule, request)?)
            }
        };
        self.signer.as_ref()?.sign(token_type, claims, principal.verified_at(), token.expires_at())
    }

    /// The keys that verify current signatures, and those of earlier keys.
    #[must_use]
    pub fn public_keys(&self, now: Timestamp) -> Vec<Value> {
        let retired = self.retired.iter().filter(|(_, until)| now <= *until).map(|(key, _)| key);
        self.signer.iter().map(|signer| signer.public()).chain(retired).cloned().collect()
    }

    /// Continues to publish the keys of the replaced header, while payloads that they signed are valid.
    #[must_use]
    pub fn replacing(mut self, old: &Self, now: Timestamp) -> Self {
        let replaced = old.signer.iter().map(|signer| (signer.public().clone(), now.plus(signer.ttl())));
        let mut retired: Vec<_> = replaced.chain(old.retired.iter().cloned()).collect();
        let current = self.signer.as_ref().map(|signer| signer.public());
        retired.retain(|(key, until)| now <= *until && current != Some(key));
        retired.truncate(MAX_RETIRED);
        self.retired = retired;
        self
    }
}

/// The most keys that were replaced within a `ttl`; more would mean a loop of replacements.
const MAX_RETIRED: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_key_is_published_while_what_it_signed_holds() {
        let header = |pem: &str| {
            let signer = PayloadSigner::from_pem(pem, Duration::from_secs(60)).unwrap();
            PayloadHeader::new("x-identity".to_owned(), Some(Arc::new(signer)))
        };
        let at = Timestamp::from_secs;
        let old = header(include_str!("../../src/config/testdata/sign-p256.pem"));
        let new = header(include_str!("../../src/config/testdata/sign-ed25519.pem")).replacing(&old, at(1_000));
        let kinds = |header: &PayloadHeader, now| {
            header.public_keys(now).iter().map(|key| key["kty"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(kinds(&new, at(1_060)), ["OKP", "EC"]);
        assert_eq!(kinds(&new, at(1_061)), ["OKP"]);
        let again = header(include_str!("../../src/config/testdata/sign-ed25519.pem")).replacing(&new, at(1_010));
        assert_eq!(kinds(&again, at(1_020)), ["OKP", "EC"]);
        let unsigned = PayloadHeader::new("x-identity".to_owned(), None).replacing(&again, at(1_020));
        assert_eq!(kinds(&unsigned, at(1_030)), ["OKP", "EC"]);
        assert!(PayloadHeader::new("x-identity".to_owned(), None).public_keys(at(0)).is_empty());
    }

    #[test]
    fn lists_are_joined_and_what_would_read_differently_is_left_out() {
        for (claim, expected) in [
            (json!(["a", "b"]), Some("a,b")),
            (json!(["a,b"]), None),
            (json!([["a"]]), None),
            (json!(7), Some("7")),
            (json!(true), Some("true")),
            (json!({"a": 1}), None),
            (json!(null), None),
        ] {
            assert_eq!(plain_text(&claim).as_deref(), expected, "{claim}");
        }
    }
}
