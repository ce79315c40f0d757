//! The faces: Envoy's gRPC and HTTP. All of them decide by [`decide`], so answers cannot diverge.

pub mod check;
pub mod explain;
pub mod http;
pub mod inlet;
mod present;
mod record;
pub mod streams;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tracing::error;

use crate::authz::answer::Responder;
use crate::authz::authorizer::{Decision, Evidence, Outcome, StoreAnswer, View};
use crate::authz::claims::IssuerName;
use crate::authz::denial::Denial;
use crate::authz::introspection::{Said, Testimony};
use crate::authz::revocation::Revocation;
use crate::authz::rule::{RequestView, Rule};
use crate::authz::token::VerifiedToken;
use crate::clock;
use crate::state::{Policy, State, Waiting};
use record::{log, record};

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
    decided.unwrap_or_else(|| refuse(state, Denial::InternalError, None, put))
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

/// Decides, finds out what that lacks and decides again; records a sign-out, and the decision.
async fn resolve<T>(
    state: &State,
    request: &RequestView<'_>,
    rule: Option<&Rule>,
    caller: Caller<'_>,
    read: impl FnOnce(&Policy, &Decision<'_>) -> T,
) -> T {
    let started = Instant::now();
    let mut policy = state.policy();
    let by = Deadline::from_std(started) + caller.wait.map_or(policy.max_wait, |wait| wait.min(policy.max_wait));
    let mut learned = Learned::recall(state, &policy, request);
    let mut decision = judge(&policy, request, rule, learned.view(state));
    match decision.evidence.remembered {
        Some(true) => state.metrics.token_cache_hits.inc(),
        Some(false) => state.metrics.token_cache_misses.inc(),
        None => {}
    }
    // What waits is boxed: its futures are large, and most decisions never come here.
    if decision.outcome.lacks_something() {
        drop(decision);
        Box::pin(find_out(state, request, rule, by, &mut policy, &mut learned)).await;
        decision = judge(&policy, request, rule, learned.view(state));
        if learned.is_key_untold && decision.outcome.lacks_keys().is_some() && !decision.outcome.ignores_token() {
            decision.refuse(Denial::KeysUnavailable); // It may be a key that we do not know yet.
        }
    }
    if let Outcome::Allowed(grant) = &decision.outcome
        && let Some((revocations, _)) = &grant.sign_out
        && !revocations.is_empty()
        && !Box::pin(sign_out(state, &policy, revocations, by)).await
    {
        decision.refuse(Denial::StoreUnavailable); // The client must retry until the store has it.
    }

    let answer = read(&policy, &decision);
    let traceparent = caller.traceparent.or_else(|| request.header("traceparent").next());
    record(state, &policy, request, traceparent, &decision, started.elapsed());
    answer
}

/// What was found out for one decision, beside what is known anyway.
#[derive(Default)]
struct Learned {
    answer: Option<StoreAnswer>,
    testimony: Option<Arc<Testimony>>,
    /// The provider was not asked for the token's key, or did not tell in time.
    is_key_untold: bool,
}

impl Learned {
    /// What an issuer said of the request's token lately.
    fn recall(state: &State, policy: &Policy, request: &RequestView<'_>) -> Self {
        let introspectors = state.introspectors();
        let asked = !introspectors.is_empty();
        let token = asked.then(|| policy.authorizer.token_of(request, clock::now()).ok().flatten()).flatten();
        Self { testimony: token.and_then(|token| introspectors.recall(token.bearer().as_str())), ..Self::default() }
    }

    fn view<'a>(&'a self, state: &'a State) -> View<'a> {
        View { testimony: self.testimony.as_deref(), ..state.view(self.answer) }
    }
}

/// Finds out what a decision lacks: first keys, with them a new policy; then the issuer's word; then the
/// store's.
async fn find_out(
    state: &State,
    request: &RequestView<'_>,
    rule: Option<&Rule>,
    by: Deadline,
    policy: &mut Arc<Policy>,
    learned: &mut Learned,
) {
    let mut decision = judge(policy, request, rule, learned.view(state));
    if let (Some(denial), Some(issuer)) = (decision.outcome.lacks_keys(), decision.evidence.issuer.as_ref()) {
        learned.is_key_untold = !await_keys(state, policy, denial, issuer, by).await;
        drop(decision);
        *policy = state.policy();
        decision = judge(policy, request, rule, learned.view(state));
    }
    if let Outcome::NeedsIntrospection(issuer) = &decision.outcome {
        learned.testimony = Some(introspect(state, policy, request, issuer, by).await);
        decision = judge(policy, request, rule, learned.view(state));
    }
    if let (Outcome::NeedsLookup, Some(token)) = (&decision.outcome, decision.evidence.token.as_ref()) {
        learned.answer = Some(look_up(state, policy, token, by).await);
    }
}

/// Waits until an issuer has told its keys; false if it did not in time, could not, or too many wait for it.
async fn await_keys(state: &State, policy: &Policy, denial: Denial, issuer: &IssuerName, by: Deadline) -> bool {
    let keys = state.keys();
    let waited = within(state, &state.waits.keys, policy, by, async {
        match denial {
            Denial::UnknownKey => keys.refresh(issuer).await,
            // An issuer that a reload has brought, or moved: its keys are on the way.
            _ => keys.first_try(issuer).await,
        }
    });
    waited.await.unwrap_or(false)
}

/// What an issuer says of the request's token. That it says nothing is an answer, too: the decision must know
/// of it, for a shadow rule lets pass all the same.
async fn introspect(
    state: &State,
    policy: &Policy,
    request: &RequestView<'_>,
    issuer: &IssuerName,
    by: Deadline,
) -> Arc<Testimony> {
    let asked = within(state, &state.waits.introspection, policy, by, async {
        let token = policy.authorizer.token_of(request, clock::now()).ok()??;
        Some(state.introspectors().ask(issuer, token.bearer().as_str()).await)
    });
    let nothing = || Arc::new(Testimony { issuer: issuer.clone(), said: Said::Unavailable });
    asked.await.ok().flatten().unwrap_or_else(nothing)
}

/// What the store says of a token, in one round trip.
async fn look_up(state: &State, policy: &Policy, token: &VerifiedToken, by: Deadline) -> StoreAnswer {
    let freshness = policy.authorizer.freshness;
    if !freshness.always_lookup {
        state.metrics.degraded.with_label_values(&["revocations", "lookup"]).inc(); // The view is stale.
    }
    let revoked = state.replica.lookup(token.targets(), token.issued_at());
    let registered = async {
        let mut registrations = token.registrations().filter(|_| freshness.allow_list);
        let Some(target) = registrations.next() else { return Ok(true) };
        let mut known = state.replica.is_registered(&target, token.issued_at()).await;
        for target in registrations {
            if !matches!(known, Ok(false)) {
                break;
            }
            known = state.replica.is_registered(&target, token.issued_at()).await;
        }
        known
    };
    let both = Box::pin(async { tokio::join!(revoked, registered) });
    let asked = within(state, &state.waits.store, policy, by, both);
    match asked.await {
        Ok((Ok(Some(hit)), _)) => StoreAnswer::Hit(hit),
        Ok((Ok(None), Ok(true))) => StoreAnswer::Clear,
        Ok((Ok(None), Ok(false))) => StoreAnswer::Unregistered,
        Ok((Err(_), _) | (_, Err(_))) | Err(_) => StoreAnswer::Unavailable,
    }
}

/// Whether the store took a sign-out in time. It holds in this process at once whatever the store says.
async fn sign_out(state: &State, policy: &Policy, revocations: &[Revocation], by: Deadline) -> bool {
    let revoked = Box::pin(state.replica.revoke(revocations.to_vec()));
    match within(state, &state.waits.store, policy, by, revoked).await {
        Ok(stored) => stored.is_ok(),
        Err(NoAnswer::Crowded) => {
            state.replica.hold(revocations.to_vec()); // It was not begun, and is offered to the store later.
            false
        }
        Err(NoAnswer::Late) => false,
    }
}

type Deadline = tokio::time::Instant;

/// Why something that a decision waits for has not come.
enum NoAnswer {
    /// Too many decisions wait for the same: it is told at once that it is not to be had.
    Crowded,
    Late,
}

/// Waits for something, in one of the places that there are for those who wait for it.
async fn within<T>(
    state: &State,
    waiting: &Waiting,
    policy: &Policy,
    by: Deadline,
    wanted: impl Future<Output = T>,
) -> Result<T, NoAnswer> {
    let Some(_place) = waiting.enter(policy.max_waiting) else {
        state.metrics.degraded.with_label_values(&["concurrency", "refuse"]).inc();
        return Err(NoAnswer::Crowded);
    };
    tokio::time::timeout_at(by, wanted).await.map_err(|_| NoAnswer::Late)
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

/// What is wrong with a request that cannot be asked about.
#[derive(Clone, Copy)]
pub struct Flaw<'a> {
    /// In names of ours only; it stands in the log.
    pub detail: &'a str,
    /// The request, as far as it was read.
    pub request: &'a RequestView<'a>,
}

/// Refuses what cannot even be asked about, such as a message without a request. Without a flaw the caller has
/// logged or counted why.
pub fn refuse<T>(
    state: &State,
    denial: Denial,
    flaw: Option<Flaw<'_>>,
    put: impl Fn(&Responder, &Decision<'_>, &RequestView<'_>) -> T,
) -> T {
    let policy = state.policy();
    let rule = &*policy.authorizer.default_rule;
    let decision = Decision { rule, outcome: Outcome::Denied(denial), evidence: Evidence::default() };
    state.metrics.checks.with_label_values(&["denied", denial.label(), &rule.name]).inc();
    if let Some(Flaw { detail, request }) = flaw {
        log(&policy, request, None, &decision, Some(detail));
    }
    put(&policy.responder, &decision, &RequestView::NOTHING)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
    use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
    use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
    use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
    use tonic::transport::server::TcpIncoming;

    use super::*;
    use crate::config::Config;
    use crate::serve::assemble;

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
        let config = Config::parse(&text, "test", Path::new(""), std::iter::empty()).unwrap().config;
        assemble::state(&config).unwrap().0
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
