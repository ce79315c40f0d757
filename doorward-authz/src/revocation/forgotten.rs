//! The trace of forgotten revocations: until when their tokens were valid.
//!
//! A token that had expired when its revocation was forgotten is valid again when the wall clock is set back, and must
//! stay expired. Tokens that are issued later must not stay expired, although they may end before the same instant:
//! their date distinguishes them. A revocation was applied in an era, between two steps of the wall clock, and was
//! kept for longer than a token lives. A token that it refused was valid by the clock of that era, so it was dated no
//! earlier than the longest life of a token before the era began; otherwise it had expired by every clock that has not
//! been ahead since.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use crate::claims::Timestamp;

/// The ends of forgotten revocations.
#[derive(Debug, Default)]
pub struct Forgotten {
    /// The latest of them, in whole seconds since 1970.
    latest: AtomicU32,
    course: RwLock<Course>,
}

/// The steps of the wall clock, observed by the monotonic clock.
#[derive(Debug, Default)]
struct Course {
    last: Option<(Timestamp, Duration)>,
    eras: Vec<Era>,
}

/// A time in which the wall clock was not set.
#[derive(Debug)]
struct Era {
    /// The first second of uptime.
    began: u32,
    /// The wall clock at that time.
    showed: Timestamp,
    /// The tokens that a forgotten revocation of this era may have refused: dated from the first instant on, expired
    /// by the second.
    dated_from: Timestamp,
    over_by: u32,
}

impl Forgotten {
    /// A smaller step is an adjustment.
    const STEP: Duration = Duration::from_secs(1);
    /// The greatest age of revocations that are applied before the first reading of the clock.
    const BEFORE: Duration = Duration::from_secs(60);
    /// If there are more eras, the oldest count as one.
    const MAX_ERAS: usize = 16;

    /// The latest end of tokens with this date that a forgotten revocation may have refused; `None`: with any date.
    /// 1970 if there are no such tokens.
    #[must_use]
    pub fn up_to(&self, issued_at: Option<Timestamp>) -> Timestamp {
        if self.is_empty() {
            return Timestamp::default();
        }
        let course = self.read();
        let may_be_of = |era: &&Era| issued_at.is_none_or(|at| at >= era.dated_from);
        let latest = course.eras.iter().filter(may_be_of).map(|era| era.over_by).max();
        Timestamp::from_secs(i64::from(latest.unwrap_or_default()))
    }

    /// No token that ends later can have been refused for a reason that is forgotten.
    #[must_use]
    pub fn latest(&self) -> Timestamp {
        Timestamp::from_secs(i64::from(self.latest.load(Ordering::Acquire)))
    }

    /// Whether no revocation was forgotten.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.latest.load(Ordering::Acquire) == 0
    }

    /// Reads the wall clock; a step of it begins an era. Revocations since the previous reading count to the era with
    /// the earlier dates.
    pub(super) fn look(&self, now: Timestamp, uptime: Duration) {
        let mut course = self.course.write().unwrap_or_else(PoisonError::into_inner);
        let before = course.last.replace((now, uptime));
        let (began, showed) = match before {
            None => (Duration::ZERO, now.minus(Self::BEFORE)),
            Some((then, at)) => {
                let passed = uptime.saturating_sub(at);
                let expected = then.plus(passed);
                if now.since(expected).max(expected.since(now)) <= Self::STEP {
                    return;
                }
                if now > expected { (uptime, now) } else { (at, now.minus(passed)) }
            }
        };
        let began = u32::try_from(began.as_secs()).unwrap_or(u32::MAX);
        course.eras.push(Era { began, showed, dated_from: Timestamp::MAX, over_by: 0 });
        if course.eras.len() > Self::MAX_ERAS {
            let second = course.eras.remove(1);
            let first = &mut course.eras[0];
            first.showed = first.showed.min(second.showed);
            first.dated_from = first.dated_from.min(second.dated_from);
            first.over_by = first.over_by.max(second.over_by);
        }
    }

    /// Records that a revocation from this second of uptime is about to be forgotten; its tokens have expired by
    /// `over_by`, and live for `life` at most.
    pub(super) fn note(&self, learnt: u32, over_by: u32, life: Duration) {
        let mut course = self.course.write().unwrap_or_else(PoisonError::into_inner);
        let at = course.eras.partition_point(|era| era.began <= learnt).saturating_sub(1);
        if let Some(era) = course.eras.get_mut(at) {
            era.dated_from = era.dated_from.min(era.showed.minus(life));
            era.over_by = era.over_by.max(over_by);
        }
        drop(course);
        self.latest.fetch_max(over_by, Ordering::AcqRel);
    }

    /// The seconds of uptime in which the eras began, the oldest first.
    pub(super) fn eras(&self) -> Vec<u32> {
        self.read().eras.iter().map(|era| era.began).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Course> {
        self.course.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every token that had expired by then.
    #[cfg(test)]
    pub(crate) fn all_up_to(over_by: Timestamp) -> Self {
        let forgotten = Self::default();
        forgotten.look(Timestamp::default(), Duration::ZERO);
        forgotten.note(0, super::record::seconds(over_by), Duration::ZERO);
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(20);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_secs(second)
    }

    /// A clock that is an hour ahead from the 100th second on, and is corrected after the 200th.
    fn an_hour_ahead(learnt: u32, over_by: u32) -> Forgotten {
        let forgotten = Forgotten::default();
        for second in (0..=300_u32).step_by(10) {
            let ahead = if (100..=200).contains(&second) { 3_600 } else { 0 };
            forgotten.look(at(1_000 + i64::from(second) + ahead), Duration::from_secs(second.into()));
            if second == 200 {
                assert!(forgotten.is_empty());
                forgotten.note(learnt, over_by, LIFE);
            }
        }
        assert_eq!(forgotten.latest(), at(over_by.into()));
        forgotten
    }

    #[test]
    fn a_clock_that_was_ahead_ends_only_tokens_of_its_time() {
        let forgotten = an_hour_ahead(120, 4_790);
        assert_eq!(forgotten.up_to(Some(at(1_300))), at(0), "issued since the clock is right");
        assert_eq!(forgotten.up_to(Some(at(4_679))), at(0));
        assert_eq!(forgotten.up_to(Some(at(4_680))), at(4_790), "one that lived when the clock was set");
        assert_eq!(forgotten.up_to(Some(at(4_720))), at(4_790));
        assert_eq!(forgotten.up_to(None), at(4_790), "it may be of any time");
    }

    #[test]
    fn what_was_learnt_before_a_step_is_of_the_time_before() {
        // The step may have come since the look at the 90th second.
        for learnt in [50, 95] {
            let forgotten = an_hour_ahead(learnt, 1_200);
            for issued_at in [at(920), at(1_150), at(4_700)] {
                assert_eq!(forgotten.up_to(Some(issued_at)), at(1_200), "{learnt}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_slewed_is_not_set() {
        let forgotten = Forgotten::default();
        assert_eq!(forgotten.up_to(None), at(0));
        for second in 0..10_000_u32 {
            let now = Timestamp::from_millis(1_000_000 + i64::from(second) * 1_400);
            forgotten.look(now, Duration::from_secs(second.into()));
        }
        assert_eq!(forgotten.eras(), [0]);
    }

    #[test]
    fn eras_are_bounded() {
        let forgotten = Forgotten::default();
        for second in 0..100_u32 {
            let ahead = i64::from(second % 2) * 3_600;
            forgotten.look(at(10_000 + i64::from(second) + ahead), Duration::from_secs(second.into()));
            forgotten.note(second, 10_000 + second, LIFE);
        }
        let eras = forgotten.eras();
        assert_eq!((eras.len(), eras[0]), (Forgotten::MAX_ERAS, 0));
        assert_eq!(forgotten.up_to(Some(at(9_930))), at(10_084), "of 100 eras, the first 85 count as one");
        assert_eq!(forgotten.up_to(None), at(10_099));
    }
}
