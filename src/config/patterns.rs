//! Regular expressions that no path matches, or that contain the placeholder of another router: unchanged, the rule
//! would never apply, and a token without its scopes would be accepted.

use regex_syntax::ast::{self, AssertionKind, Ast, LiteralKind, RepetitionKind};
use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// The reason why a part of a pattern never matches a path, and the remedy.
pub(super) fn never_matches(pattern: &str) -> Option<String> {
    branches(pattern).into_iter().find_map(|branch| {
        let cause = cause(branch)?;
        Some(if branch == pattern { cause } else { format!("`{branch}` {cause}") })
    })
}

/// The alternatives of a pattern at its top.
fn branches(pattern: &str) -> Vec<&str> {
    match &ast::parse::Parser::new().parse(pattern) {
        Ok(Ast::Alternation(several)) => several
            .asts
            .iter()
            .filter_map(|one| pattern.get(one.span().start.offset..one.span().end.offset))
            .filter(|branch| regex_syntax::parse(branch).is_ok())
            .collect(),
        _ => vec![pattern],
    }
}

fn cause(pattern: &str) -> Option<String> {
    let hir = regex_syntax::parse(pattern).ok()?;
    let path = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#');
    let matches = |allowed: &dyn Fn(u8) -> bool, first: &dyn Fn(u8) -> bool| Texts { allowed, first }.have(&hir);
    let (slash, any) = (|byte| byte == b'/', |_| true);
    Some(if matches(&path, &slash) {
        return None;
    } else if pattern.contains("://") {
        "never matches: only the path is compared, without scheme and host; write the path, and the host under `hosts`"
            .to_owned()
    } else if matches(&path, &path) {
        let rest = pattern.trim_start_matches('^');
        let rest = if branches(rest).len() > 1 { format!("(?:{rest})") } else { rest.to_owned() };
        format!("never matches: a path begins with `/`; write `/{rest}`")
    } else if !matches(&|byte| byte.is_ascii(), &any) && matches(&any, &any) {
        "never matches: a path has no byte beyond ASCII; write its escapes, such as `%C3%A9` for `é`".to_owned()
    } else if matches(&|byte| path(byte) || matches!(byte, b'?' | b'#'), &any) {
        "never matches: only the path is compared, which has no query and no fragment; leave out `?`, `#` and what follows"
            .to_owned()
    } else if matches(&any, &any) {
        "never matches: a path has no white space and no control character; write escapes, such as `%20` for a space"
            .to_owned()
    } else {
        "never matches: a character must precede `^` or follow `$`; the whole path is compared, so leave both out"
            .to_owned()
    })
}

/// Texts of certain bytes; every byte beyond ASCII is `0x80`.
struct Texts<'a> {
    allowed: &'a dyn Fn(u8) -> bool,
    first: &'a dyn Fn(u8) -> bool,
}

/// The position of a match: at the start of the text or after it, and whether the text must end here.
const STATES: [u8; 4] = [START, INSIDE, START_ENDED, INSIDE_ENDED];
const START: u8 = 1;
const INSIDE: u8 = 2;
const START_ENDED: u8 = 4;
const INSIDE_ENDED: u8 = 8;

impl Texts<'_> {
    /// Whether it matches a non-empty text as a whole.
    fn have(&self, hir: &Hir) -> bool {
        self.after(hir, START) & (INSIDE | INSIDE_ENDED) != 0
    }

    /// The possible end states of a match of `hir` that begins in one of `from`.
    fn after(&self, hir: &Hir, from: u8) -> u8 {
        match hir.kind() {
            HirKind::Empty => from,
            HirKind::Literal(literal) => literal.0.iter().fold(from, |from, byte| {
                let byte = (*byte).min(0x80);
                self.consume(from, |has: &dyn Fn(u8) -> bool| has(byte))
            }),
            HirKind::Class(class) => self.consume(from, |has: &dyn Fn(u8) -> bool| any_of(class, has)),
            HirKind::Look(look) => match look {
                Look::Start | Look::StartLF | Look::StartCRLF => from & (START | START_ENDED),
                Look::End | Look::EndLF | Look::EndCRLF => {
                    STATES.iter().filter(|state| from & **state != 0).fold(0, |ended, state| {
                        ended | if state & (START | START_ENDED) != 0 { START_ENDED } else { INSIDE_ENDED }
                    })
                }
                _ => from, // A word boundary: assumed to match.
            },
            HirKind::Capture(group) => self.after(&group.sub, from),
            HirKind::Concat(parts) => parts.iter().fold(from, |from, part| self.after(part, from)),
            HirKind::Alternation(branches) => branches.iter().fold(0, |all, branch| all | self.after(branch, from)),
            HirKind::Repetition(repeated) => {
                // States only advance, so more iterations than states add nothing.
                let turns = |count: u32| count.min(4);
                let mut states = (0..turns(repeated.min)).fold(from, |from, _| self.after(&repeated.sub, from));
                let more = repeated.max.map_or(4, |max| turns(max - repeated.min));
                for _ in 0..more {
                    states |= self.after(&repeated.sub, states);
                }
                states
            }
        }
    }

    /// The states after one character; `any` returns whether a character can satisfy a test.
    fn consume(&self, from: u8, any: impl Fn(&dyn Fn(u8) -> bool) -> bool) -> u8 {
        let begins = from & START != 0 && any(&|byte| (self.first)(byte) && (self.allowed)(byte));
        let continues = from & INSIDE != 0 && any(self.allowed);
        if begins || continues { INSIDE } else { 0 }
    }
}

fn any_of(class: &Class, has: &dyn Fn(u8) -> bool) -> bool {
    let ascii = |start: u32, end: u32| (0..=127_u8).any(|byte| (start..=end).contains(&byte.into()) && has(byte));
    let any = |start: u32, end: u32| ascii(start, end) || end > 127 && has(0x80);
    match class {
        Class::Unicode(class) => class.iter().any(|range| any(range.start().into(), range.end().into())),
        Class::Bytes(class) => class.iter().any(|range| any(range.start().into(), range.end().into())),
    }
}

/// A part of a regular expression with another meaning in other routers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Foreign {
    /// `/*`, which repeats the slash.
    Slashes,
    /// `:id`, `<id>`, `$id`: matches only itself, or nothing.
    Placeholder(String),
    /// `[id]` for a whole segment: matches one of its letters.
    Letters(String),
}

pub(super) fn foreign(pattern: &str) -> Option<Foreign> {
    find_foreign(&ast::parse::Parser::new().parse(pattern).ok()?, pattern)
}

fn find_foreign(ast: &Ast, pattern: &str) -> Option<Foreign> {
    match ast {
        Ast::Concat(parts) => in_sequence(&parts.asts, pattern),
        Ast::Alternation(branches) => branches.asts.iter().find_map(|branch| find_foreign(branch, pattern)),
        Ast::Group(group) => find_foreign(&group.ast, pattern),
        Ast::Repetition(repeated) => {
            let is_slash = matches!(&*repeated.ast, Ast::Literal(literal) if literal.c == '/');
            if is_slash && matches!(repeated.op.kind, RepetitionKind::ZeroOrMore) {
                return Some(Foreign::Slashes);
            }
            // A repeated class is intended as one.
            if matches!(&*repeated.ast, Ast::ClassBracketed(_)) { None } else { find_foreign(&repeated.ast, pattern) }
        }
        one => in_sequence(std::slice::from_ref(one), pattern),
    }
}

fn in_sequence(parts: &[Ast], pattern: &str) -> Option<Foreign> {
    let slash = |ast: &Ast| matches!(ast, Ast::Literal(literal) if literal.c == '/');
    let mut text = String::new();
    for (at, part) in parts.iter().enumerate() {
        match part {
            Ast::Literal(literal) if literal.kind == LiteralKind::Verbatim => text.push(literal.c),
            Ast::Assertion(assertion) if assertion.kind == AssertionKind::EndLine => text.push('$'),
            Ast::ClassBracketed(class) => {
                let is_segment = at > 0 && slash(&parts[at - 1]) && parts.get(at + 1).is_none_or(slash);
                let written = pattern.get(class.span.start.offset..class.span.end.offset).unwrap_or_default();
                let name = written.trim_matches(['[', ']']).trim_start_matches('.');
                let is_name = name.len() > 1 && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
                if is_segment && is_name && name.bytes().all(is_word) {
                    return Some(Foreign::Letters(written.to_owned()));
                }
                text.push('\0');
            }
            // The end of a name, as in `:id?`.
            Ast::Repetition(repeated) if matches!(&*repeated.ast, Ast::Literal(literal) if literal.c != '/') => {
                if let Ast::Literal(literal) = &*repeated.ast {
                    text.push(literal.c);
                }
            }
            other => {
                if !matches!(other, Ast::Literal(_) | Ast::Assertion(_) | Ast::Dot(_) | Ast::Empty(_) | Ast::Flags(_))
                    && let Some(found) = nested(other, pattern)
                {
                    return Some(found);
                }
                text.push('\0');
            }
        }
    }
    placeholder(&text).map(Foreign::Placeholder)
}

fn nested(ast: &Ast, pattern: &str) -> Option<Foreign> {
    match ast {
        Ast::ClassUnicode(_) | Ast::ClassPerl(_) => None,
        other => find_foreign(other, pattern),
    }
}

/// The first `:name`, `<name>` or `$name` of a text.
fn placeholder(text: &str) -> Option<String> {
    text.char_indices().find_map(|(at, mark)| {
        let (before, rest) = (&text[..at], &text[at + mark.len_utf8()..]);
        let name = &rest[..rest.bytes().take_while(|byte| is_word(*byte)).count()];
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        match mark {
            // `batches:run` is a name with a colon.
            ':' if is_name && !before.ends_with(|c: char| c.is_ascii_alphanumeric()) => Some(format!(":{name}")),
            '$' if is_name && (before.is_empty() || before.ends_with('/')) => Some(format!("${name}")),
            '<' => rest.find('>').map(|end| text[at..=at + 1 + end].replace('\0', "")),
            _ => None,
        }
    })
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_matches_has_a_reason() {
        for (pattern, cause) in [
            ("admin(/.*)?", "write `/admin(/.*)?`"),
            ("^admin", "write `/admin`"),
            ("(?i)admin", "begins with `/`"),
            ("a|b", "`a` never matches: a path begins with `/`; write `/a`"),
            ("/ok|admin/.*", "`admin/.*` never matches: a path begins with `/`; write `/admin/.*`"),
            ("https://shop.test/admin", "the host under `hosts`"),
            ("(admin|users)/x", "write `/(admin|users)/x`"),
            ("[a-z]+", "write `/[a-z]+`"),
            ("/^a$b", "precede `^` or follow `$`"),
            ("^a$b", "precede `^` or follow `$`"),
            ("/a$/b", "precede `^` or follow `$`"),
            ("/a^b", "precede `^` or follow `$`"),
            ("/a\\n/b", "white space"),
            ("\\?", "no query and no fragment"),
            ("/a\\?b=.*", "no query and no fragment"),
            ("/a#top", "no query and no fragment"),
            ("/a\\n", "white space"),
            ("/a b", "white space"),
            ("/a\\s+b", "white space"),
            ("/\\x00", "white space"),
            ("/[\\x00-\\x1f]", "white space"),
            ("/café", "beyond ASCII"),
            ("/\\p{Greek}{2,}", "beyond ASCII"),
            ("$", "precede `^` or follow `$`"),
            ("[^\\s\\S]", "precede `^`"),
        ] {
            let found = never_matches(pattern);
            assert!(found.as_deref().is_some_and(|found| found.contains(cause)), "{pattern:?}: {found:?}");
        }
        for pattern in [
            "/",
            ".*",
            "/.*",
            ".+",
            "^/a$",
            "^(/a|/b)$",
            "/a|/b",
            "(/a|b)",
            "/a(\\?.*)?",
            "/(a|é)",
            "/[^/]+",
            "(?i)/ADMIN",
            "/a/\\d{2,}",
            "/\\ba\\b",
            "[/]a",
            "\\x2fa",
            "/?a?/b",
            "/{0,3}/a",
            "(?s)/.",
            "/caf%C3%A9",
            "(^|/)a?/b",
            "/[^é]+",
        ] {
            assert_eq!(never_matches(pattern), None, "{pattern:?}");
        }
    }

    #[test]
    fn globs_and_placeholders_in_patterns() {
        let placeholder = |name: &str| Some(Foreign::Placeholder(name.to_owned()));
        let letters = |class: &str| Some(Foreign::Letters(class.to_owned()));
        for (pattern, expected) in [
            ("/admin/*", Some(Foreign::Slashes)),
            ("/admin/**", Some(Foreign::Slashes)),
            ("(/a/*)?", Some(Foreign::Slashes)),
            ("/users/:id", placeholder(":id")),
            ("/users/<id>/x", placeholder("<id>")),
            ("/users/<int:id>/x", placeholder("<int:id>")),
            ("/w/(:id)", placeholder(":id")),
            ("/w/(:id)?/x", placeholder(":id")),
            ("/w/:id(\\d+)", placeholder(":id")),
            ("/f/:from-:to", placeholder(":from")),
            ("/a|/u/:id", placeholder(":id")),
            ("/w/:id?", placeholder(":id")),
            ("/z/$id", placeholder("$id")),
            ("/z/($id)", placeholder("$id")),
            ("/z/$id/x", placeholder("$id")),
            ("/u/[id]", letters("[id]")),
            ("/u/[id]/x", letters("[id]")),
            ("/u/[...slug]", letters("[...slug]")),
            ("/(u/[id])?", letters("[id]")),
            ("/admin/.*", None),
            ("/admin/+", None),
            ("/admin/{0,}", None),
            ("/a[/*]", None),
            ("/(?:a|b)/(?<name>x)", None),
            ("/a\\*", None),
            ("/v1/batches:run", None),
            ("/a\\:id", None),
            ("/\\$metadata", None),
            ("/[[:alpha:]]+", None),
            ("/v[12]", None),
            ("/u/[a-z]", None),
            ("/u/[ab]+", None),
            ("/u/[0-9]", None),
            ("^/a$", None),
        ] {
            assert_eq!(foreign(pattern), expected, "{pattern}");
        }
    }
}
