//! The vocabulary of a token: instants, names and scopes (RFC 7519, RFC 9068, OpenID Connect).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

mod set;

pub use set::ClaimSet;
pub(crate) use set::HeldText;

/// Milliseconds since the Unix epoch.
///
/// Doorward honours fractional NumericDates (RFC 7519 section 2) to the millisecond.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Later than every time in a token.
    pub const MAX: Self = Self(i64::MAX);

    /// The last second of the year 9999: nothing later is a date (RFC 3339).
    const LAST_SECOND: f64 = 253_402_300_799.0;

    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// Whole seconds, rounded up.
    #[must_use]
    pub const fn as_secs_ceil(self) -> i64 {
        -((-self.0).div_euclid(1000))
    }

    /// Reads a NumericDate; `None` unless it is a number between 1970 and 9999.
    #[must_use]
    pub fn from_numeric_date(value: &Value) -> Option<Self> {
        let seconds = value.as_number()?.as_f64()?;
        if !(0.0..=Self::LAST_SECOND).contains(&seconds) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "the range was checked above: at most 2.6e14")]
        let millis = (seconds * 1000.0).floor() as i64;
        Some(Self(millis))
    }

    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// In the form of RFC 3339, to the millisecond; clamped to the dates that RFC 3339 can express.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        const LAST: i64 = 253_402_300_799_999;
        let millis = u64::try_from(self.0.clamp(0, LAST)).unwrap_or_default();
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
    }

    /// The time from `earlier` to this one; zero if it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The short configured name of an issuer (`[a-z0-9-]+`), never its URL.
///
/// Redis keys, metrics labels and the API use this name, so that no value of a token shapes those.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct IssuerName(Arc<str>);

impl IssuerName {
    /// The longest name, in bytes: it is part of every key of the issuer.
    pub const MAX_LEN: usize = 63;

    /// `None` unless the name is `[a-z0-9-]+` and at most [`Self::MAX_LEN`] bytes long.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let fits = (1..=Self::MAX_LEN).contains(&name.len())
            && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        fits.then(|| Self(name.into()))
    }

    /// The name of a sender of signals, by its place in the configuration, from 1; no issuer can be
    /// configured by it.
    #[must_use]
    pub fn of_transmitter(place: usize) -> Self {
        Self(format!("signals.{place}").into())
    }

    /// A name for what is known of an `iss` under any name: `iss-` and 32 hex digits of its SHA-256.
    #[must_use]
    pub fn of_iss(iss: &str) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, iss.as_bytes());
        let digits = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}"));
        Self(format!("iss-{}", digits.collect::<String>()).into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IssuerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place of a claim: a top-level name, or a JSON pointer (RFC 6901) if it begins with `/`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClaimPath(String);

impl ClaimPath {
    #[must_use]
    pub fn new(path: impl Into<String>) -> Self {
        Self(path.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn find(&self, claims: &ClaimSet) -> Option<Value> {
        let Some(pointer) = self.0.strip_prefix('/') else {
            return claims.get(&self.0);
        };
        let (first, rest) = match pointer.find('/') {
            Some(end) => pointer.split_at(end),
            None => (pointer, ""),
        };
        claims.get(&unescape(first))?.pointer_mut(rest).map(Value::take)
    }
}

/// RFC 6901 section 4: `~1` is `/`, then `~0` is `~`.
fn unescape(reference_token: &str) -> String {
    reference_token.replace("~1", "/").replace("~0", "~")
}

/// Whether a value may be used in an identity header.
///
/// Visible ASCII and inner spaces only. RFC 9110 section 5.5 also allows tabs and opaque bytes, but receivers read
/// those differently, and an identity must read the same everywhere.
#[must_use]
pub fn fits_header(value: &str) -> bool {
    (1..=MAX_HEADER_VALUE).contains(&value.len())
        && value.bytes().all(|b| matches!(b, 0x20..=0x7e))
        && !value.starts_with(' ')
        && !value.ends_with(' ')
}

/// Whether a value can name a user: text that a person can read on one line. Text beyond ASCII can, but is not
/// written into a header.
#[must_use]
pub fn names_someone(value: &str) -> bool {
    (1..=MAX_HEADER_VALUE).contains(&value.len())
        && (value.bytes().all(|b| matches!(b, b' '..=b'~')) || !value.chars().any(is_unseen))
        && !value.starts_with(char::is_whitespace)
        && !value.ends_with(char::is_whitespace)
        && !is_b2c_nobody(value)
}

/// A text as one line of a log shows it: each character that cannot be seen is written as `\u{a}`, and with it `\` as
/// `\\`. Two texts never become one.
#[must_use]
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unseen) && !text.contains("\\u{") {
        return Cow::Borrowed(text);
    }
    let mut written = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => written.push_str("\\\\"),
            c if is_unseen(c) => written.extend(c.escape_unicode()),
            c => written.push(c),
        }
    }
    Cow::Owned(written)
}

/// Control characters, line ends, and characters that are invisible or change the writing direction: two users must
/// not look alike.
fn is_unseen(c: char) -> bool {
    // Unicode's Default_Ignorable_Code_Point except joiners and variation selectors, which scripts and emoji need.
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Whether a value is the constant that Azure AD B2C writes for each of its users.
#[must_use]
pub fn is_b2c_nobody(value: &str) -> bool {
    value.get(..B2C_NOBODY.len()).is_some_and(|start| start.eq_ignore_ascii_case(B2C_NOBODY))
}

/// The `sub` that Azure AD B2C writes by default: one constant for all users.
pub const B2C_NOBODY: &str = "Not supported currently";

/// The longest identity value that becomes a header, in bytes.
pub const MAX_HEADER_VALUE: usize = 4096;

/// The scopes of a token: `scope` (RFC 9068 section 2.2.3, space-delimited) or `scp`, text or list. An item with a
/// space is not a scope (RFC 6749 section 3.3): joined with others, it would read as two.
#[must_use]
pub fn scopes(claims: &ClaimSet) -> Vec<String> {
    match claims.get("scope").or_else(|| claims.get("scp")) {
        Some(Value::String(text)) => text.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
        Some(Value::Array(items)) => {
            let items = items.iter().filter_map(Value::as_str);
            items.filter(|item| !item.is_empty() && !item.contains(' ')).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_no_character_that_is_not_seen() {
        for unseen in
            ["\u{ad}", "\u{61c}", "\u{2060}", "\u{3164}", "\u{180e}", "\u{fff9}", "\u{1d173}", "\u{e0041}", "\u{202e}"]
        {
            assert!(!names_someone(&format!("ali{unseen}ce")), "{unseen:?}");
        }
        for seen in ["alice", "علی", "न\u{200d}", "👩\u{200d}💻", "名前", "❤\u{fe0f}"] {
            assert!(names_someone(seen), "{seen}");
        }
    }

    use serde_json::json;

    #[test]
    fn numeric_dates_are_read_to_the_millisecond_and_within_bounds() {
        for (value, expected) in [
            (json!(0), Some(0)),
            (json!(1_700_000_000), Some(1_700_000_000_000)),
            (json!(1_700_000_000.123), Some(1_700_000_000_123)),
            (json!(1e3), Some(1_000_000)),
            (json!(-1), None),
            (json!(1e300), None),
            (json!(253_402_300_800_i64), None),
            (json!("1700000000"), None),
            (json!(null), None),
            (json!(true), None),
            (json!([1]), None),
        ] {
            assert_eq!(Timestamp::from_numeric_date(&value).map(Timestamp::as_millis), expected, "{value}");
        }
    }

    #[test]
    fn seconds_round_both_ways() {
        assert_eq!(Timestamp::from_millis(1001).as_secs(), 1);
        assert_eq!(Timestamp::from_millis(1001).as_secs_ceil(), 2);
        assert_eq!(Timestamp::from_millis(1000).as_secs_ceil(), 1);
    }

    #[test]
    fn claim_paths_are_names_or_pointers() {
        let claims = ClaimSet::from(json!({"sub": "u", "a/b": 1, "realm": {"roles": ["x"], "m~n": 2}}));
        for (path, expected) in [
            ("sub", Some(json!("u"))),
            ("a/b", Some(json!(1))),
            ("/a~1b", Some(json!(1))),
            ("/realm/roles/0", Some(json!("x"))),
            ("/realm/m~0n", Some(json!(2))),
            ("/realm/none", None),
            ("realm.roles", None),
        ] {
            assert_eq!(ClaimPath::new(path).find(&claims), expected, "{path}");
        }
    }

    #[test]
    fn users_have_names_that_can_be_read() {
        for good in ["u", "Ann Lee", "José", "Ω", "\u{1f600}", &"x".repeat(MAX_HEADER_VALUE)] {
            assert!(names_someone(good), "{good}");
        }
        let long = "é".repeat(MAX_HEADER_VALUE / 2 + 1);
        for bad in ["", " u", "u\u{a0}", "a\r\nb", "a\0", "\u{202e}u", "a\u{2028}", "\u{feff}a", &long, B2C_NOBODY] {
            assert!(!names_someone(bad), "{bad:?}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_escaped_and_two_texts_stay_two() {
        for (text, expected) in [
            ("José", "José"),
            ("agent ", "agent "),
            ("DOMAIN\\user", "DOMAIN\\user"),
            ("", ""),
            ("a\nb", "a\\u{a}b"),
            ("a\\u{a}b", "a\\\\u{a}b"),
            ("a\n\\b", "a\\u{a}\\\\b"),
            ("\u{202e}a", "\\u{202e}a"),
        ] {
            assert_eq!(on_one_line(text), expected, "{text:?}");
        }
    }

    #[test]
    fn header_values_are_visible_ascii() {
        for good in ["u", "Ann Lee", "a@b", &"x".repeat(MAX_HEADER_VALUE)] {
            assert!(fits_header(good), "{good}");
        }
        for bad in
            ["", " u", "u ", "a\r\nb", "a\0", "a\tb", "é", "\u{202e}u", "\u{7f}", &"x".repeat(MAX_HEADER_VALUE + 1)]
        {
            assert!(!fits_header(bad), "{bad:?}");
        }
    }
}
