//! The checks of a decision in their order: the passed ones, the refusing one, and the expected values.

use serde_json::{Map, Value, json};

use crate::authz::authorizer::Decision;
use crate::authz::claims::{ClaimPath, ClaimSet, Timestamp, scopes};
use crate::authz::denial::{Check, Denial};
use crate::authz::rule::{Access, RequestView};
use crate::authz::token::{Audiences, TrustedIssuer, UnverifiedToken, VerifiedToken};
use crate::clock;
use crate::state::Policy;

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
    let context = CheckContext { policy, request, decision, refused, token: token.as_ref(), issuer, now };
    let failed = refused.and_then(Denial::check);
    let passed = |step: Check| match failed {
        Some(failed) if step == failed => Some(false),
        Some(failed) if step > failed => None,
        // A missing claim may be one of the claims that are read before this check.
        Some(Check::Claims) if step >= Check::Type => None,
        _ => Some(true),
    };
    let checks = Check::ALL.into_iter().map(|step| {
        let (expected, got) = context.of(step);
        let passed = passed(step).filter(|passed| !passed || context.applies(step, is_complete));
        let mut check = json!({"check": step.label(), "passed": passed});
        for (name, value) in [("expected", expected), ("got", got)] {
            if !value.is_null() {
                check[name] = value;
            }
        }
        check
    });
    checks.collect()
}

/// The values that the checks compare.
struct CheckContext<'a> {
    policy: &'a Policy,
    request: &'a RequestView<'a>,
    decision: &'a Decision<'a>,
    refused: Option<Denial>,
    token: Option<&'a UnverifiedToken<'a>>,
    issuer: Option<&'a TrustedIssuer>,
    now: Timestamp,
}

impl CheckContext<'_> {
    /// Whether a decision that was not refused here has looked at it.
    fn applies(&self, step: Check, is_complete: bool) -> bool {
        let (rule, evidence) = (self.decision.rule, &self.decision.evidence);
        let require = &rule.require;
        match step {
            Check::Rule => true,
            Check::ApiKey => evidence.api_client.is_some(),
            _ if rule.access == Access::Public => false,
            Check::Token => self.token.is_some(),
            Check::Issuer
            | Check::Algorithm
            | Check::Key
            | Check::Signature
            | Check::Type
            | Check::Time
            | Check::Audience
            | Check::Claims => self.issuer.is_some(),
            Check::Introspection => false, // Its answer shows in the decision alone.
            Check::Proof => evidence.proof.is_some(),
            Check::Revocation => is_complete && evidence.token.is_some() && evidence.hit.is_none(),
            Check::Scopes => !require.scopes.is_empty() && evidence.token.is_some(),
            Check::RequiredClaims => {
                let none = require.claims.is_empty()
                    && require.issuers.is_empty()
                    && require.actors.is_empty()
                    && require.delegated.is_none();
                !none && evidence.token.is_some()
            }
            Check::Authentication => !(require.max_age.is_none() && require.acr.is_empty()) && evidence.token.is_some(),
        }
    }

    /// The expected value of a check, and the request's; null where there is nothing to compare.
    fn of(&self, step: Check) -> (Value, Value) {
        let require = &self.decision.rule.require;
        let (token, issuer) = (self.token, self.issuer);
        let claims = token.map(UnverifiedToken::unverified_claims);
        let header = token.map(UnverifiedToken::header);
        match step {
            Check::Rule => {
                if let Some(named) = self.request.rule {
                    let known = self.policy.authorizer.rules.iter().map(|rule| rule.name.to_string());
                    return (known.collect(), json!(named));
                }
                let refused = self.refused.and_then(Denial::check) == Some(Check::Rule);
                let detail = self.decision.evidence.detail.as_deref().filter(|_| refused);
                (Value::Null, json!(detail.unwrap_or(&self.decision.rule.name)))
            }
            Check::ApiKey => self.api_key(),
            Check::Token => (
                json!("a signed JWT"),
                if token.is_some() { json!("a signed JWT") } else { json!("none that can be read") },
            ),
            Check::Issuer => {
                let known = self.policy.authorizer.issuers.iter().flat_map(|issuer| issuer.issuer.texts());
                (known.collect(), claim(claims, "iss"))
            }
            Check::Algorithm => {
                let names = |issuer: &TrustedIssuer| issuer.algorithms.iter().map(|name| format!("{name:?}")).collect();
                let allowed: Option<Vec<_>> = issuer.map(names);
                (json!(allowed), json!(header.map(|header| &header.algorithm)))
            }
            Check::Key => {
                let Some(issuer) = issuer else { return (Value::Null, Value::Null) };
                let key = header.and_then(|header| header.key_id.as_deref());
                match &issuer.keys {
                    Some(keys) => (json!(format!("one of {} keys", keys.len())), json!(key)),
                    None => (json!(format!("the keys of {}", issuer.name)), json!("not loaded")),
                }
            }
            Check::Type => {
                let types = issuer.map(|issuer| issuer.token_types.names());
                (json!(types), json!(header.and_then(|header| header.token_type.as_deref())))
            }
            Check::Time => (json!(format!("now: {}", clock::format_rfc3339(self.now))), times(claims)),
            Check::Audience => {
                let named = issuer.zip(claims).and_then(|(issuer, claims)| first(&issuer.claim_names.audience, claims));
                let of_rule = self.decision.rule.require.audience.as_ref();
                let expected = of_rule.or(issuer.map(|issuer| &issuer.audiences)).map(|accepted| match accepted {
                    Audiences::Any => json!("any"),
                    Audiences::OneOf(ours) => json!(ours),
                });
                (json!(expected), json!(named))
            }
            Check::Claims => {
                let Some((issuer, claims)) = issuer.zip(claims) else { return (Value::Null, Value::Null) };
                let needed =
                    issuer.needs_user.then(|| json!(format!("exp and {}", names(&issuer.claim_names.user_id))));
                let user = first(&issuer.claim_names.user_id, claims);
                (json!(needed.unwrap_or(json!("exp"))), json!({"exp": claims.get("exp"), "user_id": user}))
            }
            Check::Signature | Check::Introspection | Check::Revocation => (Value::Null, Value::Null),
            Check::Proof => {
                let cnf = claim(claims, "cnf");
                let evidence = self.decision.evidence.proof.as_ref();
                (cnf, json!(evidence.map(|proof| proof.result.label())))
            }
            Check::Scopes if require.scopes.is_empty() => (Value::Null, Value::Null),
            Check::Scopes => (json!(require.scopes), json!(claims.map(scopes))),
            Check::RequiredClaims => self.required(claims),
            Check::Authentication => {
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

    /// The client of the key, or its fault; never the key itself.
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
            let token = self.decision.evidence.token.as_ref();
            got["actor"] = json!(token.and_then(VerifiedToken::actor));
            if token.is_some_and(|token| token.actor() != token.own_actor()) {
                got["actor_issuer"] = json!(claims.and_then(|claims| ClaimPath::new("/act/iss").find(claims)));
            }
        }
        if is_empty(&expected) { (Value::Null, Value::Null) } else { (expected, got) }
    }
}

/// The times in a token, as durations from now.
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
