//! How long a proxy may keep an answer that allows.
//!
//! A view of age A has every revocation that was written before now - A. An answer that is kept until now + M - A, where
//! M is `max_staleness`, is used no later than M after a revocation that it lacks: the bound that holds without a cache.

use std::time::Duration;

use crate::authz::authorizer::{Decision, Grant, Outcome, Principal};
use crate::authz::rule::{Access, OnStale};
use crate::authz::token_source::TokenSource;
use crate::clock;
use crate::state::Policy;

/// The longest time for which the answer may be kept, in whole seconds; `None`: it may not be kept. `age`: that of the
/// view, or more.
pub(super) fn longest(policy: &Policy, decision: &Decision<'_>, age: Option<Duration>) -> Option<Duration> {
    let Outcome::Allowed(grant) = &decision.outcome else { return None };
    let Grant { principal, sign_out, stale, shadowed, .. } = &**grant;
    let (rule, freshness) = (decision.rule, policy.authorizer.freshness);
    let by_revocation = match rule.access {
        Access::Public => policy.kept_answers,
        Access::Optional | Access::Protected => {
            let on_stale = rule.on_stale.unwrap_or(freshness.on_stale);
            // An answer from a view that may be older than `max_staleness` is not kept: its age has no bound.
            let is_bound = on_stale != OnStale::Allow && !*stale;
            let max_staleness = rule.max_staleness.unwrap_or(freshness.max_staleness);
            age.filter(|_| is_bound).and_then(|age| max_staleness.checked_sub(age))?
        }
        // The token is about to change.
        Access::Refresh | Access::SignOut(_) => return None,
    };
    // A proof is valid once, an API key and a sign-in expire; an introspection response and a status list have a cache
    // of their own, whose age would be added to this one's.
    let asked = &policy.authorizer.introspection;
    let may_change = sign_out.is_some()
        || shadowed.is_some()
        || decision.evidence.api_client.is_some()
        || decision.evidence.proof.is_some()
        || rule.require.max_age.is_some()
        || principal.as_ref().is_some_and(|principal| principal.token().status().is_some())
        || decision
            .evidence
            .issuer
            .as_ref()
            .is_some_and(|name| asked.always.contains(name) || asked.opaque.as_ref() == Some(name));
    let left = |principal: &Principal| principal.token().expires_at().since(clock::now());
    let life = principal.as_ref().map_or(Duration::MAX, left);
    let payload = principal.as_ref().and(policy.responder.payload_reusable_for()).unwrap_or(Duration::MAX);
    let kept = policy.kept_answers.min(by_revocation).min(life).min(payload);
    (!may_change && kept >= Duration::from_secs(1)).then_some(kept)
}

/// The request headers that a kept answer depends on (`Vary`, RFC 9110 section 12.5.5): the names of the request's
/// parts, and the places of tokens and keys. nginx does not keep an answer with more than 128 bytes of them.
pub(super) fn varies(policy: &Policy) -> String {
    let request = ["x-original-uri", "x-original-method", "x-forwarded-uri", "x-forwarded-method", "x-forwarded-host"];
    let tokens = policy.authorizer.tokens.from.iter().filter_map(|source| match source {
        TokenSource::Header { name, .. } => Some(name.as_str()),
        TokenSource::Cookie(_) | TokenSource::ChunkedCookie(_) => Some("cookie"),
        TokenSource::WebSocketProtocol(_) => Some("sec-websocket-protocol"),
        TokenSource::Query(_) => None, // A token in the query is part of the URI.
    });
    let keys = &policy.authorizer.api_keys;
    let of_keys = [keys.header.as_str(), keys.platform_header.as_str(), "origin", "referer"];
    let of_keys = of_keys.into_iter().filter(|_| keys.iter().next().is_some());
    request.into_iter().chain(tokens).chain(of_keys).collect::<Vec<_>>().join(", ")
}
