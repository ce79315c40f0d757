//! Globs, templates and patterns in paths that are compared literally.
//!
//! `/admin/**` as a literal path matches no request: the protecting rule never applies, and any valid token
//! is accepted.

/// The first part of a literal path that is a glob, a template or a pattern, and its replacement.
pub(super) fn cure(path: &str, is_prefix: bool) -> Option<(String, String)> {
    let segments: Vec<_> = path.split('/').skip(1).map(Segment::read).collect();
    let at = segments.iter().position(|segment| segment.special.is_some())?;
    let special = segments[at].special.clone()?;
    if segments.iter().any(|segment| segment.is_pattern) {
        return Some((special, format!("`path_regex: {path}`")));
    }
    let path = |texts: Vec<&str>| texts.into_iter().flat_map(|text| ["/", text]).collect::<String>();
    let pattern = path(segments.iter().map(|segment| segment.pattern.as_str()).collect());
    let last = segments.iter().rposition(|segment| !segment.text.is_empty());
    let prefix = || {
        let above = path(segments[..at].iter().map(|segment| segment.text).collect());
        format!("`path_prefix: {}`", if above.is_empty() { "/" } else { &above })
    };
    let written = match segments[at].pattern.as_str() {
        ANY if last == Some(at) => prefix(),
        ONE if last == Some(at) && segments[at].text == "*" => {
            format!("{}, or `path_regex: {pattern}` for one segment", prefix())
        }
        _ if is_prefix && !pattern.ends_with(ANY) => {
            format!("`path_regex: {}(/.*)?`", pattern.strip_suffix('/').unwrap_or(&pattern))
        }
        _ => format!("`path_regex: {pattern}`"),
    };
    Some((special, written))
}

/// Any number of segments.
const ANY: &str = ".*";
/// A path segment.
const ONE: &str = "[^/]+";

struct Segment<'a> {
    text: &'a str,
    /// The part that is not intended literally.
    special: Option<String>,
    /// The segment as a regular expression.
    pattern: String,
    /// The segment that is a regular expression already.
    is_pattern: bool,
}

impl<'a> Segment<'a> {
    fn read(text: &'a str) -> Self {
        let is_pattern = [".*", ".+", "[^", "]+", "]*", "]{", ")+", ")*", "(?", "\\d", "\\w", "\\.", "|", "^"]
            .into_iter()
            .find(|part| text.contains(part))
            .or_else(|| text.strip_suffix('$').filter(|before| !before.is_empty()).and(Some("$")));
        let mut segment = Self {
            text,
            special: is_pattern.map(str::to_owned),
            pattern: String::new(),
            is_pattern: is_pattern.is_some(),
        };
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let (length, pattern) = placeholder(&text[..text.len() - rest.len()], rest).unwrap_or((0, ""));
            if length == 0 {
                segment.pattern += &regex::escape(c.encode_utf8(&mut [0; 4]));
                rest = &rest[c.len_utf8()..];
                continue;
            }
            segment.special.get_or_insert_with(|| rest[..length].to_owned());
            segment.pattern += pattern;
            rest = &rest[length..];
        }
        segment
    }
}

/// A glob or a placeholder at the start of `rest`: its length and meaning.
fn placeholder(before: &str, rest: &str) -> Option<(usize, &'static str)> {
    let closed = |end: char| rest.find(end).map_or(rest.len(), |at| at + 1);
    let named = |length: usize| {
        let many = ["*", "...", "path:"].iter().any(|mark| rest[..length].contains(mark));
        Some((length, if many { ANY } else { ONE }))
    };
    match rest.chars().next()? {
        '*' if rest.starts_with("**") => Some((rest.len() - rest.trim_start_matches('*').len(), ANY)),
        // `*` alone is a segment; beside other text it may be empty. Rails names it: `*rest`.
        '*' if before.is_empty() && rest.len() > 1 && rest[1..].bytes().all(is_word) => Some((rest.len(), ANY)),
        '*' => Some((1, if before.is_empty() && rest.len() == 1 { ONE } else { "[^/]*" })),
        '{' => named(closed('}')),
        '<' => named(closed('>')),
        '[' => named(closed(']')),
        '}' | '>' | ']' => Some((1, ONE)),
        '+' if before.is_empty() && rest.len() == 1 => Some((1, ONE)),
        // `batches:run` is a name with a colon; `:id` and `from-:to` are placeholders.
        ':' if !before.ends_with(|c: char| c.is_ascii_alphanumeric())
            && rest[1..].starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') =>
        {
            Some((1 + rest[1..].bytes().take_while(|b| is_word(*b)).count(), ONE))
        }
        _ => None,
    }
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, is_prefix: bool, special: &str, written: &str) {
        let found = cure(path, is_prefix);
        assert_eq!(found, Some((special.to_owned(), written.to_owned())), "{path}");
    }

    #[test]
    fn each_form_has_its_cure() {
        for (path, special, written) in [
            ("/admin/**", "**", "`path_prefix: /admin`"),
            ("/admin/**/", "**", "`path_prefix: /admin`"),
            ("/**", "**", "`path_prefix: /`"),
            ("/admin/{*rest}", "{*rest}", "`path_prefix: /admin`"),
            ("/admin/{rest...}", "{rest...}", "`path_prefix: /admin`"),
            ("/admin/*rest", "*rest", "`path_prefix: /admin`"),
            ("/docs/[...slug]", "[...slug]", "`path_prefix: /docs`"),
            ("/files/<path:name>", "<path:name>", "`path_prefix: /files`"),
            ("/v/*", "*", "`path_prefix: /v`, or `path_regex: /v/[^/]+` for one segment"),
            ("/users/{id}", "{id}", "`path_regex: /users/[^/]+`"),
            ("/users/{id}/", "{id}", "`path_regex: /users/[^/]+/`"),
            ("/a.b/:id", ":id", "`path_regex: /a\\.b/[^/]+`"),
            ("/flights/:from-:to", ":from", "`path_regex: /flights/[^/]+\\-[^/]+`"),
            ("/x/<int:id>/y", "<int:id>", "`path_regex: /x/[^/]+/y`"),
            ("/users/[id]", "[id]", "`path_regex: /users/[^/]+`"),
            ("/a*", "*", "`path_regex: /a[^/]*`"),
            ("/*.json", "*", "`path_regex: /[^/]*\\.json`"),
            ("/a/**/b", "**", "`path_regex: /a/.*/b`"),
            ("/a/+/b", "+", "`path_regex: /a/[^/]+/b`"),
            ("/users/{id", "{id", "`path_regex: /users/[^/]+`"),
            ("/users/[0-9]+", "]+", "`path_regex: /users/[0-9]+`"),
            ("/(a|b)", "|", "`path_regex: /(a|b)`"),
            ("/api/.*", ".*", "`path_regex: /api/.*`"),
            ("/api/\\d", "\\d", "`path_regex: /api/\\d`"),
            ("/admin$", "$", "`path_regex: /admin$`"),
        ] {
            check(path, false, special, written);
        }
        check("/users/{id}", true, "{id}", "`path_regex: /users/[^/]+(/.*)?`");
        check("/users/{id}/", true, "{id}", "`path_regex: /users/[^/]+(/.*)?`");
        check("/users/{id}/**", true, "{id}", "`path_regex: /users/[^/]+/.*`");
        check("/admin/*", true, "*", "`path_prefix: /admin`, or `path_regex: /admin/[^/]+` for one segment");
    }

    #[test]
    fn literal_paths_have_no_template() {
        for path in [
            "/",
            "/a/",
            "/v1/batches:run",
            "/urn:x:y",
            "/$metadata",
            "/Products(1)",
            "/@scope/name",
            "/~user",
            "/a+b",
            "/a%2Ab",
            "/%7Bid%7D",
            "/a:1",
            "/:",
            "/a,b;c=d!'&",
        ] {
            assert_eq!(cure(path, false), None, "{path}");
        }
    }
}
