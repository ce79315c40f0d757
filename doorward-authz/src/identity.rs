//! The caller's identity for upstreams: single headers and a signed payload.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use super::authorizer::Principal;
use super::claims::{ClaimPath, Timestamp, scopes};
use super::signing::PayloadSigner;
use super::token::VerifiedToken;

/// The content of an identity header.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum IdentityField {
    UserId,
    Email,
    SessionId,
    ClientId,
    /// The current actor.
    Actor,
    /// All actors, the current one first, joined with commas.
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
    /// As base64url without padding: for text that a header cannot carry.
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
            // A name with a comma would read as two names.
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

/// The identity as one document in one header, which replaces the parsing of the token in the services.
#[derive(Clone, Debug)]
pub struct PayloadHeader {
    /// In lower case.
    pub name: String,
    /// `None`: base64url JSON, trusted because only Doorward can set the header.
    pub signer: Option<Arc<PayloadSigner>>,
    /// Public keys of earlier signers, and the time up to which their signatures are valid.
    retired: Vec<(Value, Timestamp)>,
}

impl PayloadHeader {
    #[must_use]
    pub const fn new(name: String, signer: Option<Arc<PayloadSigner>>) -> Self {
        Self { name, signer, retired: Vec::new() }
    }

    /// `None` if it cannot be signed.
    pub(super) fn write(&self, principal: &Principal) -> Option<String> {
        let identity = identity_of(principal);
        match &self.signer {
            Some(signer) => signer.sign(identity, principal.verified_at(), principal.token().expires_at()),
            None => Some(URL_SAFE_NO_PAD.encode(Value::Object(identity).to_string())),
        }
    }

    /// The keys that verify current signatures, and those of earlier keys.
    #[must_use]
    pub fn public_keys(&self, now: Timestamp) -> Vec<Value> {
        let retired = self.retired.iter().filter(|(_, until)| now <= *until).map(|(key, _)| key);
        self.signer.iter().map(|signer| signer.public()).chain(retired).cloned().collect()
    }

    /// Goes on publishing the keys of the replaced header, while payloads that they signed are valid.
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
