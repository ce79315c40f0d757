//! The caller's identity for upstreams: single headers and a signed payload.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::authorizer::Principal;
use super::claims::{ClaimPath, Timestamp, scopes};
use super::rule::RequestView;
use super::signing::{PAYLOAD_TYPE, PayloadSigner};
use super::token::VerifiedToken;

/// The content of an identity header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IdentityField {
    UserId,
    Email,
    SessionId,
    ClientId,
    /// Who acts for the user now.
    Actor,
    /// Everybody who acts or acted, the current one first, joined with commas.
    Actors,
    TokenId,
    /// The issuer's configured name.
    Issuer,
    /// Joined with spaces.
    Scopes,
    /// Whole seconds since the Unix epoch.
    ExpiresAt,
    /// The id of the API key.
    ApiClient,
    /// Text, numbers and booleans as they are; lists joined with commas.
    Claim(ClaimPath),
    /// As base64url without padding: for text that stands in no header.
    Base64(Box<IdentityField>),
}

impl IdentityField {
    /// The value from the token; empty for fields of the request.
    pub(super) fn of_token(&self, token: &VerifiedToken) -> Option<String> {
        match self {
            Self::UserId => token.user_id().map(str::to_owned),
            Self::Email => token.email().map(str::to_owned),
            Self::SessionId => token.session_id().map(str::to_owned),
            Self::ClientId => token.client_id().map(str::to_owned),
            Self::Actor => token.actor().map(str::to_owned),
            // A name with a comma would read as two.
            Self::Actors if token.actors().any(|actor| actor.contains(',')) => None,
            Self::Actors => Some(token.actors().collect::<Vec<_>>().join(",")).filter(|actors| !actors.is_empty()),
            Self::TokenId => Some(token.token_id().to_owned()),
            Self::Issuer => Some(token.issuer().to_string()),
            Self::Scopes => Some(scopes(token.claims()).join(" ")),
            Self::ExpiresAt => Some(token.expires_at().as_secs().to_string()),
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
        // An item with a comma would read as two.
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

/// The canonical fields of an identity; absent ones are left out.
fn identity_of(principal: &Principal) -> Map<String, Value> {
    let token = principal.token();
    let fields = [
        ("issuer", Some(json!(token.issuer().as_str()))),
        ("user_id", token.user_id().map(Value::from)),
        ("email", token.email().map(Value::from)),
        ("session_id", token.session_id().map(Value::from)),
        ("client_id", token.client_id().map(Value::from)),
        ("actor", token.actor().map(Value::from)),
        ("actors", token.actor().map(|_| token.actors().collect())),
        ("token_id", Some(json!(token.token_id()))),
        ("issued_at", token.issued_at().map(|at| json!(at.as_secs()))),
        ("expires_at", Some(json!(token.expires_at().as_secs()))),
        ("scopes", Some(json!(scopes(token.claims())))),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The `typ` of a transaction token (draft-ietf-oauth-transaction-tokens).
const TRANSACTION_TYPE: &str = "txntoken+jwt";

/// What a signed payload says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PayloadProfile {
    /// The canonical fields of an identity.
    Identity,
    /// A transaction token for the trust domain of this name.
    Transaction { audience: String },
}

/// The claims of a transaction token, without `iat` and `exp` (draft-ietf-oauth-transaction-tokens-10): a new `txn` for
/// each request, who is calling and by what right, and the request's context. `purp` is the claim of earlier drafts.
/// `None` if the token names neither a user nor a client.
fn transaction_of(
    principal: &Principal,
    audience: &str,
    rule: &str,
    request: &RequestView<'_>,
) -> Option<Map<String, Value>> {
    let token = principal.token();
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).ok()?;
    let mut context = Map::new();
    context.extend(request.source.map(|source| ("req_ip".to_owned(), json!(source))));
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

/// The identity as one document in one header: what the services' own filters used to unpack from the
/// token.
#[derive(Clone, Debug)]
pub struct PayloadHeader {
    /// In lower case.
    pub name: String,
    /// `None`: base64url JSON, believed because only Doorward can set the header.
    pub signer: Option<Arc<PayloadSigner>>,
    profile: PayloadProfile,
    /// Public keys of signers before this one, and until when something signed with them may be around.
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

    /// The same for people to look at: without a signature it is of no use to services.
    #[must_use]
    pub fn unsigned(&self) -> Self {
        Self::new(self.name.clone(), None)
    }

    /// The identity as plain JSON.
    pub(super) fn write_plain(principal: &Principal) -> String {
        URL_SAFE_NO_PAD.encode(Value::Object(identity_of(principal)).to_string())
    }

    /// `None` if it cannot be signed, or if the token names nobody that the profile needs.
    pub(super) fn write_signed(&self, principal: &Principal, rule: &str, request: &RequestView<'_>) -> Option<String> {
        let (token_type, claims) = match &self.profile {
            PayloadProfile::Identity => (PAYLOAD_TYPE, identity_of(principal)),
            PayloadProfile::Transaction { audience } => {
                (TRANSACTION_TYPE, transaction_of(principal, audience, rule, request)?)
            }
        };
        self.signer.as_ref()?.sign(token_type, claims, principal.verified_at(), principal.token().expires_at())
    }

    /// The keys that verify what is signed now, and what was signed by the keys before.
    #[must_use]
    pub fn public_keys(&self, now: Timestamp) -> Vec<Value> {
        let retired = self.retired.iter().filter(|(_, until)| now <= *until).map(|(key, _)| key);
        self.signer.iter().map(|signer| signer.public()).chain(retired).cloned().collect()
    }

    /// Goes on publishing the keys of the header that this one replaces, while anything they signed holds.
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

/// Keys that were replaced within a `ttl`; more would mean somebody replaces them in a loop.
const MAX_RETIRED: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

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
