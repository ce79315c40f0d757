//! Configuration faults and their places: all faults are collected before any is reported.

use std::fmt;

use url::Url;

use crate::sources::files::Stamps;

/// The place of a value: `issuers[0].keys.jwks_url`.
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

    /// The same with every list's item as its first.
    pub(super) fn of_any_item(&self) -> Self {
        let step = |step: &Step| if let Step::Index(_) = step { Step::Index(0) } else { step.clone() };
        Self(self.0.iter().map(step).collect())
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

    /// Whether the keys of this map are names of headers.
    pub(super) fn holds_headers(&self) -> bool {
        matches!(self.0.last(), Some(Step::Key(name)) if name == "headers")
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

/// The origin of a value.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// A line of the file, from 1.
    Line(u64),
    /// An environment variable.
    Variable(String),
}

/// A fault, or a warning about a value that is probably a mistake.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Fault {
    /// `None` for a default, which is not written anywhere.
    pub place: Option<Place>,
    pub path: KeyPath,
    /// The fault and its remedy.
    pub message: String,
    /// The value that was found, shortened; never a credential.
    pub value: Option<String>,
}

/// All faults of a configuration, in the order of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Faults {
    /// The name of the file.
    pub file: String,
    pub faults: Vec<Fault>,
    /// The files whose change may fix the faults: the configuration itself and all files that it names.
    pub watched: Stamps,
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
            Some(Place::Variable(name)) => name.escape_debug().to_string(), // A name can have any byte except `=`.
            None => file.to_owned(),
        };
        let found = self.value.as_ref().map(|value| format!(" (found {value})")).unwrap_or_default();
        let path = if self.path == KeyPath::root() { String::new() } else { format!("{}: ", self.path) };
        format!("{place}: {path}{}{found}", self.message)
    }
}

/// The visible part of a URL: scheme, host and port. The omitted parts may contain a credential: the user, the
/// password, the query, the fragment and, in a webhook, the path. `None` for a text that is not a URL with an
/// authority, or with an `@` further on, which makes the parts ambiguous: `https://user:1?2@host`.
pub(crate) fn shown_url(text: &str) -> Option<String> {
    shown_parts(text, false)
}

/// [`shown_url`] with the path, for URLs that are public.
pub(super) fn shown_location(text: &str) -> Option<String> {
    shown_parts(text, true)
}

fn shown_parts(text: &str, with_path: bool) -> Option<String> {
    let url = Url::parse(text).ok().filter(Url::has_authority)?;
    let is_plain = |part: Option<&str>| !part.unwrap_or_default().contains('@');
    if !(is_plain(Some(url.path())) && is_plain(url.query()) && is_plain(url.fragment())) {
        return None;
    }
    let credentials = if url.username().is_empty() && url.password().is_none() { "" } else { "…@" };
    let rest = match (url.query(), url.fragment()) {
        (None, None) => "",
        (Some(_), _) => "?…",
        (None, Some(_)) => "#…",
    };
    let (scheme, path) = (url.scheme(), url.path());
    let path = if path == "/" && !text.ends_with('/') && rest.is_empty() { "" } else { path };
    let (host, port) = (url.host_str().unwrap_or_default(), url.port().map(|port| format!(":{port}")));
    // Without a host the path is that of a socket.
    let path = if with_path || path.len() < 2 || host.is_empty() { path } else { "/…" };
    Some(format!("{scheme}://{credentials}{host}{}{path}{rest}", port.unwrap_or_default()))
}
