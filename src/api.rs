//! The faces: Envoy's gRPC and HTTP. All of them decide by [`decide`], so answers cannot diverge.

pub mod check;
pub mod explain;
pub mod http;
pub mod inlet;
mod present;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tracing::{error, info, warn};

use crate::authz::answer::Responder;
use crate::authz::authorizer::{Decision, Evidence, Outcome, StoreAnswer, View};
use crate::authz::claims::IssuerName;
use crate::authz::denial::Denial;
use crate::authz::introspection::{Said, Testimony};
use crate::authz::revocation::{Hit, Kind};
use crate::authz::rule::{RequestView, Rule};
use crate::authz::token::VerifiedToken;
use crate::clock;
use crate::state::{DecisionLog, Policy, Presented, State};
use crate::traces;

/// What the one who asks says of itself.
#[derive(Clone, Copy, Default)]
pub struct Caller<'a> {
    /// How long it waits for the answer.
    pub wait: Option<Duration>,
    /// Its span (W3C Trace Context); without one the request's own counts.
    pub traceparent: Option<&'a [u8]>,
}

/// Decides a request, resolving what the pure decision cannot: unknown keys, introspection, lookups, and the
/// recording of a sign-out, which comes before the answer. `put` puts the decision into the caller's words.
///
/// `rule`: decide by this one instead of the configured rules. Should anything of it panic, this request
/// is refused and the process goes on.
pub async fn decide<T>(
    state: &State,
    request: &RequestView<'_>,
    rule: Option<&Rule>,
    caller: Caller<'_>,
    put: impl Fn(&Responder, &Decision<'_>, &RequestView<'_>) -> T,
) -> T {
    let read = |policy: &Policy, decision: &Decision<'_>| {
        #[cfg(test)]
        tests::panic_if_asked(request, "answer");
        put(&policy.responder, decision, request)
    };
    let decided = consider(state, request, rule, caller, read).await;
    decided.unwrap_or_else(|| refuse(state, Denial::InternalError, put))
}

/// As [`decide`], for faces that answer in other words: `read` takes what they need of the decision. `None`
/// if anything of it panicked.
async fn consider<T>(
    state: &State,
    request: &RequestView<'_>,
    rule: Option<&Rule>,
    caller: Caller<'_>,
    read: impl FnOnce(&Policy, &Decision<'_>) -> T,
) -> Option<T> {
    let decided = AssertUnwindSafe(resolve(state, request, rule, caller, read)).catch_unwind().await;
    decided.inspect_err(|_| error!("a decision panicked; its request is refused")).ok()
}

async fn resolve<T>(
    state: &State,
    request: &RequestView<'_>,
    rule: Option<&Rule>,
    caller: Caller<'_>,
    read: impl FnOnce(&Policy, &Decision<'_>) -> T,
) -> T {
    let started = Instant::now();
    let mut policy = state.policy();
    let deadline = tokio::time::Instant::now() + caller.wait.map_or(policy.max_wait, |wait| wait.min(policy.max_wait));
    let mut learned = Learned::recall(state, &policy, request);
    let mut decision = judge(&policy, request, rule, learned.view(state));
    if let Some(remembered) = decision.evidence.remembered {
        let metrics = &state.metrics;
        if remembered { metrics.token_cache_hits.inc() } else { metrics.token_cache_misses.inc() }
    }
    // What waits is boxed: its futures are large, and most decisions never come here.
    let (waits, max_waiting) = (&state.waits, policy.max_waiting);
    if let (Outcome::Denied(denial @ (Denial::UnknownKey | Denial::KeysUnavailable)), Some(issuer)) =
        (&decision.outcome, decision.evidence.issuer.clone())
    {
        if let Some(_place) = waits.keys.enter(max_waiting) {
            let keys = state.keys();
            let _ = match denial {
                Denial::UnknownKey => Box::pin(tokio::time::timeout_at(deadline, keys.refresh(&issuer))).await,
                // An issuer that a reload has brought, or moved: its keys are on the way.
                _ => Box::pin(tokio::time::timeout_at(deadline, keys.first_try(&issuer))).await,
            };
            drop(decision);
            policy = state.policy();
            decision = judge(&policy, request, rule, learned.view(state));
        } else {
            crowded::<()>(state);
            decision.outcome = Outcome::Denied(Denial::KeysUnavailable); // It may be a key that we do not know yet.
        }
    }
    if let Outcome::NeedsIntrospection(issuer) = &decision.outcome {
        learned.testimony = match waits.introspection.enter(max_waiting) {
            Some(_place) => {
                let asked = Box::pin(tokio::time::timeout_at(deadline, ask(state, &policy, request, issuer)));
                asked.await.ok().flatten()
            }
            None => crowded(state),
        };
        // That it says nothing is told to the decision as well: a shadow rule lets pass all the same.
        let nothing = || Arc::new(Testimony { issuer: issuer.clone(), said: Said::Unavailable });
        learned.testimony.get_or_insert_with(nothing);
        decision = judge(&policy, request, rule, learned.view(state));
    }
    if let (Outcome::NeedsLookup, Some(token)) = (&decision.outcome, decision.evidence.token.as_ref()) {
        if !policy.authorizer.freshness.always_lookup {
            state.metrics.degraded.with_label_values(&["revocations", "lookup"]).inc(); // The view is stale.
        }
        let allow_list = policy.authorizer.freshness.allow_list;
        let answer = match waits.store.enter(max_waiting) {
            Some(_place) => {
                let lookup = Box::pin(tokio::time::timeout_at(deadline, look_up(state, token, allow_list)));
                lookup.await.ok()
            }
            None => crowded(state),
        };
        learned.answer = Some(answer.unwrap_or(StoreAnswer::Unavailable));
        decision = judge(&policy, request, rule, learned.view(state));
    }
    if let Outcome::Allowed(grant) = &decision.outcome
        && let Some((Some(revocation), _)) = &grant.sign_out
    {
        let recorded = match waits.store.enter(max_waiting) {
            Some(_place) => {
                let revoked = state.replica.revoke(vec![revocation.clone()]);
                tokio::time::timeout_at(deadline, revoked).await.ok().and_then(Result::ok)
            }
            None => crowded(state),
        };
        if recorded.is_none() {
            // Refused here at once all the same; the client must retry until the store has it.
            decision.outcome = Outcome::Denied(Denial::StoreUnavailable);
        }
    }

    let answer = read(&policy, &decision);
    let traceparent = caller.traceparent.or_else(|| request.header("traceparent").next());
    record(state, &policy, request, traceparent, &decision, started.elapsed());
    answer
}

/// Too many decisions wait for what this one would wait for: it is told at once that it is not to be had.
fn crowded<T>(state: &State) -> Option<T> {
    state.metrics.degraded.with_label_values(&["concurrency", "refuse"]).inc();
    None
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

/// The pure decision.
fn judge<'a>(policy: &'a Policy, request: &RequestView<'_>, rule: Option<&'a Rule>, view: View<'_>) -> Decision<'a> {
    let authorizer = &policy.authorizer;
    #[cfg(test)]
    tests::panic_if_asked(request, "judge");
    match rule {
        Some(rule) => authorizer.authorize_by(rule, request, view, clock::now()),
        None => authorizer.authorize(request, view, clock::now()),
    }
}

/// Refuses what cannot even be asked about, such as a message without a request.
pub fn refuse<T>(state: &State, denial: Denial, put: impl Fn(&Responder, &Decision<'_>, &RequestView<'_>) -> T) -> T {
    let policy = state.policy();
    let rule = &*policy.authorizer.default_rule;
    let decision = Decision { rule, outcome: Outcome::Denied(denial), evidence: Evidence::default() };
    state.metrics.checks.with_label_values(&["denied", denial.label(), &rule.name]).inc();
    put(&policy.responder, &decision, &RequestView::NOTHING)
}

/// Counts and traces a decision, and logs it if it refused; a log line holds names of ours only.
fn record(
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
        sound_alarm(state, request, decision, hit);
    }
    if let Some(traces) = &state.traces {
        let issuer = decision.evidence.issuer.as_ref().map(IssuerName::as_str);
        traces.record(traceparent, &traces::Decided { decision: outcome, reason, rule, issuer, took });
    }
    let logged = match policy.decision_log {
        DecisionLog::None => false,
        DecisionLog::Denied => denial.is_some(),
        DecisionLog::All => true,
    };
    if logged {
        let issuer = decision.evidence.issuer.as_ref().map(tracing::field::display);
        let request_id = request.header("x-request-id").next().and_then(uuid_like);
        let trace_id = traceparent.and_then(trace_id);
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

/// Says that a revoked token was presented, unless that was said too often in this minute.
fn sound_alarm(state: &State, request: &RequestView<'_>, decision: &Decision<'_>, hit: Hit) {
    let Some(suppressed) = state.alarm.admit(Instant::now()) else { return };
    let (kind, origin, rule) = (hit.kind.as_str(), hit.origin.as_str(), &*decision.rule.name);
    let issuer = decision.evidence.issuer.as_ref();
    let request_id = request.header("x-request-id").next().and_then(uuid_like);
    let source = request.source.map(tracing::field::display);
    let shown = issuer.map(tracing::field::display);
    warn!(kind, origin, rule, issuer = shown, request_id, source, suppressed, "revoked token presented");
    state.alarm.ring(|| {
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
            source: request.source,
            suppressed,
        }
    });
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
    use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
    use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
    use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
    use tonic::transport::server::TcpIncoming;

    use super::*;
    use crate::config::Config;
    use crate::metrics::Metrics;
    use crate::serve::assemble;
    use crate::sources::replica::Replica;

    /// Only in a test build: a request may ask for a panic in the middle of its decision.
    pub(super) fn panic_if_asked(request: &RequestView<'_>, place: &str) {
        let asked = request.header("x-test-panic").any(|wanted| wanted == place.as_bytes());
        assert!(!asked, "asked to, with Bearer canary-in-a-panic");
    }

    fn state() -> Arc<State> {
        let jwks = crate::dev::DevIssuer::generate().unwrap().jwks().to_string();
        let text = format!(
            "revocation: {{store: embedded}}\nissuers: [{{name: dev, issuer: \"https://a.test\", audiences: any, keys: {{jwks: {jwks}}}}}]\n\
             rules: [{{name: public, match: {{path_prefix: /public}}, access: public}}]\n"
        );
        let file = std::env::temp_dir().join(format!("doorward-panic-{:016x}.yaml", rand::random::<u64>()));
        std::fs::write(&file, text).unwrap();
        let config = Config::load(&file, std::iter::empty()).unwrap().config;
        std::fs::remove_file(&file).unwrap();
        let replica = Arc::new(Replica::new(assemble::ledger(&config).unwrap(), None));
        let metrics = Arc::new(Metrics::new().unwrap());
        let (alarm, _) = assemble::alarm(&config, &metrics).unwrap();
        Arc::new(State::new(assemble::policy(&config), replica, metrics, alarm, None))
    }

    /// The HTTP status that Envoy would be told, over real gRPC.
    async fn ask(client: &mut AuthorizationClient<tonic::transport::Channel>, path: &str, panic: Option<&str>) -> i32 {
        let headers = panic.map(|place| ("x-test-panic".to_owned(), place.to_owned())).into_iter().collect();
        let http = HttpRequest { method: "GET".to_owned(), path: path.to_owned(), headers, ..HttpRequest::default() };
        let request = Some(Request { http: Some(http), ..Request::default() });
        let attributes = Some(AttributeContext { request, ..AttributeContext::default() });
        let answer = client.check(CheckRequest { attributes }).await.unwrap().into_inner();
        match answer.http_response.unwrap() {
            HttpResponse::OkResponse(_) => 200,
            HttpResponse::DeniedResponse(denied) => {
                assert!(!denied.body.contains("canary"), "{}", denied.body);
                denied.status.unwrap().code
            }
            HttpResponse::ErrorResponse(_) => 0,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_refuses_its_request_and_nothing_else() {
        let state = state();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = check::service(state.clone(), 1 << 20, 1000);
        let server =
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(TcpIncoming::from(listener));
        let asking = async {
            let mut client = AuthorizationClient::connect(format!("http://{address}")).await.unwrap();
            for place in ["judge", "answer"] {
                for path in ["/public", "/private"] {
                    assert_eq!(ask(&mut client, path, Some(place)).await, 503, "{place} {path}");
                    assert_eq!(ask(&mut client, "/public", None).await, 200, "the next request is decided");
                    assert_eq!(ask(&mut client, "/private", None).await, 401);
                }
            }
            let mut others = client.clone();
            let (panicked, good) =
                tokio::join!(ask(&mut client, "/public", Some("judge")), ask(&mut others, "/public", None));
            assert_eq!((panicked, good), (503, 200), "beside it");
            let counted = state.metrics.checks.with_label_values(&["denied", "internal_error", "default"]).get();
            assert_eq!(counted, 5);
        };
        tokio::select! {
            served = server => panic!("the server ended: {served:?}"),
            () = asking => {}
        }
    }
}
