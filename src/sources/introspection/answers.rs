//! Cached responses, bounded in number and in time.

use std::sync::Arc;
use std::time::Instant;

use quick_cache::sync::Cache;

use super::Digest;
use crate::authz::introspection::{IntrospectionResponse, TokenState};

/// Active and inactive tokens in separate caches: a flood of made-up tokens does not evict active ones.
pub(super) struct Answers {
    active: Remembered,
    inactive: Remembered,
}

/// A response with the time up to which it may be used; a cache with capacity 0 keeps no response.
type Remembered = Cache<Digest, (Instant, Arc<IntrospectionResponse>)>;

impl Answers {
    /// A quarter of the capacity is for inactive tokens.
    pub(super) fn new(capacity: usize) -> Self {
        let inactive = capacity / 4;
        Self { active: Cache::new(capacity - inactive), inactive: Cache::new(inactive) }
    }

    pub(super) fn get(&self, digest: &Digest, now: Instant) -> Option<Arc<IntrospectionResponse>> {
        // The later response counts; an inactive token does not become active again, so both occur only
        // around its end.
        let usable = |answers: &Remembered| answers.get(digest).filter(|(until, _)| now < *until);
        usable(&self.inactive).or_else(|| usable(&self.active)).map(|(_, response)| response)
    }

    pub(super) fn insert(&self, digest: Digest, until: Instant, response: &Arc<IntrospectionResponse>) {
        let answers = match response.state {
            TokenState::Active(_) => &self.active,
            TokenState::Inactive => &self.inactive,
            TokenState::Unavailable => return,
        };
        if Instant::now() < until {
            answers.insert(digest, (until, response.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::authz::claims::{ClaimSet, IssuerName};

    fn response(state: TokenState) -> Arc<IntrospectionResponse> {
        Arc::new(IntrospectionResponse { issuer: IssuerName::parse("main").unwrap(), state })
    }

    fn token(number: usize) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_ne_bytes());
        digest
    }

    #[test]
    fn excess_and_expired_entries_go_and_inactive_tokens_evict_no_active_ones() {
        const ROOM: usize = 1_000;
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        let (alive, dead) = (response(TokenState::Active(ClaimSet::default())), response(TokenState::Inactive));
        let answers = Answers::new(ROOM);
        let known = |at| (0..20_000).filter(|number| answers.get(&token(*number), at).is_some()).collect::<Vec<_>>();
        for number in 0..100 {
            answers.insert(token(number), later, &alive);
        }
        for number in 1_000..10_000 {
            answers.insert(token(number), later, &dead);
        }
        let kept = known(now);
        assert_eq!(kept[..100], (0..100).collect::<Vec<_>>());
        // The cache rounds its capacity up.
        assert!(kept.len() <= 100 + ROOM / 2, "{}", kept.len());
        assert_eq!(known(later), [0_usize; 0]);
        for number in 10_000..20_000 {
            answers.insert(token(number), later, &alive);
        }
        assert!(known(now).len() <= ROOM * 2, "{}", known(now).len());

        answers.insert(token(7), later, &dead);
        assert!(matches!(answers.get(&token(7), now).unwrap().state, TokenState::Inactive), "the last word");
        answers.insert(token(20_000), now, &alive);
        answers.insert(token(20_000), later, &response(TokenState::Unavailable));
        assert!(answers.get(&token(20_000), now).is_none(), "too late, and nothing stored");
        let none = Answers::new(0);
        none.insert(token(1), later, &alive);
        assert!(none.get(&token(1), now).is_none());
    }
}
