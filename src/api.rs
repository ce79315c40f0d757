//! The faces: Envoy's gRPC and HTTP. All of them decide by [`decide`], so answers cannot diverge.

pub mod check;
pub mod explain;
pub mod http;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::authz::answer::{Answer, metadata};
use crate::authz::authorizer::{Decision, Evidence, Outcome, StoreAnswer, View};
use crate::authz::claims::IssuerName;
use crate::authz::denial::Denial;
use crate::authz::introspection::Testimony;
use crate::authz::rule::{RequestView, Requirements, Rule};
use crate::authz::token::VerifiedToken;
use crate::clock;
use crate::state::{DecisionLog, Policy, State};

/// A decision in words, with what access logs may know of it.
pub struct Decided {
    pub answer: Answer,
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// Decides a request, resolving what the pure decision cannot: unknown keys, introspection, lookups, and the
/// recording of a sign-out, which comes before the answer.
///
/// `rule`: decide by this one instead of the configured rules. `wait`: how long the caller waits, if it
/// says so.
pub async fn decide(state: &State, request: &RequestView<'_>, rule: Option<&Rule>, wait: Option<Duration>) -> Decided {
    let started = Instant::now();
    let mut policy = state.policy();
    let deadline = tokio::time::Instant::now() + wait.map_or(policy.max_wait, |wait| wait.min(policy.max_wait));
    let mut learned = Learned::recall(state, &policy, request);
    let mut decision = judge(&policy, request, rule, learned.view(state));
    if let (Outcome::Denied(Denial::UnknownKey), Some(issuer)) = (&decision.outcome, decision.evidence.issuer.clone()) {
        let _ = tokio::time::timeout_at(deadline, state.keys().refresh(&issuer)).await;
        drop(decision);
        policy = state.policy();
        decision = judge(&policy, request, rule, learned.view(state));
    }
    // What waits is boxed: its futures are large, and most decisions never come here.
    if let Outcome::NeedsIntrospection(issuer) = &decision.outcome {
        let asked = Box::pin(tokio::time::timeout_at(deadline, ask(state, &policy, request, issuer)));
        learned.testimony = asked.await.ok().flatten();
        decision = judge(&policy, request, rule, learned.view(state));
    }
    if let (Outcome::NeedsLookup, Some(token)) = (&decision.outcome, decision.evidence.token.as_ref()) {
        if !policy.authorizer.freshness.always_lookup {
            state.metrics.degraded.with_label_values(&["revocations", "lookup"]).inc(); // The view is stale.
        }
        let allow_list = policy.authorizer.freshness.allow_list;
        let lookup = Box::pin(tokio::time::timeout_at(deadline, look_up(state, token, allow_list)));
        learned.answer = Some(lookup.await.unwrap_or(StoreAnswer::Unavailable));
        decision = judge(&policy, request, rule, learned.view(state));
    }
    if let Outcome::Allowed(grant) = &decision.outcome
        && let Some((Some(revocation), _)) = &grant.sign_out
    {
        let recorded = tokio::time::timeout_at(deadline, state.replica.revoke(vec![revocation.clone()])).await;
        if !matches!(recorded, Ok(Ok(_))) {
            // Refused here at once all the same; the client must retry until the store has it.
            decision.outcome = Outcome::Denied(Denial::StoreUnavailable);
        }
    }
    let answer = policy.responder.answer(&decision, request);
    record(state, &policy, request, &decision, started.elapsed());
    Decided { answer, metadata: metadata(decision.rule, &decision.outcome, &decision.evidence) }
}

/// What was found out for one decision, beside what is known anyway.
struct Learned {
    answer: Option<StoreAnswer>,
    testimony: Option<Arc<Testimony>>,
}

impl Learned {
    /// What an issuer said of the request's token lately.
    fn recall(state: &State, policy: &Policy, request: &RequestView<'_>) -> Self {
        let introspectors = state.introspectors();
        let asked = !introspectors.is_empty();
        let token = asked.then(|| policy.authorizer.tokens.find(request).ok().flatten()).flatten();
        Self { answer: None, testimony: token.and_then(|token| introspectors.recall(token.as_str())) }
    }

    fn view<'a>(&'a self, state: &'a State) -> View<'a> {
        View { testimony: self.testimony.as_deref(), ..state.view(self.answer) }
    }
}

/// What an issuer says of the request's token; `None` if there is none.
async fn ask(state: &State, policy: &Policy, request: &RequestView<'_>, issuer: &IssuerName) -> Option<Arc<Testimony>> {
    let token = policy.authorizer.tokens.find(request).ok()??;
    Some(state.introspectors().ask(issuer, token.as_str()).await)
}

/// What the store says of a token, in one round trip.
async fn look_up(state: &State, token: &VerifiedToken, allow_list: bool) -> StoreAnswer {
    let revoked = state.replica.lookup(token.targets(), token.issued_at());
    let registered = async {
        match token.registration().filter(|_| allow_list) {
            Some(target) => state.replica.is_registered(&target, token.issued_at()).await,
            None => Ok(true),
        }
    };
    match tokio::join!(revoked, registered) {
        (Ok(Some(hit)), _) => StoreAnswer::Hit(hit),
        (Ok(None), Ok(true)) => StoreAnswer::Clear,
        (Ok(None), Ok(false)) => StoreAnswer::Unregistered,
        (Err(_), _) | (_, Err(_)) => StoreAnswer::Unavailable,
    }
}

/// The pure decision; should it panic, this request is refused and the process goes on.
fn judge<'a>(policy: &'a Policy, request: &RequestView<'_>, rule: Option<&'a Rule>, view: View<'_>) -> Decision<'a> {
    let authorizer = &policy.authorizer;
    let judged = catch_unwind(AssertUnwindSafe(|| match rule {
        Some(rule) => authorizer.authorize_by(rule, request, view, clock::now()),
        None => authorizer.authorize(request, view, clock::now()),
    }));
    judged.unwrap_or_else(|_| {
        error!("a decision panicked; its request is refused");
        Decision {
            rule: &authorizer.default_rule,
            outcome: Outcome::Denied(Denial::InternalError),
            evidence: Evidence::default(),
        }
    })
}

/// Refuses what cannot even be asked about, such as a message without a request.
pub fn refuse(state: &State, denial: Denial) -> Decided {
    let policy = state.policy();
    let outcome = Outcome::Denied(denial);
    let rule = &policy.authorizer.default_rule;
    let metadata = metadata(rule, &outcome, &Evidence::default());
    state.metrics.checks.with_label_values(&["denied", denial.label(), &rule.name]).inc();
    Decided { answer: Answer::Respond(policy.responder.refuse(denial, &Requirements::default())), metadata }
}

/// Counts a decision and logs it if it refused; a log line holds names of ours only.
fn record(state: &State, policy: &Policy, request: &RequestView<'_>, decision: &Decision<'_>, took: Duration) {
    let metrics = &state.metrics;
    let rule = &*decision.rule.name;
    let (outcome, denial) = match &decision.outcome {
        Outcome::Allowed(grant) => ("allowed", grant.shadowed),
        refused => ("denied", refused.denial()),
    };
    let reason = if outcome == "denied" { denial.map_or("ok", Denial::label) } else { "ok" };
    metrics.checks.with_label_values(&[outcome, reason, rule]).inc();
    metrics.check_duration.observe(took.as_secs_f64());
    if let Outcome::Allowed(grant) = &decision.outcome {
        if let Some(would_be) = grant.shadowed {
            metrics.shadow_refusals.with_label_values(&[would_be.label(), rule]).inc();
        }
        if grant.stale {
            metrics.degraded.with_label_values(&["revocations", "stale_view"]).inc();
        }
    }
    if let Some(hit) = decision.evidence.hit {
        metrics.revoked_presented.with_label_values(&[hit.kind.as_str()]).inc();
    }
    let logged = match policy.decision_log {
        DecisionLog::None => false,
        DecisionLog::Denied => denial.is_some(),
        DecisionLog::All => true,
    };
    if logged {
        let issuer = decision.evidence.issuer.as_ref().map(tracing::field::display);
        let request_id = request.header("x-request-id").next().and_then(uuid_like);
        let trace_id = request.header("traceparent").next().and_then(trace_id);
        let outcome = if outcome == "allowed" && denial.is_some() { "shadow" } else { outcome };
        info!(
            decision = outcome,
            reason = denial.map_or("ok", Denial::label),
            rule,
            issuer,
            request_id,
            trace_id,
            "decided"
        );
    }
}

/// A request id that is nothing but one: what a client can choose must not shape a log line.
fn uuid_like(field: &[u8]) -> Option<&str> {
    let fits = (1..=64).contains(&field.len()) && field.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    std::str::from_utf8(field).ok().filter(|_| fits)
}

/// The trace id of a W3C `traceparent`: 32 hex digits after the version.
fn trace_id(field: &[u8]) -> Option<&str> {
    let id = std::str::from_utf8(field).ok()?.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}
