//! The facts about a transmitter's stream: its state, and counts of its events. It survives a reload.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::authz::claims::Timestamp;
use crate::authz::signals::StreamStatus;
use crate::clock::{self, Steady};

/// The state of a stream; a closed set.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// It is being set up, or another instance is about to own it.
    #[default]
    SettingUp,
    /// Events arrive.
    Enabled,
    /// The transmitter holds events back.
    Paused,
    /// The transmitter drops events.
    Disabled,
    /// A requested verification event has not arrived in time.
    Silent,
    /// A request to the transmitter or to the store failed.
    Unreachable,
    /// An operator has deleted it.
    Deleted,
}

impl StreamState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SettingUp => "setting_up",
            Self::Enabled => "enabled",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::Deleted => "deleted",
        }
    }
}

/// The owner's record of a stream, for the other instances and for the next owner.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct StreamRecord {
    /// The transmitter's configured issuer and audience.
    pub issuer: String,
    pub audience: String,
    pub stream_id: Option<String>,
    /// A digest of the settings that were last sent.
    pub settings: String,
    /// An operator deleted the stream; it is not created again with the same settings.
    pub deleted: bool,
    pub state: StreamState,
    /// When its latest requested verification event arrived, in milliseconds since 1970.
    pub verified_at: Option<i64>,
    pub problem: Option<String>,
}

impl StreamRecord {
    /// `None` if it cannot be read: the stream is then found again by listing.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The outcomes of events that are counted for a transmitter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tally {
    Applied,
    /// Without effect on tokens, by its type.
    Ignored,
    /// Without a subject that can be mapped to tokens.
    Unmapped,
    /// Applied by an email address that no token verified here has named.
    Unseen,
    /// Signed by the transmitter or polled from it, and refused.
    Refused,
}

impl Tally {
    pub const ALL: [Self; 5] = [Self::Applied, Self::Ignored, Self::Unmapped, Self::Unseen, Self::Refused];
}

/// The shared part of a receiver.
#[derive(Default)]
pub(super) struct Health {
    known: Mutex<Known>,
    tallies: [AtomicU64; Tally::ALL.len()],
    /// The time of the latest event, in milliseconds since 1970; 0 before the first.
    last_event: AtomicI64,
    /// Notified when something changes that the owner should act upon.
    pub(super) changed: Notify,
}

/// The facts.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Whether this instance owns the stream.
    pub(super) owned: bool,
    pub(super) owner: Option<String>,
    pub(super) stream_id: Option<String>,
    /// Whether each part works; `None` before its first result.
    pub(super) stream: Option<bool>,
    pub(super) poll: Option<bool>,
    pub(super) status: StreamStatus,
    /// The time of the status: announcements arrive late and in any order.
    pub(super) status_at: Timestamp,
    pub(super) deleted: bool,
    /// The state of a verification that has not arrived, and when it was requested.
    pub(super) awaited: Option<(String, Steady)>,
    pub(super) silent: bool,
    pub(super) verified_at: Option<Timestamp>,
    pub(super) problem: Option<String>,
    /// By the owner, if that is another instance.
    pub(super) reported: Option<StreamState>,
    /// The latest announced status in the store that the owner has seen.
    pub(super) announced: Option<String>,
    pub(super) written: Written,
}

/// The record of the stream in the store, as its owner last read or wrote it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Written {
    /// The stream is being set up: the record is not to be compared yet.
    #[default]
    SettingUp,
    As(Option<String>),
}

impl Known {
    /// An operator has deleted the stream, as its record says.
    pub(super) fn delete(&mut self, record: Option<String>) {
        (self.deleted, self.written, self.stream_id) = (true, Written::As(record), None);
        (self.awaited, self.silent, self.problem) = (None, false, None);
    }

    /// An announcement that was made this long before the status was read is older than that, whatever the clocks.
    const TOLERANCE: Duration = Duration::from_secs(60);

    /// Takes the status that the transmitter returned.
    pub(super) fn read_status(&mut self, status: StreamStatus, now: Timestamp) {
        (self.status, self.status_at) = (status, self.status_at.max(now.minus(Self::TOLERANCE)));
    }

    /// Takes a status that was announced at a time, unless a later one is known. False if one is.
    pub(super) fn see_status(&mut self, status: StreamStatus, at: Timestamp) -> bool {
        let is_newer = at >= self.status_at;
        if is_newer {
            (self.status, self.status_at) = (status, at);
        }
        is_newer
    }

    pub(super) fn state(&self) -> StreamState {
        if !self.owned {
            return self.reported.unwrap_or_default();
        }
        if self.deleted {
            return StreamState::Deleted;
        }
        match (self.stream, self.status) {
            (Some(false), _) => return StreamState::Unreachable,
            (None, _) => return StreamState::SettingUp,
            (Some(true), StreamStatus::Paused) => return StreamState::Paused,
            (Some(true), StreamStatus::Disabled) => return StreamState::Disabled,
            (Some(true), StreamStatus::Enabled) => {}
        }
        match self.poll {
            _ if self.silent => StreamState::Silent,
            Some(false) => StreamState::Unreachable,
            None => StreamState::SettingUp,
            Some(true) => StreamState::Enabled,
        }
    }
}

impl Health {
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and shows the result. Returns the state before and after.
    pub(super) fn change(&self, gauge: &IntGauge, change: impl FnOnce(&mut Known)) -> [StreamState; 2] {
        let mut known = self.known();
        let before = known.state();
        change(&mut known);
        let after = known.state();
        drop(known);
        gauge.set(i64::from(after == StreamState::Enabled));
        [before, after]
    }

    pub(super) fn count(&self, tally: Tally) {
        self.tallies[tally as usize].fetch_add(1, Ordering::Relaxed);
        self.last_event.store(clock::now().as_millis(), Ordering::Relaxed);
    }

    pub(super) fn tallies(&self) -> [u64; Tally::ALL.len()] {
        self.tallies.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn last_event(&self) -> Option<Timestamp> {
        let millis = self.last_event.load(Ordering::Relaxed);
        (millis > 0).then(|| Timestamp::from_millis(millis))
    }

    /// Notes that an awaited verification event has arrived.
    pub(super) fn note_verification(known: &mut Known, state: &str) -> bool {
        let is_it = known.awaited.as_ref().is_some_and(|(awaited, _)| awaited == state);
        if is_it {
            (known.awaited, known.silent, known.verified_at) = (None, false, Some(clock::now()));
        }
        is_it
    }

    /// Whether a requested verification event has been awaited for longer than `bound`.
    pub(super) fn is_overdue(known: &Known, bound: Duration) -> bool {
        known.awaited.as_ref().is_some_and(|(_, requested)| requested.elapsed() > bound)
    }
}
