//! Searches of the model of forgetting (`clocks.rs`).

use stateright::HasDiscoveries;

use super::clocks::{Clocks, Dates, Fault, Left, Limits};
use super::explore;

const FEW: Limits = Limits { life: 1, leeway: 1 };
const MORE: Limits = Limits { life: 2, leeway: 1 };
const STRICT: Limits = Limits { life: 2, leeway: 0 };
const NONE: Left = Left { clocks: 0, restarts: 0, reloads: 0, renames: 0, far_ids: 0, cuts: 0, losses: 0 };

/// Clocks that are far ahead, or behind by one retention of `MORE`.
const FAR: &[i8] = &[-3, 0, 8];
/// The same for the shorter retentions.
const LESS: &[i8] = &[-2, 0, 8];
/// Clocks that are within the leeway, and drift.
const NEAR: &[i8] = &[-1, 0, 1];

/// Instances that are alike; one of them is restarted.
fn alike() -> Clocks {
    Clocks {
        limits: [MORE; 2],
        reloads: &[],
        offsets: &[],
        store_offsets: &[],
        leads: &[0, 1],
        life: 2,
        ages: &[0, 1],
        by_id: false,
        left: Left { restarts: 1, ..NONE },
        one_is_right: true,
        dates: Dates::Seen,
        bug: None,
    }
}

/// The number of times that clocks are set.
fn set(clocks: u8, offsets: &'static [i8], model: Clocks) -> Clocks {
    Clocks { offsets, store_offsets: offsets, left: Left { clocks, ..model.left }, ..model }
}

/// The number of times that the store's clock alone is set: behind by more than the log is kept,
/// and right.
fn store_behind(clocks: u8, model: Clocks) -> Clocks {
    Clocks { store_offsets: &[-9, 0], left: Left { clocks, ..model.left }, ..model }
}

fn differ(less: Limits) -> Clocks {
    Clocks { limits: [less, MORE], ..alike() }
}

/// A rolling update raises the bounds.
fn raised(less: Limits) -> Clocks {
    Clocks { limits: [less; 2], reloads: &[MORE], left: Left { reloads: 2, ..alike().left }, ..alike() }
}

fn by_id(model: Clocks) -> Clocks {
    Clocks { by_id: true, ..model }
}

fn named() -> Clocks {
    Clocks { left: Left { far_ids: 1, ..alike().left }, ..alike() }
}

/// The number of steps in which the issuer is renamed, split or removed.
fn renamed(renames: u8) -> Clocks {
    Clocks { left: Left { renames, ..alike().left }, ..alike() }
}

/// The same, and the store loses its notes of names.
fn lost_names() -> Clocks {
    Clocks { left: Left { losses: 1, ..renamed(2).left }, ages: &[0], ..renamed(2) }
}

/// A token that has expired when it is revoked, at a writer with these limits.
fn expired(writer: Limits, model: Clocks) -> Clocks {
    Clocks { ages: if writer.leeway == 0 { &[2] } else { &[4] }, ..by_id(model) }
}

/// A token that leads by the leeway is verified, or not; an instance may be cut off.
fn verified(cuts: u8) -> Clocks {
    let limits = [Limits { life: 2, leeway: 2 }; 2];
    Clocks { limits, leads: &[2], dates: Dates::Verified, left: Left { cuts, ..NONE }, ..alike() }
}

/// The store may lose the lease of an instance that is cut off.
fn lost_lease() -> Clocks {
    Clocks { left: Left { losses: 1, ..verified(1).left }, ..verified(1) }
}

/// The same of a lead that is more than a tick also a tick later.
fn leading(cuts: u8) -> Clocks {
    Clocks { limits: [Limits { life: 2, leeway: 3 }; 2], leads: &[3], ..verified(cuts) }
}

/// Ahead by more than the leeway of [`verified`], and right.
const AHEAD: &[i8] = &[0, 3];

fn both_wrong(model: Clocks) -> Clocks {
    Clocks { one_is_right: false, ..model }
}

#[track_caller]
fn holds(name: &str, model: Clocks) {
    if let Some((property, path)) = explore(name, model, usize::MAX, HasDiscoveries::AnyFailures).into_iter().next() {
        panic!("{name}: {property} fails: {:#?}", path.into_actions());
    }
}

#[track_caller]
fn fails(name: &str, model: Clocks, property: &'static str) {
    let mut found = explore(name, model, usize::MAX, HasDiscoveries::AnyOf([property].into()));
    let path = found.remove(property).unwrap_or_else(|| panic!("{name}: {property} holds"));
    println!("  {property}: {:?}", path.into_actions());
}

#[test]
fn it_holds_with_clocks_that_are_wrong() {
    holds("clocks, far off", set(2, FAR, alike()));
    holds("clocks, drifting", set(2, NEAR, alike()));
    holds("clocks, far off, by id", set(2, FAR, by_id(alike())));
    holds("the store's clock far behind", store_behind(3, alike()));
    holds("the store's clock far behind, by id", store_behind(3, by_id(alike())));
    holds("the store's clock far behind, bounds differ", store_behind(2, by_id(differ(FEW))));
    let name = "clocks, all of them wrong";
    let found = explore(name, both_wrong(set(2, FAR, alike())), usize::MAX, HasDiscoveries::AnyOf(["kept"].into()));
    assert!(!found.contains_key("kept"), "{name}: {:?}", found["kept"].clone().into_actions());
}

#[test]
fn it_holds_with_instances_that_differ() {
    for less in [FEW, STRICT] {
        holds(&format!("one has {less:?}"), set(1, LESS, differ(less)));
        holds(&format!("one has {less:?}, by id"), set(1, LESS, by_id(differ(less))));
        holds(&format!("raised from {less:?}"), raised(less));
        holds(&format!("raised from {less:?}, by id"), by_id(raised(less)));
        let one = Clocks { left: Left { reloads: 1, ..NONE }, ..raised(less) };
        holds(&format!("raised from {less:?}, a clock"), set(1, LESS, one));
    }
    holds("an id of the far future", named());
}

#[test]
fn it_holds_for_tokens_that_have_expired() {
    holds("expired at the writer", set(1, FAR, expired(MORE, alike())));
    holds("expired at the writer, a leeway is raised", expired(STRICT, raised(STRICT)));
}

#[test]
fn it_holds_with_dates_that_instances_tell() {
    holds("verified, one is cut off", verified(1));
    holds("verified, a lead of three ticks", leading(1));
    holds("verified, one is cut off, and its lease is lost", lost_lease());
}

#[test]
fn it_holds_with_names_that_change() {
    holds("renamed in two steps, a restart", renamed(2));
    holds("renamed in two steps, a restart, by id", by_id(renamed(2)));
    holds("renamed in two steps, a restart, notes are lost", lost_names());
    let lasting = Clocks { left: Left { renames: 3, ..NONE }, ..alike() };
    holds("renamed in three steps, a clock, no restart", set(1, FAR, lasting));
}

#[test]
fn each_assumption_about_clocks_is_needed() {
    fails("both clocks wrong", both_wrong(set(2, NEAR, alike())), "bound");
    let patient = Limits { leeway: 2, ..MORE };
    fails("a lead not seen", Clocks { limits: [patient; 2], leads: &[2], dates: Dates::Unseen, ..alike() }, "bound");
    fails("a lead beyond the leeway", Clocks { leads: &[2], ..alike() }, "bound");
    let behind = Clocks { store_offsets: &[], ..set(1, &[-9], alike()) };
    fails("an instance's clock behind by more than the log is kept", behind, "bound");
    fails("another name, a restart, then a clock behind", set(1, FAR, renamed(2)), "bound");
    let (least, most) = (Limits { life: 0, leeway: 0 }, &[Limits { life: 4, leeway: 1 }]);
    fails("bounds raised by more than the log is kept", Clocks { reloads: most, life: 4, ..raised(least) }, "bound");
}

#[test]
fn each_deliberate_fault_is_caught() {
    for (bug, model, property) in [
        (Fault::ForgetsByOneClock, set(2, FAR, alike()), "kept"),
        (Fault::NoFloor, set(2, FAR, alike()), "kept"),
        (Fault::FloorOfAnotherEra, set(2, FAR, alike()), "kept"),
        (Fault::NoHold, both_wrong(set(2, FAR, raised(FEW))), "kept"),
        (Fault::PassesOverByOneClock, set(2, FAR, alike()), "bound"),
        (Fault::TrimsByOneClock, set(1, FAR, alike()), "bound"),
        (Fault::TrimsByOwnRetention, set(1, FAR, by_id(differ(FEW))), "bound"),
        (Fault::TrimsAfterOneRetention, raised(FEW), "bound"),
        (Fault::TrimsAfterAStep, store_behind(2, by_id(alike())), "bound"),
        (Fault::StampsByOneClock, set(1, NEAR, alike()), "bound"),
        (Fault::StampsWithoutLead, alike(), "bound"),
        (Fault::StampsDespiteSkew, set(1, FAR, alike()), "let in again"),
        (Fault::WritersBound, set(1, FAR, differ(FEW)), "kept"),
        (Fault::RaisesWithoutReading, raised(FEW), "bound"),
        (Fault::FarIdIsPassedOver, named(), "receipt"),
        (Fault::RenamesInSilence, renamed(1), "kept"),
        (Fault::RenamesByTheLastStep, renamed(2), "kept"),
        (Fault::RenamesBesideOthers, renamed(1), "receipt"),
        (Fault::RenamesUnread, renamed(2), "receipt"),
        (Fault::UncheckedSupersedes, renamed(1), "receipt"),
        (Fault::PutsBackItsOwnNames, lost_names(), "receipt"),
        (Fault::ExpiredIsNotWritten, set(1, FAR, expired(MORE, alike())), "receipt"),
        (Fault::ExpiredIsNotWritten, expired(STRICT, raised(STRICT)), "receipt"),
        (Fault::DatesNotShared, set(1, AHEAD, verified(0)), "bound"),
        (Fault::DatesNotedByLateClocks, set(1, AHEAD, verified(1)), "receipt"),
        (Fault::StampsOnce, verified(0), "receipt"),
        (Fault::StampsAgainByTheLead, leading(0), "receipt"),
        (Fault::LapseIsNotCovered, verified(1), "receipt"),
        (Fault::LapseOfAnotherEraIsNotCovered, set(1, NEAR, verified(1)), "receipt"),
        (Fault::LostLeaseIsNotCovered, lost_lease(), "receipt"),
    ] {
        fails(&format!("{bug:?}"), Clocks { bug: Some(bug), ..model }, property);
    }
}
