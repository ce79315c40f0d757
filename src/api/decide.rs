//! The decision on one request, from its bytes to its record: decide; fetch what the decision needs; decide
//! again; record a sign-out; answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tracing::error;

use super::record::{log, record};
use crate::authz::answer::Responder;
use crate::authz::authorizer::{Decision, Evidence, KeyFetch, Needs, Outcome, StoreAnswer, View};
use crate::authz::claims::IssuerName;
use crate::authz::denial::Denial;
use crate::authz::dpop::{ReplayPolicy, Spending, VerifiedProof};
use crate::authz::introspection::{IntrospectionResponse, TokenState};
use crate::authz::revocation::Revocation;
use crate::authz::rule::{RequestView, Rule};
use crate::authz::token::VerifiedToken;
use crate::clock::{self, Steady};
use crate::state::{Policy, State, Waiting};

/// The caller's deadline and trace context.
#[derive(Clone, Copy, Default)]
pub struct Caller<'a> {
    /// How long it waits for the answer.
    pub wait: Option<Duration>,
    /// Its span (W3C Trace Context); without one the request's own counts.
    pub traceparent: Option<&'a [u8]>,
}

/// A request to decide, and who asks.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    state: &'a State,
    request: &'a RequestView<'a>,
    rule: Option<&'a Rule>,
    caller: Caller<'a>,
    started: Instant,
    /// Whether a proof that the request brings is used up.
    spends: bool,
}

impl<'a> Query<'a> {
    #[must_use]
    pub fn new(state: &'a State, request: &'a RequestView<'a>) -> Self {
        Self { state, request, rule: None, caller: Caller::default(), started: Instant::now(), spends: true }
    }

    /// Decided by this one rule instead of the configured ones.
    #[must_use]
    pub const fn by_rule(self, rule: &'a Rule) -> Self {
        Self { rule: Some(rule), ..self }
    }

    #[must_use]
    pub const fn from_caller(self, caller: Caller<'a>) -> Self {
        Self { caller, ..self }
    }

    /// Only asked: a proof that the request brings may be used afterwards.
    #[must_use]
    pub const fn only_asked(self) -> Self {
        Self { spends: false, ..self }
    }

    /// Answers and records what was decided.
    fn finish<T>(&self, policy: &Policy, decision: &Decision<'_>, read: impl FnOnce(&Policy, &Decision<'_>) -> T) -> T {
        #[cfg(test)]
        tests::panic_if_asked(self.request, "answer");
        let answer = read(policy, decision);
        let traceparent = self.caller.traceparent.or_else(|| self.request.header("traceparent").next());
        record(self.state, policy, self.request, traceparent, decision, self.started.elapsed());
        answer
    }
}

/// Decides a request, and fetches what the pure decision needs; a sign-out is stored before the answer. `put`
/// turns the decision into the caller's form. If any of it panics, this request is refused and the process
/// goes on.
pub async fn decide<T>(query: Query<'_>, put: impl Fn(&Responder, &Decision<'_>, &RequestView<'_>) -> T) -> T {
    let read = |policy: &Policy, decision: &Decision<'_>| put(&policy.responder, decision, query.request);
    decide_with(query, read).await.unwrap_or_else(|| refuse(query.state, Denial::InternalError, None, put))
}

/// As [`decide`], for a caller that must not wait: `None` if the decision needs something, or records a
/// sign-out. Nothing was counted, logged or started then: [`decide`] does it all.
pub fn decide_at_once<T>(
    query: Query<'_>,
    put: impl Fn(&Responder, &Decision<'_>, &RequestView<'_>) -> T,
) -> Option<T> {
    let read = |policy: &Policy, decision: &Decision<'_>| put(&policy.responder, decision, query.request);
    let Ok(decided) = guarded(|| at_once(query, read)) else {
        return Some(refuse(query.state, Denial::InternalError, None, put));
    };
    decided.ok()
}

/// As [`decide`], for answers of another form: `read` takes what they need. `None` if any of it panicked.
pub(super) async fn decide_with<T>(query: Query<'_>, read: impl Fn(&Policy, &Decision<'_>) -> T) -> Option<T> {
    match guarded(|| at_once(query, &read)).ok()? {
        Ok(answer) => Some(answer),
        Err(undecided) => {
            // Boxed: its futures are large, and most decisions never come here.
            let resolved = AssertUnwindSafe(Box::pin(resolve(query, undecided, read))).catch_unwind().await;
            resolved.inspect_err(|_| panicked()).ok()
        }
    }
}

fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, ()> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| panicked())
}

fn panicked() {
    error!("a decision panicked; its request is refused");
}

/// A decision that has to wait.
struct Undecided {
    basis: Basis,
    /// Whether its token was found in the cache.
    remembered: Option<bool>,
    /// What it waits for; `None`: a sign-out is to be stored.
    needs: Option<Needs>,
}

/// Decides what needs nothing and records no sign-out.
fn at_once<T>(query: Query<'_>, read: impl FnOnce(&Policy, &Decision<'_>) -> T) -> Result<T, Undecided> {
    let basis = Basis::of(&query);
    let decision = basis.authorize(&query);
    let waits = matches!(decision.outcome, Outcome::Needs(_)) || !decision.outcome.signs_out().is_empty();
    if waits {
        let remembered = decision.evidence.remembered;
        let needs = if let Outcome::Needs(needs) = decision.outcome { Some(needs) } else { None };
        return Err(Undecided { basis, remembered, needs });
    }
    Ok(query.finish(&basis.policy, &decision, read))
}

/// Fetches what the decision needs, decides, and stores a sign-out.
async fn resolve<T>(
    query: Query<'_>,
    Undecided { mut basis, remembered, needs }: Undecided,
    read: impl FnOnce(&Policy, &Decision<'_>) -> T,
) -> T {
    let wait = query.caller.wait.map_or(basis.policy.max_wait, |wait| wait.min(basis.policy.max_wait));
    let by = Deadline::from_std(query.started) + wait;
    if let Some(needs) = needs {
        basis.fetch(&query, needs, by).await;
        basis.fetch_needs(&query, by).await;
    }
    let mut decision = basis.authorize(&query);
    decision.evidence.remembered = remembered;
    let revocations = decision.outcome.signs_out();
    if !revocations.is_empty() && !sign_out(query.state, &basis.policy, revocations, by).await {
        decision.refuse(Denial::StoreUnavailable); // The client must retry until the store has it.
    }
    query.finish(&basis.policy, &decision, read)
}

/// The inputs of a decision: the policy in force and the answers that were fetched for this request.
pub(super) struct Basis {
    pub(super) policy: Arc<Policy>,
    keys: Option<KeyFetch>,
    answer: Option<StoreAnswer>,
    introspection_response: Option<Arc<IntrospectionResponse>>,
    proof: Option<(Box<VerifiedProof>, Spending)>,
}

impl Basis {
    /// The basis before anything is fetched.
    pub(super) fn of(query: &Query<'_>) -> Self {
        let policy = query.state.policy();
        let introspection_response = recall(query, &policy);
        Self { policy, keys: None, answer: None, introspection_response, proof: None }
    }

    pub(super) fn view<'a>(&'a self, state: &'a State) -> View<'a> {
        View {
            keys: self.keys,
            answer: self.answer,
            introspection_response: self.introspection_response.as_deref(),
            proof: self.proof.as_ref().map(|(proof, spending)| (&**proof, *spending)),
            ..state.view()
        }
    }

    /// The pure decision.
    pub(super) fn authorize<'a>(&'a self, query: &Query<'a>) -> Decision<'a> {
        #[cfg(test)]
        tests::panic_if_asked(query.request, "decision");
        let (authorizer, view, now) = (&self.policy.authorizer, self.view(query.state), clock::now());
        match query.rule {
            Some(rule) => authorizer.authorize_by(rule, query.request, view, now),
            None => authorizer.authorize(query.request, view, now),
        }
    }

    /// Fetches what the decision needs: each need once, one after the other.
    pub(super) async fn fetch_needs(&mut self, query: &Query<'_>, by: Deadline) {
        for _ in 0..Needs::KINDS {
            let Outcome::Needs(needs) = self.authorize(query).outcome else { return };
            self.fetch(query, needs, by).await;
        }
    }

    async fn fetch(&mut self, query: &Query<'_>, needs: Needs, by: Deadline) {
        match needs {
            Needs::Keys { issuer, refusal } => {
                self.keys = Some(fetch_keys(query.state, &self.policy, refusal, &issuer, by).await);
                self.policy = query.state.policy(); // The keys are part of it.
            }
            Needs::Introspection(issuer) => {
                self.introspection_response = Some(introspect(query, &self.policy, &issuer, by).await);
            }
            Needs::Lookup(token) => {
                self.answer = Some(look_up(query.state, &self.policy, &token, by).await);
            }
            Needs::Spending(proof) => {
                let spending = spend(query, &self.policy, &proof, by).await;
                self.proof = Some((proof, spending));
            }
        }
    }
}

/// The cached introspection response for the request's token.
fn recall(query: &Query<'_>, policy: &Policy) -> Option<Arc<IntrospectionResponse>> {
    let introspectors = query.state.introspectors();
    if introspectors.is_empty() {
        return None;
    }
    let token = policy.authorizer.token_of(query.request, clock::now()).ok()??;
    introspectors.recall(token.bearer().as_str())
}

/// Waits for an issuer's keys.
async fn fetch_keys(state: &State, policy: &Policy, refusal: Denial, issuer: &IssuerName, by: Deadline) -> KeyFetch {
    let keys = state.keys();
    let fetched = within(state, &state.waits.keys, policy, by, async {
        match refusal {
            Denial::UnknownKey => keys.refresh(issuer).await,
            // An issuer that a reload has brought, or moved: its keys are on the way.
            _ => keys.first_try(issuer).await,
        }
    });
    if fetched.await.unwrap_or(false) { KeyFetch::Fetched } else { KeyFetch::Failed }
}

/// Introspects the request's token. A failure is a result, too: the decision must know of it, because a
/// shadow rule lets the request pass all the same.
async fn introspect(
    query: &Query<'_>,
    policy: &Policy,
    issuer: &IssuerName,
    by: Deadline,
) -> Arc<IntrospectionResponse> {
    let asked = within(query.state, &query.state.waits.introspection, policy, by, async {
        let token = policy.authorizer.token_of(query.request, clock::now()).ok()??;
        Some(query.state.introspectors().ask(issuer, token.bearer().as_str()).await)
    });
    let nothing = || Arc::new(IntrospectionResponse { issuer: issuer.clone(), said: TokenState::Unavailable });
    asked.await.ok().flatten().unwrap_or_else(nothing)
}

/// Looks a token up in the store, in one round trip.
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

/// Uses a proof, in one round trip of the store that all instances share, or in this process.
async fn spend(query: &Query<'_>, policy: &Policy, proof: &VerifiedProof, by: Deadline) -> Spending {
    let (state, id) = (query.state, proof.id());
    let locally = || {
        if !query.spends {
            return if state.spent_proofs.knows(&id) { Spending::Again } else { Spending::First };
        }
        state.spent_proofs.spend(&id, proof.keep, Steady::now().uptime())
    };
    let ReplayPolicy::Shared { or_local } = proof.replay else { return locally() };
    if !state.replica.is_shared() {
        return locally();
    }
    let keep = query.spends.then_some(proof.keep);
    let asked = Box::pin(state.replica.spend_proof(&id, keep));
    match within(state, &state.waits.store, policy, by, asked).await {
        Ok(Ok(true)) if or_local => {
            locally(); // So that it is known here when the store is not.
            Spending::First
        }
        Ok(Ok(true)) => Spending::First,
        Ok(Ok(false)) => Spending::Again,
        Ok(Err(_)) | Err(_) if or_local => {
            state.metrics.degraded.with_label_values(&["proofs", "local"]).inc();
            locally()
        }
        Ok(Err(_)) | Err(_) => Spending::Unknown,
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

pub(super) type Deadline = tokio::time::Instant;

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

/// The fault of a request that cannot be decided.
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
    use crate::api::check;
    use crate::config::Config;
    use crate::engine::assemble;

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
            for place in ["decision", "answer"] {
                for path in ["/public", "/private"] {
                    assert_eq!(ask(&mut client, path, Some(place)).await, 503, "{place} {path}");
                    assert_eq!(ask(&mut client, "/public", None).await, 200, "the next request is decided");
                    assert_eq!(ask(&mut client, "/private", None).await, 401);
                }
            }
            let mut others = client.clone();
            let (panicked, good) =
                tokio::join!(ask(&mut client, "/public", Some("decision")), ask(&mut others, "/public", None));
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
