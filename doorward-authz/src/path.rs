//! Request paths: the normal form, and the ways in which servers may read other forms.
//!
//! The path arrives as the client wrote it. A rule that loosens must not match a spelling that the
//! upstream resolves to something else (the class of CVEs named path confusion), and a rule that
//! protects must not miss one.

use super::readings::{decode_once, escaped, loosest, readings};

/// A request path without query and fragment, read in every way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Path<'a> {
    text: &'a str,
    normal: bool,
    /// Too long to be read in every way.
    too_odd: bool,
    /// The loosest first; empty if all servers read the text unchanged.
    readings: Vec<String>,
}

/// The longest path, in bytes, with more than one reading: each reading costs time, and a client chooses
/// their number.
pub const MAX_ODD: usize = 2048;

/// The same for a path in normal form with escapes or capitals, which has few readings: the length of a
/// target that servers should accept (RFC 9110 section 4.1).
pub const MAX_READ: usize = 8000;

impl<'a> Path<'a> {
    /// Takes a request target (RFC 9112 section 3.2.1); the query and a plain fragment are dropped.
    #[must_use]
    pub fn new(target: &'a str) -> Self {
        let (before_query, _) = parted(target, b'?');
        let (text, fragment) = parted(before_query, b'#');
        // A server that takes `#` literally must not find a path behind it.
        let plain_fragment = fragment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'='));
        let simple = plain_fragment && is_simple(text);
        let normal = simple || plain_fragment && is_normal(text);
        let plain = simple || normal && is_plain(text);
        let too_odd = !plain && before_query.len() > if normal { MAX_READ } else { MAX_ODD };
        let readings = match normal {
            _ if too_odd => vec![loosest(before_query)],
            true if plain => Vec::new(),
            true => readings(text),
            false => readings(before_query),
        };
        Self { text, normal, too_odd, readings }
    }

    /// The original path.
    #[must_use]
    pub const fn text(&self) -> &'a str {
        self.text
    }

    /// The path, if it has only one reading apart from letter case and trailing characters.
    #[must_use]
    pub fn normal(&self) -> Option<&'a str> {
        self.normal.then_some(self.text)
    }

    /// The reading of the loosest server.
    #[must_use]
    pub fn folded(&self) -> &str {
        self.readings.first().map_or(self.text, String::as_str)
    }

    /// All readings of servers, case-folded; the loosest first.
    pub fn readings(&self) -> impl Iterator<Item = &str> {
        let itself = self.readings.is_empty().then_some(self.text);
        itself.into_iter().chain(self.readings.iter().map(String::as_str))
    }

    /// Whether it is too long for the number of its readings.
    #[must_use]
    pub const fn is_too_odd(&self) -> bool {
        self.too_odd
    }
}

/// The text before the first `mark`, an ASCII character, and the text after it. For texts as short as paths that is
/// faster than `split_once`.
fn parted(text: &str, mark: u8) -> (&str, &str) {
    text.bytes().position(|b| b == mark).map_or((text, ""), |at| (&text[..at], &text[at + 1..]))
}

/// Whether a path is segments of small letters, digits, `-` and `_`, as most are: such a path is normal and plain, which
/// takes longer to find out.
fn is_simple(path: &str) -> bool {
    let Some(relative) = path.strip_prefix('/') else { return false };
    let mut before = b'/';
    let fits = relative.bytes().all(|b| {
        let starts_segment = std::mem::replace(&mut before, b) == b'/';
        matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') || b == b'/' && !starts_segment
    });
    fits && before != b'/'
}

/// Whether a normal path has only one reading: no escapes, no capitals, no trailing characters.
fn is_plain(path: &str) -> bool {
    !path.bytes().any(|b| b == b'%' || b.is_ascii_uppercase())
        && (path == "/" || path.split('/').skip(1).all(|segment| !segment.is_empty() && !segment.ends_with('.')))
}

/// Whether every server reads this path alike: it is absolute; it has no empty segments, no dot segments, no `\`, `;`,
/// control or non-ASCII byte, no escape of these, of `/ % ? #` or of a character that needs no escape; and escaped
/// text beyond ASCII is UTF-8 without look-alikes of them.
#[must_use]
pub fn is_normal(path: &str) -> bool {
    let Some(relative) = path.strip_prefix('/') else { return false };
    let mut segments = relative.split('/').peekable();
    while let Some(segment) = segments.next() {
        let fits = match segment {
            "" => segments.peek().is_none(), // A trailing slash is one empty segment at the end.
            // Some file systems drop trailing dots and spaces, which leaves nothing of `..%20`.
            _ => !is_all_dots(segment.as_bytes()),
        };
        if !fits {
            return false;
        }
    }
    bytes_normal(path.as_bytes())
}

/// Whether a segment is dots and escaped spaces alone.
fn is_all_dots(segment: &[u8]) -> bool {
    let mut rest = segment;
    while let [b'.', after @ ..] | [b'%', b'2', b'0', after @ ..] = rest {
        rest = after;
    }
    rest.is_empty()
}

fn bytes_normal(path: &[u8]) -> bool {
    let (mut at, mut beyond_ascii) = (0, false);
    while at < path.len() {
        match path[at] {
            b'%' => match escaped(path, at) {
                Some(byte) if needs_escape(byte) => {
                    beyond_ascii |= !byte.is_ascii();
                    at += 2;
                }
                _ => return false,
            },
            b'\\' | b';' | b'#' | b'?' => return false,
            byte if !(0x21..=0x7e).contains(&byte) => return false,
            _ => {}
        }
        at += 1;
    }
    !beyond_ascii || std::str::from_utf8(&decode_once(path)).is_ok_and(|text| !text.chars().any(is_look_alike))
}

/// An escape is harmless only where decoding it changes neither the structure nor the spelling.
fn needs_escape(byte: u8) -> bool {
    let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    !unreserved && !matches!(byte, b'/' | b'\\' | b';' | b'%' | b'?' | b'#') && !byte.is_ascii_control()
}

/// Characters that some servers convert to `/ \ . ; % ? #` or a letter, or drop: by compatibility
/// normalisation (Unicode NFKC), best-fit conversion or because they are invisible.
const fn is_look_alike(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{a0}' | '\u{ad}' | '\u{37e}' // C1 controls, no-break space, soft hyphen, `;`
        | '\u{2000}'..='\u{200b}' | '\u{200e}'..='\u{206f}' // spaces, bidi, dot leaders, `⁄` (ZWJ, ZWNJ stay)
        | '\u{2100}'..='\u{214f}' // `℀`, the Kelvin sign
        | '\u{2200}'..='\u{22ff}' | '\u{2488}'..='\u{249b}' | '\u{29f5}'..='\u{29f9}' // `∕`, `∖`, `⒈`, `⧸`
        | '\u{3000}'..='\u{3002}' // ideographic space and stop
        | '\u{fe10}'..='\u{fe19}' | '\u{fe30}'..='\u{fe6f}' | '\u{feff}' // small forms, BOM
        | '\u{ff00}'..='\u{ff61}' | '\u{fff0}'..='\u{ffff}' // full-width ASCII, specials
        | '\u{e0000}'..='\u{e0fff}' // tags
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_paths_have_one_reading() {
        for path in [
            "/",
            "/a",
            "/a/b",
            "/a/",
            "/a%20b",
            "/a%2Bb",
            "/a~b",
            "/a.b",
            "/a..b",
            "/..a",
            "/a:b@c!$&'()*+,=",
            "/%C3%A9",
            "/%E6%97%A5%E6%9C%AC%E3%82%B3",
            "/%F0%9F%98%80",
            "/a?x=/../b",
            "/a#top",
            "/a?x#/../y",
        ] {
            assert!(Path::new(path).normal().is_some(), "{path}");
        }
        for (path, folded) in [
            ("", "/"),
            ("*", "/*"),
            ("a", "/a"),
            ("//", "/"),
            ("//a", "/a"),
            ("/a//b", "/a/b"),
            ("/./a", "/a"),
            ("/a/.", "/a"),
            ("/a/..", "/"),
            ("/a/../b", "/b"),
            ("/a/../../b", "/b"),
            ("/a/...", "/a"),
            ("/a/..%20/b", "/b"),
            ("/a;x=1/b", "/a/b"),
            ("/a/..;/b", "/b"),
            ("/a\\b", "/a/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/.%2E/b", "/b"),
            ("/a%2fb", "/a/b"),
            ("/a/%252e%252e/b", "/b"),
            ("/a/%c0%ae%c0%ae%c0%afb", "/b"),
            ("/a%ff", "/a\u{fffd}"),
            ("/a%EF%BC%8Fb", "/a/b"),
            ("/a%5cb", "/a/b"),
            ("/%61", "/a"),
            ("/a%3bx", "/a"),
            ("/a%3fx", "/a"),
            ("/a%23x", "/a"),
            ("/a%00b", "/a"),
            ("/a%", "/a%"),
            ("/a%zz", "/a%zz"),
            ("/é", "/é"),
            ("/a b", "/a b"),
            ("/a\t", "/a"),
            ("/a/..%09/b", "/b"),
            ("/a#/../b", "/b"),
            ("/a%23/../b", "/b"),
        ] {
            let read = Path::new(path);
            assert_eq!((read.normal(), read.folded()), (None, folded), "{path}");
        }
    }

    #[test]
    fn long_unusual_paths_are_not_read_in_every_way() {
        let long = format!("/{}", "a;/".repeat(MAX_ODD));
        assert!(Path::new(&long).is_too_odd());
        assert_eq!(Path::new(&long).readings().count(), 1);
        assert!(!Path::new(&format!("/{}", "a".repeat(MAX_ODD))).is_too_odd());
        for normal in ["/A", "/%C3%A9"] {
            assert!(!Path::new(&normal.repeat(MAX_READ / normal.len())).is_too_odd());
            assert!(Path::new(&normal.repeat(MAX_READ / normal.len() + 1)).is_too_odd());
        }
        assert!(!Path::new(&"/a".repeat(MAX_READ)).is_too_odd(), "plain paths cost nothing");
    }

    proptest! {
        #[test]
        fn simple_paths_are_normal_and_plain(path in "[/a-c0._%A~-]{0,8}") {
            prop_assert!(!is_simple(&path) || is_normal(&path) && is_plain(&path));
        }

        #[test]
        fn any_target_has_a_reading_without_dots(target in "\\PC{0,60}|[/.%;\\\\2efcEF5?#a]{0,60}") {
            let path = Path::new(&target);
            prop_assert!(path.folded().starts_with('/'));
            prop_assert_eq!(path.readings().next(), Some(path.folded()));
            prop_assert!(path.folded().split('/').skip(1).all(|s| s != "." && s != ".."));
        }
    }
}
