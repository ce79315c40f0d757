//! The times in which nothing is copied, for the log: a warning once one lasts, and a line at its end.

use std::time::Duration;

use super::Relay;
use crate::clock::Steady;

#[derive(Default)]
pub(super) struct Outage(Option<Begun>);

struct Begun {
    since: Steady,
    warned: bool,
    /// Those that may pass, or that another process may not have, since it began, or since the lease was last left.
    failures: u32,
    /// Appended since.
    entries: usize,
}

impl Outage {
    /// The failures after which another process may succeed: after some 25 s of the pauses between them.
    const MANY: u32 = 12;

    /// Records a failure; true if it is time for the warning: at once if it `lasts` until an operator repairs it.
    pub(super) fn goes_on(&mut self, now: Steady, lasts: bool) -> bool {
        let begun = self.0.get_or_insert(Begun { since: now, warned: false, failures: 0, entries: 0 });
        begun.failures += u32::from(!lasts);
        let warns = !begun.warned && (lasts || now.since(begun.since) > Relay::BEHIND);
        begun.warned |= warns;
        warns
    }

    /// Whether so many attempts have failed that another process should try; they are counted anew then.
    pub(super) fn gives_up(&mut self) -> bool {
        let gives_up = |begun: &&mut Begun| begun.failures >= Self::MANY;
        self.0.as_mut().filter(gives_up).map(|begun| begun.failures = 0).is_some()
    }

    pub(super) fn appended(&mut self, entries: usize) {
        if let Some(begun) = &mut self.0 {
            begun.entries += entries;
        }
    }

    /// The length of an outage that was warned about, and the number of entries that waited for its end.
    pub(super) fn end(&mut self, now: Steady) -> Option<(Duration, usize)> {
        let begun = self.0.take().filter(|begun| begun.warned)?;
        Some((now.since(begun.since), begun.entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Steady {
        Steady::default() + Duration::from_secs(second)
    }

    #[test]
    fn an_outage_is_warned_about_once_when_it_lasts() {
        let mut outage = Outage::default();
        outage.appended(1); // Not in an outage.
        let warned: Vec<_> = (0..100).filter(|second| outage.goes_on(at(*second), false)).collect();
        assert_eq!(warned, [31]);
        assert!(outage.gives_up() && !outage.gives_up(), "the failures are counted anew");
        outage.appended(500);
        outage.appended(7);
        assert_eq!(outage.end(at(100)), Some((Duration::from_secs(100), 507)));
        assert_eq!(outage.end(at(101)), None);
        // A moment; then one that only an operator ends.
        assert!(!outage.goes_on(at(200), false));
        assert_eq!(outage.end(at(201)), None);
        assert!(!outage.goes_on(at(300), false) && outage.goes_on(at(301), true) && !outage.goes_on(at(302), true));
        assert!((303..400).all(|second| !outage.goes_on(at(second), true)) && !outage.gives_up());
        assert_eq!(outage.end(at(400)), Some((Duration::from_secs(100), 0)));
    }
}
