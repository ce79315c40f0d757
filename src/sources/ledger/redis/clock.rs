//! The store's clock, measured against one that nobody sets.
//!
//! Leases and the age of the store are counted on the store's clock. A store whose clock jumps forward would
//! count leases as run out that still run, so a receipt asks for how long the two clocks have gone alike.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::authz::claims::Timestamp;
use crate::clock::Steady;

/// What the server's clock showed, and the moment before it was asked: the server showed it no earlier than then.
#[derive(Clone, Copy, Debug)]
pub(in crate::sources) struct ServerClock {
    pub(super) asked: Steady,
    pub(super) showed: Timestamp,
}

impl ServerClock {
    /// The server's time now, as estimated; at most the round trip ahead of it.
    pub(super) fn now(&self) -> Timestamp {
        self.at(Steady::now())
    }

    fn at(&self, moment: Steady) -> Timestamp {
        self.showed.plus(moment.since(self.asked))
    }
}

/// The store's clock, as this process has seen it go.
pub(super) struct StoreClock {
    /// Milliseconds that it shows beyond those since the machine's start; [`UNKNOWN`] before it was first read.
    offset: AtomicI64,
    course: Mutex<Option<Course>>,
}

#[derive(Clone, Copy)]
struct Course {
    /// Later readings are compared with this one.
    anchor: ServerClock,
    /// Since when no reading differed from what was expected.
    even_since: Steady,
}

const UNKNOWN: i64 = i64::MIN;
/// How far a reading may lie from what was expected: an answer takes up to the half of it, and two clocks that are
/// being slewed part by a hundredth in a window.
const TOLERANCE: Duration = Duration::from_secs(1);
/// How long one anchor serves.
const WINDOW: Duration = Duration::from_secs(30);

impl Default for StoreClock {
    fn default() -> Self {
        Self { offset: AtomicI64::new(UNKNOWN), course: Mutex::default() }
    }
}

impl StoreClock {
    /// The estimate of the server's time, two atomic loads; `None` before the first reading.
    pub(super) fn at(&self, now: Steady) -> Option<Timestamp> {
        let offset = self.offset.load(Ordering::Acquire);
        (offset != UNKNOWN).then(|| Timestamp::from_millis(millis(now).saturating_add(offset)))
    }

    /// Takes in a reading.
    pub(super) fn observe(&self, read: ServerClock) {
        let mut course = self.course();
        *course = Some(match *course {
            None => Course { anchor: read, even_since: read.asked },
            Some(known) if !agrees(known.anchor, read) => {
                tracing::warn!(
                    jumped_seconds = apart(known.anchor, read).as_secs_f64(),
                    "the store's clock jumped against this machine's"
                );
                Course { anchor: read, even_since: read.asked }
            }
            Some(known) if read.asked.since(known.anchor.asked) >= WINDOW => Course { anchor: read, ..known },
            Some(known) => known,
        });
        self.offset.store(read.showed.as_millis().saturating_sub(millis(read.asked)), Ordering::Release);
    }

    /// For how long it has gone as this machine's did, this reading included; zero if the reading differs.
    pub(super) fn even_for(&self, read: ServerClock) -> Duration {
        let course = *self.course();
        let even = course.filter(|course| agrees(course.anchor, read));
        even.map_or(Duration::ZERO, |course| read.asked.since(course.even_since))
    }

    fn course(&self) -> std::sync::MutexGuard<'_, Option<Course>> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(moment: Steady) -> i64 {
    i64::try_from(moment.uptime().as_millis()).unwrap_or(i64::MAX)
}

fn apart(anchor: ServerClock, read: ServerClock) -> Duration {
    let expected = anchor.at(read.asked);
    expected.since(read.showed).max(read.showed.since(expected))
}

fn agrees(anchor: ServerClock, read: ServerClock) -> bool {
    apart(anchor, read) <= TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(after: u32, showed: i64) -> ServerClock {
        ServerClock {
            asked: Steady::default() + Duration::from_secs(after.into()),
            showed: Timestamp::from_secs(showed),
        }
    }

    #[test]
    fn a_clock_that_jumps_has_gone_evenly_only_since_then() {
        let clock = StoreClock::default();
        assert_eq!(clock.at(Steady::now()), None);
        assert_eq!(clock.even_for(reading(10, 1_010)), Duration::ZERO, "never read");
        for second in (10..70_u32).step_by(2) {
            clock.observe(reading(second, 1_000 + i64::from(second)));
        }
        assert_eq!(clock.even_for(reading(70, 1_070)), Duration::from_secs(60));
        assert_eq!(clock.even_for(reading(70, 1_130)), Duration::ZERO, "a minute ahead, before the next reading");
        clock.observe(reading(70, 1_130));
        assert_eq!(clock.even_for(reading(75, 1_135)), Duration::from_secs(5));
        assert_eq!(clock.at(Steady::default() + Duration::from_secs(80)), Some(Timestamp::from_secs(1_140)));
        clock.observe(reading(80, 1_080));
        assert_eq!(clock.even_for(reading(81, 1_081)), Duration::from_secs(1), "set back again");
    }

    #[test]
    fn a_slow_drift_is_not_a_jump() {
        let clock = StoreClock::default();
        // Half a millisecond in each second, for an hour.
        for second in 0..3_600_u64 {
            let showed = Timestamp::from_millis(
                1_000_000 + i64::try_from(second).unwrap() * 1_000 + i64::try_from(second).unwrap() / 2,
            );
            clock.observe(ServerClock { asked: Steady::default() + Duration::from_secs(second), showed });
        }
        let last = ServerClock {
            asked: Steady::default() + Duration::from_secs(3_600),
            showed: Timestamp::from_millis(4_601_800),
        };
        assert_eq!(clock.even_for(last), Duration::from_secs(3_600));
    }
}
