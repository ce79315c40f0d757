//! From decision to answer: identity headers, metadata, statuses, challenges and bodies.
//!
//! Pure, so that every face (gRPC, forward-auth, the dynamic module to come) answers alike. On every
//! allowed request each header that Doorward owns is either set or removed, never both and never
//! neither: a client's own `x-user-id` that slips through is a stolen identity.

use serde_json::{Map, Value, json};

use super::authorizer::{Decision, Evidence, Grant, Outcome, TokenSettings, TokenSource};
use super::claims::{Timestamp, fits_header, scopes};
use super::denial::Denial;
pub use super::identity::{IdentityField, PayloadHeader};
use super::rule::{RequestView, Requirements, Rule, Then};
use super::token::VerifiedToken;

/// Tells the upstream that the decision was made on an old view; ours, so a client's copy is removed.
pub const STALE_HEADER: &str = "x-doorward-stale";

/// How decisions are put into words; immutable, replaced with the authorizer.
#[derive(Clone, Debug)]
pub struct Responder {
    identity: Vec<(String, IdentityField)>,
    payload: Option<PayloadHeader>,
    /// All names we own with all their look-alikes.
    owned: Vec<String>,
    errors: ErrorSettings,
    /// Where tokens are taken off the request; empty when they are forwarded.
    withheld: Vec<TokenSource>,
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
pub enum Answer {
    /// The request goes on, changed.
    Forward(Forward),
    /// The client is answered.
    Respond(Respond),
}

#[derive(Clone, Debug, Default)]
pub struct Forward {
    pub set: Vec<(String, String)>,
    pub remove: Vec<String>,
    pub remove_query: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Respond {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
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
        let names = identity.iter().map(|(name, _)| name.as_str()).chain(payload_name).chain([STALE_HEADER]);
        let mut owned: Vec<String> = names.flat_map(look_alikes).collect();
        owned.sort();
        owned.dedup();
        let withheld = if forward_token { Vec::new() } else { tokens.from.clone() };
        Self { identity, payload, owned, errors, withheld }
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
        let payload = self.payload.as_ref().map(|payload| PayloadHeader::new(payload.name.clone(), None));
        Self { payload, ..self.clone() }
    }

    /// The answer to a decision; a decision that still needs a lookup is refused as if it had failed.
    #[must_use]
    pub fn answer(&self, decision: &Decision<'_>, request: &RequestView<'_>) -> Answer {
        match &decision.outcome {
            Outcome::Allowed(grant) => match grant.sign_out {
                Some((_, Then::Respond)) => Answer::Respond(signed_out()),
                _ => Answer::Forward(self.forward(grant, &decision.evidence, request)),
            },
            refused => {
                let denial = refused.denial().unwrap_or(Denial::InternalError);
                Answer::Respond(self.refuse(denial, &decision.rule.require))
            }
        }
    }

    fn forward(&self, grant: &Grant, evidence: &Evidence, request: &RequestView<'_>) -> Forward {
        let mut set: Vec<(String, String)> = Vec::new();
        for (name, field) in &self.identity {
            let value = field.read(grant.principal.as_ref(), evidence).filter(|value| fits_header(value));
            set.extend(value.map(|value| (name.clone(), value)));
        }
        if let (Some(payload), Some(principal)) = (&self.payload, &grant.principal) {
            set.extend(payload.write(principal).map(|value| (payload.name.clone(), value)));
        }
        if grant.stale {
            set.push((STALE_HEADER.to_owned(), "true".to_owned()));
        }
        let mut remove: Vec<String> =
            self.owned.iter().filter(|name| !set.iter().any(|(ours, _)| ours == *name)).cloned().collect();
        let mut remove_query = Vec::new();
        for source in &self.withheld {
            match source {
                TokenSource::Header { name, .. } => remove.push(name.clone()),
                TokenSource::Query(name) => remove_query.push(name.clone()),
                TokenSource::Cookie(name) => match cookies_without(request, name) {
                    Some(cookies) if cookies.is_empty() => remove.push("cookie".to_owned()),
                    Some(cookies) => set.push(("cookie".to_owned(), cookies)),
                    None => {}
                },
            }
        }
        Forward { set, remove, remove_query }
    }

    /// The refusal of SPEC section 3 for a reason; `require` names what a challenge must tell.
    #[must_use]
    pub fn refuse(&self, denial: Denial, require: &Requirements) -> Respond {
        let kind = Refusal::of(denial);
        let mut headers =
            vec![("content-type", "application/json".to_owned()), ("cache-control", "no-store".to_owned())];
        if let Some(challenge) = self.challenge(denial, kind, require) {
            headers.push(("www-authenticate", challenge));
        }
        if kind.status == 503 {
            headers.push(("retry-after", "1".to_owned()));
        }
        let body = if self.errors.reasons {
            json!({"error": kind.error, "reason": denial.label(), "message": denial.message()})
        } else {
            json!({"error": kind.error})
        };
        Respond { status: kind.status, headers, body: body.to_string() }
    }

    /// RFC 6750 section 3, RFC 9470 section 3.
    fn challenge(&self, denial: Denial, kind: Refusal, require: &Requirements) -> Option<String> {
        let scheme = kind.challenge?;
        let mut parameters = vec![("realm", self.errors.realm.clone())];
        // RFC 6750 section 3.1: no error code where no credentials were.
        if scheme == "Bearer" && denial != Denial::MissingToken {
            parameters.push(("error", kind.error.to_owned()));
            if self.errors.reasons {
                parameters.push(("error_description", denial.message().to_owned()));
            }
            if denial == Denial::InsufficientScope {
                parameters.push(("scope", require.scopes.join(" ")));
            }
            if denial == Denial::InsufficientAuthentication {
                let acr = Some(require.acr.join(" ")).filter(|acr| !acr.is_empty());
                parameters.extend(acr.map(|acr| ("acr_values", acr)));
                parameters.extend(require.max_age.map(|max_age| ("max_age", max_age.as_secs().to_string())));
            }
        }
        let parameters: Vec<_> = parameters.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        Some(format!("{scheme} {}", parameters.join(", ")))
    }
}

/// What a reason becomes on the wire.
#[derive(Clone, Copy)]
struct Refusal {
    status: u16,
    error: &'static str,
    /// The scheme of the `WWW-Authenticate` challenge.
    challenge: Option<&'static str>,
}

impl Refusal {
    /// The one place where a reason gets its status; a new reason does not compile without one.
    fn of(denial: Denial) -> Self {
        let (status, error, challenge) = match denial {
            Denial::MissingToken => (401, "missing_token", Some("Bearer")),
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
            | Denial::NotRegistered => (401, "invalid_token", Some("Bearer")),
            Denial::ApiKeyMissing | Denial::ApiKeyUnknown | Denial::ApiKeyExpired => {
                (401, "invalid_api_key", Some("ApiKey"))
            }
            Denial::ApiKeyPlatform | Denial::ApiKeyDomain | Denial::ClaimMismatch => (403, "access_denied", None),
            Denial::InsufficientScope => (403, "insufficient_scope", Some("Bearer")),
            Denial::InsufficientAuthentication => (401, "insufficient_user_authentication", Some("Bearer")),
            Denial::KeysUnavailable
            | Denial::RevocationsStale
            | Denial::StoreUnavailable
            | Denial::IntrospectionUnavailable
            | Denial::InternalError => (503, "temporarily_unavailable", None),
        };
        Self { status, error, challenge }
    }
}

fn signed_out() -> Respond {
    Respond { status: 204, headers: vec![("cache-control", "no-store".to_owned())], body: String::new() }
}

/// What access logs and later filters can read of a decision, allowed or refused.
///
/// Values that could not stand in a header are left out here as well: a line break in a `sid` would
/// write lines of its own into a text access log.
#[must_use]
pub fn metadata(rule: &Rule, outcome: &Outcome, evidence: &Evidence) -> Map<String, Value> {
    let (decision, reason) = match outcome {
        Outcome::Allowed(grant) => (if grant.shadowed.is_some() { "shadow" } else { "allowed" }, grant.shadowed),
        refused => ("denied", refused.denial()),
    };
    let token = evidence.token.as_ref();
    let fitting = |text: Option<&str>| text.filter(|text| fits_header(text)).map(Value::from);
    let scopes =
        |token: &VerifiedToken| scopes(token.claims()).into_iter().filter(|scope| fits_header(scope)).collect();
    let fields = [
        ("decision", Some(json!(decision))),
        ("rule", Some(json!(&*rule.name))),
        ("reason", Some(json!(reason.map_or("ok", Denial::label)))),
        ("issuer", evidence.issuer.as_ref().map(|issuer| json!(issuer.as_str()))),
        ("user_id", fitting(token.and_then(VerifiedToken::user_id))),
        ("token_id", fitting(token.map(VerifiedToken::token_id))),
        ("session_id", fitting(token.and_then(VerifiedToken::session_id))),
        ("client_id", fitting(token.and_then(VerifiedToken::client_id))),
        ("api_client", evidence.api_client.as_deref().map(Value::from)),
        ("scopes", token.map(scopes)),
        ("expires_at", token.map(|token| json!(token.expires_at().as_secs()))),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// A name and every spelling of it with `_` or `.` for `-`: many back ends read them as one
/// (`HTTP_X_USER_ID`), so a look-alike that passes is a spoofed identity.
pub(crate) fn look_alikes(name: &str) -> Vec<String> {
    let mut spellings = vec![String::new()];
    for part in name.split_inclusive('-') {
        let (text, dash) = part.strip_suffix('-').map_or((part, false), |text| (text, true));
        let ends: &[&str] = if dash { &["-", "_", "."] } else { &[""] };
        spellings =
            spellings.iter().flat_map(|start| ends.iter().map(move |end| format!("{start}{text}{end}"))).collect();
    }
    spellings
}

/// The `cookie` field without one cookie; `None` if that was not there.
fn cookies_without(request: &RequestView<'_>, name: &str) -> Option<String> {
    let fields: Vec<_> = request.header("cookie").filter_map(|field| std::str::from_utf8(field).ok()).collect();
    let pairs: Vec<_> = fields.iter().flat_map(|field| field.split(';')).map(str::trim).collect();
    let kept: Vec<_> =
        pairs.iter().filter(|pair| pair.split('=').next().map(str::trim_end) != Some(name)).copied().collect();
    (kept.len() < pairs.len()).then(|| kept.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let refusal = responder.refuse(denial, &require);
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
            responder.refuse(denial, &require).headers.into_iter().find(|(n, _)| *n == "www-authenticate").unwrap().1
        };
        assert_eq!(challenge(Denial::MissingToken), "Bearer realm=\"doorward\"");
        assert_eq!(challenge(Denial::ApiKeyMissing), "ApiKey realm=\"doorward\"");
        assert!(challenge(Denial::Expired).starts_with("Bearer realm=\"doorward\", error=\"invalid_token\""));
        assert!(challenge(Denial::InsufficientScope).ends_with("scope=\"a b\""));
        assert!(challenge(Denial::InsufficientAuthentication).ends_with("acr_values=\"mfa\", max_age=\"900\""));
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
    fn one_cookie_is_taken_out_and_the_others_stay() {
        let check = |cookie: &str, expected: Option<&str>| {
            let headers = [("cookie", cookie.as_bytes())];
            let request = RequestView { method: "GET", target: "/", host: "", headers: &headers, rule: None };
            assert_eq!(cookies_without(&request, "token").as_deref(), expected, "{cookie}");
        };
        check("a=1; token=x; b=2", Some("a=1; b=2"));
        check("token=x", Some(""));
        check("a=1; mytoken=x", None);
    }
}
