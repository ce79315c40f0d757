//! Tokens that were verified before, so that their signatures are not checked again on every request.
//!
//! Only what can never change about a token is remembered: that its issuer signed it, in form, for us. Its
//! times, its revocation and the rule are looked at every time.
//!
//! - A token is found by its whole text, so no two tokens can be taken for each other, whatever an
//!   attacker computes.
//! - It belongs to the very issuer that verified it, keys and policy: once that is replaced, because a
//!   key was withdrawn or added, its tokens are no longer found. What follows another configuration
//!   starts with a cache of its own.
//! - Only tokens that passed are kept: without a signing key, nobody can put anything in.

use std::fmt;
use std::sync::{Arc, Weak};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::token::{BearerToken, TrustedIssuer, VerifiedToken, allocated};

/// The verified tokens of one configuration.
pub struct TokenCache {
    /// `None`: nothing is remembered.
    tokens: Option<Cache<Box<str>, Remembered, Weight>>,
}

/// How much is remembered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TokenCacheLimits {
    pub tokens: usize,
    /// All that is kept of them.
    pub bytes: usize,
}

#[derive(Clone)]
struct Remembered {
    token: VerifiedToken,
    /// Only compared. Weak, so that what was replaced is not kept; its place in memory is, and thus is no
    /// other issuer's.
    issuer: Weak<TrustedIssuer>,
}

impl TokenCache {
    #[must_use]
    pub fn new(limits: TokenCacheLimits) -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(limits.tokens)
            .weight_capacity(limits.bytes as u64)
            .shards(SHARDS)
            .build();
        let least = limits.bytes.checked_div(limits.tokens);
        let cache = |least| {
            let weight = Weight { least: least as u64 };
            let hasher = DefaultHashBuilder::default(); // Keyed at random in every process.
            Some(Cache::with_options(options.ok()?, weight, hasher, DefaultLifecycle::default()))
        };
        Self { tokens: least.filter(|least| *least > 0).and_then(cache) }
    }

    /// A token that one of these issuers verified; its times are for the caller to check.
    #[must_use]
    pub fn find<'a>(
        &self,
        bearer: BearerToken<'_>,
        issuers: &'a [Arc<TrustedIssuer>],
    ) -> Option<(&'a Arc<TrustedIssuer>, VerifiedToken)> {
        let Remembered { token, issuer } = self.tokens.as_ref()?.get(bearer.as_str())?;
        let by = issuers.iter().find(|known| std::ptr::eq(Arc::as_ptr(known), issuer.as_ptr()))?;
        Some((by, token))
    }

    /// Remembers a token that this issuer has just verified.
    pub fn remember(&self, bearer: BearerToken<'_>, issuer: &Arc<TrustedIssuer>, token: &VerifiedToken) {
        if let Some(tokens) = &self.tokens {
            let remembered = Remembered { token: token.clone(), issuer: Arc::downgrade(issuer) };
            tokens.insert(bearer.as_str().into(), remembered);
        }
    }

    /// How many tokens are remembered, those of replaced issuers included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.as_ref().map_or(0, Cache::len)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Enough that requests seldom wait for each other; each has its part of the room.
const SHARDS: usize = 16;

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenCache({} tokens)", self.len()) // Never their text: they are credentials.
    }
}

/// Bounds bytes and tokens at once: each counts as many bytes as it has, and at least its share of all.
#[derive(Clone)]
struct Weight {
    least: u64,
}

/// Beside the text and the token: the slot and its share of those that are free or remember what went, the
/// table, the reference counts.
const OVERHEAD: usize = 192;

impl Weighter<Box<str>, Remembered> for Weight {
    fn weight(&self, text: &Box<str>, remembered: &Remembered) -> u64 {
        ((OVERHEAD + allocated(text.len()) + remembered.token.bytes()) as u64).max(self.least)
    }
}
