//! The record of a decision: its counters, its span, its log line, and the alarm for a revoked token.
//!
//! Everything here consists of Doorward's own names; claims of a token appear only as `refusal` shows them: escaped
//! and cut.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::refusals;
use crate::authz::authorizer::{Decision, Outcome};
use crate::authz::claims::IssuerName;
use crate::authz::denial::Denial;
use crate::authz::revocation::{Hit, Kind};
use crate::authz::rule::RequestView;
use crate::clock;
use crate::metrics::Degraded;
use crate::state::{DecisionLog, Policy, Presented, State};
use crate::traces;

/// Counts and traces a decision, and logs it if the configuration requires it.
///
/// `traceparent` is that of the caller's span; `took`, the time from the request to its answer.
pub(super) fn record(
    state: &State,
    policy: &Policy,
    request: &RequestView<'_>,
    traceparent: Option<&[u8]>,
    decision: &Decision<'_>,
    took: Duration,
) {
    let metrics = &state.metrics;
    let rule = &*decision.rule.name;
    let (outcome, denial) = match &decision.outcome {
        Outcome::Allowed(grant) => ("allowed", grant.shadowed),
        refused => ("denied", refused.denial()),
    };
    let reason = if outcome == "denied" { denial.map_or("ok", Denial::label) } else { "ok" };
    if outcome == "allowed" {
        policy.allowed.count(&metrics.checks, &decision.rule.name);
    } else {
        metrics.checks.with_label_values(&[outcome, reason, rule]).inc();
    }
    metrics.check_duration.observe(took.as_secs_f64());
    match decision.evidence.remembered {
        Some(true) => metrics.token_cache_hits.inc(),
        Some(false) => metrics.token_cache_misses.inc(),
        None => {}
    }
    if let Outcome::Allowed(grant) = &decision.outcome {
        if let Some(would_be) = grant.shadowed {
            metrics.shadow_refusals.with_label_values(&[would_be.label(), rule]).inc();
        }
        if grant.stale {
            metrics.degraded(Degraded::StaleView).inc();
        }
    }
    if let Some(proof) = &decision.evidence.proof {
        metrics.proofs.with_label_values(&[proof.result.label()]).inc();
    }
    if let Some(hit) = decision.evidence.hit {
        metrics.revoked_presented.with_label_values(&[hit.kind.as_str()]).inc();
        sound_alarm(state, request, decision, hit);
    }
    if let Some(denial) = denial {
        refusals::note(state, policy, request, decision, denial, request_id(request));
    }
    if let Some(traces) = &state.traces {
        let issuer = decision.evidence.issuer.as_ref().map(IssuerName::as_str);
        let traceparent = traceparent.or_else(|| request.header("traceparent").next());
        traces.record(traceparent, &traces::Decided { decision: outcome, reason, rule, issuer, took });
    }
    log(policy, request, traceparent, decision, None);
}

/// Logs a decision if the configuration requires it; `flaw`: the fault of a request that cannot be decided.
pub(super) fn log(
    policy: &Policy,
    request: &RequestView<'_>,
    traceparent: Option<&[u8]>,
    decision: &Decision<'_>,
    flaw: Option<&str>,
) {
    let (outcome, denial) = match &decision.outcome {
        Outcome::Allowed(grant) if grant.shadowed.is_some() => ("shadow", grant.shadowed),
        Outcome::Allowed(_) => ("allowed", None),
        refused => ("denied", refused.denial()),
    };
    let logged = match policy.decision_log {
        DecisionLog::None => false,
        DecisionLog::Denied => denial.is_some(),
        DecisionLog::All => true,
    };
    if !logged {
        return;
    }
    let issuer = decision.evidence.issuer.as_ref().map(tracing::field::display);
    let request_id = request_id(request);
    let trace_id = traceparent.or_else(|| request.header("traceparent").next()).and_then(trace_id);
    // The name from the route is shown by `explain` only.
    let unknown_rule = request.rule.map(|name| policy.authorizer.rules.named(name).is_none()).filter(|is| *is);
    let detail = flaw.or_else(|| denial.and(decision.evidence.detail.as_deref()));
    info!(
        decision = outcome,
        reason = denial.map_or("ok", Denial::label),
        rule = &*decision.rule.name,
        detail,
        unknown_rule,
        issuer,
        request_id,
        trace_id,
        "decided"
    );
}

/// Logs that a revoked token was presented, within the limit of such lines per minute.
fn sound_alarm(state: &State, request: &RequestView<'_>, decision: &Decision<'_>, hit: Hit) {
    let Some(suppressed) = state.alarm.admit(Instant::now()) else { return };
    let (kind, origin, rule) = (hit.kind.as_str(), hit.origin.as_str(), &*decision.rule.name);
    let issuer = decision.evidence.issuer.as_ref();
    let request_id = request_id(request);
    let source = request.source.address().map(tracing::field::display);
    let shown = issuer.map(tracing::field::display);
    warn!(kind, origin, rule, issuer = shown, request_id, source, suppressed, "revoked token presented");
    state.alarm.notify(|| {
        let token = decision.evidence.token.as_ref();
        let named = token.and_then(|token| token.targets().iter().find(|target| target.kind == Kind::Token));
        Presented {
            event: "revoked_token_presented",
            at: clock::format_rfc3339(clock::now()),
            kind,
            origin,
            rule: rule.to_owned(),
            issuer: issuer.map(ToString::to_string),
            user_id: token.and_then(|token| token.user_id()).map(str::to_owned),
            token_id: named.map(|target| target.id.to_string()),
            request_id: request_id.map(str::to_owned),
            source: request.source.address(),
            suppressed,
        }
    });
}

fn request_id<'a>(request: &RequestView<'a>) -> Option<&'a str> {
    request.header("x-request-id").next().and_then(uuid_like)
}

/// A request id, if it has the form of one: a client-chosen value must not shape a log line.
fn uuid_like(field: &[u8]) -> Option<&str> {
    let fits = (1..=64).contains(&field.len()) && field.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
    std::str::from_utf8(field).ok().filter(|_| fits)
}

/// The trace id of a W3C `traceparent`: 32 hex digits after the version.
fn trace_id(field: &[u8]) -> Option<&str> {
    let id = std::str::from_utf8(field).ok()?.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}
