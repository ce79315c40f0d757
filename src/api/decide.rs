//! The decision on one request, from its bytes to its record: decide; fetch the keys or answers that the decision
//! needs; decide again; store a sign-out; answer.

mod fetch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard;
use futures_util::FutureExt;
use tracing::error;

use super::record::{log, record};
use crate::authz::answer::Responder;
use crate::authz::authorizer::{Decision, Evidence, Needs, Outcome, Verification, View};
use crate::authz::denial::Denial;
use crate::authz::rule::{RequestView, Rule};
use crate::clock;
use crate::state::{Policy, State};
use fetch::Fetched;

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
    /// Whether the decision must have no effects.
    dry_run: bool,
    verification: Verification,
}

impl<'a> Query<'a> {
    #[must_use]
    pub fn new(state: &'a State, request: &'a RequestView<'a>) -> Self {
        let (caller, started) = (Caller::default(), Instant::now());
        Self { state, request, rule: None, caller, started, dry_run: false, verification: Verification::Allowed }
    }

    /// Decides by this one rule instead of the configured ones.
    #[must_use]
    pub const fn by_rule(self, rule: &'a Rule) -> Self {
        Self { rule: Some(rule), ..self }
    }

    #[must_use]
    pub const fn from_caller(self, caller: Caller<'a>) -> Self {
        Self { caller, ..self }
    }

    /// Decides without effects: no sign-out is stored, nothing is recorded, and a proof in the request remains unused.
    #[must_use]
    pub const fn dry_run(self) -> Self {
        Self { dry_run: true, ..self }
    }

    /// A signature is verified in its turn, one after another among all such queries: [`decide_at_once`] leaves a token
    /// that was not verified before to [`decide`].
    #[must_use]
    pub const fn verified_in_turn(self) -> Self {
        Self { verification: Verification::Deferred, ..self }
    }

    /// The start of the decision.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }
}

/// Decides a request: fetches the keys or answers that the pure decision needs, and stores a sign-out before it
/// answers. `put` turns the decision into the caller's form. If any of this panics, this request is refused and the
/// process continues.
pub async fn decide<T>(query: Query<'_>, put: impl Fn(&Responder, &Decision<'_>, &RequestView<'_>) -> T) -> T {
    let read = |deciding: &Deciding<'_>, decision: &Decision<'_>| deciding.put(decision, &put);
    decide_with(query, read).await.unwrap_or_else(|| refuse(query.state, Denial::InternalError, None, put))
}

/// The first half of [`decide`], for a caller that must not wait: `None` if the decision needs something, or signs a
/// user out. In that case nothing was counted, logged or started: call [`decide`].
pub fn decide_at_once<T>(
    query: Query<'_>,
    put: impl Fn(&Responder, &Decision<'_>, &RequestView<'_>) -> T,
) -> Option<T> {
    let read = |deciding: &Deciding<'_>, decision: &Decision<'_>| deciding.put(decision, &put);
    match guarded(|| Deciding::new(query).at_once(read)) {
        Ok(decided) => decided.ok(),
        Err(Panicked) => Some(refuse(query.state, Denial::InternalError, None, put)),
    }
}

/// Like [`decide`], for answers of another form: `read` takes the parts that it needs. `None` if any of it panicked.
pub(super) async fn decide_with<T>(query: Query<'_>, read: impl Fn(&Deciding<'_>, &Decision<'_>) -> T) -> Option<T> {
    match guarded(|| Deciding::new(query).at_once(&read)).ok()? {
        Ok(answer) => Some(answer),
        Err(undecided) => {
            // Boxed: its futures are large, and most decisions never come here.
            let resolved = AssertUnwindSafe(Box::pin(undecided.resolve(read))).catch_unwind().await;
            resolved.map_err(|_| Panicked::report()).ok()
        }
    }
}

/// A panic during a decision, already logged.
struct Panicked;

impl Panicked {
    fn report() -> Self {
        error!("a decision panicked; its request is refused");
        Self
    }
}

fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked::report())
}

/// A decision in progress: the query, the policy in force, and the answers that were fetched for this request.
pub(super) struct Deciding<'a> {
    query: Query<'a>,
    pub(super) policy: Guard<Arc<Policy>>,
    fetched: Fetched,
}

/// A decision that has to wait.
struct Undecided<'a> {
    deciding: Deciding<'a>,
    /// Whether its token was found in the cache.
    remembered: Option<bool>,
    /// `None`: a sign-out is to be stored.
    needs: Option<Needs>,
}

impl<'a> Deciding<'a> {
    fn new(query: Query<'a>) -> Self {
        let policy = query.state.policy_now();
        let fetched = Fetched::recall(&query, &policy);
        Self { query, policy, fetched }
    }

    /// The input of the pure decision.
    pub(super) fn view(&self) -> View<'_> {
        self.fetched.view(self.query.state)
    }

    /// For a decision that waits.
    fn waiting(self) -> Self {
        Self { policy: Guard::from_inner(Guard::into_inner(self.policy)), ..self }
    }

    /// The pure decision.
    fn authorize(&self) -> Decision<'_> {
        #[cfg(test)]
        tests::panic_if_asked(self.query.request, "decision");
        let (authorizer, view, now) = (&self.policy.authorizer, self.view(), clock::now());
        match self.query.rule {
            Some(rule) => authorizer.authorize_by(rule, self.query.request, view, now),
            None => authorizer.authorize(self.query.request, view, now),
        }
    }

    /// Decides and answers, unless the decision needs something or signs a user out.
    fn at_once<T>(self, read: impl FnOnce(&Self, &Decision<'_>) -> T) -> Result<T, Box<Undecided<'a>>> {
        let decision = self.authorize();
        let remembered = decision.evidence.remembered;
        if let Outcome::Needs(needs) = decision.outcome {
            return Err(Box::new(Undecided { deciding: self.waiting(), remembered, needs: Some(needs) }));
        }
        if !decision.outcome.signs_out().is_empty() {
            return Err(Box::new(Undecided { deciding: self.waiting(), remembered, needs: None }));
        }
        Ok(self.answer(&decision, read))
    }

    /// Answers, and records the decision.
    fn answer<T>(&self, decision: &Decision<'_>, read: impl FnOnce(&Self, &Decision<'_>) -> T) -> T {
        let Query { state, request, caller, started, dry_run, .. } = self.query;
        #[cfg(test)]
        tests::panic_if_asked(request, "answer");
        let answer = read(self, decision);
        if !dry_run {
            record(state, &self.policy, request, caller.traceparent, decision, started.elapsed());
        }
        answer
    }

    fn put<T>(&self, decision: &Decision<'_>, put: impl Fn(&Responder, &Decision<'_>, &RequestView<'_>) -> T) -> T {
        put(&self.policy.responder, decision, self.query.request)
    }
}

impl Undecided<'_> {
    /// Fetches each need once, and decides again after each; stores a sign-out; answers.
    async fn resolve<T>(self, read: impl FnOnce(&Deciding<'_>, &Decision<'_>) -> T) -> T {
        let Self { mut deciding, remembered, mut needs } = self;
        let by = deciding.deadline();
        let mut left = Needs::KINDS;
        let mut decision = loop {
            let mut turn = None;
            if let Some(needs) = needs.take() {
                turn = deciding.fetch(needs, by).await;
                left -= 1;
            }
            let decision = deciding.authorize();
            drop(turn);
            match decision.outcome {
                Outcome::Needs(next) if left > 0 => needs = Some(next),
                _ => break decision,
            }
        };
        decision.evidence.remembered = remembered;
        if !deciding.sign_out(decision.outcome.signs_out(), by).await {
            decision.refuse(Denial::StoreUnavailable); // The client must retry until the store has it.
        }
        deciding.answer(&decision, read)
    }
}

/// The fault of a request that cannot be decided.
#[derive(Clone, Copy)]
pub struct Flaw<'a> {
    /// In names of ours only; it stands in the log.
    pub detail: &'a str,
    /// The request, as far as it was read.
    pub request: &'a RequestView<'a>,
}

/// Refuses input that is not a request to decide, such as a message without an HTTP request. Without a flaw the caller
/// has logged or counted the reason.
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
mod tests;
