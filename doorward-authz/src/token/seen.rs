//! The kinds of targets that an issuer's tokens have named in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::revocation::Kind;

/// The kinds that verified tokens of one issuer have named since the process started.
///
/// A revocation of another kind may refuse no token: a session of an issuer whose tokens have no `sid`. This is a hint
/// for an operator, and no decision depends on it. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Seen(Arc<AtomicU8>);

impl Seen {
    /// Records the kinds that a verified token names.
    pub(super) fn note(&self, kinds: impl Iterator<Item = Kind>) {
        let named = kinds.fold(0, |named, kind| named | bit(kind));
        // Most tokens change nothing, and cores share the cache line as long as no core writes it.
        if self.0.load(Ordering::Relaxed) & named != named {
            self.0.fetch_or(named, Ordering::Relaxed);
        }
    }

    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        self.0.load(Ordering::Relaxed) & bit(kind) != 0
    }
}

fn bit(kind: Kind) -> u8 {
    Kind::ALL.iter().position(|known| *known == kind).map_or(0, |at| 1 << at)
}
