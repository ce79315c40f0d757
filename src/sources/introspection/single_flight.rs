//! Single flight: one introspection request per token at a time, however many decisions wait for its response.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use super::Digest;
use crate::authz::introspection::IntrospectionResponse;

type Cell = Arc<OnceCell<Arc<IntrospectionResponse>>>;

/// The requests in flight; their number is bounded.
pub(super) struct SingleFlight {
    by_token: Mutex<HashMap<Digest, Cell>>,
    max: usize,
}

/// A share in a request: the first caller sends it, the others wait; if the first leaves, the next one sends
/// it.
pub(super) struct Flight<'a> {
    all: &'a SingleFlight,
    digest: Digest,
    /// `None` once it has ended.
    cell: Option<Cell>,
}

impl SingleFlight {
    pub(super) fn new(max: usize) -> Self {
        Self { by_token: Mutex::default(), max }
    }

    /// `None` when too many requests are in flight.
    pub(super) fn enter(&self, digest: Digest) -> Option<Flight<'_>> {
        let mut by_token = self.lock();
        if by_token.len() >= self.max && !by_token.contains_key(&digest) {
            return None;
        }
        let cell = Some(by_token.entry(digest).or_default().clone());
        Some(Flight { all: self, digest, cell })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Cell>> {
        self.by_token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight<'_> {
    /// The response, from `question` if no other caller has sent the request.
    pub(super) async fn join(
        self,
        question: impl Future<Output = Arc<IntrospectionResponse>>,
    ) -> Arc<IntrospectionResponse> {
        let Some(cell) = self.cell.clone() else { return question.await };
        let introspection_response = cell.get_or_init(|| question).await.clone();
        // Later callers send a new request: a response that is not cached is for the waiting callers only.
        let mut by_token = self.all.lock();
        if by_token.get(&self.digest).is_some_and(|current| Arc::ptr_eq(current, &cell)) {
            by_token.remove(&self.digest);
        }
        drop(by_token);
        introspection_response
    }
}

impl Drop for Flight<'_> {
    /// Removes a request that all callers have left.
    fn drop(&mut self) {
        let mut by_token = self.all.lock();
        drop(self.cell.take()); // Under the lock, so that the count below is right.
        if by_token.get(&self.digest).is_some_and(|cell| Arc::strong_count(cell) == 1) {
            by_token.remove(&self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::authz::claims::IssuerName;
    use crate::authz::introspection::TokenState;

    fn inactive() -> Arc<IntrospectionResponse> {
        Arc::new(IntrospectionResponse { issuer: IssuerName::parse("main").unwrap(), state: TokenState::Inactive })
    }

    #[tokio::test]
    async fn many_wait_for_one_question_and_nothing_is_left_behind() {
        let (single_flight, asked) = (SingleFlight::new(1), AtomicUsize::new(0));
        let ask = || async {
            let question = async {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                inactive()
            };
            single_flight.enter([1; 32]).unwrap().join(question).await
        };
        tokio::join!(ask(), ask(), ask());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(single_flight.lock().is_empty());
        ask().await;
        assert_eq!(asked.load(Ordering::Relaxed), 2, "later is another question");
    }

    #[tokio::test]
    async fn a_caller_that_leaves_passes_the_request_on_and_the_last_cancels_it() {
        let single_flight = SingleFlight::new(1);
        let stuck = single_flight.enter([1; 32]).unwrap().join(std::future::pending());
        let next = single_flight.enter([1; 32]).unwrap().join(async { inactive() });
        assert!(single_flight.enter([2; 32]).is_none(), "too many");
        let mut stuck = Box::pin(stuck);
        assert!(futures_util::poll!(&mut stuck).is_pending());
        let mut next = Box::pin(next);
        assert!(futures_util::poll!(&mut next).is_pending(), "it waits for the first");
        drop(stuck);
        assert!(matches!(next.await.state, TokenState::Inactive));
        assert!(single_flight.lock().is_empty());
        let mut last = Box::pin(single_flight.enter([1; 32]).unwrap().join(std::future::pending()));
        assert!(futures_util::poll!(&mut last).is_pending());
        drop(last);
        assert!(single_flight.lock().is_empty());
    }
}
