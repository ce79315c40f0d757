//! The checks of a decision in their order: which were passed, which refused, and what was expected.

use serde_json::{Map, Value, json};

use crate::authz::authorizer::Decision;
use crate::authz::claims::{ClaimPath, ClaimSet, Timestamp, scopes};
use crate::authz::denial::Denial;
use crate::authz::rule::{Access, RequestView};
use crate::authz::token::{Audiences, TrustedIssuer, UnverifiedToken, VerifiedToken};
use crate::clock;
use crate::state::Policy;

/// What is looked at, in the order in which a decision does.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Step {
    Rule,
    ApiKey,
    Token,
    Issuer,
    Algorithm,
    Key,
    Signature,
    Type,
    Time,
    Audience,
    Claims,
    Introspection,
    Proof,
    Revocation,
    Scopes,
    RequiredClaims,
    Authentication,
}

impl Step {
    const ALL: [Self; 17] = [
        Self::Rule,
        Self::ApiKey,
        Self::Token,
        Self::Issuer,
        Self::Algorithm,
        Self::Key,
        Self::Signature,
        Self::Type,
        Self::Time,
        Self::Audience,
        Self::Claims,
        Self::Introspection,
        Self::Proof,
        Self::Revocation,
        Self::Scopes,
        Self::RequiredClaims,
        Self::Authentication,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::ApiKey => "api key",
            Self::Token => "token",
            Self::Issuer => "issuer",
            Self::Algorithm => "algorithm",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Type => "type",
            Self::Time => "time",
            Self::Audience => "audience",
            Self::Claims => "claims",
            Self::Introspection => "introspection",
            Self::Proof => "proof",
            Self::Revocation => "revocation",
            Self::Scopes => "scopes",
            Self::RequiredClaims => "required claims",
            Self::Authentication => "authentication",
        }
    }

    /// The check that refuses with this reason; `None` for a fault of Doorward's own.
    const fn of(denial: Denial) -> Option<Self> {
        Some(match denial {
            Denial::BadRequest => Self::Rule,
            Denial::ApiKeyMissing
            | Denial::ApiKeyUnknown
            | Denial::ApiKeyExpired
            | Denial::ApiKeyPlatform
            | Denial::ApiKeyDomain => Self::ApiKey,
            Denial::MissingToken | Denial::MultipleTokens | Denial::MalformedToken => Self::Token,
            Denial::UnknownIssuer => Self::Issuer,
            Denial::AlgorithmNotAllowed => Self::Algorithm,
            Denial::KeysUnavailable | Denial::UnknownKey => Self::Key,
            Denial::BadSignature => Self::Signature,
            Denial::WrongType => Self::Type,
            Denial::Expired | Denial::NotYetValid | Denial::LifetimeTooLong => Self::Time,
            Denial::WrongAudience => Self::Audience,
            Denial::MissingClaim | Denial::InvalidClaim => Self::Claims,
            Denial::TokenInactive | Denial::IntrospectionUnavailable => Self::Introspection,
            Denial::ProofMissing | Denial::ProofInvalid => Self::Proof,
            Denial::Revoked
            | Denial::SignedOut
            | Denial::NotRegistered
            | Denial::RevocationsStale
            | Denial::StoreUnavailable
            | Denial::ClockSkew => Self::Revocation,
            Denial::InsufficientScope => Self::Scopes,
            Denial::ClaimMismatch => Self::RequiredClaims,
            Denial::InsufficientAuthentication => Self::Authentication,
            Denial::InternalError => return None,
        })
    }
}

/// Each check with `passed` (null: not reached, or not asked for), and where it matters `expected` and `got`.
pub(super) fn checks(
    policy: &Policy,
    request: &RequestView<'_>,
    decision: &Decision<'_>,
    refused: Option<Denial>,
    is_complete: bool,
    now: Timestamp,
) -> Value {
    let found = policy.authorizer.tokens.find(request).first;
    let token = found.as_ref().and_then(|found| UnverifiedToken::parse(found.bearer()).ok());
    let iss = token.as_ref().and_then(|token| token.unverified_issuer().ok());
    let issuer = iss.as_deref().and_then(|iss| policy.authorizer.issuer(iss).ok()).map(|issuer| &**issuer);
    let said = TokenState { policy, request, decision, refused, token: token.as_ref(), issuer, now };
    let failed = refused.and_then(Step::of);
    let passed = |step: Step| match failed {
        Some(failed) if step == failed => Some(false),
        Some(failed) if step > failed => None,
        // A claim that is missing may be one of those that are read before.
        Some(Step::Claims) if step >= Step::Type => None,
        _ => Some(true),
    };
    let told = Step::ALL.into_iter().map(|step| {
        let (expected, got) = said.of(step);
        let passed = passed(step).filter(|passed| !passed || said.applies(step, is_complete));
        let mut check = json!({"check": step.name(), "passed": passed});
        for (name, value) in [("expected", expected), ("got", got)] {
            if !value.is_null() {
                check[name] = value;
            }
        }
        check
    });
    told.collect()
}

/// What the checks compare.
struct TokenState<'a> {
    policy: &'a Policy,
    request: &'a RequestView<'a>,
    decision: &'a Decision<'a>,
    refused: Option<Denial>,
    token: Option<&'a UnverifiedToken<'a>>,
    issuer: Option<&'a TrustedIssuer>,
    now: Timestamp,
}

impl TokenState<'_> {
    /// Whether a decision that was not refused here has looked at it.
    fn applies(&self, step: Step, is_complete: bool) -> bool {
        let (rule, evidence) = (self.decision.rule, &self.decision.evidence);
        let require = &rule.require;
        match step {
            Step::Rule => true,
            Step::ApiKey => evidence.api_client.is_some(),
            _ if rule.access == Access::Public => false,
            Step::Token => self.token.is_some(),
            Step::Issuer
            | Step::Algorithm
            | Step::Key
            | Step::Signature
            | Step::Type
            | Step::Time
            | Step::Audience
            | Step::Claims => self.issuer.is_some(),
            Step::Introspection => false, // Its answer shows in the decision alone.
            Step::Proof => evidence.proof.is_some(),
            Step::Revocation => is_complete && evidence.token.is_some() && evidence.hit.is_none(),
            Step::Scopes => !require.scopes.is_empty() && evidence.token.is_some(),
            Step::RequiredClaims => {
                let none = require.claims.is_empty()
                    && require.issuers.is_empty()
                    && require.actors.is_empty()
                    && require.delegated.is_none();
                !none && evidence.token.is_some()
            }
            Step::Authentication => !(require.max_age.is_none() && require.acr.is_empty()) && evidence.token.is_some(),
        }
    }

    /// What a check expects, and what the request has; null where there is nothing to compare.
    fn of(&self, step: Step) -> (Value, Value) {
        let require = &self.decision.rule.require;
        let (token, issuer) = (self.token, self.issuer);
        let claims = token.map(UnverifiedToken::unverified_claims);
        let header = token.map(UnverifiedToken::header);
        match step {
            Step::Rule => match self.request.rule {
                Some(named) => {
                    (self.policy.authorizer.rules.iter().map(|rule| rule.name.to_string()).collect(), json!(named))
                }
                None => (Value::Null, json!(&*self.decision.rule.name)),
            },
            Step::ApiKey => self.api_key(),
            Step::Token => (
                json!("a signed JWT"),
                if token.is_some() { json!("a signed JWT") } else { json!("none that can be read") },
            ),
            Step::Issuer => {
                let known = self.policy.authorizer.issuers.iter().flat_map(|issuer| issuer.issuer.texts());
                (known.collect(), claim(claims, "iss"))
            }
            Step::Algorithm => {
                let names = |issuer: &TrustedIssuer| issuer.algorithms.iter().map(|name| format!("{name:?}")).collect();
                let allowed: Option<Vec<_>> = issuer.map(names);
                (json!(allowed), json!(header.map(|header| &header.algorithm)))
            }
            Step::Key => {
                let Some(issuer) = issuer else { return (Value::Null, Value::Null) };
                let key = header.and_then(|header| header.key_id.as_deref());
                match &issuer.keys {
                    Some(keys) => (json!(format!("one of {} keys", keys.len())), json!(key)),
                    None => (json!(format!("the keys of {}", issuer.name)), json!("not loaded")),
                }
            }
            Step::Type => {
                let types = issuer.map(|issuer| issuer.token_types.names());
                (json!(types), json!(header.and_then(|header| header.token_type.as_deref())))
            }
            Step::Time => (json!(format!("now: {}", clock::format_rfc3339(self.now))), times(claims)),
            Step::Audience => {
                let named = issuer.zip(claims).and_then(|(issuer, claims)| first(&issuer.claim_names.audience, claims));
                let of_rule = self.decision.rule.require.audience.as_ref();
                let expected = of_rule.or(issuer.map(|issuer| &issuer.audiences)).map(|accepted| match accepted {
                    Audiences::Any => json!("any"),
                    Audiences::OneOf(ours) => json!(ours),
                });
                (json!(expected), json!(named))
            }
            Step::Claims => {
                let Some((issuer, claims)) = issuer.zip(claims) else { return (Value::Null, Value::Null) };
                let needed =
                    issuer.needs_user.then(|| json!(format!("exp and {}", names(&issuer.claim_names.user_id))));
                let user = first(&issuer.claim_names.user_id, claims);
                (json!(needed.unwrap_or(json!("exp"))), json!({"exp": claims.get("exp"), "user_id": user}))
            }
            Step::Signature | Step::Introspection | Step::Revocation => (Value::Null, Value::Null),
            Step::Proof => {
                let cnf = claim(claims, "cnf");
                let evidence = self.decision.evidence.proof.as_ref();
                (cnf, json!(evidence.map(|proof| proof.result.label())))
            }
            Step::Scopes if require.scopes.is_empty() => (Value::Null, Value::Null),
            Step::Scopes => (json!(require.scopes), json!(claims.map(scopes))),
            Step::RequiredClaims => self.required(claims),
            Step::Authentication => {
                let mut expected = json!({});
                if let Some(max_age) = require.max_age {
                    expected["auth_time"] = json!(format!("{} ago at most", humantime::format_duration(max_age)));
                }
                if !require.acr.is_empty() {
                    expected["acr"] = json!(require.acr);
                }
                if is_empty(&expected) {
                    return (Value::Null, Value::Null);
                }
                (expected, json!({"auth_time": claim(claims, "auth_time"), "acr": claim(claims, "acr")}))
            }
        }
    }

    /// Never the key itself: its client, or what is wrong.
    fn api_key(&self) -> (Value, Value) {
        let keys = &self.policy.authorizer.api_keys;
        let shown = |name: &str| {
            let fields = self.request.header(name).map(String::from_utf8_lossy);
            fields.map(|field| json!(field)).next().unwrap_or_default()
        };
        let platforms = || keys.presented(self.request).map(|key| &key.platforms);
        let domains = || keys.presented(self.request).map(|key| key.domains.iter().map(ToString::to_string));
        match self.refused {
            Some(Denial::ApiKeyMissing) => (json!(format!("a key in `{}`", keys.header)), json!("none")),
            Some(Denial::ApiKeyUnknown) => (json!("a configured key"), json!("another one, or several")),
            Some(Denial::ApiKeyExpired) => (json!("a key that has not expired"), json!("one that has")),
            Some(Denial::ApiKeyPlatform) => {
                let name = &keys.platform_header;
                (json!({name: platforms()}), json!({name: shown(name)}))
            }
            Some(Denial::ApiKeyDomain) => (
                json!({"origin or referer": domains().map(Iterator::collect::<Vec<_>>)}),
                json!({"origin": shown("origin"), "referer": shown("referer")}),
            ),
            _ => (Value::Null, json!(self.decision.evidence.api_client.as_deref())),
        }
    }

    fn required(&self, claims: Option<&ClaimSet>) -> (Value, Value) {
        let require = &self.decision.rule.require;
        let (mut expected, mut got) = (json!({}), json!({}));
        for (name, allowed) in &require.claims {
            expected[name] = json!(allowed);
            got[name] = json!(claims.and_then(|claims| ClaimPath::new(name.as_str()).find(claims)));
        }
        if !require.issuers.is_empty() {
            expected["issuer"] = require.issuers.iter().map(ToString::to_string).collect();
            got["issuer"] = json!(self.issuer.map(|issuer| issuer.name.as_str()));
        }
        if !require.actors.is_empty() {
            expected["actor"] = json!(require.actors);
        }
        if let Some(delegated) = require.delegated {
            expected["delegated"] = json!(delegated);
        }
        if !require.actors.is_empty() || require.delegated.is_some() {
            got["actor"] = json!(self.decision.evidence.token.as_ref().and_then(VerifiedToken::actor));
        }
        if is_empty(&expected) { (Value::Null, Value::Null) } else { (expected, got) }
    }
}

/// The instants that a token names, in words that need no arithmetic.
fn times(claims: Option<&ClaimSet>) -> Value {
    let mut times = json!({});
    for name in ["iat", "nbf", "exp"] {
        let Some(value) = claims.and_then(|claims| claims.get(name)) else { continue };
        times[name] = match Timestamp::from_numeric_date(&value) {
            Some(at) => json!(clock::format_rfc3339(at)),
            None => value,
        };
    }
    times
}

fn is_empty(members: &Value) -> bool {
    members.as_object().is_some_and(Map::is_empty)
}

fn claim(claims: Option<&ClaimSet>, name: &str) -> Value {
    json!(claims.and_then(|claims| claims.get(name)))
}

fn first(paths: &[ClaimPath], claims: &ClaimSet) -> Option<Value> {
    paths.iter().find_map(|path| path.find(claims))
}

fn names(paths: &[ClaimPath]) -> String {
    paths.iter().map(ClaimPath::as_str).collect::<Vec<_>>().join(" or ")
}
