//! Decodes texts in the encodings of other writers' libraries.
//!
//! A Spring template without a `StringRedisSerializer` writes Java's serialisation, or JSON, which puts a text
//! into quotes. Both have one reading, so they are decoded to the original text.

use std::borrow::Cow;

/// Java's serialisation, version 5.
const JAVA: [u8; 4] = [0xac, 0xed, 0x00, 0x05];
/// A string, with its length in two bytes.
const JAVA_STRING: u8 = 0x74;
/// An object; its class description follows.
const JAVA_OBJECT: u8 = 0x73;

/// The original text; `None` for bytes that are not a text in any of the forms.
pub(super) fn plain(bytes: &[u8]) -> Option<Cow<'_, str>> {
    if let Some(serialised) = bytes.strip_prefix(&JAVA) {
        return java(serialised);
    }
    let text = std::str::from_utf8(bytes).ok()?;
    let is_quoted = text.len() >= 2 && text.starts_with('"') && text.ends_with('"');
    let unquoted = if is_quoted { serde_json::from_str::<String>(text).ok() } else { None };
    Some(unquoted.map_or(Cow::Borrowed(text), Cow::Owned))
}

fn java(serialised: &[u8]) -> Option<Cow<'_, str>> {
    match serialised {
        [JAVA_STRING, high, low, text @ ..] if text.len() == usize::from(u16::from_be_bytes([*high, *low])) => {
            std::str::from_utf8(text).ok().map(Cow::Borrowed)
        }
        // The value is at the end, after the description of the class.
        [JAVA_OBJECT, class @ ..] if class.windows(14).take(8).any(|name| name == b"java.lang.Long") => {
            let value = class.last_chunk::<8>()?;
            Some(Cow::Owned(i64::from_be_bytes(*value).to_string()))
        }
        _ => None,
    }
}

/// A text in Java's serialisation; `None` if it is too long for that.
pub(super) fn as_java(text: &str) -> Option<Vec<u8>> {
    let length = u16::try_from(text.len()).ok()?.to_be_bytes();
    Some([&JAVA[..], &[JAVA_STRING], &length, text.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_read_in_each_form_in_which_libraries_write_it() {
        let read = |bytes: &[u8]| plain(bytes).map(Cow::into_owned);
        for (bytes, expected) in [
            (&b"main"[..], Some("main")),
            (b"\"main\"", Some("main")),
            (b"\"a \\\"b\\\"\"", Some("a \"b\"")),
            (b"\"", Some("\"")),
            (b"\"a\"b\"", Some("\"a\"b\"")),
            (b"", Some("")),
            (b"\xac\xed\x00\x05t\x00\x04main", Some("main")),
            (b"\xac\xed\x00\x05t\x00\x05main", None),
            (b"\xac\xed\x00\x05", None),
            (b"\xff\xfe", None),
        ] {
            assert_eq!(read(bytes).as_deref(), expected, "{bytes:?}");
        }
        assert_eq!(read(&as_java("blacklist:j").unwrap()).as_deref(), Some("blacklist:j"));
        // `new ObjectOutputStream(…).writeObject(Long.valueOf(1_700_000_000_000L))`.
        let long = b"\xac\xed\x00\x05sr\x00\x0ejava.lang.Long;\x8b\xe4\x90\xcc\x8f#\xdf\x02\x00\x01J\x00\x05valuexr\
            \x00\x10java.lang.Number\x86\xac\x95\x1d\x0b\x94\xe0\x8b\x02\x00\x00xp\x00\x00\x01\x8b\xcf\xe5h\x00";
        assert_eq!(read(long).as_deref(), Some("1700000000000"));
    }
}
