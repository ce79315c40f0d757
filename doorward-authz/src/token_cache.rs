//! A cache of verified tokens, so that their signatures are not checked again on every request.
//!
//! Only facts that cannot change are cached: that the token is well-formed, signed by its issuer, and for
//! a configured audience. Its times, its revocation and the rule are checked every time.
//!
//! - A token is found by its whole text, so an attacker cannot make one token match another's entry.
//! - An entry belongs to the issuer that verified it, with its keys and policy: once that is replaced,
//!   because a key was withdrawn or added, its tokens are not found any more. A new configuration starts
//!   with an empty cache.
//! - Only accepted tokens are kept: without a signing key, an attacker cannot add entries.

use std::fmt;
use std::sync::{Arc, Weak};

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::token::{BearerToken, TrustedIssuer, VerifiedToken, allocated};

/// The verified tokens of one configuration.
pub struct TokenCache {
    /// `None`: no cache.
    tokens: Option<Cache<Box<[u8]>, Remembered, Weight>>,
}

/// The capacity of the cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TokenCacheLimits {
    pub tokens: usize,
    /// An entry of the cache.
    pub bytes: usize,
}

struct Remembered {
    token: VerifiedToken,
    /// The address of its issuer.
    issuer: usize,
    /// Weak, so that a replaced issuer is freed; its address stays reserved, so that no other issuer gets it.
    _reserved: Option<Weak<TrustedIssuer>>,
}

/// What the cache returns. It reserves nothing: the count is one of all workers, and the issuers that the address is
/// compared with exist since before.
impl Clone for Remembered {
    fn clone(&self) -> Self {
        Self { token: self.token.clone(), issuer: self.issuer, _reserved: None }
    }
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

    /// A token that one of these issuers verified; the caller checks its times.
    #[must_use]
    pub fn find<'a>(
        &self,
        bearer: BearerToken<'_>,
        issuers: &'a [Arc<TrustedIssuer>],
    ) -> Option<(&'a Arc<TrustedIssuer>, VerifiedToken)> {
        let Remembered { token, issuer, .. } = self.tokens.as_ref()?.get(bearer.as_bytes())?;
        let by = issuers.iter().find(|known| Arc::as_ptr(known).addr() == issuer)?;
        Some((by, token))
    }

    /// Remembers a token that this issuer has just verified.
    pub fn remember(&self, bearer: BearerToken<'_>, issuer: &Arc<TrustedIssuer>, token: &VerifiedToken) {
        if let Some(tokens) = &self.tokens {
            let (address, weak) = (Arc::as_ptr(issuer).addr(), Some(Arc::downgrade(issuer)));
            let remembered = Remembered { token: token.clone(), issuer: address, _reserved: weak };
            tokens.insert(bearer.as_bytes().into(), remembered);
        }
    }

    /// The number of cached tokens, including those of replaced issuers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.as_ref().map_or(0, Cache::len)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Enough shards that requests seldom wait for each other; each has its share of the capacity.
const SHARDS: usize = 16;

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenCache({} tokens)", self.len()) // Never their text: they are credentials.
    }
}

/// Bounds bytes and tokens at once: a token weighs its bytes, and at least its share of the capacity.
#[derive(Clone)]
struct Weight {
    least: u64,
}

/// The memory beside the text and the token: the slot with its share of free and ghost slots, the table,
/// the reference counts.
const OVERHEAD: usize = 192;

impl Weighter<Box<[u8]>, Remembered> for Weight {
    fn weight(&self, text: &Box<[u8]>, remembered: &Remembered) -> u64 {
        ((OVERHEAD + allocated(text.len()) + remembered.token.bytes()) as u64).max(self.least)
    }
}
