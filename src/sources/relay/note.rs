//! What the owner of a relay notes for the other processes, and for operators.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The state of a relay, or the obstacle.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayState {
    /// Not connected yet.
    #[default]
    Starting,
    /// Both logs are read from their start.
    CatchingUp,
    /// Each new entry is copied.
    Following,
    /// A store cannot be reached.
    Unreachable,
    /// A store cannot be used: a wrong password, a user without the required commands, a replica, or no memory.
    Refused,
    /// An issuer's name has another meaning in the other region.
    NamesDiffer,
    /// Both addresses are those of one store.
    SameStore,
}

impl RelayState {
    /// Whether it lasts until an operator repairs it. A store that refuses may do so for the time of a failover.
    #[must_use]
    pub const fn is_lasting(self) -> bool {
        match self {
            Self::NamesDiffer | Self::SameStore => true,
            Self::Starting | Self::CatchingUp | Self::Following | Self::Unreachable | Self::Refused => false,
        }
    }

    /// A stable lowercase name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::CatchingUp => "catching_up",
            Self::Following => "following",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::NamesDiffer => "names_differ",
            Self::SameStore => "same_store",
        }
    }
}

impl fmt::Display for RelayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A relay, for operators and metrics.
#[derive(Clone, Debug)]
pub struct RelayStatus {
    /// Its name in metrics, such as `relay.1`.
    pub name: Box<str>,
    /// The host and port of the store that is appended to.
    pub to: String,
    pub state: RelayState,
    /// The process that runs it; `None` while none does.
    pub owner: Option<String>,
    /// Everything that was written to this region's store this long ago is in the other one; `None`: not known yet.
    pub lag: Option<Duration>,
    /// The other region is not behind.
    pub is_up: bool,
    /// The other region is behind, or nothing is copied until an operator repairs it.
    pub is_overdue: bool,
    /// The obstacle.
    pub problem: Option<String>,
}

impl RelayStatus {
    /// Why revocations reach the other region late, on one line.
    #[must_use]
    pub fn warning(&self) -> String {
        let Self { name, to, state, .. } = self;
        let behind = self.lag.map_or_else(|| "not yet".to_owned(), |lag| format!("{} s ago", lag.as_secs()));
        let problem = self.problem.as_ref().map_or_else(String::new, |problem| format!(" ({problem})"));
        format!(
            "{name} is {state}{problem}: the revocations of this region reach the one of {to} late; all of them were \
             there last: {behind}"
        )
    }
}

/// The note in the store.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct RelayNote {
    pub(super) state: RelayState,
    /// Everything that was written up to then is copied; by the clock of the store, in milliseconds.
    pub(super) as_of: Option<i64>,
    /// When it was written, by the same clock.
    pub(super) noted: Option<i64>,
    pub(super) problem: Option<String>,
}

impl RelayNote {
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// `None` if another program wrote it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut note: Self = serde_json::from_str(text).ok()?;
        note.problem = note.problem.map(|problem| problem.chars().filter(|c| !c.is_control()).take(500).collect());
        Some(note)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_is_written() {
        let problem = Some("a\nb".to_owned());
        let note = RelayNote { state: RelayState::NamesDiffer, as_of: Some(5), noted: Some(6), problem };
        let read = RelayNote::parse(&note.text()).unwrap();
        assert_eq!((read.state, read.as_of, read.problem.as_deref()), (RelayState::NamesDiffer, Some(5), Some("ab")));
        assert!(RelayNote::parse("").is_none() && RelayNote::parse("{\"state\": \"odd\"}").is_none());
    }
}
