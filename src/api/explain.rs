//! The explanation of a decision, step by step: for `doorward explain` and `POST /v1/explain`.
//!
//! The explanation contains the established facts and no credential: no signature, no key, no header of the request.

mod checks;

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::authz::answer::Answer;
use crate::authz::authorizer::{Decision, Needs, Outcome, StoreAnswer, View};
use crate::authz::claims::Timestamp;
use crate::authz::denial::Denial;
use crate::authz::identity::{Place, TokenField};
use crate::authz::revocation::{Hit, Watermark};
use crate::authz::rule::{Access, OnStale, RequestView, Requirements, Rule};
use crate::authz::token::{Audiences, UnverifiedToken};
use crate::clock;
use crate::state::Policy;

/// The members of an explanation, in the order in which the decision takes its steps.
pub const STEPS: [&str; 10] =
    ["rule", "access", "api_client", "keys", "token", "verified", "revocation", "requirements", "answer", "detail"];

/// Explains a decision.
///
/// `view`: the revocations that it consulted; `None` when it consulted none.
#[must_use]
pub fn explain(
    policy: &Policy,
    request: &RequestView<'_>,
    decision: &Decision<'_>,
    view: Option<View<'_>>,
    now: Timestamp,
) -> Value {
    let shadow = match &decision.outcome {
        Outcome::Allowed(grant) => grant.shadowed.or(grant.ignored),
        _ => None,
    };
    let shadowed = match &decision.outcome {
        Outcome::Allowed(grant) => grant.shadowed.map(Denial::label),
        _ => None,
    };
    let unknown_rule = request.rule.filter(|name| policy.authorizer.rules.named(name).is_none());
    let refused = decision.outcome.denial().map(Denial::label);
    let (verdict, reason) = match &decision.outcome {
        Outcome::Allowed(_) => ("allowed", shadowed.unwrap_or("ok")),
        Outcome::Needs(Needs::StatusList { .. }) if view.is_none() => {
            ("undecided", "the running service fetches the status list of the issuer")
        }
        Outcome::Needs(Needs::Introspection(_)) if view.is_none() => {
            ("undecided", "the running service introspects the token at the issuer")
        }
        _ => ("denied", refused.unwrap_or("ok")),
    };
    let failed = match &decision.outcome {
        Outcome::Allowed(grant) => grant.shadowed.or(grant.ignored),
        Outcome::Needs(Needs::Introspection(_) | Needs::StatusList { .. }) if view.is_none() => None,
        outcome => outcome.denial(),
    };
    json!({
        "decision": verdict,
        "reason": reason,
        "detail": decision.outcome.denial().or(shadow).and(decision.evidence.detail.as_deref()),
        "would_refuse": shadowed,
        "checks": checks::checks(policy, request, decision, failed, view.is_some(), now),
        "rule": unknown_rule.map_or_else(|| decision.rule.name.to_string(), |name| format!("no rule is named `{name}`")),
        "access": access(decision.rule.access),
        "api_client": decision.evidence.api_client.as_deref(),
        "keys": keys(policy),
        "token": unverified(policy, request),
        "verified": verified(decision, now),
        "revocation": view.map_or_else(
            || {
                let registered = if policy.authorizer.freshness.allow_list { ", nor whether the token is registered" } else { "" };
                json!(format!("not consulted{registered}: ask the running service"))
            },
            |view| revocation(policy, decision, view),
        ),
        "requirements": requirements(&decision.rule.require),
        "answer": answer(policy.responder.unsigned().answer(decision, request)),
    })
}

/// The checks of a decision that was refused, or would have been, in their order: the inspected values and the
/// expected ones.
#[must_use]
pub fn checks(
    policy: &Policy,
    request: &RequestView<'_>,
    decision: &Decision<'_>,
    refused: Option<Denial>,
    now: Timestamp,
) -> Value {
    checks::checks(policy, request, decision, refused, true, now)
}

/// Adds the `content-type` that a request with an MCP message has, unless it is described.
pub fn describe_body(fields: &mut Vec<(String, String)>) {
    if !fields.iter().any(|(name, _)| name == "content-type") {
        fields.push(("content-type".to_owned(), "application/json".to_owned()));
    }
}

const fn access(access: Access) -> &'static str {
    match access {
        Access::Public => "public",
        Access::Optional => "optional",
        Access::Protected => "protected",
        Access::Refresh => "refresh",
        Access::SignOut(_) => "sign_out",
    }
}

/// The number of usable keys of each issuer.
fn keys(policy: &Policy) -> Value {
    let issuers = policy.authorizer.issuers.iter();
    let usable = issuers.map(|issuer| {
        let keys = issuer.keys.as_ref().map_or(json!("not loaded"), |keys| json!({"usable": keys.len()}));
        (issuer.name.to_string(), keys)
    });
    Value::Object(usable.collect())
}

/// The token's header and issuer before the signature is verified.
fn unverified(policy: &Policy, request: &RequestView<'_>) -> Value {
    let found = policy.authorizer.tokens.find(request).first;
    let parsed = found.as_ref().and_then(|found| UnverifiedToken::parse(found.bearer()).ok());
    let Some(token) = parsed else { return Value::Null };
    let header = token.header();
    json!({
        "alg": header.algorithm,
        "kid": header.key_id,
        "typ": header.token_type,
        "iss": token.unverified_issuer().ok(),
    })
}

fn verified(decision: &Decision<'_>, now: Timestamp) -> Value {
    let Some(token) = &decision.evidence.token else { return Value::Null };
    let fields = TokenField::in_place(Place::Explanation).map(|field| (field.name().to_owned(), field.to_json(token)));
    let more = [
        ("key", json!(token.key_id())),
        ("expires_in_seconds", json!((token.expires_at().as_millis() - now.as_millis()) / 1000)),
        ("issued_seconds_ago", json!(token.issued_at().map(|at| (now.as_millis() - at.as_millis()) / 1000))),
    ];
    Value::Object(fields.chain(more.map(|(name, value)| (name.to_owned(), value))).collect())
}

fn revocation(policy: &Policy, decision: &Decision<'_>, view: View<'_>) -> Value {
    let Some(token) = &decision.evidence.token else { return json!({"result": "no verified token to look for"}) };
    // A rule that does not refuse revoked tokens made no lookup; the explanation shows the result nevertheless.
    let known = decision.evidence.hit.or_else(|| view.index.find(token.targets(), token.issued_at()));
    let rule = decision.rule;
    let max_staleness = rule.max_staleness.unwrap_or(policy.authorizer.freshness.max_staleness);
    let mut explained = json!({
        "result": if known.is_some() { "revoked" } else { "clear" },
        "decisive": decision.evidence.hit.is_some(),
        "hit": known.map(hit),
        "view_age_ms": view.age.filter(|age| *age < Duration::MAX).map(millis),
        "fresh": view.age.is_some_and(|age| age <= max_staleness),
        "max_staleness_ms": millis(max_staleness),
        "on_stale": on_stale(policy, rule),
        "store": view.answer.map(|answer| match answer {
            StoreAnswer::Clear => "clear",
            StoreAnswer::Unregistered => "not registered",
            StoreAnswer::Hit(_) => "revoked",
            StoreAnswer::Unavailable => "unavailable",
        }),
    });
    if let Some(place) = token.status() {
        let stored = view.status_lists.and_then(|lists| lists.find(token.issuer(), &place.uri, view.uptime));
        let value = stored.and_then(|stored| stored.list.value(place.index)).map(|value| value.to_string());
        explained["status_list"] = json!({"uri": &*place.uri, "idx": place.index, "value": value});
    }
    explained
}

fn hit(hit: Hit) -> Value {
    json!({"kind": hit.kind.as_str(), "origin": hit.origin.as_str(), "at": watermark(hit.watermark)})
}

/// `*`: every token of the target.
pub(super) fn watermark(watermark: Watermark) -> String {
    if watermark == Watermark::FOREVER { "*".to_owned() } else { clock::format_rfc3339(watermark.instant()) }
}

fn on_stale(policy: &Policy, rule: &Rule) -> &'static str {
    let freshness = policy.authorizer.freshness;
    match rule.on_stale.unwrap_or(freshness.on_stale) {
        _ if freshness.always_lookup => "lookup",
        OnStale::Deny => "deny",
        OnStale::Allow => "allow",
        OnStale::Lookup => "lookup",
    }
}

fn requirements(require: &Requirements) -> Value {
    let mut listed = Map::new();
    if !require.scopes.is_empty() {
        listed.insert("scopes".to_owned(), json!(require.scopes));
    }
    if !require.claims.is_empty() {
        let claims = require.claims.iter().map(|(path, values)| (path.clone(), json!(values)));
        listed.insert("claims".to_owned(), Value::Object(claims.collect()));
    }
    if !require.issuers.is_empty() {
        listed.insert("issuers".to_owned(), require.issuers.iter().map(ToString::to_string).collect());
    }
    if let Some(Audiences::OneOf(audience)) = &require.audience {
        listed.insert("audience".to_owned(), json!(audience));
    }
    if !require.actors.is_empty() {
        listed.insert("actors".to_owned(), json!(require.actors));
    }
    if let Some(delegated) = require.delegated {
        listed.insert("delegated".to_owned(), json!(delegated));
    }
    if let Some(max_age) = require.max_age {
        listed.insert("max_age_seconds".to_owned(), json!(max_age.as_secs()));
    }
    if !require.acr.is_empty() {
        listed.insert("acr".to_owned(), json!(require.acr));
    }
    Value::Object(listed)
}

fn answer(answer: Answer<'_>) -> Value {
    match answer {
        Answer::Forward(forward) => {
            let shown = |name: &str, value: &str| match name {
                "cookie" | "sec-websocket-protocol" => "(not shown)".to_owned(), // A value of the client, which may be a credential.
                _ => without_signature(value),
            };
            let set = forward.all_set().map(|(name, value)| (name.to_owned(), json!(shown(name, &value))));
            json!({
                "set": Value::Object(set.collect()),
                "remove": forward.all_removed().collect::<Vec<_>>(),
                "remove_query": forward.remove_query,
            })
        }
        Answer::Respond(respond) => {
            let headers = respond.headers.into_iter().map(|(name, value)| (name.to_owned(), json!(value)));
            json!({"status": respond.status, "headers": Value::Object(headers.collect()), "body": respond.body})
        }
    }
}

/// A signed identity payload is a credential towards the upstream: it is shown without its signature.
fn without_signature(value: &str) -> String {
    let parts: Vec<_> = value.split('.').collect();
    let base64url =
        |part: &&str| part.len() > 8 && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    match parts.as_slice() {
        [header, payload, _] if header.starts_with("eyJ") && parts.iter().all(base64url) => {
            format!("{header}.{payload}.(signature not shown)")
        }
        _ => value.to_owned(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_payload_is_shown_without_its_signature() {
        let shown = without_signature("eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl");
        assert_eq!(shown, "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.(signature not shown)");
        for plain in ["alice", "alice@example.com", "a.b.c", "eyJhbGciOiJFUzI1NiJ9"] {
            assert_eq!(without_signature(plain), plain);
        }
    }
}
