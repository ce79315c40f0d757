//! The store's clock, compared with the monotonic one.
//!
//! Leases and the age of the store are counted on the store's clock. A store whose clock jumps forward would count
//! running leases as expired, so a receipt requires that the two clocks have agreed for long enough. The ids of the log
//! come from that clock, too: their age is judged with the observations of all instances ([`super::clock_note`]).

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::authz::claims::Timestamp;
use crate::clock::Steady;

/// A reading of the server's clock, and the time before the request: the server read its clock no earlier.
#[derive(Clone, Copy, Debug)]
pub(in crate::sources) struct ServerClock {
    asked: Steady,
    /// The time until the answer arrived: the server read its clock no later.
    took: Duration,
    pub(super) showed: Timestamp,
}

impl ServerClock {
    /// The reading from an answer that has just arrived.
    pub(super) fn read(asked: Steady, showed: Timestamp) -> Self {
        Self { asked, took: asked.elapsed(), showed }
    }

    /// Whether the answer was quick enough to compare clocks by it.
    fn is_exact(&self) -> bool {
        self.took <= TOLERANCE / 2
    }

    /// The estimate of the server's current time; at most the round trip ahead of it.
    pub(super) fn now(&self) -> Timestamp {
        self.at(Steady::now())
    }

    fn at(&self, moment: Steady) -> Timestamp {
        self.showed.plus(moment.since(self.asked))
    }
}

/// The store's clock, as observed by this process.
pub(super) struct StoreClock {
    /// The milliseconds of the store's clock minus those since the machine's start; [`UNKNOWN`] before the first
    /// reading.
    offset: AtomicI64,
    seen: Mutex<Seen>,
}

/// The observed rate of the clock.
#[derive(Default)]
pub(super) struct Seen {
    /// `None` before the first reading.
    course: Option<Course>,
    /// The time (of the store's clock) since which all instances have seen it stable; `None` before the note was
    /// first read.
    pub(super) since: Option<Timestamp>,
    /// The store does not have `since` yet.
    pub(super) is_unnoted: bool,
}

#[derive(Clone, Copy)]
struct Course {
    /// Later readings are compared with this one.
    anchor: ServerClock,
    /// The time since which no reading differed from the expected one.
    stable_since: Steady,
}

const UNKNOWN: i64 = i64::MIN;
/// The largest deviation of a reading from the expected one: an answer takes up to the half of it, and two clocks that
/// are being slewed part by a hundredth in a window.
pub(super) const TOLERANCE: Duration = Duration::from_secs(1);
/// The shortest time for which one anchor is used.
const WINDOW: Duration = Duration::from_secs(30);

/// The length of a lease by the server's clock that lasts for `steady` by the monotonic clock, if the server's clock
/// counts as even.
///
/// A clock that counts as even may gain the tolerance in each window: once for each anchor that is replaced meanwhile,
/// once before the first of them and once after the last, and the half of it by which a reading is late.
pub(in crate::sources) fn lasting(steady: Duration) -> Duration {
    let windows = u32::try_from(steady.as_secs() / WINDOW.as_secs()).unwrap_or(u32::MAX);
    steady.saturating_add(TOLERANCE.saturating_mul(windows.saturating_add(4)))
}

impl Default for StoreClock {
    fn default() -> Self {
        Self { offset: AtomicI64::new(UNKNOWN), seen: Mutex::default() }
    }
}

impl StoreClock {
    /// The estimate of the server's time, two atomic loads; `None` before the first reading.
    pub(super) fn at(&self, now: Steady) -> Option<Timestamp> {
        let offset = self.offset.load(Ordering::Acquire);
        (offset != UNKNOWN).then(|| Timestamp::from_millis(millis(now).saturating_add(offset)))
    }

    /// Records a reading of the server whose log is followed. A slow reading does not indicate a jump.
    pub(super) fn observe(&self, read: ServerClock) {
        if read.is_exact() {
            let mut seen = self.seen();
            seen.course = Some(match seen.course {
                None => Course { anchor: read, stable_since: read.asked },
                Some(known) if !agrees(known.anchor, read) => {
                    tracing::warn!(
                        jumped_seconds = apart(known.anchor, read).as_secs_f64(),
                        "the store's clock jumped against this machine's"
                    );
                    (seen.since, seen.is_unnoted) = (Some(read.showed), true);
                    Course { anchor: read, stable_since: read.asked }
                }
                Some(known) if read.asked.since(known.anchor.asked) >= WINDOW => Course { anchor: read, ..known },
                Some(known) => known,
            });
        }
        self.offset.store(read.showed.as_millis().saturating_sub(millis(read.asked)), Ordering::Release);
    }

    /// Records a reading of a primary whose log may never be followed, if there was no reading before.
    pub(super) fn begin(&self, read: ServerClock) {
        if self.offset.load(Ordering::Acquire) == UNKNOWN {
            self.observe(read);
        }
    }

    /// The time for which it has agreed with this machine's clock, this reading included; zero if the reading differs,
    /// or was slow.
    pub(super) fn stable_for(&self, read: ServerClock) -> Duration {
        let course = self.seen().course.filter(|course| read.is_exact() && agrees(course.anchor, read));
        course.map_or(Duration::ZERO, |course| read.asked.since(course.stable_since))
    }

    /// For how long it has gone as this machine's did, up to the last reading.
    pub(super) fn stable_at_last_reading(&self) -> Duration {
        self.seen().course.map_or(Duration::ZERO, |course| course.stable_since.elapsed())
    }

    pub(super) fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
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
        at(after.into(), showed * 1000)
    }

    fn at(second: u64, showed: i64) -> ServerClock {
        let asked = Steady::default() + Duration::from_secs(second);
        ServerClock { asked, took: Duration::ZERO, showed: Timestamp::from_millis(showed) }
    }

    #[test]
    fn a_clock_that_jumps_is_stable_only_since_then() {
        let clock = StoreClock::default();
        assert_eq!(clock.at(Steady::now()), None);
        assert_eq!(clock.stable_for(reading(10, 1_010)), Duration::ZERO, "never read");
        for second in (10..70_u32).step_by(2) {
            clock.observe(reading(second, 1_000 + i64::from(second)));
        }
        assert_eq!(clock.stable_for(reading(70, 1_070)), Duration::from_secs(60));
        assert_eq!(clock.stable_for(reading(70, 1_130)), Duration::ZERO, "a minute ahead, before the next reading");
        clock.observe(reading(70, 1_130));
        assert_eq!(clock.stable_for(reading(75, 1_135)), Duration::from_secs(5));
        assert_eq!(clock.at(Steady::default() + Duration::from_secs(80)), Some(Timestamp::from_secs(1_140)));
        clock.observe(reading(80, 1_080));
        assert_eq!(clock.stable_for(reading(81, 1_081)), Duration::from_secs(1), "set back again");
        let late = ServerClock { took: Duration::from_secs(5), ..reading(82, 1_087) };
        clock.observe(late);
        assert_eq!(clock.stable_for(late), Duration::ZERO, "it took long");
        assert_eq!(clock.stable_for(reading(90, 1_090)), Duration::from_secs(10), "and reports no jump");
    }

    #[test]
    fn a_lease_lasts_by_the_fastest_clock_that_counts_as_even() {
        // Each reading that becomes the anchor is ahead by the full tolerance.
        for hold in [2_u64, 30, 300, 3_600] {
            let (clock, lasts) = (StoreClock::default(), lasting(Duration::from_secs(hold)));
            let mut ahead = 0;
            clock.observe(at(0, 1_000_000));
            for second in 1..=hold {
                if second % 30 == 0 {
                    ahead += 1_000;
                }
                clock.observe(at(second, 1_000_000 + 1_000 * i64::try_from(second).unwrap() + ahead));
            }
            let last = at(hold, 1_000_000 + 1_000 * i64::try_from(hold).unwrap() + ahead);
            assert_eq!(clock.stable_for(last), Duration::from_secs(hold), "it counts as stable");
            // One second before the first of these readings, and one after the last.
            let showed = last.showed.since(Timestamp::from_millis(1_000_000)) + 2 * TOLERANCE;
            assert!(showed < lasts, "{hold} s: {showed:?}, {lasts:?}");
            assert!(lasts < Duration::from_secs(hold + hold / 30 + 5));
        }
    }

    #[test]
    fn a_slow_drift_is_not_a_jump() {
        let clock = StoreClock::default();
        // Half a millisecond in each second, for an hour.
        for second in 0..3_600_u64 {
            let showed = Timestamp::from_millis(
                1_000_000 + i64::try_from(second).unwrap() * 1_000 + i64::try_from(second).unwrap() / 2,
            );
            clock.observe(at(second, showed.as_millis()));
        }
        assert_eq!(clock.stable_for(at(3_600, 4_601_800)), Duration::from_secs(3_600));
    }
}
