//! Mistakes that are planted in the model.

/// Deliberate mistakes, all of them what `src` once did.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Fault {
    /// Bug: a revocation that has expired by the local wall clock is forgotten.
    ForgetsByOneClock,
    /// Bug: tokens that had expired when their revocation was forgotten are live again when the clock is set back.
    NoFloor,
    /// Bug: a forgotten revocation ends tokens of every era of the clock.
    FloorOfAnotherEra,
    /// Bug: an expired revocation is forgotten, no matter how short it was held.
    NoHold,
    /// An entry that has expired by the local wall clock is passed over, and counts as read.
    PassesOverByOneClock,
    /// Bug: the log is trimmed by the wall clock of the trimming instance.
    TrimsByOneClock,
    /// Bug: the log is trimmed by the retention of the trimming instance.
    TrimsByOwnRetention,
    /// The log is kept for one retention.
    TrimsAfterOneRetention,
    /// Bug: the age of an entry is taken from its id, also when the clock was set since.
    TrimsAfterAStep,
    /// An instant is that of the local wall clock.
    StampsByOneClock,
    /// An instant is not later than now.
    StampsWithoutLead,
    /// An instant is stamped though the clocks differ by more than the leeway.
    StampsDespiteSkew,
    /// Bug: an entry is kept only as long as its writer requested.
    WritersBound,
    /// A larger bound takes effect without the log being read again.
    RaisesWithoutReading,
    /// Entries of the far future are not understood, and count as read.
    FarIdIsPassedOver,
    /// Bug: the configuration gives the issuer another name, and known revocations stay under the old one.
    RenamesInSilence,
    /// A change of names is held against the configuration before it alone, not against all names that the issuer had.
    RenamesByTheLastStep,
    /// Bug: a change of names considers known revocations, not those that others may still make.
    RenamesBesideOthers,
    /// Bug: a change of names considers known revocations, though the log has more.
    RenamesUnread,
    /// Bug: a configuration that was held against no notes takes the names of before out of the notes.
    UncheckedSupersedes,
    /// Bug: of the notes of names that the store lost, an instance puts back its own alone.
    PutsBackItsOwnNames,
    /// Bug: a token that has expired by the writer's clocks and leeway is not written, and confirmed.
    ExpiredIsNotWritten,
    /// Bug: leads alone are shared, which a clock measures.
    DatesNotShared,
    /// Bug: of what no lead was measured, a date is noted only if the clocks of the note do not cover it.
    DatesNotedByLateClocks,
    /// Bug: a receipt is given for the instant of the first stamp.
    StampsOnce,
    /// Bug: a receipt stamps again by the lead alone, which was measured later than the first stamp.
    StampsAgainByTheLead,
    /// Bug: a receipt that does without an instance does not cover what that may have verified.
    LapseIsNotCovered,
    /// Bug: a lease by a clock of the store that was set since does not count as one that lapsed.
    LapseOfAnotherEraIsNotCovered,
    /// Bug: a lease that the store lost does not count as one that lapsed.
    LostLeaseIsNotCovered,
}
