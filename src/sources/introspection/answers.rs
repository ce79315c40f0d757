//! Answers that are remembered, bounded in number and in time.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::Digest;
use crate::authz::introspection::{IntrospectionResponse, TokenState};

/// Active tokens and inactive ones, apart.
pub(super) struct Answers {
    active: Fifo,
    inactive: Fifo,
}

impl Answers {
    /// A quarter of the room is for inactive tokens.
    pub(super) fn new(capacity: usize) -> Self {
        let inactive = capacity / 4;
        Self { active: Fifo::new(capacity - inactive), inactive: Fifo::new(inactive) }
    }

    pub(super) fn get(&self, digest: &Digest, now: Instant) -> Option<Arc<IntrospectionResponse>> {
        // The last word counts; an inactive token does not come back, so both is only seen around its end.
        self.inactive.get(digest, now).or_else(|| self.active.get(digest, now))
    }

    pub(super) fn insert(
        &mut self,
        digest: Digest,
        until: Instant,
        introspection_response: &Arc<IntrospectionResponse>,
    ) {
        let answers = match introspection_response.said {
            TokenState::Active(_) => &mut self.active,
            TokenState::Inactive => &mut self.inactive,
            TokenState::Unavailable => return,
        };
        answers.insert(digest, until, introspection_response.clone());
    }
}

/// The oldest goes first: all answers live about as long, so it is also the first to be of no use.
struct Fifo {
    capacity: usize,
    by_token: HashMap<Digest, (Instant, Arc<IntrospectionResponse>)>,
    /// May name what has been replaced; never longer than the capacity.
    order: VecDeque<(Digest, Instant)>,
}

impl Fifo {
    fn new(capacity: usize) -> Self {
        Self { capacity, by_token: HashMap::new(), order: VecDeque::new() }
    }

    fn get(&self, digest: &Digest, now: Instant) -> Option<Arc<IntrospectionResponse>> {
        self.by_token
            .get(digest)
            .filter(|(until, _)| now < *until)
            .map(|(_, introspection_response)| introspection_response.clone())
    }

    fn insert(&mut self, digest: Digest, until: Instant, introspection_response: Arc<IntrospectionResponse>) {
        let now = Instant::now();
        if self.capacity == 0 || until <= now {
            return;
        }
        while let Some((oldest, its_until)) = self.order.front().copied()
            && (self.order.len() >= self.capacity || its_until <= now)
        {
            self.order.pop_front();
            if self.by_token.get(&oldest).is_some_and(|(until, _)| *until == its_until) {
                self.by_token.remove(&oldest);
            }
        }
        self.order.push_back((digest, until));
        self.by_token.insert(digest, (until, introspection_response));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::authz::claims::{ClaimSet, IssuerName};

    fn introspection_response(said: TokenState) -> Arc<IntrospectionResponse> {
        Arc::new(IntrospectionResponse { issuer: IssuerName::parse("main").unwrap(), said })
    }

    fn token(number: u8) -> Digest {
        [number; 32]
    }

    #[test]
    fn what_is_too_much_or_too_old_goes_and_the_dead_push_out_no_living() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(10));
        let (alive, dead) = (
            introspection_response(TokenState::Active(ClaimSet::default())),
            introspection_response(TokenState::Inactive),
        );
        let mut answers = Answers::new(8);
        for number in 0..6 {
            answers.insert(token(number), later, &alive);
        }
        for number in 100..200 {
            answers.insert(token(number), later, &dead);
        }
        let known = |answers: &Answers, at| {
            (0..=255).filter(|number| answers.get(&token(*number), at).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(known(&answers, now), [0, 1, 2, 3, 4, 5, 198, 199]);
        answers.insert(token(6), later, &alive);
        assert_eq!(known(&answers, now), [1, 2, 3, 4, 5, 6, 198, 199]);
        assert_eq!(known(&answers, later), [0_u8; 0]);
        for _ in 0..100 {
            answers.insert(token(6), later, &alive);
        }
        assert!(answers.active.order.len() <= 6 && answers.active.by_token.len() <= 6);
        assert!(answers.get(&token(6), now).is_some());
        answers.insert(token(7), now, &alive);
        answers.insert(token(7), later, &introspection_response(TokenState::Unavailable));
        assert!(answers.get(&token(7), now).is_none(), "too late, and nothing said");
    }
}
