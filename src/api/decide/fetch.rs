//! The keys and answers that a decision needs, each fetched with a deadline and under a limit of concurrent waiters.

use std::sync::Arc;

use arc_swap::Guard;

use super::{Deciding, Query};
use crate::authz::authorizer::{KeyFetch, ListFetch, Needs, StoreAnswer, Verification, View};
use crate::authz::claims::IssuerName;
use crate::authz::denial::Denial;
use crate::authz::dpop::{ReplayPolicy, Spending, VerifiedProof};
use crate::authz::introspection::{IntrospectionResponse, TokenState};
use crate::authz::revocation::Revocation;
use crate::authz::token::VerifiedToken;
use crate::clock::{self, Steady};
use crate::metrics::Degraded;
use crate::state::{Policy, State, Waiting};

/// The answers that were fetched for one request.
#[derive(Default)]
pub(super) struct Fetched {
    keys: Option<KeyFetch>,
    answer: Option<StoreAnswer>,
    introspection_response: Option<Arc<IntrospectionResponse>>,
    status_list: Option<ListFetch>,
    proof: Option<(Box<VerifiedProof>, Spending)>,
    verification: Verification,
}

impl Fetched {
    /// Only the cached introspection response for the request's token.
    pub(super) fn recall(query: &Query<'_>, policy: &Policy) -> Self {
        let fetched = Self { verification: query.verification, ..Self::default() };
        if policy.authorizer.introspection.is_empty() {
            return fetched;
        }
        let token = policy.authorizer.token_of(query.request, clock::now()).ok().flatten();
        let introspectors = query.state.introspectors();
        let introspection_response = token.and_then(|token| introspectors.recall(token.bearer().as_str()));
        Self { introspection_response, ..fetched }
    }

    pub(super) fn view<'a>(&'a self, state: &'a State) -> View<'a> {
        View {
            keys: self.keys,
            answer: self.answer,
            introspection_response: self.introspection_response.as_deref(),
            status_list: self.status_list,
            verification: self.verification,
            proof: self.proof.as_ref().map(|(proof, spending)| (&**proof, *spending)),
            ..state.view()
        }
    }
}

pub(super) type Deadline = tokio::time::Instant;

/// Why something that a decision waits for has not come.
enum NoAnswer {
    /// Too many decisions wait for the same resource: this one gets no answer, without waiting.
    Crowded,
    Late,
}

/// The turn to verify a signature, until it is dropped.
pub(super) type Turn<'a> = tokio::sync::MutexGuard<'a, ()>;

impl<'a> Deciding<'a> {
    /// The latest moment at which the caller still waits, and the policy lets wait.
    pub(super) fn deadline(&self) -> Deadline {
        let most = self.policy.max_wait;
        Deadline::from_std(self.query.started) + self.query.caller.wait.map_or(most, |wait| wait.min(most))
    }

    /// Fetches the need of a decision, for the next decision on the same request. A turn ends with that decision.
    pub(super) async fn fetch(&mut self, needs: Needs, by: Deadline) -> Option<Turn<'a>> {
        match needs {
            Needs::Keys { issuer, refusal } => {
                self.fetched.keys = Some(self.fetch_keys(refusal, &issuer, by).await);
                self.policy = Guard::from_inner(self.query.state.policy()); // The keys are part of it.
            }
            Needs::Introspection(issuer) => {
                self.fetched.introspection_response = Some(self.introspect(&issuer, by).await);
            }
            Needs::StatusList { issuer, uri } => {
                self.fetched.status_list = Some(self.fetch_status_list(&issuer, &uri, by).await);
            }
            Needs::Lookup(token) => self.fetched.answer = Some(self.look_up(&token, by).await),
            Needs::Spending(proof) => {
                let spending = self.spend(&proof, by).await;
                self.fetched.proof = Some((proof, spending));
            }
            Needs::Verification => {
                let turn = self.turn(by).await;
                self.fetched.verification = if turn.is_some() { Verification::Allowed } else { Verification::Refused };
                return turn;
            }
        }
        None
    }

    /// Waits for the turn to verify a signature. Other tasks of the runtime run between two turns.
    async fn turn(&self, by: Deadline) -> Option<Turn<'a>> {
        let waits = &self.query.state.waits;
        let turn = self.within(&waits.verification, by, async {
            let turn = waits.turn.lock().await;
            tokio::task::yield_now().await;
            turn
        });
        turn.await.ok()
    }

    /// Waits for an issuer's keys.
    async fn fetch_keys(&self, refusal: Denial, issuer: &IssuerName, by: Deadline) -> KeyFetch {
        let state = self.query.state;
        let keys = state.keys();
        let fetched = self.within(&state.waits.keys, by, async {
            match refusal {
                Denial::UnknownKey => keys.refresh(issuer).await,
                // An issuer that a reload has brought, or moved: its keys are on the way.
                _ => keys.first_try(issuer).await,
            }
        });
        if fetched.await.unwrap_or(false) { KeyFetch::Fetched } else { KeyFetch::Failed }
    }

    /// Introspects the request's token. A failure is a result, too: under a shadow rule the request passes
    /// nevertheless.
    async fn introspect(&self, issuer: &IssuerName, by: Deadline) -> Arc<IntrospectionResponse> {
        let state = self.query.state;
        let asked = self.within(&state.waits.introspection, by, async {
            let token = self.policy.authorizer.token_of(self.query.request, clock::now()).ok()??;
            Some(state.introspectors().introspect(issuer, token.bearer().as_str()).await)
        });
        let nothing = || Arc::new(IntrospectionResponse { issuer: issuer.clone(), state: TokenState::Unavailable });
        asked.await.ok().flatten().unwrap_or_else(nothing)
    }

    /// Waits for a status list, which every later decision finds.
    async fn fetch_status_list(&self, issuer: &IssuerName, uri: &Arc<str>, by: Deadline) -> ListFetch {
        let state = self.query.state;
        let sources = state.status_sources();
        let fetched = self.within(&state.waits.status_lists, by, sources.fetch(issuer, uri));
        if fetched.await.unwrap_or(false) { ListFetch::Fetched } else { ListFetch::Failed }
    }

    /// Looks a token up in the store, in one round trip.
    async fn look_up(&self, token: &VerifiedToken, by: Deadline) -> StoreAnswer {
        let (state, freshness) = (self.query.state, self.policy.authorizer.freshness);
        if !freshness.always_lookup {
            state.metrics.degraded(Degraded::StoreLookup).inc(); // The view is stale.
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
        let asked = self.within(&state.waits.store, by, both);
        match asked.await {
            Ok((Ok(Some(hit)), _)) => StoreAnswer::Hit(hit),
            Ok((Ok(None), Ok(true))) => StoreAnswer::Clear,
            Ok((Ok(None), Ok(false))) => StoreAnswer::Unregistered,
            Ok((Err(_), _) | (_, Err(_))) | Err(_) => StoreAnswer::Unavailable,
        }
    }

    /// Uses a proof, in one round trip of the store that all instances share, or in this process.
    async fn spend(&self, proof: &VerifiedProof, by: Deadline) -> Spending {
        let Query { state, dry_run, .. } = self.query;
        let id = proof.id();
        let locally = || {
            if dry_run {
                return if state.spent_proofs.knows(&id) { Spending::Again } else { Spending::First };
            }
            state.spent_proofs.spend(&id, proof.keep, Steady::now().uptime())
        };
        let ReplayPolicy::Shared { or_local } = proof.replay else { return locally() };
        if !state.replica.is_shared() {
            return locally();
        }
        let keep = (!dry_run).then_some(proof.keep);
        let asked = Box::pin(state.replica.spend_proof(&id, keep));
        match self.within(&state.waits.store, by, asked).await {
            // This process refuses a reuse while the store is unavailable, and a reuse of what was used meanwhile.
            Ok(Ok(true)) if or_local => match locally() {
                Spending::Again => Spending::Again,
                Spending::First | Spending::Unknown => Spending::First,
            },
            Ok(Ok(true)) => Spending::First,
            Ok(Ok(false)) => Spending::Again,
            Ok(Err(_)) | Err(_) if or_local => {
                state.metrics.degraded(Degraded::LocalProofs).inc();
                locally()
            }
            Ok(Err(_)) | Err(_) => Spending::Unknown,
        }
    }

    /// Whether the sign-out was stored in time; true if there is none to store. The sign-out applies in this process
    /// at once, stored or not.
    pub(super) async fn sign_out(&self, revocations: &[Revocation], by: Deadline) -> bool {
        let Query { state, dry_run, .. } = self.query;
        if dry_run || revocations.is_empty() {
            return true;
        }
        let revoked = Box::pin(state.replica.revoke(revocations.to_vec()));
        match self.within(&state.waits.store, by, revoked).await {
            Ok(stored) => stored.is_ok(),
            Err(NoAnswer::Crowded) => {
                state.replica.hold(revocations.to_vec()); // The write was not begun: it is offered to the store later.
                false
            }
            Err(NoAnswer::Late) => false,
        }
    }

    /// Waits for `wanted` until the deadline, if fewer than `max_waiting` decisions wait for the same resource.
    async fn within<T>(&self, waiting: &Waiting, by: Deadline, wanted: impl Future<Output = T>) -> Result<T, NoAnswer> {
        let Some(_place) = waiting.enter(self.policy.max_waiting) else {
            self.query.state.metrics.degraded(Degraded::Concurrency).inc();
            return Err(NoAnswer::Crowded);
        };
        tokio::time::timeout_at(by, wanted).await.map_err(|_| NoAnswer::Late)
    }
}
