//! The reason of a token's refusal, with the details that an operator needs.
//!
//! The client receives only the class ([`Denial`]). The detail appears in the log and in explanations: it names the
//! claim, the found value and the accepted ones. Values of `iss`, the audience, the tenant, `typ`, `alg`, `kid` and
//! times are shown, escaped and cut ([`Shown`]); claims about a person are shown by their type alone.

use std::fmt::{self, Write};

use serde_json::Value;

use super::denial::Denial;

/// A denial, with a detail if there is more than the class.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    pub denial: Denial,
    pub detail: Option<Box<str>>,
}

impl Refusal {
    #[must_use]
    pub fn new(denial: Denial, detail: impl fmt::Display) -> Self {
        Self { denial, detail: Some(detail.to_string().into()) }
    }

    /// No claim of this name; `accepted`: the accepted values.
    pub(super) fn missing(claim: &str, accepted: impl fmt::Display) -> Self {
        Self::new(Denial::MissingClaim, format_args!("`{claim}` is missing; it must be {accepted}"))
    }

    /// A claim whose value cannot be used; the value itself is not shown.
    pub(super) fn invalid(claim: &str, found: impl fmt::Display, accepted: impl fmt::Display) -> Self {
        Self::new(Denial::InvalidClaim, format_args!("`{claim}` is {found}; it must be {accepted}"))
    }

    /// The same refusal, with one more sentence.
    #[must_use]
    pub fn and(self, more: &str) -> Self {
        let detail = self.detail.map_or_else(|| more.to_owned(), |detail| format!("{detail}; {more}"));
        Self { detail: Some(detail.into()), ..self }
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self { denial, detail: None }
    }
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        refusal.denial
    }
}

/// Untrusted text, made safe for a log line: at most [`Shown::MOST`] bytes, all escaped except visible ASCII and the
/// space, between backticks that the text cannot close.
pub struct Shown<'a>(pub &'a str);

impl Shown<'_> {
    pub const MOST: usize = 100;
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('`')?;
        let mut left = Self::MOST;
        for c in self.0.chars() {
            let is_plain = matches!(c, ' '..='~') && !matches!(c, '`' | '\\');
            let Some(rest) = left.checked_sub(if is_plain { 1 } else { c.escape_unicode().len() }) else {
                return f.write_str("...`");
            };
            left = rest;
            if is_plain { f.write_char(c)? } else { write!(f, "{}", c.escape_unicode())? }
        }
        f.write_char('`')
    }
}

/// Several texts, at most [`List::MOST`] of them.
pub struct List<I>(pub I);

impl List<()> {
    pub const MOST: usize = 5;
}

impl<T: AsRef<str>, I: Iterator<Item = T> + Clone> fmt::Display for List<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, text) in self.0.clone().take(List::MOST).enumerate() {
            write!(f, "{}{}", if at > 0 { ", " } else { "" }, Shown(text.as_ref()))?;
        }
        match self.0.clone().skip(List::MOST).count() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The JSON type of a value.
#[must_use]
pub fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(text) if text.is_empty() => "empty text",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Describes the difference of two similar names; empty if they are not similar.
#[must_use]
pub fn near_miss(found: &str, accepted: &str) -> &'static str {
    let bare = |text: &str| text.trim().trim_end_matches('/').to_owned();
    let (ours, theirs) = (bare(accepted), bare(found));
    if found == accepted {
        ""
    } else if ours == theirs && found.trim() == found {
        "; they differ in the trailing slash"
    } else if ours.eq_ignore_ascii_case(&theirs) {
        "; they differ in letter case or white space"
    } else if ours.split_once("://").zip(theirs.split_once("://")).is_some_and(|(our, their)| our.1 == their.1) {
        "; they differ in the scheme"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strange_text_is_bounded_and_cannot_end_its_line() {
        let long = "x".repeat(1000);
        for (text, shown) in [
            ("https://idp.test/", "`https://idp.test/`".to_owned()),
            ("", "``".to_owned()),
            ("a`b\\c", "`a\\u{60}b\\u{5c}c`".to_owned()),
            ("a\r\nb\t\0\u{1b}[31m", "`a\\u{d}\\u{a}b\\u{9}\\u{0}\\u{1b}[31m`".to_owned()),
            ("\u{202e}é", "`\\u{202e}\\u{e9}`".to_owned()),
            (&long, format!("`{}...`", "x".repeat(Shown::MOST))),
        ] {
            assert_eq!(Shown(text).to_string(), shown, "{text:?}");
        }
        let worst = "\u{10ffff}".repeat(1000);
        assert!(List([worst.as_str(); 100].iter()).to_string().len() < 700);
        assert_eq!(List(["a"; 7].iter()).to_string(), "`a`, `a`, `a`, `a`, `a` and 2 more");
    }

    #[test]
    fn similar_names_are_described() {
        for (found, accepted, differs) in [
            ("https://idp/", "https://idp", "the trailing slash"),
            ("https://idp", "https://idp/", "the trailing slash"),
            ("https://IDP", "https://idp", "letter case"),
            ("https://idp ", "https://idp", "white space"),
            ("http://idp", "https://idp", "the scheme"),
        ] {
            assert!(near_miss(found, accepted).contains(differs), "{found} {accepted}");
        }
        for (found, accepted) in [("https://idp", "https://idp"), ("https://other", "https://idp"), ("", "shop")] {
            assert_eq!(near_miss(found, accepted), "", "{found} {accepted}");
        }
    }
}
