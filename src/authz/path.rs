//! Request paths: what is in normal form, and what the loosest server would make of the rest.
//!
//! The path arrives as the client wrote it. A rule that loosens must not match a spelling that the
//! upstream resolves to something else (the class of CVEs named path confusion), and a rule that
//! protects must not miss one.

/// A request path without query and fragment, read both ways.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Path<'a> {
    text: &'a str,
    /// What a server that decodes, strips parameters and resolves dots repeatedly would serve; only
    /// where that differs from the text or the text is not in normal form.
    folded: Option<String>,
}

impl<'a> Path<'a> {
    /// Takes a request target (RFC 9112 section 3.2.1); the query and a plain fragment are dropped.
    #[must_use]
    pub fn new(target: &'a str) -> Self {
        let (before_query, _) = target.split_once('?').unwrap_or((target, ""));
        let (text, fragment) = before_query.split_once('#').unwrap_or((before_query, ""));
        // A server that takes `#` literally must not find a path behind it.
        let plain_fragment = fragment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'='));
        let folded = (!plain_fragment || !is_normal(text)).then(|| fold(before_query));
        Self { text, folded }
    }

    /// The path, if it has only one reading.
    #[must_use]
    pub fn normal(&self) -> Option<&'a str> {
        self.folded.is_none().then_some(self.text)
    }

    /// The path that the loosest server would serve.
    #[must_use]
    pub fn folded(&self) -> &str {
        self.folded.as_deref().unwrap_or(self.text)
    }
}

/// Whether every server reads this path alike: absolute, no empty or dot segments, no `\`, `;`, control
/// or non-ASCII byte, no escape of these, of `/`, `%` or of a character that needs none.
#[must_use]
pub fn is_normal(path: &str) -> bool {
    let Some(relative) = path.strip_prefix('/') else { return false };
    let segments_normal = relative.split('/').enumerate().all(|(at, segment)| match segment {
        "." | ".." => false,
        "" => at == relative.split('/').count() - 1, // A trailing slash is one empty segment at the end.
        _ => true,
    });
    segments_normal && bytes_normal(path.as_bytes())
}

fn bytes_normal(path: &[u8]) -> bool {
    let mut at = 0;
    while at < path.len() {
        match path[at] {
            b'%' => match escaped(path, at) {
                Some(byte) if needs_escape(byte) => at += 2,
                _ => return false,
            },
            b'\\' | b';' | b'#' | b'?' => return false,
            byte if !(0x21..=0x7e).contains(&byte) => return false,
            _ => {}
        }
        at += 1;
    }
    true
}

/// An escape is harmless only where decoding it changes neither the structure nor the spelling.
fn needs_escape(byte: u8) -> bool {
    let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    !unreserved && !matches!(byte, b'/' | b'\\' | b';' | b'%') && !byte.is_ascii_control()
}

/// The byte written as `%XX` at `at`.
fn escaped(path: &[u8], at: usize) -> Option<u8> {
    let digit = |offset: usize| char::from(*path.get(at + offset)?).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some(digit(1)? << 4 | digit(2)?)
}

/// Decodes until nothing changes (at most [`MAX_DECODES`] times), then `\` is `/`, parameters, queries
/// and fragments go, empty segments vanish and dots are resolved.
fn fold(path: &str) -> String {
    let mut bytes = path.as_bytes().to_vec();
    for _ in 0..MAX_DECODES {
        let decoded = decode_once(&bytes);
        if decoded == bytes {
            break;
        }
        bytes = decoded;
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split(['/', '\\']) {
        match segment.split([';', '?', '#', '\0']).next().unwrap_or_default() {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    format!("/{}", segments.join("/"))
}

/// More layers of encoding than any chain of proxies takes off.
const MAX_DECODES: usize = 4;

fn decode_once(path: &[u8]) -> Vec<u8> {
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
            "/...",
            "/a:b@c!$&'()*+,=",
            "/%C3%A9",
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
            ("/a;x=1/b", "/a/b"),
            ("/a/..;/b", "/b"),
            ("/a\\b", "/a/b"),
            ("/a/%2e%2e/b", "/b"),
            ("/a/.%2E/b", "/b"),
            ("/a%2fb", "/a/b"),
            ("/a/%252e%252e/b", "/b"),
            ("/a%5cb", "/a/b"),
            ("/%61", "/a"),
            ("/a%3bx", "/a"),
            ("/a%00b", "/a"),
            ("/a%", "/a%"),
            ("/a%zz", "/a%zz"),
            ("/é", "/é"),
            ("/a b", "/a b"),
            ("/a\t", "/a\t"),
            ("/a#/../b", "/b"),
            ("/a%23/../b", "/b"),
        ] {
            let read = Path::new(path);
            assert_eq!((read.normal(), read.folded()), (None, folded), "{path}");
        }
    }

    proptest! {
        #[test]
        fn folding_any_target_gives_a_path_without_dots_or_empty_segments(target in "\\PC{0,60}|[/.%;\\\\2efcEF5?#a]{0,60}") {
            let path = Path::new(&target);
            let folded = path.folded();
            prop_assert!(folded.starts_with('/'));
            prop_assert!(path.normal().is_some() || folded.split('/').skip(1).all(|s| s != "." && s != ".."));
        }
    }
}
