//! The token of a request, not parsed.

use std::fmt;

use crate::denial::Denial;
use crate::token_source::is_emptied;

/// The credentials of a request (RFC 6750 section 2.1, `b64token`), not parsed.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct BearerToken<'a>(&'a [u8]);

impl<'a> BearerToken<'a> {
    /// Accepts the token of a request; `MalformedToken` unless it is a `b64token` of at most `max_bytes`.
    pub fn parse(value: &'a [u8], max_bytes: usize) -> Result<Self, Denial> {
        let body = value.iter().rposition(|b| *b != b'=').map_or(0, |last| last + 1);
        // Without an early return the compiler compares many bytes at once: a token is long, and mostly
        // valid.
        let fits = value[..body].iter().fold(true, |fits, b| fits & is_allowed(*b));
        if body == 0 || value.len() > max_bytes || !fits {
            return Err(Denial::MalformedToken);
        }
        Ok(Self(value))
    }

    /// Takes the token out of a header field such as `Bearer <token>` (RFC 9110 section 11.4; the scheme is
    /// case-insensitive). `None` if the field has another scheme, or the scheme alone.
    pub fn from_credentials(field: &'a [u8], scheme: &str, max_bytes: usize) -> Result<Option<Self>, Denial> {
        // White space around a field is not part of its value (RFC 9110 section 5.5), and Envoy should have
        // removed it: a token behind it must not count as absent, because the upstream may see it.
        if field.first().is_some_and(u8::is_ascii_whitespace)
            && strip_scheme(field.trim_ascii_start(), scheme).is_some()
        {
            return Err(Denial::MalformedToken);
        }
        let Some(token) = strip_scheme(field, scheme) else {
            // Envoy joins repeated fields with commas: a token hidden behind another scheme is a second one.
            let hidden =
                field.split(|b| *b == b',').skip(1).any(|part| strip_scheme(part.trim_ascii_start(), scheme).is_some());
            return if hidden { Err(Denial::MultipleTokens) } else { Ok(None) };
        };
        if is_emptied(token) {
            return Ok(None);
        }
        Self::parse(token, max_bytes).map(Some).map_err(|denial| {
            let more = token.split(|b| *b == b',').skip(1).any(|part| part.trim_ascii_start().contains(&b' '));
            if more { Denial::MultipleTokens } else { denial }
        })
    }

    /// Every token of a field that was joined from several.
    pub(crate) fn all_in(field: &'a [u8], scheme: &str, max_bytes: usize) -> impl Iterator<Item = Self> {
        let parts = field.split(|b| *b == b',').map(<[u8]>::trim_ascii);
        parts.filter_map(move |part| Self::parse(strip_scheme(part, scheme)?, max_bytes).ok())
    }

    /// Wraps text that [`Self::parse`] accepted, or that is only looked up among such.
    pub(crate) const fn of_checked(text: &'a [u8]) -> Self {
        Self(text)
    }

    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The token as text; a token that was verified before is compared by its bytes, and never read as text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        std::str::from_utf8(self.0).unwrap_or_default() // All of it is ASCII.
    }
}

impl fmt::Debug for BearerToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BearerToken({} bytes)", self.0.len()) // Never the text: it is a credential.
    }
}

/// The characters of `b64token` without padding (RFC 6750 section 2.1).
#[expect(clippy::needless_bitwise_bool, reason = "without branches, for the same reason")]
const fn is_allowed(b: u8) -> bool {
    ((b | 0x20).wrapping_sub(b'a') < 26)
        | (b.wrapping_sub(b'-') < 13) // `-`, `.`, `/` and the digits, which are neighbours.
        | (b == b'_')
        | (b == b'~')
        | (b == b'+')
}

/// The text after the scheme and its spaces; other white space stays and makes the token invalid.
pub(crate) fn strip_scheme<'a>(field: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (head, tail) = field.split_at_checked(scheme.len())?;
    let parted = tail.first().is_none_or(|b| b.is_ascii_whitespace() || b.is_ascii_control());
    if !parted || !head.eq_ignore_ascii_case(scheme.as_bytes()) {
        return None;
    }
    Some(tail.iter().position(|b| *b != b' ').map_or(&[][..], |start| &tail[start..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_characters_are_those_of_the_standard() {
        for b in 0..=u8::MAX {
            assert_eq!(is_allowed(b), b.is_ascii_alphanumeric() || b"-._~+/".contains(&b), "{b:#x}");
        }
    }
}
