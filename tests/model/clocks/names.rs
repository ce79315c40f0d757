//! The names of an issuer, and the configurations that are put in force.

use super::{Clocks, Fault, Fleet, Store};

/// The names under which a configuration has the issuer, or the one of its `iss` that the token has: a rename and an
/// issuer that is split are the same to the token.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Standing {
    Old,
    New,
    /// Under the new name, with the old one in `formerly`.
    Both,
    /// Its tokens are accepted by nobody.
    Nowhere,
}

impl Standing {
    pub(super) const ALL: [Self; 4] = [Self::Old, Self::New, Self::Both, Self::Nowhere];

    /// Revocations under these names apply, and new ones are written under them.
    pub(super) const fn names(self) -> u8 {
        match self {
            Self::Old => 1,
            Self::New => 2,
            Self::Both => 3,
            Self::Nowhere => 0,
        }
    }
}

impl Store {
    /// A configuration that was held against the notes replaces names that it does not have; removing an issuer changes no
    /// note.
    pub(super) fn note(&mut self, standing: Standing) {
        if standing != Standing::Nowhere {
            self.names = standing.names();
        }
    }
}

impl Clocks {
    /// The store loses the notes of names, and each instance puts back what it knows.
    pub(super) fn lose_names(&self, fleet: &mut Fleet) {
        fleet.store.names = 0;
        for instance in &fleet.instances {
            let own = if instance.is_named { instance.standing.names() } else { 0 };
            fleet.store.names |= if self.has(Fault::PutsBackItsOwnNames) { own } else { own | instance.noted };
        }
    }

    /// Whether a configuration is put in force (`sources/names.rs`).
    pub(super) fn may_stand(&self, fleet: &Fleet, at: usize, to: Standing) -> bool {
        let (instance, names) = (fleet.instances[at], to.names());
        let by_last_step = self.has(Fault::RenamesByTheLastStep);
        let own = instance.standing.names();
        let noted = if by_last_step { own } else { fleet.store.names | instance.past | own };
        if to == Standing::Nowhere || noted & !names == 0 || self.has(Fault::RenamesInSilence) {
            return true;
        }
        let is_lost = |written: u8| written & noted != 0 && written & names == 0;
        let mut others = fleet.instances.iter().enumerate().filter(|(other, _)| *other != at);
        let in_use = others.any(|(_, other)| is_lost(other.standing.names()));
        let is_read = instance.is_current || self.has(Fault::RenamesUnread);
        is_read
            && !instance.known.is_some_and(|known| is_lost(known.names))
            && (!in_use || self.has(Fault::RenamesBesideOthers))
    }
}
