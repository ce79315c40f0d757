//! The metrics of relays.

use super::RelayStatus;
use crate::instruments::instruments;

/// What became of an entry; a closed set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    /// Appended to the other log, because that lacked it.
    Copied,
    /// Of a kind that is not known here, and appended as it was.
    PassedOn,
    /// Left out: not understood, and not fit to be passed on.
    Unreadable,
    /// Left out: no instance in either region needs it any more.
    Expired,
    /// Left out: of an unknown kind, and no more of them are remembered.
    TooMany,
}

impl Outcome {
    pub(super) const ALL: [Self; 5] = [Self::Copied, Self::PassedOn, Self::Unreadable, Self::Expired, Self::TooMany];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Copied => "copied",
            Self::PassedOn => "passed_on",
            Self::Unreadable => "unreadable",
            Self::Expired => "expired",
            Self::TooMany => "too_many",
        }
    }
}

instruments! {
    /// The instruments of relays to other regions.
    pub struct RelayStats {
        /// Entries that this process has appended to the store of another region, or left out, each time that it read them.
        entries: IntCounterVec = "doorward_relay_entries_total" by ["relay", "result"],
        /// Everything that was written to this region's store this long ago is in the other region; +Inf before that is
        /// known.
        lag: GaugeVec = "doorward_relay_lag_seconds" by ["relay"],
        /// Whether the other region is at most 30 s behind: 1 or 0; the same at each instance.
        up: IntGaugeVec = "doorward_relay_up" by ["relay"],
    }
}

impl RelayStats {
    /// Fails on a name that Prometheus does not allow.
    pub fn new() -> Result<Self, prometheus::Error> {
        Self::create()
    }

    /// Every result exists from the start.
    pub(super) fn expect(&self, relay: &str) {
        for outcome in Outcome::ALL {
            self.entries.with_label_values(&[relay, outcome.as_str()]);
        }
    }

    pub(super) fn count(&self, relay: &str, outcome: Outcome, entries: usize) {
        self.entries.with_label_values(&[relay, outcome.as_str()]).inc_by(entries as u64);
    }

    /// Sets the gauges of a relay, at a scrape.
    pub fn show(&self, status: &RelayStatus) {
        self.lag.with_label_values(&[&*status.name]).set(status.lag.map_or(f64::INFINITY, |lag| lag.as_secs_f64()));
        self.up.with_label_values(&[&*status.name]).set(status.is_up.into());
    }
}
