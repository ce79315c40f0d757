//! The readings of a path by servers: decoded or not, with or without parameters, dots and letter case.
//!
//! Used where a missing reading would lose a protection; a superfluous one only adds requirements.

/// The most layers of encoding, more than any chain of proxies removes.
const MAX_DECODES: usize = 4;

/// The steps from a path to a resource in a server. Empty segments and dots belong together, because no
/// server resolves one of the two and keeps the other where it matters.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent: a server may do any of them")]
struct Style {
    /// The path ends at a decoded `?` or `#`, or at a NUL.
    cuts: bool,
    /// A segment ends at `;` (or at a character that ends the whole path with `cuts`).
    strips: bool,
    /// `\` is `/`.
    folds: bool,
    /// Empty segments are removed, dots are resolved, a segment's trailing dots, spaces and controls are
    /// removed.
    resolves: bool,
}

const LOOSEST: Style = Style { cuts: false, strips: true, folds: true, resolves: true };

/// The reading of the loosest server: it decodes until nothing changes (at most [`MAX_DECODES`] times),
/// then `\` is `/`, parameters and empty segments are removed, dots are resolved and case is folded.
#[must_use]
pub fn loosest(path: &str) -> String {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..MAX_DECODES {
        let decoded = decode_once(&bytes);
        if decoded == bytes {
            break;
        }
        bytes = decoded;
    }
    read(&text_of(&bytes), LOOSEST)
}

/// Every reading of a path, the loosest first. Their number grows only with the unusual characters in
/// the path, and is at most 2 × 5 × 16 + 1.
#[must_use]
pub fn readings(path: &str) -> Vec<String> {
    let mut found = vec![loosest(path)];
    for start in [Some(path), without_authority(path)].into_iter().flatten() {
        let mut bytes = start.as_bytes().to_vec();
        for depth in 0..=MAX_DECODES {
            let text = text_of(&bytes);
            for style in styles(&text) {
                let reading = read(&text, style);
                if !found.contains(&reading) {
                    found.push(reading);
                }
            }
            let decoded = decode_once(&bytes);
            if depth == MAX_DECODES || decoded == bytes {
                break;
            }
            bytes = decoded;
        }
    }
    found
}

/// The path of `scheme://authority/path` and of `//authority/path` (RFC 3986 section 4.2), for a server
/// that reads the target as a URL.
fn without_authority(target: &str) -> Option<&str> {
    let slash = ['/', '\\'];
    let (scheme, rest) = target.split_once(':').unwrap_or(("", target));
    let rest = if scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')) {
        rest
    } else {
        target
    };
    let authority = rest.strip_prefix(slash)?.strip_prefix(slash)?;
    Some(authority.find(slash).map_or("/", |at| &authority[at..]))
}

/// The styles that read this text differently.
fn styles(text: &str) -> impl Iterator<Item = Style> {
    let both = |differ: bool| if differ { &[false, true][..] } else { &[false] };
    let (cuts, folds) = (both(text.contains(['?', '#', '\0'])), both(text.contains('\\')));
    let (strips, resolves) = (both(text.contains([';', '?', '#', '\0'])), both(!is_resolved(text)));
    cuts.iter().flat_map(move |&cuts| {
        strips.iter().flat_map(move |&strips| {
            folds
                .iter()
                .flat_map(move |&folds| resolves.iter().map(move |&resolves| Style { cuts, strips, folds, resolves }))
        })
    })
}

/// Whether resolving would change nothing, even after folding and stripping.
fn is_resolved(text: &str) -> bool {
    !text.contains(['\\', ';', '?', '#', '\0'])
        && text.strip_prefix('/').is_some_and(|rest| {
            rest.split('/').all(|s| !s.is_empty() && !s.ends_with(|c: char| matches!(c, '.' | ' ') || c.is_control()))
        })
}

fn read(text: &str, style: Style) -> String {
    let text = if style.cuts { text.split(['?', '#', '\0']).next().unwrap_or_default() } else { text };
    let mut segments: Vec<&str> = Vec::new();
    let separators: &[char] = if style.folds { &['/', '\\'] } else { &['/'] };
    for segment in text.strip_prefix(separators).unwrap_or(text).split(separators) {
        let segment =
            if style.strips { segment.split([';', '?', '#', '\0']).next().unwrap_or_default() } else { segment };
        let is_blank = |c: char| c == ' ' || c.is_control();
        match segment.trim_matches(is_blank) {
            ".." if style.resolves => {
                segments.pop();
            }
            _ if !style.resolves => segments.push(segment),
            _ => match segment.trim_end_matches(|c| c == '.' || is_blank(c)) {
                "" => {}
                name => segments.push(name),
            },
        }
    }
    without_case(&format!("/{}", segments.join("/")))
}

/// Text in the form of readings.
#[must_use]
pub fn without_case(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.chars().flat_map(fold_char).collect()
}

/// Case-folded, covering servers that raise, lower or compare by Unicode.
fn fold_char(c: char) -> impl Iterator<Item = char> {
    c.to_uppercase().flat_map(char::to_lowercase)
}

/// The byte written as `%XX` at `at`.
#[must_use]
pub fn escaped(path: &[u8], at: usize) -> Option<u8> {
    let digit = |offset: usize| char::from(*path.get(at + offset)?).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(1)? << 4 | digit(2)?)
}

/// Every `%XX` as its byte, once.
#[must_use]
pub fn decode_once(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        if let Some(byte) = (path[at] == b'%').then(|| escaped(path, at)).flatten() {
            decoded.push(byte);
            at += 3;
        } else {
            decoded.push(path[at]);
            at += 1;
        }
    }
    decoded
}

/// Bytes as text; overlong UTF-8 (RFC 3629 section 3) becomes the character of old decoders, full-width
/// forms become those of Unicode's compatibility normalisation.
fn text_of(bytes: &[u8]) -> String {
    if bytes.is_ascii() {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let tail = |offset: usize| bytes.get(at + offset).filter(|b| (0x80..0xc0).contains(*b)).map(|b| b & 0x3f);
        let overlong = match bytes[at] {
            lead @ (0xc0 | 0xc1) => tail(1).map(|low| (lead << 6 | low, 2)),
            0xe0 => tail(1).filter(|b| *b < 2).zip(tail(2)).map(|(high, low)| (high << 6 | low, 3)),
            0xf0 if tail(1) == Some(0) => {
                tail(2).filter(|b| *b < 2).zip(tail(3)).map(|(high, low)| (high << 6 | low, 4))
            }
            _ => None,
        };
        let (byte, length) = overlong.unwrap_or((bytes[at], 1));
        plain.push(byte);
        at += length;
    }
    let narrow = |c: char| match u32::from(c) {
        wide @ 0xff01..=0xff5e => char::from_u32(wide - 0xfee0).unwrap_or(c),
        _ => c,
    };
    String::from_utf8_lossy(&plain).chars().map(narrow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_is_read_in_every_way_that_servers_have() {
        for (path, loosest, others) in [
            ("/a", "/a", &[][..]),
            ("/A/", "/a", &["/a/"]),
            ("/a.", "/a", &["/a."]),
            ("/a/../b", "/b", &["/a/../b"]),
            ("/a;x/b", "/a/b", &["/a;x/b"]),
            ("/a%2Fb", "/a/b", &["/a%2fb"]),
            ("/a%3fx/b", "/a/b", &["/a%3fx/b", "/a?x/b", "/a"]),
            ("/a%00/../b", "/b", &["/a"]),
            ("//host/a", "/host/a", &["/a", "//host/a"]),
            ("/\\host\\a", "/host/a", &["/a"]),
            ("http://host/a/b", "/http:/host/a/b", &["/a/b"]),
            ("http://host", "/http:/host", &["/"]),
            ("/%C0%AE%c0%ae/a", "/a", &[]),
            ("/%e0%80%ae%f0%80%80%ae/a", "/a", &[]),
            ("/%E2%84%AA%EF%BC%A1", "/ka", &[]),
            ("/a/%EF%BC%8E%EF%BC%8E%EF%BC%8Fb", "/b", &[]),
            ("/.. /a", "/a", &[]),
            ("/a/... /b", "/a/b", &[]),
            ("/%25252e%25252e/a", "/a", &["/%2e%2e/a"]),
        ] {
            let found = readings(path);
            assert_eq!(found[0], loosest, "{path}");
            for other in others {
                assert!(found.iter().any(|reading| reading == other), "{other} of {path} in {found:?}");
            }
        }
        assert_eq!(readings("/a/b-c/1"), ["/a/b-c/1"]);
    }

    proptest! {
        #[test]
        fn readings_are_few_and_absolute(path in "\\PC{0,60}|[/.%;\\\\2efcEF5?#a]{0,60}") {
            let found = readings(&path);
            prop_assert!(found.len() <= 161, "{}", found.len());
            prop_assert!(found.iter().all(|reading| reading.starts_with('/')));
            prop_assert!(found[0].split('/').skip(1).all(|s| s != "." && s != ".."));
        }
    }
}
