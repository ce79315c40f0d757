//! What is wrong with a configuration, and where: every fault is found before any is reported.

use std::fmt;

/// Where a value stands: `issuers[0].keys.jwks_url`.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyPath(Vec<Step>);

#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl KeyPath {
    pub(super) fn root() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        self.join(Step::Key(name.to_owned()))
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.join(Step::Index(index))
    }

    pub(super) fn join(&self, step: Step) -> Self {
        Self(self.0.iter().cloned().chain([step]).collect())
    }

    pub(super) fn parent(&self) -> Option<Self> {
        let (_, head) = self.0.split_last()?;
        Some(Self(head.to_vec()))
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether `other` is this value or a part of it.
    pub(super) fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    pub(super) fn is_url(&self) -> bool {
        matches!(self.0.last(), Some(Step::Key(name)) if name == "url")
    }

    /// Whether a credential stands here or around: its value is never shown.
    pub(super) fn is_secret(&self) -> bool {
        let secret = ["password", "client_secret", "token", "sha256", "jwks"];
        let names = self.0.iter().skip(1).filter_map(|step| match step {
            Step::Key(name) => Some(name.as_str()),
            Step::Index(_) => None,
        });
        names.into_iter().any(|name| secret.contains(&name))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(name) if !plain(name) || name.is_empty() => write!(f, "[{name:?}]")?,
                Step::Key(name) if at == 0 => f.write_str(name)?,
                Step::Key(name) => write!(f, ".{name}")?,
            }
        }
        Ok(())
    }
}

/// Who wrote a value.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// A line of the file, from 1.
    Line(u64),
    /// An environment variable.
    Variable(String),
}

/// One thing that is wrong (or, as a warning, unlikely to be meant).
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Fault {
    /// `None` when the value stands nowhere: a default.
    pub place: Option<Place>,
    pub path: KeyPath,
    /// What is wrong and what would be right.
    pub message: String,
    /// What was found, shortened; never a credential.
    pub value: Option<String>,
}

/// All that is wrong with a configuration, in the order of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Faults {
    /// The name of the file.
    pub file: String,
    pub faults: Vec<Fault>,
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            let line_end = if at == 0 { "" } else { "\n" };
            write!(f, "{line_end}{}", fault.line(&self.file))?;
        }
        Ok(())
    }
}

impl Fault {
    /// The fault as one line: `FILE:LINE: key.path: message (found VALUE)`.
    #[must_use]
    pub fn line(&self, file: &str) -> String {
        let place = match &self.place {
            Some(Place::Line(line)) => format!("{file}:{line}"),
            Some(Place::Variable(name)) => name.escape_debug().to_string(), // It can have any byte but `=`.
            None => file.to_owned(),
        };
        let found = self.value.as_ref().map(|value| format!(" (found {value})")).unwrap_or_default();
        let path = if self.path == KeyPath::root() { String::new() } else { format!("{}: ", self.path) };
        format!("{place}: {path}{}{found}", self.message)
    }
}
